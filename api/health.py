"""How the vault is: each part asked on a thread of its own, all of them within two seconds.

A database that accepts a connection and never answers must not keep the one who asks how
things are waiting.
"""

import logging
import secrets
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Generic, TypeVar

from django.conf import settings
from django.db import connection

from oauthvault.cache import shared
from oauthvault.celery import app
from oauthvault.env import ConfigurationError
from tokens import clock, epoch, isolation
from tokens.condition import SCHEDULER
from tokens.errors import EncryptionError
from tokens.keyring import load_keyring, verify_keys
from tokens.models import Heartbeat, OAuthCredential, Standing
from tokens.refresh import gate, spool

logger = logging.getLogger(__name__)

OK = "ok"
WITHIN = 2.0
# Sweeps that may be missed before the scheduler counts as away.
_MISSED_SWEEPS = 3

T = TypeVar("T")

# Threads that may be asking at once; a part that hangs must not gather them without end.
_room = threading.BoundedSemaphore(12)
# Of its own: a cache that hangs must not have the database said to be away.
_room_for_the_store = threading.BoundedSemaphore(6)


@dataclass(frozen=True, kw_only=True)
class Health:
    """``checks``: by part, "ok" or what is wrong with it, in a few words without secrets."""

    status: str
    oauth_configured: bool
    checks: dict[str, str]

    @property
    def serves(self) -> bool:
        return self.status != "unhealthy"


def examine() -> Health:
    """Ask every part. Unhealthy without database or keys, degraded without another part,
    and while answers lie in the spool, the far side is down or asked everybody to wait, or
    credentials are quarantined."""
    ends = time.monotonic() + WITHIN
    store = _Check(_ask_store, _room_for_the_store)
    cached, broker = _Check(_ask_cache), _Check(_ask_broker)
    spooled = _Check(_ask_spool)
    found = store.answer(ends) or _Store()
    cached.answer(ends)
    broker.answer(ends)
    depth = spooled.answer(ends)
    checks = {
        "database": store.verdict,
        "cache": cached.verdict,
        "broker": broker.verdict,
        "scheduler": found.scheduler,
        "encryption": found.encryption,
        "spool": f"{depth} answers wait for the database" if depth else spooled.verdict,
        "upstream": found.upstream,
        "quarantine": found.quarantine,
    }
    if checks["database"] != OK or checks["encryption"] != OK:
        status = "unhealthy"
    else:
        status = "healthy" if all(check == OK for check in checks.values()) else "degraded"
    return Health(status=status, oauth_configured=found.oauth_configured, checks=checks)


def examine_store() -> Health:
    """Whether requests can be served: the database answers, and its keys open."""
    store = _Check(_ask_store, _room_for_the_store)
    found = store.answer(time.monotonic() + WITHIN) or _Store()
    checks = {"database": store.verdict, "encryption": found.encryption}
    able = all(check == OK for check in checks.values())
    return Health(
        status="healthy" if able else "unhealthy",
        oauth_configured=found.oauth_configured,
        checks=checks,
    )


@dataclass(frozen=True, kw_only=True)
class _Store:
    """What the database says. As it stands: nothing, for it did not answer."""

    oauth_configured: bool = False
    scheduler: str = "unknown"
    encryption: str = "unknown"
    upstream: str = "unknown"
    quarantine: str = "unknown"


def _ask_store() -> _Store:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    with isolation.every_tenant():
        configured = OAuthCredential.objects.exclude(standing=Standing.REVOKED).exists()
    return _Store(
        oauth_configured=configured,
        scheduler=_scheduler(),
        encryption=_encryption(),
        upstream=_upstream(),
        quarantine=_quarantine(),
    )


def _scheduler() -> str:
    beat = Heartbeat.objects.filter(part=SCHEDULER).first()
    if beat is None:
        return "no sweep has run yet"
    age = clock.now() - beat.at
    if age > _MISSED_SWEEPS * settings.SWEEP_INTERVAL:
        return f"the last sweep was {int(age)} s ago"
    return OK


def _encryption() -> str:
    try:
        verify_keys(load_keyring())
    except (ConfigurationError, EncryptionError) as error:
        logger.error("the keys do not open the database: %s", error)
        return "the keys at hand do not open the database"
    return OK


def _upstream() -> str:
    now = clock.now()
    door = gate.look(now=now)
    if door.found_down:
        return "the authorization server was found down; one refresh at a time tries it"
    if door.closed_until:
        return f"asked everybody to wait, {max(1, round(door.closed_until - now))} s more"
    return OK


def _quarantine() -> str:
    if epoch.deployment().quarantined_at is not None:
        return "the database seems to be a restored one: run `oauthvault release_quarantine`"
    return OK


def _ask_spool() -> int:
    """Without the database: it is when that is away that the spool fills."""
    return spool.depth(epoch.known_vault_id())


def _ask_cache() -> bool:
    name, value = f"health:{secrets.token_hex(8)}", secrets.token_hex(8)
    cache = shared()
    cache.set(name, value, timeout=10)
    if cache.get(name) != value:
        raise LookupError("the cache does not keep what it is given")
    cache.delete(name)
    return True


def _ask_broker() -> bool:
    with app.connection_for_write() as broker:
        # One try: how long to wait for it is judged by who asks.
        broker.ensure_connection(max_retries=1)
    return True


class _Check(Generic[T]):
    """One question, asked on a thread that nobody waits for longer than agreed."""

    def __init__(self, ask: Callable[[], T], room: threading.Semaphore = _room) -> None:
        self._room = room
        self.verdict = "no answer"
        self._future: Future[T] = Future()
        if room.acquire(blocking=False):
            threading.Thread(target=self._run, args=(ask,), name="health", daemon=True).start()
        else:
            self._future.set_exception(TimeoutError("too many are waiting already"))

    def answer(self, ends: float) -> T | None:
        """What was answered before ``ends`` (monotonic), else None and a verdict that says why."""
        try:
            answer = self._future.result(timeout=max(0.0, ends - time.monotonic()))
        except TimeoutError:
            return None
        except Exception as error:  # whatever kind of part, whatever it raises
            logger.warning("health: %s", type(error).__name__)
            self.verdict = "failed"
            return None
        self.verdict = OK
        return answer

    def _run(self, ask: Callable[[], T]) -> None:
        try:
            self._future.set_result(ask())
        except Exception as error:  # carried over to `answer`, which says what it was
            self._future.set_exception(error)
        finally:
            connection.close()
            self._room.release()
