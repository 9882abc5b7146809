"""What the vault's own servers can do to it: go away, come back, disagree about the time.

Real processes of the vault on a PostgreSQL and a Redis that are this module's alone.
"""

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import httpx
import psycopg
import pytest
import redis

from tests import servers
from tests.ports import free_port
from tests.processes import clean_environment, database_url, oauthvault
from tests.simulator import Login, Simulator

pytestmark = [
    pytest.mark.system,
    pytest.mark.postgres_too,
    # Of the first test, which starts the servers as well.
    pytest.mark.timeout(1200),
    pytest.mark.skipif(database_url() is None, reason="needs PostgreSQL and Redis"),
]

SERVICE_KEY = "ovs_" + "k" * 43
CALLERS = 100


@pytest.fixture(scope="module")
def ours() -> Iterator[servers.Servers]:
    """Servers that this module may stop."""
    with servers.running() as started:
        if started.database_url is None or started.redis_url is None:
            pytest.skip(f"{started.why_no_database} {started.why_no_redis}")
        yield started


@pytest.fixture(scope="module")
def service_url(ours: servers.Servers) -> Iterator[str]:
    with servers.service_role(str(ours.database_url)) as url:
        yield url


@pytest.fixture(scope="module")
def pattern(
    ours: servers.Servers, service_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The data directory of a vault that was initialised and never used; its database is
    the one that the servers came with."""
    folder = tmp_path_factory.mktemp("pattern")
    done = oauthvault(
        "init",
        DATABASE_URL=service_url,
        OAUTHVAULT_MIGRATION_DATABASE_URL=str(ours.database_url),
        OAUTHVAULT_DATA_DIR=str(folder),
        OAUTHVAULT_SERVICE_KEY=SERVICE_KEY,
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def upstream() -> Iterator[Simulator]:
    with Simulator() as simulator:
        yield simulator


class Part:
    """One program of a vault, and what it prints."""

    def __init__(self, log: Path, environment: dict[str, str], *command: str) -> None:
        self._log = log
        self._client = httpx.Client(
            base_url=f"http://127.0.0.1:{environment['OAUTHVAULT_PORT']}",
            headers={"Authorization": f"Bearer {SERVICE_KEY}"},
            limits=httpx.Limits(max_keepalive_connections=0),
            timeout=60,
        )
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "oauthvault.cli", *command],
                env=environment,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def output(self) -> str:
        return self._log.read_text(errors="replace")

    def says(self, words: str) -> bool:
        assert self.process.poll() is None, self.output()
        return words in self.output()

    def is_alive(self) -> bool:
        assert self.process.poll() is None, self.output()
        try:
            return self._client.get("/livez").status_code == 200
        except httpx.TransportError:
            return False

    def get(self, **headers: str) -> httpx.Response:
        """Ask for the token of the user ``default``."""
        return self._client.get("/auth/claude/token", headers=headers)

    def begin_refresh(self) -> None:
        """Ask for it past its end, and do not wait."""
        answer = self.get(Prefer="wait=0")
        assert answer.json().get("code") == "refresh_in_progress", answer.text

    def hands_out(self, token: str) -> bool:
        answer = self.get()
        return answer.status_code == 200 and answer.json()["access_token"] == token

    def put(self, login: Login) -> None:
        stored = self._client.put("/auth/claude/token", json=login.credentials_file())
        assert stored.status_code in (200, 201), stored.text

    def health(self) -> dict[str, Any]:
        answer: dict[str, Any] = self._client.get("/auth/claude/health").json()
        return answer

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        """As the kernel does when memory runs out: with all that it has started."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def ends(self) -> bool:
        """Whether it ends by itself, having been told to."""
        self._client.close()
        try:
            self.process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self.kill()
            return False
        return True


class Vault:
    """A vault of a test's own: its data directory, its database, its parts."""

    def __init__(
        self, folder: Path, database: str, service_url: str, redis_url: str | None, **more: str
    ) -> None:
        self.folder, self.database = folder, database
        self.environment = clean_environment(
            OAUTHVAULT_DATA_DIR=str(folder / "data"),
            DATABASE_URL=servers.as_role(database, service_url),
            OAUTHVAULT_MIGRATION_DATABASE_URL=database,
            OAUTHVAULT_SERVICE_KEY=SERVICE_KEY,
            OAUTHVAULT_WEB_WORKERS="1",
            **({} if redis_url is None else {"REDIS_URL": redis_url}),
            **more,
        )
        self.parts: list[Part] = []

    def start(self, *command: str, **more: str) -> Part:
        environment = self.environment | {"OAUTHVAULT_PORT": str(free_port())} | more
        log = self.folder / f"{len(self.parts)}-{command[0]}.log"
        self.parts.append(Part(log, environment, *command))
        return self.parts[-1]

    def web(self) -> Part:
        (part,) = self.webs({})
        return part

    def webs(self, *environments: dict[str, str]) -> list[Part]:
        """So many web processes, each with its own variables beside those of all."""
        parts = [self.start("web", **more) for more in environments]
        for part in parts:
            until(part.is_alive, part.output)
        return parts

    def worker(self) -> Part:
        part = self.start("worker")
        until(lambda: part.says(" ready"), part.output)
        return part

    def ask(self, query: str) -> Any:
        """One value out of the database."""
        with psycopg.connect(self.database, autocommit=True) as connection:
            row = connection.execute(query.encode()).fetchone()
        return row[0] if row else None

    def do(self, statement: str) -> None:
        with psycopg.connect(self.database, autocommit=True) as connection:
            connection.execute(statement.encode())

    def rows(self, query: str) -> list[list[Any]]:
        with psycopg.connect(self.database, autocommit=True) as connection:
            return [list(row) for row in connection.execute(query.encode())]

    def refreshes(self) -> int:
        return int(self.ask("SELECT sum(refresh_count) FROM oauthvault.claude_oauth_tokens"))

    def epoch(self) -> int:
        return int(self.ask("SELECT max(epoch) FROM oauthvault.tokens_deployment") or 0)

    def run(self, *command: str) -> None:
        """One command to its end."""
        part = self.start(*command)
        assert part.process.wait(timeout=120) == 0, part.output()

    def hold(self, upstream: Simulator, count: int, *, expires_in: float) -> None:
        """Store the logins of so many users."""
        lines = []
        for number in range(count):
            file = upstream.new_login(f"user{number}", expires_in=expires_in).credentials_file()
            lines.append(json.dumps(file["claudeAiOauth"] | {"user_id": f"user{number}"}))
        users = self.folder / "users.jsonl"
        users.write_text("\n".join(lines))
        self.run("import_credentials", str(users), "--tenant", "default")

    def another_data_dir(self, number: int) -> Path:
        """Another machine's: the same keys, and nothing else."""
        return Path(shutil.copytree(self.folder / "data", self.folder / f"data{number}"))

    def spooled(self) -> int:
        """How many answers lie in the spool, wherever."""
        kept = 0
        if url := self.environment.get("REDIS_URL"):
            with redis.Redis.from_url(url) as client:
                kept = sum(int(client.hlen(name)) for name in client.keys("oauthvault:*:spool"))  # type: ignore[union-attr, arg-type]
        return kept + len(self.files_in_spool())

    def files_in_spool(self) -> list[Path]:
        return list((self.folder / "data" / "spool").glob("[!.]*"))


MakeVault = Callable[..., Vault]


@pytest.fixture
def vault(
    ours: servers.Servers, service_url: str, pattern: Path, upstream: Simulator, tmp_path: Path
) -> Iterator[MakeVault]:
    """Make a vault: `vault(has_redis=False, CLAUDE_OAUTH_REFRESH_THRESHOLD="2")`."""
    made: list[Vault] = []

    def _vault(*, has_redis: bool = True, **more: str) -> Vault:
        assert not made
        shutil.copytree(pattern, tmp_path / "data")
        made.append(
            Vault(
                tmp_path,
                copy_of_database(str(ours.database_url)),
                service_url,
                ours.redis_url if has_redis else None,
                CLAUDE_OAUTH_TOKEN_URL=upstream.token_url,
                **more,
            )
        )
        return made[0]

    with redis.Redis.from_url(str(ours.redis_url)) as client:
        client.flushall()
    yield _vault
    parts = made[0].parts if made else []
    for part in parts:
        part.process.terminate()
    assert [part.output() for part in parts if not part.ends()] == []


def copy_of_database(url: str) -> str:
    """The address of a copy, which goes when the server does."""
    name = f"vault_{secrets.token_hex(4)}"
    where = urlsplit(url)
    with psycopg.connect(urlunsplit(where._replace(path="/postgres")), autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name} TEMPLATE oauthvault".encode())
    return urlunsplit(where._replace(path=f"/{name}"))


def until(
    holds: Callable[[], bool], explain: Callable[[], object] = str, seconds: float = 240.0
) -> None:
    ends = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < ends, explain()
        time.sleep(0.1)


def assert_spent_once(upstream: Simulator) -> None:
    counts = upstream.counts
    assert (counts.token_calls, counts.refreshed, counts.reuse) == (1, 1, 0)


# --- The database stops --------------------------------------------------------------------


@pytest.mark.parametrize("has_redis", [True, False], ids=["redis", "file"])
def test_an_answer_lies_in_the_spool_while_the_database_is_away_and_comes_home_by_itself(
    vault: MakeVault, ours: servers.Servers, upstream: Simulator, has_redis: bool
) -> None:
    ready = vault(has_redis=has_redis)
    web = ready.web()
    web.put(upstream.new_login("default", expires_in=-60))
    with upstream.holding():
        web.begin_refresh()
        until(lambda: upstream.counts.refreshed == 1)
        with servers.away(ours, "database"):
            upstream.let_go()
            until(lambda: ready.spooled() == 1, web.output)
            assert len(ready.files_in_spool()) == (0 if has_redis else 1)
            health = web.health()
            assert health["status"] == "unhealthy"
            assert health["checks"]["database"] != "ok"
            assert health["checks"]["spool"] != "ok"
            assert web.is_alive()
    until(lambda: ready.refreshes() == 1, web.output)
    until(lambda: ready.spooled() == 0, web.output)
    until(lambda: web.hands_out(upstream.current_login("default").access_token), web.output)
    assert web.health()["checks"]["spool"] == "ok"
    assert_spent_once(upstream)


@pytest.mark.parametrize("has_redis", [True, False], ids=["redis", "file"])
def test_a_process_that_is_killed_while_its_answer_lies_in_the_spool_is_no_loss(
    vault: MakeVault, ours: servers.Servers, upstream: Simulator, has_redis: bool
) -> None:
    ready = vault(has_redis=has_redis)
    web = ready.web()
    web.put(upstream.new_login("default", expires_in=-60))
    with upstream.holding():
        web.begin_refresh()
        until(lambda: upstream.counts.refreshed == 1)
        with servers.away(ours, "database"):
            upstream.let_go()
            until(lambda: ready.spooled() == 1, web.output)
            web.kill()
    if has_redis:
        # A sweep brings home what any process left.
        next_one = ready.worker()
        ready.start("beat")
    else:
        # And a process of the same machine looks after its files by itself.
        next_one = ready.web()
    until(lambda: ready.refreshes() == 1, next_one.output)
    until(lambda: ready.spooled() == 0, next_one.output)
    assert_spent_once(upstream)


# --- Redis is lost -------------------------------------------------------------------------


def test_redis_may_be_lost_and_come_back_empty_and_nothing_is_restarted(
    vault: MakeVault, ours: servers.Servers, upstream: Simulator
) -> None:
    ready = vault(CLAUDE_OAUTH_REFRESH_THRESHOLD="2")
    web, worker = ready.web(), ready.worker()
    beat = ready.start("beat")
    web.put(upstream.new_login("default", expires_in=3600))
    until(lambda: ready.epoch() > 0, worker.output)
    with servers.away(ours, "redis", killed=True):
        assert web.hands_out(upstream.current_login("default").access_token)
        web.put(upstream.new_login("default", expires_in=-10))
        answer = web.get()
        assert answer.status_code == 200, answer.text
        assert answer.json()["access_token"] == upstream.current_login("default").access_token
        assert_spent_once(upstream)
    swept = ready.epoch()
    web.put(upstream.new_login("default", expires_in=5))
    until(lambda: upstream.counts.refreshed == 2, worker.output, seconds=60)
    until(lambda: ready.refreshes() == 2, worker.output)
    assert ready.epoch() > swept
    assert upstream.counts.reuse == 0
    for part in (web, worker, beat):
        assert part.process.poll() is None, part.output()
    assert ready.ask("SELECT quarantined_at FROM oauthvault.tokens_deployment") is None


# --- Processes disagree about the time -----------------------------------------------------


@pytest.fixture
def skewed(tmp_path: Path) -> Callable[[int], dict[str, str]]:
    """The environment of a process whose clock is so many seconds ahead."""
    library = servers.find_faketime()
    if library is None:
        say = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
        say("libfaketime is not installed: apt install libfaketime")
    (tmp_path / "sitecustomize.py").write_text(SLEEP)
    return lambda seconds: {
        "LD_PRELOAD": library,
        "FAKETIME": f"{seconds:+d}s",
        # A clock that is wrong, and not one that runs at another speed.
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]),
    }


