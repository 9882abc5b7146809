"""How things went, by the hour and the minute: nothing is lost or counted twice at the edges."""

import uuid
from collections.abc import Callable

import pytest

from tokens import courses, isolation, statistics
from tokens.models import Cause, HandOut, OAuthCredential, Outcome, RefreshAttempt, Tenant

pytestmark = pytest.mark.django_db

# 2027-01-15 08:00:00 UTC, a full hour.
FULL_HOUR = 1_800_000_000
HOUR = 3600

Attempt = Callable[..., None]


@pytest.fixture
def alice(acme: Tenant) -> OAuthCredential:
    return OAuthCredential.objects.create(
        tenant=acme, user_id="alice", expires_at=1, standing="revoked"
    )


@pytest.fixture
def attempt(alice: OAuthCredential) -> Attempt:
    def _attempt(at: float, outcome: Outcome = Outcome.REFRESHED) -> None:
        RefreshAttempt.objects.create(
            tenant=alice.tenant, credential=alice, lease_id=uuid.uuid4(), cause=Cause.SWEEP,
            generation=1, started_at=at, outcome=outcome,
        )  # fmt: skip

    return _attempt


@pytest.mark.parametrize("past", [0, 1, 1799.5, 3599.999])
def test_the_bars_of_a_day_add_up_to_the_figures_of_the_day(attempt: Attempt, past: float) -> None:
    """Whenever in the hour somebody looks."""
    now = FULL_HOUR + past
    for ago, outcome in (
        (0, Outcome.REFRESHED),
        (HOUR, Outcome.INVALID_GRANT),
        (12 * HOUR, Outcome.REFRESHED),
        (24 * HOUR - 1, Outcome.UNREACHABLE),
        (24 * HOUR + 0.5, Outcome.REFRESHED),  # of the day before
        (-7200, Outcome.RATE_LIMITED),  # by a clock that was ahead
        (60, Outcome.IN_FLIGHT),
        (60, Outcome.SUPERSEDED),
    ):
        attempt(now - ago, outcome)
    hours = courses.refreshes_by_hour(hours=24, now=now)
    figures = statistics.overview_in_scope(now=now).statistics
    assert sum(hour.succeeded for hour in hours) == figures.succeeded_last_24h == 2
    assert sum(sum(hour.failed.values()) for hour in hours) == figures.failed_last_24h == 3
    assert [hour.begins for hour in hours] == [
        FULL_HOUR - 24 * HOUR + number * HOUR for number in range(25)
    ]
    assert hours[-1].failed[Outcome.RATE_LIMITED] == 1
    assert Outcome.IN_FLIGHT not in hours[-1].failed


def test_a_refresh_is_in_the_hour_in_which_it_began(attempt: Attempt) -> None:
    for at in (FULL_HOUR - 0.001, FULL_HOUR, FULL_HOUR + 3599.999):
        attempt(at)
    hours = courses.refreshes_by_hour(hours=2, now=FULL_HOUR + HOUR)
    assert [(hour.begins - FULL_HOUR, hour.succeeded) for hour in hours] == [
        (-HOUR, 1), (0, 2), (HOUR, 0),
    ]  # fmt: skip


def test_hand_outs_of_a_minute_are_together_whoever_was_handed_them(
    alice: OAuthCredential,
) -> None:
    this = FULL_HOUR // 60
    for actor, minute, count in (
        ("key a", this, 2),
        ("key b", this, 3),
        ("key a", this - 59, 5),
        ("key a", this - 60, 7),  # of the hour before
        ("key a", this + 90, 1),  # by a clock that was ahead
    ):
        HandOut.objects.create(
            tenant=alice.tenant, credential=alice, actor=actor, minute=minute, count=count
        )
    minutes = courses.hand_outs_by_minute(minutes=60, now=FULL_HOUR + 30)
    assert len(minutes) == 60
    assert {
        (minute.begins - FULL_HOUR) // 60: minute.count for minute in minutes if minute.count
    } == {0: 6, -59: 5}


def test_each_sees_its_own_tenants_course(
    attempt: Attempt, alice: OAuthCredential, globex: Tenant
) -> None:
    attempt(FULL_HOUR)
    HandOut.objects.create(
        tenant=alice.tenant, credential=alice, actor="key", minute=FULL_HOUR // 60, count=1
    )
    now = FULL_HOUR + 1

    def seen() -> tuple[int, int]:
        return (
            sum(hour.succeeded for hour in courses.refreshes_by_hour(hours=24, now=now)),
            sum(minute.count for minute in courses.hand_outs_by_minute(minutes=60, now=now)),
        )

    with isolation.of(globex.pk):
        assert seen() == (0, 0)
    with isolation.of(alice.tenant_id):
        assert seen() == (1, 1)
