"""Kept aggregates: counts that must survive a restart and the clearing of old records."""

from django.db import models

from tokens.models.tenant import Tenant


class TenantStatistics(models.Model):
    """Counted in the same transaction as what they count."""

    tenant = models.OneToOneField(
        Tenant, on_delete=models.CASCADE, primary_key=True, related_name="statistics"
    )
    refreshes_succeeded = models.BigIntegerField(default=0)
    refreshes_failed = models.BigIntegerField(default=0)
    # Upstream refused a credential: 401s reported, and refreshes answered invalid_grant.
    auth_failures = models.BigIntegerField(default=0)

    class Meta:
        verbose_name_plural = "tenant statistics"

    def __str__(self) -> str:
        return f"statistics of tenant {self.tenant_id}"
