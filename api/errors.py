"""What only the edge refuses: who is asking, and how the question is put."""

from tokens.errors import VaultError


class InvalidKey(VaultError):
    """Missing, unknown, revoked, expired or from a network it may not come from: one answer."""

    code = "invalid_key"

    def __init__(self) -> None:
        super().__init__("Send a valid key of this vault as `Authorization: Bearer …`.")


class InsufficientScope(VaultError):
    """The key is good, and may not do this."""

    code = "insufficient_scope"


class UserRequired(VaultError):
    """A tenant of many users, and the request names none."""

    code = "user_required"


class InvalidRequest(VaultError):
    """A request of the wrong shape; ``fields`` says what is wrong where."""

    code = "invalid_request"

    def __init__(self, fields: dict[str, str]) -> None:
        super().__init__("; ".join(f"{name}: {reason}" for name, reason in fields.items()))
        self.fields = fields


class InvalidJson(VaultError):
    code = "invalid_json"


class BodyTooLarge(VaultError):
    code = "body_too_large"


class TooManyBodies(VaultError):
    """Slow senders have taken all the places there are for reading bodies."""

    code = "unavailable"
