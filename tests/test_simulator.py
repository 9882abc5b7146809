"""The simulated peer behaves as facts/anthropic-oauth.md says the real one does."""

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.simulator import (
    ControlError,
    Controls,
    Fault,
    RemoteSimulator,
    Simulator,
    simulator_process,
)

BETA = {"anthropic-beta": "oauth-2025-04-20"}
SPENT = {"error": "invalid_grant", "error_description": "Refresh token not found or invalid"}
QUESTION: dict[str, Any] = {
    "model": "claude-test",
    "max_tokens": 16,
    "messages": [{"role": "user", "content": "Who am I?"}],
}


@pytest.fixture
def sim() -> Iterator[Simulator]:
    with Simulator() as simulator:
        yield simulator


@pytest.fixture
def http() -> Iterator[httpx.Client]:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    with httpx.Client(timeout=60, limits=limits, trust_env=False, verify=False) as client:
        yield client


def refresh(http: httpx.Client, sim: Controls, token: str | None, **more: Any) -> httpx.Response:
    asked = {"grant_type": "refresh_token", "refresh_token": token, "client_id": sim.client_id}
    return http.post(sim.token_url, json={**asked, **more})


def ask(http: httpx.Client, sim: Controls, token: str, **more: Any) -> httpx.Response:
    headers = {"Authorization": f"Bearer {token}", **BETA}
    return http.post(sim.messages_url, json={**QUESTION, **more}, headers=headers)


