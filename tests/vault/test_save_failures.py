"""The database fails while an answer is being saved: nothing is lost, nothing counted twice."""

import dataclasses
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from django.db import DatabaseError, InterfaceError, OperationalError, connection, connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import Sum
from pytest_django import Settings

from tests.conftest import Store
from tests.simulator import Simulator
from tests.vault.conftest import NO_REDIS_THERE, Reread
from tests.vault.test_refresh import claim_of, end_lease, in_threads, refresh_one, wait_for
from tokens import clock, epoch, isolation, keyring, outside, sealing, vault
from tokens.errors import StoreUnavailable, UpstreamRateLimited
from tokens.models import (
    AuditEvent,
    DataKey,
    OAuthCredential,
    Outcome,
    Problem,
    RefreshAttempt,
    RefreshTally,
    Standing,
    Tenant,
    TenantStatistics,
    TokenFingerprint,
)
from tokens.refresh import replay as spooled
from tokens.refresh import save, spool
from tokens.refresh.ask import present
from tokens.refresh.save import save_answer
from tokens.secret import Secret
from tokens.tenants import create_tenant

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("data_dir")]


@pytest.fixture
def upstream(upstream: Simulator, settings: Settings) -> Simulator:
    """One that can be asked to revoke, too: it shows what was taken for homeless."""
    settings.CLAUDE_OAUTH_REVOKE_URL = upstream.revoke_url
    return upstream


@pytest.fixture
def alice(acme: Tenant, upstream: Simulator, store: Store) -> OAuthCredential:
    return store(acme, "alice", upstream.new_login("alice", expires_in=3600))


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever holds an answer that lies in the spool gives up after its second try."""
    monkeypatch.setattr(save, "PATIENCE", 0.1)


def break_off(connection: BaseDatabaseWrapper) -> None:
    """Have what is sent next fail: PostgreSQL ends the session, SQLite cannot read its disk."""
    if connection.vendor != "postgresql":
        raise OperationalError("disk I/O error")
    raw: Any = connection.connection
    operator = connection.copy()
    try:
        with operator.cursor() as cursor:
            cursor.execute("SELECT pg_terminate_backend(%s, 5000)", [raw.info.backend_pid])
    finally:
        operator.close()


class Trouble:
    """With the answer to a user's refresh begins the trouble: it sees every statement of the
    save, counts it, and has some of them fail."""

    def __init__(
        self,
        upstream: Simulator,
        *,
        user: str = "alice",
        statement: Callable[[int], bool] = lambda number: False,
        before_commit: Callable[[int], bool] = lambda number: False,
        after_commit: Callable[[int], bool] = lambda number: False,
    ) -> None:
        self._upstream, self._user = upstream, user
        self._statement, self._before, self._after = statement, before_commit, after_commit
        self.statements = self.commits = self.failed = 0

    def __enter__(self) -> "Trouble":
        ours = connections["default"]
        self._commit = ours._commit
        ours._commit = self._commits  # type: ignore[method-assign]
        self._wrapper = ours.execute_wrapper(self._executes)
        self._wrapper.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self._wrapper.__exit__(None, None, None)
        del connections["default"]._commit

    def _is_saving(self) -> bool:
        counts = self._upstream.counts_of(self._user)
        return counts.token_calls > 0

    def _executes(
        self, execute: Callable[..., Any], sql: str, params: Any, many: bool, context: Any
    ) -> Any:
        if self._is_saving():
            self.statements += 1
            if self._statement(self.statements):
                self.failed += 1
                break_off(context["connection"])
        return execute(sql, params, many, context)

    def _commits(self) -> None:
        if not self._is_saving():
            return self._commit()
        self.commits += 1
        ours = connections["default"]
        if self._before(self.commits):
            self.failed += 1
            break_off(ours)
        self._commit()
        if self._after(self.commits):
            self.failed += 1
            break_off(ours)
            raise OperationalError("server closed the connection unexpectedly")
        return None


def every(number: int) -> bool:
    return True


def assert_saved_once(credential: OAuthCredential, upstream: Simulator) -> None:
    """The pair that the server holds good is the stored one, and everything says so once."""
    user, tenant = credential.user_id, credential.tenant
    after = OAuthCredential.objects.select_related("tenant", "data_key").get(pk=credential.pk)
    login, counts = upstream.current_login(user), upstream.counts_of(user)
    assert login.alive
    assert sealing.open_access_token(after).reveal() == login.access_token
    assert sealing.open_refresh_token(after).reveal() == login.refresh_token
    assert (after.generation, after.refresh_count) == (credential.generation + 1, 1)
    assert (after.standing, after.problem) == (Standing.ACTIVE, Problem.NONE)
    assert after.unanswered_presentations == after.consecutive_failures == 0
    attempt = RefreshAttempt.objects.get(credential=credential)
    assert (attempt.outcome, attempt.answer_saved) == (Outcome.REFRESHED, True)
    kept = TenantStatistics.objects.get(tenant=tenant)
    assert (kept.refreshes_succeeded, kept.refreshes_failed, kept.auth_failures) == (1, 0, 0)
    assert RefreshTally.objects.filter(tenant=tenant).aggregate(n=Sum("count"))["n"] == 1
    assert AuditEvent.objects.filter(action="refresh", subject=user).count() == 1
    held = TokenFingerprint.objects.filter(credential=credential, retired_at=None)
    assert set(held.values_list("generation", flat=True)) == {after.generation}
    assert held.count() == 2
    assert (counts.token_calls, counts.reuse, counts.revoke_calls) == (1, 0, 0)
    assert spooled_for(credential) == []


def spooled_for(credential: OAuthCredential) -> list[spool.Entry]:
    """What another process finds in the spool: without what this one remembers of it."""
    spool.forget()
    found = spool.entries(epoch.vault_id())
    return [entry for entry in found if entry.credential_id == credential.pk]


def put_changed(entry: spool.Entry, **changes: Any) -> None:
    """Put it back, with other words of the vault's own."""
    key = keyring.unwrap_data_key(DataKey.objects.get(pk=entry.data_key))
    spool.put(spool.signed(dataclasses.replace(entry, **changes), key))


