"""A restored database is told from the one that was left, and nothing of it is presented."""

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.db import connection
from django.db.models import F
from pytest_django import Settings

from tests.conftest import Store
from tests.processes import oauthvault
from tests.simulator import Simulator
from tests.vault.conftest import NO_REDIS_THERE, Reread
from tests.vault.test_refresh import claim_of, end_lease, in_threads, refresh_one
from tokens import clock, epoch, outside, sealing, vault
from tokens.errors import Quarantined, StoreUnavailable
from tokens.models import (
    AuditEvent,
    Deployment,
    OAuthCredential,
    Outcome,
    Problem,
    RefreshAttempt,
    Standing,
    Tenant,
)
from tokens.refresh.ask import present
from tokens.refresh.save import save_answer
from tokens.tasks import sweep

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("data_dir")]


@pytest.fixture
def alice(acme: Tenant, upstream: Simulator, store: Store) -> OAuthCredential:
    """Her token is past its end: a request for it needs a refresh."""
    return store(acme, "alice", upstream.new_login("alice", expires_in=-10))


@pytest.fixture
def bob(acme: Tenant, upstream: Simulator, store: Store, alice: OAuthCredential) -> OAuthCredential:
    """His login has ended, and says so; his access token lives."""
    credential = store(acme, "bob", upstream.new_login("bob"))
    upstream.kill_login("bob")
    assert refresh_one(credential) == Outcome.INVALID_GRANT
    upstream.reset_counts()
    return credential


@pytest.fixture
def carol(globex: Tenant, upstream: Simulator, store: Store) -> OAuthCredential:
    return store(globex, "carol", upstream.new_login("carol"))


@pytest.fixture
def dave(globex: Tenant, upstream: Simulator, store: Store) -> OAuthCredential:
    """A setup-token: there is no refresh token beside it."""
    return store(globex, "dave", upstream.new_login("dave", refresh=False))


@pytest.fixture
def restored(alice: OAuthCredential) -> Callable[[], None]:
    """Three sweeps happen, and then a backup from before the last two is put in place."""

    def _restored() -> None:
        for _ in range(3):
            epoch.advance(now=clock.now())
        Deployment.objects.update(epoch=F("epoch") - 2)
        as_in_a_new_process()

    return _restored


def as_in_a_new_process() -> None:
    """Of a part of the vault: it knows what lies in Redis and in the data directory."""
    epoch.forget()
    outside.forget()
    epoch.serve()


def forget_outside(data_dir: Path) -> None:
    """The data directory and Redis are lost, both."""
    shutil.rmtree(data_dir / "epoch")
    forget_redis()
    as_in_a_new_process()


def forget_redis() -> None:
    if outside.has_redis():
        outside.in_redis("DEL", f"oauthvault:{epoch.vault_id()}:epoch")


def standings() -> dict[str, str]:
    return dict(OAuthCredential.objects.values_list("user_id", "standing"))


# --- A lower epoch than was seen before ----------------------------------------------------


def test_nothing_of_a_restored_database_is_sent_or_handed_out(
    restored: Callable[[], None],
    alice: OAuthCredential,
    bob: OAuthCredential,
    carol: OAuthCredential,
    dave: OAuthCredential,
    acme: Tenant,
    globex: Tenant,
    upstream: Simulator,
    store: Store,
) -> None:
    gone = store(acme, "gone", upstream.new_login("gone"))
    vault.revoke(tenant=acme, user_id="gone", actor="test", now=time.time())
    restored()
    with pytest.raises(Quarantined, match="restored"):
        refresh_one(carol)
    assert standings() == {
        "alice": Standing.QUARANTINED,
        "bob": Standing.QUARANTINED,
        "carol": Standing.QUARANTINED,
        "dave": Standing.QUARANTINED,
        "gone": Standing.REVOKED,
    }
    for tenant, user in ((acme, "alice"), (acme, "bob"), (globex, "carol"), (globex, "dave")):
        with pytest.raises(Quarantined):
            vault.issue_access_token(tenant=tenant, user_id=user, actor="test", now=time.time())
    for tenant, user in ((acme, "alice"), (globex, "carol")):
        with pytest.raises(Quarantined):
            vault.refresh_now(tenant=tenant, user_id=user, actor="test", now=time.time())
    assert refresh_one(alice) is None
    assert refresh_one(gone) is None
    assert upstream.counts.token_calls == 0
    assert not OAuthCredential.objects.exclude(refresh_due_at=None).exists()
    records = AuditEvent.objects.filter(action="quarantine")
    assert {record.tenant: record.detail["credentials"] for record in records} == {
        acme: 2,
        globex: 2,
    }
    state = epoch.deployment()
    assert state.quarantined_at == pytest.approx(time.time(), abs=30)
    assert "before" in state.quarantine_reason


