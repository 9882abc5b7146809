"""What lies in the spool, and in Redis, when the database is not the one that was left, or
when somebody else has put it there."""

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import redis
from pytest_django import Settings

from tests.conftest import Store
from tests.simulator import Simulator
from tests.vault.conftest import Reread
from tests.vault.test_epoch import as_in_a_new_process
from tests.vault.test_refresh import claim_of, end_lease, refresh_one
from tests.vault.test_save_failures import Trouble, every, put_changed, spooled_for
from tokens import clock, epoch, outside, sealing, vault
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
from tokens.refresh.ask import present
from tokens.refresh.save import save_answer
from tokens.rotation import data_keys
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


@pytest.fixture
def restored_behind_an_answer(
    alice: OAuthCredential, upstream: Simulator, settings: Settings
) -> Callable[..., spool.Entry]:
    """alice's newest pair lies in the spool of a machine that is away; a backup from before
    it is put in place, in which her credential is ``behind`` generations older."""
    settings.CLAUDE_OAUTH_REVOKE_URL = upstream.revoke_url

    def _restored(behind: int = 2, *, noticed: bool = True) -> spool.Entry:
        backup = OAuthCredential.objects.filter(pk=alice.pk).values().get()
        then = epoch.deployment().epoch
        for _ in range(behind):
            assert refresh_one(alice) == Outcome.REFRESHED
        lie_in_spool(upstream, alice)
        (entry,) = spooled_for(alice)
        spool.remove(entry)
        RefreshAttempt.objects.all().delete()
        TokenFingerprint.objects.filter(generation__gt=alice.generation).delete()
        TokenFingerprint.objects.update(retired_at=None)
        OAuthCredential.objects.filter(pk=alice.pk).update(**backup)
        Deployment.objects.update(epoch=then)
        as_in_a_new_process()
        if noticed:
            sweep()
        upstream.reset_counts()
        return entry

    return _restored


def holds(credential: OAuthCredential, refresh_token: str | None) -> bool:
    row = OAuthCredential.objects.select_related("data_key").get(pk=credential.pk)
    return sealing.open_refresh_token(row).reveal() == refresh_token


def revoked(upstream: Simulator) -> list[str | None]:
    return [request.token for request in upstream.requests if "revoke" in request.path]


@pytest.mark.parametrize("behind", [0, 2])
def test_an_answer_that_is_newer_than_the_backup_comes_home_into_the_quarantine(
    alice: OAuthCredential,
    upstream: Simulator,
    reread: Reread,
    restored_behind_an_answer: Callable[..., spool.Entry],
    behind: int,
) -> None:
    """Also where the backup is of the moment before its claim."""
    spool.put(restored_behind_an_answer(behind))
    newest = upstream.current_login("alice").refresh_token
    assert replay.replay() == 1
    assert holds(alice, newest)
    assert reread(alice).standing == Standing.QUARANTINED
    epoch.release(tenant=None, user_id=None, actor="test", now=clock.now())
    assert refresh_one(alice) == Outcome.REFRESHED
    assert upstream.counts.reuse == 0


@pytest.mark.parametrize("released", [False, True])
def test_an_import_after_the_restore_wins_over_an_older_answer(
    alice: OAuthCredential,
    acme: Tenant,
    upstream: Simulator,
    store: Store,
    restored_behind_an_answer: Callable[..., spool.Entry],
    released: bool,
) -> None:
    """Though the restored row has counted fewer generations than the answer."""
    entry = restored_behind_an_answer()
    homeless = upstream.current_login("alice").refresh_token
    if released:
        epoch.release(tenant=None, user_id=None, actor="test", now=clock.now())
    new = upstream.new_login("alice")
    imported = store(acme, "alice", new)
    assert imported.generation < entry.generation
    spool.put(entry)
    assert replay.replay() == 1
    assert holds(alice, new.refresh_token)
    assert revoked(upstream) == [homeless]
    assert upstream.current_login("alice").alive
    assert spooled_for(alice) == []
    assert refresh_one(imported) == Outcome.REFRESHED


def test_a_save_under_way_loses_to_an_import_into_a_database_that_was_restored_meanwhile(
    alice: OAuthCredential, acme: Tenant, upstream: Simulator, store: Store
) -> None:
    """The restored row comes to the very generation that was presented, by the import."""
    backup = OAuthCredential.objects.filter(pk=alice.pk).values().get()
    assert refresh_one(alice) == Outcome.REFRESHED
    claim = claim_of(alice)
    answer, tries = present(claim)
    RefreshAttempt.objects.all().delete()
    OAuthCredential.objects.filter(pk=alice.pk).update(**backup)
    new = upstream.new_login("alice")
    assert store(acme, "alice", new).generation == claim.generation
    old = dataclasses.replace(claim, claimed_at=claim.claimed_at - 60)
    assert save_answer(old, answer, tries=tries, latency_ms=1) == Outcome.SUPERSEDED
    assert holds(alice, new.refresh_token)


