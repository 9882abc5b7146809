"""Which workers are alive: each says so itself, every twenty seconds, while it has its broker.

One row of `Heartbeat` for each process, written again by it and deleted when it ends in good
order. One that was killed leaves its row behind, and the others sweep it up.
"""

import logging
import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from django.db import DatabaseError, connection

from tokens import clock
from tokens.models import Heartbeat

logger = logging.getLogger(__name__)

# Seconds between two signs of life, and after how many of them one is called away.
EVERY = 20.0
_MISSED = 3
# Seconds after which what a killed one has left is deleted.
_LEFT_FOR = 3600.0
_PREFIX = "worker "
_LONGEST = 32  # of Heartbeat.part


@dataclass(frozen=True, kw_only=True)
class Workers:
    """``alive``: how many were heard of lately. ``last_seen``: when one was (Unix seconds),
    alive or not; None: none within the last hour."""

    alive: int
    last_seen: float | None


def name_of_this_one() -> str:
    """A name for this process: its machine, as far as there is room, and a few letters by
    which two on one machine differ."""
    end = f" {os.getpid()}-{secrets.token_hex(2)}"
    return _PREFIX + socket.gethostname()[: _LONGEST - len(_PREFIX) - len(end)] + end


def beat(name: str, *, now: float) -> None:
    """``name`` is alive."""
    if not Heartbeat.objects.filter(part=name).update(at=now):
        Heartbeat.objects.create(part=name, at=now)
        Heartbeat.objects.filter(part__startswith=_PREFIX, at__lt=now - _LEFT_FOR).delete()


def leave(name: str) -> None:
    """``name`` ends."""
    Heartbeat.objects.filter(part=name).delete()


def beat_quietly(name: str) -> None:
    """For a worker, which goes on whatever the database does."""
    with _without_complaint():
        beat(name, now=clock.now())


def leave_quietly(name: str) -> None:
    """For a worker that ends: what it cannot delete, the others sweep up."""
    with _without_complaint():
        leave(name)


def look(*, now: float) -> Workers:
    # A sign from what is the future still (a clock that was ahead for a while) says nothing.
    seen = Heartbeat.objects.filter(
        part__startswith=_PREFIX, at__gt=now - _LEFT_FOR, at__lte=now + EVERY
    ).values_list("at", flat=True)
    times = list(seen)
    return Workers(
        alive=sum(at > now - _MISSED * EVERY for at in times),
        last_seen=max(times, default=None),
    )


@contextmanager
def _without_complaint() -> Iterator[None]:
    """The thread's connection is closed afterwards: nobody else would."""
    try:
        yield
    except DatabaseError as error:
        logger.warning("this worker's sign of life cannot be written: %s", type(error).__name__)
    finally:
        connection.close()
