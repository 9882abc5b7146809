"""The spool: where an answer lies that the database could not take.

The tokens in it are sealed, exactly as they would be in their row. What is said beside them
is authenticated under the same data key, which the claim has taken: so whoever can write to
Redis, and read the database, can neither make an entry up nor change one. An entry goes to Redis
where there is one, so that every replica sees it; else, or when Redis does not take it
either, into a file of the data directory, synced and renamed into place, mode 0600.
`tokens.refresh.replay` brings it home; what is here is never opened by itself.
"""

import hashlib
import hmac
import json
import logging
import threading
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from django.conf import settings
from django.db import connection

from tokens import outside
from tokens.encryption import Key
from tokens.errors import StoreUnavailable

logger = logging.getLogger(__name__)

# A spool is for the minutes of an outage. Beyond so many entries something else is wrong.
MOST_ENTRIES = 10_000
_FOLDER = "spool"

_lock = threading.Lock()
# What this process has put down: were Redis lost meanwhile, it would still be here.
_ours: dict[str, "Entry"] = {}


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One answer of the authorization server to one claim.

    ``granted`` and ``refused`` are mutually exclusive: the fields of a pair (sealed), or
    those of a refusal. ``answered_at``: Unix seconds by the database's clock. ``data_key``: the
    id of the one that the pair is sealed under, and ``mac`` made with (`signed`).
    """

    vault_id: str
    tenant_id: int
    credential_id: int
    generation: int
    lease_id: str
    cause: str
    actor: str
    tries: int
    latency_ms: int
    answered_at: float
    granted: dict[str, Any] = field(default_factory=dict, repr=False)
    refused: dict[str, Any] = field(default_factory=dict)
    data_key: int
    mac: str = ""

    @property
    def name(self) -> str:
        return f"{self.credential_id}-{self.lease_id}"


_SHAPE: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("vault_id", "lease_id", "cause", "actor", "mac"), str),
    **dict.fromkeys(("tenant_id", "credential_id", "generation", "tries", "latency_ms"), int),
    "data_key": int,
    **dict.fromkeys(("granted", "refused"), dict),
    "answered_at": (int, float),
}


class SpoolUnavailable(Exception):
    """No place took the entry."""


def signed(entry: Entry, key: Key) -> Entry:
    """The same entry, authenticated under its data key."""
    return replace(entry, mac=_mac(entry, key))


def is_signed(entry: Entry, key: Key) -> bool:
    """Whether the vault wrote all of this, and nobody has changed any of it since."""
    return hmac.compare_digest(entry.mac.encode(), _mac(entry, key).encode())


def put(entry: Entry) -> None:
    """Make the entry durable. SpoolUnavailable if neither Redis nor the disk takes it."""
    if depth(uuid.UUID(entry.vault_id)) >= MOST_ENTRIES:
        raise SpoolUnavailable("the spool is full")
    text = json.dumps(asdict(entry), separators=(",", ":"))
    if not _put_into_redis(entry, text):
        try:
            outside.write_durably(outside.folder(_FOLDER) / entry.name, text)
        except OSError as error:
            raise SpoolUnavailable(error.strerror or type(error).__name__) from None
    with _lock:
        _ours[entry.name] = entry


def remove(entry: Entry) -> None:
    """Destroy the entry wherever it lies."""
    with _lock:
        _ours.pop(entry.name, None)
    # The folder is not made for the purpose: on a disk that is full it could not be.
    try:
        (settings.OAUTHVAULT_DATA_DIR / _FOLDER / entry.name).unlink(missing_ok=True)
    except OSError as error:
        logger.warning("a spooled answer could not be removed: %s", type(error).__name__)
    if outside.has_redis():
        try:
            outside.in_redis("HDEL", _hash(entry.vault_id), entry.name)
        except outside.Unreachable:
            # It stays, is tried again, and finds its generation gone.
            logger.warning("a spooled answer could not be removed from Redis")


def entries(vault_id: uuid.UUID) -> list[Entry]:
    """Everything that lies in the spool of this vault and can be seen from here."""
    with _lock:
        found = {name: entry for name, entry in _ours.items() if entry.vault_id == str(vault_id)}
    for text in _texts(vault_id):
        entry = _parse(text)
        if entry is None:
            logger.error("something in the spool is no answer; it is left where it is")
        elif entry.vault_id == str(vault_id):
            found.setdefault(entry.name, entry)
    return sorted(found.values(), key=lambda entry: entry.answered_at)


def depth(vault_id: uuid.UUID | None) -> int:
    """How many entries lie in the spool, as far as can be seen from here. Asks no database.

    None for a vault whose id this process has not learned yet: then the files count.
    """
    return len(names(vault_id))


def names(vault_id: uuid.UUID | None) -> set[str]:
    """The names of everything that lies in the spool, readable or not."""
    with _lock:
        found = set(_ours)
    found |= set(_file_names())
    if vault_id is not None:
        found |= set(_names_in_redis(vault_id))
    return found


def names_for(vault_id: uuid.UUID, *, credential_id: int) -> set[str]:
    """The names of the entries for one credential, readable or not."""
    return {name for name in names(vault_id) if name.startswith(f"{credential_id}-")}


def has_files() -> bool:
    """Whether a process of this machine left something."""
    return any(True for _ in _file_names())


def sees_everything(vault_id: uuid.UUID) -> bool:
    """Whether an answer of any process of the deployment would be seen from here."""
    if connection.vendor != "sqlite":
        # Another machine may have its own files, whether or not Redis answers now: it did not
        # for that machine in the moment that counted.
        return False
    # One file, one machine, one data directory: every process looks into the same spool.
    if outside.has_redis():
        try:
            outside.in_redis("HLEN", _hash(str(vault_id)))
        except outside.Unreachable:
            return False
    return True


def share_files() -> None:
    """Have every machine see what lies in this one's files, as soon as Redis takes it.

    The files stay until it is brought home: they are on the disk, and Redis may lose its last
    second. Asks no database: it may be away still.
    """
    if not outside.has_redis():
        return
    for name, text in _texts_in_files():
        entry = _parse(text)
        if entry is not None and entry.name == name:
            try:
                outside.in_redis("HSETNX", _hash(entry.vault_id), name, text)
            except outside.Unreachable:
                return


def refuse_unless_writable(vault_id: uuid.UUID) -> None:
    """StoreUnavailable unless an answer could be put down here, should it come to that.

    Asked by the claim: a full disk or a read-only directory is found before anything is
    spent.
    """
    if outside.has_redis():
        try:
            outside.in_redis("SET", f"oauthvault:{vault_id}:probe", "1", "EX", 60)
        except outside.Unreachable:
            pass
        else:
            return
    try:
        outside.prove_writable(outside.folder(_FOLDER))
    except OSError as error:
        raise StoreUnavailable(
            f"The spool in the data directory cannot be written ({error.strerror}): nothing is "
            "refreshed, because an answer that the database does not take would be lost.",
            retry_after=10,
        ) from None


def forget() -> None:
    """Drop what this process remembers (another database)."""
    with _lock:
        _ours.clear()


def _mac(entry: Entry, key: Key) -> str:
    said = asdict(replace(entry, mac=""))
    text = json.dumps(said, sort_keys=True, separators=(",", ":"))
    return hmac.new(key.derive("spool"), text.encode("ascii"), hashlib.sha256).hexdigest()


def _put_into_redis(entry: Entry, text: str) -> bool:
    if not outside.has_redis():
        return False
    try:
        outside.in_redis("HSET", _hash(entry.vault_id), entry.name, text)
    except outside.Unreachable:
        return False
    return True


def _texts(vault_id: uuid.UUID) -> Iterator[str]:
    if outside.has_redis():
        try:
            kept = outside.in_redis("HVALS", _hash(str(vault_id)))
        except outside.Unreachable:
            pass
        else:
            yield from kept if isinstance(kept, list) else ()
    yield from (text for _, text in _texts_in_files())


def _texts_in_files() -> Iterator[tuple[str, str]]:
    for name in _file_names():
        try:
            path = settings.OAUTHVAULT_DATA_DIR / _FOLDER / name
            yield name, path.read_text(encoding="utf-8")
        except FileNotFoundError:
            # Brought home and destroyed by another process in this moment.
            continue
        except (OSError, ValueError) as error:
            logger.error("spool/%s cannot be read: %s", name, type(error).__name__)


def _file_names() -> list[str]:
    try:
        found = sorted(path.name for path in (settings.OAUTHVAULT_DATA_DIR / _FOLDER).iterdir())
    except OSError:
        return []
    # What begins with a dot is being written, or was when its process died.
    return [name for name in found if not name.startswith(".")][:MOST_ENTRIES]


def _names_in_redis(vault_id: uuid.UUID) -> list[str]:
    if not outside.has_redis():
        return []
    try:
        names = outside.in_redis("HKEYS", _hash(str(vault_id)))
    except outside.Unreachable:
        return []
    return [str(name) for name in names] if isinstance(names, list) else []


def _parse(text: str) -> Entry | None:
    try:
        entry = Entry(**json.loads(text))
        if all(isinstance(getattr(entry, name), kind) for name, kind in _SHAPE.items()):
            uuid.UUID(entry.lease_id)
            return entry
    except (ValueError, TypeError, RecursionError):
        pass
    return None


def _hash(vault_id: str) -> str:
    return f"oauthvault:{vault_id}:spool"
