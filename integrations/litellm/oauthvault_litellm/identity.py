"""Whose credential a request spends: decided by LiteLLM's authentication, never by the request."""

import unicodedata
from collections.abc import Mapping
from typing import Any, Protocol

from oauthvault_litellm.presented import presented
from oauthvault_litellm.refusals import Refusal

DEFAULT_USER = "default"
# What LiteLLM calls the holder of the master key: a role that people share, not a person.
_LITELLM_ADMIN = "default_user_id"
_LONGEST_NAME = 256


class Authenticated(Protocol):
    """What is looked at of a caller whom LiteLLM has authenticated. Never the end user: that is
    whomever the request names."""

    @property
    def user_id(self) -> str | None: ...
    @property
    def team_id(self) -> str | None: ...
    @property
    def api_key(self) -> str | None: ...
    @property
    def metadata(self) -> Mapping[str, Any]: ...


def owner_for(who: Authenticated | None, *, multi_user: bool) -> str:
    """The vault's user whose credential this caller spends; None is a call of LiteLLM's own.

    Who came with a Claude token of theirs spends their own, in either mode; everybody else as
    :func:`credential_owner` says. Raises :class:`Refusal`.
    """
    if who is None:
        return credential_owner(None, multi_user=multi_user)
    came_with = presented(who.api_key, who.user_id)
    if came_with is None:
        return credential_owner(
            who.user_id,
            multi_user=multi_user,
            team_id=who.team_id,
            service_account=(who.metadata or {}).get("service_account_id") is not None,
        )
    if came_with.owner is None:
        raise Refusal(
            403,
            "This Claude token is passed on as it is, and nobody's credential belongs to it.",
            code="user_required",
        )
    return came_with.owner


def credential_owner(
    user_id: str | None,
    *,
    multi_user: bool,
    team_id: str | None = None,
    service_account: bool = False,
) -> str:
    """The vault's user for a caller whom LiteLLM authenticated as `user_id`.

    One credential for all: user ``default``. `multi_user`: the caller's own or a
    :class:`Refusal` (403), never anybody else's.
    """
    if not multi_user:
        return DEFAULT_USER
    if not user_id:
        raise Refusal(403, f"{_nobody(team_id, service_account)} {_MAKE_ONE}", code="user_required")
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


def _nobody(team_id: str | None, service_account: bool) -> str:
    if service_account:
        return (
            "This LiteLLM key is a service account's and has no user id, and a Claude credential "
            "belongs to a user."
        )
    if team_id:
        return (
            "This LiteLLM key belongs to a team and has no user id, and a team has no Claude "
            "credential: each of its members has their own."
        )
    return "This LiteLLM key has no user id, so it has no Claude credential of its own."


_MAKE_ONE = (
    'Make one that has: POST /key/generate with {"user_id": "…"}, or /key/update for this one.'
)


def _printable(name: str) -> bool:
    return not any(unicodedata.category(character) in ("Cc", "Cs") for character in name)
