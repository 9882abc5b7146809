"""Who is refreshed next: in turns between tenants, never more at once than may be, none twice."""

import itertools
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from celery.signals import before_task_publish
from django.conf import settings as django_settings
from django.db import connection
from django.db.models import Min
from pytest_django import Settings

from tests.conftest import Store
from tests.simulator import Simulator
from tests.vault.test_refresh import in_threads, refresh_one
from tokens import due, epoch, keyring, outside, tasks
from tokens.keyring import sealing_key
from tokens.models import Cause, DataKey, OAuthCredential, Outcome, Tenant, Upstream
from tokens.refresh import gate
from tokens.refresh.claim import claim_credential
from tokens.refresh.schedule import due_time
from tokens.tasks import refresh_credentials, sweep
from tokens.tenants import create_tenant, suspend_tenant

pytestmark = pytest.mark.django_db(transaction=True)

Fill = Callable[..., list[OAuthCredential]]
UnderWay = Callable[[Tenant, int], None]
DAY = 86_400


@pytest.fixture(autouse=True)
def at_once(settings: Settings, upstream: Simulator) -> None:
    """The same bounds on every database."""
    settings.OAUTHVAULT_REFRESHES_AT_ONCE = 20
    settings.OAUTHVAULT_REFRESHES_AT_ONCE_PER_TENANT = 15


@pytest.fixture
def now() -> float:
    return time.time()


@pytest.fixture
def fill(now: float) -> Fill:
    """So many credentials of one tenant, each due a second after the one before. What is
    sealed in them does not open: they are taken here, and not refreshed."""
    numbers = itertools.count()

    def _fill(tenant: Tenant, count: int, *, ago: float = DAY) -> list[OAuthCredential]:
        data_key, _ = sealing_key(tenant)
        return OAuthCredential.objects.bulk_create(
            OAuthCredential(
                tenant=tenant,
                user_id=f"user{next(numbers)}",
                access_token_encrypted="sealed",
                refresh_token_encrypted="sealed",
                data_key=data_key,
                expires_at=int(now),
                refresh_due_at=int(now - ago) + number,
            )
            for number in range(count)
        )

    return _fill


def take(now: float, most: int = 1000) -> Counter[int]:
    """What one look at the line takes, by tenant."""
    return Counter(tenant_id for tenant_id, _, _ in due.take(now=now, most=most))


# --- In turns ------------------------------------------------------------------------------


def test_one_among_ten_thousand_of_somebody_else_is_in_the_first_take(
    acme: Tenant, globex: Tenant, fill: Fill, now: float
) -> None:
    fill(acme, 10_000, ago=DAY)
    (carol,) = fill(globex, 1, ago=1)
    taken = due.take(now=now, most=1000)
    assert taken[1] == (globex.pk, carol.pk, carol.generation)
    assert take_rest(taken, acme) == 15


def take_rest(taken: list[due.Due], tenant: Tenant) -> int:
    return sum(tenant_id == tenant.pk for tenant_id, _, _ in taken)


def test_two_long_lines_share_the_room_however_old_the_one_is(
    acme: Tenant, globex: Tenant, fill: Fill, now: float
) -> None:
    fill(acme, 1000, ago=DAY)
    fill(globex, 100, ago=200)
    assert take(now) == {acme.pk: 10, globex.pk: 10}


def test_within_a_tenant_the_oldest_come_first(acme: Tenant, fill: Fill, now: float) -> None:
    line = fill(acme, 40)
    assert [pk for _, pk, _ in due.take(now=now, most=7)] == [each.pk for each in line[:7]]
    assert [pk for _, pk, _ in due.take(now=now, most=7)] == [each.pk for each in line[7:14]]


def test_whoever_has_fewest_under_way_is_next(
    acme: Tenant, globex: Tenant, fill: Fill, now: float
) -> None:
    fill(acme, 30, ago=DAY)
    assert take(now, most=6) == {acme.pk: 6}
    fill(globex, 30, ago=100)
    assert take(now, most=6) == {globex.pk: 6}
    assert take(now, most=6) == {acme.pk: 3, globex.pk: 3}


