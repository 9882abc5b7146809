"""A tenant: one team, one LiteLLM, one wall around its people."""

from typing import ClassVar

from django.conf import settings
from django.core.validators import RegexValidator
from django.db import models
from django.db.models import Q

from tokens.models.scoped import OfTenant, ScopedManager

DEFAULT_TENANT = "default"
DEFAULT_USER = "default"

SLUG = RegexValidator(
    r"\A[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\Z",
    "Use lower-case letters, digits and hyphens, at most 63 characters.",
)


class Backoff(models.TextChoices):
    """How the pauses between the quick retries inside one refresh grow."""

    EXPONENTIAL = "exponential"
    LINEAR = "linear"
    FIXED = "fixed"


class Tenant(OfTenant):
    """Whose credentials these are. Every row below one carries its tenant's id.

    ``deletion_began_at``: it is being deleted (`tokens.deletion`), stays suspended, and
    cannot be resumed.
    """

    slug = models.CharField(max_length=63, unique=True, validators=[SLUG])
    name = models.CharField(max_length=200, blank=True)
    has_default_user = models.BooleanField(
        default=False,
        help_text="A request that names no user means the user “default”.",
    )
    auto_refresh = models.BooleanField(
        null=True,
        blank=True,
        help_text="Refresh ahead of expiry. Empty: as the deployment is set.",
    )
    refresh_threshold = models.PositiveIntegerField(
        null=True,
        blank=True,
        help_text="Seconds before expiry at which a token is refreshed. "
        "Empty: as the deployment is set.",
    )
    max_retries = models.PositiveSmallIntegerField(
        null=True,
        blank=True,
        help_text="Quick retries inside one refresh, when the authorization server fails. "
        "Empty: as the deployment is set.",
    )
    retry_backoff = models.CharField(
        max_length=16,
        choices=Backoff,
        blank=True,
        help_text="How the pauses between them grow. Empty: as the deployment is set.",
    )
    key_networks = models.JSONField(
        default=list,
        blank=True,
        help_text="CIDR blocks that every key of the tenant must come from, whatever is set "
        "for the key itself. Empty: anywhere.",
    )
    suspended_at = models.DateTimeField(null=True, blank=True, editable=False)
    deletion_began_at = models.DateTimeField(null=True, blank=True, editable=False)
    created_at = models.DateTimeField(auto_now_add=True)

    objects = ScopedManager()
    tenant_column = "id"

    class Meta:
        ordering = ("slug",)
        # Of the dashboard's operators: whose work is not limited to assigned tenants.
        permissions: ClassVar = [("all_tenants", "Looks after every tenant")]
        constraints: ClassVar = [
            models.CheckConstraint(
                condition=Q(deletion_began_at=None) | Q(suspended_at__isnull=False),
                name="what_is_being_deleted_is_suspended",
            )
        ]

    def __str__(self) -> str:
        return self.slug

    @property
    def refreshes_ahead(self) -> bool:
        """Whether tokens are refreshed without being asked for: both must want it."""
        return bool(settings.CLAUDE_OAUTH_AUTO_REFRESH) and self.auto_refresh is not False

    @property
    def threshold(self) -> int:
        """Seconds before expiry at which a token is due for its refresh."""
        if self.refresh_threshold is not None:
            return self.refresh_threshold
        return int(settings.CLAUDE_OAUTH_REFRESH_THRESHOLD)

    @property
    def retries(self) -> int:
        """Quick retries inside one refresh, after the first try."""
        if self.max_retries is not None:
            return self.max_retries
        return int(settings.CLAUDE_OAUTH_MAX_RETRIES)

    @property
    def backoff(self) -> Backoff:
        """How the pauses between them grow."""
        return Backoff(self.retry_backoff or settings.CLAUDE_OAUTH_RETRY_BACKOFF)
