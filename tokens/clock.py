"""The one clock: Unix seconds as the database tells them.

Leases and expiries that several machines judge are judged by the database, so that a
machine whose clock is wrong neither steals a lease nor hands out a dead token. `now()` is
read at the edge (a view, a task, a command) and passed in from there.
"""

import threading
import time
from typing import Any

from django.conf import settings
from django.db import connection
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import FloatField, Func
from django.db.models.sql.compiler import SQLCompiler

# How long, in seconds, a reading of the database's clock is carried on with our own
# monotonic one. Quartz drifts by microseconds in that time.
_READING_LIVES = 60.0

_lock = threading.Lock()
_reading: tuple[float, float] | None = None  # (the database's time, our monotonic time)


class DatabaseNow(Func):
    """The time inside a statement, in Unix seconds with fractions.

    On PostgreSQL the time of this very moment, not of the transaction's start.
    """

    output_field = FloatField()

    def as_postgresql(
        self, compiler: SQLCompiler, connection: BaseDatabaseWrapper, **context: Any
    ) -> tuple[str, list[float]]:
        return "(EXTRACT(EPOCH FROM clock_timestamp())::double precision + %s)", [_offset()]

    def as_sqlite(  # type: ignore[override]  # the stubs know no parameter with a fraction
        self, compiler: SQLCompiler, connection: BaseDatabaseWrapper, **context: Any
    ) -> tuple[str, tuple[float, ...]]:
        return "((julianday('now') - 2440587.5) * 86400.0 + %s)", (_offset(),)


def now() -> float:
    """Unix seconds, with fractions.

    On SQLite the clock of this machine, which is the database's. On PostgreSQL the
    server's, read once a minute and carried on in between without a query.
    """
    if connection.vendor != "postgresql":
        return time.time() + _offset()
    global _reading
    with _lock:
        reading = _reading
    if reading is None or time.monotonic() - reading[1] > _READING_LIVES:
        with connection.cursor() as cursor:
            cursor.execute("SELECT EXTRACT(EPOCH FROM clock_timestamp())::double precision")
            reading = (float(cursor.fetchone()[0]), time.monotonic())
        with _lock:
            _reading = reading
    return reading[0] + (time.monotonic() - reading[1]) + _offset()


def _offset() -> float:
    return float(settings.CLOCK_OFFSET)
