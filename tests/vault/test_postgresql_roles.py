"""One role owns and migrates, another serves; and everything lies in one schema."""

import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
from psycopg import sql

from tests.processes import clean_environment, database_url, fresh_database, oauthvault
from tests.servers import as_role, find_pg_dump

pytestmark = [pytest.mark.system, pytest.mark.postgres_too]


@pytest.fixture
def roles() -> Iterator[tuple[str, str, str]]:
    """Addresses of one fresh database: for its owner, a plain role, and a superuser."""
    admin_url = database_url()
    if admin_url is None:
        pytest.skip("roles are PostgreSQL's; this runs in the PostgreSQL pass")
    tag, password = secrets.token_hex(4), secrets.token_hex(8)
    owner, plain = f"owner_{tag}", f"plain_{tag}"
    with psycopg.connect(admin_url, autocommit=True) as admin:
        for role in (owner, plain):
            admin.execute(
                sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(
                    sql.Identifier(role), sql.Literal(password)
                )
            )
        try:
            with fresh_database(admin_url, owner=owner) as url:
                parts = urlsplit(url)
                where = parts.netloc.rpartition("@")[2]
                yield (
                    urlunsplit(parts._replace(netloc=f"{owner}:{password}@{where}")),
                    urlunsplit(parts._replace(netloc=f"{plain}:{password}@{where}")),
                    url,
                )
        finally:
            for role in (owner, plain):
                admin.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))


# What waits for its refresh in ten years, at most; of no tenant, or of every one.
LOOK = (
    "SELECT tenant_id, credential_id FROM oauthvault.line_due("
    "extract(epoch FROM now()) + 315360000, 120, 1845, 0, 'any', 10)"
)
LOGIN = {
    "CLAUDE_ACCESS_TOKEN": "sk-ant-oat01-of-the-line",
    "CLAUDE_REFRESH_TOKEN": "sk-ant-ort01-of-the-line",
    "CLAUDE_EXPIRES_AT": str(int(time.time()) + 3600),
}


