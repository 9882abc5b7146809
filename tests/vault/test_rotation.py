"""Keys are exchanged while the vault is at work: at every step everything opens, and what is
still needed is neither destroyed nor called removable."""

import base64
import json
import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from django.core.management import CommandError
from django.db import connection, transaction
from django.test import Client
from hypothesis import HealthCheck, given
from hypothesis import strategies as st
from pytest_django import Settings

from oauthvault.env import ConfigurationError
from tests.conftest import Store
from tests.simulator import Simulator
from tests.vault.conftest import Reread
from tests.vault.test_commands import run
from tests.vault.test_refresh import claim_of, in_threads, refresh_one
from tests.vault.test_save_failures import Trouble, every, spooled_for
from tokens import clock, epoch, history, isolation, keyring, sealing, tasks, vault, wrapping
from tokens.encryption import kek_id, parse_kek
from tokens.keyring import fingerprint, load_keyring
from tokens.models import (
    AuditEvent,
    DataKey,
    OAuthCredential,
    Outcome,
    RefreshAttempt,
    Standing,
    Tenant,
    VaultKey,
)
from tokens.refresh import replay, spool
from tokens.refresh.abandoned import settle_abandoned
from tokens.refresh.ask import present
from tokens.refresh.save import save_answer
from tokens.rotation import data_keys, keks, old_keys
from tokens.rotation.data_keys import Rotation, rotate_data_key
from tokens.rotation.keks import kek_uses, rewrap_all, to_rewrap
from tokens.secret import EncryptionKey
from tokens.tasks import sweep

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("data_dir")]

PEOPLE = ("alice", "bob", "carla", "dora", "erik")


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_keys, "_PAGE", 2)
    monkeypatch.setattr(keks, "_PAGE", 2)


@pytest.fixture
def team(
    acme: Tenant, globex: Tenant, upstream: Simulator, store: Store
) -> dict[str, OAuthCredential]:
    """Five people of acme, and zoe of globex."""
    people = {name: store(acme, name, upstream.new_login(name)) for name in PEOPLE}
    return people | {"zoe": store(globex, "zoe", upstream.new_login("zoe"))}


def new_kek() -> str:
    return base64.b64encode(secrets.token_bytes(32)).decode()


def name_of(kek: str) -> str:
    return kek_id(parse_kek(kek))


def given_keys(settings: Settings) -> list[str]:
    return [key.reveal() for key in settings.ENCRYPTION_KEYS]


def give(settings: Settings, *keks: str) -> None:
    """The KEKs, the primary first, as a process that is started now would have them."""
    settings.ENCRYPTION_KEYS = [EncryptionKey(kek) for kek in keks]
    keyring.forget()


def add_primary(settings: Settings) -> str:
    """Put a new KEK in front of those that are given."""
    new = new_kek()
    give(settings, new, *given_keys(settings))
    return new


def rewrap() -> int:
    return rewrap_all(load_keyring(), actor="test", now=clock.now())


def rotate(tenant: Tenant) -> Rotation:
    return rotate_data_key(tenant=tenant, actor="test", now=clock.now())


def later(settings: Settings, seconds: float) -> None:
    settings.CLOCK_OFFSET += seconds


def assert_everything_opens(upstream: Simulator) -> None:
    """In a process that remembers no key: every token is the one that the server has given."""
    keyring.forget()
    rows = OAuthCredential.objects.exclude(standing=Standing.REVOKED)
    for row in rows.select_related("tenant", "data_key"):
        login = upstream.current_login(row.user_id)
        assert sealing.open_access_token(row).reveal() == login.access_token, row.user_id
        assert sealing.open_refresh_token(row).reveal() == login.refresh_token, row.user_id


def states() -> dict[str, str]:
    return {use.kek_id: use.state for use in kek_uses(load_keyring())}


class Killed(BaseException):
    """The process ends here: what was not committed never was."""