# --- Something fails once ------------------------------------------------------------------


def test_whichever_statement_of_the_save_fails_the_pair_is_saved_once(
    upstream: Simulator, store: Store
) -> None:
    @isolation.every_tenant()
    def saved(number: int) -> Trouble:
        """A refresh of somebody new, of whose save the statement of that number fails."""
        name = f"statement-{number}"
        try:
            tenant = create_tenant(slug=name, actor="test", now=time.time())
            credential = store(tenant, name, upstream.new_login(name))
            with Trouble(upstream, user=name, statement=number.__eq__) as trouble:
                assert refresh_one(credential) == Outcome.REFRESHED, name
            assert_saved_once(credential, upstream)
        finally:
            connection.close()
        return trouble

    statements = saved(0).statements
    assert statements > 10
    with ThreadPoolExecutor(4) as pool:
        troubles = list(pool.map(saved, range(1, statements + 1)))
    assert [trouble.failed for trouble in troubles] == [1] * statements


def test_a_commit_that_fails_is_tried_again(alice: OAuthCredential, upstream: Simulator) -> None:
    with Trouble(upstream, before_commit=(1).__eq__) as trouble:
        assert refresh_one(alice) == Outcome.REFRESHED
    assert (trouble.failed, trouble.commits) == (1, 2)
    assert_saved_once(alice, upstream)


def test_a_commit_whose_acknowledgement_is_lost_is_found_to_have_been_made(
    alice: OAuthCredential, upstream: Simulator
) -> None:
    """The generation has moved on, by our own doing: the pair is at home, not homeless."""
    with Trouble(upstream, after_commit=(1).__eq__) as trouble:
        assert refresh_one(alice) == Outcome.REFRESHED
    assert trouble.failed == 1
    assert_saved_once(alice, upstream)


def test_a_refusal_whose_acknowledgement_is_lost_is_counted_once(
    alice: OAuthCredential, upstream: Simulator, reread: Reread
) -> None:
    upstream.fault("on_hold")
    with Trouble(upstream, after_commit=(1).__eq__):
        assert refresh_one(alice) == Outcome.ACCOUNT_ON_HOLD
    after = reread(alice)
    assert (after.consecutive_failures, after.unanswered_presentations) == (1, 0)
    assert TenantStatistics.objects.get().refreshes_failed == 1
    assert AuditEvent.objects.filter(action="refresh").count() == 1


