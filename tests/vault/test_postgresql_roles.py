"""One role owns and migrates, another serves; and everything lies in one schema."""

import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
from psycopg import sql

from tests.processes import clean_environment, database_url, fresh_database, oauthvault

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
        _, errors = process.communicate(timeout=90)
        assert process.returncode == 0, errors