# What Python sleeps by since 3.11, libfaketime answers with EINVAL.
SLEEP = """
import select, time
time.sleep = lambda seconds: select.select([], [], [], seconds) and None
"""


def test_clocks_that_are_ten_minutes_off_cost_nobody_anything(
    vault: MakeVault, upstream: Simulator, skewed: Callable[[int], dict[str, str]]
) -> None:
    ready = vault()
    webs = ready.webs(skewed(-600), skewed(600))
    # Five minutes of life: to the one it seems to be over, to the other it never ends.
    living = upstream.new_login("default", expires_in=300)
    webs[0].put(living)
    assert all(web.hands_out(living.access_token) for web in webs)
    assert upstream.counts.token_calls == 0

    webs[1].put(upstream.new_login("default", expires_in=-10))
    upstream.latency_ms = 300
    with ThreadPoolExecutor(CALLERS) as pool:
        handed = list(pool.map(lambda n: fetch(webs[n % 2]), range(CALLERS)))
    assert set(handed) == {upstream.current_login("default").access_token}
    assert_spent_once(upstream)
    assert ready.ask("SELECT expires_at FROM oauthvault.claude_oauth_tokens") == pytest.approx(
        upstream.current_login("default").expires_at, abs=10
    )

    # A date is one by the clock of the server that names it.
    for web, other in (webs, reversed(webs)):
        ready.do("DELETE FROM oauthvault.tokens_upstream")
        web.put(upstream.new_login("default", expires_in=-10))
        upstream.reset_counts()
        upstream.fault("rate_limited", retry_after=200, retry_after_as_date=True)
        for asked in (web, other, web):
            answer = asked.get()
            assert answer.json()["code"] == "upstream_rate_limited"
            assert 170 <= int(answer.headers["Retry-After"]) <= 210
        assert upstream.counts.token_calls == 1


