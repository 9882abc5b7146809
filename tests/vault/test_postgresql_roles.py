"""One role owns and migrates, another serves; and everything lies in one schema."""

import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
from psycopg import sql

from oauthvault.env import child_environment

pytestmark = [pytest.mark.system, pytest.mark.postgres_too]

ADMIN_URL = child_environment().get("DATABASE_URL", "")


@pytest.fixture
def roles() -> Iterator[tuple[str, str, str]]:
    """Addresses of a fresh database for its owner, for a plain role, and for a superuser."""
    if not ADMIN_URL.startswith("postgres"):
        pytest.skip("needs PostgreSQL; runs in the PostgreSQL pass")
    tag, password = secrets.token_hex(4), secrets.token_hex(8)
    database, owner, plain = f"vault_{tag}", f"owner_{tag}", f"plain_{tag}"
    with psycopg.connect(ADMIN_URL, autocommit=True) as admin:
        for role in (owner, plain):
            admin.execute(
                sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(
                    sql.Identifier(role), sql.Literal(password)
                )
            )
        admin.execute(
            sql.SQL("CREATE DATABASE {} OWNER {}").format(
                sql.Identifier(database), sql.Identifier(owner)
            )
        )
        parts = urlsplit(ADMIN_URL)
        where = parts.netloc.rpartition("@")[2]

        def address(role: str) -> str:
            netloc = f"{role}:{password}@{where}"
            return urlunsplit(parts._replace(netloc=netloc, path=f"/{database}"))

        try:
            yield (
                address(owner),
                address(plain),
                urlunsplit(parts._replace(path=f"/{database}")),
            )
        finally:
            admin.execute(
                sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(database))
            )
            for role in (owner, plain):
                admin.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))


def run(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("CLAUDE_", "OAUTHVAULT_", "DATABASE_", "REDIS_", "DJANGO_"))
    }
    return subprocess.run(
        [sys.executable, "-m", "oauthvault.cli", *arguments],
        env=environment | {"OAUTHVAULT_DATA_DIR": str(folder)} | variables,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )


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
    done = run(
        tmp_path, "init", DATABASE_URL=superuser, OAUTHVAULT_MIGRATION_DATABASE_URL=owner
    )
    assert done.returncode == 1
    assert "row-level security" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_two_that_migrate_at_once_take_turns(
    roles: tuple[str, str, str], tmp_path: Path
) -> None:
    owner, _, _ = roles
    environment = os.environ | {"DATABASE_URL": owner, "OAUTHVAULT_DATA_DIR": str(tmp_path)}
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
