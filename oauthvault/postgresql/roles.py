"""PostgreSQL's roles: what the one that serves could do past row-level security, and how it
is made. On another database there are none."""

from typing import Any

from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg import sql

SCHEMA = "oauthvault"


def name_of(connection: BaseDatabaseWrapper) -> str:
    with connection.cursor() as cursor:
        cursor.execute("SELECT current_user")
        return str(cursor.fetchone()[0])


def passes_the_wall(connection: BaseDatabaseWrapper) -> bool:
    """Whether row-level security does not hold for this connection: its role, or one that it
    may turn itself into, is superuser or has BYPASSRLS.

    Its role is the one that it signed in as. What it has put on by SET ROLE is one of those that
    this may turn into, and RESET ROLE takes it off.
    """
    return bool(
        _asked(
            connection,
            "SELECT bool_or(rolsuper OR rolbypassrls) FROM pg_roles "
            "WHERE pg_has_role(session_user, oid, 'MEMBER')",
        )
    )


def owns_the_tables(connection: BaseDatabaseWrapper) -> bool:
    """Whether the role that this connection signed in as could take the wall down."""
    return bool(
        _asked(
            connection,
            "SELECT count(*) FROM pg_class WHERE relkind = 'r' AND "
            "relnamespace = to_regnamespace(%s) AND pg_has_role(session_user, relowner, 'MEMBER')",
            SCHEMA,
        )
    )


def tables_before_the_wall(connection: BaseDatabaseWrapper) -> list[str]:
    """Tables with a tenant in them for which row-level security is not enabled and forced."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT relname FROM pg_class WHERE relkind = 'r' "
            "AND relnamespace = to_regnamespace(%s) "
            "AND NOT (relrowsecurity AND relforcerowsecurity) AND (relname = 'tokens_tenant' OR "
            "EXISTS (SELECT FROM pg_attribute WHERE attrelid = pg_class.oid "
            "AND attname = 'tenant_id' AND NOT attisdropped)) ORDER BY relname",
            [SCHEMA],
        )
        return [str(name) for (name,) in cursor.fetchall()]


def make_service_role(owner: BaseDatabaseWrapper, *, name: str, password: str) -> bool:
    """Make a plain role that may sign in to this database, or give the one that is there this
    password. Whether it was made. As an administrator who may create roles."""
    database = owner.settings_dict["NAME"]
    role = sql.Identifier(name)
    made = not _asked(owner, "SELECT count(*) FROM pg_roles WHERE rolname = %s", name)
    with owner.cursor() as cursor:
        if made:
            cursor.execute(
                sql.SQL("CREATE ROLE {} NOSUPERUSER NOBYPASSRLS NOCREATEDB NOCREATEROLE").format(
                    role
                )
            )
        cursor.execute(
            sql.SQL("ALTER ROLE {} LOGIN PASSWORD {}").format(role, sql.Literal(password))
        )
        cursor.execute(
            sql.SQL("GRANT CONNECT ON DATABASE {} TO {}").format(sql.Identifier(database), role)
        )
    return made


def grant_to_service(owner: BaseDatabaseWrapper, *, name: str) -> None:
    """What the role that serves needs of the owner's tables and functions, those that are to come
    included."""
    role, schema = sql.Identifier(name), sql.Identifier(SCHEMA)
    rows = sql.SQL("SELECT, INSERT, UPDATE, DELETE ON")
    numbers = sql.SQL("USAGE, SELECT ON")
    default = sql.SQL("ALTER DEFAULT PRIVILEGES IN SCHEMA {} GRANT").format(schema)
    with owner.cursor() as cursor:
        for statement in (
            sql.SQL("GRANT USAGE ON SCHEMA {} TO {}").format(schema, role),
            sql.SQL("GRANT {} ALL TABLES IN SCHEMA {} TO {}").format(rows, schema, role),
            sql.SQL("GRANT {} ALL SEQUENCES IN SCHEMA {} TO {}").format(numbers, schema, role),
            sql.SQL("GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA {} TO {}").format(schema, role),
            sql.SQL("{} {} TABLES TO {}").format(default, rows, role),
            sql.SQL("{} {} SEQUENCES TO {}").format(default, numbers, role),
            sql.SQL("{} EXECUTE ON FUNCTIONS TO {}").format(default, role),
        ):
            cursor.execute(statement)


def _asked(connection: BaseDatabaseWrapper, question: str, *values: Any) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(question, values)
        return cursor.fetchone()[0]
