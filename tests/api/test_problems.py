"""Every way of going wrong has the same shape, its own code, and tells nothing of others'."""

import io
import time
from contextlib import ExitStack
from typing import Any

import pytest
from django.conf import settings
from django.db import OperationalError, connection
from pytest_django import Settings

from api import bodies
from tests.api.conftest import Caller
from tests.conftest import Store
from tests.simulator import Simulator
from tokens.models import OAuthCredential, Tenant

LIMIT = 64 * 1024


@pytest.mark.parametrize("path", ["nothing", "token/", "token/other", "", "../x", "status//"])
def test_an_unknown_address_is_a_problem_too(ask: Caller, acme_key: str, path: str) -> None:
    if path == "token/":
        assert ask("GET", path, key=acme_key, user="alice").code == "no_token"
        return
    answer = ask("GET", path, key=acme_key)
    assert (answer.status, answer.code) == (404, "not_found")
    assert answer.headers["Content-Type"] == "application/problem+json"


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "status"), ("GET", "refresh"), ("POST", "revoke"), ("DELETE", "token"),
     ("PATCH", "token"), ("GET", "token/rejected"), ("OPTIONS", "token"), ("POST", "health"),
     ("POST", "credentials"), ("PUT", "/livez"), ("POST", "/metrics")],
)  # fmt: skip
def test_another_method_is_405_with_those_allowed(
    ask: Caller, acme_key: str, method: str, path: str
) -> None:
    answer = ask(method, path, key=acme_key, user="alice")
    assert (answer.status, answer.code) == (405, "method_not_allowed")
    assert answer.headers["Allow"]


@pytest.mark.parametrize(
    "body",
    [b"{", b"nonsense sk-ant-oat01-canary0000", b"\xff\xfe", b"NaN", b'{"generation": Infinity}',
     b"[" * 60_000, b'{"a":' * 10_000],
    ids=lambda body: repr(body[:12]),
)  # fmt: skip
def test_what_is_no_json_is_refused_and_not_repeated(
    ask: Caller, acme_key: str, body: bytes
) -> None:
    for method, path in (("PUT", "token"), ("POST", "token/rejected"), ("POST", "token/identify")):
        answer = ask(method, path, key=acme_key, user="alice", body=body)
        assert (answer.status, answer.code) == (400, "invalid_json")
        assert "canary" not in answer.text


@pytest.mark.parametrize(
    ("body", "named"),
    [(b'{"accessToken": "one", "expiresAt": 1, "accessToken": "two"}', "accessToken"),
     (b'{"generation": 1, "generation": 1}', "generation"),
     (b'{"claudeAiOauth": {"scopes": [], "scopes": []}}', "scopes"),
     (b'[{"a": 1, "\\u0061": 2}]', "a"),
     (b'{"sk-ant-oat01-canary0000": 1, "sk-ant-oat01-canary0000": 2}', "(unnamed)")],
    ids=lambda value: repr(value[:24]),
)  # fmt: skip
def test_a_name_that_is_given_twice_is_refused(
    ask: Caller, acme_key: str, body: bytes, named: str
) -> None:
    """Of two values one would be taken in silence, and another reader might take the other."""
    for method, path in (("PUT", "token"), ("POST", "token/rejected"), ("POST", "refresh")):
        answer = ask(method, path, key=acme_key, user="alice", body=body)
        assert (answer.status, answer.code) == (400, "invalid_json")
        assert f"{named} is given twice" in answer.json["detail"]
        assert "canary" not in answer.text


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "x", ""])
def test_another_content_type_is_415(ask: Caller, acme_key: str, kind: str) -> None:
    for method, path in (("PUT", "token"), ("POST", "token/rejected"), ("POST", "token/identify")):
        answer = ask(method, path, key=acme_key, user="alice", body=b"{}", content_type=kind)
        assert (answer.status, answer.code) == (415, "unsupported_media_type")


def test_json_with_a_charset_is_json(ask: Caller, acme_key: str) -> None:
    answer = ask(
        "POST", "token/rejected", key=acme_key, user="alice", body=b'{"generation": 1}',
        content_type="Application/JSON; charset=utf-8",
    )  # fmt: skip
    assert answer.code == "no_token"


@pytest.mark.parametrize(
    ("method", "path"),
    [("PUT", "token"), ("POST", "token/rejected"), ("POST", "refresh"), ("DELETE", "revoke")],
)
def test_a_body_above_64_kib_is_413_and_one_of_64_kib_is_read(
    ask: Caller, acme_key: str, method: str, path: str
) -> None:
    blank = b"{" + b" " * (LIMIT - 2) + b"}"
    assert ask(method, path, key=acme_key, user="alice", body=blank).status in (400, 404, 422)
    answer = ask(method, path, key=acme_key, user="alice", body=blank + b" ")
    assert (answer.status, answer.code) == (413, "body_too_large")


def chunked(ask: Caller, key: str, body: bytes) -> Any:
    return ask(
        "PUT", "token", key=key, user="alice", headers={"Transfer-Encoding": "chunked"},
        CONTENT_LENGTH="", CONTENT_TYPE="application/json", **{"wsgi.input": io.BytesIO(body)},
    )  # fmt: skip