def test_a_revocation_after_the_restore_wins_too(
    alice: OAuthCredential,
    acme: Tenant,
    upstream: Simulator,
    reread: Reread,
    restored_behind_an_answer: Callable[..., spool.Entry],
) -> None:
    entry = restored_behind_an_answer()
    homeless = upstream.current_login("alice").refresh_token
    vault.revoke(tenant=acme, user_id="alice", actor="test", now=clock.now())
    spool.put(entry)
    assert replay.replay() == 1
    assert reread(alice).standing == Standing.REVOKED
    assert revoked(upstream)[-1] == homeless
    assert spooled_for(alice) == []


def test_an_answer_from_before_the_release_is_discarded_and_keeps_nobody_waiting(
    alice: OAuthCredential,
    upstream: Simulator,
    restored_behind_an_answer: Callable[..., spool.Entry],
) -> None:
    """Nor is it revoked: it may be of the login that is in use."""
    entry = restored_behind_an_answer()
    epoch.release(tenant=None, user_id=None, actor="test", now=clock.now())
    spool.put(entry)
    assert replay.replay() == 1
    assert spooled_for(alice) == []
    assert revoked(upstream) == []
    assert refresh_one(alice) == Outcome.INVALID_GRANT, "presented, as the operator had it"


def test_an_answer_that_comes_before_the_restore_is_noticed_waits_and_then_comes_home(
    alice: OAuthCredential,
    upstream: Simulator,
    restored_behind_an_answer: Callable[..., spool.Entry],
) -> None:
    entry = restored_behind_an_answer(noticed=False)
    newest = upstream.current_login("alice").refresh_token
    spool.put(entry)
    assert replay.replay() == 0
    with pytest.raises(StoreUnavailable, match="a new login"):
        refresh_one(alice)
    assert upstream.counts.token_calls == 0
    assert "'alice' of acme" in " ".join(replay.waiting())
    sweep()
    assert holds(alice, newest)
    assert replay.waiting() == spooled_for(alice) == []


def test_where_no_restore_is_noticed_a_new_login_settles_what_waits(
    alice: OAuthCredential,
    acme: Tenant,
    upstream: Simulator,
    store: Store,
    restored_behind_an_answer: Callable[..., spool.Entry],
) -> None:
    entry = restored_behind_an_answer(noticed=False)
    Deployment.objects.update(epoch=1_000)
    spool.put(entry)
    with pytest.raises(StoreUnavailable):
        refresh_one(alice)
    imported = store(acme, "alice", upstream.new_login("alice"))
    assert refresh_one(imported) is None, "the old answer was cleared away"
    assert refresh_one(imported) == Outcome.REFRESHED
    assert spooled_for(alice) == []


def test_a_refusal_from_before_the_restore_is_discarded(
    alice: OAuthCredential,
    upstream: Simulator,
    reread: Reread,
    restored_behind_an_answer: Callable[..., spool.Entry],
) -> None:
    entry = restored_behind_an_answer()
    before = reread(alice)
    refused = {"kind": "invalid_grant", "status": 400, "retry_after": None}
    put_changed(entry, granted={}, refused=refused)
    assert replay.replay() == 1
    assert (reread(alice).standing, reread(alice).problem) == (before.standing, before.problem)
    assert spooled_for(alice) == []


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
    kept, _ = epoch._read_outside(str(epoch.vault_id()))
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
    alice: OAuthCredential,
    acme: Tenant,
    upstream: Simulator,
    store: Store,
    settings: Settings,
    data_dir: Path,
) -> None:
    """Its name says which refresh it answers. A new login has nothing to do with it."""
    claim = claim_of(alice)
    end_lease(alice)
    settings.CLOCK_OFFSET = 600
    (data_dir / "spool").mkdir(exist_ok=True)
    (data_dir / "spool" / f"{alice.pk}-{claim.lease_id}").write_bytes(b"damaged")
    with pytest.raises(StoreUnavailable, match="cannot be saved"):
        refresh_one(alice)
    assert upstream.counts.token_calls == 0
    assert "cannot be read" in " ".join(replay.waiting())
    assert refresh_one(store(acme, "alice", upstream.new_login("alice"))) == Outcome.REFRESHED


