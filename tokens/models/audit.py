"""Who did what to whom. Written, never changed."""

from typing import ClassVar

from django.db import models

from tokens.models.tenant import Tenant


class AuditEvent(models.Model):
    """One act. ``subject`` is the user id concerned, or empty. Never a token, never a key."""

    tenant = models.ForeignKey(
        Tenant, on_delete=models.SET_NULL, null=True, related_name="audit_events"
    )
    at = models.FloatField()
    actor = models.CharField(max_length=200)
    action = models.CharField(max_length=64)
    subject = models.CharField(max_length=256, blank=True)
    outcome = models.CharField(max_length=64, default="done")
    request_id = models.CharField(max_length=64, blank=True)
    detail = models.JSONField(default=dict, blank=True)

    class Meta:
        ordering = ("-at", "-id")
        indexes: ClassVar = [
            models.Index(fields=["tenant", "-at"], name="audit_recent"),
            models.Index(fields=["tenant", "subject", "-at"], name="audit_subject"),
        ]

    def __str__(self) -> str:
        return f"{self.actor} {self.action} {self.subject}".strip()
