"""GET /auth/claude/status: what is stored, in the document's words, never a token."""

import time

import pytest
from pytest_django import Settings

from tests.api.conftest import Caller
from tests.conftest import Store
from tests.simulator import Simulator
from tokens import vault
from tokens.models import OAuthCredential, Problem, Standing, Tenant

USERS = ["alice", "ünïcødé ✨", "a/b?c=d&e#f", "100% of 'it'", "x" * 256, "ü" * 256, " padded "]


def test_a_living_credential_is_described_in_full(
    ask: Caller, acme: Tenant, acme_key: str, store: Store, upstream: Simulator
) -> None:
    login = upstream.new_login("alice", expires_in=3600)
    store(acme, "alice", login)
    answer = ask("GET", "status", key=acme_key, user="alice")
    assert answer.status == 200
    body = answer.json
    assert 3590 <= body.pop("expires_in") <= 3600
    assert body == {
        "authenticated": True,
        "user_id": "alice",
        "expires_at": login.expires_at,
        "scopes": ["user:inference", "user:profile"],
        "is_max": True,
        "refresh_count": 0,
        "auto_refresh_enabled": True,
        "needs_refresh": False,
        "status": "active",
        "last_used": None,
        "last_refreshed_at": None,
        "login_expires_at": login.refresh_token_expires_at,
        "problem": None,
    }
    assert login.access_token not in answer.text
    assert (login.refresh_token or "") not in answer.text


def test_nothing_stored_is_an_answer_and_no_error(ask: Caller, acme_key: str) -> None:
    answer = ask("GET", "status", key=acme_key, user="alice")
    assert (answer.status, answer.json) == (
        200,
        {"authenticated": False, "user_id": "alice", "message": "No OAuth token found"},
    )


def test_both_forms_of_the_address_answer(ask: Caller, acme_key: str) -> None:
    for path in ("status", "status/"):
        assert ask("GET", path, key=acme_key, user="alice").status == 200


def test_a_proxys_accept_header_does_not_matter(ask: Caller, acme_key: str) -> None:
    answer = ask("GET", "status", key=acme_key, user="alice", headers={"Accept": "text/html"})
    assert (answer.status, answer.headers["Content-Type"]) == (200, "application/json")


@pytest.mark.parametrize("user", USERS)
def test_every_user_id_finds_exactly_its_own(
    ask: Caller, acme: Tenant, acme_key: str, store: Store, upstream: Simulator, user: str
) -> None:
    store(acme, user, upstream.new_login("somebody"))
    answer = ask("GET", "status", key=acme_key, user=user)
    assert (answer.json["authenticated"], answer.json["user_id"]) == (True, user)
    for other in (user.upper() + "X"[: len(user) < 256], user[:-1] or "y"):
        if other != user:
            assert ask("GET", "status", key=acme_key, user=other).json["authenticated"] is False


def test_user_ids_differ_by_case_and_normal_form(
    ask: Caller, acme: Tenant, acme_key: str, store: Store, upstream: Simulator
) -> None:
    store(acme, "\u00fc", upstream.new_login("somebody"))
    for other in ("\u00dc", "u\u0308", "\u00fc "):
        assert ask("GET", "status", key=acme_key, user=other).json["authenticated"] is False


@pytest.mark.parametrize(
    ("changes", "status", "authenticated"),
    [
        ({}, "active", True),
        ({"expires_at": 1}, "active", False),
        ({"lease_id": "0" * 32}, "refreshing", True),
        ({"unanswered_presentations": 1}, "outcome_unknown", True),
        (
            {"standing": Standing.REAUTHORIZATION_REQUIRED, "refresh_due_at": None},
            "reauthorization_required",
            True,
        ),
        ({"standing": Standing.QUARANTINED, "refresh_due_at": None}, "quarantined", False),
        ({"suspended_at": 1}, "suspended", False),
        (
            {"expires_at": 1, "refresh_token_encrypted": None, "refresh_due_at": None},
            "expired",
            False,
        ),
    ],
)
def test_each_status_has_its_name_and_can_be_filtered_by(
    ask: Caller, acme: Tenant, acme_key: str, store: Store, upstream: Simulator,
    changes: dict[str, object], status: str, authenticated: bool,
) -> None:  # fmt: skip
    credential = store(acme, "alice", upstream.new_login("alice"))
    if "lease_id" in changes:
        # What is further away than any lease would be of a clock that was set back.
        changes = {**changes, "lease_until": time.time() + 30}
    OAuthCredential.objects.filter(pk=credential.pk).update(**changes)
    body = ask("GET", "status", key=acme_key, user="alice").json
    assert (body["status"], body["authenticated"]) == (status, authenticated)
    (listed,) = ask("GET", f"credentials?status={status}", key=acme_key).json["credentials"]
    # A second may begin between the two.
    assert abs(listed.pop("expires_in") - body.pop("expires_in")) <= 1
    assert listed == body
    other = "revoked" if status != "revoked" else "active"
    assert ask("GET", f"credentials?status={other}", key=acme_key).json["credentials"] == []


