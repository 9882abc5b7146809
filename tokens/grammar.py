"""What a token and a scope are made of (RFC 6749, appendix A)."""

import re
from typing import TypeGuard

LONGEST_TOKEN = 8192
_MOST_SCOPES = 64
# VSCHAR without the blank: no token that goes into a header has one.
_TOKEN = re.compile(r"[!-~]+")
_SCOPE = re.compile(r"[!#-\[\]-~]{1,128}")


def is_token(value: object) -> TypeGuard[str]:
    """Whether this can be an access or refresh token (appendix A.12, A.17)."""
    return (
        isinstance(value, str)
        and len(value) <= LONGEST_TOKEN
        and _TOKEN.fullmatch(value) is not None
    )


def is_scope(value: object) -> TypeGuard[str]:
    """Whether this is one scope-token (section 3.3)."""
    return isinstance(value, str) and _SCOPE.fullmatch(value) is not None


def scopes_of(answer: object) -> list[str] | None:
    """The scopes that a server names in an answer, less what is no scope; None without any."""
    if not isinstance(answer, str):
        return None
    return [scope for scope in answer.split() if is_scope(scope)][:_MOST_SCOPES] or None
