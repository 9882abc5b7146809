"""Answers to a refresh that this database knows nothing of.

Every claim writes its attempt before anything is sent. Where there is none, the database was
restored from a backup of before the claim, or has lost its last writes (or the attempt is so
old that it was forgotten). Such an answer is newer than a row that has stood still since the
backup, and is all there is of that login. It is older than what was decided since: an import,
a revocation and a release win over it. Generations say nothing of that: the restored database
has counted on by itself.
"""

from enum import Enum

from tokens import epoch
from tokens.models import OAuthCredential, Standing


class Fate(Enum):
    """What becomes of such an answer."""

    HOME = "the row has been set aside, and stood still since: the answer is stored in it"
    REPLACED = "its login was replaced or revoked after it: the pair is nobody's"
    # The pair may be of the login that is in use: to revoke it could end that (RFC 7009,
    # section 2.1).
    PASSED = "the row has moved on, or was released as it is: the answer is of no use"
    WAITS = "it may be newer than the row, whose token must not be presented meanwhile"


class Unplaced(Exception):
    """The answer waits for somebody to decide."""


def fate(row: OAuthCredential, *, generation: int, answered_at: float) -> Fate:
    """Of the answer to a presentation of ``generation``, at ``answered_at``."""
    if row.login_since is not None and answered_at < row.login_since:
        return Fate.REPLACED
    if row.generation > generation or (
        row.released_at is not None and answered_at < row.released_at
    ):
        return Fate.PASSED
    if row.standing == Standing.QUARANTINED:
        return Fate.HOME
    if row.standing == Standing.REVOKED and epoch.deployment().quarantined_at is None:
        # Revoked in the backup, and no better backup is waited for.
        return Fate.PASSED
    return Fate.WAITS
