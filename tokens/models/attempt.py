"""The durable record of every refresh, written with the claim."""

from typing import ClassVar

from django.db import models

from tokens.models.credential import OAuthCredential
from tokens.models.scoped import OfTenant, ScopedManager, Unscoped
from tokens.models.tenant import Tenant


class Cause(models.TextChoices):
    """Why a refresh was begun."""

    SWEEP = "sweep", "due"
    HAND_OUT = "hand_out", "needed by a request"
    DEMAND = "demand", "asked for"
    REJECTED = "rejected", "upstream said 401"


class Outcome(models.TextChoices):
    """How it ended. `IN_FLIGHT` long after its lease: the process died in between."""

    IN_FLIGHT = "in_flight"
    REFRESHED = "refreshed"
    SUPERSEDED = "superseded", "refreshed, but revoked or replaced meanwhile"
    INVALID_GRANT = "invalid_grant"
    INVALID_SCOPE = "invalid_scope"
    ACCOUNT_ON_HOLD = "account_on_hold"
    RATE_LIMITED = "rate_limited"
    UPSTREAM_ERROR = "upstream_error"
    UNREACHABLE = "unreachable"
    UNKNOWN = "unknown", "sent, not answered"
    MISDIRECTED = "misdirected", "answered with the tokens of another credential"
    NOT_SAVED = "not_saved", "answered, but the database could not be written"


# Attempts whose answer may still come home, from wherever it lies: it was not saved, and the
# credential has not moved on since.
UNSETTLED = models.Q(
    answer_saved=False,
    outcome__in=[Outcome.IN_FLIGHT, Outcome.UNKNOWN, Outcome.NOT_SAVED],
    credential__generation__lte=models.F("generation"),
)


class RefreshAttempt(OfTenant):
    """One claim and what came of it. Times are Unix seconds; never a token."""

    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="+")
    credential = models.ForeignKey(
        OAuthCredential, on_delete=models.CASCADE, related_name="attempts"
    )
    lease_id = models.UUIDField(unique=True, editable=False)
    cause = models.CharField(max_length=16, choices=Cause)
    actor = models.CharField(max_length=200, blank=True)
    generation = models.BigIntegerField()
    started_at = models.FloatField()
    ended_at = models.FloatField(null=True)
    outcome = models.CharField(max_length=16, choices=Outcome, default=Outcome.IN_FLIGHT)
    upstream_status = models.PositiveSmallIntegerField(null=True)
    tries = models.PositiveSmallIntegerField(default=0)
    latency_ms = models.PositiveIntegerField(null=True)
    # Set in the transaction that saves the answer, and by nothing else: a save that is
    # tried again (its commit's answer was lost, or it lies in the spool too) finds it.
    answer_saved = models.BooleanField(default=False, editable=False)

    objects = ScopedManager()
    unscoped = Unscoped()

    class Meta:
        ordering = ("-started_at",)
        indexes: ClassVar = [
            models.Index(fields=["credential", "-started_at"], name="attempt_timeline"),
            models.Index(fields=["tenant", "-started_at"], name="attempt_recent"),
            # How refreshes ended, over time, whosesoever (tokens.courses): nothing else is read.
            models.Index(fields=["started_at", "outcome", "tenant"], name="attempt_by_time"),
            # Asked with every sweep (tokens.refresh.abandoned), and nearly empty.
            models.Index(
                fields=["started_at"],
                condition=models.Q(outcome=Outcome.IN_FLIGHT),
                name="attempt_in_flight",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.cause}: {self.outcome}"
