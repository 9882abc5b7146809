"""How things went of late, hour by hour and minute by minute, read from the records.

Of the tenants for whom the code is at work. Times are Unix seconds. What a clock that was
ahead for a while has written into the future counts as of now.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from django.db.models import Count, F, Sum
from django.db.models.functions import Floor

from tokens.models import HandOut, Outcome, RefreshAttempt
from tokens.statistics import FAILURES

HOUR, MINUTE = 3600, 60


@dataclass(frozen=True, kw_only=True)
class Hour:
    """Refreshes that were begun in the hour from ``begins`` on and have ended, by what they
    came to. Those that brought a pair nobody wanted any more are neither of the two."""

    begins: int
    succeeded: int = 0
    failed: Mapping[Outcome, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Minute:
    begins: int
    count: int


def refreshes_by_hour(*, hours: int, now: float) -> list[Hour]:
    """Every hour by the clock, oldest first, of the last ``hours``: the first and the last one
    as far as they belong to these. Their sums are those of `Statistics` for the same time.
    Served by the index `attempt_by_time`."""
    this = int(now) // HOUR
    first = int(now - hours * HOUR) // HOUR
    counted: dict[int, dict[Outcome, int]] = defaultdict(lambda: defaultdict(int))
    rows = (
        RefreshAttempt.objects.filter(
            started_at__gt=now - hours * HOUR, outcome__in=[Outcome.REFRESHED, *FAILURES]
        )
        .order_by()
        .values_list(Floor(F("started_at") / HOUR), "outcome")
        .annotate(number=Count("*"))
    )
    for hour, outcome, number in rows:
        counted[min(int(hour), this)][Outcome(outcome)] += number
    return [
        Hour(
            begins=hour * HOUR,
            succeeded=counted[hour].get(Outcome.REFRESHED, 0),
            failed={each: counted[hour][each] for each in FAILURES if each in counted[hour]},
        )
        for hour in range(first, this + 1)
    ]


def hand_outs_by_minute(*, minutes: int, now: float) -> list[Minute]:
    """Every minute by the clock, oldest first, this one included. What was handed out in the
    last seconds is written behind the requests, and missing still.
    Served by the indexes `hand_out_by_minute` and, for few tenants, `hand_out_minute`."""
    this = int(now) // MINUTE
    counted: dict[int, int] = defaultdict(int)
    for minute, count in (
        HandOut.objects.filter(minute__gt=this - minutes)
        .order_by()
        .values_list("minute")
        .annotate(count=Sum("count"))
    ):
        counted[min(minute, this)] += count
    return [
        Minute(begins=minute * MINUTE, count=counted[minute])
        for minute in range(this - minutes + 1, this + 1)
    ]
