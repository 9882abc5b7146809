"""What is kept of an operator beside Django's own account: how they prove who they are."""

from datetime import UTC, datetime
from typing import Any, ClassVar

from django.conf import settings
from django.db import models
from django_otp.models import Device, ThrottlingMixin

# Failures after which the pause no longer grows: it is 2^9 seconds then, eight and a half minutes.
# Whoever has a session or a password of theirs could otherwise keep an operator out for good.
MOST_FAILURES_COUNTED = 10


class Slowed(ThrottlingMixin):
    """Proofs that fail, one after the other, make the next one wait: 1, 2, 4 … 512 seconds."""

    throttling_failure_count: int
    throttling_failure_timestamp: datetime | None

    class Meta:
        abstract = True

    def wait(self, *, now: float) -> float:
        """Seconds until the next proof is looked at; 0: it is now."""
        if self.throttling_failure_timestamp is None or not self.throttling_failure_count:
            return 0.0
        since = now - self.throttling_failure_timestamp.timestamp()
        pause = float(2 ** (self.throttling_failure_count - 1))
        # A failure that lies ahead was noted by a clock that has been set back since.
        return max(0.0, pause - since) if since >= 0 else 0.0

    def note_failure(self, *, now: float) -> None:
        self.throttling_failure_timestamp = datetime.fromtimestamp(now, UTC)
        failures = self.throttling_failure_count + 1
        self.throttling_failure_count = min(failures, MOST_FAILURES_COUNTED)
        self.save(update_fields=["throttling_failure_timestamp", "throttling_failure_count"])

    def get_throttle_factor(self) -> int:
        return 1


class Account(Slowed):
    """Of one operator. Nothing is kept of those of whom there is nothing to say.

    ``sessions`` is the number of their sign-outs everywhere: a session that began under another
    number has ended. The slowing is that of passwords that a signed-in operator is asked for again.
    """

    operator = models.OneToOneField(
        settings.AUTH_USER_MODEL,
        on_delete=models.CASCADE,
        primary_key=True,
        related_name="account",
    )
    must_change_password = models.BooleanField(default=False)
    sessions = models.PositiveIntegerField(default=0)

    class Meta:
        # What is done to these rows is done by functions, each with a question of its own.
        default_permissions = ()

    def __str__(self) -> str:
        return str(self.operator)


class SecondFactor(Slowed, Device):
    """An operator's authenticator (RFC 6238). Its secret is sealed, and is opened by
    `tokens.second_factor` only, which is also where codes are verified.

    ``last_step`` is the time step of the last code that was taken: no code counts twice.
    """

    sealed_secret = models.TextField()
    last_step = models.BigIntegerField(default=-1)
    # Unix seconds. None: it has not been confirmed by a code yet, and counts for nothing.
    confirmed_at = models.BigIntegerField(null=True)

    class Meta:
        default_permissions = ()
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["user"], name="one_second_factor_per_operator"),
        ]

    def __str__(self) -> str:
        return f"second factor of {self.user}"

    def verify_token(self, token: Any) -> bool:
        """Nothing is verified here, where the secret cannot be opened."""
        raise NotImplementedError("tokens.second_factor verifies codes")


class RecoveryCode(models.Model):
    """Stands in for a code of the authenticator, once: it is deleted by its use. A keyed hash."""

    operator = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="recovery_codes"
    )
    digest = models.CharField(max_length=64)

    class Meta:
        default_permissions = ()
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["operator", "digest"], name="one_recovery_code_each"),
        ]

    def __str__(self) -> str:
        return f"recovery code of {self.operator}"
