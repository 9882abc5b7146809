"""The authorization server answers one credential's refresh with the tokens of another."""

import logging
import time
from typing import Any

import pytest
from pytest_django import Settings

from tests.conftest import Store
from tests.simulator import Simulator
from tests.vault.conftest import Reread
from tests.vault.test_refresh import claim_of, refresh_one
from tests.vault.test_save_failures import Trouble, every, spooled_for
from tokens import clock, diagnosis, epoch, sealing, vault
from tokens.errors import ReauthorizationRequired
from tokens.models import (
    AuditEvent,
    OAuthCredential,
    Outcome,
    Problem,
    RefreshAttempt,
    Standing,
    Tenant,
    TenantStatistics,
    TokenFingerprint,
    TokenKind,
)
from tokens.refresh import replay, save
from tokens.refresh.ask import present
from tokens.refresh.save import save_answer

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("data_dir")]


@pytest.fixture
def upstream(upstream: Simulator, settings: Settings) -> Simulator:
    """One that can be asked to revoke: it shows what was taken for homeless."""
    settings.CLAUDE_OAUTH_REVOKE_URL = upstream.revoke_url
    return upstream


@pytest.fixture
def alice(acme: Tenant, upstream: Simulator, store: Store) -> OAuthCredential:
    return store(acme, "alice", upstream.new_login("alice", expires_in=-10))


@pytest.fixture
def carol(globex: Tenant, upstream: Simulator, store: Store) -> OAuthCredential:
    """Of another tenant; refreshed once, so that she has an old pair and a new one."""
    credential = store(globex, "carol", upstream.new_login("carol", expires_in=3600))
    assert refresh_one(credential) == Outcome.REFRESHED
    upstream.reset_counts()
    return OAuthCredential.objects.select_related("tenant", "data_key").get(pk=credential.pk)


def pair_of(credential: OAuthCredential) -> dict[str, Any]:
    return {
        "access_token": sealing.open_access_token(credential).reveal(),
        "refresh_token": sealing.open_refresh_token(credential).reveal(),
    }


def everything_of(credential: OAuthCredential) -> tuple[list[Any], list[Any]]:
    ledger = TokenFingerprint.objects.filter(credential=credential).order_by("pk")
    return (
        list(OAuthCredential.objects.filter(pk=credential.pk).values()),
        list(ledger.values()),
    )


def assert_set_aside(before: OAuthCredential, upstream: Simulator) -> None:
    """The old pair is still what is stored, it is said to be spent, and nothing is revoked."""
    after = OAuthCredential.objects.select_related("tenant", "data_key").get(pk=before.pk)
    assert (after.standing, after.problem) == (
        Standing.REAUTHORIZATION_REQUIRED,
        Problem.MISDIRECTED,
    )
    assert (after.refresh_due_at, after.lease_id, after.taken_until) == (None, None, None)
    assert after.access_token_encrypted == before.access_token_encrypted
    assert (after.generation, after.refresh_count) == (before.generation, 0)
    with pytest.raises(ReauthorizationRequired, match="another user's login"):
        vault.issue_access_token(
            tenant=after.tenant, user_id=after.user_id, actor="test", now=time.time()
        )
    assert "import_credentials" in (diagnosis.describe_problem(after, now=time.time()) or "")
    (attempt,) = RefreshAttempt.objects.filter(credential=after)
    assert (attempt.outcome, attempt.answer_saved) == (Outcome.MISDIRECTED, True)
    kept = TenantStatistics.objects.get(tenant=after.tenant)
    assert (kept.refreshes_succeeded, kept.refreshes_failed) == (0, 1)
    (event,) = AuditEvent.objects.filter(action="refresh", subject=after.user_id)
    assert event.outcome == "misdirected"
    assert upstream.counts.revoke_calls == 0