def test_after_a_day_without_a_scheduler_everything_is_drained_in_turns(
    fill: Fill, now: float
) -> None:
    tenants = [create_tenant(slug=f"t{n}", actor="test", now=now) for n in range(12)]
    sizes = [700, *([30] * 3), *([1] * 8)]
    for tenant, size in zip(tenants, sizes, strict=True):
        fill(tenant, size, ago=DAY - tenant.pk)
    first_round, takes = {}, 0
    while taken := due.take(now=now, most=1000):
        assert len(taken) <= 20
        for tenant_id, _, _ in taken:
            first_round.setdefault(tenant_id, takes)
        takes += 1
        # They are refreshed: the next one is due tomorrow.
        OAuthCredential.objects.filter(pk__in=[pk for _, pk, _ in taken]).update(
            refresh_due_at=now + DAY, taken_until=None
        )
    earliest = OAuthCredential.objects.aggregate(at=Min("refresh_due_at"))["at"]
    assert earliest > now, "nothing is left behind"
    assert set(first_round.values()) == {0}, "all tenants are in the first take"
    assert takes <= sum(sizes) / 15 + 5, "and the room is used"


def test_what_may_not_be_refreshed_is_not_taken(
    acme: Tenant, globex: Tenant, default_tenant: Tenant, fill: Fill, now: float
) -> None:
    suspended, waiting, later, *good = fill(acme, 5)
    OAuthCredential.objects.filter(pk=suspended.pk).update(suspended_at=int(now))
    OAuthCredential.objects.filter(pk=waiting.pk).update(
        lease_id="00000000-0000-4000-8000-000000000000", lease_until=now + 30
    )
    OAuthCredential.objects.filter(pk=later.pk).update(refresh_due_at=int(now) + 60)
    fill(globex, 5)
    suspend_tenant(tenant=globex, actor="test", now=now)
    fill(default_tenant, 5)
    Tenant.objects.filter(pk=default_tenant.pk).update(auto_refresh=False)
    assert {pk for _, pk, _ in due.take(now=now, most=1000)} == {each.pk for each in good}


# --- So many at once -----------------------------------------------------------------------


def test_two_schedulers_at_once_keep_the_bounds_and_take_nothing_twice(
    acme: Tenant, globex: Tenant, default_tenant: Tenant, fill: Fill, now: float
) -> None:
    for tenant in (acme, globex, default_tenant):
        fill(tenant, 40)
    taken = in_threads(6, lambda: due.take(now=now, most=9))
    every = [each for takes in taken for each in takes]  # type: ignore[attr-defined]
    assert len(every) == len(set(every)) == 20
    assert max(Counter(tenant_id for tenant_id, _, _ in every).values()) <= 15
    assert due.take(now=now, most=9) == []


def test_a_tenant_alone_has_no_more_than_its_own_bound(
    acme: Tenant, globex: Tenant, fill: Fill, now: float
) -> None:
    fill(acme, 600)
    results = in_threads(4, lambda: due.take(now=now, most=1000))
    assert sum(map(len, results)) == 15  # type: ignore[arg-type]
    fill(globex, 600)
    results = in_threads(4, lambda: due.take(now=now, most=1000))
    assert sum(map(len, results)) == 5, "what it leaves is for others"  # type: ignore[arg-type]


def test_what_was_taken_and_not_claimed_is_free_again_after_a_minute(
    acme: Tenant, fill: Fill, now: float
) -> None:
    fill(acme, 3)
    first = due.take(now=now, most=1000)
    assert len(first) == 3
    assert due.take(now=now + 59, most=1000) == []
    assert due.take(now=now + 61, most=1000) == first


def test_what_is_put_back_is_free_at_once_unless_it_was_claimed(
    acme: Tenant, fill: Fill, now: float
) -> None:
    fill(acme, 3)
    first, claimed, third = due.take(now=now, most=1000)
    OAuthCredential.objects.filter(pk=claimed[1]).update(
        lease_id="00000000-0000-4000-8000-000000000000", lease_until=now + 45
    )
    due.put_back([first, claimed, third])
    assert due.take(now=now, most=1000) == [first, third]


