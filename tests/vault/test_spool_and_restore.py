"""What lies in the spool, and in Redis, when the database is not the one that was left, or
when somebody else has put it there."""

import dataclasses
import time
from pathlib import Path

import pytest
from pytest_django import Settings

from tests.conftest import Store
from tests.simulator import Simulator
from tests.vault.conftest import Reread
from tests.vault.test_epoch import as_in_a_new_process
from tests.vault.test_refresh import refresh_one
from tests.vault.test_save_failures import Trouble, every, spooled_for
from tokens import clock, epoch, outside, sealing
from tokens.errors import StoreUnavailable
from tokens.models import (
    Deployment,
    OAuthCredential,
    Outcome,
    RefreshAttempt,
    Standing,
    Tenant,
    TokenFingerprint,
)
from tokens.refresh import gate, replay, spool
from tokens.tasks import sweep

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def _impatient(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tokens.refresh.save.PATIENCE", 0.01)


@pytest.fixture
def alice(acme: Tenant, upstream: Simulator, store: Store) -> OAuthCredential:
    return store(acme, "alice", upstream.new_login("alice"))


def lie_in_spool(upstream: Simulator, credential: OAuthCredential) -> None:
    upstream.reset_counts()
    with Trouble(upstream, user=credential.user_id, statement=every):
        assert refresh_one(credential) == Outcome.NOT_SAVED


def test_a_restore_behind_the_spool_keeps_the_newest_pair(
    alice: OAuthCredential, upstream: Simulator, reread: Reread, settings: Settings
) -> None:
    """The disk of the database dies, an answer goes to the spool, yesterday is put back."""
    settings.CLAUDE_OAUTH_REVOKE_URL = upstream.revoke_url
    yesterday = OAuthCredential.objects.filter(pk=alice.pk).values().get()
    assert refresh_one(alice) == Outcome.REFRESHED
    lie_in_spool(upstream, alice)
    assert len(spooled_for(alice)) == 1
    RefreshAttempt.objects.all().delete()
    TokenFingerprint.objects.filter(generation=2).delete()
    TokenFingerprint.objects.update(retired_at=None)
    OAuthCredential.objects.filter(pk=alice.pk).update(**yesterday)
    Deployment.objects.update(epoch=1)
    as_in_a_new_process()
    sweep()
    after = reread(alice)
    assert (after.standing, after.generation) == (Standing.QUARANTINED, 3)
    newest = upstream.current_login("alice").refresh_token
    assert sealing.open_refresh_token(after).reveal() == newest
    assert spooled_for(alice) == []
    assert upstream.counts.revoke_calls == 0


def test_a_drill_beside_the_original_quarantines_only_itself(
    alice: OAuthCredential,
) -> None:
    """They share a Redis, and so what is kept outside."""
    for _ in range(3):
        epoch.advance(now=clock.now())
    at_work = Deployment.objects.get().epoch
    Deployment.objects.update(epoch=at_work - 2)
    as_in_a_new_process()
    sweep()
    sweep()
    assert OAuthCredential.objects.get().standing == Standing.QUARANTINED
    kept, _ = epoch._read_outside(epoch.vault_id())
    assert kept == at_work


@pytest.mark.parametrize(
    "content", [b"\xff\xfe", b"[" * 100_000, b"{}", b"", b'{"vault_id": 7}', b"not json"]
)
def test_what_is_no_answer_stops_nobody(
    alice: OAuthCredential, upstream: Simulator, data_dir: Path, content: bytes
) -> None:
    (data_dir / "spool").mkdir(exist_ok=True)
    (data_dir / "spool" / "999-x").write_bytes(content)
    assert replay.replay() == 0
    assert refresh_one(alice) == Outcome.REFRESHED
    assert (data_dir / "spool" / "999-x").exists(), "it stays for a person to look at"


def test_an_answer_that_is_there_and_cannot_be_read_keeps_its_token_from_being_sent(
    alice: OAuthCredential, upstream: Simulator, data_dir: Path
) -> None:
    (data_dir / "spool").mkdir(exist_ok=True)
    (data_dir / "spool" / f"{alice.pk}-x").write_bytes(b"damaged")
    with pytest.raises(StoreUnavailable, match="cannot be saved"):
        refresh_one(alice)
    assert upstream.counts.token_calls == 0


def test_an_entry_that_answers_no_refresh_of_ours_changes_nothing(
    alice: OAuthCredential, upstream: Simulator, reread: Reread
) -> None:
    """Whoever may write into Redis may have kept an old one."""
    lie_in_spool(upstream, alice)
    (old,) = spooled_for(alice)
    assert replay.replay() == 1
    assert refresh_one(alice) == Outcome.REFRESHED
    before = reread(alice)
    spool.put(
        dataclasses.replace(
            old,
            generation=before.generation,
            lease_id="0b9e7a64-95a5-4e3b-8f5a-1f4fd1d8a111",
        )
    )
    assert replay.replay() == 0
    after = reread(alice)
    assert after.generation == before.generation
    assert sealing.open_refresh_token(after) == sealing.open_refresh_token(before)


def test_an_old_429_from_the_spool_closes_the_door_for_what_is_left_of_it(
    alice: OAuthCredential, upstream: Simulator, settings: Settings
) -> None:
    upstream.fail_next(status=429, retry_after=600)
    lie_in_spool(upstream, alice)
    settings.CLOCK_OFFSET = 500
    assert replay.replay() == 1
    assert gate.look(now=clock.now()).closed_until == pytest.approx(time.time() + 600, abs=15)


def test_an_epoch_in_redis_that_is_no_number_is_none(alice: OAuthCredential) -> None:
    if not outside.has_redis():
        pytest.skip("there is no Redis in this pass")
    outside.in_redis("SET", f"oauthvault:{epoch.vault_id()}:epoch", "many")
    as_in_a_new_process()
    assert refresh_one(alice) == Outcome.REFRESHED
