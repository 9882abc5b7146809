"""What can be refused, and the name that the world knows each refusal by.

Only the edge (api/problems.py, the commands, the admin) turns one into an answer.
A message is for a person and never holds a token or a key.
"""

from typing import ClassVar


class VaultError(Exception):
    """A refusal. ``code`` is the contract's name for it.

    ``retry_after``: after how many seconds the same request may succeed, if waiting helps.
    """

    code: ClassVar[str] = "vault_error"

    def __init__(self, detail: str, *, retry_after: float | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.retry_after = retry_after


class NoToken(VaultError):
    """Nothing is stored for this user, or what was is gone. Also: not this tenant's."""

    code = "no_token"


class TokenExpired(VaultError):
    """The access token is past its end, and nothing here will renew it by itself."""

    code = "token_expired"


class NoRefreshToken(VaultError):
    code = "no_refresh_token"


class ReauthorizationRequired(VaultError):
    """The login has ended; only the person can begin another one."""

    code = "reauthorization_required"


class Revoked(VaultError):
    code = "revoked"


class Suspended(VaultError):
    code = "suspended"


class TenantSuspended(VaultError):
    code = "tenant_suspended"


class Quarantined(VaultError):
    """The database may be a restored one, whose refresh tokens may be spent."""

    code = "quarantined"


class RefreshInProgress(VaultError):
    code = "refresh_in_progress"


class UpstreamRateLimited(VaultError):
    code = "upstream_rate_limited"


class UpstreamError(VaultError):
    """The authorization server answered with something that no refresh can come of."""

    code = "upstream_error"


class UpstreamUnavailable(VaultError):
    code = "upstream_unavailable"


class RateLimited(VaultError):
    code = "rate_limited"


class StoreUnavailable(VaultError):
    """What the vault would have to write now cannot be written. Nothing was spent."""

    code = "unavailable"


class StaleCredential(VaultError):
    """An import of a login whose refresh token the vault knows to be spent."""

    code = "stale_credential"


class AlreadyStored(VaultError):
    """An import of a login that another user or tenant holds."""

    code = "already_stored"


class PreconditionFailed(VaultError):
    code = "precondition_failed"


class InvalidCredentials(VaultError):
    """An import that is not of the right shape; ``fields`` says what is wrong where."""

    code = "invalid_credentials_file"

    def __init__(self, fields: dict[str, str]) -> None:
        super().__init__("; ".join(f"{name}: {reason}" for name, reason in fields.items()))
        self.fields = fields


class ExpiredLogin(InvalidCredentials):
    """Nothing is wrong with it but that it has ended."""


class UnknownGeneration(VaultError):
    """A report about tokens that never were; ``fields`` as in `InvalidCredentials`."""

    code = "invalid_request"

    def __init__(self) -> None:
        reason = "is later than any that this user's tokens have had"
        super().__init__(f"generation: {reason}")
        self.fields = {"generation": reason}


class EncryptionError(VaultError):
    """Something sealed does not open: another key, another place, or it was altered."""

    code = "encryption_error"