def test_a_claim_takes_a_place_whoever_asked_for_it(
    acme: Tenant, globex: Tenant, upstream: Simulator, store: Store, fill: Fill, now: float
) -> None:
    """A refresh that a request began counts, and gives its place up when it is saved."""
    alice = store(acme, "alice", upstream.new_login("alice"))
    OAuthCredential.objects.filter(pk=alice.pk).update(taken_until=now + 45)
    fill(globex, 40)
    fill(acme, 40)
    assert take(now).total() == 19
    OAuthCredential.objects.exclude(pk=alice.pk).update(taken_until=None)
    assert refresh_one(alice) == Outcome.REFRESHED
    assert take(now).total() == 20


@pytest.fixture
def under_way(upstream: Simulator, store: Store) -> UnderWay:
    """So many refreshes that requests of a tenant have begun and that have no answer yet."""
    numbers = itertools.count()

    def _under_way(tenant: Tenant, count: int) -> None:
        for number in itertools.islice(numbers, count):
            name = f"asking{number}"
            asking = store(tenant, name, upstream.new_login(name, expires_in=-10))
            assert claim_credential(tenant.pk, asking.pk, Cause.HAND_OUT, "test", None)

    return _under_way


def test_requests_of_others_leave_a_tenant_its_turn(
    acme: Tenant, globex: Tenant, default_tenant: Tenant,
    under_way: UnderWay, fill: Fill, now: float,
) -> None:  # fmt: skip
    """Requests wait for no turn: as many as they like of a tenant may be under way."""
    under_way(acme, 13)
    under_way(default_tenant, 12)
    fill(acme, 10)
    fill(globex, 10, ago=100)
    assert take(now) == {globex.pk: 5}, "a quarter of all, to whoever has fewest under way"
    assert take(now) == {}


def test_the_sweeps_own_places_are_none_beside_what_it_has_under_way(
    acme: Tenant, globex: Tenant, under_way: UnderWay, fill: Fill, now: float
) -> None:
    fill(globex, 30)
    assert take(now, most=3) == {globex.pk: 3}
    under_way(acme, 19)
    assert take(now) == {globex.pk: 2}
    assert take(now) == {}


def test_a_closed_door_closes_the_sweeps_own_places_too(
    acme: Tenant, globex: Tenant, under_way: UnderWay, fill: Fill, now: float
) -> None:
    under_way(acme, 20)
    fill(globex, 10)
    gate.close_for(30, now=now)
    assert take(now) == {}


# --- What a hand-out asks for ---------------------------------------------------------------


def test_what_hand_outs_ask_for_finds_room_by_the_same_bounds(
    acme: Tenant, globex: Tenant, fill: Fill, now: float
) -> None:
    asked = [(acme.pk, each.pk, each.generation) for each in fill(acme, 30)]
    assert due.take_asked_for(asked[:8], now=now) == asked[:8]
    assert due.take_asked_for(asked[:8], now=now) == [], "they are taken"
    assert due.take_asked_for(asked[8:], now=now) == asked[8:15]
    (carol,) = fill(globex, 1)
    assert due.take(now=now, most=1000) == [(globex.pk, carol.pk, carol.generation)]


def test_what_a_hand_out_asks_for_is_taken_as_it_was_asked_for_or_not_at_all(
    acme: Tenant, globex: Tenant, fill: Fill, now: float
) -> None:
    moved_on, later, foreign, good = fill(acme, 4)
    OAuthCredential.objects.filter(pk=later.pk).update(refresh_due_at=int(now) + 60)
    asked = [
        (acme.pk, moved_on.pk, moved_on.generation - 1),
        (acme.pk, later.pk, later.generation),
        (globex.pk, foreign.pk, foreign.generation),
        (acme.pk, good.pk, good.generation),
    ]
    assert due.take_asked_for(asked, now=now) == asked[3:]
    assert list(OAuthCredential.objects.exclude(taken_until=None)) == [good]


def test_a_message_of_a_hand_out_that_finds_no_room_is_left_to_the_sweep(
    acme: Tenant, upstream: Simulator, store: Store, under_way: UnderWay
) -> None:
    under_way(acme, 15)
    bob = store(acme, "bob", upstream.new_login("bob", expires_in=60))
    refresh_credentials([(acme.pk, bob.pk, bob.generation)], Cause.HAND_OUT, "test")
    assert upstream.counts.token_calls == 0
    OAuthCredential.objects.exclude(pk=bob.pk).update(taken_until=None)
    refresh_credentials([(acme.pk, bob.pk, bob.generation)], Cause.HAND_OUT, "test")
    assert upstream.counts_of("bob").refreshed == 1


