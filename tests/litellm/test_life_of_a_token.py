"""A token from the vault to its end, on real proxies: refreshed, refused, out of reach, and never
another user's.

One proxy has two workers. The other one and its vault live in a time that the test moves:
libfaketime shows them (and `advance_clock` the simulator) a wall clock that is put forward between
the requests, while their monotonic clocks, and so their time-outs, run as ever.
"""

import json
import os
import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.litellm.processes import Proxy, Vault, hello, require_litellm, running, until
from tests.servers import find_faketime
from tests.simulator import Simulator

pytestmark = [pytest.mark.system, pytest.mark.timeout(1200)]

MASTER_KEY = f"sk-{secrets.token_urlsafe(24)}"
USERS = [f"user-{number:02}" for number in range(20)]

CONFIG = """
model_list:
  - model_name: claude
    litellm_params: {model: anthropic/claude-3-sonnet-20240229}
  - model_name: two
    litellm_params: {model: anthropic/claude-3-sonnet-20240229}
  - model_name: two
    litellm_params: {model: anthropic/claude-3-opus-20240229}
  - model_name: first
    litellm_params: {model: anthropic/claude-3-sonnet-20240229}
  - model_name: second
    litellm_params: {model: anthropic/claude-3-opus-20240229}

general_settings:
  master_key: os.environ/TEST_MASTER_KEY
  custom_auth: proxy_auth.user_api_key_auth
  custom_auth_run_common_checks: true

claude_oauth:
  multi_user: {enabled: true}
  cache_seconds: CACHE_SECONDS
  debug: true
  allowed_hosts: ["127.0.0.1"]

router_settings:
  fallbacks: [{first: [second]}]
  ROUTER

litellm_settings:
  callbacks: ["prometheus", "oauthvault_litellm.hook"]
  CACHE
"""

# Every way in: a path, and whether the answer comes as a stream.
WAYS = [
    (path, stream)
    for path in ("/chat/completions", "/v1/messages", "/v1/responses")
    for stream in (False, True)
]
every_way_in = pytest.mark.parametrize(("path", "stream"), WAYS)


@pytest.fixture(scope="module")
def anthropic() -> Iterator[Simulator]:
    require_litellm()
    with Simulator() as simulator:
        yield simulator


@pytest.fixture(autouse=True)
def _fresh_record(anthropic: Simulator) -> None:
    anthropic.clear_faults()
    anthropic.reset_counts()


class Team:
    """A vault with a tenant, and the tenant's proxy."""

    def __init__(self, vault: Vault, key: str, proxy: Proxy, anthropic: Simulator) -> None:
        self.vault, self.key, self.proxy, self.anthropic = vault, key, proxy, anthropic
        self._post = httpx.post

    @contextmanager
    def at_one_worker(self) -> Iterator["Team"]:
        """The same, with one connection for all requests: the same worker answers them."""
        with httpx.Client(limits=httpx.Limits(max_connections=1)) as client:
            same = Team(self.vault, self.key, self.proxy, self.anthropic)
            same._post = client.post
            yield same

    def has(self, user: str, expires_in: float = 3600) -> str:
        """A user with a login in the vault; what they are called."""
        login = self.anthropic.new_login(user, expires_in=expires_in)
        self.vault.store(self.key, user, login)
        return user

    def ask(
        self,
        user: str,
        path: str = "/chat/completions",
        stream: bool = False,
        model: str = "claude",
    ) -> httpx.Response:
        body: dict[str, Any] = hello(model)
        if path == "/v1/responses":
            body = {"model": model, "input": "Hello!"}
        return self._post(
            self.proxy.url + path,
            headers={"Authorization": f"Bearer sk-test-{user}"},
            json={**body, "stream": stream},
            timeout=60,
        )

    def hears(self, user: str, *way: Any, **more: Any) -> str:
        return heard(self.ask(user, *way, **more))