def fetch(web: Part) -> str:
    """What a caller does who follows Retry-After, for a minute and a half at most."""
    ends = time.monotonic() + 90
    while True:
        answer = web.get()
        if answer.status_code == 200:
            return str(answer.json()["access_token"])
        assert answer.json()["code"] == "refresh_in_progress", answer.text
        assert time.monotonic() < ends, "went without"
        time.sleep(int(answer.headers["Retry-After"]))


# --- The worker and its broker -------------------------------------------------------------

SWEEP = "from tokens.tasks import sweep; sweep()"
PUBLISH = """
import json, sys
from oauthvault.celery import app
for message in json.loads(r'{messages}'):
    app.send_task("tokens.refresh_credentials", args=[message])
"""


def test_a_worker_that_is_told_to_end_saves_what_is_under_way_and_claims_nothing_new(
    vault: MakeVault, upstream: Simulator
) -> None:
    ready = vault(OAUTHVAULT_WORKER_CONCURRENCY="2")
    ready.hold(upstream, 20, expires_in=60)
    worker = ready.worker()
    with upstream.holding():
        ready.run("shell", "-c", SWEEP)
        until(lambda: upstream.counts.refreshed == 2, worker.output)
        worker.signal(signal.SIGTERM)
        until(lambda: worker.says("Warm shutdown"), worker.output)
    assert worker.process.wait(timeout=90) == 0, worker.output()
    assert (upstream.counts.token_calls, upstream.counts.refreshed) == (2, 2)
    assert ready.refreshes() == 2
    assert ready.ask("SELECT count(*) FROM oauthvault.tokens_refreshattempt") == 2
    assert not ready.ask(
        "SELECT count(*) FROM oauthvault.claude_oauth_tokens WHERE lease_id IS NOT NULL"
    )


