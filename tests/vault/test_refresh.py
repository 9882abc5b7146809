"""The one refresh: spends a token once, keeps what can be kept, says what is lost."""

import dataclasses
import logging
import socket
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from django.db import close_old_connections, connection, transaction
from pytest_django import Settings

from oauthvault.settings import SPOOL_GRACE
from tests.conftest import Store
from tests.simulator import Simulator
from tests.vault.conftest import Reread
from tokens import clock, due, flight, sealing, vault
from tokens.errors import (
    NoRefreshToken,
    RateLimited,
    ReauthorizationRequired,
    RefreshInProgress,
    Revoked,
    TokenExpired,
    UpstreamRateLimited,
    UpstreamUnavailable,
)
from tokens.models import (
    AuditEvent,
    Cause,
    DataKey,
    OAuthCredential,
    Outcome,
    Problem,
    RefreshAttempt,
    Standing,
    Status,
    Tenant,
    TenantStatistics,
    Upstream,
)
from tokens.oauth_client import Refusal, Refused
from tokens.refresh import carry_out, gate, refresh
from tokens.refresh.abandoned import settle_abandoned
from tokens.refresh.ask import present
from tokens.refresh.claim import Claim, claim_credential
from tokens.refresh.save import save_answer
from tokens.tasks import sweep
from tokens.tenants import suspend_tenant

pytestmark = pytest.mark.django_db(transaction=True)


def refresh_one(
    credential: OAuthCredential, cause: Cause = Cause.DEMAND, generation: int | None = None
) -> Outcome | None:
    return refresh(
        tenant_id=credential.tenant_id,
        credential_id=credential.pk,
        cause=cause,
        actor="test",
        generation=generation,
    )


def in_threads(count: int, work: Callable[[], object]) -> list[object]:
    """The results of ``work`` in as many threads, all let go in the same moment."""
    gate = threading.Barrier(count)

    def run() -> object:
        gate.wait()
        close_old_connections()
        try:
            return work()
        except Exception as error:
            return error
        finally:
            connection.close()

    with ThreadPoolExecutor(count) as pool:
        return [future.result() for future in [pool.submit(run) for _ in range(count)]]


@pytest.fixture
def alice(acme: Tenant, upstream: Simulator, store: Store) -> OAuthCredential:
    return store(acme, "alice", upstream.new_login("alice", expires_in=3600))


def test_a_refresh_stores_the_new_pair_and_says_so(
    alice: OAuthCredential, upstream: Simulator, reread: Reread
) -> None:
    assert refresh_one(alice) == Outcome.REFRESHED
    after, login = reread(alice), upstream.current_login("alice")
    assert sealing.open_access_token(after).reveal() == login.access_token
    assert sealing.open_refresh_token(after).reveal() == login.refresh_token
    assert (after.generation, after.refresh_count) == (alice.generation + 1, 1)
    assert after.lease_id is None
    assert after.unanswered_presentations == 0
    assert abs(after.expires_at - login.expires_at) <= 2
    attempt = RefreshAttempt.objects.get()
    assert (attempt.outcome, attempt.upstream_status) == (Outcome.REFRESHED, 200)
    assert attempt.ended_at is not None
    assert TenantStatistics.objects.get().refreshes_succeeded == 1


def test_the_far_side_sees_an_honest_client(alice: OAuthCredential, upstream: Simulator) -> None:
    refresh_one(alice)
    request = upstream.requests[-1]
    assert request.headers["user-agent"].startswith("oauthvault/")
    assert request.body["grant_type"] == "refresh_token"


def test_twenty_workers_spend_the_refresh_token_once(
    alice: OAuthCredential, upstream: Simulator, reread: Reread
) -> None:
    upstream.latency_ms = 200
    outcomes = in_threads(20, lambda: refresh_one(alice, generation=alice.generation))
    assert sorted(map(str, outcomes)).count("refreshed") == 1
    assert outcomes.count(None) == 19
    assert (upstream.counts.refreshed, upstream.counts.reuse) == (1, 0)
    assert reread(alice).refresh_count == 1


def test_a_message_about_an_older_generation_does_nothing(
    alice: OAuthCredential, upstream: Simulator
) -> None:
    """Celery delivers twice, and late."""
    for _ in range(3):
        refresh(
            tenant_id=alice.tenant_id,
            credential_id=alice.pk,
            cause=Cause.SWEEP,
            actor="scheduler",
            generation=alice.generation,
        )
    assert upstream.counts.token_calls == 1


def test_a_refresh_inside_a_transaction_is_refused(alice: OAuthCredential) -> None:
    with transaction.atomic(), pytest.raises(RuntimeError, match="transaction"):
        refresh_one(alice)


def test_revocation_during_a_refresh_wins_over_its_save(
    alice: OAuthCredential, upstream: Simulator, acme: Tenant, reread: Reread
) -> None:
    outcome: list[object] = []
    worker = threading.Thread(
        target=lambda: outcome.extend(in_threads(1, lambda: refresh_one(alice)))
    )
    with upstream.holding():
        worker.start()
        wait_for(lambda: RefreshAttempt.objects.exists())
        vault.revoke(tenant=acme, user_id="alice", actor="test", now=time.time())
    worker.join()
    after = reread(alice)
    assert outcome == [Outcome.SUPERSEDED]
    assert after.standing == Standing.REVOKED
    assert after.access_token_encrypted is after.refresh_token_encrypted is None


def test_a_suspension_during_a_refresh_loses_no_token_and_stays(
    alice: OAuthCredential, upstream: Simulator, acme: Tenant, reread: Reread
) -> None:
    worker = threading.Thread(target=lambda: in_threads(1, lambda: refresh_one(alice)))
    with upstream.holding():
        worker.start()
        wait_for(lambda: RefreshAttempt.objects.exists())
        vault.suspend(tenant=acme, user_id="alice", actor="test", now=time.time())
    worker.join()
    after = reread(alice)
    assert after.status(now=time.time()) == Status.SUSPENDED
    assert (
        sealing.open_refresh_token(after).reveal() == upstream.current_login("alice").refresh_token
    )
    assert refresh_one(alice) is None


def test_the_save_is_fenced_by_generation_and_not_by_the_lease(
    alice: OAuthCredential, upstream: Simulator, reread: Reread
) -> None:
    """A stalled holder whose lease somebody else has by now holds the only valid pair."""
    worker = threading.Thread(target=lambda: in_threads(1, lambda: refresh_one(alice)))
    stolen = uuid.uuid4()
    with upstream.holding():
        worker.start()
        wait_for(lambda: RefreshAttempt.objects.exists())
        OAuthCredential.objects.filter(pk=alice.pk).update(
            lease_id=stolen, lease_until=time.time() + 45
        )
    worker.join()
    after = reread(alice)
    assert after.generation == alice.generation + 1
    assert after.lease_id == stolen
    assert (
        sealing.open_refresh_token(after).reveal() == upstream.current_login("alice").refresh_token
    )