def heard(answer: httpx.Response) -> str:
    """What the answer says, whichever form it has."""
    assert answer.status_code == 200, answer.text
    if not answer.headers["content-type"].startswith("text/event-stream"):
        whole = answer.json()
        if "choices" in whole:
            text: str = whole["choices"][0]["message"]["content"]
        elif "output" in whole:
            text = whole["output"][0]["content"][0]["text"]
        else:
            text = whole["content"][0]["text"]
        return text
    pieces = []
    for line in answer.text.splitlines():
        if not line.startswith("data: ") or line == "data: [DONE]":
            continue
        event = json.loads(line.removeprefix("data: "))
        if event.get("choices"):
            pieces.append(event["choices"][0]["delta"].get("content") or "")
        elif event.get("type") == "content_block_delta":
            pieces.append(event["delta"]["text"])
        elif event.get("type") == "response.output_text.delta":
            pieces.append(event["delta"])
    assert pieces, answer.text
    return "".join(pieces)


@pytest.fixture(scope="module")
def workers(anthropic: Simulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    """Two workers, and LiteLLM's cache of answers on."""
    directory = tmp_path_factory.mktemp("workers")
    (counts := directory / "counts").mkdir()
    with running(Vault(directory, anthropic), "/auth/claude/health") as vault:
        key = vault.tenant("acme")
        proxy = Proxy(
            directory,
            CONFIG.replace("CACHE_SECONDS", "10")
            .replace("ROUTER", "cooldown_time: 60")
            .replace("CACHE", "cache: true\n  cache_params: {type: local}"),
            "--num_workers",
            "2",
            # On a busy machine importing LiteLLM takes longer than the five seconds after which
            # uvicorn ends a worker that does not speak.
            "--timeout_worker_healthcheck",
            "120",
            TEST_MASTER_KEY=MASTER_KEY,
            ANTHROPIC_API_BASE=anthropic.url,
            OAUTHVAULT_URL=vault.url,
            OAUTHVAULT_SERVICE_KEY=key,
            PROMETHEUS_MULTIPROC_DIR=str(counts),
        )
        with running(proxy, "/health/liveliness"):
            team = Team(vault, key, proxy, anthropic)
            for user in USERS:
                team.has(user)
            yield team


# --- Two workers --------------------------------------------------------------------------


def test_twenty_users_at_once_and_nobody_gets_the_answer_of_another(workers: Team) -> None:
    asked = [(USERS[n % 20], *WAYS[n // 20 % 6]) for n in range(200)]
    with ThreadPoolExecutor(16) as clients:
        answers = list(clients.map(lambda one: workers.hears(*one), asked))
    assert answers == [f"Hello from {user}" for user, _, _ in asked]


@every_way_in
def test_a_token_that_died_costs_one_refresh_and_no_client_an_error(
    workers: Team, anthropic: Simulator, path: str, stream: bool
) -> None:
    user = workers.has(f"victim-{WAYS.index((path, stream))}")
    workers.hears(user, path, stream)
    anthropic.kill_access_token(anthropic.current_login(user).access_token)
    with ThreadPoolExecutor(8) as clients:
        answers = list(clients.map(lambda _: workers.hears(user, path, stream), range(8)))
    assert set(answers) == {f"Hello from {user}"}
    assert anthropic.refreshes_of(user) == 1
    assert anthropic.counts_of(user).messages_401 > 0


def test_a_token_that_dies_on_the_way_of_a_fallback_is_replaced_too(
    workers: Team, anthropic: Simulator
) -> None:
    user = workers.has("victim-of-a-fallback")
    anthropic.fault("overloaded", on="messages", user=user, times=3)
    anthropic.kill_access_token(anthropic.current_login(user).access_token)
    assert workers.hears(user, model="first") == f"Hello from {user}"
    assert anthropic.refreshes_of(user) == 1


def test_the_failures_of_alice_do_not_weigh_when_one_of_bob_fails(
    workers: Team, anthropic: Simulator
) -> None:
    """LiteLLM lets a deployment rest when half of its requests of the minute have failed."""
    alice, bob = USERS[0], USERS[1]
    anthropic.fault("rate_limited", on="messages", user=alice, times=None, retry_after=0)
    with workers.at_one_worker() as worker:
        for _ in range(30):
            assert worker.ask(alice, model="two").status_code == 429
        for _ in range(2):
            anthropic.fault("server_error", on="messages", user=bob)
            assert worker.hears(bob, model="two") == f"Hello from {bob}"
        assert worker.hears(bob, model="two") == f"Hello from {bob}"


def test_a_refusal_on_the_way_of_a_fallback_does_not_reach_bob(workers: Team) -> None:
    with workers.at_one_worker() as worker:
        for _ in range(2):
            assert worker.ask("mallory", model="first").status_code == 401
            assert worker.hears("user-01", model="second") == "Hello from user-01"


def test_a_fallback_that_upstream_refuses_to_alice_is_not_refused_to_bob(
    workers: Team, anthropic: Simulator
) -> None:
    alice = workers.has("alice")
    anthropic.fault("overloaded", on="messages", user=alice, times=3)
    anthropic.fault("unauthorized", on="messages", user=alice, times=None)
    with workers.at_one_worker() as worker:
        assert worker.ask(alice, model="first").status_code != 200
        assert 401 in [one.status for one in anthropic.requests]
        assert worker.hears("user-01", model="second") == "Hello from user-01"


def test_the_proxy_shows_what_paid_and_names_nobody(workers: Team) -> None:
    workers.hears("user-00")
    assert workers.ask("mallory").status_code == 401
    shown = httpx.get(
        f"{workers.proxy.url}/metrics/",
        headers={"Authorization": f"Bearer {MASTER_KEY}"},
        timeout=30,
    ).text
    ours = [line for line in shown.splitlines() if line.startswith("oauthvault_litellm_")]
    counted = dict(line.rsplit(" ", 1) for line in ours)
    assert float(counted['oauthvault_litellm_requests_total{code="",paid_by="token"}']) > 0
    assert (
        float(counted['oauthvault_litellm_requests_total{code="no_token",paid_by="refused"}']) > 0
    )
    assert float(counted['oauthvault_litellm_tokens_served_total{source="vault"}']) > 0
    assert float(counted['oauthvault_litellm_vault_question_seconds_count{outcome="ok"}']) > 0
    assert counted["oauthvault_litellm_vault_circuit_open"] == "0.0"
    for name in ("user-0", "mallory", "sk-"):
        assert name not in "\n".join(ours)


# --- A time that the test moves -----------------------------------------------------------


class Clock:
    """The wall clock of the processes that were started with `environment`, and of Anthropic."""

    def __init__(self, directory: Path, anthropic: Simulator) -> None:
        library = find_faketime()
        if library is None:
            say = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
            say("libfaketime is not installed: apt install libfaketime")
        self._ahead = 0
        self._shown = directory / "faketimerc"
        self._anthropic = anthropic
        self.advance(0)
        # What Python sleeps by since 3.11, libfaketime answers with EINVAL.
        (directory / "sitecustomize.py").write_text(
            "import select, time\n"
            "time.sleep = lambda seconds: select.select([], [], [], seconds) and None\n"
        )
        self.environment = {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(self._shown),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "PYTHONPATH": str(directory),
        }

    def advance(self, seconds: int) -> None:
        self._ahead += seconds
        fresh = self._shown.with_suffix(".new")
        fresh.write_text(f"{self._ahead:+d}s\n")
        fresh.replace(self._shown)
        self._anthropic.advance_clock(seconds)


@pytest.fixture(scope="module")
def clock(anthropic: Simulator, tmp_path_factory: pytest.TempPathFactory) -> Clock:
    return Clock(tmp_path_factory.mktemp("clock"), anthropic)


@pytest.fixture(scope="module")
def team(
    anthropic: Simulator, clock: Clock, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Team]:
    """One worker, and a router that is to let a deployment rest after its first failure."""
    directory = tmp_path_factory.mktemp("team")
    vault = Vault(directory, anthropic, CLAUDE_OAUTH_REFRESH_THRESHOLD="20", **clock.environment)
    with running(vault, "/auth/claude/health"):
        key = vault.tenant("acme")
        proxy = Proxy(
            directory,
            CONFIG.replace("CACHE_SECONDS", "0.5")
            .replace(
                "ROUTER",
                "allowed_fails_policy: {AuthenticationErrorAllowedFails: 0, "
                "RateLimitErrorAllowedFails: 0}",
            )
            .replace("CACHE", ""),
            TEST_MASTER_KEY=MASTER_KEY,
            ANTHROPIC_API_BASE=anthropic.url,
            OAUTHVAULT_URL=vault.url,
            OAUTHVAULT_SERVICE_KEY=key,
            **clock.environment,
        )
        with running(proxy, "/health/liveliness"):
            yield Team(vault, key, proxy, anthropic)


def test_half_an_hour_of_tokens_that_live_for_75_seconds_and_not_one_client_error(
    team: Team, anthropic: Simulator, clock: Clock
) -> None:
    users = [team.has(f"short-{name}", expires_in=75) for name in "ab"]
    usual, anthropic.access_token_lifetime = anthropic.access_token_lifetime, 75
    try:
        for step in range(120):
            clock.advance(15)
            user, way = users[step % 2], WAYS[step // 2 % 6]
            assert team.hears(user, *way) == f"Hello from {user}"
    finally:
        anthropic.access_token_lifetime = usual
    for user in users:
        assert anthropic.refreshes_of(user) >= 20
        assert anthropic.counts_of(user).reuse == 0


# --- What befalls one user --------------------------------------------------------------


@every_way_in
@pytest.mark.parametrize("fault", ["unauthorized", "rate_limited"])
@pytest.mark.parametrize("model", ["claude", "two"])
def test_what_befalls_alice_does_not_reach_bob(
    team: Team, anthropic: Simulator, path: str, stream: bool, fault: str, model: str
) -> None:
    alice, bob = team.has("alice"), team.has("bob")
    more = {"retry_after": 0} if fault == "rate_limited" else {}
    anthropic.fault(fault, on="messages", user=alice, times=None, **more)
    for _ in range(2):
        assert team.ask(alice, path, stream, model).status_code in (401, 429, 503)
        assert team.hears(bob, path, stream, model) == "Hello from bob"


# --- The vault away -----------------------------------------------------------------------


def test_a_vault_that_is_away_is_missed_only_by_those_without_a_token(team: Team) -> None:
    keeper, bob = team.has("keeper"), team.has("newcomer")
    assert team.hears(keeper) == "Hello from keeper"
    team.vault.stop()
    try:
        for way in WAYS:
            assert team.hears(keeper, *way) == "Hello from keeper"
            refused = team.ask(bob, *way)
            assert refused.status_code == 503, refused.text
            assert refused.headers["retry-after"].isdigit()
    finally:
        team.vault.start()
        team.vault.wait_until_ready("/auth/claude/health")

    until(lambda: team.ask(bob).status_code == 200, 90, team.proxy.output)
    assert team.hears(bob) == "Hello from newcomer"
    assert team.hears(keeper) == "Hello from keeper"
    log = team.proxy.output()
    for words in (
        "from memory while the vault is out of reach",
        "the token vault does not answer",
        "the token vault answers again",
    ):
        assert words in log, words


def test_a_revocation_counts_as_soon_as_the_vault_can_tell_of_it(team: Team) -> None:
    user = team.has("leaver")
    assert team.hears(user) == "Hello from leaver"
    team.vault.run("revoke", "--tenant", "acme", "--user", user)
    until(lambda: team.ask(user).status_code != 200, 60)
    assert "was revoked" in team.ask(user).text


# --- What is written while all of this goes on ---------------------------------------------


def test_every_decision_is_explained_and_no_token_is_in_the_log(
    team: Team, anthropic: Simulator
) -> None:
    user = team.has("explained")
    team.hears(user)
    anthropic.kill_access_token(anthropic.current_login(user).access_token)
    team.hears(user)
    log = team.proxy.output()
    for words in (
        "user 'explained': token of generation 1, from the vault, 3",
        "attempt 1 of a request of user 'explained' goes to 127.0.0.1:",
        "upstream refused the token of user 'explained': replaced",
        "user 'explained': token of generation 2",
        "attempt 2 of a request of user 'explained' goes to 127.0.0.1:",
    ):
        assert words in log, words
    assert anthropic.current_login(user).access_token not in log
    assert team.key not in log
    assert "sk-ant-oat01-" not in log
