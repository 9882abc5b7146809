"""Somebody else's user or tenant is as if it were not there, to the byte."""

import time
from typing import Any

import pytest

from tests.api.conftest import Caller
from tests.conftest import MakeKey, Store
from tests.simulator import Simulator
from tokens.models import OAuthCredential, Tenant
from tokens.tenants import suspend_tenant

ROUTES: list[tuple[str, str, Any]] = [
    ("GET", "status", None),
    ("GET", "token", None),
    ("POST", "refresh", None),
    ("POST", "token/rejected", {"generation": 1}),
    ("DELETE", "revoke", None),
    ("GET", "settings", None),
    ("PUT", "settings", {"refresh_threshold": 600}),
]


@pytest.mark.parametrize(("method", "path", "body"), ROUTES)
def test_mallory_cannot_tell_that_alice_exists(
    ask: Caller, acme: Tenant, mallory_key: str, globex_key: str, store: Store,
    upstream: Simulator, method: str, path: str, body: Any,
) -> None:  # fmt: skip
    login = upstream.new_login("alice")
    credential = store(acme, "alice", login)
    before = OAuthCredential.objects.values().get(pk=credential.pk)
    for key in (mallory_key, globex_key):
        foreign = ask(method, path, json=body, key=key, user="alice")
        missing = ask(method, path, json=body, key=key, user="nobody")
        shown = [
            (status, text.replace("nobody", "alice"), headers | {"Content-Length": ""})
            for status, text, headers in (foreign.without_request_id, missing.without_request_id)
        ]
        assert shown[0] == shown[1]
        assert login.access_token not in foreign.text
        if path != "status":
            assert foreign.code == "no_token"
            assert foreign.without_request_id == missing.without_request_id
    assert OAuthCredential.objects.values().get(pk=credential.pk) == before
    assert upstream.counts.token_calls == 0


def test_the_same_user_id_is_another_person_in_another_tenant(
    ask: Caller, acme: Tenant, globex: Tenant, acme_key: str, globex_key: str, store: Store,
    upstream: Simulator,
) -> None:  # fmt: skip
    ours, theirs = upstream.new_login("alice"), upstream.new_login("alice of globex")
    store(acme, "alice", ours)
    store(globex, "alice", theirs)
    assert ask("GET", "token", key=acme_key, user="alice").json["access_token"] == ours.access_token
    their_answer = ask("GET", "token", key=globex_key, user="alice").json
    assert their_answer["access_token"] == theirs.access_token
    assert ask("DELETE", "revoke", key=globex_key, user="alice").status == 200
    assert ask("GET", "token", key=acme_key, user="alice").status == 200


def test_a_token_is_identified_within_its_tenant_only(
    ask: Caller, acme: Tenant, acme_key: str, mallory_key: str, store: Store, upstream: Simulator
) -> None:
    login = upstream.new_login("alice")
    store(acme, "alice", login)
    found = ask("POST", "token/identify", key=acme_key, json={"access_token": login.access_token})
    assert found.json == {"user_id": "alice", "generation": 1, "expires_at": login.expires_at}
    foreign = ask(
        "POST", "token/identify", key=mallory_key, json={"access_token": login.access_token}
    )
    missing = ask("POST", "token/identify", key=mallory_key, json={"access_token": "no such"})
    assert foreign.without_request_id == missing.without_request_id
    assert (foreign.status, foreign.code) == (404, "no_token")
    for other in (login.refresh_token, login.access_token + "x"):
        answer = ask("POST", "token/identify", key=acme_key, json={"access_token": other})
        assert answer.code == "no_token"


def test_a_token_of_before_is_identified_no_more(
    ask: Caller, acme: Tenant, acme_key: str, store: Store, upstream: Simulator
) -> None:
    old, new = upstream.new_login("alice"), upstream.new_login("alice")
    store(acme, "alice", old)
    store(acme, "alice", new)
    for login, status in ((old, 404), (new, 200)):
        body = {"access_token": login.access_token}
        assert ask("POST", "token/identify", key=acme_key, json=body).status == status
    ask("DELETE", "revoke", key=acme_key, user="alice")
    body = {"access_token": new.access_token}
    assert ask("POST", "token/identify", key=acme_key, json=body).status == 404


