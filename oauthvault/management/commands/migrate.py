"""Django's `migrate`, and on PostgreSQL what it needs around it.

The schema `oauthvault` is made first, one migration runs at a time, and the role that
serves requests is given what it needs when another one owns the tables.
"""

from typing import Any

from django.core.management.commands.migrate import Command as Migrate
from django.db import DEFAULT_DB_ALIAS, connections
from django.db.backends.base.base import BaseDatabaseWrapper

SCHEMA = "oauthvault"
# Any number, the same for everybody who migrates.
_LOCK = 7_263_118_004


class Command(Migrate):
    help = "Bring the database to the shape that this version needs."

    def handle(self, *args: Any, **options: Any) -> None:
        if options["database"] == DEFAULT_DB_ALIAS and "owner" in connections.databases:
            options["database"] = "owner"
        connection = connections[options["database"]]
        if connection.vendor != "postgresql":
            super().handle(*args, **options)
            return
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_lock(%s)", [_LOCK])
        try:
            _make_schema(connection)
            super().handle(*args, **options)
            if options["database"] == "owner":
                _grant_to_service(connection)
        finally:
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_advisory_unlock(%s)", [_LOCK])


def _make_schema(connection: BaseDatabaseWrapper) -> None:
    with connection.cursor() as cursor:
        # Asked first: IF NOT EXISTS wants the right to create even where it does nothing.
        cursor.execute("SELECT 1 FROM pg_namespace WHERE nspname = %s", [SCHEMA])
        if cursor.fetchone() is None:
            cursor.execute(f"CREATE SCHEMA {SCHEMA}")


def _grant_to_service(owner: BaseDatabaseWrapper) -> None:
    with connections[DEFAULT_DB_ALIAS].cursor() as cursor:
        cursor.execute("SELECT quote_ident(current_user)")
        role = cursor.fetchone()[0]
    with owner.cursor() as cursor:
        for statement in (
            f"GRANT USAGE ON SCHEMA {SCHEMA} TO {role}",
            f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {SCHEMA} TO {role}",
            f"GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA {SCHEMA} TO {role}",
        ):
            cursor.execute(statement)