class TestRefresh:
    def test_a_refresh_hands_out_a_new_pair_and_says_whose(
        self, sim: Simulator, http: httpx.Client
    ) -> None:
        login = sim.new_login("alice", scopes=["user:inference", "user:profile"])
        answer = refresh(http, sim, login.refresh_token).json()
        assert answer["access_token"].startswith("sk-ant-oat01-")
        assert answer["refresh_token"].startswith("sk-ant-ort01-")
        assert answer["access_token"] != login.access_token
        assert answer["refresh_token"] != login.refresh_token
        assert answer["token_type"] == "Bearer"
        assert answer["expires_in"] == 28_800
        assert answer["scope"] == "user:inference user:profile"
        assert 0 < answer["refresh_token_expires_in"] <= 30 * 86_400
        assert answer["account"]["email_address"] == "alice@example.com"
        assert answer["organization"].keys() == {"uuid", "name"}
        assert sim.current_login("alice").access_token == answer["access_token"]

    def test_a_spent_refresh_token_kills_the_whole_family(
        self, sim: Simulator, http: httpx.Client
    ) -> None:
        login = sim.new_login("alice")
        pair = refresh(http, sim, login.refresh_token).json()
        reused = refresh(http, sim, login.refresh_token)
        assert (reused.status_code, reused.json()) == (400, SPENT)
        assert ask(http, sim, pair["access_token"]).status_code == 401
        assert refresh(http, sim, pair["refresh_token"]).json() == SPENT
        assert (sim.counts.refreshed, sim.counts.reuse, sim.counts.invalid) == (1, 1, 1)
        assert not sim.current_login("alice").alive

    def test_reuse_can_be_forgiven(self, sim: Simulator, http: httpx.Client) -> None:
        sim.reuse_kills_family = False
        login = sim.new_login("alice")
        pair = refresh(http, sim, login.refresh_token).json()
        assert refresh(http, sim, login.refresh_token).json() == SPENT
        assert refresh(http, sim, pair["refresh_token"]).status_code == 200

    @pytest.mark.parametrize("latency_ms", [0, 20])
    def test_fifty_presentations_at_once_succeed_exactly_once(
        self, sim: Simulator, http: httpx.Client, latency_ms: float
    ) -> None:
        sim.latency_ms = sim.latency_after_ms = latency_ms
        login = sim.new_login("alice")
        start = threading.Barrier(50)

        def present(_: int) -> int:
            start.wait(60)
            return refresh(http, sim, login.refresh_token).status_code

        with ThreadPoolExecutor(50) as pool:
            statuses = sorted(pool.map(present, range(50)))
        assert statuses == [200] + [400] * 49
        assert sim.refreshes_of("alice") == 1
        assert sim.counts.reuse == 49
        if latency_ms:
            assert sim.counts.concurrent_high_water > 1

    def test_one_familys_death_leaves_the_others_alive(
        self, sim: Simulator, http: httpx.Client
    ) -> None:
        alice, bob = sim.new_login("alice"), sim.new_login("bob")
        refresh(http, sim, alice.refresh_token)
        refresh(http, sim, alice.refresh_token)
        assert ask(http, sim, bob.access_token).status_code == 200
        assert refresh(http, sim, bob.refresh_token).status_code == 200

    def test_no_refresh_extends_the_login(self, sim: Simulator, http: httpx.Client) -> None:
        login = sim.new_login("alice")
        sim.advance_clock(20 * 86_400)
        pair = refresh(http, sim, login.refresh_token).json()
        assert pair["refresh_token_expires_in"] <= 10 * 86_400
        sim.advance_clock(11 * 86_400)
        assert refresh(http, sim, pair["refresh_token"]).json() == SPENT
        assert sim.counts.invalid == 1

    @pytest.mark.parametrize(
        ("change", "status", "error"),
        [
            ({"grant_type": "password"}, 400, "unsupported_grant_type"),
            ({"client_id": "somebody-else"}, 401, "invalid_client"),
            ({"refresh_token": None}, 400, "invalid_request"),
            ({"refresh_token": "sk-ant-ort01-unheard-of"}, 400, "invalid_grant"),
            ({"scope": "org:admin"}, 400, "invalid_scope"),
        ],
    )
    def test_a_wrong_request_spends_nothing(
        self, sim: Simulator, http: httpx.Client, change: dict[str, Any], status: int, error: str
    ) -> None:
        login = sim.new_login("alice")
        asked = {"refresh_token": login.refresh_token, **change}
        refused = refresh(http, sim, asked.pop("refresh_token"), **asked)
        assert (refused.status_code, refused.json()["error"]) == (status, error)
        assert refresh(http, sim, login.refresh_token).status_code == 200

    def test_a_form_is_refused(self, sim: Simulator, http: httpx.Client) -> None:
        refused = http.post(sim.token_url, data={"grant_type": "refresh_token"})
        assert (refused.status_code, refused.json()["error"]) == (400, "invalid_request")

    def test_no_user_agent_meets_the_edge(self, sim: Simulator, http: httpx.Client) -> None:
        del http.headers["User-Agent"]
        blocked = refresh(http, sim, sim.new_login().refresh_token)
        assert blocked.status_code == 403
        assert blocked.headers["content-type"].startswith("text/html")

    @pytest.mark.parametrize("lifetime", [0, -1, 10**15, "soon", None, 3600.5])
    def test_expires_in_can_be_absurd_while_the_token_lives(
        self, sim: Simulator, http: httpx.Client, lifetime: Any
    ) -> None:
        sim.access_token_lifetime = lifetime
        sim.access_token_real_lifetime = 60
        pair = refresh(http, sim, sim.new_login().refresh_token).json()
        assert pair["expires_in"] == lifetime
        assert ask(http, sim, pair["access_token"]).status_code == 200
        sim.advance_clock(61)
        assert ask(http, sim, pair["access_token"]).status_code == 401

    def test_revocation_ends_the_login_and_is_always_200(
        self, sim: Simulator, http: httpx.Client
    ) -> None:
        alice, bob = sim.new_login("alice"), sim.new_login("bob")
        assert http.post(sim.revoke_url, data={"token": alice.refresh_token}).status_code == 200
        assert http.post(sim.revoke_url, json={"token": bob.access_token}).status_code == 200
        assert http.post(sim.revoke_url, data={"token": "unheard-of"}).status_code == 200
        assert ask(http, sim, alice.access_token).status_code == 401
        assert refresh(http, sim, bob.refresh_token).json() == SPENT
        assert (sim.counts.revoke_calls, sim.counts.revoked) == (3, 2)

    def test_a_setup_token_has_no_refresh_token(self, sim: Simulator) -> None:
        login = sim.new_login("ci", expires_in=365 * 86_400, refresh=False)
        assert login.refresh_token is None
        assert login.credentials_file()["claudeAiOauth"]["refreshToken"] == ""

    def test_the_credentials_file_counts_milliseconds(self, sim: Simulator) -> None:
        login = sim.new_login("alice", expires_in=3600)
        file = login.credentials_file()["claudeAiOauth"]
        assert file["expiresAt"] == login.expires_at * 1000
        assert abs(login.expires_at - time.time() - 3600) < 5


