"""Values that must not be seen.

A token or a key travels through the code as one of these. Its text comes out of
``reveal()`` only, so that every disclosure is found by searching for that word.
"""

import hmac
from typing import NoReturn, Self


class Secret:
    """A text that shows itself to nobody: not to repr, str, format, pickle or JSON."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The text itself. Whoever calls this is responsible for where it goes."""
        return self._text

    def __repr__(self) -> str:
        return f"<{type(self).__name__} hidden>"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return repr(self)

    def __eq__(self, other: object) -> bool:
        """Whether both hold the same text, in a time that does not depend on where they differ."""
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._text.encode(), other._text.encode())

    def __hash__(self) -> NoReturn:
        raise TypeError("a secret is not a dictionary key")

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret is not pickled")

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self


class AccessToken(Secret):
    """An OAuth access token (RFC 6749 section 1.4)."""

    __slots__ = ()


class RefreshToken(Secret):
    """An OAuth refresh token (RFC 6749 section 1.5), spent by its first use."""

    __slots__ = ()


class EncryptionKey(Secret):
    """A key-encryption key (KEK) in its base64 text."""

    __slots__ = ()


class TotpSecret(Secret):
    """What an operator's authenticator shares with the vault, in base32 (RFC 4648, RFC 6238)."""

    __slots__ = ()


class RecoveryCode(Secret):
    """What an operator signs in with who has lost the authenticator, once."""

    __slots__ = ()
