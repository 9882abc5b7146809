"""How refreshes and hand-outs went of late, for the home page: drawn, in words, in a table."""

from collections.abc import Sequence
from dataclasses import dataclass

from django.http import HttpRequest
from django.utils.translation import gettext as _

from tokens import courses, handouts, statistics
from tokens.admin import charts
from tokens.admin.charts import Chart, Column, Part
from tokens.admin.outcomes import TONES, WORDS
from tokens.admin.times import day, time_of_day
from tokens.courses import HOUR, MINUTE, Hour, Minute

# What ?refreshes= may say, and how many hours that is; the first is what is shown unasked.
_PERIODS = {"24h": 24, "7d": 7 * 24}
# Hand-outs are shown for so many minutes.
_MINUTES = 60
# So many codes of refused hand-outs are named.
_REFUSALS = 4


@dataclass(frozen=True, kw_only=True)
class Failures:
    """One class of failed refreshes, and how many there were."""

    tone: str
    words: str
    number: int


@dataclass(frozen=True, kw_only=True)
class Refreshes:
    """The refreshes of the period, drawn and in words. ``rows``: the hours in which there was
    one, newest first: when, succeeded, failed, and what the failures were."""

    period: str
    links: Sequence[tuple[str, str, bool]]
    succeeded: int
    failed: int
    successes: Chart
    failures: Chart
    classes: Sequence[Failures]
    rows: Sequence[tuple[str, int, int, str]]


@dataclass(frozen=True, kw_only=True)
class HandOuts:
    """``total``: in the last hour. ``ever`` and ``refused``: since the vault was made, the latter
    by code in ``refusals``, the most frequent first."""

    total: int
    ever: int
    refused: int
    refusals: Sequence[tuple[str, int]]
    chart: Chart
    rows: Sequence[tuple[str, int]]


def period(request: HttpRequest) -> str:
    asked = request.GET.get("refreshes", "")
    return asked if asked in _PERIODS else next(iter(_PERIODS))


def refreshes(period: str, now: float) -> Refreshes:
    hours = courses.refreshes_by_hour(hours=_PERIODS[period], now=now)
    succeeded = sum(hour.succeeded for hour in hours)
    by_class = {outcome: sum(hour.failed.get(outcome, 0) for hour in hours) for outcome in WORDS}
    failed = sum(by_class.values())
    spoken = {
        "24h": _("in the last 24 hours"),
        "7d": _("in the last 7 days"),
    }[period]
    told = {"spoken": spoken, "n": succeeded, "failed": failed}
    return Refreshes(
        period=period,
        links=[
            (_("24 hours"), "?refreshes=24h#refreshes", period == "24h"),
            (_("7 days"), "?refreshes=7d#refreshes", period == "7d"),
        ],
        succeeded=succeeded,
        failed=failed,
        successes=charts.chart(
            [
                Column(
                    title=f"{_hour(hour, now)}: {hour.succeeded}",
                    parts=[Part(tone="good", number=hour.succeeded)],
                )
                for hour in hours
            ],
            words=_("Refreshes that succeeded %(spoken)s, by the hour: %(n)d together.") % told,
        ),
        failures=charts.chart(
            [
                Column(
                    title=f"{_hour(hour, now)}: {_classes(hour) or 0}",
                    parts=[
                        Part(tone=TONES[outcome], number=hour.failed.get(outcome, 0))
                        for outcome in WORDS
                    ],
                    tick=_tick(hour, period),
                )
                for hour in hours
            ],
            words=_("Refreshes that failed %(spoken)s, by the hour: %(failed)d together.") % told,
        ),
        classes=[
            Failures(tone=TONES[outcome], words=str(WORDS[outcome]), number=number)
            for outcome, number in by_class.items()
            if number
        ],
        rows=[
            (_hour(hour, now), hour.succeeded, sum(hour.failed.values()), _classes(hour))
            for hour in reversed(hours)
            if hour.succeeded or hour.failed
        ],
    )


def hand_outs(now: float) -> HandOuts:
    minutes = courses.hand_outs_by_minute(minutes=_MINUTES, now=now)
    total = sum(minute.count for minute in minutes)
    results = statistics.results_in_scope()
    ever = results.pop(handouts.HANDED_OUT, 0)
    return HandOuts(
        total=total,
        ever=ever,
        refused=sum(results.values()),
        refusals=sorted(results.items(), key=lambda each: (-each[1], each[0]))[:_REFUSALS],
        chart=charts.chart(
            [
                Column(
                    title=f"{time_of_day(minute.begins)}: {minute.count}",
                    parts=[Part(tone="plain", number=minute.count)],
                    tick=_quarter(minute),
                )
                for minute in minutes
            ],
            words=_("Hand-outs of tokens in the last hour, by the minute: %(n)d together.")
            % {"n": total},
        ),
        rows=[
            (time_of_day(minute.begins), minute.count)
            for minute in reversed(minutes)
            if minute.count
        ],
    )


def _hour(hour: Hour, now: float) -> str:
    """``11-22 13:00–14:00``, and for the one that goes on still, ``11-22 14:00–now``"""
    ends = hour.begins + HOUR
    end = time_of_day(ends) if ends <= now else _("now")
    return f"{day(hour.begins)} {time_of_day(hour.begins)}–{end}"


def _classes(hour: Hour) -> str:
    return ", ".join(
        f"{number} {WORDS[outcome]}" for outcome, number in hour.failed.items() if number
    )


def _tick(hour: Hour, period: str) -> str:
    of_day = time_of_day(hour.begins)
    if period == "7d":
        return day(hour.begins) if of_day == "00:00" else ""
    return of_day if of_day in ("00:00", "06:00", "12:00", "18:00") else ""


def _quarter(minute: Minute) -> str:
    return time_of_day(minute.begins) if not minute.begins // MINUTE % 15 else ""
