"""Whoever guesses keys is slowed, and nobody else.

A key has 256 random bits: it is not guessed. What guessing costs is the database, so what
is bounded is how often it is asked for keys that there are not. Failed authentications are
counted, by the address they come from and by the first characters of the key they show.
Beyond a number in a minute, a key that nobody has is refused before the database is asked.

A key that is good passes, from wherever and whatever was guessed beside it: otherwise a
stranger behind the same proxy, or one who knows its first characters, could lock a tenant
out. The digests of the living keys are remembered for that, by each process that has
somebody to slow (`_Known`); they are keyed hashes, and only what has one is looked up.

Failed sign-ins to the dashboard are counted by their address as well, and by nothing else:
whoever knows an operator's name must not be able to keep that operator out. A password can be
guessed, so here the right one waits too.

Counted in Redis where there is one, for all processes together; else, or while Redis is
away, by each process for itself.
"""

import hashlib
import ipaddress
import logging
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass

from django.conf import settings

from api.models import ApiKey
from oauthvault.cache import shared
from tokens import isolation
from tokens.errors import RateLimited
from tokens.networks import Address

logger = logging.getLogger(__name__)

# Failures in one window (settings.FAILED_KEYS_WINDOW), from one address and on one prefix.
MOST_FROM_ADDRESS, MOST_ON_PREFIX = 30, 100
# Sign-ins that fail in one window, from one address, and that the audit trail is told of in all.
MOST_SIGN_INS, MOST_SIGN_INS_WRITTEN = 10, 200
# What this process remembers at most: counts, keys it has seen to be good, digests.
_MOST_COUNTS, _MOST_GOOD, _MOST_KNOWN = 10_000, 20_000, 100_000
# Seconds between two looks for keys that are new, and how far back each of them reaches: of
# two that are made at once, the later one may be committed first.
_LOOK_EVERY, _REACH_BACK = 1.0, 100
# Seconds for which a cache that failed is left alone. A request must not wait for it.
_CACHE_REST = 10.0


@dataclass(frozen=True)
class Showing:
    """Who shows what: from where (None: nobody knows), the first characters of what looks
    like a key, and its digest. Of anything else nothing is kept: it may be a password."""

    address: Address | None
    prefix: str = ""
    digest: str | None = None

    def counted_by(self) -> list[tuple[str, int]]:
        """The names it is counted under, and how many failures each of them may have."""
        names = [(f"address {_neighbourhood(self.address)}", MOST_FROM_ADDRESS)]
        if self.digest is not None:
            names.append((f"prefix {self.prefix}", MOST_ON_PREFIX))
        return names


def refuse_guess(showing: Showing) -> None:
    """RateLimited if this is one failure too many, and nothing that could be a living key.

    Asks neither the database nor Redis for a key that this process has seen to be good, and
    never the database for one that nobody has.
    """
    digest = showing.digest
    if digest is not None and _good.has(digest):
        return
    wait = _seconds_left(showing.counted_by())
    if wait and not (digest is not None and _known.may_be(digest)):
        raise _later(wait)


def note_failure(showing: Showing) -> None:
    """An authentication failed. RateLimited where failures are no longer told one by one: the
    answer must not say that this key is at least one that there is."""
    wait = _seconds_left(showing.counted_by())
    if showing.digest is not None:
        _good.drop(showing.digest)
    for name, most in showing.counted_by():
        if _count(name) == most:
            # The first characters of a key are in every list of keys; they are no secret.
            logger.warning(
                "%d keys that are not good within a minute, by %s: unknown ones are refused "
                "for the rest of it",
                most,
                name,
            )
    if wait:
        raise _later(wait)


def note_good(digest: str) -> None:
    """This key was shown and was good."""
    _good.add(digest)


def refuse_sign_in(address: Address | None) -> None:
    """RateLimited if too many sign-ins from here have failed."""
    if wait := _seconds_left([_sign_ins_from(address)]):
        raise RateLimited(
            "Too many sign-ins from your address have failed.",
            retry_after=wait,
        )


def note_failed_sign_in(address: Address | None) -> bool:
    """A sign-in failed. Whether it is to be written down: a flood, from however many addresses,
    must not fill the disk."""
    name, most = _sign_ins_from(address)
    if _count(name) == most:
        logger.warning(
            "%d failed within a minute, of %s: further ones are refused for the rest of it",
            most,
            name,
        )
    written = _count("sign-ins written down")
    if written == MOST_SIGN_INS_WRITTEN:
        logger.warning(
            "%d sign-ins failed within a minute: no more of them are written down", written
        )
    return written <= MOST_SIGN_INS_WRITTEN


def forget() -> None:
    """Take back what this process has counted, and all that it knows (another database)."""
    window, names = _local.forget()
    if _cache_is_up():
        shared().delete_many([_cache_key(name, window) for name in names])
    global _known
    _good.clear()
    _known = _Known()


def _later(wait: float) -> RateLimited:
    return RateLimited("Too many keys that are not good were shown.", retry_after=wait)


def _sign_ins_from(address: Address | None) -> tuple[str, int]:
    return f"sign-ins from {_neighbourhood(address)}", MOST_SIGN_INS


def _neighbourhood(address: Address | None) -> str:
    """One line has a whole /64 of IPv6 addresses."""
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address or "unknown")


# --- Counts ----------------------------------------------------------------------------------