@pytest.mark.parametrize("parts", [("access_token",), ("refresh_token",), (), None])
def test_what_another_holds_is_neither_stored_nor_handed_out(
    alice: OAuthCredential,
    carol: OAuthCredential,
    upstream: Simulator,
    caplog: pytest.LogCaptureFixture,
    parts: tuple[str, ...] | None,
) -> None:
    """One token of hers, both, or both and old."""
    given = {name: token for name, token in pair_of(carol).items() if not parts or name in parts}
    if parts is None:
        assert refresh_one(carol) == Outcome.REFRESHED
    hers = everything_of(carol)
    upstream.fault("amend", user="alice", amend=given)
    assert refresh_one(alice) == Outcome.MISDIRECTED
    assert_set_aside(alice, upstream)
    assert everything_of(carol) == hers
    (said,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert "tokens of another credential" in said.getMessage()
    assert "alice" in said.getMessage()
    assert not any(token in caplog.text for token in given.values())


def test_the_presented_token_is_spent_and_the_held_access_token_is_still_hers(
    alice: OAuthCredential, carol: OAuthCredential, upstream: Simulator
) -> None:
    upstream.fault("amend", user="alice", amend=pair_of(carol))
    assert refresh_one(alice) == Outcome.MISDIRECTED
    ledger = TokenFingerprint.objects.filter(credential=alice)
    assert ledger.count() == 2
    assert ledger.get(kind=TokenKind.REFRESH).retired_at is not None
    assert ledger.get(kind=TokenKind.ACCESS).retired_at is None


def test_a_new_login_heals_it(
    alice: OAuthCredential,
    carol: OAuthCredential,
    acme: Tenant,
    upstream: Simulator,
    store: Store,
) -> None:
    upstream.fault("amend", user="alice", amend=pair_of(carol))
    assert refresh_one(alice) == Outcome.MISDIRECTED
    assert refresh_one(store(acme, "alice", upstream.new_login("alice"))) == Outcome.REFRESHED


def test_a_save_that_was_not_acknowledged_says_it_once(
    alice: OAuthCredential, carol: OAuthCredential, upstream: Simulator
) -> None:
    upstream.fault("amend", user="alice", amend=pair_of(carol))
    with Trouble(upstream, after_commit=(1).__eq__):
        assert refresh_one(alice) == Outcome.MISDIRECTED
    assert_set_aside(alice, upstream)


def test_out_of_the_spool_it_is_not_stored_either(
    alice: OAuthCredential,
    carol: OAuthCredential,
    upstream: Simulator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(save, "PATIENCE", 0.01)
    hers = everything_of(carol)
    upstream.fault("amend", user="alice", amend=pair_of(carol))
    with Trouble(upstream, statement=every):
        assert refresh_one(alice) == Outcome.NOT_SAVED
    assert replay.replay() == 1
    assert replay.replay() == 0
    assert_set_aside(alice, upstream)
    assert everything_of(carol) == hers
    assert spooled_for(alice) == []


def test_whoever_saves_the_same_tokens_second_gets_none_of_them(
    alice: OAuthCredential, carol: OAuthCredential, upstream: Simulator, reread: Reread
) -> None:
    """Both were asked for before either was saved: the ledger decides, at the save."""
    hers, mine = claim_of(carol), claim_of(alice)
    answer, tries = present(hers)
    assert save_answer(hers, answer, tries=tries, latency_ms=1) == Outcome.REFRESHED
    assert save_answer(mine, answer, tries=tries, latency_ms=1) == Outcome.MISDIRECTED
    assert_set_aside(alice, upstream)
    assert reread(carol).standing == Standing.ACTIVE


def test_an_answer_for_a_revoked_credential_does_not_end_the_login_it_was_taken_from(
    alice: OAuthCredential, carol: OAuthCredential, acme: Tenant, upstream: Simulator
) -> None:
    """A pair without a home is given back upstream. This one has a home."""
    upstream.fault("amend", user="alice", amend=pair_of(carol))
    claim = claim_of(alice)
    answer, tries = present(claim)
    OAuthCredential.objects.filter(pk=alice.pk).update(generation=alice.generation + 1)
    assert save_answer(claim, answer, tries=tries, latency_ms=1) == Outcome.SUPERSEDED
    assert upstream.counts.revoke_calls == 0
    assert upstream.current_login("carol").alive


def test_a_quarantined_one_stays_so_and_needs_a_new_login_after_the_release(
    alice: OAuthCredential, carol: OAuthCredential, upstream: Simulator, reread: Reread
) -> None:
    upstream.fault("amend", user="alice", amend=pair_of(carol))
    claim = claim_of(alice)
    answer, tries = present(claim)
    OAuthCredential.objects.filter(pk=alice.pk).update(
        standing=Standing.QUARANTINED, refresh_due_at=None, lease_id=None, lease_until=None
    )
    assert save_answer(claim, answer, tries=tries, latency_ms=1) == Outcome.MISDIRECTED
    assert reread(alice).standing == Standing.QUARANTINED
    epoch.release(tenant=None, user_id=None, actor="test", now=clock.now())
    assert reread(alice).standing == Standing.REAUTHORIZATION_REQUIRED


def test_one_token_for_both_places_is_listed_once(
    alice: OAuthCredential, upstream: Simulator, reread: Reread
) -> None:
    """An odd server. It is in the ledger as what it is worth more as."""
    upstream.fault("amend", amend={"access_token": "one-for-both", "refresh_token": "one-for-both"})
    assert refresh_one(alice) == Outcome.REFRESHED
    held = TokenFingerprint.objects.get(credential=alice, retired_at=None)
    assert held.kind == TokenKind.REFRESH
