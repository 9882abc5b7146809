"""PUT /auth/claude/token: files as people have them, and a name for everything wrong."""

import json
import time
from typing import Any

import pytest

from tests.api.conftest import Answer, Caller
from tests.simulator import Simulator
from tokens.models import OAuthCredential

TOKENS = {"accessToken": "at-of-alice-01", "refreshToken": "rt-of-alice-01"}


def put(ask: Caller, key: str, body: Any, user: str = "alice", **headers: str) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return ask("PUT", "token", key=key, user=user, json=body, headers=named)


def later(seconds: int = 3600) -> int:
    return int(time.time()) + seconds


def test_a_whole_file_is_new_then_unchanged_then_replaced(
    ask: Caller, acme_key: str, upstream: Simulator
) -> None:
    login = upstream.new_login("alice")
    first = put(ask, acme_key, login.credentials_file())
    assert first.status == 201
    assert (first.json["authenticated"], first.json["user_id"]) == (True, "alice")
    assert any("Claude Code" in warning for warning in first.json["warnings"])
    assert login.access_token not in first.text
    assert put(ask, acme_key, login.credentials_file()).status == 200
    assert OAuthCredential.objects.get().generation == 1
    assert put(ask, acme_key, upstream.new_login("alice").credentials_file()).status == 200
    assert OAuthCredential.objects.get().generation == 2


@pytest.mark.parametrize("snake", [True, False])
@pytest.mark.parametrize("unit", [1, 1000])
@pytest.mark.parametrize("as_text", [True, False])
def test_both_spellings_and_both_units_mean_the_same(
    ask: Caller, acme_key: str, snake: bool, unit: int, as_text: bool
) -> None:
    end = later() * unit
    body: dict[str, Any] = {**TOKENS, "expiresAt": str(end) if as_text else end}
    if snake:
        names = {"accessToken": "access_token", "refreshToken": "refresh_token"}
        body = {names.get(name, "expires_at"): value for name, value in body.items()}
    answer = put(ask, acme_key, body)
    assert answer.status == 201
    assert answer.json["expires_at"] == end // unit
    assert answer.json["scopes"] == ["org:create_api_key", "user:profile", "user:inference"]
    assert answer.json["is_max"] is True
    assert any("org:create_api_key" in warning for warning in answer.json["warnings"])


def test_all_optional_fields_are_kept(ask: Caller, acme_key: str) -> None:
    answer = put(
        ask,
        acme_key,
        {
            **TOKENS,
            "expiresAt": later(),
            "scopes": ["user:inference"],
            "isMax": False,
            "subscriptionType": "pro",
            "refreshTokenExpiresAt": later(86_400) * 1000,
        },
    )
    body = answer.json
    assert (body["scopes"], body["is_max"]) == (["user:inference"], False)
    assert abs(body["login_expires_at"] - later(86_400)) <= 2


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"accessToken": None}, "accessToken"),
        ({"accessToken": 5}, "accessToken"),
        ({"accessToken": ""}, "accessToken"),
        ({"accessToken": "with blank"}, "accessToken"),
        ({"accessToken": "x" * 9000}, "accessToken"),
        ({"accessToken": "\ud800"}, "accessToken"),
        ({"refreshToken": ""}, "refreshToken"),
        ({"refreshToken": "at-of-alice-01"}, "refreshToken"),
        ({"expiresAt": "tomorrow"}, "expiresAt"),
        ({"expiresAt": None}, "expiresAt"),
        ({"expiresAt": True}, "expiresAt"),
        ({"expiresAt": -5}, "expiresAt"),
        ({"expiresAt": 9.9e15}, "expiresAt"),
        ({"expiresAt": {"$date": 1}}, "expiresAt"),
        ({"scopes": "", "isMax": "yes"}, "isMax"),
        ({"scopes": [1]}, "scopes"),
        ({"scopes": ["\u0000"]}, "scopes"),
        ({"scopes": ["\ud800"]}, "scopes"),
        ({"subscriptionType": ["max"]}, "subscriptionType"),
        ({"subscriptionType": "\u0000"}, "subscriptionType"),
        ({"refreshTokenExpiresAt": 1}, "refreshTokenExpiresAt"),
        ({"access_token": "at-again"}, "access_token"),
        ({"userId": "bob"}, "userId"),
        ({"\ud800": 1}, "(unnamed)"),
    ],
    ids=str,
)
def test_each_wrong_field_is_named_and_no_token_echoed(
    ask: Caller, acme_key: str, changes: dict[str, Any], field: str
) -> None:
    answer = put(ask, acme_key, {**TOKENS, "expiresAt": later(), **changes})
    assert (answer.status, answer.code) == (422, "invalid_credentials_file")
    assert list(answer.json["errors"]) == [field]
    assert "of-alice" not in answer.text
    assert "xxxx" not in answer.text
    assert not OAuthCredential.objects.exists()


def test_everything_wrong_is_said_at_once(ask: Caller, acme_key: str) -> None:
    answer = put(ask, acme_key, {"claudeAiOauth": {"refreshToken": "", "isMax": 1, "more": 2}})
    assert set(answer.json["errors"]) == {
        f"claudeAiOauth.{name}"
        for name in ("accessToken", "refreshToken", "expiresAt", "isMax", "more")
    }


def test_a_token_in_the_place_of_a_name_is_not_echoed(ask: Caller, acme_key: str) -> None:
    answer = put(ask, acme_key, {"sk-ant-oat01-abcdefghijklmnop": "accessToken"})
    assert answer.status == 422
    assert "abcdefghijklmnop" not in answer.text


@pytest.mark.parametrize("body", [[], "text", 5, None, {"claudeAiOauth": []}])
def test_what_is_no_object_is_no_file(ask: Caller, acme_key: str, body: Any) -> None:
    answer = ask("PUT", "token", key=acme_key, user="alice", body=json.dumps(body).encode())
    assert (answer.status, answer.code) == (422, "invalid_credentials_file")


def test_only_the_first_time(ask: Caller, acme_key: str, upstream: Simulator) -> None:
    first, second = upstream.new_login("alice"), upstream.new_login("alice")
    assert put(ask, acme_key, first.credentials_file(), If_None_Match="*").status == 201
    again = put(ask, acme_key, second.credentials_file(), If_None_Match="*")
    assert (again.status, again.code) == (412, "precondition_failed")
    other = put(ask, acme_key, second.credentials_file(), If_None_Match='"x"')
    assert (other.status, list(other.json["errors"])) == (400, ["If-None-Match"])
    assert OAuthCredential.objects.get().generation == 1


def test_a_login_that_was_replaced_or_revoked_does_not_come_back(
    ask: Caller, acme_key: str, upstream: Simulator
) -> None:
    old, new = upstream.new_login("alice"), upstream.new_login("alice")
    put(ask, acme_key, old.credentials_file())
    put(ask, acme_key, new.credentials_file())
    answer = put(ask, acme_key, old.credentials_file())
    assert (answer.status, answer.code) == (409, "stale_credential")
    ask("DELETE", "revoke", key=acme_key, user="alice")
    for headers in ({}, {"If_None_Match": "*"}):
        answer = put(ask, acme_key, new.credentials_file(), **headers)
        assert (answer.status, answer.code) == (409, "stale_credential")
    assert put(ask, acme_key, upstream.new_login("alice").credentials_file()).status == 200
