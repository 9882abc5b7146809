"""Real web processes, and a real HTTP server on the far side.

A hundred callers for one expired credential: one refresh, and nobody goes without.
"""

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.processes import oauthvault, own_stores, web_processes
from tests.simulator import Simulator

pytestmark = [pytest.mark.system, pytest.mark.postgres_too]

SERVICE_KEY = "ovs_" + "k" * 43
CALLERS = 100


@pytest.fixture
def upstream() -> Iterator[Simulator]:
    with Simulator(latency_ms=200) as simulator:
        yield simulator


@pytest.fixture
def addresses(tmp_path: Path, upstream: Simulator) -> Iterator[list[str]]:
    """One web process on SQLite; two on PostgreSQL."""
    variables = {
        "OAUTHVAULT_DATA_DIR": str(tmp_path / "data"),
        "OAUTHVAULT_SERVICE_KEY": SERVICE_KEY,
        "CLAUDE_OAUTH_TOKEN_URL": upstream.token_url,
        "OAUTHVAULT_WEB_WORKERS": "1",
    }
    with (
        own_stores() as stores,
        web_processes(tmp_path, 2 if stores else 1, **variables, **stores) as served,
    ):
        yield served


def test_a_hundred_callers_at_expiry_cause_one_refresh_and_all_have_the_new_token(
    addresses: list[str], upstream: Simulator
) -> None:
    authorization = {"Authorization": f"Bearer {SERVICE_KEY}"}
    login = upstream.new_login("default", expires_in=-60)
    stored = httpx.put(
        f"{addresses[0]}/auth/claude/token",
        headers=authorization,
        json=login.credentials_file(),
        timeout=60,
    )
    assert stored.status_code == 201, stored.text

    def fetch(number: int) -> str:
        """What a caller does who follows Retry-After, for a minute and a half at most."""
        address = addresses[number % len(addresses)]
        ends = time.monotonic() + 90
        with httpx.Client(headers=authorization, timeout=90) as client:
            while True:
                answer = client.get(f"{address}/auth/claude/token")
                if answer.status_code == 200:
                    return str(answer.json()["access_token"])
                assert answer.status_code == 503, answer.text
                assert answer.json()["code"] == "refresh_in_progress"
                assert time.monotonic() < ends, "went without"
                time.sleep(int(answer.headers["Retry-After"]))

    with ThreadPoolExecutor(CALLERS) as pool:
        handed = list(pool.map(fetch, range(CALLERS)))
    assert set(handed) == {upstream.current_login("default").access_token}
    assert (upstream.counts.token_calls, upstream.counts.reuse) == (1, 0)


def test_a_web_process_that_is_stopped_saves_the_refresh_it_has_under_way(
    tmp_path: Path, upstream: Simulator
) -> None:
    upstream.latency_ms, upstream.latency_after_ms = 0, 2000
    authorization = {"Authorization": f"Bearer {SERVICE_KEY}"}
    variables = {
        "OAUTHVAULT_DATA_DIR": str(tmp_path / "data"),
        "OAUTHVAULT_SERVICE_KEY": SERVICE_KEY,
        "CLAUDE_OAUTH_TOKEN_URL": upstream.token_url,
    }
    login = upstream.new_login("default", expires_in=-60)
    with web_processes(tmp_path, 1, **variables) as (address,):
        token = f"{address}/auth/claude/token"
        httpx.put(token, headers=authorization, json=login.credentials_file(), timeout=60)
        answer = httpx.get(token, headers=authorization | {"Prefer": "wait=0"}, timeout=60)
        assert answer.json()["code"] == "refresh_in_progress"
    status = oauthvault("status", "--tenant", "default", "--user", "default", "--json", **variables)
    assert json.loads(status.stdout)["refresh_count"] == 1, status.stdout
    assert upstream.counts.refreshed == 1


def test_a_refused_body_does_not_cost_the_next_request_its_connection(tmp_path: Path) -> None:
    """A server that answers before it has read the body must close, and the next request of
    the same client may be lost on the closing connection."""
    variables = {
        "OAUTHVAULT_DATA_DIR": str(tmp_path / "data"),
        "OAUTHVAULT_SERVICE_KEY": SERVICE_KEY,
    }
    with (
        web_processes(tmp_path, 1, **variables) as (address,),
        httpx.Client(base_url=address, timeout=30) as client,
    ):
        body = b"x" * 60_000
        key = {"Authorization": f"Bearer {SERVICE_KEY}"}
        twice = [("Authorization", f"Bearer {SERVICE_KEY}"), ("X-OAuthVault-User", "alice"),
                 ("X-OAuthVault-User", "bob")]  # fmt: skip
        for _ in range(30):
            refused = client.put("/auth/claude/token", content=body, headers=key)
            assert refused.status_code == 415
            assert client.put("/auth/claude/token?x=1", content=body).status_code == 401
            assert client.post("/auth/claude/refresh?x=1", headers=key).status_code == 400
        named_twice = client.get("/auth/claude/status", headers=twice)
        assert (named_twice.status_code, named_twice.json()["code"]) == (400, "invalid_request")
