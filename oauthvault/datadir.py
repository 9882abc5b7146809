"""The data directory and the keys that are generated into it, once, and kept."""

import fcntl
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from oauthvault.env import ConfigurationError

# Bytes. A database that has less than this to grow by is as good as full.
_PROBE = 256 * 1024


def prepare(path: Path) -> Path:
    """The directory, made with mode 0700 if it is missing.

    From here on this process makes no file that others may read (SQLite and the broker
    make theirs by themselves). A place that cannot be written stops the start: a key that
    could not be kept would be another key after the next one.
    """
    os.umask(0o077)
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.chmod(0o700)
    except OSError as error:
        raise ConfigurationError(
            f"OAUTHVAULT_DATA_DIR: {path} cannot be used as a directory: {error.strerror}"
        ) from None
    return path


def read_secret_file(path: Path) -> str | None:
    """The content of a kept key, or None where there is no such file."""
    try:
        content = path.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError):
        raise ConfigurationError(f"{path} cannot be read; restore it, or its permissions") from None
    if not content:
        raise ConfigurationError(f"{path} is empty; restore it from a backup, or delete it")
    return content


def read_or_create(path: Path, generate: Callable[[], str]) -> str:
    """The kept secret; generated, made durable (0600) and read back on the first call.

    Two processes that start together end with one secret: the file is linked into
    place whole, and whoever comes second reads the first one's.
    """
    present = read_secret_file(path)
    if present is not None:
        return present
    write_once(path, generate())
    kept = read_secret_file(path)
    if kept is None:
        raise ConfigurationError(f"{path} vanished while it was being made")
    return kept


def write_once(path: Path, content: str) -> bool:
    """Write a 0600 file durably unless it exists; whether this call made it."""
    try:
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(content + "\n")
                file.flush()
                os.fsync(file.fileno())
            try:
                os.link(temporary, path)
            except FileExistsError:
                return False
            _sync_directory(path.parent)
            return True
        finally:
            os.unlink(temporary)
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be written: {error.strerror}") from None


def replace(path: Path, content: str) -> None:
    """Write a 0600 file durably in place of what is there: whole, or not at all.

    OSError if it cannot be written; then what was there is there still.
    """
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        Path(temporary).unlink(missing_ok=True)
        raise
    _sync_directory(path.parent)


def why_unwritable(path: Path) -> str | None:
    """Why nothing can be written into the directory, in words; None: something can."""
    what = f"the disk that holds {path} is full or read-only, or the directory is"
    if not os.access(path, os.W_OK):
        return f"{what} (no right to write there)"
    try:
        # Not synced: a full disk shows when the blocks are asked for.
        with tempfile.TemporaryFile(dir=path) as probe:
            probe.write(b"\0" * _PROBE)
    except OSError as error:
        return f"{what} ({error.strerror})"
    return None


@contextmanager
def turn(path: Path) -> Iterator[None]:
    """Wait for this process's turn at what the file stands for, and have it until the end."""
    with path.open("w", encoding="ascii") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