# --- While the authorization server asks to wait -------------------------------------------


def test_while_a_429_governs_nothing_is_taken_and_afterwards_it_grows(
    acme: Tenant, globex: Tenant, fill: Fill, now: float
) -> None:
    fill(acme, 50)
    fill(globex, 50)
    gate.close_for(30, now=now)

    def at(seconds: float) -> int:
        taken = due.take(now=now + seconds, most=1000)
        due.put_back(taken)
        return len(taken)

    assert [at(0), at(15), at(29.9)] == [0, 0, 0]
    grown = [at(30.1), at(32), at(36), at(42), at(48), at(50.1)]
    assert grown == sorted(grown)
    assert (grown[0], grown[-1]) == (1, 20)
    assert grown[2] <= 7


def test_with_the_circuit_open_nothing_is_taken_and_half_open_one(
    acme: Tenant, globex: Tenant, fill: Fill, now: float, settings: Settings
) -> None:
    fill(acme, 5)
    fill(globex, 5)
    Upstream.objects.create(token_url=settings.CLAUDE_OAUTH_TOKEN_URL, circuit_open_until=now + 15)
    assert due.take(now=now, most=1000) == []
    assert len(due.take(now=now + 16, most=1000)) == 1
    assert due.take(now=now + 16, most=1000) == []
    gate.note_answer()
    assert len(due.take(now=now + 16, most=1000)) == 9


# --- Not again and again -------------------------------------------------------------------


@contextmanager
def published() -> Iterator[list[list[due.Due]]]:
    """What the messages that are sent in this block carry."""
    messages: list[list[due.Due]] = []

    def note(body: Any, **kwargs: object) -> None:
        messages.append(body[0][0])

    before_task_publish.connect(note, sender=refresh_credentials.name)
    try:
        yield messages
    finally:
        before_task_publish.disconnect(note, sender=refresh_credentials.name)


def unopenable(credential: OAuthCredential, settings: Settings, folder: Path) -> None:
    DataKey.objects.filter(tenant=credential.tenant).update(wrapped="v1.of.another")
    keyring.forget()


def unwritable_spool(credential: OAuthCredential, settings: Settings, folder: Path) -> None:
    settings.REDIS_URL, settings.OAUTHVAULT_DATA_DIR = None, folder
    outside.forget()
    epoch.forget()
    (folder / "spool").write_text("no folder")


