"""Keys at rest: always wrapped, never bare."""

from typing import ClassVar

from django.db import models

from tokens.models.scoped import OfTenant, ScopedManager
from tokens.models.tenant import Tenant


class DataKey(OfTenant):
    """A tenant's data key (DEK), wrapped by a key-encryption key (KEK).

    The newest one that is not retired seals; older ones still open what they sealed.
    """

    key_id = models.CharField(max_length=32, unique=True)
    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="data_keys")
    wrapped = models.TextField()
    kek_id = models.CharField(max_length=32, db_index=True)
    created_at = models.DateTimeField(auto_now_add=True)
    retired_at = models.DateTimeField(null=True, blank=True)

    objects = ScopedManager()

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["tenant"],
                condition=models.Q(retired_at=None),
                name="one_sealing_data_key_per_tenant",
            )
        ]

    def __str__(self) -> str:
        return self.key_id


class VaultKey(models.Model):
    """A random key of the deployment itself, for one purpose, wrapped by a KEK.

    Not derived from the KEK and not Django's: neither rotation makes a stored
    fingerprint or API key hash useless.
    """

    purpose = models.CharField(max_length=32, unique=True)
    wrapped = models.TextField()
    kek_id = models.CharField(max_length=32)
    created_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return self.purpose
