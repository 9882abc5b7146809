"""The ledger of every token ever held, by keyed fingerprint (ARCHITECTURE: the ledger)."""

from typing import ClassVar

from django.db import models
from django.db.models import Q

from tokens.models.credential import OAuthCredential
from tokens.models.scoped import OfTenant, ScopedManager
from tokens.models.tenant import Tenant


class TokenKind(models.TextChoices):
    ACCESS = "access"
    REFRESH = "refresh"


class TokenFingerprint(OfTenant):
    """A token that a credential holds, or held.

    A refresh token is in here once in the whole deployment: one login cannot be stored
    under two users and be spent twice. ``retired_at`` (Unix seconds) is null while the
    credential holds the token; afterwards it is spent or revoked and never comes back.
    """

    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="+")
    credential = models.ForeignKey(
        OAuthCredential, on_delete=models.CASCADE, related_name="fingerprints"
    )
    kind = models.CharField(max_length=8, choices=TokenKind)
    digest = models.CharField(max_length=64)
    generation = models.BigIntegerField()
    created_at = models.DateTimeField(auto_now_add=True)
    retired_at = models.BigIntegerField(null=True)

    objects = ScopedManager()

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["digest"],
                condition=Q(kind=TokenKind.REFRESH),
                name="one_holder_per_refresh_token",
            ),
            models.UniqueConstraint(
                fields=["credential", "digest"],
                name="a_token_is_listed_once_per_credential",
            ),
        ]
        indexes: ClassVar = [models.Index(fields=["digest"], name="fingerprint_digest")]

    def __str__(self) -> str:
        return f"{self.kind} token of generation {self.generation}"
