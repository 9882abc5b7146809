"""Keys are wrapped by any number at a time, or their KEKs are counted by one: never both.

A key that was wrapped in a transaction that is open still is seen by nobody else. So whoever
wraps one takes part here, from before it learns which KEK is the primary one to the end of its
transaction; and whoever says that nothing needs a KEK, or takes it away, does so while nobody
takes part.

On PostgreSQL it is a lock of the transaction's own. On SQLite there is nothing to add: a
transaction writes, or waits, from its beginning on.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from django.db import connection, transaction

# Ours among the numbers that others may use in the same database: the bytes of "kek wrap".
_LOCK = int.from_bytes(b"kek wrap", "big")
# Seconds to wait for those who take part, and between two looks. A transaction that wraps a key
# is an import, or a page of a rotation, and takes milliseconds.
_PATIENCE, _PAUSE = 3.0, 0.05


def take_part() -> None:
    """Wrap keys from here to the end of the transaction that the caller is in."""
    if connection.vendor == "postgresql":
        _ask("SELECT pg_advisory_xact_lock_shared(%s)")


@contextmanager
def while_nobody_wraps() -> Iterator[bool]:
    """Whether nobody takes part, and nobody can before the end of the block (and of the
    transaction around it). False: somebody's transaction lasts longer than one waits for it.

    It is looked for again and again, and not waited for in line: who comes to take part (an
    import, in rare cases a claim) would have to wait behind us for as long as we do. What
    those wait for is the block.
    """
    with transaction.atomic():
        yield connection.vendor != "postgresql" or _is_alone()


def _is_alone() -> bool:
    until = time.monotonic() + _PATIENCE
    while not _ask("SELECT pg_try_advisory_xact_lock(%s)"):
        if time.monotonic() >= until:
            return False
        time.sleep(_PAUSE)
    return True


def _ask(question: str) -> bool:
    with connection.cursor() as cursor:
        cursor.execute(question, [_LOCK])
        return cursor.fetchone()[0] is True
