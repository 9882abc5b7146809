"""Of how many users a key was handed tokens, hour by hour."""

from typing import ClassVar

from django.db import models
from django.db.models import Q

from tokens.models.scoped import OfTenant, ScopedManager
from tokens.models.tenant import Tenant


class KeySpan(OfTenant):
    """The number of different users whose token one service key was handed in one hour (Unix
    hours). ``noticed_at`` (Unix seconds): it was unusual for this key, and that was said;
    ``usual`` is the most that it had been before."""

    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="+")
    actor = models.CharField(max_length=200)
    hour = models.BigIntegerField()
    users = models.PositiveIntegerField()
    usual = models.PositiveIntegerField(null=True)
    noticed_at = models.BigIntegerField(null=True)

    objects = ScopedManager()

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["tenant", "actor", "hour"], name="one_span_per_key_and_hour"
            )
        ]
        indexes: ClassVar = [
            models.Index(fields=["hour"], name="key_span_hour"),
            models.Index(
                fields=["tenant", "actor", "noticed_at"],
                condition=Q(noticed_at__isnull=False),
                name="key_span_noticed",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.actor}: {self.users} users"
