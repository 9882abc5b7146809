"""What somebody should hear of: a service key in use for unusually many users.

A key that got out is good for every user of its tenant, and whoever has it will want them
all. So the number of different users whose token one key is handed in an hour is kept
(`KeySpan`), and compared with the most that it was in the week before. Counted behind the
requests, from the record of hand-outs. Times are Unix seconds.
"""

import logging
from collections.abc import Mapping

from django.db import transaction
from django.db.models import Count, Max, QuerySet

from tokens import audit, isolation
from tokens.models import HandOut, Heartbeat, KeySpan, Tenant

logger = logging.getLogger(__name__)

# Seconds between two looks, by whichever process; and for how long a notice is shown.
EVERY, SHOWN_FOR = 300, 86_400
# A notice needs so many users in an hour, so many times what was usual, and so many hours
# before in which the key was in use: what is new has no usual.
LEAST_USERS, TIMES_USUAL, LEAST_HOURS = 20, 3, 3
_HOUR, _WEEK = 3600, 7 * 24
_PART = "key spans"
_SERVICE_KEYS = "key ovs_"
# Keys looked at in one hour, and rows of old hours deleted by one look.
_MOST_KEYS, _MOST_OLD = 1000, 5000

Key = tuple[int, str]  # tenant, actor


@isolation.every_tenant()
def look_at_spans(*, now: float) -> int:
    """Count the users of each service key in this hour and the one before, and say of each
    that is unusual so: once an hour. The number said. At most every five minutes."""
    if not Heartbeat.take_turn(_PART, every=EVERY, now=now):
        return 0
    this_hour = int(now) // _HOUR
    # What was handed out in the last seconds of an hour is written after its end.
    said = sum(_look_at(hour, now=now) for hour in (this_hour - 1, this_hour))
    old = KeySpan.objects.filter(hour__lt=this_hour - _WEEK - 1).order_by("hour")
    KeySpan.objects.filter(pk__in=list(old.values_list("pk", flat=True)[:_MOST_OLD])).delete()
    return said


def noticed(*, now: float) -> QuerySet[KeySpan]:
    """The notices that are still shown, newest first."""
    return KeySpan.objects.filter(noticed_at__gt=int(now) - SHOWN_FOR).order_by("-noticed_at")


def users_by_key(hour: int) -> QuerySet[HandOut, tuple[int, str, int]]:
    """(tenant, actor, different users) of one Unix hour, for service keys, most users first.
    Served by the index `hand_out_by_minute`."""
    return (
        HandOut.objects.filter(
            minute__gte=hour * 60, minute__lt=(hour + 1) * 60, actor__startswith=_SERVICE_KEYS
        )
        .order_by()
        .values("tenant_id", "actor")
        .annotate(users=Count("credential_id", distinct=True))
        .order_by("-users")
        .values_list("tenant_id", "actor", "users")
    )


def _look_at(hour: int, *, now: float) -> int:
    counted = {
        (tenant_id, actor): users for tenant_id, actor, users in users_by_key(hour)[:_MOST_KEYS]
    }
    for (tenant_id, actor), users in counted.items():
        KeySpan.objects.update_or_create(
            tenant_id=tenant_id, actor=actor, hour=hour, defaults={"users": users}
        )
    wide = {key: users for key, users in counted.items() if users >= LEAST_USERS}
    if not wide:
        return 0
    usual = _usual(wide, before=hour)
    return sum(
        _say(key, hour=hour, users=users, usual=usual[key], now=now)
        for key, users in wide.items()
        if key in usual and users >= TIMES_USUAL * usual[key]
    )


def _usual(keys: Mapping[Key, int], *, before: int) -> dict[Key, int]:
    """The most users that each of the keys had in one hour of the week before, where there
    are hours enough to say so."""
    rows = (
        KeySpan.objects.filter(
            tenant_id__in={tenant_id for tenant_id, _ in keys},
            actor__in={actor for _, actor in keys},
            hour__lt=before,
            hour__gte=before - _WEEK,
        )
        .order_by()
        .values("tenant_id", "actor")
        .annotate(most=Max("users"), hours=Count("pk"))
        .filter(hours__gte=LEAST_HOURS)
    )
    return {(row["tenant_id"], row["actor"]): row["most"] for row in rows}


def _say(key: Key, *, hour: int, users: int, usual: int, now: float) -> bool:
    """Say it, unless it was said of this hour."""
    tenant_id, actor = key
    with transaction.atomic():
        said = KeySpan.objects.filter(
            tenant_id=tenant_id, actor=actor, hour=hour, noticed_at=None
        ).update(noticed_at=int(now), usual=usual)
        if not said:
            return False
        tenant = Tenant.objects.get(pk=tenant_id)
        audit.record(
            tenant=tenant, actor="scheduler", action="unusual_span", outcome="noticed", now=now,
            key=actor.removeprefix("key "), users=users, usual=usual,
        )  # fmt: skip
    # Not before it is committed: what is rolled back is said by the next look.
    logger.warning(
        "%s of tenant %s was handed the tokens of %d users within an hour, and of %d at most in "
        "any hour of the week before; if nobody knows why: oauthvault rotate_key, or revoke_key",
        actor, tenant.slug, users, usual,
    )  # fmt: skip
    return True