@pytest.mark.parametrize("name", ["x", "0b9e7a64-95a5-4e3b-8f5a-1f4fd1d8a111"])
def test_what_is_named_after_no_refresh_of_ours_keeps_nobody_from_being_refreshed(
    alice: OAuthCredential, upstream: Simulator, data_dir: Path, name: str
) -> None:
    (data_dir / "spool").mkdir(exist_ok=True)
    (data_dir / "spool" / f"{alice.pk}-{name}").write_bytes(b"damaged")
    assert refresh_one(alice) == Outcome.REFRESHED
    assert (data_dir / "spool" / f"{alice.pk}-{name}").exists(), "for a person to look at"


def test_an_entry_that_answers_no_refresh_of_ours_changes_nothing(
    alice: OAuthCredential, upstream: Simulator, reread: Reread
) -> None:
    lie_in_spool(upstream, alice)
    (old,) = spooled_for(alice)
    assert replay.replay() == 1
    assert refresh_one(alice) == Outcome.REFRESHED
    before = reread(alice)
    put_changed(old, generation=before.generation, lease_id="0b9e7a64-95a5-4e3b-8f5a-1f4fd1d8a111")
    assert replay.replay() == 0
    after = reread(alice)
    assert after.generation == before.generation
    assert sealing.open_refresh_token(after) == sealing.open_refresh_token(before)


FORGED: list[dict[str, object]] = [
    {},
    {"generation": 2},
    {"answered_at": 4e9},
    {"mac": ""},
    {"mac": "0" * 64},
    {"data_key": 10**6},
    {"granted": {}, "refused": {"kind": "invalid_grant", "status": 400, "retry_after": None}},
]


@pytest.mark.parametrize("changes", FORGED)
def test_nobody_who_writes_to_redis_and_reads_the_database_makes_an_answer_up(
    alice: OAuthCredential, upstream: Simulator, reread: Reread, changes: dict[str, object]
) -> None:
    """An older pair, sealed as it lay in its row then, for the claim that is under way."""
    lie_in_spool(upstream, alice)
    (old,) = spooled_for(alice)
    assert replay.replay() == 1
    claim = claim_of(alice)
    before = reread(alice)
    spool.put(
        dataclasses.replace(
            old, **{"generation": claim.generation, "lease_id": str(claim.lease_id)} | changes
        )
    )
    assert replay.replay() == 0
    after = reread(alice)
    assert (after.generation, after.standing) == (before.generation, Standing.ACTIVE)
    assert after.refresh_token_encrypted == before.refresh_token_encrypted
    end_lease(alice)
    with pytest.raises(StoreUnavailable):
        refresh_one(alice)
    assert "cannot be read" in " ".join(replay.waiting())


def test_what_the_vault_wrote_is_known_again_after_a_rotation_of_every_key(
    alice: OAuthCredential, acme: Tenant, upstream: Simulator, reread: Reread
) -> None:
    lie_in_spool(upstream, alice)
    data_keys.rotate_data_key(tenant=acme, actor="test", now=clock.now())
    assert replay.replay() == 1
    newest = upstream.current_login("alice").refresh_token
    assert sealing.open_refresh_token(reread(alice)).reveal() == newest


def test_what_is_no_text_in_redis_stops_nobody(alice: OAuthCredential, settings: Settings) -> None:
    if settings.REDIS_URL is None:
        pytest.skip("there is no Redis in this pass")
    with redis.Redis.from_url(settings.REDIS_URL.reveal()) as store:
        for name in (b"\xff\xfe", b"%d-\xff" % alice.pk):
            store.hset(f"oauthvault:{epoch.vault_id()}:spool", name, b"\xff")
    assert spool.depth(epoch.vault_id()) == 2
    assert replay.replay() == 0
    assert refresh_one(alice) == Outcome.REFRESHED


def test_an_old_429_from_the_spool_closes_the_door_for_what_is_left_of_it(
    alice: OAuthCredential, upstream: Simulator, settings: Settings
) -> None:
    upstream.fail_next(status=429, retry_after=600)
    lie_in_spool(upstream, alice)
    settings.CLOCK_OFFSET = 500
    assert replay.replay() == 1
    assert gate.look(now=clock.now()).closed_until == pytest.approx(time.time() + 600, abs=60)


def test_an_epoch_in_redis_that_is_no_number_is_none(alice: OAuthCredential) -> None:
    if not outside.has_redis():
        pytest.skip("there is no Redis in this pass")
    outside.in_redis("SET", f"oauthvault:{epoch.vault_id()}:epoch", "many")
    as_in_a_new_process()
    assert refresh_one(alice) == Outcome.REFRESHED