def test_a_request_past_expiry_finds_it_out_without_any_sweep(
    restored: Callable[[], None], alice: OAuthCredential, acme: Tenant, upstream: Simulator
) -> None:
    restored()
    with pytest.raises(Quarantined):
        vault.issue_access_token(tenant=acme, user_id="alice", actor="test", now=time.time())
    assert standings() == {"alice": Standing.QUARANTINED}
    assert upstream.counts.token_calls == 0


def test_a_sweep_finds_it_out_and_publishes_nothing(
    restored: Callable[[], None], alice: OAuthCredential, upstream: Simulator
) -> None:
    restored()
    assert sweep() == 0
    assert standings() == {"alice": Standing.QUARANTINED}
    assert sweep() == 0
    assert AuditEvent.objects.filter(action="quarantine").count() == 1
    assert upstream.counts.token_calls == 0


def test_a_process_that_runs_on_while_its_database_is_restored_notices(
    alice: OAuthCredential, upstream: Simulator
) -> None:
    for _ in range(3):
        epoch.advance(now=clock.now())
    Deployment.objects.update(epoch=F("epoch") - 1)
    with pytest.raises(Quarantined):
        refresh_one(alice)
    assert upstream.counts.token_calls == 0


def test_a_database_that_is_exchanged_between_look_and_claim_is_not_claimed_from(
    alice: OAuthCredential,
    upstream: Simulator,
    monkeypatch: pytest.MonkeyPatch,
    reread: Reread,
) -> None:
    """The claim's own statement asks for the epoch that was verified a moment before."""
    for _ in range(3):
        epoch.advance(now=clock.now())
    verify = epoch.verify

    def verify_and_restore(*, now: float) -> int:
        least = verify(now=now)
        Deployment.objects.update(epoch=F("epoch") - 1)
        return least

    monkeypatch.setattr(epoch, "verify", verify_and_restore)
    with pytest.raises(Quarantined):
        refresh_one(alice)
    assert reread(alice).lease_id is None
    assert not RefreshAttempt.objects.exists()
    assert upstream.counts.token_calls == 0


def test_whoever_finds_it_out_at_once_it_is_said_once(
    restored: Callable[[], None], alice: OAuthCredential, carol: OAuthCredential
) -> None:
    restored()
    results = in_threads(6, lambda: refresh_one(alice))
    assert any(isinstance(result, Quarantined) for result in results)
    assert all(result is None or isinstance(result, Quarantined) for result in results)
    assert AuditEvent.objects.filter(action="quarantine").count() == 2


def test_an_import_of_a_new_login_makes_that_one_usable(
    restored: Callable[[], None],
    alice: OAuthCredential,
    carol: OAuthCredential,
    acme: Tenant,
    upstream: Simulator,
    store: Store,
) -> None:
    restored()
    sweep()
    login = upstream.new_login("alice")
    imported = store(acme, "alice", login)
    handed = vault.issue_access_token(tenant=acme, user_id="alice", actor="test", now=time.time())
    assert handed.access_token.reveal() == login.access_token
    assert refresh_one(imported) == Outcome.REFRESHED
    assert standings() == {"alice": Standing.ACTIVE, "carol": Standing.QUARANTINED}


# --- What is no restored database ----------------------------------------------------------


def test_a_claim_beside_ours_between_two_looks_is_no_restored_database(
    alice: OAuthCredential, carol: OAuthCredential
) -> None:
    """What lies outside is of now, what was read of the database of a moment before."""
    beside: list[object] = []

    def interfere(
        execute: Callable[..., Any], sql: str, params: Any, many: bool, context: Any
    ) -> Any:
        result = execute(sql, params, many, context)
        if not beside and sql.startswith("SELECT") and Deployment._meta.db_table in sql:
            beside.extend(in_threads(1, lambda: refresh_one(carol)))
        return result

    epoch.advance(now=clock.now())
    with connection.execute_wrapper(interfere):
        assert refresh_one(alice) == Outcome.REFRESHED
    assert beside == [Outcome.REFRESHED]


