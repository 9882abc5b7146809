"""Row-level security: the statements that put a table behind the wall, for migrations.

Nothing of it on a database that is not PostgreSQL. The policies read the tenants that
`oauthvault.postgresql` sends with each statement: numbers with commas, or ``*``.
"""

from typing import Any

from django.db.migrations.operations.special import RunSQL

_TENANTS = "current_setting('oauthvault.tenants', true)"
# In a subquery, so that it is worked out once for a statement and not once for a row.
_EVERYBODY = f"(SELECT {_TENANTS} = '*')"
_LISTED = f"(SELECT string_to_array(NULLIF({_TENANTS}, '*'), ','))::bigint[]"
SHOWN_KEY = "(SELECT NULLIF(current_setting('oauthvault.key', true), ''))"


class OnPostgreSQL(RunSQL):
    """SQL that other databases are spared."""

    def database_forwards(self, app_label: str, schema_editor: Any, *states: Any) -> None:
        if schema_editor.connection.vendor == "postgresql":
            super().database_forwards(app_label, schema_editor, *states)

    def database_backwards(self, app_label: str, schema_editor: Any, *states: Any) -> None:
        if schema_editor.connection.vendor == "postgresql":
            super().database_backwards(app_label, schema_editor, *states)


def behind_the_wall(table: str, *, tenant_column: str = "tenant_id") -> OnPostgreSQL:
    """Enable and force row-level security: a row is there for its tenant only."""
    visible = f"{_EVERYBODY} OR {tenant_column} = ANY ({_LISTED})"
    return OnPostgreSQL(
        sql=[
            f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY",
            f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY",
            f"CREATE POLICY of_its_tenant ON {table} USING ({visible}) WITH CHECK ({visible})",
        ],
        reverse_sql=[
            f"DROP POLICY of_its_tenant ON {table}",
            f"ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY",
            f"ALTER TABLE {table} DISABLE ROW LEVEL SECURITY",
        ],
    )


def seen_by_its_key(table: str, *, condition: str) -> OnPostgreSQL:
    """Whoever shows a key may read its own row, and its tenant's, before the tenant is known."""
    return OnPostgreSQL(
        sql=f"CREATE POLICY of_the_shown_key ON {table} FOR SELECT USING ({condition})",
        reverse_sql=f"DROP POLICY of_the_shown_key ON {table}",
    )


def points_within_its_tenant(table: str, column: str, parent: str) -> OnPostgreSQL:
    """What ``column`` points to in ``parent`` is of the same tenant as the row itself."""
    name = f"{table}_{column}_of_tenant"
    return OnPostgreSQL(
        sql=(
            f"ALTER TABLE {table} ADD CONSTRAINT {name} FOREIGN KEY (tenant_id, {column}) "
            f"REFERENCES {parent} (tenant_id, id) DEFERRABLE INITIALLY DEFERRED"
        ),
        reverse_sql=f"ALTER TABLE {table} DROP CONSTRAINT {name}",
    )


def looks_across(function: str, *, takes: str, gives: str, query: str) -> OnPostgreSQL:
    """A function that reads every tenant's rows, for whomever the code that calls it is at work,
    and gives what ``query`` selects: ids, counts, yes or no, and no column that holds more.

    It works by the rights of its owner, for roles that were granted it (`grant_to_service`), and
    is STABLE: PostgreSQL refuses to write in it. ``query`` names its columns by their tables:
    what ``gives`` declares would else be meant.
    """
    # The policies hold for the owner too, so it says itself for whom it looks, and puts back what
    # was said before; an error puts it back with all that its (sub)transaction has done. A SET
    # clause would be shorter, and may be declared by superusers only for a setting of ours.
    # pg_temp comes last, or a table that the caller makes for its session would come before ours.
    # Planned by the values of each call: nothing may be due, or nearly everything.
    return OnPostgreSQL(
        sql=[
            f"""
            CREATE FUNCTION {function}({takes}) RETURNS TABLE ({gives})
            LANGUAGE plpgsql STABLE SECURITY DEFINER
            SET search_path = oauthvault, pg_temp
            SET plan_cache_mode = force_custom_plan
            AS $$
            DECLARE
                told CONSTANT text := coalesce({_TENANTS}, '');
            BEGIN
                PERFORM set_config('oauthvault.tenants', '*', true);
                RETURN QUERY {query};
                PERFORM set_config('oauthvault.tenants', told, true);
            END
            $$
            """,
            f"REVOKE ALL ON FUNCTION {function} FROM PUBLIC",
        ],
        reverse_sql=f"DROP FUNCTION {function}",
    )
