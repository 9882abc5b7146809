"""Kept aggregates: counts that must survive a restart and the clearing of old records."""

from typing import ClassVar

from django.db import models

from tokens.models.scoped import OfTenant, ScopedManager
from tokens.models.tenant import Tenant


class TenantStatistics(OfTenant):
    """Counted in the same transaction as what they count."""

    tenant = models.OneToOneField(
        Tenant, on_delete=models.CASCADE, primary_key=True, related_name="statistics"
    )
    refreshes_succeeded = models.BigIntegerField(default=0)
    refreshes_failed = models.BigIntegerField(default=0)
    # Upstream refused a credential: 401s reported, and refreshes answered invalid_grant.
    auth_failures = models.BigIntegerField(default=0)

    objects = ScopedManager()

    class Meta:
        verbose_name_plural = "tenant statistics"

    def __str__(self) -> str:
        return f"statistics of tenant {self.tenant_id}"


class RefreshTally(OfTenant):
    """Refreshes that ended, by outcome and by the latency bucket they fell into.

    ``le_ms``: the upper bound of the bucket in milliseconds; 0 stands for no bound.
    """

    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="+")
    outcome = models.CharField(max_length=16)
    le_ms = models.PositiveIntegerField()
    count = models.BigIntegerField(default=0)
    total_ms = models.BigIntegerField(default=0)

    objects = ScopedManager()

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["tenant", "outcome", "le_ms"], name="one_tally_per_refresh_outcome"
            )
        ]

    def __str__(self) -> str:
        return f"{self.outcome} within {self.le_ms} ms: {self.count}"


class HandOutTally(OfTenant):
    """Questions for a token, by what came of them: `handed_out`, or the refusal's code."""

    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="+")
    result = models.CharField(max_length=32)
    count = models.BigIntegerField(default=0)

    objects = ScopedManager()

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["tenant", "result"], name="one_tally_per_result")
        ]

    def __str__(self) -> str:
        return f"{self.result}: {self.count}"