def test_a_homeless_pair_is_revoked_though_the_acknowledgement_of_its_save_was_lost(
    alice: OAuthCredential, acme: Tenant, upstream: Simulator, store: Store
) -> None:
    claim = claim_of(alice)
    answer, tries = present(claim)
    homeless = upstream.current_login("alice").refresh_token
    store(acme, "alice", upstream.new_login("alice"))
    with Trouble(upstream, after_commit=(1).__eq__):
        assert save_answer(claim, answer, tries=tries, latency_ms=1) == Outcome.SUPERSEDED
    assert [request.token for request in upstream.requests if "revoke" in request.path] == [
        homeless
    ]
    assert upstream.current_login("alice").alive


# --- Nothing can be saved for a while ------------------------------------------------------


@pytest.fixture
def in_spool(
    alice: OAuthCredential, upstream: Simulator, impatient: None
) -> Callable[[], OAuthCredential]:
    """alice's credential, refreshed; the database took nothing of the answer."""

    def _in_spool() -> OAuthCredential:
        with Trouble(upstream, statement=every):
            assert refresh_one(alice) == Outcome.NOT_SAVED
        return alice

    return _in_spool


def test_an_answer_that_cannot_be_saved_lies_sealed_in_the_spool_and_comes_home_once(
    in_spool: Callable[[], OAuthCredential],
    upstream: Simulator,
    reread: Reread,
    settings: Settings,
    data_dir: Path,
) -> None:
    alice, login = in_spool(), upstream.current_login("alice")
    assert reread(alice).generation == alice.generation
    (entry,) = spooled_for(alice)
    files = list((data_dir / "spool").glob("*"))
    if settings.REDIS_URL is None:
        (file,) = files
        assert file.stat().st_mode & 0o777 == 0o600
        assert file.parent.stat().st_mode & 0o777 == 0o700
        text = file.read_text()
    else:
        assert files == []
        kept = outside.in_redis("HVALS", f"oauthvault:{epoch.vault_id()}:spool")
        assert isinstance(kept, list)
        (text,) = kept
    assert json.loads(text)["generation"] == entry.generation == alice.generation
    assert login.refresh_token is not None
    for token in (login.access_token, login.refresh_token):
        assert token not in text
        assert token not in repr(entry)
    assert spooled.replay() == 1
    assert_saved_once(alice, upstream)
    assert spooled.replay() == 0
    assert_saved_once(alice, upstream)


def test_a_replay_that_fails_or_whose_acknowledgement_is_lost_saves_once(
    in_spool: Callable[[], OAuthCredential], upstream: Simulator
) -> None:
    alice = in_spool()
    with Trouble(upstream, before_commit=(1).__eq__), pytest.raises(DatabaseError):
        spooled.replay()
    assert len(spooled_for(alice)) == 1
    with Trouble(upstream, after_commit=(1).__eq__), pytest.raises(DatabaseError):
        spooled.replay()
    assert len(spooled_for(alice)) == 1
    assert spooled.replay() == 1
    assert_saved_once(alice, upstream)


def test_replays_at_once_bring_an_answer_home_once(
    in_spool: Callable[[], OAuthCredential], upstream: Simulator
) -> None:
    alice = in_spool()
    spool.forget()
    assert all(isinstance(count, int) for count in in_threads(4, spooled.replay))
    assert_saved_once(alice, upstream)


def test_the_sweep_may_be_quicker_than_the_holder_of_an_answer(
    alice: OAuthCredential, upstream: Simulator
) -> None:
    """The database is back: what lies in the spool is saved, and what the holder has too."""
    replayed = threading.Event()

    def hold() -> object:
        with Trouble(upstream, statement=lambda number: not replayed.is_set()):
            return refresh_one(alice)

    with ThreadPoolExecutor(1) as pool:
        holder = pool.submit(in_threads, 1, hold)
        wait_for(lambda: len(spooled_for(alice)) == 1)
        assert spooled.replay() == 1
        replayed.set()
        assert holder.result() == [Outcome.REFRESHED]
    assert_saved_once(alice, upstream)