def test_one_login_is_stored_once_and_nobody_learns_where(
    ask: Caller, acme: Tenant, acme_key: str, mallory_key: str, make_key: MakeKey, store: Store,
    upstream: Simulator,
) -> None:  # fmt: skip
    login = upstream.new_login("alice")
    store(acme, "alice", login)
    answers = [
        ask("PUT", "token", key=key, user=user, json=login.credentials_file())
        for key, user in ((mallory_key, "alice"), (mallory_key, "mallory"), (acme_key, "bob"))
    ]
    assert {(answer.status, answer.code) for answer in answers} == {(409, "already_stored")}
    assert len({str(answer.without_request_id) for answer in answers}) == 1


def test_statistics_count_the_own_tenant(
    ask: Caller, acme: Tenant, acme_key: str, mallory_key: str, store: Store, upstream: Simulator
) -> None:
    store(acme, "alice", upstream.new_login("alice"))
    assert ask("GET", "stats", key=acme_key).json["active_tokens"] == 1
    assert ask("GET", "stats", key=mallory_key).json["active_tokens"] == 0


def test_an_import_says_nothing_of_the_same_user_elsewhere(
    ask: Caller, acme: Tenant, mallory_key: str, store: Store, upstream: Simulator
) -> None:
    store(acme, "alice", upstream.new_login("alice"))
    file = upstream.new_login("mallory").credentials_file()
    foreign = ask("PUT", "token", key=mallory_key, user="alice", json=file)
    ask("DELETE", "revoke", key=mallory_key, user="alice")
    other = upstream.new_login("mallory").credentials_file()
    missing = ask("PUT", "token", key=mallory_key, user="nobody", json=other)
    assert (foreign.status, missing.status) == (201, 201)
    of_the_login = ("expires_at", "expires_in", "login_expires_at")
    told = [
        {name: value for name, value in answer.json.items() if name not in of_the_login}
        for answer in (foreign, missing)
    ]
    assert told[0] == told[1] | {"user_id": "alice"}
    refused = [
        ask("PUT", "token", key=mallory_key, user=user, json={}) for user in ("alice", "bob")
    ]
    assert refused[0].without_request_id == refused[1].without_request_id


def test_a_list_of_credentials_is_the_same_whatever_others_hold(
    ask: Caller, acme: Tenant, acme_key: str, mallory_key: str, store: Store, upstream: Simulator
) -> None:
    """With a cursor of somebody else's list too."""
    before = ask("GET", "credentials", key=mallory_key)
    for user in ("alice", "bob"):
        store(acme, user, upstream.new_login(user))
    assert (
        ask("GET", "credentials", key=mallory_key).without_request_id == before.without_request_id
    )
    cursor = ask("GET", "credentials?limit=1", key=acme_key).json["next_cursor"]
    foreign = ask("GET", f"credentials?limit=1&cursor={cursor}", key=mallory_key)
    assert foreign.without_request_id == before.without_request_id
    theirs = ask("GET", f"credentials?limit=1&cursor={cursor}", key=acme_key).json["credentials"]
    assert [each["user_id"] for each in theirs] == ["bob"]


def test_a_key_of_a_suspended_tenant_learns_nothing_of_who_is_there(
    ask: Caller, acme: Tenant, acme_key: str, store: Store, upstream: Simulator
) -> None:
    store(acme, "alice", upstream.new_login("alice"))
    suspend_tenant(tenant=acme, actor="test", now=time.time())
    for method, path, body in ROUTES:
        answers = [ask(method, path, json=body, key=acme_key, user=u) for u in ("alice", "nobody")]
        assert answers[0].without_request_id == answers[1].without_request_id
        assert answers[0].code == "tenant_suspended"
