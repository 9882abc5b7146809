"""One line of the doctor's: what was looked at, how it is, what to do."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Finding:
    what: str
    state: Literal["ok", "warning", "wrong"]
    detail: str  # never with a secret in it


def ok(what: str, detail: str) -> Finding:
    return Finding(what, "ok", detail)


def warning(what: str, detail: str) -> Finding:
    return Finding(what, "warning", detail)


def wrong(what: str, detail: str) -> Finding:
    """The proxy does not start like this, requests fail, or a token or an answer goes astray."""
    return Finding(what, "wrong", detail)
