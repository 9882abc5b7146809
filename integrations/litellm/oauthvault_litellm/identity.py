"""Whose credential a request spends: decided by LiteLLM's authentication, never by the request."""

import unicodedata

from oauthvault_litellm.refusals import Refusal

DEFAULT_USER = "default"
# What LiteLLM calls the holder of the master key: a role that people share, not a person.
_LITELLM_ADMIN = "default_user_id"
_LONGEST_NAME = 256


def credential_owner(user_id: str | None, *, multi_user: bool) -> str:
    """The vault's user for a caller whom LiteLLM authenticated as `user_id`.

    One credential for all: user ``default``. `multi_user`: the caller's own or a
    :class:`Refusal` (403), never anybody else's.
    """
    if not multi_user:
        return DEFAULT_USER
    if not user_id:
        raise Refusal(
            403,
            "This LiteLLM key has no user id, so it has no Claude credential of its own. Make one "
            'that has: POST /key/generate with {"user_id": "…"}, or /key/update for this one.',
            code="user_required",
        )
    if user_id == _LITELLM_ADMIN:
        raise Refusal(
            403,
            "The master key belongs to no single user, so it has no Claude credential of its own. "
            'Make a key for yourself (POST /key/generate with {"user_id": "…"}) and use that.',
            code="user_required",
        )
    if user_id == DEFAULT_USER:
        raise Refusal(
            403,
            "A user named 'default' has no credential where every user has their own. Give the "
            "LiteLLM user another id.",
            code="user_required",
        )
    if len(user_id) > _LONGEST_NAME or not _printable(user_id):
        raise Refusal(
            403,
            "The user id of this LiteLLM key cannot name a user of the vault: at most 256 "
            "characters, no control characters.",
            code="user_required",
        )
    return user_id


def _printable(name: str) -> bool:
    return not any(unicodedata.category(character) in ("Cc", "Cs") for character in name)