def test_many_refreshes_at_once_are_no_restored_database(
    acme: Tenant, upstream: Simulator, store: Store
) -> None:
    users = [f"user{number}" for number in range(24)]
    waiting = [store(acme, user, upstream.new_login(user)) for user in users]
    epoch.advance(now=clock.now())
    assert in_threads(len(users), lambda: refresh_one(waiting.pop())) == (
        [Outcome.REFRESHED] * len(users)
    )


def test_a_web_process_finds_it_out_before_its_first_answer(
    alice: OAuthCredential, acme: Tenant, upstream: Simulator, data_dir: Path
) -> None:
    epoch.advance(now=clock.now())
    forget_outside(data_dir)
    as_in_a_new_process()
    epoch.look_at_start(now=clock.now())
    with pytest.raises(Quarantined):
        vault.issue_access_token(tenant=acme, user_id="alice", actor="test", now=time.time())


# --- Nothing is remembered outside ---------------------------------------------------------


def test_a_filled_database_that_nothing_outside_knows_is_quarantined(
    alice: OAuthCredential, upstream: Simulator, data_dir: Path
) -> None:
    epoch.advance(now=clock.now())
    forget_outside(data_dir)
    with pytest.raises(Quarantined):
        refresh_one(alice)
    assert standings() == {"alice": Standing.QUARANTINED}
    assert upstream.counts.token_calls == 0


def test_an_empty_database_that_nothing_outside_knows_is_adopted(
    acme: Tenant, upstream: Simulator, store: Store, data_dir: Path
) -> None:
    epoch.advance(now=clock.now())
    store(acme, "gone", upstream.new_login("gone"))
    vault.revoke(tenant=acme, user_id="gone", actor="test", now=time.time())
    forget_outside(data_dir)
    assert epoch.verify(now=clock.now()) == 1
    assert refresh_one(store(acme, "alice", upstream.new_login("alice"))) == Outcome.REFRESHED


def test_a_command_that_was_given_another_directory_refreshes_and_quarantines_nothing(
    alice: OAuthCredential, carol: OAuthCredential, upstream: Simulator, data_dir: Path
) -> None:
    epoch.advance(now=clock.now())
    forget_outside(data_dir)
    epoch.forget()
    with pytest.raises(StoreUnavailable, match="OAUTHVAULT_DATA_DIR"):
        refresh_one(alice)
    assert standings() == {"alice": Standing.ACTIVE, "carol": Standing.ACTIVE}
    assert not (data_dir / "epoch").exists() or not list((data_dir / "epoch").iterdir())
    as_in_a_new_process()
    with pytest.raises(Quarantined):
        refresh_one(alice)
    assert upstream.counts.token_calls == 0


def test_a_sweep_that_could_not_tell_vouches_for_nothing(
    alice: OAuthCredential, upstream: Simulator, settings: Settings, data_dir: Path
) -> None:
    """A backup on a new machine, whose Redis comes up a moment after its scheduler."""
    epoch.advance(now=clock.now())
    forget_outside(data_dir)
    redis_url, settings.REDIS_URL = settings.REDIS_URL, NO_REDIS_THERE
    assert sweep() == 0
    settings.REDIS_URL = redis_url
    as_in_a_new_process()
    with pytest.raises(Quarantined):
        refresh_one(alice)
    assert upstream.counts.token_calls == 0


def test_a_wiped_redis_is_no_alarm_while_the_data_directory_remembers(
    alice: OAuthCredential, settings: Settings
) -> None:
    if settings.REDIS_URL is None:
        pytest.skip("needs Redis")
    for _ in range(2):
        epoch.advance(now=clock.now())
    forget_redis()
    as_in_a_new_process()
    assert refresh_one(alice) == Outcome.REFRESHED


def test_a_new_data_directory_is_no_alarm_while_redis_remembers(
    alice: OAuthCredential, settings: Settings, data_dir: Path
) -> None:
    if settings.REDIS_URL is None:
        pytest.skip("needs Redis")
    for _ in range(2):
        epoch.advance(now=clock.now())
    shutil.rmtree(data_dir / "epoch")
    as_in_a_new_process()
    assert refresh_one(alice) == Outcome.REFRESHED