class TestMessages:
    def test_the_answer_names_the_owner_of_the_token(
        self, sim: Simulator, http: httpx.Client
    ) -> None:
        alice, bob = sim.new_login("alice"), sim.new_login("bob")
        for login in (alice, bob):
            message = ask(http, sim, login.access_token).json()
            assert message["content"] == [{"type": "text", "text": f"Hello from {login.user}"}]
        assert sim.counts.messages_ok == 2
        assert sim.counts_of("bob").messages_ok == 1

    def test_a_stream_tells_the_same_in_anthropics_order(
        self, sim: Simulator, http: httpx.Client
    ) -> None:
        streamed = ask(http, sim, sim.new_login("alice").access_token, stream=True)
        assert streamed.headers["content-type"].startswith("text/event-stream")
        blocks = [block.split("\n") for block in streamed.text.strip().split("\n\n")]
        names = [block[0].removeprefix("event: ") for block in blocks]
        events = [json.loads(block[1].removeprefix("data: ")) for block in blocks]
        assert names == [event["type"] for event in events]
        assert list(dict.fromkeys(names)) == [
            "message_start",
            "content_block_start",
            "ping",
            "content_block_delta",
            "content_block_stop",
            "message_delta",
            "message_stop",
        ]
        pieces = [
            event["delta"]["text"] for event in events if "index" in event and "delta" in event
        ]
        assert "".join(pieces) == "Hello from alice"

    def test_tokens_are_counted_for_who_may_call(self, sim: Simulator, http: httpx.Client) -> None:
        url = f"{sim.messages_url}/count_tokens"
        headers = {"Authorization": f"Bearer {sim.new_login().access_token}", **BETA}
        assert http.post(url, json=QUESTION, headers=headers).json()["input_tokens"] > 0
        assert http.post(url, json=QUESTION).status_code == 401

    def test_without_the_beta_header_oauth_is_not_supported(
        self, sim: Simulator, http: httpx.Client
    ) -> None:
        bearer = {"Authorization": f"Bearer {sim.new_login().access_token}"}
        refused = http.post(sim.messages_url, json=QUESTION, headers=bearer)
        assert refused.status_code == 401
        assert refused.json()["type"] == "error"
        assert refused.json()["error"]["type"] == "authentication_error"
        assert "not supported" in refused.json()["error"]["message"]
        several = {**bearer, "anthropic-beta": "context-1m-2025-08-07,oauth-2025-04-20"}
        assert http.post(sim.messages_url, json=QUESTION, headers=several).status_code == 200

    def test_a_401_can_come_before_the_expiry(self, sim: Simulator, http: httpx.Client) -> None:
        login = sim.new_login("alice", expires_in=3600)
        sim.kill_access_token(login.access_token)
        assert ask(http, sim, login.access_token).status_code == 401
        pair = refresh(http, sim, login.refresh_token).json()
        assert ask(http, sim, pair["access_token"]).status_code == 200
        assert sim.counts_of("alice").messages_401 == 1

    def test_an_expired_token_says_so(self, sim: Simulator, http: httpx.Client) -> None:
        login = sim.new_login("alice")
        sim.expire_access_token(login.access_token)
        refused = ask(http, sim, login.access_token)
        assert "expired" in refused.json()["error"]["message"]
        assert sim.current_login("alice").expires_at < time.time()

    def test_the_token_before_lives_on_unless_told_otherwise(
        self, sim: Simulator, http: httpx.Client
    ) -> None:
        login = sim.new_login("alice")
        pair = refresh(http, sim, login.refresh_token).json()
        assert ask(http, sim, login.access_token).status_code == 200
        sim.rotation_kills_access_token = True
        refresh(http, sim, pair["refresh_token"])
        assert ask(http, sim, pair["access_token"]).status_code == 401

    def test_a_killed_login_neither_speaks_nor_refreshes(
        self, sim: Simulator, http: httpx.Client
    ) -> None:
        login = sim.new_login("alice")
        sim.kill_login("alice")
        assert ask(http, sim, login.access_token).status_code == 401
        assert refresh(http, sim, login.refresh_token).json() == SPENT

    def test_an_api_key_counts_only_if_configured_and_is_always_recorded(
        self, sim: Simulator, http: httpx.Client
    ) -> None:
        key = {"x-api-key": "sk-ant-api03-test"}
        assert http.post(sim.messages_url, json=QUESTION, headers=key).status_code == 401
        sim.api_keys = ["sk-ant-api03-test"]
        accepted = http.post(sim.messages_url, json=QUESTION, headers=key)
        assert accepted.json()["content"][0]["text"] == "Hello from api-key"
        ask(http, sim, sim.new_login().access_token)
        assert [one.has_api_key for one in sim.requests] == [True, True, False]


