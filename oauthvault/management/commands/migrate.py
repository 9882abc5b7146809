"""Django's `migrate`, and on PostgreSQL what it needs around it.

The schema `oauthvault` is made first, one migration runs at a time, and the role that
serves requests is given what it needs when another one owns the tables. On every database the
audit trail's triggers are made anew where they are missing.
"""

from typing import Any

from django.core.management.commands.migrate import Command as Migrate
from django.db import DEFAULT_DB_ALIAS, ProgrammingError, connections
from django.db.backends.base.base import BaseDatabaseWrapper

from oauthvault.postgresql import roles
from oauthvault.postgresql.roles import SCHEMA
from tokens import isolation
from tokens.trail import triggers

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
            self._put_triggers_back(connection)
            return
        service = roles.name_of(connections[DEFAULT_DB_ALIAS])
        with connection.cursor() as cursor:
            # Whoever is before us migrates for as long as it takes.
            cursor.execute("SET lock_timeout = 0")
            cursor.execute("SELECT pg_advisory_lock(%s)", [_LOCK])
            cursor.execute("RESET lock_timeout")
        try:
            _make_schema(connection)
            if options["database"] == "owner":
                # Before as well: what is told of a migration may want to write already.
                roles.grant_to_service(connection, name=service)
            # What a migration changes in rows it changes for everybody. A role that is behind
            # the wall would see none of them otherwise, and change nothing in silence.
            with isolation.every_tenant():
                super().handle(*args, **options)
                self._put_triggers_back(connection)
            if options["database"] == "owner":
                roles.grant_to_service(connection, name=service)
        finally:
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_advisory_unlock(%s)", [_LOCK])
            if options["database"] == "owner":
                connection.close()

    def _put_triggers_back(self, connection: BaseDatabaseWrapper) -> None:
        try:
            gone = triggers.put_back(connection)
        except ProgrammingError as error:
            self.stdout.write(
                "WARNING: triggers that keep the audit trail from being changed are missing, and "
                f"this role cannot make them ({' '.join(str(error).split())}): run `oauthvault "
                "migrate` as the owner of the tables"
            )
            return
        if gone:
            self.stdout.write(
                "WARNING: triggers that keep the audit trail from being changed were missing, and "
                f"are made anew: {', '.join(gone)}. Somebody took them away: run `oauthvault "
                "verify_audit`"
            )


def _make_schema(connection: BaseDatabaseWrapper) -> None:
    with connection.cursor() as cursor:
        # Asked first: IF NOT EXISTS wants the right to create even where it does nothing.
        cursor.execute("SELECT 1 FROM pg_namespace WHERE nspname = %s", [SCHEMA])
        if cursor.fetchone() is None:
            cursor.execute(f"CREATE SCHEMA {SCHEMA}")