def test_an_answer_that_the_database_refuses_does_not_keep_the_others_from_coming_home(
    in_spool: Callable[[], OAuthCredential], acme: Tenant, upstream: Simulator, store: Store
) -> None:
    """The oldest of them; whatever is wrong with it, it stays for a person to look at."""
    alice, bob = in_spool(), store(acme, "bob", upstream.new_login("bob"))
    with Trouble(upstream, user="bob", statement=every):
        assert refresh_one(bob) == Outcome.NOT_SAVED
    (entry,) = spooled_for(alice)
    put_changed(entry, latency_ms=-1)
    with suppress(DatabaseError):
        spooled.replay()
    assert (len(spooled_for(alice)), spooled_for(bob)) == (1, [])
    spool.put(entry)
    assert spooled.replay() == 1
    for credential in (alice, bob):
        assert spooled_for(credential) == []
    assert RefreshAttempt.objects.filter(outcome=Outcome.REFRESHED).count() == 2


def test_a_replay_after_a_revocation_brings_nothing_back(
    in_spool: Callable[[], OAuthCredential], acme: Tenant, upstream: Simulator, reread: Reread
) -> None:
    alice = in_spool()
    homeless = upstream.current_login("alice").refresh_token
    vault.revoke(tenant=acme, user_id="alice", actor="test", now=time.time())
    revoked = reread(alice)
    assert spooled.replay() == 1
    after = reread(alice)
    assert after.standing == Standing.REVOKED
    assert after.access_token_encrypted is after.refresh_token_encrypted is None
    assert (after.generation, after.refresh_count) == (revoked.generation, 0)
    assert upstream.requests[-1].path.endswith("/revoke")
    assert upstream.requests[-1].token == homeless
    assert spooled_for(alice) == []
    assert spooled.replay() == 0


def test_a_replay_after_an_import_leaves_the_new_login_alone(
    in_spool: Callable[[], OAuthCredential],
    acme: Tenant,
    upstream: Simulator,
    store: Store,
    reread: Reread,
) -> None:
    alice = in_spool()
    homeless = upstream.current_login("alice").refresh_token
    imported = store(acme, "alice", upstream.new_login("alice"))
    sealed = reread(imported).refresh_token_encrypted
    assert spooled.replay() == 1
    after = reread(alice)
    assert (after.generation, after.refresh_token_encrypted) == (imported.generation, sealed)
    assert [request.token for request in upstream.requests if "revoke" in request.path] == [
        homeless
    ]
    assert upstream.current_login("alice").alive
    assert spooled_for(alice) == []
    assert set(RefreshAttempt.objects.values_list("outcome", flat=True)) == {Outcome.SUPERSEDED}


def test_an_answer_that_another_refresh_overtook_does_not_end_the_login_they_share(
    in_spool: Callable[[], OAuthCredential], upstream: Simulator, reread: Reread
) -> None:
    """A server that takes a refresh token twice gives two pairs of one login, and revoking
    either may end it for both (RFC 7009 section 2.1)."""
    upstream.rotates_refresh_tokens = False
    alice = in_spool()
    (entry,) = spooled_for(alice)
    spool.remove(entry)
    end_lease(alice)
    assert refresh_one(alice) == Outcome.REFRESHED
    sealed = reread(alice).access_token_encrypted
    spool.put(entry)
    assert spooled.replay() == 1
    assert reread(alice).access_token_encrypted == sealed
    assert upstream.current_login("alice").alive
    assert upstream.counts.revoke_calls == 0


def test_a_lifetime_counts_from_the_answer_and_not_from_the_replay(
    in_spool: Callable[[], OAuthCredential], upstream: Simulator, settings: Settings, reread: Reread
) -> None:
    alice = in_spool()
    ends = upstream.current_login("alice").expires_at
    settings.CLOCK_OFFSET = 1800
    assert spooled.replay() == 1
    after = reread(alice)
    assert after.expires_at == pytest.approx(ends, abs=3)
    assert after.refresh_due_at is not None
    assert after.refresh_due_at < ends
    assert after.last_refreshed_at == pytest.approx(time.time() + 1800, abs=60)


