"""What the server saw: counters, and the last requests."""

from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from .wire import Endpoint

KEPT_REQUESTS = 10_000


@dataclass
class Counts:
    token_calls: int = 0  # requests to the token endpoint, whatever came of them, but for
    knocks: int = 0  # those that present nothing
    refreshed: int = 0  # rotations done, answered or not
    reuse: int = 0  # spent refresh tokens presented
    invalid: int = 0  # unknown, dead or outlived refresh tokens presented
    revoke_calls: int = 0
    revoked: int = 0  # logins that a revocation ended
    messages_ok: int = 0
    messages_401: int = 0
    faults: int = 0  # requests that met an armed fault
    concurrent_high_water: int = 0  # most token calls in flight at one moment
    messages_high_water: int = 0


@dataclass(frozen=True, kw_only=True)
class Received:
    """One request. `status` is None where no answer was sent; header names are lower-case."""

    method: str
    path: str
    user: str | None
    status: int | None
    has_api_key: bool
    headers: Mapping[str, str] = field(repr=False)
    token: str | None = field(repr=False)  # the refresh or access token presented
    body: Any = field(repr=False)  # parsed, where it was a small JSON object or form
    at: float


class Record:
    """Under `State`'s lock."""

    def __init__(self) -> None:
        self.total = Counts()
        self.by_user: dict[str, Counts] = {}
        self.requests: deque[Received] = deque(maxlen=KEPT_REQUESTS)
        self._flying: dict[tuple[Endpoint, str | None], int] = {}

    def count(self, name: str, user: str | None) -> None:
        for counts in self._counts_for(user):
            setattr(counts, name, getattr(counts, name) + 1)

    def enter(self, endpoint: Endpoint, user: str | None) -> None:
        name = "concurrent_high_water" if endpoint == "token" else "messages_high_water"
        for key, counts in zip(_keys(endpoint, user), self._counts_for(user), strict=True):
            self._flying[key] = self._flying.get(key, 0) + 1
            if endpoint in ("token", "messages"):
                setattr(counts, name, max(getattr(counts, name), self._flying[key]))

    def leave(self, endpoint: Endpoint, user: str | None) -> None:
        for key in _keys(endpoint, user):
            self._flying[key] -= 1

    def note(self, received: Received) -> None:
        self.requests.append(received)

    def forget(self) -> None:
        """Start counting afresh; what is in flight stays in flight."""
        self.total = Counts()
        self.by_user.clear()
        self.requests.clear()

    def _counts_for(self, user: str | None) -> list[Counts]:
        if user is None:
            return [self.total]
        return [self.total, self.by_user.setdefault(user, Counts())]


def _keys(endpoint: Endpoint, user: str | None) -> list[tuple[Endpoint, str | None]]:
    return [(endpoint, None)] if user is None else [(endpoint, None), (endpoint, user)]


def counts_to_json(counts: Counts) -> dict[str, int]:
    return asdict(counts)


def received_to_json(received: Received) -> dict[str, Any]:
    return {f.name: getattr(received, f.name) for f in fields(received)}
