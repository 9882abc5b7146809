"""A tenant: one team, one LiteLLM, one wall around its people."""

from django.conf import settings
from django.core.validators import RegexValidator
from django.db import models

DEFAULT_TENANT = "default"
DEFAULT_USER = "default"

SLUG = RegexValidator(
    r"\A[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\Z",
    "Use lower-case letters, digits and hyphens, at most 63 characters.",
)


class Tenant(models.Model):
    """Whose credentials these are. Every row below one carries its tenant's id."""

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
    suspended_at = models.DateTimeField(null=True, blank=True, editable=False)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ("slug",)

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
