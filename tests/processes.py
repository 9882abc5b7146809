"""The real programs, in processes, folders and databases of their own."""

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import httpx
import psycopg
import pytest
from psycopg import sql

from oauthvault.env import child_environment
from tests.ports import free_port
from tests.servers import as_role

_OURS = ("CLAUDE_", "OAUTHVAULT_", "DATABASE_", "REDIS_", "DJANGO_", "TESTS_")


def clean_environment(**variables: str) -> dict[str, str]:
    """The environment without anything that speaks to the vault, and then ``variables``."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
    return kept | variables


def oauthvault(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run one command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "oauthvault.cli", *arguments],
        env=clean_environment(**variables),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def database_url() -> str | None:
    """The PostgreSQL of this pass, as its superuser; None in the SQLite pass."""
    return child_environment().get("OAUTHVAULT_MIGRATION_DATABASE_URL")


def two_roles(url: str) -> dict[str, str]:
    """The variables of a vault on this database: its superuser migrates, a plain role serves."""
    plain = as_role(url, child_environment()["DATABASE_URL"])
    return {"DATABASE_URL": plain, "OAUTHVAULT_MIGRATION_DATABASE_URL": url}


def redis_url() -> str | None:
    return child_environment().get("REDIS_URL")


@contextmanager
def fresh_database(admin_url: str, *, owner: str | None = None) -> Iterator[str]:
    """The address, for the superuser, of an empty database that is dropped afterwards."""
    name = f"vault_{secrets.token_hex(4)}"
    with psycopg.connect(admin_url, autocommit=True) as admin:
        statement = sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name))
        if owner is not None:
            statement += sql.SQL(" OWNER {}").format(sql.Identifier(owner))
        admin.execute(statement)
        try:
            yield urlunsplit(urlsplit(admin_url)._replace(path=f"/{name}"))
        finally:
            admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@contextmanager
def own_stores() -> Iterator[dict[str, str]]:
    """The variables of a vault with stores of its own, of this pass's kind: an empty database
    with its two roles, and Redis. Nothing in the SQLite pass, whose stores are files."""
    url = database_url()
    if url is None:
        yield {}
        return
    with fresh_database(url) as fresh:
        yield two_roles(fresh) | {"REDIS_URL": redis_url() or ""}


def process_groups(ancestor: int) -> list[int]:
    """The process groups of everything that descends from a process, without its own."""
    listing = subprocess.run(
        ["ps", "-axo", "pid=,ppid=,pgid="], capture_output=True, text=True, check=True
    )
    rows = [tuple(map(int, line.split())) for line in listing.stdout.splitlines()]
    family, groups = {ancestor}, set()
    grown = True
    while grown:
        grown = False
        for pid, parent, group in rows:
            if parent in family and pid not in family:
                family.add(pid)
                groups.add(group)
                grown = True
    return sorted(groups - {os.getpgid(ancestor)})


@contextmanager
def web_processes(folder: Path, count: int = 1, **variables: str) -> Iterator[list[str]]:
    """Initialise a vault and serve it by ``count`` processes; yields their addresses.

    What they print goes to ``folder``/web-N.log.
    """
    done = oauthvault("init", **variables)
    assert done.returncode == 0, done.stderr
    with ExitStack() as stack:
        addresses = [
            stack.enter_context(_served(folder / f"web-{number}.log", variables))
            for number in range(count)
        ]
        yield addresses


@contextmanager
def _served(log_path: Path, variables: dict[str, str]) -> Iterator[str]:
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "oauthvault.cli", "web"],
            env=clean_environment(**variables, OAUTHVAULT_PORT=str(port)),
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        _wait_until_alive(address, process, log_path)
        yield address
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            pytest.fail(f"did not end on SIGTERM: {log_path.read_text()}")


def _wait_until_alive(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    ends = time.monotonic() + 240
    while time.monotonic() < ends:
        assert process.poll() is None, log.read_text()
        try:
            if httpx.get(f"{address}/livez", timeout=2).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.05)
    pytest.fail(f"never answered: {log.read_text()}")