class TestFaults:
    @pytest.mark.parametrize(
        ("name", "status", "holds"),
        [
            ("server_error", 500, "api_error"),
            ("unavailable", 503, "api_error"),
            ("overloaded", 529, "overloaded_error"),
            ("rate_limited", 429, "rate_limit_error"),
            ("moved", 404, "not_found_error"),
            ("edge_block", 403, "<html"),
            ("redirect", 307, ""),
            ("on_hold", 403, "on hold"),
            ("invalid_grant", 400, "invalid_grant"),
            ("invalid_scope", 400, "invalid_scope"),
            ("not_json", 200, "Welcome"),
            ("empty", 200, ""),
            ("no_access_token", 200, "Bearer"),
        ],
    )
    def test_a_faulty_answer_spends_nothing_and_is_given_once(
        self, sim: Simulator, http: httpx.Client, name: str, status: int, holds: str
    ) -> None:
        login = sim.new_login("alice")
        sim.fault(name)
        faulty = refresh(http, sim, login.refresh_token)
        assert faulty.status_code == status
        assert holds in faulty.text
        assert "access_token" not in faulty.text
        assert sim.refreshes_of("alice") == 0
        assert refresh(http, sim, login.refresh_token).status_code == 200
        assert sim.faults == []

    def test_retry_after_is_seconds_or_a_date(self, sim: Simulator, http: httpx.Client) -> None:
        sim.fault("rate_limited", retry_after=7)
        sim.fault("rate_limited", retry_after=7, retry_after_as_date=True)
        assert refresh(http, sim, None).headers["retry-after"] == "7"
        date = parsedate_to_datetime(refresh(http, sim, None).headers["retry-after"])
        assert 0 < date.timestamp() - time.time() < 9

    def test_a_huge_answer_is_huge(self, sim: Simulator, http: httpx.Client) -> None:
        sim.fault("huge", pad_to=3_000_000)
        assert len(refresh(http, sim, None).content) == 3_000_000

    def test_a_lost_answer_has_rotated(self, sim: Simulator, http: httpx.Client) -> None:
        login = sim.new_login("alice")
        sim.fault("lose_answer")
        with pytest.raises(httpx.RemoteProtocolError):
            refresh(http, sim, login.refresh_token)
        assert sim.refreshes_of("alice") == 1
        assert sim.requests[-1].status is None
        assert sim.current_login("alice").refresh_token != login.refresh_token
        assert refresh(http, sim, login.refresh_token).json() == SPENT
        assert sim.counts.reuse == 1

    @pytest.mark.parametrize("name", ["close", "close_before_reading"])
    @pytest.mark.parametrize("warm", [False, True])
    def test_a_closed_connection_has_not_rotated(
        self, sim: Simulator, http: httpx.Client, name: str, warm: bool
    ) -> None:
        login = sim.new_login("alice")
        if warm:
            refresh(http, sim, None)
        sim.fault(name)
        with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError)):
            refresh(http, sim, login.refresh_token)
        assert refresh(http, sim, login.refresh_token).status_code == 200

    def test_an_error_can_follow_the_rotation(self, sim: Simulator, http: httpx.Client) -> None:
        login = sim.new_login("alice")
        sim.fail_next(status=502, rotates=True)
        assert refresh(http, sim, login.refresh_token).status_code == 502
        assert sim.refreshes_of("alice") == 1

    def test_a_missing_refresh_token_means_keep_the_old(
        self, sim: Simulator, http: httpx.Client
    ) -> None:
        login = sim.new_login("alice")
        sim.fault("keep_refresh_token")
        answer = refresh(http, sim, login.refresh_token).json()
        assert "refresh_token" not in answer
        assert ask(http, sim, answer["access_token"]).status_code == 200
        assert refresh(http, sim, login.refresh_token).status_code == 200

    def test_the_real_answer_can_be_amended(self, sim: Simulator, http: httpx.Client) -> None:
        sim.fault("amend", omit=["expires_in"], amend={"token_type": "mac"})
        answer = refresh(http, sim, sim.new_login().refresh_token).json()
        assert "expires_in" not in answer
        assert answer["token_type"] == "mac"

    def test_a_hanging_server_outlasts_the_clients_patience(
        self, sim: Simulator, http: httpx.Client
    ) -> None:
        login = sim.new_login("alice")
        sim.fault("hang", seconds=30)
        http.timeout = httpx.Timeout(60, read=0.1)
        with pytest.raises(httpx.ReadTimeout):
            refresh(http, sim, login.refresh_token)

    def test_a_trickle_defeats_a_timeout_per_read(self, sim: Simulator, http: httpx.Client) -> None:
        sim.fault("trickle", seconds=1.5)
        http.timeout = httpx.Timeout(60, read=1)
        begun = time.monotonic()
        answer = refresh(http, sim, sim.new_login().refresh_token)
        assert answer.json()["access_token"]
        assert time.monotonic() - begun >= 1.5

    def test_an_answer_can_be_cut_short(self, sim: Simulator, http: httpx.Client) -> None:
        login = sim.new_login("alice")
        sim.fault("cut_short")
        sim.fault("cut_short", on="messages")
        with pytest.raises(httpx.RemoteProtocolError):
            refresh(http, sim, login.refresh_token)
        with pytest.raises(httpx.RemoteProtocolError):
            ask(http, sim, login.access_token, stream=True)

    def test_a_fault_strikes_whom_it_names(self, sim: Simulator, http: httpx.Client) -> None:
        alice, bob = sim.new_login("alice"), sim.new_login("bob")
        sim.fail_next(times=None, status=503, user="alice")
        for _ in range(3):
            assert refresh(http, sim, alice.refresh_token).status_code == 503
        assert refresh(http, sim, bob.refresh_token).status_code == 200
        sim.clear_faults()
        assert refresh(http, sim, alice.refresh_token).status_code == 200

    def test_queued_faults_come_in_order_and_before_standing_ones(
        self, sim: Simulator, http: httpx.Client
    ) -> None:
        sim.fail_next(times=None, status=503)
        sim.fail_next(times=2, status=500)
        sim.fault("rate_limited")
        statuses = [refresh(http, sim, None).status_code for _ in range(5)]
        assert statuses == [500, 500, 429, 503, 503]

    def test_messages_have_faults_of_their_own(self, sim: Simulator, http: httpx.Client) -> None:
        login = sim.new_login("alice")
        sim.fault("unauthorized")
        assert refresh(http, sim, login.refresh_token).status_code == 200
        assert ask(http, sim, login.access_token).status_code == 401
        assert ask(http, sim, login.access_token).status_code == 200
        sim.fault("overloaded", on="messages")
        assert ask(http, sim, login.access_token).json()["error"]["type"] == "overloaded_error"

    def test_latency_is_spent_on_either_side_of_the_rotation(
        self, sim: Simulator, http: httpx.Client
    ) -> None:
        sim.latency_ms, sim.latency_after_ms = 60, 60
        begun = time.monotonic()
        refresh(http, sim, sim.new_login().refresh_token)
        assert time.monotonic() - begun >= 0.12

    @pytest.mark.parametrize(
        "wrong",
        [
            {"kind": "explode"},
            {"on": "nowhere"},
            {"times": 0},
            {"kind": "close_before_reading", "user": "alice"},
        ],
    )
    def test_a_fault_that_makes_no_sense_is_refused(self, wrong: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match=r"\w"):
            Fault(**wrong)

    def test_a_reset_reaches_the_client_as_one(self, sim: Simulator) -> None:
        sim.fault("close_before_reading")
        with socket.create_connection((sim.host, sim.port), timeout=60) as connection:
            connection.sendall(b"POST /v1/oauth/token HTTP/1.1\r\nHost: simulator\r\n")
            with pytest.raises(ConnectionResetError):
                connection.recv(1)