class _Counts:
    """Failures in the window that is running, by name; the oldest names are forgotten."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._window = 0
        self._counts: OrderedDict[str, int] = OrderedDict()

    def add(self, name: str, *, window: int, at_least: int = 0) -> int:
        with self._lock:
            self._turn_to(window)
            self._counts[name] = max(at_least, self._counts.pop(name, 0) + 1)
            if len(self._counts) > _MOST_COUNTS:
                self._counts.popitem(last=False)
            return self._counts[name]

    def of(self, name: str, *, window: int) -> int:
        with self._lock:
            self._turn_to(window)
            return self._counts.get(name, 0)

    def learn(self, name: str, count: int, *, window: int) -> None:
        """Others have counted so many."""
        with self._lock:
            self._turn_to(window)
            if count > self._counts.get(name, 0):
                self._counts[name] = count

    def forget(self) -> tuple[int, list[str]]:
        with self._lock:
            names = list(self._counts)
            self._counts.clear()
            return self._window, names

    def _turn_to(self, window: int) -> None:
        if window != self._window:
            self._window = window
            self._counts.clear()


_local = _Counts()
_cache_rests_until = 0.0


def _seconds_left(names: list[tuple[str, int]]) -> float:
    """Until when what is counted by these names, each up to its number, is refused; 0: it is
    not."""
    window, left = _window()
    if any(_local.of(name, window=window) >= most for name, most in names):
        return left
    counts = _shared([name for name, _ in names], window)
    for (name, most), count in zip(names, counts, strict=True):
        if count >= most:
            # Remembered: what is refused for the rest of the window costs no Redis either.
            _local.learn(name, count, window=window)
            return left
    return 0.0


def _window() -> tuple[int, float]:
    """The number of the window that is running, and the seconds that are left of it."""
    now, length = time.time(), settings.FAILED_KEYS_WINDOW
    number = int(now // length)
    return number, max(1.0, (number + 1) * length - now)


def _count(name: str) -> int:
    window, _ = _window()
    return _local.add(name, window=window, at_least=_shared_add(name, window))


def _shared(names: list[str], window: int) -> list[int]:
    keys = [_cache_key(name, window) for name in names]
    if not _cache_is_up():
        return [0] * len(keys)
    try:
        found = shared().get_many(keys)
        return [int(found.get(key, 0)) for key in keys]
    except Exception as error:  # whatever kind of cache, whatever it raises or holds
        _let_cache_rest(error)
        return [0] * len(keys)


def _shared_add(name: str, window: int) -> int:
    if not _cache_is_up():
        return 0
    key = _cache_key(name, window)
    try:
        shared().add(key, 0, timeout=2 * settings.FAILED_KEYS_WINDOW)
        return int(shared().incr(key))
    except Exception as error:  # whatever kind of cache, whatever it raises
        _let_cache_rest(error)
        return 0


def _cache_key(name: str, window: int) -> str:
    return f"failed:{window}:{hashlib.sha256(name.encode()).hexdigest()[:32]}"


def _cache_is_up() -> bool:
    """Without Redis the cache is this process's own memory, and `_local` is enough."""
    return settings.REDIS_URL is not None and time.monotonic() >= _cache_rests_until


def _let_cache_rest(error: Exception) -> None:
    global _cache_rests_until
    _cache_rests_until = time.monotonic() + _CACHE_REST
    logger.warning("failed keys are counted by each process for itself: %s", type(error).__name__)


# --- Keys ------------------------------------------------------------------------------------


class _Good:
    """Digests of keys that were good here; the one not seen for longest is forgotten first."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._digests: OrderedDict[str, None] = OrderedDict()

    def has(self, digest: str) -> bool:
        with self._lock:
            return digest in self._digests

    def add(self, digest: str) -> None:
        with self._lock:
            self._digests[digest] = None
            self._digests.move_to_end(digest)
            if len(self._digests) > _MOST_GOOD:
                self._digests.popitem(last=False)

    def drop(self, digest: str) -> None:
        with self._lock:
            self._digests.pop(digest, None)

    def clear(self) -> None:
        with self._lock:
            self._digests.clear()


class _Known:
    """Eight bytes of the digest of every key that is not revoked: read once, when there is
    somebody to slow, and from then on only what is new, once a second at most. Where there
    are more keys than can be remembered, any could be one of them, and nobody is slowed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._parts: set[int] = set()
        self._newest = 0
        self._looked_at = float("-inf")
        self._too_many = False

    def may_be(self, digest: str) -> bool:
        part = int(digest[:16], 16)
        with self._lock:
            if not self._too_many and time.monotonic() - self._looked_at >= _LOOK_EVERY:
                self._look()
            return self._too_many or part in self._parts

    def _look(self) -> None:
        with isolation.every_tenant():
            rows = list(
                ApiKey.objects.filter(pk__gt=self._newest - _REACH_BACK, revoked_at=None)
                .order_by("pk")
                .values_list("pk", "digest")[: _MOST_KNOWN + 1]
            )
        self._parts.update(int(digest[:16], 16) for _, digest in rows)
        self._newest = max([self._newest, *(pk for pk, _ in rows)])
        self._too_many = len(self._parts) > _MOST_KNOWN
        self._looked_at = time.monotonic()
        if self._too_many:
            self._parts.clear()


_good, _known = _Good(), _Known()