@contextmanager
def killed_at(statement: int) -> Iterator[None]:
    """Have this thread's process die with the statement of that number, if it comes so far."""
    seen = 0

    def execute(run: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        nonlocal seen
        seen += 1
        if seen > statement:
            raise Killed
        return run(sql, params, many, context)

    try:
        with connection.execute_wrapper(execute):
            yield
    except Killed:
        connection.close()


@contextmanager
def in_between(
    act: Callable[[], object], *, reading: str = '"access_token_encrypted"'
) -> Iterator[None]:
    """Do ``act``, in a thread of its own, when a batch of rows has been read, and before any of
    them is written."""
    done = False

    def execute(run: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        nonlocal done
        answer = run(sql, params, many, context)
        reads_rows = sql.startswith("SELECT") and reading in sql
        if reads_rows and not done and not connection.in_atomic_block:
            done = True
            (result,) = in_threads(1, act)
            assert not isinstance(result, Exception), result
        return answer

    with connection.execute_wrapper(execute):
        yield
    assert done, "no batch was read"


# --- Killed anywhere -------------------------------------------------------------------------


@hypothesis.settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["new kek", "kek", "data key"]), st.integers(0, 60)),
        min_size=1,
        max_size=6,
    )
)
def test_wherever_a_rotation_is_killed_everything_opens_and_the_next_call_finishes_it(
    team: dict[str, OAuthCredential],
    acme: Tenant,
    upstream: Simulator,
    settings: Settings,
    steps: list[tuple[str, int]],
) -> None:
    before = fingerprint("a token")
    for what, statement in steps:
        if what == "new kek":
            add_primary(settings)
        with killed_at(statement):
            rotate(acme) if what == "data key" else rewrap()
        assert_everything_opens(upstream)
        for tenant in Tenant.objects.all():
            assert DataKey.objects.filter(tenant=tenant, retired_at=None).count() <= 1
    rewrap()
    assert rotate(acme).left == 0
    needed = [kek for kek in given_keys(settings) if states()[name_of(kek)] != "removable"]
    assert needed == given_keys(settings)[:1]
    give(settings, *needed)
    assert_everything_opens(upstream)
    assert fingerprint("a token") == before


# --- KEKs ------------------------------------------------------------------------------------


def test_a_new_primary_key_wraps_everything_and_the_old_one_is_called_removable(
    team: dict[str, OAuthCredential], upstream: Simulator, settings: Settings
) -> None:
    (old,) = given_keys(settings)
    new = add_primary(settings)
    assert states() == {name_of(new): "primary", name_of(old): "needed"}
    assert rewrap() == DataKey.objects.count() + VaultKey.objects.count() == 6
    assert states() == {name_of(new): "primary", name_of(old): "removable"}
    assert rewrap() == 0
    give(settings, new)
    assert_everything_opens(upstream)


def test_a_key_that_another_process_makes_under_the_old_one_keeps_that_needed(
    team: dict[str, OAuthCredential], settings: Settings, upstream: Simulator, store: Store
) -> None:
    """A web process that was not restarted yet still wraps by what it was started with."""
    (old,) = given_keys(settings)
    new = add_primary(settings)
    rewrap()
    give(settings, old, new)
    late = Tenant.objects.create(slug="late")
    store(late, "lena", upstream.new_login("lena"))
    give(settings, new, old)
    assert states()[name_of(old)] == "needed"
    assert rewrap() == 1
    assert states()[name_of(old)] == "removable"