class TestServer:
    def test_two_hundred_connections_at_once(self, sim: Simulator) -> None:
        address = (sim.host, sim.port)
        lines = b"GET /_control/counts HTTP/1.1\r\nHost: simulator\r\n\r\n"
        connections = [socket.create_connection(address, timeout=60) for _ in range(200)]
        try:
            for _ in range(2):  # the second time on a kept connection
                for connection in connections:
                    connection.sendall(lines)
                for connection in connections:
                    assert connection.recv(4096).startswith(b"HTTP/1.1 200")
        finally:
            for connection in connections:
                connection.close()

    def test_closing_does_not_wait_for_who_hangs(self, http: httpx.Client) -> None:
        before = set(threading.enumerate())
        with Simulator() as sim, ThreadPoolExecutor(1) as pool:
            sim.fault("hang", seconds=600)
            hanging = pool.submit(refresh, http, sim, None)
            while sim.counts.faults == 0:
                time.sleep(0.005)
            sim.close()
            left = set(threading.enumerate()) - before
            assert "simulator" not in {thread.name for thread in left}
            with pytest.raises(httpx.TransportError):
                hanging.result(60)

    def test_an_answer_is_kept_back_until_it_is_let_go_or_the_block_ends(
        self, sim: Simulator, http: httpx.Client
    ) -> None:
        logins = [sim.new_login(user) for user in ("alice", "bob")]
        with ThreadPoolExecutor(1) as pool:
            for login, lets_go in zip(logins, (True, False), strict=True):
                with sim.holding():
                    held = pool.submit(refresh, http, sim, login.refresh_token)
                    while sim.refreshes_of(login.user) == 0:
                        time.sleep(0.005)
                    with pytest.raises(TimeoutError):
                        held.result(0.1)
                    if lets_go:
                        sim.let_go()
                        assert held.result(60).status_code == 200
                assert held.result(60).status_code == 200

    def test_closing_lets_go_of_what_is_kept_back(self, http: httpx.Client) -> None:
        with Simulator() as sim, ThreadPoolExecutor(1) as pool:
            RemoteSimulator(sim.url).perform("hold")
            held = pool.submit(refresh, http, sim, sim.new_login("alice").refresh_token)
            while sim.refreshes_of("alice") == 0:
                time.sleep(0.005)
            sim.close()
            with suppress(httpx.TransportError):
                held.result(60)

    def test_the_record_shows_what_arrived_and_hides_it_from_logs(
        self, sim: Simulator, http: httpx.Client, capfd: pytest.CaptureFixture[str]
    ) -> None:
        login = sim.new_login("alice")
        refresh(http, sim, login.refresh_token, scope="user:inference")
        ask(http, sim, login.access_token)
        http.get(f"{sim.url}/elsewhere")
        first, second, third = sim.requests
        assert (first.path, first.user, first.status) == ("/v1/oauth/token", "alice", 200)
        assert first.token == login.refresh_token
        assert first.body["scope"] == "user:inference"
        assert second.headers["authorization"] == f"Bearer {login.access_token}"
        assert third.status == 404
        assert "sk-ant" not in repr((login, sim.requests, sim.counts))
        assert "".join(capfd.readouterr()) == ""

    def test_reset_forgets_everything(self, sim: Simulator, http: httpx.Client) -> None:
        login = sim.new_login("alice")
        sim.fail_next(times=None)
        sim.latency_ms = 5
        refresh(http, sim, login.refresh_token)
        sim.reset()
        assert (sim.requests, sim.faults, sim.latency_ms) == ([], [], 0)
        assert sim.counts.token_calls == 0
        assert refresh(http, sim, login.refresh_token).json() == SPENT

    def test_near_and_far_controls_are_the_same(self, sim: Simulator, http: httpx.Client) -> None:
        far = RemoteSimulator(sim.url)
        login = far.new_login("alice", expires_in=60)
        assert login == sim.current_login("alice") == far.current_login("alice")
        assert far.fault("rate_limited", times=2) == sim.faults[0] == far.faults[0]
        assert refresh(http, far, login.refresh_token).status_code == 429
        far.latency_ms = 3
        assert sim.latency_ms == 3
        assert far.counts == sim.counts
        assert far.requests == sim.requests
        for controls in (sim, far):
            with pytest.raises(ControlError, match="no login of user 'nobody'"):
                controls.current_login("nobody")
            with pytest.raises(ControlError, match="unknown fault 'gremlin'"):
                controls.fault("gremlin")

    def test_a_simulator_runs_as_a_process_of_its_own(self, http: httpx.Client) -> None:
        with simulator_process("--latency-ms", "1") as far:
            login = far.new_login("alice")
            assert refresh(http, far, login.refresh_token).status_code == 200
            assert far.latency_ms == 1
            assert far.refreshes_of("alice") == 1

    def test_an_occupied_port_is_an_error_at_once(self, sim: Simulator) -> None:
        with pytest.raises(OSError, match="in use"):
            Simulator(port=sim.port)

    def test_the_simulator_needs_nothing_but_the_standard_library(self) -> None:
        loaded = (
            "import sys, tests.simulator; print('django' in sys.modules, 'httpx' in sys.modules)"
        )
        said = subprocess.run(
            [sys.executable, "-c", loaded],
            cwd=Path(__file__).parents[1],
            capture_output=True,
            text=True,
            check=True,
        )
        assert said.stdout.split() == ["False", "False"]
