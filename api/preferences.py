"""What a caller prefers (RFC 7240) and already has (RFC 9110 section 13)."""

import re

from django.utils.http import parse_etags
from rest_framework.request import Request

from api.errors import InvalidRequest
from tokens.vault import LONGEST_WAIT

_WAIT = re.compile(r"(?:^|[,;])\s*wait\s*=\s*\"?([0-9]{1,6})\"?\s*(?=[,;]|$)", re.IGNORECASE)


def wait_preferred(request: Request) -> float:
    """Seconds that the caller is ready to wait: the longest wait, or less on `Prefer: wait=N`.

    A preference that cannot be read is none (RFC 7240 section 2).
    """
    wanted = _WAIT.search(request.headers.get("Prefer", ""))
    return LONGEST_WAIT if wanted is None else min(float(wanted[1]), LONGEST_WAIT)


def has_already(request: Request, etag: str) -> bool:
    """Whether If-None-Match names this representation (weak comparison)."""
    tags = parse_etags(request.headers.get("If-None-Match", ""))
    return "*" in tags or etag in {tag.removeprefix("W/") for tag in tags}


def only_if_absent(request: Request) -> bool:
    """Whether `If-None-Match: *` makes the request one for a first time only."""
    given = request.headers.get("If-None-Match")
    if given is not None and given.strip() != "*":
        raise InvalidRequest({"If-None-Match": "can only be * here"})
    return given is not None