def test_a_backup_from_before_the_last_refresh_is_told_though_no_sweep_came_between(
    alice: OAuthCredential, upstream: Simulator
) -> None:
    """Every claim counts: what it spends must not be presented again."""
    epoch.advance(now=clock.now())
    backup = epoch.deployment().epoch
    assert refresh_one(alice) == Outcome.REFRESHED
    Deployment.objects.update(epoch=backup)
    as_in_a_new_process()
    with pytest.raises(Quarantined):
        refresh_one(alice)
    assert upstream.counts.token_calls == 1


def test_what_is_remembered_of_another_vault_says_nothing(alice: OAuthCredential) -> None:
    for _ in range(5):
        epoch.advance(now=clock.now())
    Deployment.objects.all().delete()
    as_in_a_new_process()
    assert refresh_one(alice) == Outcome.REFRESHED


def test_while_redis_is_silent_and_nothing_else_remembers_nothing_is_refreshed(
    alice: OAuthCredential, upstream: Simulator, settings: Settings, data_dir: Path
) -> None:
    epoch.advance(now=clock.now())
    shutil.rmtree(data_dir / "epoch")
    as_in_a_new_process()
    settings.REDIS_URL = NO_REDIS_THERE
    with pytest.raises(StoreUnavailable, match="cannot be read now"):
        refresh_one(alice)
    assert standings() == {"alice": Standing.ACTIVE}
    assert upstream.counts.token_calls == 0


def test_a_silent_redis_is_no_hindrance_while_the_data_directory_remembers(
    alice: OAuthCredential, settings: Settings
) -> None:
    epoch.advance(now=clock.now())
    as_in_a_new_process()
    settings.REDIS_URL = NO_REDIS_THERE
    assert refresh_one(alice) == Outcome.REFRESHED


def test_an_epoch_that_cannot_be_read_is_not_taken_for_none(
    alice: OAuthCredential, upstream: Simulator, data_dir: Path
) -> None:
    epoch.advance(now=clock.now())
    (file,) = (data_dir / "epoch").iterdir()
    file.write_text("half a li")
    forget_redis()
    as_in_a_new_process()
    with pytest.raises(StoreUnavailable):
        refresh_one(alice)
    assert upstream.counts.token_calls == 0


# --- The end of a quarantine ---------------------------------------------------------------


def test_a_release_gives_back_what_each_one_was(
    restored: Callable[[], None],
    alice: OAuthCredential,
    bob: OAuthCredential,
    dave: OAuthCredential,
    acme: Tenant,
    globex: Tenant,
    upstream: Simulator,
    reread: Reread,
) -> None:
    restored()
    sweep()
    now = time.time()
    assert epoch.release(tenant=None, user_id=None, actor="operator", now=now) == 3
    assert standings() == {
        "alice": Standing.ACTIVE,
        "bob": Standing.REAUTHORIZATION_REQUIRED,
        "dave": Standing.ACTIVE,
    }
    assert reread(bob).problem == Problem.ROTATED_ELSEWHERE
    assert reread(bob).refresh_due_at is reread(dave).refresh_due_at is None
    state = epoch.deployment()
    assert (state.quarantined_at, state.quarantine_reason) == (None, "")
    records = AuditEvent.objects.filter(action="release_quarantine", actor="operator")
    assert {record.tenant: record.detail["credentials"] for record in records} == {
        acme: 2,
        globex: 1,
    }
    assert refresh_one(alice) == Outcome.REFRESHED
    assert sweep() == 0
    as_in_a_new_process()
    assert refresh_one(alice) == Outcome.REFRESHED, "it is said once"


def test_a_release_of_one_leaves_the_others_and_the_mark(
    restored: Callable[[], None],
    alice: OAuthCredential,
    carol: OAuthCredential,
    acme: Tenant,
    globex: Tenant,
) -> None:
    restored()
    sweep()
    now = time.time()
    assert epoch.release(tenant=acme, user_id="carol", actor="operator", now=now) == 0
    assert epoch.release(tenant=acme, user_id="alice", actor="operator", now=now) == 1
    assert standings() == {"alice": Standing.ACTIVE, "carol": Standing.QUARANTINED}
    assert epoch.deployment().quarantined_at is not None
    assert epoch.release(tenant=globex, user_id=None, actor="operator", now=now) == 1
    assert epoch.deployment().quarantined_at is None


@pytest.fixture
def second_restore(alice: OAuthCredential) -> Callable[[Callable[[], None]], None]:
    """A backup, sweeps and whatever ``happens`` since; then the backup is put in place."""

    def _restored(happens: Callable[[], None]) -> None:
        rows = list(OAuthCredential.objects.values())
        vault_itself = Deployment.objects.values().get()
        sweep()
        happens()
        for row in rows:
            OAuthCredential.objects.filter(pk=row["id"]).update(**row)
        RefreshAttempt.objects.all().delete()
        Deployment.objects.update(**vault_itself)
        as_in_a_new_process()

    return _restored