@pytest.fixture
def two_transactions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two at the same time, and nobody who waits long for the other one."""
    if connection.vendor == "sqlite":
        pytest.skip("SQLite has one transaction at a time that may wrap a key")
    monkeypatch.setattr(wrapping, "_PATIENCE", 0.2)


@contextmanager
def first_import_under_way(tenant: Tenant) -> Iterator[None]:
    """Somebody's transaction has made the tenant's first data key, and goes on until the end."""
    wrapped, go_on = threading.Event(), threading.Event()

    @isolation.of(tenant.pk)
    def importing() -> None:
        try:
            with transaction.atomic():
                keyring.sealing_key(tenant)
                wrapped.set()
                assert go_on.wait(30)
        finally:
            connection.close()

    thread = threading.Thread(target=importing)
    thread.start()
    assert wrapped.wait(30)
    try:
        yield
    finally:
        go_on.set()
        thread.join()


@pytest.mark.usefixtures("two_transactions")
def test_a_key_is_not_called_removable_while_somebody_may_be_wrapping_by_it(
    settings: Settings, acme: Tenant
) -> None:
    """A process that was not restarted yet, whose transaction nobody else sees into."""
    (old,) = given_keys(settings)
    with first_import_under_way(acme):
        new = add_primary(settings)
        told = json.loads(run("rotate_keys", "--json"))
        assert {each["id"]: each["state"] for each in told["encryption_keys"]} == {
            name_of(new): "primary", name_of(old): "needed",
        }  # fmt: skip
        assert "a key that is being made, perhaps" in run("rotate_keys")
    assert rewrap() == 1
    assert states()[name_of(old)] == "removable"


def test_without_a_key_that_is_needed_nothing_is_changed(
    team: dict[str, OAuthCredential], settings: Settings
) -> None:
    give(settings, new_kek())
    before = [*DataKey.objects.order_by("pk").values(), *VaultKey.objects.order_by("pk").values()]
    for arguments in ((), ("--tenant", "acme"), ("--all-tenants",)):
        with pytest.raises(ConfigurationError, match="does not open what the database holds"):
            run("rotate_keys", *arguments)
    after = [*DataKey.objects.order_by("pk").values(), *VaultKey.objects.order_by("pk").values()]
    assert after == before


def test_one_key_that_does_not_open_keeps_no_other_from_being_rewrapped(
    team: dict[str, OAuthCredential], acme: Tenant, settings: Settings
) -> None:
    (old,) = given_keys(settings)
    # Wrapped for another tenant: it names the right KEK, and does not open in this place.
    _, alien = load_keyring().new_key(key_id="alien", context=["tenant 0"])
    DataKey.objects.create(
        tenant=acme, key_id="alien", wrapped=alien, kek_id=name_of(old),
        retired_at="2026-01-01T00:00:00Z",
    )  # fmt: skip
    add_primary(settings)
    assert "data keys that do not open: alien of acme" in run("rotate_keys", refused=True)
    assert to_rewrap(load_keyring()) == 1
    assert states()[name_of(old)] == "needed"


def test_two_rewrappings_at_once_wrap_each_key_once_or_twice_and_lose_none(
    team: dict[str, OAuthCredential], settings: Settings, upstream: Simulator
) -> None:
    new = add_primary(settings)
    results = in_threads(2, rewrap)
    assert all(isinstance(result, int) for result in results), results
    assert sum(results) == 6  # type: ignore[arg-type]
    give(settings, new)
    assert_everything_opens(upstream)


# --- Damage ----------------------------------------------------------------------------------


def damage(row: DataKey | VaultKey) -> None:
    """As a disk, or somebody with SQL, would."""
    middle = len(row.wrapped) // 2
    other = "A" if row.wrapped[middle] != "A" else "B"
    row.wrapped = row.wrapped[:middle] + other + row.wrapped[middle + 1 :]
    type(row).objects.filter(pk=row.pk).update(wrapped=row.wrapped)
    keyring.forget()


def key_of(tenant: Tenant) -> DataKey:
    key = data_keys.present_key(tenant)
    assert key is not None
    return key


@pytest.mark.parametrize("slug", ["acme", "globex"], ids=["the first one", "another one"])
def test_a_damaged_data_key_concerns_its_tenant_only(
    team: dict[str, OAuthCredential], acme: Tenant, globex: Tenant, slug: str, client: Client,
    settings: Settings,
) -> None:  # fmt: skip
    hurt, well = (acme, globex) if slug == "acme" else (globex, acme)
    damage(key_of(hurt))
    keyring.prepare_keys()
    assert client.get("/readyz").status_code == 200
    told = run("doctor", "--json", refused=True)
    wrong = {
        row["what"]: row["detail"]
        for row in json.loads(told[: told.rindex("]") + 1])
        if row["state"] == "wrong"
    }
    assert wrong.keys() == {"data keys"}
    assert f"{key_of(hurt).key_id} of {slug} (" in wrong["data keys"]
    assert key_of(well).key_id not in wrong["data keys"]
    add_primary(settings)
    refusal = run("rotate_keys", refused=True)
    assert f"{key_of(hurt).key_id} of {slug}" in refusal
    assert "5 keys are wrapped under" in refusal
    assert to_rewrap(load_keyring()) == 1
    keyring.prepare_keys()
    for row in team.values():
        row.refresh_from_db()
        assert sealing.opens(row) == (row.tenant == well)


def test_a_tenant_whose_data_key_is_damaged_is_given_another_one(
    team: dict[str, OAuthCredential], acme: Tenant, globex: Tenant, upstream: Simulator,
    store: Store, settings: Settings,
) -> None:  # fmt: skip
    hurt = key_of(acme)
    damage(hurt)
    told = run("rotate_keys", "--all-tenants", refused=True)
    assert "acme: data key" in told
    assert "globex: data key" in told
    assert "5 credentials were left under an older key" in told
    for name in PEOPLE:
        store(acme, name, upstream.new_login(name))
    later(settings, old_keys.grace() + 1)
    sweep()
    assert not DataKey.objects.filter(pk=hurt.pk).exists()
    assert_everything_opens(upstream)
    findings = {row["what"]: row["state"] for row in json.loads(run("doctor", "--json"))}
    assert findings["data keys"] == "ok"


def test_a_key_that_is_damaged_in_the_middle_of_a_rotation_is_replaced_all_the_same(
    team: dict[str, OAuthCredential], acme: Tenant, globex: Tenant, upstream: Simulator
) -> None:
    with killed_at(15):
        rotate(acme)
    assert data_keys.under_older_keys(acme).exists()
    damage(key_of(acme))
    with killed_at(15):
        rotate(globex)
    sweep()
    assert not data_keys.under_older_keys(globex).exists(), "acme's keeps nobody from his"
    done = rotate(acme)
    assert done.is_new
    assert done.left == done.damaged


def test_a_damaged_key_of_the_vaults_own_stops_the_start(
    team: dict[str, OAuthCredential],
) -> None:
    """Whichever it is: without it no API key, or fingerprint, or record is known again."""
    for row in VaultKey.objects.all():
        whole = row.wrapped
        damage(row)
        with pytest.raises(ConfigurationError, match=f"'{row.purpose}', does not open"):
            keyring.prepare_keys()
        VaultKey.objects.filter(pk=row.pk).update(wrapped=whole)
    keyring.prepare_keys()


def test_a_wrong_name_of_a_kek_stops_nobody_and_makes_none_removable(
    team: dict[str, OAuthCredential], acme: Tenant, settings: Settings
) -> None:
    (old,) = given_keys(settings)
    new = add_primary(settings)
    rewrap_all(load_keyring(), actor="test", now=clock.now())
    give(settings, old, new)
    rotate(acme)
    give(settings, new, old)
    for name in ("f" * 12, name_of(new)):
        DataKey.objects.filter(tenant=acme, retired_at=None).update(kek_id=name)
        keyring.prepare_keys()
        assert states()[name_of(old)] == "needed"
    assert rewrap() == 1
    assert states()[name_of(old)] == "removable"


# --- Data keys -------------------------------------------------------------------------------


def test_a_new_data_key_seals_everything_of_its_tenant_and_nothing_of_another(
    team: dict[str, OAuthCredential], acme: Tenant, globex: Tenant, upstream: Simulator,
    reread: Reread,
) -> None:  # fmt: skip
    before = {name: reread(row) for name, row in team.items()}
    done = rotate(acme)
    assert (done.is_new, done.resealed, done.left) == (True, 5, 0)
    assert_everything_opens(upstream)
    for name, row in team.items():
        after = reread(row)
        if name == "zoe":
            assert after.data_key == before[name].data_key
            assert after.access_token_encrypted == before[name].access_token_encrypted
            continue
        assert after.data_key is not None
        assert after.data_key.key_id == done.key_id
        assert after.access_token_encrypted != before[name].access_token_encrypted
        assert after.refresh_token_encrypted != before[name].refresh_token_encrypted
        assert after.generation == before[name].generation
    acts = AuditEvent.objects.filter(tenant=acme, actor="test").order_by("pk")
    assert list(acts.values_list("action", flat=True))[-2:] == ["rotate_data_key", "reseal"]
    assert not AuditEvent.objects.filter(tenant=globex, action="rotate_data_key").exists()


def test_the_old_data_key_is_destroyed_when_nothing_can_seal_under_it_any_more(
    team: dict[str, OAuthCredential], acme: Tenant, upstream: Simulator, settings: Settings
) -> None:
    old = data_keys.present_key(acme)
    assert old is not None
    (kept,) = rotate(acme).old_keys
    assert kept.key_id == old.key_id
    assert "may still seal under it" in str(kept.why)
    later(settings, old_keys.grace() + 1)
    sweep()
    assert not DataKey.objects.filter(pk=old.pk).exists()
    assert_everything_opens(upstream)
    destroyed = AuditEvent.objects.get(tenant=acme, action="destroy_data_key")
    assert (destroyed.actor, destroyed.detail) == ("scheduler", {"data_key": old.key_id})


def test_what_happens_to_a_row_meanwhile_is_not_undone(
    team: dict[str, OAuthCredential], acme: Tenant, upstream: Simulator, store: Store,
    reread: Reread,
) -> None:  # fmt: skip
    """A refresh, an import and a revocation, each between a batch's reading and its writing."""

    def refreshed() -> None:
        assert refresh_one(team["alice"]) == Outcome.REFRESHED

    def imported() -> None:
        store(acme, "alice", upstream.new_login("alice"))

    def revoked() -> None:
        vault.revoke(tenant=acme, user_id="alice", actor="test", now=clock.now())

    for act in (refreshed, imported, revoked):
        with in_between(act):
            done = rotate(acme)
        assert (done.resealed, done.left) == (4, 0), act
        assert_everything_opens(upstream)
    after = reread(team["alice"])
    assert (after.standing, after.access_token_encrypted) == (Standing.REVOKED, None)