def test_a_body_of_unannounced_length_is_bounded_as_well(ask: Caller, acme_key: str) -> None:
    endless = io.BytesIO(b"x" * 10 * LIMIT)
    answer = ask(
        "PUT", "token", key=acme_key, user="alice", headers={"Transfer-Encoding": "chunked"},
        **{"wsgi.input": endless, "CONTENT_LENGTH": ""},
    )  # fmt: skip
    assert (answer.status, answer.code) == (413, "body_too_large")
    assert endless.tell() == LIMIT + 1


def test_a_body_of_unannounced_length_is_read(
    ask: Caller, acme_key: str, upstream: Simulator
) -> None:
    end = int(time.time()) + 100
    body = b'{"accessToken": "a", "refreshToken": "b", "expiresAt": %d}' % end
    assert chunked(ask, acme_key, body).status == 201
    assert chunked(ask, acme_key, b"{").code == "invalid_json"


def test_where_slow_senders_have_the_places_only_requests_with_a_body_are_told_to_come_back(
    ask: Caller, acme_key: str
) -> None:
    with ExitStack() as stack:
        while bodies._room.acquire(blocking=False):
            stack.callback(bodies._room.release)
        answer = ask("POST", "token/rejected", key=acme_key, user="alice", json={"generation": 1})
        assert (answer.status, answer.code) == (503, "unavailable")
        assert answer.headers["Retry-After"] == "1"
        assert ask("GET", "token", key=acme_key, user="alice").code == "no_token"
    answer = ask("POST", "token/rejected", key=acme_key, user="alice", json={"generation": 1})
    assert answer.code == "no_token"


class _Broken(io.BytesIO):
    """A connection that ends while it is read."""

    def read(self, most: int | None = -1) -> bytes:
        raise ConnectionResetError


def test_a_sender_who_goes_away_gives_up_the_place(ask: Caller, acme_key: str) -> None:
    for _ in range(settings.OAUTHVAULT_WEB_THREADS):
        answer = ask("PUT", "token", key=acme_key, body=b"{}", **{"wsgi.input": _Broken()})
        assert (answer.status, answer.code) == (400, "invalid_request")


def test_a_body_that_ends_early_is_not_read_as_a_shorter_one(ask: Caller, acme_key: str) -> None:
    """The sender went away in the middle; what came may be good JSON all the same."""
    answer = ask(
        "POST", "refresh", key=acme_key, user="alice", body=b"{}" + b" " * 10,
        **{"wsgi.input": io.BytesIO(b"{}")},
    )  # fmt: skip
    assert (answer.status, answer.code) == (400, "invalid_request")


def test_a_request_id_of_the_callers_is_kept_and_a_harmful_one_is_not(ask: Caller) -> None:
    answer = ask("GET", "status", headers={"X-Request-ID": "their-own-id-01"})
    assert answer.json["request_id"] == "their-own-id-01"
    answer = ask("GET", "status", headers={"X-Request-ID": "<script>alert(1)</script>"})
    assert "script" not in answer.text


def test_a_database_that_does_not_answer_is_503_and_says_no_more(
    ask: Caller, acme_key: str, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise OperationalError("host=db.internal user=oauthvault password=canary")

    with connection.execute_wrapper(broken):
        answer = ask("GET", "status", key=acme_key, user="alice")
    assert (answer.status, answer.code) == (503, "unavailable")
    assert int(answer.headers["Retry-After"]) >= 1
    assert "canary" not in answer.text
    assert "internal" not in answer.text


def test_an_unexpected_failure_is_500_with_a_request_id_and_is_logged(
    ask: Caller, acme_key: str, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("canary")

    with connection.execute_wrapper(broken):
        answer = ask("GET", "status", key=acme_key, user="alice")
    assert (answer.status, answer.code) == (500, "internal_error")
    assert "canary" not in answer.text
    assert "ZeroDivisionError" in caplog.text


def test_a_token_that_does_not_open_is_said_without_naming_a_key(
    ask: Caller, acme: Tenant, acme_key: str, store: Store, upstream: Simulator
) -> None:
    alice = store(acme, "alice", upstream.new_login("alice"))
    bob = store(acme, "bob", upstream.new_login("bob"))
    OAuthCredential.objects.filter(pk=bob.pk).update(
        access_token_encrypted=alice.access_token_encrypted
    )
    answer = ask("GET", "token", key=acme_key, user="bob")
    assert (answer.status, answer.code) == (500, "encryption_error")
    assert alice.data_key is not None
    assert alice.data_key.key_id not in answer.text


def test_another_host_name_is_a_problem_too(ask: Caller, settings: Settings) -> None:
    settings.ALLOWED_HOSTS = ["vault.example"]
    answer = ask("GET", "/livez", headers={"Host": "evil.example"})
    assert (answer.status, answer.code) == (400, "invalid_request")
    assert "evil" not in answer.text