@pytest.mark.parametrize(
    ("fault", "standing", "problem"),
    [
        ("invalid_grant", Standing.REAUTHORIZATION_REQUIRED, Problem.ROTATED_ELSEWHERE),
        ("rate_limited", Standing.ACTIVE, Problem.RATE_LIMITED),
        ("on_hold", Standing.ACTIVE, Problem.ACCOUNT_ON_HOLD),
        ("lose_answer", Standing.ACTIVE, Problem.NO_ANSWER),
    ],
)
def test_a_refusal_that_cannot_be_saved_comes_home_too(
    in_spool: Callable[[], OAuthCredential],
    upstream: Simulator,
    reread: Reread,
    fault: str,
    standing: Standing,
    problem: Problem,
) -> None:
    upstream.fault(fault, **({"retry_after": 30} if fault == "rate_limited" else {}))
    alice = in_spool()
    assert reread(alice).problem == Problem.NONE
    assert spooled_for(alice)[0].granted == {}
    assert spooled.replay() == 1
    assert spooled.replay() == 0
    after = reread(alice)
    assert (after.standing, after.problem) == (standing, problem)
    assert TenantStatistics.objects.get().refreshes_failed == 1
    assert upstream.counts.token_calls == 1
    if fault == "rate_limited":
        with pytest.raises(UpstreamRateLimited):
            refresh_one(alice)
        assert upstream.counts.token_calls == 1


def test_whoever_claims_after_the_lease_finds_the_answer_in_the_spool_and_presents_nothing(
    in_spool: Callable[[], OAuthCredential], upstream: Simulator
) -> None:
    alice = in_spool()
    end_lease(alice)
    spool.forget()
    assert refresh_one(alice) is None
    assert_saved_once(alice, upstream)


def test_a_hanging_database_has_the_answer_in_the_spool_meanwhile(
    alice: OAuthCredential, upstream: Simulator, settings: Settings
) -> None:
    """A kill would find it safe there; the database says neither yes nor no."""
    settings.SPOOL_AFTER = 0.2
    outcomes: list[object] = []
    worker = threading.Thread(
        target=lambda: outcomes.extend(in_threads(1, lambda: refresh_one(alice)))
    )
    epoch.vault_id()
    with hanging_database() as hang:
        with upstream.holding():
            worker.start()
            wait_for(lambda: upstream.counts.refreshed == 1)
            hang()
        wait_for(lambda: len(spooled_for(alice)) == 1)
        assert outcomes == []
    worker.join()
    assert outcomes == [Outcome.REFRESHED]
    assert_saved_once(alice, upstream)


# --- The spool's places --------------------------------------------------------------------


def test_a_dead_redis_leaves_the_file_and_a_second_presentation_waits_longer(
    alice: OAuthCredential,
    upstream: Simulator,
    settings: Settings,
    data_dir: Path,
    impatient: None,
) -> None:
    epoch.verify(now=clock.now())
    settings.REDIS_URL = NO_REDIS_THERE
    outside.forget()
    with Trouble(upstream, statement=every):
        assert refresh_one(alice) == Outcome.NOT_SAVED
    assert len(list((data_dir / "spool").glob("*"))) == 1
    spool.forget()
    end_lease(alice, ago=1)
    # The same vault on another machine does not see this one's files.
    settings.OAUTHVAULT_DATA_DIR = data_dir / "another"
    settings.OAUTHVAULT_DATA_DIR.mkdir()
    assert refresh_one(alice) is None
    assert upstream.counts.token_calls == 1
    settings.OAUTHVAULT_DATA_DIR = data_dir
    assert spooled.replay() == 1
    assert_saved_once(alice, upstream)


def test_where_nothing_comes_home_the_second_presentation_is_made_after_the_grace(
    alice: OAuthCredential, upstream: Simulator, settings: Settings
) -> None:
    epoch.verify(now=clock.now())
    settings.REDIS_URL = NO_REDIS_THERE
    outside.forget()
    claim_of(alice)
    end_lease(alice, ago=1)
    settings.CLOCK_OFFSET = settings.SPOOL_GRACE - 10
    assert refresh_one(alice) is None
    assert upstream.counts.token_calls == 0
    settings.CLOCK_OFFSET = settings.SPOOL_GRACE + 10
    assert refresh_one(alice) == Outcome.REFRESHED


