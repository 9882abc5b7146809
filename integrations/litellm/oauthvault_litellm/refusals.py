"""What a caller is told when there is no token for them: a status and a sentence on what to do."""

import time
from collections import OrderedDict
from collections.abc import Callable

from oauthvault_litellm.client import (
    KeyRefused,
    NoToken,
    RefreshDelayed,
    TokenUnusable,
    TokenWithheld,
    VaultError,
    VaultUnreachable,
)


class Refusal(Exception):
    """The request goes no further. 401: a person must act; 403: policy; 429/503: later."""

    def __init__(
        self, status: int, sentence: str, *, code: str, retry_after: float | None = None
    ) -> None:
        super().__init__(sentence)
        self.status = status
        self.sentence = sentence
        self.code = code
        self.retry_after = retry_after


def refusal_for(error: VaultError, *, user: str) -> Refusal:
    """The vault's error as the caller of LiteLLM should see it."""
    status, sentence = _told(error, user)
    return Refusal(status, sentence, code=error.code, retry_after=error.retry_after)


def _told(error: VaultError, user: str) -> tuple[int, str]:
    why = _sentence(error.detail)
    match error:
        case NoToken():
            return 401, f"No OAuth token found for user {user!r}. {_STORE}"
        case TokenWithheld() if error.code == "revoked":
            return 401, f"The OAuth token of user {user!r} was revoked. {_STORE}"
        case TokenUnusable():
            sign_in = "" if "Sign in to Claude" in why else "Sign in to Claude. "
            return 401, f"OAuth token expired for user {user!r}: {why} {sign_in}{_STORE}"
        case TokenWithheld():
            return 403, (
                f"The OAuth token of user {user!r} is withheld ({error.code}): {why} "
                "Ask the operator of the vault."
            )
        case RefreshDelayed():
            return 429 if error.status == 429 else 503, (
                f"Failed to refresh token of user {user!r} for now ({error.code}): {why} {_LATER}"
            )
        case KeyRefused():
            # No 401: the caller's own key is fine.
            return 503, (
                f"The token vault does not accept this proxy ({error.code}): {why} The operator "
                "of the proxy must look at claude_oauth.vault_key and claude_oauth.multi_user."
            )
        case VaultUnreachable():
            return 503, f"No token for user {user!r} for now: {why} {_LATER}"
        case _:
            return 503, f"No token for user {user!r} ({error.code}): {why}"


_STORE = (
    "Store the Claude credential of this user in the vault (PUT /auth/claude/token, or "
    "`oauthvault import_credentials`) and send the request again."
)
_LATER = "Send the request again later."


def may_fall_back(error: VaultError) -> bool:
    """Whether the deployment's API key may stand in, where the settings allow that at all.

    Never after a revocation, a suspension or an upstream 429: a key that works where the
    credential was taken away would undo the taking away.
    """
    return isinstance(error, NoToken | VaultUnreachable) or error.code == "reauthorization_required"


class StandIn:
    """Whether the API key may stand in for a user's token, with the vault's last word in mind.

    A vault out of reach says nothing. Without a memory, whoever can keep it from answering could
    have the API key in place of a credential that was just taken away.
    """

    def __init__(self, *, allowed: bool, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._allowed = allowed
        self._refused: OrderedDict[str, None] = OrderedDict()
        self._limited: OrderedDict[str, float] = OrderedDict()
        self._monotonic = monotonic

    def may_serve(self, user: str, error: VaultError) -> bool:
        """For this user, whose token could not be had for that reason."""
        self.heard(user, error)
        return self._allowed and user not in self._refused and not self._is_limited(user)

    def limit(self, user: str) -> None:
        """Upstream said 429 to this user: counts for as long as its longest limit does, whatever
        token the vault hands out meanwhile."""
        self._limited.pop(user, None)
        self._limited[user] = self._monotonic() + _LIMITED_FOR
        if len(self._limited) > _REMEMBERED:
            self._limited.popitem(last=False)

    def _is_limited(self, user: str) -> bool:
        until = self._limited.get(user)
        return until is not None and self._monotonic() < until

    def heard(self, user: str, error: VaultError) -> None:
        """The vault's word on this user, on whatever occasion."""
        if isinstance(error, VaultUnreachable):
            return
        if may_fall_back(error):
            self._refused.pop(user, None)
        else:
            self.refuse(user)

    def refuse(self, user: str) -> None:
        """Until the vault has said something better about this user."""
        self._refused.pop(user, None)
        self._refused[user] = None
        if len(self._refused) > _REMEMBERED:
            self._refused.popitem(last=False)

    def token_given(self, user: str) -> None:
        self._refused.pop(user, None)


_REMEMBERED = 100_000
# Seconds. The limits of a subscription are counted over five hours.
_LIMITED_FOR = 5 * 3600.0


def _sentence(detail: str) -> str:
    detail = detail.strip()
    return detail if detail.endswith((".", "!", "?")) else f"{detail}."
