"""`oauthvault up`: the real tree of processes, from an empty data directory."""

import fcntl
import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from oauthvault.tether import group_lives
from tests.ports import free_port
from tests.processes import process_groups
from tests.simulator import Simulator

pytestmark = pytest.mark.system

OAUTHVAULT = [sys.executable, "-m", "oauthvault.cli"]


class Vault:
    """One `oauthvault up` on a data directory, listening on a port of its own."""

    def __init__(self, data: Path, port: int, **environment: str) -> None:
        self.data = data
        self.environment = {
            **{name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ},
            "OAUTHVAULT_DATA_DIR": str(data),
            "OAUTHVAULT_PORT": str(port),
            **environment,
        }
        self.base = f"http://127.0.0.1:{port}"
        self._log = data.parent / f"up-{time.monotonic_ns()}.log"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [*OAUTHVAULT, "up"], env=self.environment, stdout=log, stderr=subprocess.STDOUT
            )
        self.groups: list[int] = []

    def output(self) -> str:
        return self._log.read_text()

    def says(self, pattern: str) -> bool:
        return re.search(pattern, self.output(), re.MULTILINE) is not None

    def wait_until_ready(self) -> None:
        """Wait for the banner, and for worker and beat; remember every process group."""
        for pattern in (r"is ready after", r"^worker \| .* ready", r"^beat   \| .*[Ss]tarting"):
            until(lambda pattern=pattern: self.says(pattern) or self.process.poll() is not None)
            assert self.says(pattern), self.output()
        self.groups = process_groups(self.process.pid)
        assert len(self.groups) >= 6  # three watchers, three programs

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(self.base + path, timeout=60) as answer:
            return json.load(answer)

    def run(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [*OAUTHVAULT, *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=240,
        )

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(timeout=60)

    def nothing_is_left(self) -> bool:
        return not any(group_lives(group) for group in self.groups)


def until(holds: Callable[[], bool], seconds: float = 240.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def up(tmp_path: Path, port: int) -> Iterator[Callable[..., Vault]]:
    vaults: list[Vault] = []

    def start(**environment: str) -> Vault:
        vaults.append(Vault(tmp_path / "data", port, **environment))
        return vaults[-1]

    yield start
    for vault in vaults:
        vault.process.kill()
        vault.process.wait()
        until(vault.nothing_is_left)


def test_an_empty_directory_becomes_a_vault_that_answers(up: Callable[..., Vault]) -> None:
    vault = up()
    vault.wait_until_ready()

    health = vault.get("/auth/claude/health")

    assert health["status"] in {"healthy", "degraded"}
    assert health["oauth_configured"] is False
    assert vault.data.stat().st_mode & 0o777 == 0o700
    for address in ("/auth/claude/health", "/admin/"):
        assert vault.base + address in vault.output()


def test_the_worker_is_heard_of_while_it_runs_and_leaves_nothing_behind(
    up: Callable[..., Vault],
) -> None:
    vault = up()
    vault.wait_until_ready()

    def workers() -> list[str]:
        with closing(sqlite3.connect(vault.data / "oauthvault.sqlite3")) as database:
            return [
                part
                for (part,) in database.execute(
                    "SELECT part FROM tokens_heartbeat WHERE part LIKE 'worker %'"
                )
            ]

    until(lambda: len(workers()) == 1)
    vault.stop()
    assert workers() == []


def test_ctrl_c_ends_everything_within_ten_seconds(up: Callable[..., Vault]) -> None:
    """Where it starts within ten, too: a machine that is busy is busy for both."""
    began = time.monotonic()
    vault = up()
    vault.wait_until_ready()
    ready = time.monotonic()

    assert vault.stop(signal.SIGINT) == 0

    assert time.monotonic() - ready < max(10, ready - began)
    until(vault.nothing_is_left)
    assert "Traceback" not in vault.output()


def test_kill_9_leaves_no_process_and_the_next_start_is_as_any(up: Callable[..., Vault]) -> None:
    first = up()
    first.wait_until_ready()

    first.stop(signal.SIGKILL)
    second = up()  # At once, while the programs of the first one are still ending.

    until(first.nothing_is_left)
    second.wait_until_ready()
    assert second.get("/auth/claude/health")["status"] in {"healthy", "degraded"}


def test_a_second_start_keeps_keys_and_data_and_is_quicker(up: Callable[..., Vault]) -> None:
    vault = up()
    vault.wait_until_ready()
    vault.stop()
    kept = {file.name: file.read_bytes() for file in vault.data.glob("*.key")}
    assert kept

    again = up()
    again.wait_until_ready()

    assert {file.name: file.read_bytes() for file in vault.data.glob("*.key")} == kept


def test_what_a_crash_leaves_of_the_schedule_is_no_hindrance(up: Callable[..., Vault]) -> None:
    vault = up()
    vault.wait_until_ready()
    vault.stop()
    for name in {"beat-schedule", *(file.name for file in vault.data.glob("beat-schedule*"))}:
        (vault.data / name).write_bytes(b"half a page of no")
    (vault.data / "celerybeat.pid").write_text("1")

    again = up(CLAUDE_OAUTH_REFRESH_THRESHOLD="2")
    again.wait_until_ready()

    until(lambda: again.get("/auth/claude/health")["checks"]["scheduler"] == "ok")
    assert not again.says(r"^up     \| beat ended")


def test_a_second_vault_on_the_same_data_is_refused(up: Callable[..., Vault]) -> None:
    vault = up()
    vault.wait_until_ready()

    second = vault.run("up")

    assert second.returncode == 1
    assert f"another `oauthvault up` (process {vault.process.pid}) is running" in second.stderr
    assert len(second.stderr.splitlines()) == 1


def test_a_used_port_is_named_before_anything_starts(up: Callable[..., Vault], port: int) -> None:
    with socket.create_server(("127.0.0.1", port)):
        vault = up()
        assert vault.process.wait(timeout=90) == 1

    assert f"port {port} on 127.0.0.1 is in use" in vault.output()
    assert len(vault.output().splitlines()) == 1
    assert not list(vault.data.glob("*.sqlite3"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_refresh_under_way_is_saved_before_the_end(
    up: Callable[..., Vault], number: signal.Signals
) -> None:
    with Simulator() as anthropic:
        login = anthropic.new_login("alice", expires_in=5)
        anthropic.fault("slow", seconds=4)
        vault = up(
            CLAUDE_ACCESS_TOKEN=login.access_token,
            CLAUDE_REFRESH_TOKEN=login.refresh_token,
            CLAUDE_EXPIRES_AT=str(int(time.time()) + 5),
            CLAUDE_OAUTH_TOKEN_URL=f"{anthropic.url}/v1/oauth/token",
            CLAUDE_OAUTH_REFRESH_THRESHOLD="4",
        )
        vault.wait_until_ready()
        until(lambda: anthropic.counts.token_calls > 0)

        vault.stop(number)
        until(vault.nothing_is_left)

        assert anthropic.counts.token_calls == 1
        status = vault.run("status", "--tenant", "default", "--user", "default", "--json")
        assert json.loads(status.stdout)["refresh_count"] == 1


def test_help_says_what_it_does(tmp_path: Path) -> None:
    answer = subprocess.run(
        [*OAUTHVAULT, "up", "--help"],
        env={"PATH": os.environ["PATH"], "OAUTHVAULT_DATA_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert answer.returncode == 0
    for word in ("OAUTHVAULT_PORT", "Ctrl-C", "worker", "scheduler"):
        assert word in " ".join(answer.stdout.split())


def test_the_lock_ends_with_the_last_process(up: Callable[..., Vault]) -> None:
    vault = up()
    vault.wait_until_ready()

    vault.stop()

    with (vault.data / "up.lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
