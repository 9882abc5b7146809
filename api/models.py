"""Keys that callers show. What is stored of one is its first characters and a hash."""

from typing import ClassVar

from django.db import models
from django.db.models import Q

from tokens.models import Tenant
from tokens.models.scoped import OfTenant, ScopedManager, Unscoped


class KeyKind(models.TextChoices):
    SERVICE = "service"
    USER = "user"


class ApiKey(OfTenant):
    """A service key (`ovs_…`: one tenant's trusted service, which names the user) or a user
    key (`ovu_…`: one user). ``digest`` is a keyed hash under a key of the vault's own."""

    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="api_keys")
    kind = models.CharField(max_length=8, choices=KeyKind)
    user_id = models.CharField(
        max_length=256, blank=True, help_text="The user of a user key; empty for a service key."
    )
    label = models.CharField(max_length=200, blank=True)
    prefix = models.CharField(max_length=16, editable=False)
    digest = models.CharField(max_length=64, unique=True, editable=False)
    scopes = models.JSONField(default=list)
    networks = models.JSONField(
        default=list, blank=True, help_text="CIDR blocks it may come from; empty: anywhere."
    )
    # Made from OAUTHVAULT_SERVICE_KEY at start, and retired when the variable changes.
    from_environment = models.BooleanField(default=False, editable=False)
    expires_at = models.BigIntegerField(null=True, blank=True)
    # Another key was made in place of it, and it ends soon (api.keys.rotate_key).
    rotated_at = models.BigIntegerField(null=True, editable=False)
    created_at = models.DateTimeField(auto_now_add=True)
    revoked_at = models.BigIntegerField(null=True, blank=True, editable=False)
    last_used_at = models.BigIntegerField(null=True, editable=False)

    objects = ScopedManager()
    unscoped = Unscoped()

    class Meta:
        verbose_name = "API key"
        ordering = ("tenant", "-created_at")
        # Whoever shows a key with the scope token:read is handed tokens, so to make one is more
        # than to make a key.
        permissions: ClassVar = [("grant_token_read", "Can make keys that read tokens")]
        constraints: ClassVar = [
            models.CheckConstraint(
                condition=Q(kind=KeyKind.SERVICE, user_id="")
                | (Q(kind=KeyKind.USER) & ~Q(user_id="")),
                name="a_user_key_names_its_user",
            )
        ]

    def __str__(self) -> str:
        return f"{self.prefix}…"

    @property
    def actor(self) -> str:
        """How this key is named in attempts and the audit trail."""
        return f"key {self.prefix}"
