"""The triggers by which the database itself refuses to change the audit trail: are they there?

Migration 0005 makes them. Whoever owns the tables can take them away, or switch them off; what
was changed meanwhile is found by verification, and not here.
"""

import re
from collections.abc import Callable
from importlib import import_module
from types import SimpleNamespace
from typing import Any

from django.db import transaction
from django.db.backends.base.base import BaseDatabaseWrapper

_TABLES = ("tokens_auditevent", "tokens_auditbatch")
_MADE_BY: Any = import_module("tokens.migrations.0005_audit_chain")
_NAMED = re.compile(r"CREATE TRIGGER (\w+) BEFORE \w+ ON (\w+)")


def missing(connection: BaseDatabaseWrapper) -> list[str]:
    """Those that are not there, are switched off, or (as far as SQLite says it) are others, as
    ``tokens_auditevent: audit_update``; none where there are no such tables yet."""
    look = _on_postgresql if connection.vendor == "postgresql" else _on_sqlite
    tables, there = look(connection)
    return sorted(_as_made(connection).keys() - there) if tables == set(_TABLES) else []


def put_back(connection: BaseDatabaseWrapper) -> list[str]:
    """Make them all anew if one is missing; those that were. Only the tables' owner may."""
    gone = missing(connection)
    if gone:
        with transaction.atomic(using=connection.alias), connection.cursor() as cursor:
            _make(connection, cursor.execute)
    return gone


def _as_made(connection: BaseDatabaseWrapper) -> dict[str, str]:
    """Each with the statement that makes it."""
    said: list[str] = []
    _make(connection, said.append)
    return {f"{found[2]}: {found[1]}": text for text in said if (found := _NAMED.match(text))}


def _make(connection: BaseDatabaseWrapper, execute: Callable[[str], object]) -> None:
    def statement(text: str, params: object = None) -> None:
        execute(text)

    _MADE_BY.guard(None, SimpleNamespace(connection=connection, execute=statement))


def _on_sqlite(connection: BaseDatabaseWrapper) -> tuple[set[str], set[str]]:
    """Which of the tables are there, and which triggers."""
    as_made = _as_made(connection)
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT type, tbl_name, name, sql FROM sqlite_master WHERE tbl_name IN (%s, %s)",
            _TABLES,
        )
        rows = cursor.fetchall()
    named = {f"{table}: {name}": sql for kind, table, name, sql in rows if kind == "trigger"}
    return (
        {table for kind, table, *_ in rows if kind == "table"},
        {name for name, sql in named.items() if as_made.get(name) == sql},
    )


def _on_postgresql(connection: BaseDatabaseWrapper) -> tuple[set[str], set[str]]:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT c.relname, t.tgname FROM pg_class c "
            "LEFT JOIN pg_trigger t ON t.tgrelid = c.oid AND t.tgenabled IN ('O', 'A') "
            "WHERE c.oid IN (to_regclass(%s), to_regclass(%s))",
            _TABLES,
        )
        rows = cursor.fetchall()
    return {table for table, _ in rows}, {f"{table}: {name}" for table, name in rows}
