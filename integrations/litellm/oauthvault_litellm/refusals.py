"""What a caller is told when there is no token for them: a status and a sentence on what to do."""

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
    match error:
        case NoToken():
            status, sentence = 401, (
                f"No OAuth token found for user {user!r}. Store the Claude credential of this "
                "user in the vault (PUT /auth/claude/token, or `oauthvault import_credentials`) "
                "and send the request again."
            )
        case TokenUnusable():
            status, sentence = 401, (
                f"OAuth token expired for user {user!r}: {_sentence(error.detail)} Sign in to "
                "Claude again and store the new credential in the vault "
                "(PUT /auth/claude/token, or `oauthvault import_credentials`)."
            )
        case TokenWithheld() if error.code == "revoked":
            status, sentence = 401, (
                f"The OAuth token of user {user!r} was revoked. Store a new credential in the "
                "vault (PUT /auth/claude/token, or `oauthvault import_credentials`)."
            )
        case TokenWithheld():
            status, sentence = 403, (
                f"The OAuth token of user {user!r} is withheld ({error.code}): "
                f"{_sentence(error.detail)} Ask the operator of the vault."
            )
        case RefreshDelayed():
            status = 429 if error.status == 429 else 503
            sentence = (
                f"Failed to refresh token of user {user!r} for now ({error.code}): "
                f"{_sentence(error.detail)} Send the request again later."
            )
        case KeyRefused():
            # Not the caller's fault, and no 401: their own key is fine.
            status, sentence = 503, (
                f"The token vault does not accept this proxy ({error.code}): "
                f"{_sentence(error.detail)} The operator of the proxy must look at "
                "claude_oauth.vault_key and claude_oauth.multi_user."
            )
        case VaultUnreachable():
            status, sentence = 503, (
                f"No token for user {user!r} for now: {_sentence(error.detail)} "
                "Send the request again later."
            )
        case _:
            status, sentence = 503, (
                f"No token for user {user!r}: the token vault answered {error.code}: "
                f"{_sentence(error.detail)}"
            )
    return Refusal(status, sentence, code=error.code, retry_after=error.retry_after)


def may_fall_back(error: VaultError) -> bool:
    """Whether the deployment's API key may stand in, where the settings allow that at all.

    Never after a revocation, a suspension or an upstream 429: a key that works where the
    credential was taken away would undo the taking away.
    """
    return isinstance(error, NoToken | VaultUnreachable) or error.code == "reauthorization_required"


def _sentence(detail: str) -> str:
    detail = detail.strip()
    return detail if detail.endswith((".", "!", "?")) else f"{detail}."
