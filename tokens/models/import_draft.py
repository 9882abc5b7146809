"""What an operator has uploaded to the dashboard and not yet confirmed."""

import uuid
from typing import ClassVar

from django.conf import settings
from django.db import models

from tokens.models.scoped import OfTenant, ScopedManager
from tokens.models.tenant import Tenant


class ImportDraft(OfTenant):
    """A file of logins between the look at it and its import (`tokens.import_drafts`).

    Both texts are sealed under a key that is in the operator's browser and nowhere here:
    ``sealed`` is the file, ``report`` what became of its rows so far. ``position``: how many of
    the confirmed rows are done. ``tenant`` is that of the rows that name none. Times are Unix
    seconds.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="+")
    operator = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="+"
    )
    sealed = models.TextField(editable=False)
    report = models.TextField(editable=False)
    position = models.PositiveIntegerField(default=0)
    # While some rows are being stored: until when nobody else stores them as well.
    busy_until = models.FloatField(null=True, editable=False)
    ends_at = models.FloatField()

    objects = ScopedManager()

    class Meta:
        default_permissions = ()
        permissions: ClassVar = [("import_oauthcredential", "Can import credentials")]
        indexes: ClassVar = [
            models.Index(fields=["operator"], name="import_draft_operator"),
            models.Index(fields=["tenant", "ends_at"], name="import_draft_end"),
        ]

    def __str__(self) -> str:
        return f"import by {self.operator}"