def test_where_the_whole_spool_is_seen_the_second_presentation_follows_the_lease(
    alice: OAuthCredential, settings: Settings
) -> None:
    if settings.ON_POSTGRESQL:
        pytest.skip("there may be other machines, and files on their disks")
    claim_of(alice)
    end_lease(alice, ago=1)
    assert refresh_one(alice) == Outcome.REFRESHED


def test_an_answer_in_the_file_of_one_machine_is_waited_for_by_another_though_redis_answers_it(
    alice: OAuthCredential,
    upstream: Simulator,
    settings: Settings,
    data_dir: Path,
    impatient: None,
) -> None:
    """Redis failed one process for a moment, while the database was away."""
    if settings.REDIS_URL is None:
        pytest.skip("needs Redis")
    epoch.advance(now=clock.now())
    redis_url, settings.REDIS_URL = settings.REDIS_URL, NO_REDIS_THERE
    outside.forget()
    with Trouble(upstream, statement=every):
        assert refresh_one(alice) == Outcome.NOT_SAVED
    spool.forget()
    end_lease(alice, ago=1)
    settings.REDIS_URL = redis_url
    outside.forget()

    def on_another_machine() -> object:
        settings.OAUTHVAULT_DATA_DIR = data_dir / "another"
        settings.OAUTHVAULT_DATA_DIR.mkdir(exist_ok=True)
        try:
            return refresh_one(alice)
        finally:
            settings.OAUTHVAULT_DATA_DIR = data_dir

    assert on_another_machine() is None
    assert upstream.counts.token_calls == 1
    # Redis is back for the first one, and the database is not: the other sees it all the same.
    with Trouble(upstream, statement=every), pytest.raises(DatabaseError):
        spooled.replay()
    assert len(list((data_dir / "spool").glob("*"))) == 1, "it is on the disk for certain"
    assert on_another_machine() is None
    assert OAuthCredential.objects.get(pk=alice.pk).generation == alice.generation + 1
    # Its own machine finds that it is at home.
    assert spooled.replay() == 1
    assert list((data_dir / "spool").glob("*")) == []
    assert_saved_once(alice, upstream)


@pytest.mark.parametrize("redis_url", [None, NO_REDIS_THERE])
def test_without_a_spool_that_can_be_written_nothing_is_spent(
    alice: OAuthCredential,
    upstream: Simulator,
    settings: Settings,
    data_dir: Path,
    redis_url: Secret | None,
    reread: Reread,
) -> None:
    epoch.verify(now=clock.now())
    settings.REDIS_URL = redis_url
    outside.forget()
    (data_dir / "spool").write_text("no folder")
    with pytest.raises(StoreUnavailable, match="spool"):
        refresh_one(alice)
    assert upstream.counts.token_calls == 0
    assert reread(alice).lease_id is None
    assert not RefreshAttempt.objects.exists()
    (data_dir / "spool").unlink()
    assert refresh_one(alice) == Outcome.REFRESHED


def test_where_the_spool_fails_too_the_answer_is_held_until_the_database_is_back(
    alice: OAuthCredential,
    upstream: Simulator,
    settings: Settings,
    data_dir: Path,
    impatient: None,
) -> None:
    settings.REDIS_URL = None
    claim = claim_of(alice)
    answer, tries = present(claim)
    (data_dir / "spool").rmdir()
    (data_dir / "spool").write_text("no folder")
    with Trouble(upstream, statement=lambda number: number <= 3) as trouble:
        outcome = save_answer(claim, answer, tries=tries, latency_ms=1)
    assert (outcome, trouble.failed) == (Outcome.REFRESHED, 3)
    (data_dir / "spool").unlink()
    assert_saved_once(alice, upstream)


def test_whatever_the_spool_fails_with_the_answer_is_held_and_saved(
    alice: OAuthCredential, upstream: Simulator, settings: Settings, impatient: None
) -> None:
    """Not only with the errors of a disk."""
    settings.REDIS_URL = None
    claim = claim_of(alice)
    answer, tries = present(claim)
    kept, settings.OAUTHVAULT_DATA_DIR = settings.OAUTHVAULT_DATA_DIR, Path("no\0directory")
    with Trouble(upstream, statement=lambda number: number <= 3) as trouble:
        outcome = save_answer(claim, answer, tries=tries, latency_ms=1)
    settings.OAUTHVAULT_DATA_DIR = kept
    assert (outcome, trouble.failed) == (Outcome.REFRESHED, 3)
    assert_saved_once(alice, upstream)