def test_who_is_signed_out_is_named_in_a_warning_with_the_cure(
    alice: OAuthCredential, upstream: Simulator, caplog: pytest.LogCaptureFixture
) -> None:
    upstream.kill_login("alice")
    refresh_one(alice)
    (warning,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "user 'alice' of tenant acme must sign in again" in warning.getMessage()
    assert "import_credentials" in warning.getMessage()
    (line,) = [record for record in caplog.records if record.levelno == logging.INFO]
    assert "refresh for user 'alice' of tenant acme" in line.getMessage()
    assert "1 try," in line.getMessage()


def test_that_the_circuit_opens_and_that_it_closes_is_a_warning_each(
    acme: Tenant, upstream: Simulator, store: Store, settings: Settings,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """Said once: not by every probe that fails meanwhile."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        nobody = f"http://127.0.0.1:{free.getsockname()[1]}/token"
    settings.CLAUDE_OAUTH_MAX_RETRIES = 0
    everybody = [
        store(acme, f"user{number}", upstream.new_login(f"user{number}"))
        for number in range(gate.FAILURES_ALLOWED + 1)
    ]
    for credential in everybody:
        assert refresh_one(credential) == Outcome.REFRESHED
    caplog.clear()
    theirs, settings.CLAUDE_OAUTH_TOKEN_URL = settings.CLAUDE_OAUTH_TOKEN_URL, nobody
    for credential in everybody[:-1]:
        assert refresh_one(credential) == Outcome.UNREACHABLE
    Upstream.objects.update(circuit_open_until=1)
    assert refresh_one(everybody[-1]) == Outcome.UNREACHABLE
    Upstream.objects.update(circuit_open_until=1, token_url=theirs)
    settings.CLAUDE_OAUTH_TOKEN_URL = theirs
    assert refresh_one(everybody[-1]) == Outcome.REFRESHED
    said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert ["was found down" in line for line in said] == [True, False]
    assert ["answers again" in line for line in said] == [False, True]
    assert nobody in said[0]


def test_an_ended_login_is_said_plainly(
    alice: OAuthCredential, upstream: Simulator, acme: Tenant, reread: Reread
) -> None:
    upstream.kill_login("alice")
    assert refresh_one(alice) == Outcome.INVALID_GRANT
    after = reread(alice)
    assert after.standing == Standing.REAUTHORIZATION_REQUIRED
    assert after.problem == Problem.ROTATED_ELSEWHERE
    assert after.refresh_due_at is None
    with pytest.raises(ReauthorizationRequired, match="Sign in to Claude again"):
        vault.refresh_now(tenant=acme, user_id="alice", actor="test", now=time.time())
    assert upstream.counts.token_calls == 1


@pytest.mark.parametrize(
    ("fault", "problem"),
    [
        ("moved", Problem.UPSTREAM_ERROR),
        ("edge_block", Problem.UPSTREAM_ERROR),
        ("redirect", Problem.UPSTREAM_ERROR),
        ("on_hold", Problem.ACCOUNT_ON_HOLD),
        ("invalid_scope", Problem.INVALID_SCOPE),
        ("rate_limited", Problem.RATE_LIMITED),
    ],
)
def test_a_fault_of_the_server_never_marks_a_credential_dead(
    alice: OAuthCredential, upstream: Simulator, reread: Reread, fault: str, problem: Problem
) -> None:
    upstream.fault(fault)
    refresh_one(alice)
    after = reread(alice)
    assert (after.standing, after.problem) == (Standing.ACTIVE, problem)
    assert after.unanswered_presentations == 0
    assert after.lease_id is None
    assert after.refresh_due_at is not None
    assert after.refresh_due_at > time.time()
    Upstream.objects.all().delete()
    assert refresh_one(alice) == Outcome.REFRESHED


def test_two_server_errors_and_then_fine_is_one_refresh(
    alice: OAuthCredential, upstream: Simulator
) -> None:
    upstream.fail_next(times=2, status=500)
    assert refresh_one(alice) == Outcome.REFRESHED
    assert RefreshAttempt.objects.get().tries == 3


def test_retries_end_as_configured_and_the_credential_stays_alive(
    alice: OAuthCredential, upstream: Simulator, reread: Reread, settings: Settings
) -> None:
    settings.CLAUDE_OAUTH_MAX_RETRIES = 1
    upstream.fault("unavailable", times=None)
    assert refresh_one(alice) == Outcome.UNREACHABLE
    assert upstream.counts.token_calls == 2
    assert reread(alice).standing == Standing.ACTIVE


def test_while_a_429_governs_no_refresh_of_anybody_goes_upstream(
    alice: OAuthCredential, acme: Tenant, upstream: Simulator, store: Store
) -> None:
    bob = store(acme, "bob", upstream.new_login("bob"))
    upstream.fail_next(status=429, retry_after=7)
    assert refresh_one(alice) == Outcome.RATE_LIMITED
    with pytest.raises(UpstreamRateLimited) as refused:
        refresh_one(bob)
    assert refused.value.retry_after == pytest.approx(7, abs=2)
    assert upstream.counts.token_calls == 1


def test_a_429_that_somebody_else_was_told_ends_the_quick_retries(
    alice: OAuthCredential, upstream: Simulator
) -> None:
    upstream.fault("unavailable", times=None)
    claim = claim_of(alice)
    gate.close_for(600, now=time.time())
    assert carry_out(claim) == Outcome.UNREACHABLE
    assert upstream.counts.token_calls == 1


def test_made_up_logins_do_not_close_the_door_for_others(
    acme: Tenant, globex: Tenant, upstream: Simulator, store: Store
) -> None:
    """Whoever may import has any number of logins fail in ways that look like the server's."""
    carol = store(globex, "carol", upstream.new_login("carol"))
    assert refresh_one(carol) == Outcome.REFRESHED
    upstream.fault("edge_block", times=2 * gate.FAILURES_ALLOWED)
    for number in range(2 * gate.FAILURES_ALLOWED):
        made_up = store(acme, f"user{number}", upstream.new_login(f"user{number}"))
        assert refresh_one(made_up) == Outcome.UPSTREAM_ERROR
    assert refresh_one(carol) == Outcome.REFRESHED


def test_what_is_said_about_one_credential_does_not_close_the_door(
    acme: Tenant, upstream: Simulator, store: Store
) -> None:
    """An organisation that forbids OAuth has all its users refused, by a server that works."""
    everybody = [
        store(acme, f"user{number}", upstream.new_login(f"user{number}"))
        for number in range(gate.FAILURES_ALLOWED + 1)
    ]
    for credential in everybody:
        assert refresh_one(credential) == Outcome.REFRESHED
    for credential in everybody:
        upstream.fail_next(status=403)
        assert refresh_one(credential) == Outcome.UPSTREAM_ERROR


def test_the_probe_is_a_login_that_was_refreshed_here_before(
    acme: Tenant, globex: Tenant, upstream: Simulator, store: Store
) -> None:
    carol = store(globex, "carol", upstream.new_login("carol"))
    assert refresh_one(carol) == Outcome.REFRESHED
    made_up = store(acme, "mallory", upstream.new_login("mallory"))
    Upstream.objects.update_or_create(
        token_url=upstream.token_url,
        defaults={"circuit_open_until": time.time() - 1, "consecutive_failures": 5},
    )
    with pytest.raises(UpstreamUnavailable):
        refresh_one(made_up)
    assert refresh_one(carol) == Outcome.REFRESHED
    assert refresh_one(made_up) == Outcome.REFRESHED


def test_a_pair_that_arrived_whole_is_kept_whatever_became_of_its_end(
    alice: OAuthCredential, upstream: Simulator, reread: Reread
) -> None:
    upstream.fault("no_end")
    assert refresh_one(alice) == Outcome.REFRESHED
    kept = sealing.open_refresh_token(reread(alice)).reveal()
    assert kept == upstream.current_login("alice").refresh_token


def test_a_lifetime_of_five_thousand_digits_costs_no_pair(
    alice: OAuthCredential, upstream: Simulator, reread: Reread
) -> None:
    body = '{"access_token": "sk-ant-oat01-new", "refresh_token": "sk-ant-ort01-new", '
    upstream.fault("server_error", status=200, body=body + f'"expires_in": {"9" * 5000}' + "}")
    assert refresh_one(alice) == Outcome.REFRESHED
    assert 0 < reread(alice).expires_at - time.time() <= 366 * 86_400


@pytest.mark.parametrize("fault", ["lose_answer", "not_json", "no_access_token", "empty", "huge"])
def test_a_lost_answer_is_presented_once_more_after_the_lease_and_never_again(
    alice: OAuthCredential, upstream: Simulator, reread: Reread, fault: str
) -> None:
    upstream.fault(fault, times=1, rotates=True)
    assert refresh_one(alice) == Outcome.UNKNOWN
    marked = reread(alice)
    assert marked.standing == Standing.ACTIVE
    assert marked.unanswered_presentations == 1
    assert vault.issue_access_token(
        tenant=alice.tenant, user_id="alice", actor="test", now=time.time()
    ), "the old access token is served while it lives"
    assert refresh_one(alice) is None, "not before the lease has ended"
    end_lease(alice)
    assert reread(alice).status(now=time.time()) == Status.OUTCOME_UNKNOWN
    assert refresh_one(alice) == Outcome.INVALID_GRANT
    after = reread(alice)
    assert after.standing == Standing.REAUTHORIZATION_REQUIRED
    assert after.problem == Problem.ANSWER_LOST
    assert refresh_one(alice) is None
    assert upstream.counts.token_calls == 2


@pytest.mark.parametrize("fault", ["close", "unavailable", "not_json", "edge_block", "moved"])
def test_the_last_presentation_waits_for_a_server_that_works(
    alice: OAuthCredential, upstream: Simulator, reread: Reread, fault: str
) -> None:
    """A gateway that swallows requests for some minutes would else swallow both."""
    upstream.fault("close")
    assert refresh_one(alice) == Outcome.UNKNOWN
    for _ in range(3):
        end_lease(alice)
        upstream.fault(fault)
        assert refresh_one(alice) in (Outcome.UNREACHABLE, Outcome.UPSTREAM_ERROR)
        waiting = reread(alice)
        assert waiting.standing == Standing.ACTIVE
        assert waiting.unanswered_presentations == 1
        assert waiting.status(now=time.time()) == Status.OUTCOME_UNKNOWN
    assert (upstream.counts.token_calls, upstream.counts.knocks) == (1, 3)
    assert refresh_one(alice) == Outcome.REFRESHED
    assert upstream.counts.token_calls == 2


def test_a_knock_that_is_answered_by_429_closes_the_door(
    alice: OAuthCredential, upstream: Simulator, reread: Reread
) -> None:
    upstream.fault("close")
    refresh_one(alice)
    end_lease(alice)
    upstream.fault("rate_limited", retry_after=90)
    assert refresh_one(alice) == Outcome.RATE_LIMITED
    with pytest.raises(UpstreamRateLimited):
        refresh_one(alice)
    assert reread(alice).unanswered_presentations == 1


def test_after_a_day_of_knocking_the_last_presentation_is_made(
    alice: OAuthCredential, upstream: Simulator, reread: Reread
) -> None:
    """A server may refuse to answer a knock, and answer a refresh."""
    upstream.fault("close")
    refresh_one(alice)
    end_lease(alice)
    RefreshAttempt.objects.update(started_at=time.time() - 86_400 - 60)
    upstream.fault("edge_block")
    assert refresh_one(alice) == Outcome.UPSTREAM_ERROR
    assert (upstream.counts.token_calls, upstream.counts.knocks) == (2, 0)


def test_the_last_presentation_is_not_repeated_at_once_after_a_server_error(
    alice: OAuthCredential, upstream: Simulator, reread: Reread
) -> None:
    upstream.fault("lose_answer")
    refresh_one(alice)
    end_lease(alice)
    upstream.fault("unavailable", user="alice")
    assert refresh_one(alice) == Outcome.UNREACHABLE
    assert upstream.counts.token_calls == 2
    assert reread(alice).unanswered_presentations == 1
    assert refresh_one(alice) == Outcome.INVALID_GRANT
    assert reread(alice).problem == Problem.ANSWER_LOST


def test_a_second_lost_answer_is_the_last(
    alice: OAuthCredential, upstream: Simulator, reread: Reread
) -> None:
    for _ in range(2):
        upstream.fault("close", user="alice")
        refresh_one(alice)
        end_lease(alice)
    assert reread(alice).problem == Problem.ANSWER_LOST
    assert refresh_one(alice) is None
    assert upstream.counts.token_calls == 2


def test_a_request_that_never_arrived_does_not_count_as_a_presentation(
    alice: OAuthCredential, reread: Reread, settings: Settings
) -> None:
    settings.CLAUDE_OAUTH_TOKEN_URL = "http://127.0.0.1:1/v1/oauth/token"
    settings.CLAUDE_OAUTH_MAX_RETRIES = 0
    assert refresh_one(alice) == Outcome.UNREACHABLE
    assert reread(alice).unanswered_presentations == 0


def test_an_answer_that_drips_ends_at_the_total_deadline(
    alice: OAuthCredential, upstream: Simulator, settings: Settings
) -> None:
    """Timeouts of single reads would let a server hold us for ever, a byte at a time."""
    settings.REFRESH_DEADLINE = 1.5
    # Longer than this test may take.
    upstream.fault("trickle", seconds=600)
    assert refresh_one(alice) == Outcome.UNKNOWN


def test_an_answer_without_a_refresh_token_keeps_the_old_one(
    alice: OAuthCredential, upstream: Simulator, reread: Reread
) -> None:
    before = sealing.open_refresh_token(reread(alice))
    upstream.fault("keep_refresh_token")
    assert refresh_one(alice) == Outcome.REFRESHED
    assert sealing.open_refresh_token(reread(alice)) == before
    assert refresh_one(alice) == Outcome.REFRESHED


@pytest.mark.parametrize(
    "amended",
    [
        {"scope": "user:inference a\u0000b"},
        {"scope": "\ud800"},
        {"scope": " ".join(f"s{n}" for n in range(500))},
        {"scope": ["user:inference"]},
        {"refresh_token_expires_in": 1e30},
        {"account": {"email_address": "\ud800"}},
    ],
)
def test_odd_things_beside_a_good_pair_do_not_lose_it(
    alice: OAuthCredential, upstream: Simulator, reread: Reread, amended: dict[str, object]
) -> None:
    """What the database would refuse to store must not stand in the way of the tokens."""
    upstream.fault("amend", amend=amended)
    assert refresh_one(alice) == Outcome.REFRESHED
    after = reread(alice)
    assert (
        sealing.open_refresh_token(after).reveal() == upstream.current_login("alice").refresh_token
    )
    assert all(scope.isascii() for scope in after.scopes)


@pytest.mark.parametrize("token", ["\ud800", "a b", "", 7, "x" * 9000, "sk\u0000"])
def test_a_200_whose_token_is_none_is_an_unknown_outcome(
    alice: OAuthCredential, upstream: Simulator, reread: Reread, token: object
) -> None:
    upstream.fault("amend", amend={"access_token": token})
    assert refresh_one(alice) == Outcome.UNKNOWN
    assert reread(alice).standing == Standing.ACTIVE


@pytest.mark.parametrize(
    "absurd", [0, -5, None, "soon", "-5", "1e3", "9" * 5000, "٣٠٠", 10**15, 1e300, True]
)
def test_an_absurd_lifetime_is_bounded_and_recorded(
    alice: OAuthCredential, upstream: Simulator, reread: Reread, absurd: object
) -> None:
    upstream.access_token_lifetime = absurd
    assert refresh_one(alice) == Outcome.REFRESHED
    assert 0 < reread(alice).expires_in(now=time.time()) <= 366 * 86_400
    assert AuditEvent.objects.filter(action="refresh", detail__expires_in_bounded=True).exists()


@pytest.mark.parametrize("said", ["28800", "0028800"])
def test_a_lifetime_that_came_as_text_is_believed(
    alice: OAuthCredential, upstream: Simulator, reread: Reread, said: str
) -> None:
    upstream.access_token_lifetime = said
    assert refresh_one(alice) == Outcome.REFRESHED
    assert reread(alice).expires_in(now=time.time()) == pytest.approx(28_800, abs=30)
    assert not AuditEvent.objects.filter(detail__expires_in_bounded=True).exists()


def test_tokens_of_a_few_seconds_are_asked_for_once_in_ten(
    acme: Tenant, upstream: Simulator, store: Store, reread: Reread
) -> None:
    """Else whoever asks for one user's token has the authorization server asked all the time."""
    upstream.access_token_lifetime = 6
    bob = store(acme, "bob", upstream.new_login("bob", expires_in=-10))

    def hand_out(*, now: float) -> vault.HandOut:
        return vault.issue_access_token(tenant=acme, user_id="bob", actor="test", now=now)

    assert hand_out(now=clock.now()).generation == 2
    refreshed_at = reread(bob).last_refreshed_at
    assert refreshed_at is not None
    for after in (7, 8, 9):
        now = float(refreshed_at + after)
        with pytest.raises(UpstreamUnavailable, match="end within seconds") as refused:
            hand_out(now=now)
        assert refused.value.retry_after is not None
        assert 1 <= refused.value.retry_after <= 11 - after
        assert due.take(now=now, most=9) == []
    assert upstream.counts.token_calls == 1
    assert hand_out(now=refreshed_at + 11.0).generation == 3
    assert upstream.counts.token_calls == 2


def test_a_login_that_is_stored_anew_is_refreshed_at_once(
    alice: OAuthCredential, acme: Tenant, upstream: Simulator, store: Store
) -> None:
    """The ten seconds are those of a login that a refresh has just given a token."""
    upstream.access_token_lifetime = 1
    assert refresh_one(alice) == Outcome.REFRESHED
    upstream.access_token_lifetime = 3600
    store(acme, "alice", upstream.new_login("alice", expires_in=-10))
    handed = vault.issue_access_token(tenant=acme, user_id="alice", actor="test", now=clock.now())
    assert handed.generation == 4


def test_a_process_that_died_in_flight_leaves_its_trace(
    alice: OAuthCredential, upstream: Simulator, reread: Reread
) -> None:
    """The claim is all that a killed process leaves behind; the lease ends by itself."""
    assert claim_credential(alice.tenant_id, alice.pk, Cause.SWEEP, "scheduler", None) is not None
    assert refresh_one(alice) is None
    assert RefreshAttempt.objects.get().outcome == Outcome.IN_FLIGHT
    end_lease(alice)
    assert refresh_one(alice) == Outcome.REFRESHED
    settle_abandoned(now=time.time() + 600)
    assert set(RefreshAttempt.objects.values_list("outcome", flat=True)) == {
        Outcome.UNKNOWN,
        Outcome.REFRESHED,
    }


def test_a_caller_past_expiry_waits_for_the_one_refresh(
    acme: Tenant, upstream: Simulator, store: Store
) -> None:
    store(acme, "bob", upstream.new_login("bob", expires_in=-10))
    upstream.latency_ms = 100
    handed = in_threads(
        8,
        lambda: vault.issue_access_token(
            tenant=acme, user_id="bob", actor="test", now=time.time()
        ).access_token.reveal(),
    )
    assert set(handed) == {upstream.current_login("bob").access_token}
    assert (upstream.counts.refreshed, upstream.counts.reuse) == (1, 0)


def test_a_token_near_its_end_comes_at_once_and_says_that_a_refresh_is_due(
    acme: Tenant, upstream: Simulator, store: Store
) -> None:
    login = upstream.new_login("bob", expires_in=60)
    store(acme, "bob", login)
    handed = vault.issue_access_token(tenant=acme, user_id="bob", actor="test", now=time.time())
    assert handed.access_token.reveal() == login.access_token
    assert handed.refresh_due
    assert upstream.counts.token_calls == 0


def test_with_auto_refresh_off_an_expired_token_is_refused_and_a_demand_works(
    acme: Tenant, upstream: Simulator, store: Store, settings: Settings
) -> None:
    settings.CLAUDE_OAUTH_AUTO_REFRESH = False
    store(acme, "bob", upstream.new_login("bob", expires_in=-10))
    with pytest.raises(TokenExpired, match="OAuth token expired"):
        vault.issue_access_token(tenant=acme, user_id="bob", actor="test", now=time.time())
    assert sweep() == 0
    after = vault.refresh_now(tenant=acme, user_id="bob", actor="test", now=time.time())
    assert after.is_usable(now=time.time())


def test_an_expired_token_is_not_asked_for_again_while_the_last_failure_backs_off(
    acme: Tenant, upstream: Simulator, store: Store, settings: Settings
) -> None:
    settings.CLAUDE_OAUTH_MAX_RETRIES = 0
    store(acme, "bob", upstream.new_login("bob", expires_in=-10))
    upstream.fault("unavailable", times=None)
    for _ in range(3):
        with pytest.raises(UpstreamUnavailable) as refused:
            vault.issue_access_token(tenant=acme, user_id="bob", actor="test", now=time.time())
        assert refused.value.retry_after is not None
    assert upstream.counts.token_calls == 1


def test_a_demand_within_ten_seconds_of_a_success_is_answered_by_it(
    alice: OAuthCredential, acme: Tenant, upstream: Simulator
) -> None:
    for _ in range(3):
        vault.refresh_now(tenant=acme, user_id="alice", actor="test", now=time.time())
    assert upstream.counts.token_calls == 1


def test_what_failed_a_moment_ago_is_not_sent_again_for_the_asking(
    alice: OAuthCredential, acme: Tenant, upstream: Simulator, settings: Settings
) -> None:
    settings.CLAUDE_OAUTH_MAX_RETRIES = 0
    upstream.fault("unavailable", times=1)
    for _ in range(3):
        with pytest.raises(UpstreamUnavailable) as refused:
            vault.refresh_now(tenant=acme, user_id="alice", actor="test", now=time.time())
        assert refused.value.retry_after is not None
    assert upstream.counts.token_calls == 1
    later = time.time() + 11
    vault.refresh_now(tenant=acme, user_id="alice", actor="test", now=later)
    assert (upstream.counts.token_calls, upstream.counts.refreshed) == (2, 1)


def test_a_process_that_ends_gives_back_what_it_has_claimed_and_cannot_ask_for(
    acme: Tenant, upstream: Simulator, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    bob = store(acme, "bob", upstream.new_login("bob", expires_in=-10))
    ended = ThreadPoolExecutor(max_workers=1)
    ended.shutdown()
    with monkeypatch.context() as at_the_end:
        at_the_end.setattr(flight, "_pool", ended)
        with pytest.raises(RefreshInProgress):
            vault.issue_access_token(tenant=acme, user_id="bob", actor="test", now=time.time())
    assert not RefreshAttempt.objects.exists()
    bob.refresh_from_db()
    assert (bob.unanswered_presentations, bob.lease_id) == (0, None)
    vault.issue_access_token(tenant=acme, user_id="bob", actor="test", now=time.time())
    assert upstream.counts.token_calls == 1


class FullPool(ThreadPoolExecutor):
    """A pool on a machine that gives it no further thread: it raises, and keeps the work."""

    def submit(self, *args: Any, **kwargs: Any) -> Any:
        super().submit(*args, **kwargs)
        raise RuntimeError("can't start new thread")


def test_a_claim_that_was_given_back_is_not_carried_out_later(
    acme: Tenant, upstream: Simulator, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store(acme, "bob", upstream.new_login("bob", expires_in=-10))
    busy = threading.Event()
    with FullPool(max_workers=1) as pool, monkeypatch.context() as patched:
        with suppress(RuntimeError):
            pool.submit(busy.wait, 30)
        patched.setattr(flight, "_pool", pool)
        with pytest.raises(RefreshInProgress):
            vault.issue_access_token(
                tenant=acme, user_id="bob", actor="test", wait=0, now=time.time()
            )
        assert not RefreshAttempt.objects.exists()
        busy.set()
    assert upstream.counts.token_calls == 0
    vault.issue_access_token(tenant=acme, user_id="bob", actor="test", now=time.time())
    assert (upstream.counts.token_calls, upstream.counts.reuse) == (1, 0)


def test_a_refusal_of_an_earlier_request_is_not_the_answer_to_a_later_one(
    acme: Tenant, upstream: Simulator, store: Store
) -> None:
    bob = store(acme, "bob", upstream.new_login("bob", expires_in=-10))
    gate.close_for(60, now=clock.now())
    with pytest.raises(UpstreamRateLimited):
        vault.issue_access_token(tenant=acme, user_id="bob", actor="test", now=time.time())
    gate.reopen()
    upstream.kill_login("bob")
    # Another process is at it, and its refresh ends the login.
    claim = claim_of(bob)

    def end_it() -> None:
        answer, tries = present(claim)
        save_answer(claim, answer, tries=tries, latency_ms=1)

    with ThreadPoolExecutor(1) as another:
        ended = another.submit(in_threads, 1, end_it)
        with pytest.raises(ReauthorizationRequired):
            vault.issue_access_token(tenant=acme, user_id="bob", actor="test", now=time.time())
        ended.result()


def refused_before(*logins: OAuthCredential, times: int = 1) -> None:
    RefreshAttempt.objects.bulk_create(
        RefreshAttempt(
            tenant_id=login.tenant_id, credential=login, lease_id=uuid.uuid4(), actor="test",
            cause=Cause.DEMAND, generation=1, started_at=clock.now() - 60,
            outcome=Outcome.INVALID_GRANT,
        )
        for login in logins
        for _ in range(times)
    )  # fmt: skip


def test_after_many_made_up_logins_a_tenants_new_ones_wait_and_its_proven_ones_do_not(
    alice: OAuthCredential, acme: Tenant, globex: Tenant, upstream: Simulator, store: Store
) -> None:
    assert refresh_one(alice) == Outcome.REFRESHED
    new = store(acme, "new", upstream.new_login("new"))
    carol = store(globex, "carol", upstream.new_login("carol"))
    made_up = [store(acme, f"x{n}", upstream.new_login(f"x{n}")) for n in range(51)]
    refused_before(*made_up[:50])
    assert refresh_one(new) == Outcome.REFRESHED
    refused_before(made_up[50])
    later = store(acme, "later", upstream.new_login("later"))
    for cause in (Cause.DEMAND, Cause.HAND_OUT, Cause.REJECTED, Cause.SWEEP):
        with pytest.raises(RateLimited):
            refresh_one(later, cause=cause)
    for proven in (alice, new, carol):
        assert refresh_one(proven) == Outcome.REFRESHED
    calls = upstream.counts.token_calls
    # A made-up login in a proven one's place is new again.
    store(acme, "alice", upstream.new_login("alice"))
    with pytest.raises(RateLimited):
        refresh_one(alice)
    assert upstream.counts.token_calls == calls


def test_one_user_who_shows_made_up_logins_is_slowed_and_nobody_beside_them(
    alice: OAuthCredential, acme: Tenant, upstream: Simulator, store: Store
) -> None:
    bob = store(acme, "bob", upstream.new_login("bob"))
    refused_before(alice, times=60)
    with pytest.raises(RateLimited):
        refresh_one(alice)
    assert refresh_one(bob) == Outcome.REFRESHED


def test_fifty_reports_of_one_generation_cause_one_refresh(
    alice: OAuthCredential, acme: Tenant, upstream: Simulator
) -> None:
    upstream.latency_ms = 50
    upstream.kill_access_token(upstream.current_login("alice").access_token)

    def report() -> str:
        return vault.report_rejected(
            tenant=acme, user_id="alice", generation=alice.generation, actor="test", now=time.time()
        ).access_token.reveal()

    handed = in_threads(12, report)
    tokens = {text for text in handed if isinstance(text, str)}
    assert tokens == {upstream.current_login("alice").access_token}
    assert report() in tokens, "a stale generation gets the newer token"
    assert (upstream.counts.refreshed, upstream.counts.reuse) == (1, 0)


def test_a_report_during_which_the_refresh_lands_gets_its_token(
    alice: OAuthCredential, acme: Tenant, upstream: Simulator
) -> None:
    """Between the look at the row and the look at what is under way."""
    upstream.kill_access_token(upstream.current_login("alice").access_token)

    def report() -> str:
        return vault.report_rejected(
            tenant=acme, user_id="alice", generation=1, actor="test", now=clock.now()
        ).access_token.reveal()

    landed: list[object] = []

    def execute(ask: Callable[..., object], sql: str, *more: object) -> object:
        result = ask(sql, *more)
        if not landed and '"claude_oauth_tokens"' in sql:
            landed.append(None)
            landed[:] = in_threads(1, report)
        return result

    with connection.execute_wrapper(execute):
        handed = report()
    assert landed == [handed] == [upstream.current_login("alice").access_token]
    assert (upstream.counts.refreshed, upstream.counts.reuse) == (1, 0)


def test_a_login_that_upstream_refuses_whole_is_over_at_once(
    alice: OAuthCredential, acme: Tenant, upstream: Simulator, reread: Reread
) -> None:
    """Its person has signed out over there: the access token is answered with 401 and the refresh
    token with `invalid_grant`. Nothing is left of it, whatever its end was said to be."""
    upstream.kill_login("alice")
    with pytest.raises(ReauthorizationRequired):
        vault.report_rejected(
            tenant=acme, user_id="alice", generation=1, actor="test", now=clock.now()
        )
    assert not reread(alice).is_usable(now=clock.now())
    with pytest.raises(ReauthorizationRequired):
        vault.issue_access_token(tenant=acme, user_id="alice", actor="test", now=clock.now())


def test_a_token_of_a_login_that_was_lost_is_served_until_upstream_refuses_it(
    alice: OAuthCredential, acme: Tenant, upstream: Simulator, reread: Reread
) -> None:
    upstream.fault("invalid_grant")
    assert refresh_one(alice, cause=Cause.SWEEP) == Outcome.INVALID_GRANT
    now = clock.now()
    handed = vault.issue_access_token(tenant=acme, user_id="alice", actor="test", now=now)
    assert reread(alice).expires_at == alice.expires_at
    for _ in range(2):
        with pytest.raises(ReauthorizationRequired):
            vault.report_rejected(
                tenant=acme,
                user_id="alice",
                generation=handed.generation,
                actor="test",
                now=clock.now(),
            )
    assert not reread(alice).is_usable(now=clock.now())
    with pytest.raises(ReauthorizationRequired):
        vault.issue_access_token(tenant=acme, user_id="alice", actor="test", now=clock.now())
    assert AuditEvent.objects.filter(action="rejected").count() == 1
    assert upstream.counts.token_calls == 1


def test_a_report_of_another_generation_ends_no_token(
    alice: OAuthCredential, acme: Tenant, upstream: Simulator, reread: Reread
) -> None:
    assert refresh_one(alice) == Outcome.REFRESHED
    upstream.fault("invalid_grant")
    assert refresh_one(alice, cause=Cause.SWEEP) == Outcome.INVALID_GRANT
    assert vault.report_rejected(
        tenant=acme, user_id="alice", generation=1, actor="test", now=clock.now()
    )
    with pytest.raises(ReauthorizationRequired):
        vault.report_rejected(
            tenant=acme, user_id="alice", generation=3, actor="test", now=clock.now()
        )
    assert reread(alice).is_usable(now=clock.now())


def test_a_credential_without_a_refresh_token_is_served_to_its_end(
    acme: Tenant, upstream: Simulator, store: Store
) -> None:
    login = upstream.new_login("bob", expires_in=600, refresh=False)
    bob = store(acme, "bob", login)
    assert refresh_one(bob) is None
    now = time.time()
    assert vault.issue_access_token(tenant=acme, user_id="bob", actor="test", now=now)
    with pytest.raises(NoRefreshToken):
        vault.refresh_now(tenant=acme, user_id="bob", actor="test", now=now)
    with pytest.raises(TokenExpired):
        vault.issue_access_token(tenant=acme, user_id="bob", actor="test", now=now + 601)
    assert upstream.counts.token_calls == 0


def test_the_sweep_refreshes_what_is_due_and_nothing_else(
    acme: Tenant, upstream: Simulator, store: Store, settings: Settings, reread: Reread
) -> None:
    from oauthvault.celery import app

    app.conf.task_always_eager = True
    try:
        soon = store(acme, "soon", upstream.new_login("soon", expires_in=100))
        store(acme, "late", upstream.new_login("late", expires_in=9000))
        gone = store(acme, "gone", upstream.new_login("gone", expires_in=100))
        vault.revoke(tenant=acme, user_id="gone", actor="test", now=time.time())
        assert sweep() == 1
        assert sweep() == 0
    finally:
        app.conf.task_always_eager = False
    assert reread(soon).refresh_count == 1
    assert upstream.counts.token_calls == 1
    assert reread(gone).status(now=time.time()) == Status.REVOKED


def test_revoked_means_refused_at_once_and_for_ever(
    alice: OAuthCredential, acme: Tenant, upstream: Simulator
) -> None:
    vault.revoke(tenant=acme, user_id="alice", actor="test", now=time.time())
    with pytest.raises(Revoked):
        vault.issue_access_token(tenant=acme, user_id="alice", actor="test", now=time.time())
    assert refresh_one(alice) is None
    assert upstream.counts.token_calls == 0


def test_the_clock_is_the_databases() -> None:
    assert abs(clock.now() - time.time()) < 30


def end_lease(credential: OAuthCredential, *, ago: float = 1 + SPOOL_GRACE) -> None:
    """Bring about what waiting for 45 seconds would, and for the two minutes after them in
    which an answer may come home from another machine's disk."""
    OAuthCredential.objects.filter(pk=credential.pk, lease_until__isnull=False).update(
        lease_until=time.time() - ago
    )


def wait_for(condition: Callable[[], bool]) -> None:
    ends = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < ends, "it never came about"
        time.sleep(0.01)


def claim_of(credential: OAuthCredential) -> Claim:
    claim = claim_credential(credential.tenant_id, credential.pk, Cause.SWEEP, "test", None)
    assert claim is not None
    return claim


def test_a_stalled_holders_refusal_is_believed_where_it_alone_was_without_an_answer(
    alice: OAuthCredential, upstream: Simulator, reread: Reread
) -> None:
    upstream.kill_login("alice")
    stalled = claim_of(alice)
    presented = present(stalled)
    assert presented is not None
    end_lease(alice)
    upstream.fault("rate_limited", user="alice", retry_after=1)
    assert refresh_one(alice) == Outcome.RATE_LIMITED
    save_answer(stalled, presented[0], tries=1, latency_ms=1)
    assert reread(alice).standing == Standing.REAUTHORIZATION_REQUIRED
    assert upstream.counts.token_calls == 2


def test_a_stalled_holders_refusal_leaves_the_newer_claim_alone(
    alice: OAuthCredential, reread: Reread
) -> None:
    stalled = claim_of(alice)
    end_lease(alice)
    newer = claim_of(alice)
    for kind in (Refusal.UNREACHABLE, Refusal.INVALID_GRANT):
        save_answer(stalled, Refused(kind=kind, status=503), tries=1, latency_ms=1)
        after = reread(alice)
        assert after.lease_id == newer.lease_id
        assert after.standing == Standing.ACTIVE
        assert after.problem == Problem.NONE
    assert reread(alice).unanswered_presentations <= 1


def test_one_definite_answer_and_one_lost_one_are_not_two_lost_ones(
    alice: OAuthCredential, reread: Reread
) -> None:
    stalled = claim_of(alice)
    end_lease(alice)
    newer = claim_of(alice)
    save_answer(stalled, Refused(kind=Refusal.UNREACHABLE, status=503), tries=1, latency_ms=1)
    save_answer(newer, Refused(kind=Refusal.UNKNOWN), tries=1, latency_ms=1)
    assert reread(alice).standing == Standing.ACTIVE


def test_a_data_key_that_changes_during_a_refresh_does_not_cost_the_new_pair(
    alice: OAuthCredential, upstream: Simulator, reread: Reread
) -> None:
    """Seal with what was at hand at the claim: afterwards would be too late."""
    claim = claim_of(alice)
    answer, tries = present(claim)
    DataKey.objects.filter(tenant=alice.tenant).update(retired_at="2026-01-01T00:00:00Z")
    DataKey.objects.create(tenant=alice.tenant, key_id="alien", wrapped="v1.x.x", kek_id="x")
    assert save_answer(claim, answer, tries=tries, latency_ms=1) == Outcome.REFRESHED
    held = upstream.current_login("alice").refresh_token
    assert sealing.open_refresh_token(reread(alice)).reveal() == held


@pytest.mark.parametrize("status", [201, 204, 504, 520, 524])
def test_an_answer_after_which_the_token_may_be_spent_is_an_unknown_outcome(
    alice: OAuthCredential, upstream: Simulator, reread: Reread, status: int
) -> None:
    upstream.fail_next(status=status, rotates=True)
    assert refresh_one(alice) == Outcome.UNKNOWN
    assert reread(alice).unanswered_presentations == 1
    assert upstream.counts.token_calls == 1


def test_a_proxy_that_is_down_has_spent_nothing(
    alice: OAuthCredential, reread: Reread, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The CONNECT to a proxy carries no token of ours."""
    refusing = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    threading.Thread(target=refusing.serve_forever, daemon=True).start()
    try:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{refusing.server_port}")
        settings.CLAUDE_OAUTH_TOKEN_URL = "https://auth.example.org/v1/oauth/token"
        settings.CLAUDE_OAUTH_MAX_RETRIES = 0
        for _ in range(3):
            assert refresh_one(alice) == Outcome.UNREACHABLE
        assert reread(alice).unanswered_presentations == 0
    finally:
        refusing.shutdown()
        refusing.server_close()


def test_a_suspended_tenants_credentials_are_not_claimed(
    alice: OAuthCredential, acme: Tenant, upstream: Simulator
) -> None:
    suspend_tenant(tenant=acme, actor="test", now=time.time())
    assert refresh_one(alice) is None
    assert upstream.counts.token_calls == 0


def test_one_tenants_many_expired_credentials_do_not_keep_another_tenant_waiting(
    acme: Tenant, globex: Tenant, upstream: Simulator, store: Store
) -> None:
    users = [f"user{number}" for number in range(40)]
    for user in users:
        store(acme, user, upstream.new_login(user, expires_in=-10))
    carol = upstream.new_login("carol", expires_in=-10)
    store(globex, "carol", carol)
    upstream.latency_ms = 1000
    now = time.time()
    for user in users:
        with pytest.raises(RefreshInProgress):
            vault.issue_access_token(tenant=acme, user_id=user, actor="test", wait=0, now=now)
    handed = vault.issue_access_token(tenant=globex, user_id="carol", actor="test", now=now)
    assert handed.access_token.reveal() == upstream.current_login("carol").access_token
    # Hers beside as many of theirs as may be begun at once: she did not wait behind the rest.
    assert upstream.counts.concurrent_high_water <= 16 + 1


def test_an_old_refusal_is_not_todays_answer(
    alice: OAuthCredential, acme: Tenant, upstream: Simulator, store: Store
) -> None:
    """Whoever finds their tenant's places taken is told that, and not what was wrong before."""
    gate.close_for(60, now=time.time())
    with pytest.raises(UpstreamRateLimited):
        vault.refresh_now(tenant=acme, user_id="alice", actor="test", now=time.time())
    Upstream.objects.all().delete()
    upstream.latency_ms = 1000
    for number in range(20):
        user = f"user{number}"
        store(acme, user, upstream.new_login(user))
        with pytest.raises(RefreshInProgress):
            vault.refresh_now(tenant=acme, user_id=user, actor="test", wait=0, now=time.time())
    with pytest.raises(RefreshInProgress):
        vault.refresh_now(tenant=acme, user_id="alice", actor="test", wait=0, now=time.time())


def test_claims_that_let_the_epoch_rise_side_by_side_take_nothing_for_restored(
    acme: Tenant, upstream: Simulator, store: Store
) -> None:
    """One reads the row, another lets it rise and tells the outside, the first compares."""
    users = [f"user{number}" for number in range(24)]
    many = [store(acme, user, upstream.new_login(user)) for user in users]
    waiting = iter(many)
    lock = threading.Lock()

    def next_one() -> Outcome | None:
        outcome = None
        for _ in range(4):
            with lock:
                credential = next(waiting)
            outcome = refresh_one(credential)
            assert outcome == Outcome.REFRESHED
        return outcome

    assert in_threads(6, next_one) == [Outcome.REFRESHED] * 6


def test_a_process_that_was_stopped_between_claim_and_request_presents_nothing(
    alice: OAuthCredential, upstream: Simulator, reread: Reread, settings: Settings
) -> None:
    """Nor does it say that the server is down: nobody has asked it."""
    claim = claim_of(alice)
    settings.REFRESH_DEADLINE = 0.0
    assert carry_out(claim) is None
    assert upstream.counts.token_calls == 0
    after = reread(alice)
    assert (after.unanswered_presentations, after.lease_id, after.consecutive_failures) == (
        0, None, 0,
    )  # fmt: skip
    assert not RefreshAttempt.objects.exists()
    assert not Upstream.objects.filter(consecutive_failures__gt=0).exists()


def test_processes_that_were_stopped_before_they_asked_say_nothing_of_the_server(
    acme: Tenant, upstream: Simulator, store: Store, reread: Reread, settings: Settings
) -> None:
    """Nor of the credential: nothing was sent, and the claim is as if it had never been."""
    everybody = [
        store(acme, f"user{number}", upstream.new_login(f"user{number}"))
        for number in range(gate.FAILURES_ALLOWED)
    ]
    settings.REFRESH_DEADLINE = 0.0
    for credential in everybody:
        assert refresh_one(credential) is None
        after = reread(credential)
        assert (after.problem, after.consecutive_failures) == (Problem.NONE, 0)
        assert (after.unanswered_presentations, after.lease_id) == (0, None)
        assert after.refresh_due_at == credential.refresh_due_at
    assert not RefreshAttempt.objects.exists()
    assert not gate.look(now=clock.now()).found_down
    assert upstream.counts.token_calls == 0


def test_a_stopped_process_whose_lease_has_passed_on_takes_back_its_own_presentation_only(
    alice: OAuthCredential, upstream: Simulator, reread: Reread, settings: Settings
) -> None:
    stopped = claim_of(alice)
    end_lease(alice)
    newer = claim_of(alice)
    settings.REFRESH_DEADLINE = 0.0
    for _ in range(2):
        assert carry_out(stopped) is None
        after = reread(alice)
        assert (after.unanswered_presentations, after.lease_id) == (1, newer.lease_id)
        assert RefreshAttempt.objects.get().lease_id == newer.lease_id
    settings.REFRESH_DEADLINE = 30.0
    assert carry_out(newer) == Outcome.REFRESHED


def test_whoever_is_told_how_long_a_429_lasts_is_told_a_little_more_by_chance(
    acme: Tenant, upstream: Simulator, store: Store
) -> None:
    """All who were told the same moment would come back in it, and earn the next one."""
    bob = store(acme, "bob", upstream.new_login("bob", expires_in=-10))
    upstream.fail_next(status=429, retry_after=100)
    assert refresh_one(bob) == Outcome.RATE_LIMITED
    now, told = clock.now(), set()
    bob.refresh_from_db()
    for _ in range(20):
        with pytest.raises(UpstreamRateLimited) as refused:
            vault.issue_access_token(tenant=acme, user_id="bob", actor="test", now=now)
        told.add(refused.value.retry_after)
    assert len(told) > 1
    assert bob.refresh_due_at is not None
    left = bob.refresh_due_at - now
    assert all(left <= seconds <= left + 3 for seconds in told if seconds is not None)


def test_an_answer_of_long_ago_does_not_close_the_circuit(
    alice: OAuthCredential, upstream: Simulator, reread: Reread
) -> None:
    claim = claim_of(alice)
    presented = present(claim)
    assert presented is not None
    Upstream.objects.update_or_create(
        token_url=upstream.token_url,
        defaults={"circuit_open_until": clock.now() + 9000, "consecutive_failures": 5},
    )
    late = dataclasses.replace(claim, claimed_at=claim.claimed_at - 7200)
    assert save_answer(late, presented[0], tries=1, latency_ms=1) == Outcome.REFRESHED
    assert gate.look(now=clock.now()).found_down


def test_a_late_pair_of_a_login_that_is_in_use_is_not_revoked_upstream(
    alice: OAuthCredential, upstream: Simulator, reread: Reread, settings: Settings
) -> None:
    """A server that keeps the refresh token gives two claims pairs of the same login."""
    settings.CLAUDE_OAUTH_REVOKE_URL = upstream.revoke_url
    upstream.fault("keep_refresh_token", times=2)
    stalled = claim_of(alice)
    presented = present(stalled)
    assert presented is not None
    said, tries = presented
    end_lease(alice)
    assert refresh_one(alice) == Outcome.REFRESHED
    assert save_answer(stalled, said, tries=tries, latency_ms=1) == Outcome.SUPERSEDED
    assert upstream.counts.revoke_calls == 0
    assert refresh_one(reread(alice)) == Outcome.REFRESHED


def test_what_delays_the_claim_is_taken_from_the_time_to_send(
    alice: OAuthCredential, upstream: Simulator, settings: Settings
) -> None:
    """A commit that takes long must not let a token be sent after its lease."""
    usual = settings.REFRESH_DEADLINE, settings.REFRESH_LEASE
    settings.REFRESH_DEADLINE, settings.REFRESH_LEASE, settings.SPOOL_GRACE = 0.2, 0.3, 0.0

    def slow(execute, sql, params, many, context):  # type: ignore[no-untyped-def]
        if sql.startswith("UPDATE") and "tokens_deployment" in sql:
            time.sleep(0.4)
        return execute(sql, params, many, context)

    with connection.execute_wrapper(slow):
        stalled = claim_of(alice)
    # The other one has all the time that a refresh has.
    settings.REFRESH_DEADLINE, settings.REFRESH_LEASE = usual
    assert refresh_one(alice) == Outcome.REFRESHED, "its lease was over when it was committed"
    settings.REFRESH_DEADLINE = 0.2
    assert present(stalled) is None
    assert (upstream.counts.token_calls, upstream.counts.reuse) == (1, 0)


def test_an_answer_is_saved_where_no_thread_can_be_started(
    alice: OAuthCredential, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_thread(timer: threading.Timer) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Timer, "start", no_thread)
    assert refresh_one(alice) == Outcome.REFRESHED
