"""A clock that was far ahead and is set right: what it wrote down holds nobody up for long."""

import time

import pytest
from pytest_django import Settings

from tests.conftest import Store
from tests.simulator import Simulator
from tests.vault.conftest import Reread
from tests.vault.test_refresh import claim_of, refresh_one
from tokens import clock, due, vault
from tokens.errors import RefreshInProgress, UpstreamUnavailable
from tokens.listing import status_in_sql
from tokens.models import (
    OAuthCredential,
    Outcome,
    Problem,
    RefreshAttempt,
    Standing,
    Status,
    Tenant,
)
from tokens.refresh.abandoned import settle_abandoned
from tokens.tasks import sweep

pytestmark = pytest.mark.django_db(transaction=True)

MONTH = 30 * 86_400.0


@pytest.fixture
def alice(acme: Tenant, upstream: Simulator, store: Store) -> OAuthCredential:
    return store(acme, "alice", upstream.new_login("alice", expires_in=-10))


@pytest.fixture
def killed_a_month_ahead(alice: OAuthCredential, settings: Settings) -> OAuthCredential:
    """Its process died in flight; since then the clock has been set right. That its answer may
    lie in the spool of another machine is another matter, and waited for beside it."""
    settings.SPOOL_GRACE = 0.0
    settings.CLOCK_OFFSET = MONTH
    claim_of(alice)
    settings.CLOCK_OFFSET = 0.0
    return alice


def statuses() -> set[str]:
    """By Python and by the database."""
    now = clock.now()
    (told,) = OAuthCredential.objects.annotate(told=status_in_sql(now=now)).values_list("told")
    row = OAuthCredential.objects.select_related("tenant").get()
    return {row.status(now=now), *told}


def test_a_lease_of_a_month_ends_as_one_that_was_given_now(
    killed_a_month_ahead: OAuthCredential, upstream: Simulator, settings: Settings
) -> None:
    """Not at once: its holder may be at work while the clock is set, and has the token."""
    assert statuses() == {Status.OUTCOME_UNKNOWN}
    assert refresh_one(killed_a_month_ahead) is None
    assert statuses() == {Status.REFRESHING}
    # As long before its end as the steps of this test may take.
    settings.CLOCK_OFFSET = 15.0
    assert refresh_one(killed_a_month_ahead) is None
    settings.CLOCK_OFFSET = 46.0
    assert refresh_one(killed_a_month_ahead) == Outcome.REFRESHED
    assert (upstream.counts.token_calls, upstream.counts.reuse) == (1, 0)


def test_who_asks_is_served_a_minute_later(
    killed_a_month_ahead: OAuthCredential, acme: Tenant, settings: Settings
) -> None:
    def hand_out() -> vault.HandOut:
        return vault.issue_access_token(
            tenant=acme, user_id="alice", actor="test", wait=5, now=clock.now()
        )

    with pytest.raises(RefreshInProgress):
        hand_out()
    settings.CLOCK_OFFSET = 50.0
    assert hand_out().generation == 2


def test_the_sweep_comes_to_it_by_itself(
    killed_a_month_ahead: OAuthCredential, settings: Settings
) -> None:
    settle_abandoned(now=clock.now())
    assert RefreshAttempt.objects.get().outcome == Outcome.UNKNOWN
    assert due.take(now=clock.now(), most=1) == []
    settings.CLOCK_OFFSET = 60.0
    assert [pk for _, pk, _ in due.take(now=clock.now(), most=1)] == [killed_a_month_ahead.pk]


def test_one_that_was_sent_twice_is_called_lost_when_its_answer_cannot_come_any_more(
    alice: OAuthCredential, settings: Settings, reread: Reread
) -> None:
    settings.CLOCK_OFFSET = MONTH
    claim_of(alice)
    settings.CLOCK_OFFSET += 200
    claim_of(alice)
    for seconds in (0.0, 100.0):
        settings.CLOCK_OFFSET = seconds
        sweep()
        assert reread(alice).standing == Standing.ACTIVE
    settings.CLOCK_OFFSET = 300.0
    sweep()
    assert reread(alice).problem == Problem.ANSWER_LOST


def test_a_lease_holds_between_clocks_that_are_ten_minutes_off_to_either_side(
    alice: OAuthCredential, settings: Settings, reread: Reread
) -> None:
    settings.CLOCK_OFFSET = 600.0
    held = claim_of(alice)
    settings.CLOCK_OFFSET = -600.0
    ends = reread(alice).lease_until
    assert refresh_one(alice) is None
    sweep()
    after = reread(alice)
    assert (after.lease_id, after.lease_until) == (held.lease_id, ends)
    assert statuses() == {Status.REFRESHING}


def test_marks_of_a_day_ahead_take_no_room(
    acme: Tenant, globex: Tenant, upstream: Simulator, store: Store, settings: Settings
) -> None:
    settings.OAUTHVAULT_REFRESHES_AT_ONCE = settings.OAUTHVAULT_REFRESHES_AT_ONCE_PER_TENANT = 2
    for user in ("alice", "bob"):
        store(acme, user, upstream.new_login(user, expires_in=60))
    settings.CLOCK_OFFSET = 86_400.0
    taken = due.take(now=clock.now(), most=9)
    assert len(taken) == 2
    settings.CLOCK_OFFSET = 0.0
    assert due.take(now=clock.now(), most=9) == taken


def test_a_failure_that_lies_ahead_puts_nobody_off(
    alice: OAuthCredential, acme: Tenant, upstream: Simulator, settings: Settings
) -> None:
    settings.CLAUDE_OAUTH_MAX_RETRIES = 0
    upstream.fault("unavailable", times=3)
    settings.CLOCK_OFFSET = MONTH
    assert refresh_one(alice) == Outcome.UNREACHABLE
    settings.CLOCK_OFFSET = 0.0
    for ask in (vault.refresh_now, vault.issue_access_token):
        calls = upstream.counts.token_calls
        OAuthCredential.objects.update(problem_at=time.time() + MONTH)
        with pytest.raises(UpstreamUnavailable):
            ask(tenant=acme, user_id="alice", actor="test", now=clock.now())  # type: ignore[operator]
        assert upstream.counts.token_calls == calls + 1


def test_a_success_that_lies_ahead_answers_no_demand_and_no_report(
    alice: OAuthCredential, acme: Tenant, upstream: Simulator, settings: Settings
) -> None:
    def report(generation: int) -> int:
        return vault.report_rejected(
            tenant=acme, user_id="alice", generation=generation, actor="test", now=clock.now()
        ).generation

    settings.CLOCK_OFFSET = MONTH
    assert report(1) == 2
    settings.CLOCK_OFFSET = 0.0
    assert report(2) == 3, "nothing else finds out that its token has ended already"
    settings.CLOCK_OFFSET = MONTH
    vault.refresh_now(tenant=acme, user_id="alice", actor="test", now=clock.now())
    settings.CLOCK_OFFSET = 20.0
    vault.refresh_now(tenant=acme, user_id="alice", actor="test", now=clock.now())
    assert upstream.counts.refreshed == 4
