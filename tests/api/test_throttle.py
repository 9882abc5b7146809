"""Guessing is slowed, and locks nobody out."""

import os
import pickle
import secrets
import time
from pathlib import Path

import pytest
import redis
from django.db import connection
from django.test.utils import CaptureQueriesContext
from pytest_django import Settings

from api import throttle
from api.keys import find_key, revoke_key
from oauthvault.cache import shared
from tests.api.conftest import Answer, Caller
from tests.conftest import MakeKey
from tests.vault.conftest import NO_REDIS_THERE
from tokens.models import Tenant
from tokens.networks import address_of
from tokens.secret import Secret

MALLORY, ELSEWHERE = "198.51.100.66", "203.0.113.9"


def guess(ask: Caller, key: str | None = None, *, address: str = MALLORY) -> Answer:
    shown = key or f"ovs_{secrets.token_urlsafe(32)}"
    return ask("GET", "status", key=shown, user="alice", REMOTE_ADDR=address)


def fail(ask: Caller, times: int, key: str | None = None, *, address: str = MALLORY) -> None:
    for _ in range(times):
        assert guess(ask, key, address=address).code == "invalid_key"


@pytest.fixture
def slowed(ask: Caller, db: None) -> None:
    """Mallory has guessed as often as anybody may."""
    fail(ask, throttle.MOST_FROM_ADDRESS)


@pytest.mark.usefixtures("slowed")
def test_after_many_guesses_an_unknown_key_is_refused_before_it_is_looked_up(
    ask: Caller,
) -> None:
    guess(ask)  # Reads which keys there are.
    with CaptureQueriesContext(connection) as queries:
        refused = guess(ask)
        nonsense = guess(ask, "nonsense")
    assert (refused.status, refused.code) == (429, "rate_limited")
    assert int(refused.headers["Retry-After"]) > 0
    assert nonsense.without_request_id[0] == 429
    assert [each for each in queries.captured_queries if "digest" in each["sql"]] == []
    assert guess(ask, address=ELSEWHERE).code == "invalid_key"


@pytest.mark.usefixtures("slowed")
def test_a_good_key_is_answered_from_an_address_that_is_slowed(
    ask: Caller, acme: Tenant, make_key: MakeKey
) -> None:
    """LiteLLM and the stranger stand behind the same proxy; this process has not seen the key
    before, and a key that is made in the middle of it is good as well."""
    assert guess(ask).code == "rate_limited"
    throttle._known._looked_at = float("-inf")  # A second later.
    for _ in range(2):
        assert guess(ask, make_key(acme)).status == 200
        throttle._known._looked_at = float("-inf")
    assert guess(ask).code == "rate_limited"


def test_guesses_at_one_key_never_block_the_right_one(
    ask: Caller, acme: Tenant, make_key: MakeKey
) -> None:
    """From a different address each time, all with its first twelve characters."""
    right = make_key(acme)
    for number in range(throttle.MOST_ON_PREFIX):
        wrong = right[:12] + secrets.token_urlsafe(26)
        assert guess(ask, wrong, address=f"198.51.100.{number}").code == "invalid_key"
    assert guess(ask, right[:12] + "x" * 35, address=ELSEWHERE).code == "rate_limited"
    assert guess(ask, right, address=ELSEWHERE).status == 200
    assert guess(ask, address=ELSEWHERE).code == "invalid_key", "another prefix"


@pytest.mark.usefixtures("slowed")
def test_while_slowed_no_answer_tells_a_key_that_there_is_from_one_that_there_is_not(
    ask: Caller, acme: Tenant, make_key: MakeKey
) -> None:
    revoked = make_key(acme)
    row = find_key(revoked)
    assert row is not None
    revoke_key(key=row, actor="test", now=time.time())
    shown = [
        revoked,
        make_key(acme, networks=["10.1.2.0/24"]),
        make_key(acme, expires_at=int(time.time()) - 5),
        "nonsense",
        f"ovs_{secrets.token_urlsafe(32)}",
    ]
    answers = [guess(ask, key) for key in shown]
    assert {(answer.status, answer.code) for answer in answers} == {(429, "rate_limited")}
    assert len({answer.json["detail"] for answer in answers}) == 1


def test_a_good_key_counts_for_nothing_and_no_key_is_no_guess(ask: Caller, acme_key: str) -> None:
    for _ in range(throttle.MOST_FROM_ADDRESS + 5):
        assert guess(ask, acme_key).status == 200
        assert ask("GET", "status", REMOTE_ADDR=MALLORY).code == "invalid_key"
    assert guess(ask).code == "invalid_key"