def test_without_auto_refresh_a_token_past_its_end_is_expired(
    ask: Caller, acme: Tenant, acme_key: str, store: Store, upstream: Simulator, settings: Settings
) -> None:
    settings.CLAUDE_OAUTH_AUTO_REFRESH = False
    store(acme, "alice", upstream.new_login("alice", expires_in=-5))
    body = ask("GET", "status", key=acme_key, user="alice").json
    assert (body["status"], body["auto_refresh_enabled"]) == ("expired", False)
    assert "oauthvault refresh --tenant acme --user alice" in body["problem"]
    assert len(ask("GET", "credentials?status=expired", key=acme_key).json["credentials"]) == 1


def test_a_revoked_credential_says_so(
    ask: Caller, acme: Tenant, acme_key: str, store: Store, upstream: Simulator
) -> None:
    store(acme, "alice", upstream.new_login("alice"))
    vault.revoke(tenant=acme, user_id="alice", actor="test", now=time.time())
    body = ask("GET", "status", key=acme_key, user="alice").json
    assert (body["authenticated"], body["status"]) == (False, "revoked")
    assert "import_credentials" in body["problem"]


def test_a_problem_comes_with_the_command_that_ends_it(
    ask: Caller, acme: Tenant, acme_key: str, store: Store, upstream: Simulator
) -> None:
    credential = store(acme, "alice", upstream.new_login("alice"))
    OAuthCredential.objects.filter(pk=credential.pk).update(
        standing=Standing.REAUTHORIZATION_REQUIRED,
        problem=Problem.ROTATED_ELSEWHERE,
        refresh_due_at=None,
    )
    body = ask("GET", "status", key=acme_key, user="alice").json
    assert "--tenant acme --user alice" in body["problem"]


def test_a_login_near_its_end_works_and_says_so(
    ask: Caller, acme: Tenant, acme_key: str, store: Store, upstream: Simulator
) -> None:
    credential = store(acme, "alice", upstream.new_login("alice"))
    OAuthCredential.objects.filter(pk=credential.pk).update(
        login_expires_at=int(time.time()) + 2 * 86_400 + 60
    )
    body = ask("GET", "status", key=acme_key, user="alice").json
    assert (body["authenticated"], body["status"]) == (True, "active")
    assert body["problem"].startswith("This login ends in 2 days, and no refresh extends it.")
    assert "--tenant acme --user alice" in body["problem"]


def test_a_token_near_its_end_needs_its_refresh(
    ask: Caller, acme: Tenant, acme_key: str, store: Store, upstream: Simulator
) -> None:
    store(acme, "alice", upstream.new_login("alice", expires_in=100))
    body = ask("GET", "status", key=acme_key, user="alice").json
    assert (body["needs_refresh"], body["authenticated"]) == (True, True)


def test_the_list_has_every_page_once_and_only_the_own_tenant(
    ask: Caller, acme: Tenant, globex: Tenant, acme_key: str, globex_key: str, store: Store,
    upstream: Simulator,
) -> None:  # fmt: skip
    users = sorted(["alice", "bob", "dora", "ünïcødé", "zed"])
    for user in users:
        store(acme, user, upstream.new_login(user))
    store(globex, "carol", upstream.new_login("carol"))
    seen, cursor = [], ""
    while True:
        page = ask("GET", f"credentials?limit=2{cursor}", key=acme_key).json
        seen += [credential["user_id"] for credential in page["credentials"]]
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={page['next_cursor']}"
    assert sorted(seen) == users
    assert len(page["credentials"]) == 1
    theirs = ask("GET", "credentials", key=globex_key).json
    assert [credential["user_id"] for credential in theirs["credentials"]] == ["carol"]


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=501",
        "limit=x",
        "status=great",
        "cursor=%FF",
        "cursor=_w",
        "cursor=AA==",
        "user=bob",
    ],
)
def test_a_query_that_cannot_be_meant_is_refused_by_name(
    ask: Caller, acme_key: str, query: str
) -> None:
    answer = ask("GET", f"credentials?{query}", key=acme_key)
    assert (answer.status, answer.code) == (400, "invalid_request")
    assert list(answer.json["errors"]) == [query.partition("=")[0]]