def test_a_refresh_that_began_under_the_old_key_is_saved_and_sealed_again(
    team: dict[str, OAuthCredential], acme: Tenant, upstream: Simulator, reread: Reread
) -> None:
    claim = claim_of(team["alice"])
    answer, tries = present(claim)

    @isolation.of(acme.pk)
    def saved() -> None:
        assert save_answer(claim, answer, tries=tries, latency_ms=1) == Outcome.REFRESHED
        key = reread(team["alice"]).data_key
        assert key is not None
        assert key.retired_at is not None

    with in_between(saved):
        done = rotate(acme)
    assert (done.resealed, done.left) == (5, 0)
    assert_everything_opens(upstream)


def test_a_refresh_without_an_answer_keeps_the_key_that_it_was_claimed_under(
    team: dict[str, OAuthCredential], acme: Tenant, upstream: Simulator, settings: Settings
) -> None:
    """Its process may hold the pair in its memory, for as long as it tries."""
    claim = claim_of(team["alice"])
    answer, tries = present(claim)
    rotate(acme)
    later(settings, old_keys.grace() + 1)
    (kept,) = rotate_data_key(
        tenant=acme, actor="test", now=clock.now(), replacing="another"
    ).old_keys
    assert "alice" in str(kept.why)
    assert save_answer(claim, answer, tries=tries, latency_ms=1) == Outcome.REFRESHED
    assert_everything_opens(upstream)
    sweep()
    assert DataKey.objects.filter(tenant=acme).count() == 1
    assert_everything_opens(upstream)