def test_an_answer_that_nothing_takes_for_too_long_is_called_lost(
    alice: OAuthCredential,
    upstream: Simulator,
    settings: Settings,
    data_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    reread: Reread,
) -> None:
    settings.REDIS_URL = None
    monkeypatch.setattr(save, "LAST_PATIENCE", 0.1)
    claim = claim_of(alice)
    answer, tries = present(claim)
    (data_dir / "spool").rmdir()
    (data_dir / "spool").write_text("no folder")
    with Trouble(upstream, statement=every), pytest.raises(DatabaseError):
        save_answer(claim, answer, tries=tries, latency_ms=1)
    held = next(record.message for record in caplog.records if "in memory only" in record.message)
    assert "(File exists). Do not stop this process" in held
    assert [record.levelname for record in caplog.records if "is lost" in record.message] == [
        "CRITICAL"
    ]
    assert upstream.current_login("alice").access_token not in caplog.text
    assert reread(alice).unanswered_presentations == 1


def test_what_is_in_the_spool_and_no_answer_of_ours_stands_in_nobodys_way(
    in_spool: Callable[[], OAuthCredential], upstream: Simulator, settings: Settings, data_dir: Path
) -> None:
    settings.REDIS_URL = None
    alice = in_spool()
    (name,) = (path.name for path in (data_dir / "spool").glob("*"))
    for stray, text in {
        "half": '{"vault_id"',
        "other": "[]",
        ".tmp": "",
        "bytes": "\x00",
        f"{name}x": (data_dir / "spool" / name).read_text().replace(str(epoch.vault_id()), "other"),
    }.items():
        (data_dir / "spool" / stray).write_text(text)
    spool.forget()
    assert spooled.replay() == 1
    assert_saved_once(alice, upstream)


def test_what_killed_processes_have_left_half_written_is_removed_after_an_hour(
    alice: OAuthCredential, data_dir: Path
) -> None:
    now = time.time()
    for folder in ("spool", "epoch", "audit"):
        (data_dir / folder).mkdir(exist_ok=True)
        for name, age in {".probe-7-1": 3700, ".7-x.abc": 3700, ".7-y.abc": 3500}.items():
            (data_dir / folder / name).write_text("half of it")
            os.utime(data_dir / folder / name, (now - age, now - age))
    (data_dir / "spool" / "7-old").write_text("an answer, or whatever it is")
    os.utime(data_dir / "spool" / "7-old", (0, 0))
    spooled.replay()
    left = {
        str(path.relative_to(data_dir))
        for folder in ("spool", "epoch", "audit")
        for path in (data_dir / folder).glob(".*")
    }
    assert left == {"spool/.7-y.abc", "epoch/.7-y.abc", "audit/.7-y.abc"}
    assert (data_dir / "spool" / "7-old").exists()


def test_a_claim_whose_connection_is_found_closed_is_withdrawn(
    alice: OAuthCredential, upstream: Simulator, reread: Reread
) -> None:
    """To the driver that is another kind of error than one of the database."""
    ours = connections["default"]
    commit = ours._commit

    def closed() -> None:
        if not RefreshAttempt.objects.exists():
            return commit()
        commit()
        del ours._commit
        raise InterfaceError("connection already closed")

    ours._commit = closed  # type: ignore[method-assign]
    with pytest.raises(InterfaceError):
        refresh_one(alice)
    after = reread(alice)
    assert (after.lease_id, after.unanswered_presentations) == (None, 0)
    assert not RefreshAttempt.objects.exists()
    assert upstream.counts.token_calls == 0


@contextmanager
def hanging_database() -> Iterator[Callable[[], None]]:
    """Yields what has every save hang, until the end of the block."""
    other = connection.copy()
    lock = "BEGIN; LOCK TABLE claude_oauth_tokens IN ACCESS EXCLUSIVE MODE"

    def hang() -> None:
        with other.cursor() as cursor:
            cursor.execute(lock if connection.vendor == "postgresql" else "BEGIN IMMEDIATE")

    try:
        yield hang
    finally:
        other.close()
