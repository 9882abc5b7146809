"""GET /auth/claude/token and what else ends in a token: at once while one lives, after the
one refresh when none does, and never so that others wait behind it."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from celery import Celery
from django.db import connection
from django.test.utils import CaptureQueriesContext
from pytest_django import Settings

from api import ahead
from oauthvault.celery import app
from tests.api.conftest import Answer, Caller, in_threads
from tests.conftest import Store
from tests.simulator import Simulator
from tests.vault.test_refresh import refresh_one
from tokens import epoch, flight, handouts, outside, vault
from tokens.models import (
    AuditEvent,
    HandOut,
    OAuthCredential,
    Outcome,
    Standing,
    Tenant,
    Upstream,
)
from tokens.refresh import gate

pytestmark = pytest.mark.django_db(transaction=True)


def token(ask: Caller, key: str, user: str = "alice", **how: object) -> Answer:
    return ask("GET", "token", key=key, user=user, **how)  # type: ignore[arg-type]


def published() -> list[object]:
    """Takes from the broker what lies there for the workers."""
    ahead.wait_until_published()
    found = []
    with app.connection_for_read() as broker:
        queue = broker.SimpleQueue("oauthvault")
        while queue.qsize():
            message = queue.get(block=False)
            found.append(message.payload[0])
            message.ack()
        queue.close()
    return found


def test_a_living_token_comes_with_what_its_use_needs(
    ask: Caller, acme: Tenant, acme_key: str, store: Store, upstream: Simulator
) -> None:
    login = upstream.new_login("alice", expires_in=3600)
    store(acme, "alice", login)
    answer = token(ask, acme_key)
    body = answer.json
    assert 3590 <= body.pop("expires_in") <= 3600
    assert body == {
        "access_token": login.access_token,
        "token_type": "Bearer",
        "expires_at": login.expires_at,
        "generation": 1,
        "headers": {"anthropic-beta": "oauth-2025-04-20"},
    }
    assert login.refresh_token is not None
    assert login.refresh_token not in answer.text + str(answer.headers)
    assert upstream.counts.token_calls == 0


def test_the_hot_path_is_two_queries_and_no_write(
    ask: Caller, acme: Tenant, acme_key: str, store: Store, upstream: Simulator
) -> None:
    store(acme, "alice", upstream.new_login("alice"))
    token(ask, acme_key)
    with CaptureQueriesContext(connection) as queries:
        assert token(ask, acme_key).status == 200
    assert len(queries) == 2
    assert all(query["sql"].startswith("SELECT") for query in queries)
    handouts.write()
    assert HandOut.objects.get().count == 2


def test_an_etag_says_which_token_and_nothing_of_it(
    ask: Caller, acme: Tenant, acme_key: str, store: Store, upstream: Simulator
) -> None:
    login = upstream.new_login("alice")
    store(acme, "alice", login)
    first = token(ask, acme_key)
    etag = first.headers["ETag"]
    for given in (etag, f"W/{etag}", f'"other", {etag}', "*"):
        again = token(ask, acme_key, headers={"If-None-Match": given})
        assert (again.status, again.headers["ETag"]) == (304, etag)
    assert token(ask, acme_key, headers={"If-None-Match": '"other"'}).status == 200
    assert token(ask, acme_key).headers["ETag"] == etag
    assert not any(part in login.access_token for part in (etag.strip('"'), etag[1:13]))
    store(acme, "bob", upstream.new_login("bob"))
    assert token(ask, acme_key, "bob").headers["ETag"] != etag
    ask("POST", "refresh", key=acme_key, user="alice")
    renewed = token(ask, acme_key, headers={"If-None-Match": etag})
    assert (renewed.status, renewed.json["generation"]) == (200, 2)
    assert renewed.headers["ETag"] != etag


def test_nothing_is_unchanged_that_may_no_longer_be_used(
    ask: Caller, acme: Tenant, acme_key: str, store: Store, upstream: Simulator
) -> None:
    store(acme, "alice", upstream.new_login("alice"))
    etag = {"If-None-Match": token(ask, acme_key).headers["ETag"]}
    vault.suspend(tenant=acme, user_id="alice", actor="test", now=time.time())
    assert token(ask, acme_key, headers=etag).code == "suspended"
    vault.resume(tenant=acme, user_id="alice", actor="test", now=time.time())
    assert token(ask, acme_key, headers=etag).status == 304
    OAuthCredential.objects.update(expires_at=1)
    renewed = token(ask, acme_key, headers=etag)
    assert (renewed.status, renewed.json["generation"]) == (200, 2)
    ask("DELETE", "revoke", key=acme_key, user="alice")
    for headers in (etag, {"If-None-Match": "*"}):
        assert token(ask, acme_key, headers=headers).code == "revoked"


def test_near_the_end_the_living_token_comes_at_once_and_one_refresh_is_published(
    ask: Caller, acme: Tenant, acme_key: str, store: Store, upstream: Simulator
) -> None:
    published()
    login = upstream.new_login("alice", expires_in=60)
    credential = store(acme, "alice", login)
    for _ in range(5):
        assert token(ask, acme_key).json["access_token"] == login.access_token
    actor = f"key {acme_key[:12]}"
    assert published() == [[[[acme.pk, credential.pk, 1]], "hand_out", actor]]
    assert upstream.counts.token_calls == 0, "behind it, by a worker"


def test_without_auto_refresh_nothing_is_published(
    ask: Caller, acme: Tenant, acme_key: str, store: Store, upstream: Simulator, settings: Settings
) -> None:
    published()
    settings.CLAUDE_OAUTH_AUTO_REFRESH = False
    store(acme, "alice", upstream.new_login("alice", expires_in=60))
    assert token(ask, acme_key).status == 200
    assert published() == []


def test_a_broker_that_is_away_fails_and_slows_no_hand_out(
    ask: Caller, acme: Tenant, acme_key: str, store: Store, upstream: Simulator,
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    # A port that takes connections and never answers: the worst kind of broker.
    with _deaf_port() as port:
        monkeypatch.setattr(ahead, "app", _app_with_broker(f"redis://127.0.0.1:{port}/0"))
        store(acme, "alice", upstream.new_login("alice", expires_in=60))
        assert token(ask, acme_key).status == 200
        assert ahead._waiting.unfinished_tasks == 1, "answered while the broker was asked"
    ahead.wait_until_published()
    assert "could not be published" in caplog.text


def test_past_its_end_the_caller_waits_for_one_refresh(
    ask: Caller, acme: Tenant, acme_key: str, store: Store, upstream: Simulator
) -> None:
    store(acme, "alice", upstream.new_login("alice", expires_in=-5))
    upstream.latency_ms = 200
    answers = in_threads(4, lambda: token(ask, acme_key))
    current = upstream.current_login("alice")
    assert {answer.json["access_token"] for answer in answers} == {current.access_token}
    assert {answer.json["generation"] for answer in answers} == {2}
    assert upstream.counts.refreshed == 1
    assert upstream.counts.reuse == 0


def test_half_of_the_threads_wait_and_the_others_are_free(
    ask: Caller, acme: Tenant, acme_key: str, store: Store, upstream: Simulator, settings: Settings
) -> None:
    places = settings.OAUTHVAULT_WEB_THREADS // 2
    living = upstream.new_login("bob")
    store(acme, "alice", upstream.new_login("alice", expires_in=-5))
    store(acme, "bob", living)
    answers: list[Answer] = []
    others: list[Answer] = []

    def alice_once() -> Answer:
        answers.append(token(ask, acme_key))
        return answers[-1]

    def bob_meanwhile() -> None:
        """When all places are taken: those who got none have been told so."""
        try:
            while len(answers) < 4:
                time.sleep(0.02)
            others.append(token(ask, acme_key, "bob"))
        finally:
            upstream.let_go()
            connection.close()

    bob = threading.Thread(target=bob_meanwhile)
    with upstream.holding():
        bob.start()
        in_threads(places + 4, alice_once)
    bob.join()
    turned_away = [answer for answer in answers if answer.status == 503]
    assert [answer.status for answer in answers].count(200) == places
    assert len(turned_away) == 4
    for answer in turned_away:
        assert answer.code == "refresh_in_progress"
        assert answer.headers["Retry-After"] in {"1", "2"}
    assert others[0].json["access_token"] == living.access_token
    assert upstream.counts.refreshed == 1


def test_a_caller_waits_no_longer_than_it_prefers_and_the_refresh_goes_on(
    ask: Caller, acme: Tenant, acme_key: str, store: Store, upstream: Simulator
) -> None:
    store(acme, "alice", upstream.new_login("alice", expires_in=-5))
    with upstream.holding():
        for prefer in ("wait=0", 'respond-async, wait="0"'):
            answer = token(ask, acme_key, headers={"Prefer": prefer})
            assert (answer.status, answer.code) == (503, "refresh_in_progress")
            assert answer.headers["Retry-After"] in ("1", "2")
    assert token(ask, acme_key, headers={"Prefer": "wait=nonsense"}).json["generation"] == 2
    assert upstream.counts.refreshed == 1


@pytest.mark.parametrize(
    ("fault", "status", "code", "title"),
    [
        ("invalid_grant", 409, "reauthorization_required", "Reauthorization required"),
        ("rate_limited", 429, "upstream_rate_limited", "Failed to refresh token"),
        ("edge_block", 502, "upstream_error", "Failed to refresh token"),
        ("moved", 502, "upstream_error", "Failed to refresh token"),
        ("lose_answer", 503, "upstream_unavailable", "Failed to refresh token"),
    ],
)
@pytest.mark.parametrize("way", ["token", "refresh", "rejected"])
def test_what_upstream_refuses_has_its_code(
    ask: Caller, acme: Tenant, acme_key: str, store: Store, upstream: Simulator,
    way: str, fault: str, status: int, code: str, title: str,
) -> None:  # fmt: skip
    login = upstream.new_login("alice", expires_in=-5)
    store(acme, "alice", login)
    upstream.fault(fault, times=None)
    method, path, body = {
        "token": ("GET", "token", None),
        "refresh": ("POST", "refresh", None),
        "rejected": ("POST", "token/rejected", {"generation": 1}),
    }[way]
    answer = ask(method, path, key=acme_key, user="alice", json=body)
    assert (answer.status, answer.code, answer.json["title"]) == (status, code, title)
    assert ("Retry-After" in answer.headers) == (status in (429, 502, 503))
    assert login.access_token not in answer.text
    assert (login.refresh_token or "-") not in answer.text


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"standing": Standing.QUARANTINED, "refresh_due_at": None}, "quarantined"),
        ({"suspended_at": 1}, "suspended"),
        (
            {
                "standing": Standing.REAUTHORIZATION_REQUIRED,
                "refresh_due_at": None,
                "expires_at": 1,
            },
            "reauthorization_required",
        ),
        ({"refresh_token_encrypted": None, "refresh_due_at": None, "expires_at": 1}, None),
    ],
)
def test_what_a_person_must_settle_is_409(
    ask: Caller, acme: Tenant, acme_key: str, store: Store, upstream: Simulator,
    changes: dict[str, object], code: str | None,
) -> None:  # fmt: skip
    store(acme, "alice", upstream.new_login("alice"))
    OAuthCredential.objects.update(**changes)
    handed_out = token(ask, acme_key)
    assert (handed_out.status, handed_out.code) == (409, code or "token_expired")
    if code is None:
        assert handed_out.json["title"] == "OAuth token expired"
    refreshed = ask("POST", "refresh", key=acme_key, user="alice")
    assert (refreshed.status, refreshed.code) == (409, code or "no_refresh_token")
    assert upstream.counts.token_calls == 0


def test_without_auto_refresh_only_a_demand_refreshes(
    ask: Caller, acme: Tenant, acme_key: str, store: Store, upstream: Simulator, settings: Settings
) -> None:
    settings.CLAUDE_OAUTH_AUTO_REFRESH = False
    store(acme, "alice", upstream.new_login("alice", expires_in=-5))
    assert token(ask, acme_key).code == "token_expired"
    answer = ask("POST", "refresh", key=acme_key, user="alice")
    assert (answer.json["success"], answer.json["authenticated"]) == (True, True)
    assert answer.json["refresh_count"] == 1
    assert token(ask, acme_key).status == 200


# --- POST refresh ----------------------------------------------------------------------------


def test_a_demand_asks_upstream_and_a_second_one_is_answered_by_it(
    ask: Caller, acme: Tenant, acme_key: str, store: Store, upstream: Simulator
) -> None:
    store(acme, "alice", upstream.new_login("alice"))
    first = ask("POST", "refresh", key=acme_key, user="alice")
    second = ask("POST", "refresh", key=acme_key, user="alice", json={})
    assert (first.json["success"], second.json["success"]) == (True, True)
    assert first.json["refresh_count"] == second.json["refresh_count"] == 1
    assert upstream.counts.refreshed == 1
    assert "sk-ant" not in first.text


def test_demands_of_the_same_moment_are_one_refresh(
    ask: Caller, acme: Tenant, acme_key: str, store: Store, upstream: Simulator
) -> None:
    store(acme, "alice", upstream.new_login("alice"))
    upstream.latency_ms = 200
    answers = in_threads(5, lambda: ask("POST", "refresh", key=acme_key, user="alice"))
    assert {(answer.status, answer.json["refresh_count"]) for answer in answers} == {(200, 1)}
    assert upstream.counts.token_calls == 1


def test_a_form_without_fields_is_as_good_as_no_body(
    ask: Caller, acme: Tenant, acme_key: str, store: Store, upstream: Simulator
) -> None:
    store(acme, "alice", upstream.new_login("alice"))
    answer = ask("POST", "refresh", key=acme_key, user="alice", body=b"--X--\r\n",
                 content_type="multipart/form-data; boundary=X")  # fmt: skip
    assert answer.status == 200


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b'{"user_id": "bob"}', "application/json"),
        (b"user_id=bob", "application/x-www-form-urlencoded"),
    ],
)
def test_fields_that_nobody_reads_are_refused_by_name(
    ask: Caller, acme: Tenant, acme_key: str, store: Store, upstream: Simulator, body: bytes,
    content_type: str,
) -> None:  # fmt: skip
    store(acme, "alice", upstream.new_login("alice"))
    for method, path in (("POST", "refresh"), ("DELETE", "revoke")):
        answer = ask(method, path, key=acme_key, user="alice", body=body, content_type=content_type)
        assert (answer.status, list(answer.json["errors"])) == (400, ["user_id"])
    answer = ask("GET", "token?user_id=bob", key=acme_key, user="alice")
    assert (answer.status, list(answer.json["errors"])) == (400, ["user_id"])
    assert OAuthCredential.objects.get().generation == 1


# --- POST token/rejected ---------------------------------------------------------------------


def rejected(ask: Caller, key: str, generation: object, **fields: object) -> Answer:
    body = {"generation": generation, **fields}
    return ask("POST", "token/rejected", key=key, user="alice", json=body)


def test_a_report_of_an_older_generation_gets_the_newer_token(
    ask: Caller, acme: Tenant, acme_key: str, store: Store, upstream: Simulator
) -> None:
    store(acme, "alice", upstream.new_login("alice"))
    ask("POST", "refresh", key=acme_key, user="alice")
    answer = rejected(ask, acme_key, 1)
    assert (answer.status, answer.json["generation"]) == (200, 2)
    assert answer.json["access_token"] == upstream.current_login("alice").access_token
    assert answer.headers["ETag"] == token(ask, acme_key).headers["ETag"]
    assert upstream.counts.refreshed == 1


def test_a_report_of_the_current_generation_forces_one_refresh_in_ten_seconds(
    ask: Caller, acme: Tenant, acme_key: str, store: Store, upstream: Simulator
) -> None:
    store(acme, "alice", upstream.new_login("alice"))
    answer = rejected(ask, acme_key, 1)
    assert (answer.status, answer.json["generation"]) == (200, 2)
    again = rejected(ask, acme_key, 2)
    assert (again.status, again.code) == (429, "rate_limited")
    assert 1 <= int(again.headers["Retry-After"]) <= 10
    assert upstream.counts.refreshed == 1


@pytest.mark.parametrize("generation", [0, -1, "1", 1.5, True, None, [1], 2**63])
def test_a_generation_is_a_whole_number(ask: Caller, acme_key: str, generation: object) -> None:
    answer = rejected(ask, acme_key, generation)
    assert (answer.status, answer.code) == (400, "invalid_request")
    assert list(answer.json["errors"]) == ["generation"]


@pytest.fixture
def expired(acme: Tenant, store: Store, upstream: Simulator) -> OAuthCredential:
    return store(acme, "alice", upstream.new_login("alice", expires_in=-10))


@pytest.fixture
def announced(expired: OAuthCredential) -> str:
    """Another process has said that it is about to claim this refresh."""
    if not outside.has_redis():
        pytest.skip("needs Redis, which the PostgreSQL pass has")
    name = f"oauthvault:{epoch.vault_id()}:claiming:{expired.pk}:{expired.generation}"
    outside.in_redis("SET", name, "1")
    return name


@pytest.mark.usefixtures("announced")
def test_who_asks_while_another_process_is_about_to_claim_waits_for_its_refresh(
    ask: Caller,
    acme_key: str,
    expired: OAuthCredential,
    upstream: Simulator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(flight, "_A_MOMENT", 5.0)
    upstream.latency_ms = 200
    answers: list[Answer] = []

    def ask_for_it() -> None:
        answers.append(token(ask, acme_key))
        connection.close()

    caller = threading.Thread(target=ask_for_it)
    caller.start()
    assert refresh_one(expired) == Outcome.REFRESHED
    caller.join()
    assert answers[0].json["access_token"] == upstream.current_login("alice").access_token
    assert upstream.counts.token_calls == 1


def test_a_process_that_dies_before_its_claim_keeps_others_for_a_moment_only(
    ask: Caller, acme_key: str, announced: str, upstream: Simulator
) -> None:
    told = token(ask, acme_key)
    assert (told.status, told.code) == (503, "refresh_in_progress")
    assert upstream.counts.token_calls == 0
    outside.in_redis("DEL", announced)  # As it goes by itself, after half a second.
    assert token(ask, acme_key).status == 200


def test_a_claim_that_is_refused_keeps_nobody_waiting(
    ask: Caller, acme_key: str, expired: OAuthCredential
) -> None:
    gate.close_for(60, now=time.time())
    for _ in range(2):
        told = token(ask, acme_key)
        assert (told.status, told.code) == (429, "upstream_rate_limited")
    Upstream.objects.all().delete()
    assert token(ask, acme_key).status == 200


def test_a_generation_that_never_was_is_refused_by_name_and_refreshes_nothing(
    ask: Caller, acme: Tenant, acme_key: str, store: Store, upstream: Simulator
) -> None:
    store(acme, "alice", upstream.new_login("alice"))
    for generation in (2, 10**9):
        answer = rejected(ask, acme_key, generation)
        assert (answer.status, answer.code) == (400, "invalid_request")
        assert list(answer.json["errors"]) == ["generation"]
    assert upstream.counts.token_calls == 0
    assert not AuditEvent.objects.filter(action="rejected").exists()


def test_a_report_with_other_fields_is_refused_by_their_names(ask: Caller, acme_key: str) -> None:
    answer = rejected(ask, acme_key, 1, user_id="bob", token="x")
    assert list(answer.json["errors"]) == ["user_id", "token"]
    missing = ask("POST", "token/rejected", key=acme_key, user="alice", json={})
    assert list(missing.json["errors"]) == ["generation"]


# --- DELETE revoke ---------------------------------------------------------------------------


def test_a_revocation_says_until_when_a_token_may_live(
    ask: Caller, acme: Tenant, acme_key: str, store: Store, upstream: Simulator
) -> None:
    login = upstream.new_login("alice")
    store(acme, "alice", login)
    answer = ask("DELETE", "revoke", key=acme_key, user="alice")
    assert (answer.status, answer.json["success"]) == (200, True)
    assert answer.json["upstream"] == "not_configured"
    assert str(login.expires_at) in answer.json["message"]
    row = OAuthCredential.objects.get()
    assert (row.access_token_encrypted, row.refresh_token_encrypted) == (None, None)
    for method, path in (("DELETE", "revoke"), ("POST", "refresh")):
        again = ask(method, path, key=acme_key, user="alice")
        assert (again.status, again.code) == (404, "no_token")
    assert token(ask, acme_key).code == "revoked"


@pytest.mark.parametrize(("fault", "said"), [(None, "revoked"), ("unavailable", "failed")])
def test_a_revocation_tells_upstream_and_says_what_it_answered(
    ask: Caller, acme: Tenant, acme_key: str, store: Store, upstream: Simulator, settings: Settings,
    fault: str | None, said: str,
) -> None:  # fmt: skip
    settings.CLAUDE_OAUTH_REVOKE_URL = upstream.revoke_url
    store(acme, "alice", upstream.new_login("alice"))
    if fault is not None:
        upstream.fault(fault, on="revoke")
    assert ask("DELETE", "revoke", key=acme_key, user="alice").json["upstream"] == said


def _app_with_broker(url: str) -> Celery:
    other = Celery("other", broker=url, set_as_current=False)
    other.conf.broker_transport_options = {
        # Longer than a test may take: the port is closed before that.
        "socket_timeout": 600,
        "retry_on_timeout": False,
        "max_retries": 0,
    }
    return other


@contextmanager
def _deaf_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]
