"""The line of what waits for its refresh, and what a look at all tenants' may tell of it.

A look across tenants brings ids and counts, and nothing else. On PostgreSQL that is the
database's own doing: the looks are functions there (`tokens.models.wall.looks_across`), and the
code that asks them may be at work for nobody. Where there is no wall to look across, the ORM asks.
"""

from collections.abc import Collection
from enum import StrEnum
from typing import Any

from django.conf import settings
from django.db import connection
from django.db.models import Count, Exists, OuterRef, Q, QuerySet

from tokens import isolation
from tokens.clock import DatabaseNow
from tokens.models import OAuthCredential, Tenant
from tokens.models.credential import leased, longest_lease

Place = tuple[int, int]  # tenant, credential

# Seconds for which a credential that was published is not published again.
TAKEN_FOR = 60
# Seconds that a mark may have left. What has more is of a clock that was set back; unlike a
# lease a mark protects nothing, and is believed no further than it could have been made for.
LONGEST_MARK = 2 * TAKEN_FOR


class Kind(StrEnum):
    """What of the line is wanted; each of these but the first is a part of the one before."""

    ANY = "any"
    # Never sent without an answer.
    UNTRIED = "untried"
    # And refreshed here before.
    PROVEN = "proven"
    # And no failure of its own since.
    SOUND = "sound"


_UNTRIED = Q(unanswered_presentations=0)
_PROVEN = _UNTRIED & Q(refresh_count__gt=0)
_OF_KIND = {
    Kind.ANY: Q(),
    Kind.UNTRIED: _UNTRIED,
    Kind.PROVEN: _PROVEN,
    Kind.SOUND: _PROVEN & Q(consecutive_failures=0),
}


# --- Rows of the tenants for whom the code is at work ---------------------------------------


def waiting(*, now: float, kind: Kind = Kind.ANY) -> QuerySet[OAuthCredential]:
    """What is due and nobody is at, oldest first. `line_due` in the database says the same."""
    return (
        OAuthCredential.objects.due(now=now)
        .filter(_OF_KIND[kind], ~is_taken(now=now), is_free(), suspended_at=None)
        # No join: the lock is for the credentials' rows alone.
        .filter(Exists(refreshing_tenants().filter(pk=OuterRef("tenant_id"))))
    )


def refreshing_tenants() -> QuerySet[Tenant]:
    return Tenant.objects.filter(
        Q(auto_refresh=None) | Q(auto_refresh=True), suspended_at=None
    ).order_by()


def is_free() -> Q:
    """Nobody is at it: without a lease, or with one that is over."""
    return ~leased(DatabaseNow())


def is_taken(*, now: float) -> Q:
    return Q(taken_until__gt=now, taken_until__lte=now + LONGEST_MARK)


# --- Across tenants -------------------------------------------------------------------------


def is_anything_due(*, now: float) -> bool:
    """By the one partial index, whatever the number of rows or tenants."""
    if _there_are_functions():
        return any(found for (found,) in _ask("anything_due", now))
    with isolation.every_tenant():
        return OAuthCredential.objects.due(now=now).order_by().exists()


def oldest(*, now: float, most: int, kind: Kind = Kind.ANY) -> list[Place]:
    """The first ``most`` of what waits, whosesoever they are."""
    if _there_are_functions():
        return _ask("line_due", now, *_marks_and_leases(), kind.value, most)
    with isolation.every_tenant():
        return list(waiting(now=now, kind=kind).values_list("tenant_id", "pk")[:most])


def tenants(*, now: float, beside: Collection[int], most: int) -> list[int]:
    """``most`` tenants of whom something waits, in no order, without those in ``beside``."""
    if _there_are_functions():
        found = _ask("tenants_due", now, *_marks_and_leases(), sorted(beside), most)
        return [tenant_id for (tenant_id,) in found]
    with isolation.every_tenant():
        return list(
            refreshing_tenants()
            .exclude(pk__in=beside)
            .filter(Exists(waiting(now=now).filter(tenant_id=OuterRef("pk"))))
            .values_list("pk", flat=True)[:most]
        )


def under_way(*, now: float) -> dict[int, int]:
    """Refreshes published or under way, by tenant."""
    if _there_are_functions():
        return dict(_ask("refreshes_under_way", now, LONGEST_MARK))
    with isolation.every_tenant():
        return dict(
            OAuthCredential.objects.filter(is_taken(now=now))
            .order_by()
            .values_list("tenant_id")
            .annotate(count=Count("pk"))
        )


def _there_are_functions() -> bool:
    return connection.vendor == "postgresql"


def _marks_and_leases() -> tuple[float, ...]:
    """What the database needs to judge them as `is_taken` and `is_free` do."""
    return LONGEST_MARK, longest_lease(), float(settings.CLOCK_OFFSET)


def _ask(function: str, *values: Any) -> list[Any]:
    places = ", ".join(["%s"] * len(values))
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT * FROM {function}({places})", values)  # noqa: S608  ours
        return list(cursor.fetchall())
