"""What is kept outside of the database: in Redis where there is one, and in the data directory.

Two things lie here, and neither is a token in the open: the epoch, by which a restored
database is told from the one we left, and answers that the database could not take.
Redis is shared by every process of the deployment; the data directory is one machine's.
"""

import errno
import functools
import logging
import os
import time
from pathlib import Path

import redis
from django.conf import settings

from oauthvault import datadir

logger = logging.getLogger(__name__)

# Seconds. Redis is asked in the middle of other work: a short wait, and after a failure
# none at all for a while.
_PATIENCE, _LEFT_ALONE = 2.0, 5.0

# Bytes that an answer may take in the spool.
_LARGEST = 16_384

_FOLDERS = ("spool", "epoch", "audit")
# Seconds after which a file that is being written has lost its writer.
_LEFT_FOR_GOOD = 3600.0

_silent_until = 0.0


class Unreachable(Exception):
    """Redis is configured and does not answer, or does not take what it is given."""


def has_redis() -> bool:
    """Whether this deployment has a place that all of its processes share."""
    return settings.REDIS_URL is not None


def in_redis(command: str, *arguments: object) -> object:
    """The answer of Redis to one command. Unreachable if there is none."""
    global _silent_until
    if settings.REDIS_URL is None:
        raise Unreachable("there is no Redis")
    if time.monotonic() < _silent_until:
        raise Unreachable("Redis did not answer a moment ago")
    try:
        client = _client(settings.REDIS_URL.reveal())
        return client.execute_command(command, *arguments)  # type: ignore[no-untyped-call]
    except (redis.RedisError, OSError) as error:
        _silent_until = time.monotonic() + _LEFT_ALONE
        raise Unreachable(type(error).__name__) from None


def folder(name: str) -> Path:
    """A directory of that name in the data directory, mode 0700. OSError if it cannot be."""
    path: Path = settings.OAUTHVAULT_DATA_DIR / name
    path.mkdir(mode=0o700, exist_ok=True)
    return path


def write_durably(path: Path, content: str) -> None:
    """Put ``content`` in place whole (0600), on disk when this returns. OSError if it fails."""
    datadir.replace(path, content)


def prove_writable(path: Path) -> None:
    """Write a file as large as the largest answer into the directory, and take it away.

    OSError where a directory is read-only or its disk is full. Not synced: a full disk
    shows when the blocks are asked for.
    """
    probe = path / f".probe-{os.getpid()}-{time.monotonic_ns()}"
    try:
        descriptor = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            if os.write(descriptor, b"\0" * _LARGEST) < _LARGEST:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        finally:
            os.close(descriptor)
    finally:
        probe.unlink(missing_ok=True)


def remove_leftovers(*, now: float) -> None:
    """Remove temporary files and probes that killed processes have left in our directories.

    ``now``: Unix seconds by this machine's own clock, which its files' times are of.
    """
    for name in _FOLDERS:
        for path in (settings.OAUTHVAULT_DATA_DIR / name).glob(".*"):
            try:
                if path.stat().st_mtime < now - _LEFT_FOR_GOOD:
                    path.unlink()
            except FileNotFoundError:
                pass  # another process was at it, too
            except OSError as error:
                logger.warning("%s/%s cannot be removed: %s", name, path.name, error.strerror)


def forget() -> None:
    """Ask Redis anew (another one, or it is back)."""
    global _silent_until
    _silent_until = 0.0
    _client.cache_clear()


@functools.lru_cache(maxsize=2)
def _client(url: str) -> "redis.Redis":
    return redis.Redis.from_url(
        url,
        socket_connect_timeout=_PATIENCE,
        socket_timeout=_PATIENCE,
        decode_responses=True,
        # Whoever else writes there: what is no text is no answer of ours, and stops nothing.
        encoding_errors="replace",
        retry_on_error=[],
        retry=None,
    )
