"""What the id of a user may be: one answer for the API, the keys, the commands and files.

Ids are compared exactly and never normalised. So an id that shows nobody what it is made of
would be a second user who looks like the first.
"""

import unicodedata

from oauthvault.logging import redact
from tokens.errors import VaultError
from tokens.models import DEFAULT_USER, Tenant

LONGEST = 256
# General categories of Unicode. Controls steer terminals and end lines; half a surrogate pair
# is no character, and has no form in UTF-8.
_NEVER = frozenset({"Cc", "Cs"})
# Invisible, or turning what stands around it (Cf), ending lines (Zl, Zp), or nothing: not
# assigned, or said to be no character (Cn).
_NOT_NEW = frozenset({"Cf", "Cn", "Zl", "Zp"})


class BadUserId(VaultError):
    """A text that can be nobody's id. The message does not repeat it."""

    code = "invalid_request"


def check_named(user_id: str, *, tenant: Tenant) -> None:
    """BadUserId unless a user of this tenant may be asked for by this id.

    Only the text is looked at, so that an id that another tenant has, and one that nobody has,
    are answered alike. What `check_new` refuses beyond this passes: it may be stored from
    before, and must still be read and revoked.
    """
    if not 0 < len(user_id) <= LONGEST:
        raise BadUserId(f"a user id has 1 to {LONGEST} characters")
    if _has(user_id, _NEVER):
        raise BadUserId("a user id has no control characters and no halves of characters")
    if user_id == DEFAULT_USER and not tenant.has_default_user:
        raise BadUserId("this tenant has many users, and none may be called default")


def check_new(user_id: str, *, tenant: Tenant) -> None:
    """BadUserId unless something may be stored, from now on, for a user of this id."""
    check_named(user_id, tenant=tenant)
    if redact(user_id) != user_id:
        raise BadUserId("this user id looks like a token or a key; was one given in its place?")
    if _has(user_id, _NOT_NEW):
        raise BadUserId(
            "a user id has no invisible characters, marks of direction, line separators or "
            "unassigned characters"
        )


def _has(user_id: str, categories: frozenset[str]) -> bool:
    return any(unicodedata.category(character) in categories for character in user_id)
