"""A login ends for good, and that is said before."""

import logging
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from hypothesis import given
from hypothesis import strategies as st

from tokens import diagnosis, endings, isolation, vault
from tokens.credential_file import parse_credentials
from tokens.endings import DAY, WARNING_DAYS, next_announcement, rescheduled
from tokens.importing import import_credential
from tokens.models import AuditEvent, OAuthCredential, Problem, Standing, Tenant

NOW = 1_800_000_000
END = NOW + 27 * DAY

pytest_db = pytest.mark.django_db


def put(
    tenant: Tenant, user_id: str = "alice", *, now: float = NOW, number: str = "", **changes: Any
) -> OAuthCredential:
    content = {
        "accessToken": f"sk-ant-oat01-canary-{user_id}{number}",
        "refreshToken": f"sk-ant-ort01-canary-{user_id}{number}",
        "expiresAt": int(now) + 3600,
    } | changes
    return import_credential(
        tenant=tenant,
        user_id=user_id,
        offered=parse_credentials(content, now=now),
        actor="test",
        now=now,
    ).credential


def said() -> list[dict[str, Any]]:
    return list(
        AuditEvent.objects.filter(action="login_ending")
        .order_by("pk")
        .values_list("detail", flat=True)
    )


# --- when ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("left", "due_in"),
    [
        (27 * DAY, 20 * DAY),
        (7 * DAY + 1, 1),
        (7 * DAY, 0),
        (5 * DAY, 0),
        (2 * DAY, 0),
        (3600, 0),
        (0, None),
        (-DAY, None),
    ],
)
def test_the_first_warning_is_due_at_the_next_of_the_days_or_at_once(
    left: int, due_in: int | None
) -> None:
    at = next_announcement(ends_at=NOW + left, now=NOW)
    assert at == (None if due_in is None else NOW + due_in)


def test_where_nobody_knows_the_end_nothing_is_announced() -> None:
    assert next_announcement(ends_at=None, now=NOW) is None


@given(
    ends=st.integers(NOW, NOW + 40 * DAY),
    steps=st.lists(st.integers(0, 20 * DAY), max_size=30),
)
def test_a_server_that_names_the_same_end_again_has_nothing_said_twice(
    ends: int, steps: list[int]
) -> None:
    """Whenever it is asked, and whenever the sweep comes."""
    at = next_announcement(ends_at=ends, now=NOW)
    now, heard = float(NOW), []
    for step in steps:
        now += step
        at = rescheduled(announce_at=at, ended_at=ends, ends_at=ends, now=now)
        if at is not None and at <= now:
            days = endings._days_passed(ends, now=now)
            if days is not None:
                heard.append(days)
            at = endings._after_this_one(ends, now=now)
    assert heard == sorted(set(heard), reverse=True)
    assert set(heard) <= set(WARNING_DAYS)


def test_an_end_that_has_come_nearer_is_said_anew() -> None:
    at = rescheduled(announce_at=END - 7 * DAY, ended_at=END, ends_at=NOW + 2 * DAY, now=NOW)
    assert at == NOW
    again = rescheduled(announce_at=None, ended_at=NOW + 2 * DAY, ends_at=NOW + 3600, now=NOW)
    assert again == NOW


def test_an_end_that_has_moved_away_is_said_when_it_comes() -> None:
    soon = NOW + 2 * DAY
    at = rescheduled(announce_at=soon - DAY, ended_at=soon, ends_at=END, now=NOW)
    assert at == END - 7 * DAY


def test_a_warning_that_is_due_and_unsaid_stays_due() -> None:
    soon = NOW + 2 * DAY
    assert rescheduled(announce_at=NOW - 5, ended_at=soon, ends_at=soon + 9, now=NOW) == NOW


# --- what an import knows --------------------------------------------------------------------


@pytest_db
def test_a_login_without_a_word_of_its_end_is_announced_by_an_estimate(acme: Tenant) -> None:
    alice = put(acme)
    assert (endings.ends_at(alice), endings.is_estimate(alice)) == (END, True)
    assert OAuthCredential.objects.get().announce_at == END - 7 * DAY


@pytest_db
def test_the_end_that_the_file_names_is_no_estimate(acme: Tenant) -> None:
    alice = put(acme, refreshTokenExpiresAt=NOW + 12 * DAY)
    assert (endings.ends_at(alice), endings.is_estimate(alice)) == (NOW + 12 * DAY, False)
    assert OAuthCredential.objects.get().announce_at == NOW + 5 * DAY


@pytest_db
def test_without_a_refresh_token_the_access_tokens_end_is_the_logins(acme: Tenant) -> None:
    alice = put(acme, refreshToken=None, expiresAt=NOW + 360 * DAY)
    assert (endings.ends_at(alice), endings.is_estimate(alice)) == (NOW + 360 * DAY, False)
    assert OAuthCredential.objects.get().announce_at == NOW + 353 * DAY


