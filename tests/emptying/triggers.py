"""The audit trail's triggers off and on again: what an administrator of the database can do."""

from collections.abc import Iterator
from contextlib import contextmanager

from django.db.backends.base.base import BaseDatabaseWrapper

TABLES = ("tokens_auditevent", "tokens_auditbatch")


@contextmanager
def switched_off(connection: BaseDatabaseWrapper) -> Iterator[None]:
    """Inside, records and batches can be written like any other row."""
    on = switch_off(connection)
    try:
        yield
    finally:
        _execute(connection, on)


def switch_off(connection: BaseDatabaseWrapper) -> list[str]:
    """For good, or until the transaction around is rolled back. The statements that would
    switch them on again."""
    off, on = _statements(connection)
    _execute(connection, off)
    return on


def _execute(connection: BaseDatabaseWrapper, statements: list[str]) -> None:
    with connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)


def _statements(connection: BaseDatabaseWrapper) -> tuple[list[str], list[str]]:
    if connection.vendor == "postgresql":
        # What a superuser may, and the tests' role was allowed (tests/conftest.py).
        return (
            ["SET session_replication_role = replica"],
            ["SET session_replication_role = origin"],
        )
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT name, sql FROM sqlite_master WHERE type = 'trigger' AND tbl_name IN (%s, %s)",
            TABLES,
        )
        made = dict(cursor.fetchall())
    return [f"DROP TRIGGER {name}" for name in made], list(made.values())
