"""The servers that `make test` starts are real, private, and gone afterwards."""

import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest
import redis

from tests import servers

pytestmark = pytest.mark.system

# Starts the servers, says where, and stays until it is killed.
RUN = """
import signal
from tests import servers
with servers.running() as ours:
    print(ours.database_url, ours.redis_url, flush=True)
    signal.pause()
"""


def home_of(database_url: str) -> Path:
    """The folder in which the keeper of that server keeps everything."""
    with psycopg.connect(database_url) as connection:
        row = connection.execute("SHOW data_directory").fetchone()
    assert row is not None
    return Path(row[0]).parent.parent


def answers(url: str) -> bool:
    try:
        return bool(servers.server_version(url))
    except servers.NoAnswer:
        return False


def until(holds: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


@pytest.fixture(scope="module", autouse=True)
def _both_can_be_started() -> None:
    with servers.running() as ours:
        if ours.database_url is None or ours.redis_url is None:
            pytest.skip(f"{ours.why_no_database} {ours.why_no_redis}")


def test_both_servers_answer_and_are_removed_after_the_block() -> None:
    with servers.running() as ours:
        assert ours.database_url is not None
        assert ours.redis_url is not None
        with psycopg.connect(ours.database_url) as connection:
            assert connection.execute("SHOW server_encoding").fetchone() == ("UTF8",)
            assert connection.execute("SHOW max_connections").fetchone() == ("200",)
        with redis.Redis.from_url(ours.redis_url) as client:
            assert client.ping()

    assert not answers(ours.database_url)
    assert not answers(ours.redis_url)


def test_they_listen_on_the_loopback_below_the_ephemeral_ports() -> None:
    with servers.running() as ours:
        for url in (ours.database_url, ours.redis_url):
            where = urlsplit(url or "")
            assert where.hostname == "127.0.0.1"
            assert where.port is not None
            assert where.port < 32_768


def test_the_database_does_not_open_without_its_password() -> None:
    with servers.running(redis=False) as ours:
        where = urlsplit(ours.database_url or "")
        with pytest.raises(psycopg.OperationalError, match="password"):
            psycopg.connect(f"postgresql://oauthvault:wrong@127.0.0.1:{where.port}/oauthvault")


def test_only_what_is_wanted_is_started() -> None:
    with servers.running(database=False) as ours:
        assert ours.database_url is None
        assert ours.redis_url is not None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_of_them_when_the_run_is_ended_by(number: signal.Signals) -> None:
    with subprocess.Popen([sys.executable, "-c", RUN], stdout=subprocess.PIPE, text=True) as run:
        try:
            assert run.stdout is not None
            database_url, redis_url = run.stdout.readline().split()
            home = home_of(database_url)
            assert home.name.startswith("oauthvault-servers-")

            run.send_signal(number)
            run.wait(timeout=60)
        finally:
            run.kill()

    until(lambda: not home.exists())
    assert not answers(database_url)
    assert not answers(redis_url)


def test_the_data_of_a_keeper_that_was_killed_is_removed_at_the_next_start() -> None:
    stale = Path(tempfile.mkdtemp(prefix="oauthvault-servers-"))
    (stale / "lock").touch()

    with servers.running(database=False):
        assert not stale.exists()