@pytest_db
def test_a_corrected_expiry_moves_the_warning_only_where_it_moves_the_end(acme: Tenant) -> None:
    put(acme, "alice")
    put(acme, "bob", refreshToken=None, expiresAt=NOW + 360 * DAY)
    put(acme, "alice", expiresAt=NOW + 7200)
    put(acme, "bob", refreshToken=None, expiresAt=NOW + 30 * DAY)
    assert dict(OAuthCredential.objects.values_list("user_id", "announce_at")) == {
        "alice": END - 7 * DAY,
        "bob": NOW + 23 * DAY,
    }


@pytest_db
def test_a_new_login_is_warned_of_by_its_own_end(acme: Tenant) -> None:
    put(acme, refreshTokenExpiresAt=NOW + DAY // 2)
    assert endings.announce_due(now=NOW) == 1
    put(acme, number="2", refreshTokenExpiresAt=NOW + 28 * DAY)
    assert endings.announce_due(now=NOW) == 0
    assert OAuthCredential.objects.get().announce_at == NOW + 21 * DAY


# --- said once, at each of the days ----------------------------------------------------------


@pytest_db
def test_a_login_is_announced_at_seven_three_and_one_days_and_once_each(
    acme: Tenant, caplog: pytest.LogCaptureFixture
) -> None:
    put(acme)
    heard = {}
    for hour in range(28 * 24):
        if endings.announce_due(now=NOW + hour * 3600):
            heard[hour / 24] = caplog.records[-1]
        assert endings.announce_due(now=NOW + hour * 3600) == 0
    assert list(heard) == [20, 24, 26]
    assert [detail["days"] for detail in said()] == [7, 3, 1]
    assert all(detail["estimate"] for detail in said())
    last = heard[26]
    assert last.levelno == logging.WARNING
    assert "acme" in last.getMessage()
    assert "ends within 1 day, on" in last.getMessage()
    assert f"user {OAuthCredential.objects.get().user_id!r} of tenant acme" in last.getMessage()
    assert "an estimate" in last.getMessage()
    assert "canary" not in caplog.text + str(said())
    assert OAuthCredential.objects.get().announce_at is None


@pytest_db
def test_one_that_comes_with_two_days_left_is_announced_at_once_and_a_day_later(
    acme: Tenant,
) -> None:
    put(acme, refreshTokenExpiresAt=NOW + 2 * DAY)
    assert endings.announce_due(now=NOW) == 1
    assert endings.announce_due(now=NOW + DAY - 1) == 0
    assert endings.announce_due(now=NOW + DAY) == 1
    assert endings.announce_due(now=NOW + 2 * DAY) == 0
    event = AuditEvent.objects.filter(action="login_ending").first()
    assert event is not None
    assert (event.tenant, event.actor, event.subject) == (acme, "scheduler", "alice")
    assert [(detail["days"], detail["estimate"]) for detail in said()] == [(3, False), (1, False)]


@pytest_db
def test_a_token_of_a_few_hours_without_a_refresh_token_is_announced_once(acme: Tenant) -> None:
    put(acme, refreshToken=None, expiresAt=NOW + 8 * 3600)
    assert [endings.announce_due(now=NOW + hour * 3600) for hour in range(10)] == [1] + [0] * 9
    assert said()[0]["days"] == 1


@pytest_db
def test_a_scheduler_that_was_away_says_the_nearest_warning_and_not_all_of_them(
    acme: Tenant,
) -> None:
    put(acme)
    assert endings.announce_due(now=END - DAY // 2) == 1
    assert [detail["days"] for detail in said()] == [1]


@pytest_db
def test_what_has_ended_already_is_announced_no_more(acme: Tenant) -> None:
    put(acme)
    assert endings.announce_due(now=END + 5) == 0
    assert OAuthCredential.objects.get().announce_at is None


@pytest_db
def test_a_suspended_login_ends_too(acme: Tenant) -> None:
    put(acme)
    vault.suspend(tenant=acme, user_id="alice", actor="test", now=NOW)
    assert endings.announce_due(now=END - 7 * DAY) == 1


@pytest_db
@pytest.mark.parametrize("standing", [Standing.REAUTHORIZATION_REQUIRED, Standing.REVOKED])
def test_of_a_login_that_is_lost_or_revoked_nothing_is_said(
    acme: Tenant, standing: Standing
) -> None:
    put(acme)
    if standing == Standing.REVOKED:
        vault.revoke(tenant=acme, user_id="alice", actor="test", now=NOW)
    else:
        OAuthCredential.objects.update(standing=standing, refresh_due_at=None)
    assert endings.announce_due(now=END - DAY) == 0
    assert said() == []
    assert not endings.due(now=END).exists(), "it does not come up with every sweep"


@pytest_db
def test_a_login_that_was_replaced_meanwhile_is_not_announced_by_the_old_ones_end(
    acme: Tenant,
) -> None:
    """Both warnings due in the same second: the row looks the same but for its generation."""
    old = put(acme, refreshTokenExpiresAt=NOW + 6 * DAY)
    put(acme, number="2", refreshTokenExpiresAt=NOW + 6 * DAY)
    assert not endings._announce(old, now=NOW)
    assert said() == []
    assert endings.announce_due(now=NOW) == 1


@pytest.mark.django_db(transaction=True)
def test_two_sweeps_at_once_announce_once(acme: Tenant) -> None:
    for number in range(5):
        put(acme, f"user-{number}", refreshTokenExpiresAt=NOW + 2 * DAY)
    together = Barrier(4)

    @isolation.every_tenant()
    def sweep() -> int:
        try:
            page = list(endings.due(now=NOW).select_related("tenant"))
            together.wait(timeout=60)
            return sum(endings._announce(each, now=NOW) for each in page)
        finally:
            connection.close()

    with ThreadPoolExecutor(4) as pool:
        counts = [future.result() for future in [pool.submit(sweep) for _ in range(4)]]
    assert sum(counts) == 5
    assert len(said()) == 5


@pytest_db
def test_a_sweep_announces_a_page_and_the_next_one_goes_on(
    acme: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endings, "_PAGE", 2)
    for number, days in enumerate((5, 2, 1)):
        put(acme, f"user-{number}", refreshTokenExpiresAt=NOW + days * DAY)
    assert [endings.announce_due(now=NOW + 5) for _ in range(3)] == [2, 1, 0]


@pytest_db
def test_with_nothing_to_announce_a_sweep_asks_one_question(acme: Tenant) -> None:
    for number in range(5):
        put(acme, f"user-{number}")
    with CaptureQueriesContext(connection) as queries:
        assert endings.announce_due(now=NOW) == 0
    assert len(queries) == 1


# --- in words --------------------------------------------------------------------------------


@pytest_db
@pytest.mark.parametrize(
    ("left", "says"),
    [
        (7 * DAY, "ends in 7 days"),
        (2 * DAY, "ends in 2 days"),
        (36 * 3600, "ends in 36 hours"),
        (7200, "ends in 2 hours"),
        (60, "ends in 1 minute"),
    ],
)
def test_the_problem_says_how_long_a_login_still_lasts_and_what_to_do(
    acme: Tenant, left: int, says: str
) -> None:
    put(acme)
    alice = OAuthCredential.objects.get()
    alice.login_expires_at = NOW + left
    sentence = diagnosis.describe_problem(alice, now=NOW)
    assert sentence is not None
    assert f"This login {says} (an estimate, counted from the import)" in sentence
    assert "oauthvault import_credentials" in sentence
    assert "--tenant acme --user alice" in sentence
    alice.login_expiry_is_estimate = False
    assert "estimate" not in (diagnosis.describe_problem(alice, now=NOW) or "estimate")


@pytest_db
def test_a_login_that_lasts_longer_than_a_week_is_no_problem(acme: Tenant) -> None:
    alice = put(acme)
    assert diagnosis.describe_problem(alice, now=NOW) is None
    assert diagnosis.describe_problem(alice, now=END - 7 * DAY - 1) is None


@pytest_db
def test_a_login_that_has_outlived_the_estimate_is_still_spoken_of(acme: Tenant) -> None:
    put(acme)
    alice = OAuthCredential.objects.get()
    assert "may end at any moment (an estimate" in (
        diagnosis.describe_problem(alice, now=END + DAY) or ""
    )
    alice.login_expiry_is_estimate = False
    assert "has reached its end" in (diagnosis.describe_problem(alice, now=END + DAY) or "")


@pytest_db
def test_without_a_refresh_token_it_is_said_that_there_is_none(acme: Tenant) -> None:
    alice = put(acme, refreshToken=None, expiresAt=NOW + 2 * DAY)
    assert "This credential has no refresh token and ends in 2 days." in (
        diagnosis.describe_problem(alice, now=NOW) or ""
    )
    assert "has expired" in (diagnosis.describe_problem(alice, now=NOW + 2 * DAY) or "")


@pytest_db
def test_whatever_is_wrong_now_is_said_before_what_will_be(acme: Tenant) -> None:
    alice = put(acme)
    alice.problem = Problem.UPSTREAM_UNAVAILABLE
    assert "cannot be reached" in (diagnosis.describe_problem(alice, now=END - DAY) or "")
    alice.problem, alice.suspended_at = Problem.NONE, NOW
    assert "suspended" in (diagnosis.describe_problem(alice, now=END - DAY) or "")
