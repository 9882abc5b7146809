"""What the database says of itself as a whole."""

import secrets
import uuid
from typing import ClassVar

from django.db import models


class Deployment(models.Model):
    """The one row about this vault (primary key 1).

    ``epoch`` rises with every claim and every sweep, and is kept outside of the database
    too: a database that knows a lower one than the outside does is a restored one, whose
    refresh tokens may be spent (`tokens.epoch`). Times are Unix seconds.
    """

    vault_id = models.UUIDField(default=uuid.uuid4, editable=False)
    epoch = models.BigIntegerField(default=0)
    # A name for each time that this database was found to be a restored one, with dots in
    # between: no two databases of one vault keep their epochs in the same place.
    lineage = models.TextField(blank=True, editable=False)
    # Which authorization server the scheduler refreshes from. A command in a terminal that
    # was told of another one must not show it anybody's refresh token.
    token_url = models.CharField(max_length=500, blank=True)
    quarantined_at = models.FloatField(null=True)
    quarantine_reason = models.CharField(max_length=200, blank=True)

    class Meta:
        constraints: ClassVar = [
            models.CheckConstraint(condition=models.Q(pk=1), name="there_is_one_deployment"),
        ]

    def __str__(self) -> str:
        return str(self.vault_id)

    @property
    def kept_as(self) -> str:
        """Under which name the epoch is kept outside."""
        return self._names[-1]

    @property
    def kept_before_as(self) -> list[str]:
        """Under which names, before it was found to be restored: the originals' own."""
        return self._names[:-1]

    def begin_anew(self, *, epoch: int) -> None:
        """From here on it is another database than the one that it was restored from."""
        self.lineage = ".".join(filter(None, [self.lineage, secrets.token_hex(6)]))
        self.epoch = epoch

    @property
    def _names(self) -> list[str]:
        vault = str(self.vault_id)
        return [vault, *(f"{vault}.{name}" for name in self.lineage.split(".") if name)]
