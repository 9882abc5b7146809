"""Refreshes that a request needs: begun in the background of this process, and waited for.

The request's own thread claims, and never asks the authorization server, so that a caller
who gives up, or may wait only a second, does not cut a refresh short. And only half of a
process's threads may wait at all: the others stay free for users whose token is alive.
"""

import copy
import logging
import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from django.conf import settings
from django.db import connection

from tokens import epoch, outside
from tokens.errors import RateLimited, VaultError
from tokens.models import Cause, Outcome, RefreshAttempt
from tokens.prepared import Prepared
from tokens.refresh import Claim, carry_out, claim_refresh, withdraw

logger = logging.getLogger(__name__)

_SHORTEST_POLL, _LONGEST_POLL = 0.025, 0.25
_MOST_AT_ONCE, _MOST_OF_ONE_TENANT = 32, 16

# Threads of a pool are joined when the interpreter ends: a refresh under way is saved
# before the process goes.
_pool = ThreadPoolExecutor(max_workers=_MOST_AT_ONCE, thread_name_prefix="refresh")
_lock = threading.Lock()
_begun: dict[int, int] = {}  # credential, tenant
_refusals: dict[int, "_Refused"] = {}
_seen: dict[int, float] = {}  # credential, when its refresh was seen under way
_room = threading.BoundedSemaphore(max(1, settings.OAUTHVAULT_WEB_THREADS // 2))
# A claim waits for locks, if only for moments: of the other half of the threads some stay
# free of it too.
_room_to_claim = threading.BoundedSemaphore(max(1, settings.OAUTHVAULT_WEB_THREADS // 4))
# Seconds for which those who wait with a refused one may still ask why.
_REMEMBERED = 60.0
# Seconds that a process which is about to claim has for it, before others claim as well.
_A_MOMENT = 0.5


@dataclass(frozen=True)
class _Refused:
    """``at``: when, by this process's monotonic clock."""

    refusal: VaultError
    cause: Cause
    at: float


class _Work:
    """A claim on its way to a thread of the pool: carried out or given back, never both."""

    def __init__(self, claim: Claim, announced: str | None) -> None:
        self.claim, self.announced = claim, announced
        self._lock = threading.Lock()
        self._taken = False

    def take(self) -> bool:
        """Whether it is the caller's. Only the first one is told yes."""
        with self._lock:
            taken, self._taken = self._taken, True
        return not taken


@contextmanager
def waiting_place() -> Iterator[bool]:
    """Yields whether this thread may wait. Never blocks."""
    got = _room.acquire(blocking=False)
    try:
        yield got
    finally:
        if got:
            _room.release()


def begin(*, tenant_id: int, credential_id: int, generation: int, cause: Cause, actor: str) -> bool:
    """Have the credential refreshed, once, however many ask in this process.

    Claimed here and now, by the connection that the caller has anyway; asked and saved in
    the background. Another process may hold the lease; then nothing is begun. Nor is
    anything while too many threads are claiming: their callers come back in a moment.
    True: another process is about to claim, and is waited for (`wait_until_landed`).
    Raises as `tokens.refresh.refresh` does where nothing can be claimed.
    """
    if not _room_to_claim.acquire(blocking=False):
        return False
    try:
        return _begin(tenant_id, credential_id, generation, cause, actor)
    finally:
        _room_to_claim.release()


def _begin(tenant_id: int, credential_id: int, generation: int, cause: Cause, actor: str) -> bool:
    with _lock:
        if credential_id in _begun:
            return False
        for old in [
            each for each, kept in _refusals.items() if kept.at < time.monotonic() - _REMEMBERED
        ]:
            del _refusals[old]
        for old in [each for each, at in _seen.items() if at < time.monotonic() - _REMEMBERED]:
            del _seen[old]
        of_tenant = sum(holder == tenant_id for holder in _begun.values())
        if of_tenant >= _MOST_OF_ONE_TENANT or len(_begun) >= _MOST_AT_ONCE:
            # Their callers are told to come back in a moment. Nothing waits in a line: a
            # process that is told to end claims nothing new.
            return False
        _begun[credential_id] = tenant_id
    handed_on, announced = False, None
    try:
        announced = _announce(credential_id, generation)
        if announced == "":
            return True
        claim = claim_refresh(
            tenant_id=tenant_id,
            credential_id=credential_id,
            cause=cause,
            actor=actor,
            generation=generation,
        )
        if claim is not None:
            handed_on = _hand_on(claim, announced)
    except VaultError as refusal:
        with _lock:
            # For those who wait with us. A copy has none of the frames, which hold what a
            # refusal must not.
            _refusals[credential_id] = _Refused(copy.copy(refusal), cause, time.monotonic())
        raise
    finally:
        if not handed_on:
            _ended(credential_id)
            _take_back(announced)
    return False


def _announce(credential_id: int, generation: int) -> str | None:
    """Tell the other processes that this one is about to claim: under which name in Redis. Empty
    if another has said so a moment ago. None: there is no Redis to tell.

    A courtesy. The claim alone decides who presents the token; of four processes that are
    asked in one moment three would claim in vain, and whoever asks for another token would
    wait for that.
    """
    if not outside.has_redis():
        return None
    name = f"oauthvault:{epoch.vault_id()}:claiming:{credential_id}:{generation}"
    try:
        said = outside.in_redis("SET", name, "1", "NX", "PX", int(_A_MOMENT * 1000))
    except outside.Unreachable:
        return None
    return name if said is not None else ""


def _take_back(announced: str | None) -> None:
    """Nothing was claimed, or it is over: whoever comes next need not wait for it."""
    if announced:
        with suppress(outside.Unreachable):
            outside.in_redis("DEL", announced)


def is_begun(credential_id: int) -> bool:
    """Whether this process is at it already. Asks no database."""
    with _lock:
        return credential_id in _begun


def is_under_way(*, tenant_id: int, credential_id: int, since: float) -> bool:
    """Whether a refresh that began no longer ago than its lease is without an outcome,
    here or in any other process.

    Those who wait together look together: what one thread has seen under way counts for the
    others until the shortest pause between two looks is over.
    """
    if is_begun(credential_id):
        return True
    with _lock:
        if _seen.get(credential_id, -_SHORTEST_POLL) > time.monotonic() - _SHORTEST_POLL:
            return True
    found = _IN_FLIGHT.first(
        tenant_id=tenant_id,
        credential_id=credential_id,
        earliest=since - settings.REFRESH_LEASE,
        latest=since + settings.CLOCK_SLACK,
    )
    with _lock:
        if found is None:
            _seen.pop(credential_id, None)
        else:
            _seen[credential_id] = time.monotonic()
    return found is not None


_IN_FLIGHT = Prepared(
    lambda tenant_id, credential_id, earliest, latest: RefreshAttempt.unscoped.filter(
        tenant_id=tenant_id,
        credential_id=credential_id,
        outcome=Outcome.IN_FLIGHT,
        started_at__gt=earliest,
        # Later ones are of a clock that was set back.
        started_at__lte=latest,
    ).order_by(),
    stand_ins={"tenant_id": -1, "credential_id": -2, "earliest": -3.0, "latest": -4.0},
)


def refusal_of(credential_id: int, *, cause: Cause, since: float) -> VaultError | None:
    """Why a refresh that was begun here after ``since`` (of the monotonic clock) could not even
    be claimed, by whomever. The floor of reported 401s concerns who reports one, and nobody
    else."""
    with _lock:
        kept = _refusals.get(credential_id)
    if kept is None or kept.at < since:
        return None
    if isinstance(kept.refusal, RateLimited) and kept.cause != cause:
        return None
    return copy.copy(kept.refusal)


def wait_until_landed(
    *, tenant_id: int, credential_id: int, now: float, seconds: float, announced: bool = False
) -> bool:
    """Wait for the refresh under way; whether it ended within ``seconds``.

    ``announced``: another process is about to claim it (`begin`), and has a moment for that.
    Asks the database 25 ms to 250 ms apart, with jitter. Call it inside a
    `waiting_place` only.
    """
    begun = time.monotonic()
    ends = begun + seconds
    seen_by = begun + _A_MOMENT if announced else begun
    pause = _SHORTEST_POLL
    while True:
        if is_under_way(tenant_id=tenant_id, credential_id=credential_id, since=now):
            seen_by = begun
        elif time.monotonic() >= seen_by:
            return True
        left = ends - time.monotonic()
        if left <= 0:
            return False
        time.sleep(min(left, pause * random.uniform(0.8, 1.2)))  # noqa: S311  spreads load
        pause = min(pause * 1.5, _LONGEST_POLL)


def _hand_on(claim: Claim, announced: str | None) -> bool:
    """Whether a thread of the pool carries it out."""
    work = _Work(claim, announced)
    try:
        _pool.submit(_carry_out, work)
    except RuntimeError:
        # The process ends, and its pool takes nothing any more. Or no thread could be started:
        # then it lies in the pool's line all the same, and another thread may come to it.
        if not work.take():
            return True
        withdraw(claim)
        return False
    return True


def _carry_out(work: _Work) -> None:
    if not work.take():
        return
    claim = work.claim
    try:
        carry_out(claim)
    except Exception:
        logger.exception("the refresh of credential %s could not be done", claim.credential.pk)
    finally:
        connection.close()
        _ended(claim.credential.pk)
        _take_back(work.announced)


def _ended(credential_id: int) -> None:
    with _lock:
        _begun.pop(credential_id, None)
