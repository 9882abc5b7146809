"""The record of who was handed whose token, gathered by the minute."""

from typing import ClassVar

from django.db import models

from tokens.models.credential import OAuthCredential
from tokens.models.scoped import OfTenant, ScopedManager
from tokens.models.tenant import Tenant


class HandOut(OfTenant):
    """How often one key was handed one credential's token in one minute (Unix minutes)."""

    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="+")
    credential = models.ForeignKey(
        OAuthCredential, on_delete=models.CASCADE, related_name="hand_outs"
    )
    actor = models.CharField(max_length=200)
    minute = models.BigIntegerField()
    count = models.PositiveIntegerField(default=0)

    objects = ScopedManager()

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["credential", "actor", "minute"], name="one_hand_out_row_per_minute"
            )
        ]
        indexes: ClassVar = [
            # What is old enough to be forgotten (tokens.history).
            models.Index(fields=["tenant", "minute"], name="hand_out_minute"),
            # What keys were handed in one hour (tokens.notices), whatever lies before it.
            models.Index(fields=["minute", "actor"], name="hand_out_by_minute"),
        ]

    def __str__(self) -> str:
        return f"{self.count} to {self.actor}"