def test_an_attempt_that_was_answered_keeps_no_key(
    team: dict[str, OAuthCredential], acme: Tenant, settings: Settings
) -> None:
    assert refresh_one(team["alice"]) == Outcome.REFRESHED
    assert RefreshAttempt.objects.get().answer_saved
    rotate(acme)
    later(settings, old_keys.grace() + 1)
    (old,) = old_keys.destroy_unneeded(tenant=acme, actor="test", now=clock.now())
    assert old.why is None


def test_an_answer_whose_key_was_destroyed_all_the_same_is_sealed_under_the_present_one(
    team: dict[str, OAuthCredential], acme: Tenant, upstream: Simulator
) -> None:
    """The process was stopped for longer than anybody waits for one."""
    claim = claim_of(team["alice"])
    answer, tries = present(claim)
    rotate(acme)
    DataKey.objects.filter(tenant=acme, retired_at__isnull=False).delete()
    assert save_answer(claim, answer, tries=tries, latency_ms=1) == Outcome.REFRESHED
    assert_everything_opens(upstream)


def test_a_key_that_is_retired_during_a_claim_is_not_the_one_that_seals_its_answer(
    team: dict[str, OAuthCredential], acme: Tenant
) -> None:
    """By its claim the answer would be taken for one that needs the new key only."""

    def execute(run: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        if sql.startswith("UPDATE") and '"lease_id"' in sql and not rotated:
            at = datetime.fromtimestamp(clock.now(), UTC)
            rotated.append(DataKey.objects.filter(tenant=acme).update(retired_at=at))
            keyring.new_data_key(acme)
        return run(sql, params, many, context)

    rotated: list[int] = []
    with connection.execute_wrapper(execute):
        claim = claim_of(team["alice"])
    assert rotated == [1]
    assert claim.seals_with[0] == data_keys.present_key(acme)


def test_a_spooled_answer_under_the_old_key_comes_home_after_the_rotation(
    team: dict[str, OAuthCredential], acme: Tenant, upstream: Simulator, settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("tokens.refresh.save.PATIENCE", 0.01)
    alice = team["alice"]
    with Trouble(upstream, user="alice", statement=every):
        assert refresh_one(alice) == Outcome.NOT_SAVED
    rotate(acme)
    later(settings, 100_000)
    (kept,) = rotate_data_key(
        tenant=acme, actor="test", now=clock.now(), replacing="another"
    ).old_keys
    assert "1 answer in the spool" in str(kept.why)
    assert len(spooled_for(alice)) == 1
    assert replay.replay() == 1
    assert_everything_opens(upstream)
    sweep()
    assert DataKey.objects.filter(tenant=acme).count() == 1


def test_something_unreadable_in_the_spool_keeps_the_old_key(
    team: dict[str, OAuthCredential], acme: Tenant, settings: Settings, data_dir: Path
) -> None:
    rotate(acme)
    later(settings, old_keys.grace() + 1)
    (data_dir / "spool").mkdir(exist_ok=True)
    (data_dir / "spool" / "1-x").write_text("damaged")
    epoch.vault_id()
    (kept,) = old_keys.destroy_unneeded(tenant=acme, actor="test", now=clock.now())
    assert kept.why == "something lies in the spool that cannot be read"


def test_where_an_answer_may_lie_on_another_machine_its_key_is_kept_until_that_is_settled(
    team: dict[str, OAuthCredential], acme: Tenant, upstream: Simulator, settings: Settings,
    store: Store,
) -> None:  # fmt: skip
    """A machine that is away for a day comes back with its spool."""
    claim_of(team["alice"])
    rotate(acme)
    later(settings, 86_400)
    (old,) = old_keys.destroy_unneeded(tenant=acme, actor="test", now=clock.now())
    if connection.vendor == "sqlite" and spool.sees_everything(epoch.vault_id()):
        assert old.why is None, "there is one machine, and its spool was seen to be empty"
        return
    assert "(alice)" in str(old.why)
    later(settings, (settings.OAUTHVAULT_HISTORY_DAYS + 1) * 86_400)
    assert settle_abandoned(now=clock.now()) == 1
    assert history.forget_old(now=clock.now())
    (old,) = old_keys.destroy_unneeded(tenant=acme, actor="test", now=clock.now())
    assert "(alice)" in str(old.why), "or for however long it is away"
    store(acme, "alice", upstream.new_login("alice"))
    rotate(acme)
    later(settings, 86_400)
    gone = old_keys.destroy_unneeded(tenant=acme, actor="test", now=clock.now())
    assert [key.why for key in gone] == [None] * len(gone)


def test_two_rotations_at_once_make_one_new_key(
    team: dict[str, OAuthCredential], acme: Tenant, upstream: Simulator
) -> None:
    with in_between(lambda: rotate(acme)):
        first = rotate(acme)
    assert first.is_new
    assert first.left == 0
    assert DataKey.objects.filter(tenant=acme).count() == 2
    assert_everything_opens(upstream)


def test_rotations_let_go_in_the_same_moment_leave_one_key_that_seals(
    team: dict[str, OAuthCredential], acme: Tenant, upstream: Simulator
) -> None:
    results = in_threads(3, lambda: rotate(acme))
    assert all(isinstance(result, Rotation) for result in results), results
    assert data_keys.under_older_keys(acme).count() == 0
    assert DataKey.objects.filter(tenant=acme, retired_at=None).count() == 1
    assert_everything_opens(upstream)


def test_refreshes_go_on_while_keys_are_rotated(
    team: dict[str, OAuthCredential], acme: Tenant, upstream: Simulator, settings: Settings
) -> None:
    over = threading.Event()

    def refreshing() -> int:
        done = 0
        while not over.is_set():
            for name in PEOPLE:
                done += refresh_one(team[name]) == Outcome.REFRESHED
        return done

    def rotating() -> int:
        try:
            return sum(rotate(acme).is_new for _ in range(5))
        finally:
            over.set()

    acts = iter([refreshing, rotating])
    lock = threading.Lock()

    def next_act() -> int:
        with lock:
            act = next(acts)
        return act()

    results = in_threads(2, next_act)
    assert all(isinstance(result, int) and result for result in results), results
    assert rotate(acme).left == 0
    assert upstream.counts.reuse == 0
    assert_everything_opens(upstream)


def test_a_credential_that_does_not_open_keeps_its_key_and_stops_no_other(
    team: dict[str, OAuthCredential], acme: Tenant, settings: Settings
) -> None:
    OAuthCredential.objects.filter(pk=team["bob"].pk).update(
        access_token_encrypted=team["carla"].access_token_encrypted
    )
    done = rotate(acme)
    assert (done.resealed, done.left, done.damaged) == (4, 1, 1)
    later(settings, 100_000)
    (kept,) = old_keys.destroy_unneeded(tenant=acme, actor="test", now=clock.now())
    assert kept.why == "1 credential is sealed under it"
    again = run("rotate_keys", "--tenant", "acme", refused=True)
    assert "is new; 4 credentials were sealed again" in again, "bob keeps nobody from a new key"
    assert "1 credential was left under an older key" in again


def test_a_message_that_comes_twice_makes_no_second_key(
    team: dict[str, OAuthCredential], acme: Tenant
) -> None:
    key = data_keys.present_key(acme)
    assert key is not None
    for _ in range(2):
        tasks.rotate_data_key(acme.pk, key.key_id, "operator alice")
    assert DataKey.objects.filter(tenant=acme).count() == 2
    assert AuditEvent.objects.get(action="rotate_data_key").actor == "operator alice"


def test_a_sweep_finishes_what_was_cut_off(
    team: dict[str, OAuthCredential], acme: Tenant, upstream: Simulator
) -> None:
    with killed_at(15):
        rotate(acme)
    assert 0 < data_keys.under_older_keys(acme).count() <= 5
    sweep()
    assert data_keys.under_older_keys(acme).count() == 0
    assert_everything_opens(upstream)


# --- What is said ----------------------------------------------------------------------------


def test_the_command_says_what_it_did_and_what_may_be_removed(
    team: dict[str, OAuthCredential], settings: Settings
) -> None:
    (old,) = given_keys(settings)
    new = add_primary(settings)
    findings = {row["what"]: row for row in json.loads(run("doctor", "--json"))}
    assert findings["keys"]["state"] == "note"
    assert f"{name_of(old)} (6 wrapped by it) is still needed" in findings["keys"]["detail"]
    told = json.loads(run("rotate_keys", "--json"))
    assert (told["rewrapped"], told["left"], told["new_key"]) == (6, 0, None)
    assert told["encryption_keys"] == [
        {"id": name_of(new), "state": "primary", "data_keys": 2, "vault_keys": 4},
        {"id": name_of(old), "state": "removable", "data_keys": 0, "vault_keys": 0},
    ]
    assert "backup" in told["note"]
    printed = run("rotate_keys")
    assert "CLAUDE_TOKEN_ENCRYPTION_KEY_FALLBACKS" in printed
    assert "A backup that was made before opens with the old key only" in printed
    assert old not in printed
    assert new not in printed
    findings = {row["what"]: row for row in json.loads(run("doctor", "--json"))}
    assert findings["keys"]["state"] == "ok"


def test_the_command_rotates_the_data_key_of_one_tenant_or_of_all(
    team: dict[str, OAuthCredential], settings: Settings
) -> None:
    Tenant.objects.create(slug="empty")
    assert "acme: data key" in run("rotate_keys", "--tenant", "acme")
    told = json.loads(run("rotate_keys", "--all-tenants", "--json"))
    assert [(each["tenant"], each["is_new"], each["resealed"]) for each in told["tenants"]] == [
        ("acme", True, 5), ("empty", False, 0), ("globex", True, 1),
    ]  # fmt: skip
    assert {old["state"] for each in told["tenants"] for old in each["old_data_keys"]} == {"needed"}
    findings = {row["what"]: row["detail"] for row in json.loads(run("doctor", "--json"))}
    assert "of globex: a refresh or an import" in findings["data keys"]
    later(settings, 100_000)
    printed = run("rotate_keys", "--tenant", "globex")
    assert ": destroyed" in printed
    findings = {row["what"]: row["state"] for row in json.loads(run("doctor", "--json"))}
    assert findings["data keys"] == "ok"


def test_a_wrong_call_is_refused_with_2(acme: Tenant) -> None:
    with pytest.raises(CommandError) as error:
        run("rotate_keys", "--tenant", "acme", "--all-tenants")
    assert error.value.returncode == 2
    assert "no tenant 'nobody'" in run("rotate_keys", "--tenant", "nobody", refused=True)


# --- The key file ----------------------------------------------------------------------------


@pytest.fixture
def key_file(settings: Settings, data_dir: Path) -> Path:
    """The KEK lies in the data directory, as in the embedded default."""
    path = data_dir / "encryption.key"
    path.write_text(given_keys(settings)[0] + "\n")
    settings.ENCRYPTION_KEY_FILE = path
    settings.ENCRYPTION_KEYS = []
    keyring.forget()
    return path


def test_with_a_key_file_a_new_key_comes_in_and_the_old_one_goes_out(
    key_file: Path, team: dict[str, OAuthCredential], upstream: Simulator
) -> None:
    old = key_file.read_text().strip()
    told = json.loads(run("rotate_keys", "--new-key", "--yes", "--json"))
    new, kept = key_file.read_text().split()
    assert (told["new_key"], kept, told["rewrapped"]) == (name_of(new), old, 6)
    assert key_file.stat().st_mode & 0o077 == 0
    assert_everything_opens(upstream)
    assert "--remove-unneeded" in run("rotate_keys")
    assert json.loads(run("rotate_keys", "--remove-unneeded", "--yes", "--json"))["removed"] == [
        name_of(old)
    ]
    assert key_file.read_text().split() == [new]
    assert_everything_opens(upstream)
    assert "Nothing was removed" in run("rotate_keys", "--remove-unneeded", "--yes")


def test_an_unfinished_rotation_of_the_key_file_goes_on_without_a_further_key(
    key_file: Path, team: dict[str, OAuthCredential], upstream: Simulator
) -> None:
    key_file.write_text(f"{new_kek()}\n{key_file.read_text()}")
    assert "Nothing was removed" in run("rotate_keys", "--remove-unneeded", "--yes")
    told = json.loads(run("rotate_keys", "--new-key", "--yes", "--json"))
    assert (told["new_key"], told["rewrapped"]) == (None, 6)
    assert len(key_file.read_text().split()) == 2
    assert_everything_opens(upstream)


@pytest.mark.usefixtures("two_transactions")
def test_a_line_stays_in_the_key_file_while_somebody_may_be_wrapping_by_it(
    key_file: Path, acme: Tenant
) -> None:
    old = key_file.read_text().strip()
    with first_import_under_way(acme):
        run("rotate_keys", "--new-key", "--yes")
        assert "Nothing was removed" in run("rotate_keys", "--remove-unneeded", "--yes")
        assert old in key_file.read_text()
    keyring.prepare_keys()
    assert "1 key is wrapped" in run("rotate_keys")
    run("rotate_keys", "--remove-unneeded", "--yes")
    assert old not in key_file.read_text()
    keyring.forget()
    assert keyring.data_key_opens(key_of(acme))


@pytest.mark.usefixtures("two_transactions")
def test_who_comes_to_wrap_while_keys_are_counted_wraps_by_the_file_as_it_is_afterwards(
    key_file: Path, acme: Tenant
) -> None:
    @isolation.of(acme.pk)
    def importing() -> None:
        try:
            keyring.sealing_key(acme)
        finally:
            connection.close()

    thread = threading.Thread(target=importing)
    with wrapping.while_nobody_wraps() as alone:
        assert alone
        thread.start()
        while not _waits_for_us():
            assert thread.is_alive()
        new = new_kek()
        key_file.write_text(f"{new}\n{key_file.read_text()}")
    thread.join()
    assert key_of(acme).kek_id == name_of(new)


def _waits_for_us() -> bool:
    with connection.cursor() as cursor:
        # In this database: the tests of another process wait in theirs.
        cursor.execute(
            "SELECT 1 FROM pg_locks JOIN pg_database ON pg_database.oid = pg_locks.database "
            "WHERE locktype = 'advisory' AND NOT granted AND datname = current_database()"
        )
        return cursor.fetchone() is not None


def test_a_rewrapping_that_was_stopped_wraps_nothing_by_a_key_that_is_gone_by_now(
    key_file: Path, team: dict[str, OAuthCredential], upstream: Simulator
) -> None:
    old, new, other = key_file.read_text().strip(), new_kek(), new_kek()
    key_file.write_text(f"{other}\n{new}\n{old}\n")

    def meanwhile() -> None:
        key_file.write_text(f"{new}\n{other}\n{old}\n")
        run("rotate_keys")
        run("rotate_keys", "--remove-unneeded", "--yes")

    with in_between(meanwhile, reading='SELECT "tokens_datakey"."id"'):
        rewrap()
    assert key_file.read_text().split() == [new]
    assert_everything_opens(upstream)


def test_a_damaged_data_key_keeps_the_others_from_no_new_key(
    key_file: Path, team: dict[str, OAuthCredential], acme: Tenant
) -> None:
    """It stays under the KEK that it was wrapped by, and so does that KEK."""
    old = name_of(key_file.read_text().strip())
    damage(key_of(acme))
    for rounds in (1, 2):
        told = run("rotate_keys", "--new-key", "--yes", "--json", refused=True)
        assert json.loads(told[: told.rindex("}") + 1])["new_key"] == load_keyring().primary_id
        assert len(key_file.read_text().split()) == 1 + rounds
    removed = json.loads(run("rotate_keys", "--remove-unneeded", "--yes", "--json"))["removed"]
    assert len(removed) == 1
    assert states()[old] == "needed"


def test_what_backups_may_need_is_not_removed_where_nobody_can_be_asked(
    key_file: Path, team: dict[str, OAuthCredential]
) -> None:
    run("rotate_keys", "--new-key", "--yes")
    before = key_file.read_text()
    assert "--yes" in run("rotate_keys", "--remove-unneeded", refused=True)
    assert key_file.read_text() == before


def test_the_key_file_is_not_touched_where_the_environment_gives_the_key(
    team: dict[str, OAuthCredential],
) -> None:
    for option in ("--new-key", "--remove-unneeded"):
        assert "CLAUDE_TOKEN_ENCRYPTION_KEY_FALLBACKS" in run("rotate_keys", option, refused=True)


def test_a_line_of_the_key_file_that_is_no_key_is_named_and_not_repeated(
    key_file: Path, team: dict[str, OAuthCredential]
) -> None:
    key_file.write_text(key_file.read_text() + "canary\n")
    with pytest.raises(ConfigurationError, match=r"encryption\.key \(key 2\)") as error:
        load_keyring()
    assert "canary" not in str(error.value)