def test_a_key_that_was_good_is_refused_once_it_is_revoked(ask: Caller, acme_key: str) -> None:
    assert guess(ask, acme_key).status == 200
    fail(ask, throttle.MOST_FROM_ADDRESS)
    row = find_key(acme_key)
    assert row is not None
    revoke_key(key=row, actor="test", now=time.time())
    assert guess(ask, acme_key).code == "rate_limited"


def test_whoever_guesses_the_token_of_the_metrics_is_slowed_and_the_right_one_is_answered(
    ask: Caller, db: None, settings: Settings
) -> None:
    right = "token-for-metrics"
    settings.OAUTHVAULT_METRICS_TOKEN = Secret(right)

    def scrape(key: str | None, address: str = MALLORY) -> Answer:
        return ask("GET", "/metrics", key=key, REMOTE_ADDR=address)

    for _ in range(throttle.MOST_FROM_ADDRESS):
        assert scrape("wrong").code == "invalid_key"
        assert scrape(None).code == "invalid_key", "no guess"
    slowed = scrape("wrong")
    assert (slowed.status, slowed.code) == (429, "rate_limited")
    assert int(slowed.headers["Retry-After"]) > 0
    assert scrape(right).status == 200
    assert scrape("wrong", ELSEWHERE).code == "invalid_key"


def test_a_whole_line_of_ipv6_addresses_is_one_neighbour(ask: Caller, db: None) -> None:
    for number in range(throttle.MOST_FROM_ADDRESS):
        fail(ask, 1, address=f"2001:db8::{number:x}")
    assert guess(ask, address="2001:db8::ffff").code == "rate_limited"
    assert guess(ask, address="2001:db8:0:1::1").code == "invalid_key"


def test_the_memory_of_failures_is_bounded(
    ask: Caller, db: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(throttle, "_MOST_COUNTS", 6)
    for number in range(9):
        fail(ask, 1, address=f"198.51.100.{number}")
    assert len(throttle._local._counts) == 6


def test_where_there_are_more_keys_than_can_be_remembered_nobody_is_slowed(
    ask: Caller, acme: Tenant, make_key: MakeKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(throttle, "_MOST_KNOWN", 2)
    keys = [make_key(acme) for _ in range(3)]
    fail(ask, throttle.MOST_FROM_ADDRESS)
    assert [guess(ask, key).status for key in keys] == [200, 200, 200]


def test_without_redis_each_process_counts_for_itself(
    ask: Caller, db: None, settings: Settings
) -> None:
    """And one that is away costs nobody an answer."""
    settings.REDIS_URL = NO_REDIS_THERE
    settings.CACHES = {
        **settings.CACHES,
        "shared": {
            "BACKEND": "django.core.cache.backends.redis.RedisCache",
            "LOCATION": NO_REDIS_THERE.reveal(),
        },
    }
    throttle._cache_rests_until = 0.0
    fail(ask, throttle.MOST_FROM_ADDRESS)
    assert throttle._cache_rests_until > 0, "it was asked once, and then left alone"
    assert guess(ask).code == "rate_limited"
    throttle._cache_rests_until = 0.0


def test_through_redis_one_process_knows_what_the_others_have_counted(
    ask: Caller, db: None, settings: Settings
) -> None:
    if settings.REDIS_URL is None:
        pytest.skip("needs Redis, which the PostgreSQL pass has")
    fail(ask, throttle.MOST_FROM_ADDRESS)
    _, names = throttle._local.forget()  # As another process, which has counted nothing.
    assert guess(ask).code == "rate_limited"
    for name in names:
        throttle._local.learn(name, 1, window=throttle._window()[0])


class _RunsWhenUnpickled:
    def __init__(self, folder: Path) -> None:
        self._folder = str(folder)

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (self._folder,)


@pytest.mark.parametrize("written", ["a pickle", "another value", "no value at all"])
def test_whoever_writes_into_redis_has_nothing_run_by_it(
    ask: Caller, db: None, settings: Settings, tmp_path: Path, written: str
) -> None:
    if settings.REDIS_URL is None:
        pytest.skip("needs Redis, which the PostgreSQL pass has")
    made = tmp_path / "made by the pickle"
    planted = {
        "a pickle": pickle.dumps(_RunsWhenUnpickled(made)),
        "another value": b'["thirty"]',
        "no value at all": b"\xff",
    }[written]
    names = [name for name, _ in throttle.Showing(address_of(MALLORY)).counted_by()]
    window = throttle._window()[0]
    with redis.Redis.from_url(settings.REDIS_URL.reveal()) as store:
        for number in (window, window + 1):  # The minute may end meanwhile.
            store.set(shared().make_key(throttle._cache_key(names[0], number)), planted)
        throttle._cache_rests_until = 0.0
        assert guess(ask).code == "invalid_key"
        assert throttle._cache_rests_until > 0, "it was read, and was no number"
        throttle._cache_rests_until = 0.0
    assert not made.exists()