@pytest.mark.parametrize("by", ["release", "import"])
def test_a_second_restore_is_noticed_though_somebody_is_quarantined_since_the_first(
    restored: Callable[[], None],
    second_restore: Callable[[Callable[[], None]], None],
    alice: OAuthCredential,
    carol: OAuthCredential,
    acme: Tenant,
    upstream: Simulator,
    store: Store,
    reread: Reread,
    by: str,
) -> None:
    """carol never comes back; alice works on, released or with a new login."""
    restored()
    sweep()
    if by == "release":
        epoch.release(tenant=acme, user_id="alice", actor="operator", now=time.time())
    else:
        store(acme, "alice", upstream.new_login("alice"))

    def life_goes_on() -> None:
        assert refresh_one(reread(alice)) == Outcome.REFRESHED

    second_restore(life_goes_on)
    upstream.reset_counts()
    with pytest.raises(Quarantined):
        refresh_one(reread(alice))
    assert standings() == {"alice": Standing.QUARANTINED, "carol": Standing.QUARANTINED}
    assert upstream.counts.token_calls == 0


def test_a_claim_alone_between_backup_and_second_restore_is_enough(
    restored: Callable[[], None],
    alice: OAuthCredential,
    carol: OAuthCredential,
    acme: Tenant,
    reread: Reread,
) -> None:
    """Without any sweep in between."""
    restored()
    sweep()
    epoch.release(tenant=acme, user_id="alice", actor="operator", now=time.time())
    backup = epoch.deployment().epoch
    assert refresh_one(reread(alice)) == Outcome.REFRESHED
    Deployment.objects.update(epoch=backup)
    as_in_a_new_process()
    with pytest.raises(Quarantined):
        refresh_one(reread(alice))


def test_the_original_that_is_put_back_after_a_release_finds_itself_behind(
    restored: Callable[[], None],
    alice: OAuthCredential,
    carol: OAuthCredential,
    acme: Tenant,
    upstream: Simulator,
) -> None:
    """Its disk was found again. What the restored one has presented since, it would present."""
    for _ in range(3):
        epoch.advance(now=clock.now())
    original = Deployment.objects.values().get()
    restored()
    sweep()
    epoch.release(tenant=acme, user_id="alice", actor="operator", now=time.time())
    Deployment.objects.update(**original | {"epoch": original["epoch"] + 3})
    OAuthCredential.objects.update(standing=Standing.ACTIVE)
    as_in_a_new_process()
    with pytest.raises(Quarantined):
        refresh_one(alice)
    assert upstream.counts.token_calls == 0


def test_a_process_killed_while_it_quarantines_leaves_a_database_that_is_known_outside(
    restored: Callable[[], None], alice: OAuthCredential, acme: Tenant, upstream: Simulator,
    store: Store,
) -> None:  # fmt: skip
    """What it keeps outside is there before its commit; so nothing is quarantined again."""
    restored()
    with pytest.raises(Quarantined):
        refresh_one(alice)
    as_in_a_new_process()
    imported = store(acme, "alice", upstream.new_login("alice"))
    assert refresh_one(imported) == Outcome.REFRESHED


@pytest.mark.parametrize("end", ["revoke", "import"])
def test_the_mark_goes_with_the_last_that_was_quarantined_however_it_went(
    restored: Callable[[], None],
    alice: OAuthCredential,
    acme: Tenant,
    upstream: Simulator,
    store: Store,
    end: str,
) -> None:
    restored()
    sweep()
    assert epoch.deployment().quarantined_at is not None
    if end == "revoke":
        vault.revoke(tenant=acme, user_id="alice", actor="test", now=time.time())
    else:
        store(acme, "alice", upstream.new_login("alice"))
    sweep()
    state = epoch.deployment()
    assert (state.quarantined_at, state.quarantine_reason) == (None, "")