def run(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return oauthvault(*arguments, **({"OAUTHVAULT_DATA_DIR": str(folder)} | variables))


def test_the_serving_role_is_given_what_it_needs_and_owns_nothing(
    roles: tuple[str, str, str], tmp_path: Path
) -> None:
    owner, plain, _ = roles
    variables = {"DATABASE_URL": plain, "OAUTHVAULT_MIGRATION_DATABASE_URL": owner}
    for _ in range(2):
        done = run(tmp_path, "init", **variables)
        assert done.returncode == 0, done.stderr
    assert run(tmp_path, "create_tenant", "acme", **variables).returncode == 0
    doctor = run(tmp_path, "doctor", **variables)
    assert "bypasses nothing" in doctor.stdout
    with psycopg.connect(plain) as connection:
        found = connection.execute(
            "SELECT DISTINCT schemaname FROM pg_tables "
            "WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"
        ).fetchall()
        assert found == [("oauthvault",)]
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("DROP TABLE oauthvault.claude_oauth_tokens")


def test_the_serving_role_cannot_switch_off_what_guards_the_audit_trail(
    roles: tuple[str, str, str], tmp_path: Path
) -> None:
    owner, plain, _ = roles
    variables = {"DATABASE_URL": plain, "OAUTHVAULT_MIGRATION_DATABASE_URL": owner}
    assert run(tmp_path, "init", **variables).returncode == 0
    verified = run(tmp_path, "verify_audit", **variables)
    assert verified.returncode == 0, verified.stderr
    for table in ("tokens_auditevent", "tokens_auditbatch"):
        for act in (
            f"ALTER TABLE oauthvault.{table} DISABLE TRIGGER USER",
            f"TRUNCATE oauthvault.{table} CASCADE",
            "SET session_replication_role = replica",
        ):
            with (
                psycopg.connect(plain) as connection,
                pytest.raises(psycopg.errors.InsufficientPrivilege),
            ):
                connection.execute(act)
    with (
        psycopg.connect(plain, options="-c oauthvault.tenants=*") as connection,
        pytest.raises(psycopg.errors.IntegrityError),
    ):
        # The trigger finds its tables whatever the session's search path is.
        connection.execute("DELETE FROM oauthvault.tokens_auditevent")


def test_triggers_of_the_audit_trail_that_were_taken_away_are_made_anew_by_their_owner(
    roles: tuple[str, str, str], tmp_path: Path
) -> None:
    owner, plain, _ = roles
    variables = {"DATABASE_URL": plain, "OAUTHVAULT_MIGRATION_DATABASE_URL": owner}
    assert run(tmp_path, "init", **variables).returncode == 0
    with psycopg.connect(owner) as connection:
        connection.execute("DROP TRIGGER audit_update ON oauthvault.tokens_auditevent")
        connection.execute("ALTER TABLE oauthvault.tokens_auditbatch DISABLE TRIGGER audit_delete")
    gone = "tokens_auditbatch: audit_delete, tokens_auditevent: audit_update"
    assert gone in run(tmp_path, "doctor", **variables).stdout
    assert "this role cannot make them" in run(tmp_path, "migrate", DATABASE_URL=plain).stdout
    started = run(tmp_path, "init", **variables)
    assert f"are made anew: {gone}" in started.stdout, started.stderr
    verified = run(tmp_path, "verify_audit", **variables)
    assert verified.returncode == 0, verified.stderr
    exported = run(tmp_path, "export_audit", **variables).stdout
    assert '"action": "guard_audit"' in exported


def test_a_serving_role_that_could_pass_the_wall_is_refused(
    roles: tuple[str, str, str], tmp_path: Path
) -> None:
    owner, _, superuser = roles
    done = run(tmp_path, "init", DATABASE_URL=superuser, OAUTHVAULT_MIGRATION_DATABASE_URL=owner)
    assert done.returncode == 1
    assert "row-level security" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_two_that_migrate_at_once_take_turns(roles: tuple[str, str, str], tmp_path: Path) -> None:
    owner, _, _ = roles
    environment = clean_environment(DATABASE_URL=owner, OAUTHVAULT_DATA_DIR=str(tmp_path))
    both = [
        subprocess.Popen(
            [sys.executable, "-m", "oauthvault.cli", "migrate", "-v0"],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for process in both:
        _, errors = process.communicate(timeout=240)
        assert process.returncode == 0, errors


def test_one_command_makes_the_role_that_serves(
    roles: tuple[str, str, str], tmp_path: Path
) -> None:
    _, _, superuser = roles
    name = f"made_{secrets.token_hex(4)}"
    variables = {
        "DATABASE_URL": as_role(superuser, f"{name}:{secrets.token_hex(8)}"),
        "OAUTHVAULT_MIGRATION_DATABASE_URL": superuser,
    }
    try:
        made = run(tmp_path, "prepare_roles", **variables)
        assert (made.returncode, "made" in made.stdout) == (0, True), made.stderr
        variables["DATABASE_URL"] = as_role(superuser, f"{name}:{secrets.token_hex(8)}")
        again = run(tmp_path, "prepare_roles", **variables)
        assert (again.returncode, "password" in again.stdout) == (0, True), again.stderr
        assert run(tmp_path, "init", **variables).returncode == 0
        assert "owns nothing" in run(tmp_path, "doctor", **variables).stdout
    finally:
        with psycopg.connect(superuser, autocommit=True) as admin:
            admin.execute(sql.SQL("DROP OWNED BY {}").format(sql.Identifier(name)))
            admin.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(name)))


def test_roles_that_cannot_be_made_are_refused_in_a_sentence(
    roles: tuple[str, str, str], tmp_path: Path
) -> None:
    owner, plain, _ = roles
    alone = run(tmp_path, "prepare_roles", DATABASE_URL=plain)
    assert (alone.returncode, "OAUTHVAULT_MIGRATION_DATABASE_URL" in alone.stderr) == (2, True)
    for service, migrates, why in (
        (owner, owner, "same role"),
        (plain, owner, "could not be made"),
    ):
        done = run(
            tmp_path,
            "prepare_roles",
            DATABASE_URL=service,
            OAUTHVAULT_MIGRATION_DATABASE_URL=migrates,
        )
        assert (done.returncode, why in done.stderr) == (1, True), done.stderr
        assert len(done.stderr.strip().splitlines()) == 1


def test_a_role_that_could_pass_the_wall_is_told_by_doctor_and_by_a_check(
    roles: tuple[str, str, str], tmp_path: Path
) -> None:
    owner, _, superuser = roles
    assert run(tmp_path, "init", DATABASE_URL=owner).returncode == 0
    assert "could take the wall down" in run(tmp_path, "doctor", DATABASE_URL=owner).stdout
    assert "bypasses row-level" in run(tmp_path, "doctor", DATABASE_URL=superuser).stdout
    checked = run(tmp_path, "check", "--deploy", DATABASE_URL=superuser)
    assert "oauthvault.W004" in checked.stderr
    assert "oauthvault.W004" not in run(tmp_path, "check", "--deploy", DATABASE_URL=owner).stderr


def test_a_superuser_who_has_put_on_a_plain_role_is_told_for_a_superuser(
    roles: tuple[str, str, str], tmp_path: Path
) -> None:
    """Django puts it on by SET ROLE, and whoever can send RESET ROLE takes it off."""
    owner, plain, superuser = roles
    dressed = f"{superuser}?assume_role={urlsplit(plain).username}"
    done = run(tmp_path, "init", DATABASE_URL=dressed, OAUTHVAULT_MIGRATION_DATABASE_URL=owner)
    assert (done.returncode, "row-level security" in done.stderr) == (1, True)
    variables = {"DATABASE_URL": plain, "OAUTHVAULT_MIGRATION_DATABASE_URL": owner}
    assert run(tmp_path, "init", **variables).returncode == 0
    assert "bypasses row-level" in run(tmp_path, "doctor", DATABASE_URL=dressed).stdout
    assert "oauthvault.W004" in run(tmp_path, "check", "--deploy", DATABASE_URL=dressed).stderr
    dressed = f"{owner}?assume_role={urlsplit(plain).username}"
    with psycopg.connect(superuser, autocommit=True) as admin:
        names = [sql.Identifier(urlsplit(url).username or "") for url in (plain, owner)]
        admin.execute(sql.SQL("GRANT {} TO {}").format(*names))
    assert "could take the wall down" in run(tmp_path, "doctor", DATABASE_URL=dressed).stdout


def test_the_wall_holds_for_the_owner_too_and_migrations_see_everybodys_rows(
    roles: tuple[str, str, str], tmp_path: Path
) -> None:
    owner, _, _ = roles
    assert run(tmp_path, "init", DATABASE_URL=owner).returncode == 0
    assert run(tmp_path, "create_tenant", "acme", DATABASE_URL=owner).returncode == 0
    with psycopg.connect(owner) as connection:
        assert connection.execute("UPDATE oauthvault.tokens_tenant SET name = 'x'").rowcount == 0
    script = (
        "import django; django.setup()\n"
        "from django.core.management import call_command\n"
        "from django.db import connection\n"
        "from django.db.models.signals import pre_migrate\n"
        "def change(sender, **kwargs):\n"
        "    if sender.name == 'tokens':\n"
        "        with connection.cursor() as cursor:\n"
        "            cursor.execute(\"UPDATE tokens_tenant SET name = 'changed'\")\n"
        "            print(cursor.rowcount)\n"
        "pre_migrate.connect(change)\n"
        "call_command('migrate', verbosity=0)\n"
    )
    environment = clean_environment(
        DATABASE_URL=owner,
        OAUTHVAULT_DATA_DIR=str(tmp_path),
        DJANGO_SETTINGS_MODULE="oauthvault.settings",
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert (done.returncode, done.stdout.strip()) == (0, "2"), done.stderr


def test_a_dump_by_a_role_behind_the_wall_is_refused_or_whole_and_never_empty(
    roles: tuple[str, str, str], tmp_path: Path
) -> None:
    """As docs/operations.md has it: whoever bypasses nothing dumps for every tenant by name."""
    owner, _, superuser = roles
    pg_dump = find_pg_dump()
    if pg_dump is None:
        pytest.skip("no pg_dump on this machine")
    assert run(tmp_path, "init", DATABASE_URL=owner).returncode == 0
    assert run(tmp_path, "create_tenant", "canary-tenant", DATABASE_URL=owner).returncode == 0

    def dump(url: str, *more: str, options: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [pg_dump, "--schema=oauthvault", *more, url],
            env=clean_environment(PGOPTIONS=options),
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )

    refused = dump(owner)
    assert refused.returncode != 0
    assert "row-level security" in refused.stderr
    for whole in (
        dump(superuser),
        dump(owner, "--enable-row-security", options="-c oauthvault.tenants=*"),
    ):
        assert whole.returncode == 0, whole.stderr
        assert "canary-tenant" in whole.stdout


@pytest.mark.parametrize("two", [False, True], ids=["one role", "two roles"])
def test_whoever_serves_looks_across_tenants_by_ids_and_sees_no_row(
    roles: tuple[str, str, str], tmp_path: Path, two: bool
) -> None:
    """Row-level security holds for the owner of the functions as well."""
    owner, plain, superuser = roles
    variables = {"DATABASE_URL": plain, "OAUTHVAULT_MIGRATION_DATABASE_URL": owner}
    serving = variables if two else {"DATABASE_URL": owner}
    assert run(tmp_path, "init", **serving, **LOGIN).returncode == 0
    with psycopg.connect(plain if two else owner) as connection:
        assert len(connection.execute(LOOK).fetchall()) == 1
        assert connection.execute("SELECT * FROM oauthvault.claude_oauth_tokens").fetchall() == []
    if two:
        return
    with psycopg.connect(superuser, autocommit=True) as admin:
        name = sql.Identifier(urlsplit(plain).username or "")
        admin.execute(sql.SQL("GRANT USAGE ON SCHEMA oauthvault TO {}").format(name))
    with (
        psycopg.connect(plain) as connection,
        pytest.raises(psycopg.errors.InsufficientPrivilege, match="function line_due"),
    ):
        connection.execute(LOOK)


def test_a_look_with_its_owners_rights_reads_the_owners_tables_and_runs_the_owners_code(
    roles: tuple[str, str, str], tmp_path: Path
) -> None:
    """Who calls it may make tables, views and functions for the session, and choose a path."""
    _, plain, superuser = roles
    variables = {"DATABASE_URL": plain, "OAUTHVAULT_MIGRATION_DATABASE_URL": superuser}
    assert run(tmp_path, "init", **variables, **LOGIN).returncode == 0
    with psycopg.connect(plain, autocommit=True) as connection:
        found = connection.execute(LOOK).fetchall()
        for statement in (
            "CREATE FUNCTION pg_temp.mine() RETURNS bigint LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE EXCEPTION 'run as %', current_user; END $$",
            "CREATE FUNCTION pg_temp.floor(double precision) RETURNS double precision "
            "LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'run as %', current_user; END $$",
            "CREATE TEMP VIEW tokens_tenant AS SELECT pg_temp.mine() AS id, "
            "true AS auto_refresh, NULL::timestamptz AS suspended_at",
            "CREATE TEMP TABLE claude_oauth_tokens (LIKE oauthvault.claude_oauth_tokens)",
            "SET search_path = pg_temp, oauthvault, pg_catalog",
        ):
            connection.execute(statement)
        with pytest.raises(psycopg.errors.RaiseException, match="run as"):
            connection.execute("SELECT id FROM tokens_tenant")
        assert connection.execute(LOOK).fetchall() == found != []


def test_the_looks_across_tenants_go_with_their_migration_and_come_again(
    roles: tuple[str, str, str], tmp_path: Path
) -> None:
    owner, plain, _ = roles
    variables = {"DATABASE_URL": plain, "OAUTHVAULT_MIGRATION_DATABASE_URL": owner}
    assert run(tmp_path, "init", **variables, **LOGIN).returncode == 0
    back = run(tmp_path, "migrate", "tokens", "0012", **variables)
    assert back.returncode == 0, back.stderr
    with psycopg.connect(plain) as connection:
        left = connection.execute(
            "SELECT proname FROM pg_proc WHERE prosecdef "
            "AND pronamespace = 'oauthvault'::regnamespace"
        )
        assert left.fetchall() == []
    again = run(tmp_path, "migrate", **variables)
    assert again.returncode == 0, again.stderr
    with psycopg.connect(plain) as connection:
        assert len(connection.execute(LOOK).fetchall()) == 1


def test_the_looks_across_tenants_and_who_may_look_are_in_a_dump(
    roles: tuple[str, str, str], tmp_path: Path
) -> None:
    owner, plain, superuser = roles
    pg_dump = find_pg_dump()
    if pg_dump is None:
        pytest.skip("no pg_dump on this machine")
    variables = {"DATABASE_URL": plain, "OAUTHVAULT_MIGRATION_DATABASE_URL": owner}
    assert run(tmp_path, "init", **variables, **LOGIN).returncode == 0
    dump = tmp_path / "dump.sql"
    with fresh_database(superuser) as restored:
        for command in (
            [pg_dump, "--schema=oauthvault", f"--file={dump}", superuser],
            [
                str(Path(pg_dump).with_name("psql")),
                *("--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", f"--file={dump}", restored),
            ],
        ):
            done = subprocess.run(
                command,
                env=clean_environment(),
                capture_output=True,
                text=True,
                timeout=240,
                check=False,
            )
            assert done.returncode == 0, done.stderr
        moved = urlsplit(plain)._replace(path=urlsplit(restored).path)
        with psycopg.connect(urlunsplit(moved)) as connection:
            assert len(connection.execute(LOOK).fetchall()) == 1
            found = connection.execute("SELECT * FROM oauthvault.claude_oauth_tokens")
            assert found.fetchall() == []
            assert connection.execute(
                "SELECT DISTINCT pg_get_userbyid(proowner), "
                "has_function_privilege('public', oid, 'EXECUTE') FROM pg_proc WHERE prosecdef "
                "AND pronamespace = 'oauthvault'::regnamespace"
            ).fetchall() == [(urlsplit(owner).username, False)]
