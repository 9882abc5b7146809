"""What is due, taken in turns: so many at once in the deployment, so many of one tenant.

Taking marks a row for a minute (`taken_until`), so that no other sweep publishes it, and a
claim prolongs the mark to the end of its lease; what is marked counts as under way. So the
bound holds however many workers there are, and nothing lies in a queue behind ten thousand
of somebody else. A request past expiry waits for no turn: what requests have begun counts,
and cannot take the places that are the sweep's own.
"""

from collections.abc import Collection, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager

from django.conf import settings
from django.db import transaction

from tokens import isolation, line
from tokens.line import Kind, Place
from tokens.models import Cause, Heartbeat, OAuthCredential, Outcome, RefreshAttempt
from tokens.refresh import gate
from tokens.refresh.gate import Door

Due = tuple[int, int, int]  # tenant, credential, generation

# One place in so many is taken by no refresh that a request has begun.
_OWN_SHARE = 4
# How far one look goes into the line, and how many other tenants it asks for their first.
_PAGE, _OTHERS = 500, 200
# The row whose lock makes two schedulers take one after the other.
_TURN = "take"


@isolation.nobody()
def take(*, now: float, most: int) -> list[Due]:
    """At most ``most`` of what is due, as far as there is room; each tenant in its turn.

    Oldest first within a tenant; between tenants whoever has fewest under way.
    """
    if not line.is_anything_due(now=now):
        return []
    with _one_after_the_other(now):
        busy = line.under_way(now=now)
        door = gate.look(now=now)
        room = min(most, _room_for_the_sweep(busy, door, now=now))
        if room <= 0:
            return []
        queue = _queue(now, room=room, probing=door.found_down)
        return _mark(_in_turns(queue, busy=busy, room=room), now=now)


@isolation.nobody()
def take_asked_for(wanted: Iterable[Due], *, now: float) -> list[Due]:
    """Those of ``wanted`` that are due and find room, by the same bounds; as `take` does it.

    What hand-outs publish has waited for no turn. What finds no room is left to the sweep.
    """
    asked = set(wanted)
    if not asked:
        return []
    with _one_after_the_other(now):
        busy = line.under_way(now=now)
        allowed = gate.look(now=now).allowance(at_once=settings.OAUTHVAULT_REFRESHES_AT_ONCE)
        room = allowed - sum(busy.values())
        if room <= 0:
            return []
        with _for_those_named_in(asked):
            queue = [
                (tenant_id, credential_id)
                for tenant_id, credential_id, generation in line.waiting(now=now)
                .filter(pk__in=[credential_id for _, credential_id, _ in asked])
                .values_list("tenant_id", "pk", "generation")
                if (tenant_id, credential_id, generation) in asked
            ]
        return _mark(_in_turns(queue, busy=busy, room=room), now=now)


@isolation.nobody()
def put_back(taken: Collection[Due]) -> None:
    """These were taken and are not going to be refreshed now: let others take them.

    Whatever was claimed meanwhile keeps its mark.
    """
    if not taken:
        return
    with _for_those_named_in(taken):
        OAuthCredential.objects.filter(
            line.is_free(), pk__in=[credential_id for _, credential_id, _ in taken]
        ).update(taken_until=None)


def postpone(tried: Due, *, now: float) -> None:
    """This one was taken and could not be refreshed, for a reason of its own: it gives up its
    place in the room and in the line for a minute. Claimed or moved on meanwhile: untouched.
    """
    tenant_id, credential_id, _ = tried
    with isolation.of(tenant_id):
        OAuthCredential.objects.filter(
            line.is_free(), tenant_id=tenant_id, pk=credential_id, refresh_due_at__lte=int(now)
        ).update(taken_until=None, refresh_due_at=int(now) + line.TAKEN_FOR)


def _for_those_named_in(ids: Iterable[Due | Place]) -> AbstractContextManager[None]:
    """At work for the tenants whose ids are in it, and for no others."""
    return isolation.of(*{each[0] for each in ids})


@contextmanager
def _one_after_the_other(now: float) -> Iterator[None]:
    """A transaction of which there is one at a time: whoever takes has counted before."""
    Heartbeat.objects.get_or_create(part=_TURN, defaults={"at": now})
    with transaction.atomic():
        Heartbeat.objects.select_for_update().get(part=_TURN)
        yield


def _mark(chosen: list[Place], *, now: float) -> list[Due]:
    """Take these, in their order; without those that somebody has got hold of meanwhile."""
    if not chosen:
        return []
    order = {credential_id: place for place, (_, credential_id) in enumerate(chosen)}
    with _for_those_named_in(chosen):
        taken = list(
            line.waiting(now=now)
            .filter(pk__in=list(order))
            .select_for_update(skip_locked=True, of=("self",))
            .values_list("tenant_id", "pk", "generation")
        )
        OAuthCredential.objects.filter(pk__in=[pk for _, pk, _ in taken]).update(
            taken_until=now + line.TAKEN_FOR
        )
    return sorted(taken, key=lambda due: order[due[1]])


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
    return max(room, own - max(0, under_way - _begun_by_requests(busy, now=now)))


def _begun_by_requests(busy: dict[int, int], *, now: float) -> int:
    """Of those under way. A claim marks its credential, so that its tenant is one of ``busy``
    for as long as its lease runs."""
    if not busy:
        return 0
    with isolation.of(*busy):
        return (
            RefreshAttempt.objects.filter(
                outcome=Outcome.IN_FLIGHT, started_at__gt=now - settings.REFRESH_LEASE
            )
            .exclude(cause=Cause.SWEEP)
            .count()
        )


def _queue(now: float, *, room: int, probing: bool) -> list[Place]:
    """The oldest of all; where that is one long line of a few tenants, as many of each of the
    others as can have their turn too.

    ``probing``: one is wanted that can well be the circuit's probe, if there is any.
    """
    if probing:
        # Those that have been refreshed here, and have not failed themselves, before others.
        for kind in (Kind.SOUND, Kind.PROVEN, Kind.UNTRIED):
            if first := line.oldest(now=now, most=1, kind=kind):
                return first
    queue = line.oldest(now=now, most=_PAGE)
    if len(queue) < _PAGE:
        return queue
    seen = {tenant_id for tenant_id, _ in queue}
    others = line.tenants(now=now, beside=seen, most=_OTHERS)
    of_each = -(-room // (len(seen) + len(others)))
    for tenant_id in others:
        with isolation.of(tenant_id):
            queue += line.waiting(now=now).values_list("tenant_id", "pk")[:of_each]
        if len(queue) >= _PAGE + room:
            break
    return queue


def _in_turns(queue: list[Place], *, busy: dict[int, int], room: int) -> list[Place]:
    """The first ``room`` of the queue when tenants take turns, none above its bound."""
    under_way = dict(busy)
    turns = []
    for place, (tenant_id, credential_id) in enumerate(queue):
        turn = under_way.get(tenant_id, 0)
        under_way[tenant_id] = turn + 1
        if turn < settings.OAUTHVAULT_REFRESHES_AT_ONCE_PER_TENANT:
            turns.append((turn, place, tenant_id, credential_id))
    turns.sort()
    return [(tenant_id, credential_id) for _, _, tenant_id, credential_id in turns[:room]]