def test_what_is_released_together_does_not_fall_due_together(
    restored: Callable[[], None], acme: Tenant, upstream: Simulator, store: Store
) -> None:
    for number in range(40):
        store(acme, f"user{number}", upstream.new_login(f"user{number}", expires_in=-10))
    restored()
    sweep()
    now = time.time()
    epoch.release(tenant=None, user_id=None, actor="operator", now=now)
    due = OAuthCredential.objects.values_list("refresh_due_at", flat=True)
    later = [at - now for at in due if at is not None]
    assert len(later) == 41
    assert min(later) >= -1
    assert max(later) <= 121
    assert max(later) - min(later) > 60
    assert all(sum(0 <= at - begun < 20 for at in later) < 25 for begun in range(0, 120, 10))


def test_a_suspended_one_stays_suspended_through_quarantine_and_release(
    restored: Callable[[], None], alice: OAuthCredential, acme: Tenant, reread: Reread
) -> None:
    vault.suspend(tenant=acme, user_id="alice", actor="test", now=time.time())
    restored()
    sweep()
    epoch.release(tenant=None, user_id=None, actor="operator", now=time.time())
    assert reread(alice).suspended_at is not None
    assert refresh_one(alice) is None


def test_a_refresh_under_way_when_the_quarantine_comes_is_saved_and_stays_in_it(
    restored: Callable[[], None], alice: OAuthCredential, upstream: Simulator, reread: Reread
) -> None:
    """Its pair is the only good one, whatever the rest of this database is."""
    claim = claim_of(alice)
    answer, tries = present(claim)
    restored()
    sweep()
    assert save_answer(claim, answer, tries=tries, latency_ms=1) == Outcome.REFRESHED
    after, login = reread(alice), upstream.current_login("alice")
    assert sealing.open_refresh_token(after).reveal() == login.refresh_token
    assert (after.standing, after.refresh_due_at) == (Standing.QUARANTINED, None)
    epoch.release(tenant=None, user_id=None, actor="operator", now=time.time())
    assert reread(alice).is_usable(now=time.time())


def test_what_was_presented_as_often_as_it_may_be_is_not_usable_after_a_release(
    restored: Callable[[], None], alice: OAuthCredential, reread: Reread, settings: Settings
) -> None:
    """Its process died twice. A quarantine in between is no new start."""
    for _ in range(settings.MOST_PRESENTATIONS):
        claim_of(alice)
        end_lease(alice)
    restored()
    sweep()
    epoch.release(tenant=None, user_id=None, actor="operator", now=time.time())
    settings.CLOCK_OFFSET = 600
    sweep()
    after = reread(alice)
    assert (after.standing, after.problem) == (
        Standing.REAUTHORIZATION_REQUIRED,
        Problem.ANSWER_LOST,
    )
    assert after.refresh_due_at is None


# --- A real one ----------------------------------------------------------------------------

# What a vault does in its life: a sweep, somebody makes a backup, a refresh, a sweep.
LIFE = """
import sqlite3, sys
from django.core.management import call_command
from django.db import connection
from tokens.tasks import sweep
sweep()
connection.cursor().execute("VACUUM INTO %s", [r"{backup}"])
call_command("refresh", "--tenant", "default", "--user", "default")
sweep()
"""


@pytest.mark.system
@pytest.mark.skipif(connection.vendor != "sqlite", reason="it has a database of its own")
def test_a_real_backup_that_is_put_back_is_not_refreshed_from(tmp_path: Path) -> None:
    backup, live = tmp_path / "backup", tmp_path / "vault" / "oauthvault.sqlite3"
    with Simulator() as upstream:
        login = upstream.new_login("default", expires_in=60)
        variables = {
            "OAUTHVAULT_DATA_DIR": str(live.parent),
            "CLAUDE_ACCESS_TOKEN": login.access_token,
            "CLAUDE_REFRESH_TOKEN": str(login.refresh_token),
            "CLAUDE_EXPIRES_AT": str(login.expires_at),
            "CLAUDE_OAUTH_TOKEN_URL": upstream.token_url,
        }
        assert oauthvault("init", **variables).returncode == 0
        life = oauthvault("shell", "-c", LIFE.format(backup=backup), **variables)
        assert "default/default: refreshed" in life.stdout, life.stderr
        for rest in live.parent.glob("oauthvault.sqlite3-*"):
            rest.unlink()
        backup.replace(live)
        upstream.reset_counts()

        refused = oauthvault("refresh", "--tenant", "default", "--user", "default", **variables)

        assert refused.returncode == 1
        assert "default/default: quarantined" in refused.stdout, refused.stderr
        assert "release_quarantine" in refused.stdout
        assert upstream.counts.token_calls == 0
        assert upstream.current_login("default").alive
