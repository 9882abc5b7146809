"""The heads of the chains, kept outside of the database: in Redis and in the data directory.

A chain whose end was cut off is whole in itself; only somebody who remembers how long it
was can tell. A head is a batch's number and digest. What is kept here is never lowered, and
where a head is missing that should be there none is put in its place: both would wipe the
trace of a cut. Only an operator does so, who knows why (`oauthvault verify_audit --reanchor`).

The heads lie under a name that only the vault's keys give (`keyring.vault_name`). Under an id
that the database says, whoever writes the database could have us look where nothing is.
"""

import logging
import re
from collections import defaultdict
from dataclasses import dataclass, field
from typing import NamedTuple

from oauthvault.env import ConfigurationError
from tokens import keyring, outside
from tokens.models import AuditBatch

logger = logging.getLogger(__name__)

_HEAD = re.compile(r"([0-9]{1,18}) ([0-9a-f]{64}|-)\n?")


class Head(NamedTuple):
    """The last batch of a chain: its number and its digest. Number 0: there is none yet."""

    number: int
    digest: str


EMPTY = Head(0, "-")


@dataclass(frozen=True)
class Found:
    """The heads of each chain as they were found, one for each place that knows it.

    ``everywhere``: every place could be looked into. ``garbled``: chains of which a place
    keeps something that is no head.
    """

    heads: dict[int, list[Head]] = field(default_factory=lambda: defaultdict(list))
    garbled: set[int] = field(default_factory=set)
    everywhere: bool = True

    def take(self, chain_id: int, text: str) -> None:
        match = _HEAD.fullmatch(text)
        if match is None:
            self.garbled.add(chain_id)
        else:
            self.heads[chain_id].append(Head(int(match[1]), match[2]))


def find() -> Found:
    """All heads that are kept outside for this vault."""
    name = keyring.vault_name()
    found, everywhere = Found(), True
    try:
        for path in outside.folder("audit").glob(f"{name}.*"):
            if path.suffix[1:].isdigit():
                found.take(int(path.suffix[1:]), path.read_text(encoding="ascii", errors="replace"))
    except OSError:
        everywhere = False
    if outside.has_redis():
        try:
            kept = outside.in_redis("HGETALL", _hash(name))
        except outside.Unreachable:
            everywhere = False
        else:
            for chain_id, text in _pairs(kept):
                found.take(chain_id, text)
    return Found(found.heads, found.garbled, everywhere)


def refuse_a_second_beginning() -> None:
    """ConfigurationError where the key of the audit trail is still to be made, and heads of
    this vault's chains are kept outside: it had one. With a new key whatever is in the
    database by now would be taken for older than the trail (`tokens.trail.adoption`)."""
    if keyring.has_key_for(keyring.AUDIT_TRAIL) or not keyring.has_key_for(keyring.FINGERPRINTS):
        return
    found = find()
    if found.heads or found.garbled:
        name = keyring.vault_name()
        raise ConfigurationError(
            "the database has no key of the audit trail, and heads of its chains are kept outside "
            f"({outside.folder('audit') / name}.*, in Redis {_hash(name)}): restore the key's row "
            "from a backup. (Or is all of this database a backup from before its trail had chains? "
            "Then move those heads away first)"
        )


def begin(chain_id: int) -> bool:
    """Before the first batch of a chain: keep that it has none. False if no place takes it:
    then the batch is not to be made, for it could not be told from a chain cut short."""
    found = _of(chain_id)
    return bool(found.heads[chain_id]) or chain_id in found.garbled or _write(chain_id, EMPTY)


def keep(chain_id: int, head: Head) -> bool:
    """After the commit: keep the new head, if what is kept fits the chain in the database.
    Whether it, or a later one, is kept now."""
    found = _of(chain_id)
    heads = found.heads[chain_id]
    if chain_id in found.garbled or not heads:
        logger.error(
            "the head of audit chain %s is missing outside of the database%s, and is not replaced: "
            "see `oauthvault verify_audit`",
            chain_id, "" if found.everywhere else ", as far as can be seen now",
        )  # fmt: skip
        return False
    for known in heads:
        if (
            known.number
            and not AuditBatch.objects.filter(
                chain_id=chain_id, number=known.number, digest=known.digest
            ).exists()
        ):
            logger.critical(
                "audit chain %s was at batch %s once, and what the database has does not fit: "
                "see `oauthvault verify_audit`",
                chain_id, known.number,
            )  # fmt: skip
            return False
    if max(heads).number < head.number or len(heads) < _places():
        return _write(chain_id, head)
    return True


def highest(chain_id: int) -> int | None:
    """The number of the highest head that is kept at this moment, or None."""
    return max((head.number for head in _of(chain_id).heads[chain_id]), default=None)


def replace(chain_id: int, head: Head) -> bool:
    """Keep this head whatever was kept before: an operator has said so."""
    return _write(chain_id, head)


def _of(chain_id: int) -> Found:
    name = keyring.vault_name()
    found, everywhere = Found(), True
    try:
        path = outside.folder("audit") / f"{name}.{chain_id}"
        found.take(chain_id, path.read_text(encoding="ascii", errors="replace"))
    except FileNotFoundError:
        pass
    except OSError:
        everywhere = False
    if outside.has_redis():
        try:
            text = outside.in_redis("HGET", _hash(name), chain_id)
        except outside.Unreachable:
            everywhere = False
        else:
            if text is not None:
                found.take(chain_id, str(text))
    return Found(found.heads, found.garbled, everywhere)


def _write(chain_id: int, head: Head) -> bool:
    """Whether any place took it. Two processes may pass each other here, and the lower of
    two heads stay: a cut of one batch could not be seen then, until the next is sealed."""
    name, text = keyring.vault_name(), f"{head.number} {head.digest}"
    written = False
    if outside.has_redis():
        try:
            outside.in_redis("HSET", _hash(name), chain_id, text)
            written = True
        except outside.Unreachable:
            pass
    try:
        outside.write_durably(outside.folder("audit") / f"{name}.{chain_id}", f"{text}\n")
        written = True
    except OSError:
        pass
    if not written:
        logger.warning("the head of audit chain %s cannot be kept outside now", chain_id)
    return written


def _places() -> int:
    return 2 if outside.has_redis() else 1


def _pairs(kept: object) -> list[tuple[int, str]]:
    """What HGETALL answers: a mapping, or names and values in turn."""
    if not isinstance(kept, dict):
        flat = list(kept) if isinstance(kept, list | tuple) else []
        kept = dict(zip(flat[::2], flat[1::2], strict=True))
    return [(int(name), str(text)) for name, text in kept.items() if str(name).isdigit()]


def _hash(name: str) -> str:
    return f"oauthvault:{name}:audit"
