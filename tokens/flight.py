"""Refreshes that a request needs: begun in the background of this process, and waited for.

The request's own thread never asks the authorization server, so that a caller who gives
up, or may wait only a second, does not cut a refresh short. And only half of a process's
threads may wait at all: the others stay free for users whose token is alive.
"""

import logging
import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from django.conf import settings
from django.db import close_old_connections, connection

from tokens.errors import VaultError
from tokens.models import Cause, Outcome, RefreshAttempt
from tokens.refresh import refresh

logger = logging.getLogger(__name__)

_SHORTEST_POLL, _LONGEST_POLL = 0.025, 0.25
_MOST_AT_ONCE, _MOST_OF_ONE_TENANT = 32, 16

# Threads of a pool are joined when the interpreter ends: a refresh under way is saved
# before the process goes.
_pool = ThreadPoolExecutor(max_workers=_MOST_AT_ONCE, thread_name_prefix="refresh")
_lock = threading.Lock()
_begun: dict[int, int] = {}  # credential, tenant
_refusals: dict[int, VaultError] = {}
_room = threading.BoundedSemaphore(max(1, settings.OAUTHVAULT_WEB_THREADS // 2))


@contextmanager
def waiting_place() -> Iterator[bool]:
    """Yields whether this thread may wait. Never blocks."""
    got = _room.acquire(blocking=False)
    try:
        yield got
    finally:
        if got:
            _room.release()


def begin(*, tenant_id: int, credential_id: int, generation: int, cause: Cause, actor: str) -> None:
    """Have the credential refreshed, once, however many ask in this process.

    Returns at once. Another process may hold the lease; then nothing is begun here.
    """
    with _lock:
        if credential_id in _begun:
            return
        _refusals.pop(credential_id, None)
        of_tenant = sum(holder == tenant_id for holder in _begun.values())
        if of_tenant >= _MOST_OF_ONE_TENANT or len(_begun) >= _MOST_AT_ONCE:
            # Their callers are told to come back in a moment. Nothing waits in a line: a
            # process that is told to end claims nothing new.
            return
        _begun[credential_id] = tenant_id
    _pool.submit(_run, tenant_id, credential_id, generation, cause, actor)


def is_begun(credential_id: int) -> bool:
    """Whether this process is at it already. Asks no database."""
    with _lock:
        return credential_id in _begun


def is_under_way(*, tenant_id: int, credential_id: int, since: float) -> bool:
    """Whether a refresh that began no longer ago than its lease is without an outcome,
    here or in any other process."""
    return (
        is_begun(credential_id)
        or RefreshAttempt.objects.filter(
            tenant_id=tenant_id,
            credential_id=credential_id,
            outcome=Outcome.IN_FLIGHT,
            started_at__gt=since - settings.REFRESH_LEASE,
        ).exists()
    )


def refusal_of(credential_id: int) -> VaultError | None:
    """Why the refresh that was begun here last could not even be claimed."""
    with _lock:
        return _refusals.get(credential_id)


def wait_until_landed(*, tenant_id: int, credential_id: int, now: float, seconds: float) -> bool:
    """Wait for the refresh under way; whether it ended within ``seconds``.

    Asks the database 25 ms to 250 ms apart, with jitter. Call it inside a
    `waiting_place` only.
    """
    ends = time.monotonic() + seconds
    pause = _SHORTEST_POLL
    while is_under_way(tenant_id=tenant_id, credential_id=credential_id, since=now):
        left = ends - time.monotonic()
        if left <= 0:
            return False
        time.sleep(min(left, pause * random.uniform(0.8, 1.2)))  # noqa: S311  spreads load
        pause = min(pause * 1.5, _LONGEST_POLL)
    return True


def _run(tenant_id: int, credential_id: int, generation: int, cause: Cause, actor: str) -> None:
    try:
        close_old_connections()
        refresh(
            tenant_id=tenant_id,
            credential_id=credential_id,
            cause=cause,
            actor=actor,
            generation=generation,
        )
    except VaultError as refusal:
        with _lock:
            # Without its frames, which hold what a refusal must not.
            _refusals[credential_id] = refusal.with_traceback(None)
    except Exception:
        logger.exception("the refresh of credential %s could not be done", credential_id)
    finally:
        connection.close()
        with _lock:
            _begun.pop(credential_id, None)