@pytest.fixture
def short_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seconds for which a worker goes on from one message."""
    monkeypatch.setattr(tasks, "_LONGEST_TURN", 3.0)


@pytest.mark.parametrize("hindrance", [unopenable, unwritable_spool])
def test_what_cannot_be_refreshed_now_is_not_tried_again_at_once(
    acme: Tenant,
    upstream: Simulator,
    store: Store,
    settings: Settings,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    short_turn: None,
    hindrance: Callable[[OAuthCredential, Settings, Path], None],
) -> None:
    """It would be the next in the line for ever, as fast as a worker can try."""
    alice = store(acme, "alice", upstream.new_login("alice", expires_in=60))
    hindrance(alice, settings, tmp_path)
    with published() as messages:
        assert sweep() == 1
        refresh_credentials(messages[0])
        assert len([r for r in caplog.records if "is not refreshed now" in r.message]) == 1
        assert sweep() == 0
    assert len(messages) == 1
    assert upstream.counts.token_calls == 0


def test_what_cannot_be_refreshed_does_not_take_the_room_of_what_can(
    acme: Tenant,
    globex: Tenant,
    upstream: Simulator,
    store: Store,
    fill: Fill,
    short_turn: None,
) -> None:
    """They are the oldest in the line, and stay so for as long as nobody looks after them."""
    fill(acme, 30)
    for tenant, user in ((acme, "bob"), (globex, "carol")):
        store(tenant, user, upstream.new_login(user, expires_in=60))
    with published() as messages:
        sweep()
        for message in messages:
            refresh_credentials(message)
    assert upstream.counts_of("carol").refreshed == 1
    assert upstream.counts_of("bob").refreshed == 1


def test_a_message_that_comes_twice_does_not_ask_again_while_the_first_failure_backs_off(
    acme: Tenant, upstream: Simulator, store: Store, settings: Settings
) -> None:
    """Nothing has moved on after a failure: the generation is the same, and so is the message."""
    settings.CLAUDE_OAUTH_MAX_RETRIES = 0
    alice = store(acme, "alice", upstream.new_login("alice", expires_in=60))
    upstream.fail_next(times=50, status=503)
    message = [(acme.pk, alice.pk, alice.generation)]
    refresh_credentials(message)
    asked = upstream.counts.token_calls
    for cause in (Cause.SWEEP, Cause.HAND_OUT):
        refresh_credentials(message, cause)
    assert upstream.counts.token_calls == asked
    refresh_credentials(message, Cause.DEMAND)
    assert upstream.counts.token_calls > asked, "an operator's demand waits for nothing"


def test_a_claim_only_if_due_is_judged_as_the_row_is_and_not_as_it_was_read(
    acme: Tenant, upstream: Simulator, store: Store
) -> None:
    """Between the reading and the claim another one has tried, failed, and ended its lease."""
    alice = store(acme, "alice", upstream.new_login("alice", expires_in=60))

    def fails_meanwhile(run: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        if sql.startswith("UPDATE") and "lease_id" in sql:
            OAuthCredential.objects.filter(pk=alice.pk).update(refresh_due_at=time.time() + 30)
        return run(sql, params, many, context)

    where = (acme.pk, alice.pk, Cause.SWEEP, "test", alice.generation)
    with connection.execute_wrapper(fails_meanwhile):
        assert claim_credential(*where, only_if_due=True) is None
    assert claim_credential(*where) is not None


# --- When --------------------------------------------------------------------------------


def test_a_thousand_that_were_imported_together_fall_due_apart() -> None:
    now = 1_800_000_000.0
    ends = int(now) + 8 * 3600
    times = [due_time(expires_at=ends, threshold=300, now=now) for _ in range(1000)]
    assert ends - 450 <= min(times)
    assert max(times) <= ends - 300
    in_fifteen_seconds = Counter((ends - at - 300) // 15 for at in times)
    # Ten bins of a hundred each, and five standard deviations around it.
    assert len([count for count in in_fifteen_seconds.values() if count > 50]) >= 10
    assert max(in_fifteen_seconds.values()) < 150


def test_a_short_lived_token_is_left_alone_for_half_of_its_life() -> None:
    now = 1_800_000_000.0
    for lifetime in (21, 60, 300, 599):
        at = due_time(expires_at=int(now) + lifetime, threshold=300, now=now, lifetime=lifetime)
        assert now + lifetime / 2 - 1 <= at < now + lifetime


def test_however_short_its_life_a_token_is_not_replaced_within_ten_seconds() -> None:
    now = 1_800_000_000.0
    for lifetime in (1, 5, 15, 20):
        at = due_time(expires_at=int(now) + lifetime, threshold=300, now=now, lifetime=lifetime)
        assert at == now + 10


def test_with_an_open_circuit_the_probe_is_one_that_was_never_sent_in_vain(
    acme: Tenant, fill: Fill, now: float
) -> None:
    """The next presentation of the others is their last."""
    line = fill(acme, 10)
    OAuthCredential.objects.filter(pk__in=[each.pk for each in line[:9]]).update(
        unanswered_presentations=1, lease_id=uuid.uuid4(), lease_until=now - 100
    )
    Upstream.objects.create(
        token_url=django_settings.CLAUDE_OAUTH_TOKEN_URL, circuit_open_until=now - 1
    )
    assert [pk for _, pk, _ in due.take(now=now, most=10)] == [line[9].pk]


def test_a_place_is_given_back_by_one_whose_lease_is_over(
    acme: Tenant, fill: Fill, now: float
) -> None:
    (one,) = fill(acme, 1)
    OAuthCredential.objects.update(lease_id=uuid.uuid4(), lease_until=now - 100)
    taken = due.take(now=now, most=1)
    assert [pk for _, pk, _ in taken] == [one.pk]
    due.put_back(taken)
    assert due.take(now=now, most=1) == taken
