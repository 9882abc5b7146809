"""/auth/claude/settings: how one credential is refreshed, and whose word that is."""

from typing import Any

import pytest
from pytest_django import Settings

from tests.api.conftest import Caller
from tests.conftest import MakeKey, Store
from tests.simulator import Simulator
from tokens.models import AuditEvent, OAuthCredential, Tenant

NOTHING_OF_ITS_OWN = {
    "auto_refresh": None, "refresh_threshold": None, "max_retries": None, "retry_backoff": None,
}  # fmt: skip
DEPLOYED = {
    "auto_refresh": True,
    "refresh_threshold": 300,
    "max_retries": 3,
    "retry_backoff": "exponential",
}


@pytest.fixture
def alice(acme: Tenant, store: Store, upstream: Simulator) -> OAuthCredential:
    return store(acme, "alice", upstream.new_login("alice", expires_in=500))


def test_what_governs_is_said_with_whose_it_is(
    ask: Caller, alice: OAuthCredential, acme_key: str
) -> None:
    answer = ask("GET", "settings", key=acme_key, user="alice")
    assert answer.status == 200
    assert answer.json == {
        "user_id": "alice",
        "own": NOTHING_OF_ITS_OWN,
        "effective": DEPLOYED,
        "governed_by": dict.fromkeys(DEPLOYED, "deployment"),
    }


def test_what_is_set_governs_and_shows_in_the_status(
    ask: Caller, alice: OAuthCredential, acme_key: str
) -> None:
    chosen = {
        "auto_refresh": False, "refresh_threshold": 600, "max_retries": 0, "retry_backoff": "fixed",
    }  # fmt: skip
    answer = ask("PUT", "settings", key=acme_key, user="alice", json=chosen)
    assert (answer.status, answer.json["own"], answer.json["effective"]) == (200, chosen, chosen)
    assert set(answer.json["governed_by"].values()) == {"credential"}
    assert ask("GET", "settings", key=acme_key, user="alice").json == answer.json
    status = ask("GET", "status", key=acme_key, user="alice").json
    assert (status["auto_refresh_enabled"], status["needs_refresh"]) == (False, True)
    (listed,) = ask("GET", "credentials", key=acme_key).json["credentials"]
    assert listed["auto_refresh_enabled"] is False


def test_past_its_end_a_token_that_is_switched_off_is_refused_as_expired(
    ask: Caller, acme: Tenant, acme_key: str, store: Store, upstream: Simulator
) -> None:
    store(acme, "alice", upstream.new_login("alice", expires_in=-5))
    ask("PUT", "settings", key=acme_key, user="alice", json={"auto_refresh": False})
    refused = ask("GET", "token", key=acme_key, user="alice")
    assert (refused.status, refused.code) == (409, "token_expired")
    assert refused.json["title"] == "OAuth token expired"
    assert upstream.counts.token_calls == 0
    assert ask("GET", "status", key=acme_key, user="alice").json["status"] == "expired"
    for status, found in (("expired", 1), ("active", 0)):
        listed = ask("GET", f"credentials?status={status}", key=acme_key).json["credentials"]
        assert len(listed) == found


def test_what_is_null_or_left_out_is_given_back(
    ask: Caller, alice: OAuthCredential, acme_key: str
) -> None:
    for given in ({"max_retries": None}, {}):
        ask("PUT", "settings", key=acme_key, user="alice", json=DEPLOYED)
        answer = ask("PUT", "settings", key=acme_key, user="alice", json=given)
        assert answer.json["own"] == NOTHING_OF_ITS_OWN


def test_what_the_operator_switched_off_is_not_switched_on_and_that_is_said(
    ask: Caller, alice: OAuthCredential, acme_key: str, settings: Settings
) -> None:
    settings.CLAUDE_OAUTH_AUTO_REFRESH = False
    answer = ask("PUT", "settings", key=acme_key, user="alice", json={"auto_refresh": True})
    assert answer.json["own"]["auto_refresh"] is True
    assert answer.json["effective"]["auto_refresh"] is False
    assert answer.json["governed_by"]["auto_refresh"] == "deployment"
    status = ask("GET", "status", key=acme_key, user="alice").json
    assert status["auto_refresh_enabled"] is False


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"treshold": 600}, "treshold"),
        ({"auto_refresh": "false"}, "auto_refresh"),
        ({"auto_refresh": 0}, "auto_refresh"),
        ({"refresh_threshold": 0}, "refresh_threshold"),
        ({"refresh_threshold": 86_401}, "refresh_threshold"),
        ({"refresh_threshold": "600"}, "refresh_threshold"),
        ({"refresh_threshold": 600.0}, "refresh_threshold"),
        ({"refresh_threshold": True}, "refresh_threshold"),
        ({"max_retries": -1}, "max_retries"),
        ({"max_retries": 11}, "max_retries"),
        ({"retry_backoff": "quick"}, "retry_backoff"),
        ({"retry_backoff": ""}, "retry_backoff"),
        ([], "(body)"),
    ],
)
def test_what_cannot_be_is_refused_by_name_and_nothing_is_set(
    ask: Caller, alice: OAuthCredential, acme_key: str, body: Any, field: str
) -> None:
    given = {"max_retries": 1, **body} if isinstance(body, dict) else body
    answer = ask("PUT", "settings", key=acme_key, user="alice", json=given)
    assert (answer.status, answer.code) == (400, "invalid_request")
    assert list(answer.json["errors"]) == [field]
    assert "quick" not in answer.text
    kept = ask("GET", "settings", key=acme_key, user="alice").json
    assert kept["own"] == NOTHING_OF_ITS_OWN


@pytest.mark.parametrize("method", ["GET", "PUT"])
def test_of_nothing_there_are_no_settings(
    ask: Caller, alice: OAuthCredential, acme_key: str, method: str
) -> None:
    """As of what was revoked."""
    body = {"max_retries": 0} if method == "PUT" else None
    missing = ask(method, "settings", key=acme_key, user="nobody", json=body)
    assert (missing.status, missing.code) == (404, "no_token")
    ask("DELETE", "revoke", key=acme_key, user="alice")
    revoked = ask(method, "settings", key=acme_key, user="alice", json=body)
    assert revoked.without_request_id == missing.without_request_id


def test_a_person_has_no_say_in_it(
    ask: Caller, alice: OAuthCredential, alice_key: str, acme: Tenant, make_key: MakeKey
) -> None:
    """Nor has a service key that may not write."""
    for key, user in ((alice_key, None), (make_key(acme, scopes=["status:read"]), "alice")):
        answer = ask("PUT", "settings", key=key, user=user, json={"max_retries": 0})
        assert (answer.status, answer.code) == (403, "insufficient_scope")
    alice.refresh_from_db()
    assert alice.max_retries is None


def test_who_set_what_is_in_the_audit_trail_once(
    ask: Caller, alice: OAuthCredential, acme_key: str
) -> None:
    for _ in range(3):
        ask("PUT", "settings", key=acme_key, user="alice", json={"refresh_threshold": 600})
    record = AuditEvent.objects.get(action="refresh_settings")
    assert (record.subject, record.detail) == ("alice", {"refresh_threshold": 600})
    assert record.actor == f"key {acme_key[:12]}"
