"""What is due, taken in turns: so many at once in the deployment, so many of one tenant.

Taking marks a row for a minute (`taken_until`), so that no other sweep publishes it, and a
claim prolongs the mark to the end of its lease; what is marked counts as under way. So the
bound holds however many workers there are, and nothing lies in a queue behind ten thousand
of somebody else. A request past expiry waits for no turn: what requests have begun counts,
and cannot take the places that are the sweep's own.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from django.conf import settings
from django.db import transaction
from django.db.models import Count, Exists, OuterRef, Q, QuerySet

from tokens import isolation
from tokens.clock import DatabaseNow
from tokens.models import (
    Cause,
    Heartbeat,
    OAuthCredential,
    Outcome,
    RefreshAttempt,
    Tenant,
)
from tokens.models.credential import leased
from tokens.refresh import gate
from tokens.refresh.gate import Door

Due = tuple[int, int, int]  # tenant, credential, generation

# Seconds for which a credential that was published is not published again.
TAKEN_FOR = 60
# One place in so many is taken by no refresh that a request has begun.
_OWN_SHARE = 4
# How far one look goes into the line, and how many other tenants it asks for their first.
_PAGE, _OTHERS = 500, 200
# Seconds that a mark may have left. What has more is of a clock that was set back; unlike a
# lease a mark protects nothing, and is believed no further than it could have been made for.
_LONGEST_MARK = 2 * TAKEN_FOR
# The row whose lock makes two schedulers take one after the other.
_TURN = "take"


@isolation.every_tenant()
def take(*, now: float, most: int) -> list[Due]:
    """At most ``most`` of what is due, as far as there is room; each tenant in its turn.

    Oldest first within a tenant; between tenants whoever has fewest under way.
    """
    # By the one partial index, whatever the number of rows or tenants.
    if not OAuthCredential.objects.due(now=now).order_by().exists():
        return []
    with _one_after_the_other(now):
        busy = _busy(now)
        door = gate.look(now=now)
        room = min(most, _room_for_the_sweep(busy, door, now=now))
        if room <= 0:
            return []
        line = _line(now, room=room, probing=door.found_down)
        return _mark(_in_turns(line, busy=busy, room=room), now=now)


@isolation.every_tenant()
def take_asked_for(wanted: Iterable[Due], *, now: float) -> list[Due]:
    """Those of ``wanted`` that are due and find room, by the same bounds; as `take` does it.

    What hand-outs publish has waited for no turn. What finds no room is left to the sweep.
    """
    asked = set(wanted)
    with _one_after_the_other(now):
        busy = _busy(now)
        allowed = gate.look(now=now).allowance(at_once=settings.OAUTHVAULT_REFRESHES_AT_ONCE)
        room = allowed - sum(busy.values())
        if room <= 0:
            return []
        line = [
            (tenant_id, credential_id)
            for tenant_id, credential_id, generation in _waiting(now)
            .filter(pk__in=[credential_id for _, credential_id, _ in asked])
            .values_list("tenant_id", "pk", "generation")
            if (tenant_id, credential_id, generation) in asked
        ]
        return _mark(_in_turns(line, busy=busy, room=room), now=now)


@isolation.every_tenant()
def put_back(taken: Iterable[Due]) -> None:
    """These were taken and are not going to be refreshed now: let others take them.

    Whatever was claimed meanwhile keeps its mark.
    """
    OAuthCredential.objects.filter(
        _is_free(), pk__in=[credential_id for _, credential_id, _ in taken]
    ).update(taken_until=None)


def postpone(tried: Due, *, now: float) -> None:
    """This one was taken and could not be refreshed, for a reason of its own: it gives up its
    place in the room and in the line for a minute. Claimed or moved on meanwhile: untouched.
    """
    tenant_id, credential_id, _ = tried
    with isolation.of(tenant_id):
        OAuthCredential.objects.filter(
            _is_free(), tenant_id=tenant_id, pk=credential_id, refresh_due_at__lte=int(now)
        ).update(taken_until=None, refresh_due_at=int(now) + TAKEN_FOR)


@contextmanager
def _one_after_the_other(now: float) -> Iterator[None]:
    """A transaction of which there is one at a time: whoever takes has counted before."""
    Heartbeat.objects.get_or_create(part=_TURN, defaults={"at": now})
    with transaction.atomic():
        Heartbeat.objects.select_for_update().get(part=_TURN)
        yield


def _mark(chosen: list[tuple[int, int]], *, now: float) -> list[Due]:
    """Take these, in their order; without those that somebody has got hold of meanwhile."""
    order = {credential_id: place for place, (_, credential_id) in enumerate(chosen)}
    taken = list(
        _waiting(now)
        .filter(pk__in=list(order))
        .select_for_update(skip_locked=True, of=("self",))
        .values_list("tenant_id", "pk", "generation")
    )
    OAuthCredential.objects.filter(pk__in=[pk for _, pk, _ in taken]).update(
        taken_until=now + TAKEN_FOR
    )
    return sorted(taken, key=lambda due: order[due[1]])


def _is_free() -> Q:
    """Nobody is at it: without a lease, or with one that is over."""
    return ~leased(DatabaseNow())


def _is_taken(now: float) -> Q:
    return Q(taken_until__gt=now, taken_until__lte=now + _LONGEST_MARK)


def _waiting(now: float) -> QuerySet[OAuthCredential]:
    return (
        OAuthCredential.objects.due(now=now)
        .filter(~_is_taken(now), _is_free(), suspended_at=None)
        # No join: the lock is for the credentials' rows alone.
        .filter(Exists(_refreshing_tenants().filter(pk=OuterRef("tenant_id"))))
    )


def _refreshing_tenants() -> QuerySet[Tenant]:
    return Tenant.objects.filter(
        Q(auto_refresh=None) | Q(auto_refresh=True), suspended_at=None
    ).order_by()


def _busy(now: float) -> dict[int, int]:
    """Refreshes published or under way, by tenant."""
    return dict(
        OAuthCredential.objects.filter(_is_taken(now))
        .order_by()
        .values_list("tenant_id")
        .annotate(count=Count("pk"))
    )


def _room_for_the_sweep(busy: dict[int, int], door: Door, *, now: float) -> int:
    """How many may be taken, beside what is under way.

    Requests begin refreshes without a turn. However many they have under way, and of how
    many tenants, some places are the sweep's own: the others' tokens would else run out.
    """
    allowed = door.allowance(at_once=settings.OAUTHVAULT_REFRESHES_AT_ONCE)
    under_way = sum(busy.values())
    # While the server is found down there is one place, the probe's.
    own = 0 if door.found_down else -(-allowed // _OWN_SHARE)
    room = allowed - under_way
    if room >= own:
        return room
    return max(room, own - max(0, under_way - _begun_by_requests(now)))


def _begun_by_requests(now: float) -> int:
    return (
        RefreshAttempt.objects.filter(
            outcome=Outcome.IN_FLIGHT, started_at__gt=now - settings.REFRESH_LEASE
        )
        .exclude(cause=Cause.SWEEP)
        .count()
    )


def _line(now: float, *, room: int, probing: bool) -> list[tuple[int, int]]:
    """(tenant, credential): the oldest of all; where that is one long line of a few
    tenants, as many of each of the others as can have their turn too.

    ``probing``: one is wanted that can well be the circuit's probe, if there is any.
    """
    if probing:
        # Those that have been refreshed here, and have not failed themselves, before others.
        untried = _waiting(now).filter(unanswered_presentations=0)
        proven = untried.filter(refresh_count__gt=0)
        for probes in (proven.filter(consecutive_failures=0), proven, untried):
            first = list(probes.values_list("tenant_id", "pk")[:1])
            if first:
                return first
    line = list(_waiting(now).values_list("tenant_id", "pk")[:_PAGE])
    if len(line) < _PAGE:
        return line
    seen = {tenant_id for tenant_id, _ in line}
    others = [
        tenant.pk
        for tenant in _refreshing_tenants()
        .exclude(pk__in=seen)
        .filter(Exists(_waiting(now).filter(tenant_id=OuterRef("pk"))))
        .only("pk")[:_OTHERS]
    ]
    of_each = -(-room // (len(seen) + len(others)))
    for tenant_id in others:
        line += _waiting(now).filter(tenant_id=tenant_id).values_list("tenant_id", "pk")[:of_each]
        if len(line) >= _PAGE + room:
            break
    return line


def _in_turns(
    line: list[tuple[int, int]], *, busy: dict[int, int], room: int
) -> list[tuple[int, int]]:
    """The first ``room`` of the line when tenants take turns, none above its bound."""
    under_way = dict(busy)
    turns = []
    for place, (tenant_id, credential_id) in enumerate(line):
        turn = under_way.get(tenant_id, 0)
        under_way[tenant_id] = turn + 1
        if turn < settings.OAUTHVAULT_REFRESHES_AT_ONCE_PER_TENANT:
            turns.append((turn, place, tenant_id, credential_id))
    turns.sort()
    return [(tenant_id, credential_id) for _, _, tenant_id, credential_id in turns[:room]]