def test_messages_that_come_twice_and_late_refresh_nothing_twice(
    vault: MakeVault, upstream: Simulator
) -> None:
    """Two schedulers, two workers, and a broker that delivers everything again."""
    ready = vault(CLAUDE_OAUTH_REFRESH_THRESHOLD="2", OAUTHVAULT_WORKER_CONCURRENCY="4")
    ready.hold(upstream, 12, expires_in=2)
    upstream.latency_ms = 200
    due = ready.rows("SELECT tenant_id, id, generation FROM oauthvault.claude_oauth_tokens")
    worker, _ = ready.start("worker"), ready.start("worker")
    for number in range(2):
        ready.start("beat", OAUTHVAULT_DATA_DIR=str(ready.another_data_dir(number)))
    until(lambda: ready.refreshes() == 12, worker.output)
    late = json.dumps([due, due, *([each] for each in due)])
    ready.run("shell", "-c", PUBLISH.format(messages=late))
    with redis.Redis.from_url(ready.environment["REDIS_URL"]) as broker:
        until(lambda: broker.llen("oauthvault") == 0, worker.output)
    swept = ready.epoch()
    until(lambda: ready.epoch() >= swept + 2, worker.output)
    assert (upstream.counts.token_calls, upstream.counts.refreshed) == (12, 12)
    assert upstream.counts.reuse == 0
    assert ready.ask("SELECT count(*) FROM oauthvault.tokens_refreshattempt") == 12
    assert ready.refreshes() == 12
