"""The home page: can everybody work, who cannot and why, and is the vault itself at work."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.db.models import F
from django.http import HttpRequest
from django.urls import reverse
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from tokens import clock, condition, courses, endings, handouts, statistics
from tokens.admin import charts, facts, first_steps, problems
from tokens.admin.charts import Chart, Column, Part
from tokens.admin.outcomes import TONES, WORDS
from tokens.admin.problems import Problem
from tokens.admin.times import day, distance, exact, moment, time_of_day
from tokens.condition import Condition, TrailCondition
from tokens.courses import HOUR, MINUTE, Hour, Minute
from tokens.models import OAuthCredential, Standing
from tokens.statistics import Overview

_SHOWN, _ENDING_SHOWN = 10, 5
_NEXT = 5
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


def context(request: HttpRequest, context: dict[str, Any]) -> dict[str, Any]:
    """What templates/admin/index.html shows. Nothing of credentials without the right to
    see them."""
    now = clock.now()
    may_see = request.user.has_perm("tokens.view_oauthcredential")
    context |= {
        "title": _("Home"),
        "may_see": may_see,
        "first_steps": first_steps.left(request),
        "as_of": exact(now),
        "again": request.get_full_path(),
    }
    found: list[Problem] = []
    if may_see:
        found += _credentials(request, context, now)
    if request.user.has_perm("tokens.view_auditevent"):
        trail = condition.look_at_trail(now=now)
        context |= _of_the_trail(trail, now)
        found += problems.of_the_trail(trail, now=now)
    found.sort(key=lambda problem: problem.tone != "bad")
    context |= {
        "problems": found,
        "tone": _tone(context.get("stopped_count", 0), context.get("usable", 0), found),
    }
    return context


def _credentials(request: HttpRequest, context: dict[str, Any], now: float) -> list[Problem]:
    """Fill in what only those may know who may see credentials; what is wrong with the vault."""
    cannot_work = facts.cannot_work(now=now)
    overview = statistics.overview_in_scope(
        now=now, chosen={"stopped": cannot_work, "failing": facts.failing(now=now)}
    )
    state = condition.look(now=now)
    stopped, usable = overview.chosen["stopped"], overview.statistics.active_tokens
    context |= {
        "total": overview.total,
        "usable": usable,
        "headline": _headline(stopped, overview.total, usable),
        "stopped_count": stopped,
        "stopped_link": f"{_list()}?status=cannot_work",
        "stopped": [_stopped(each, now) for each in _first(cannot_work, now)] if stopped else [],
        "login_ends": _login_ends(overview),
        "ending": [_stopping(each, now) for each in _ending(now)],
        "by_status": _by_status(overview),
        "shares": charts.share(
            [
                Part(tone=tone, number=overview.by_status[status])
                for status, (_label, tone) in facts.STATUS.items()
            ]
        ),
        "next": [_expiry(each, now) for each in _next_expiries(now)],
        "statistics": overview.statistics,
        "overdue": overview.overdue,
        "refreshes": _refreshes(_period(request), now),
        "hand_outs": _hand_outs(now),
        **_of_the_vault(state),
    }
    return list(problems.of_the_vault(request, state, overview, now=now))


def _tone(stopped: int, usable: int, found: Sequence[Problem]) -> str:
    if stopped or any(problem.tone == "bad" for problem in found):
        return "bad"
    return "uneasy" if found or not usable else "good"


def _headline(stopped: int, total: int, usable: int) -> str:
    if stopped:
        return ngettext("%(n)d person cannot work.", "%(n)d people cannot work.", stopped) % {
            "n": stopped
        }
    if not total:
        return _("Nobody has a credential here yet.")
    return _("Everybody can work.") if usable else _("Nobody can work: all are revoked.")


# --- Who, and until when --------------------------------------------------------------------


def _first(cannot_work: Any, now: float) -> list[OAuthCredential]:
    """Whom a person must help first; among those, whoever worked last."""
    return _attached(
        OAuthCredential.objects.filter(cannot_work).order_by(
            facts.urgency(), F("last_used").desc(nulls_last=True), "pk"
        )[:_SHOWN],
        now,
    )


def _ending(now: float) -> list[OAuthCredential]:
    """Who works now and will not for long, whoever stops first before the others."""
    return _attached(
        OAuthCredential.objects.filter(facts.will_stop(now=now)).order_by(facts.stops_at(), "pk")[
            :_ENDING_SHOWN
        ],
        now,
    )


def _next_expiries(now: float) -> list[OAuthCredential]:
    """Served by the index `credential_next_expiry`, and for one tenant `credential_expiry`."""
    return _attached(
        OAuthCredential.objects.filter(
            standing=Standing.ACTIVE, suspended_at=None, expires_at__gt=int(now)
        ).order_by("expires_at")[:_NEXT],
        now,
    )


def _attached(queryset: Any, now: float) -> list[OAuthCredential]:
    return [facts.attach(each, now=now) for each in facts.without_tokens(queryset)]


def _stopped(credential: OAuthCredential, now: float) -> dict[str, Any]:
    told = facts.of(credential)
    why = told.problem or _("Its next request is refused.")
    due = credential.refresh_due_at
    if due is not None and credential.can_refresh() and due > now:
        why = f"{why} {_('Next try %(distance)s.') % {'distance': distance(due, now=now)}}"
    return _person(credential, why) | {
        "badge": told.badge,
        "since": moment(told.since, now=now),
    }


def _stopping(credential: OAuthCredential, now: float) -> dict[str, Any]:
    told = facts.of(credential)
    why = told.warning or told.problem or ""
    if credential.can_refresh() and not credential.refreshes_ahead:
        why = _("Automatic refresh is off: refresh it by hand before then.")
    return _person(credential, why) | {"until": moment(facts.until(credential), now=now)}


def _person(credential: OAuthCredential, why: str) -> dict[str, Any]:
    return {
        "user": credential.user_id,
        "tenant": credential.tenant.slug,
        "why": facts.with_commands(why),
        "link": reverse("admin:tokens_oauthcredential_change", args=[credential.pk]),
    }


def _expiry(credential: OAuthCredential, now: float) -> dict[str, Any]:
    renewed = (
        credential.refresh_due_at is not None
        and credential.refreshes_ahead
        and credential.can_refresh()
    )
    return {
        "user": credential.user_id,
        "tenant": credential.tenant.slug,
        "ends": moment(credential.expires_at, now=now),
        "renewed": moment(credential.refresh_due_at, now=now) if renewed else None,
        "link": reverse("admin:tokens_oauthcredential_change", args=[credential.pk]),
    }


# --- How many -------------------------------------------------------------------------------


def _login_ends(overview: Overview) -> list[dict[str, Any]]:
    return [
        {
            "days": days,
            "words": ngettext("within %(n)d day", "within %(n)d days", days) % {"n": days},
            "count": overview.logins_ending[days],
            "link": f"{_list()}?login_ends={days}",
        }
        for days in sorted(endings.WARNING_DAYS)
    ]


def _by_status(overview: Overview) -> list[dict[str, Any]]:
    return [
        {
            "badge": facts.badge(label, tone),
            "count": overview.by_status[status],
            "link": f"{_list()}?status={status.value}",
        }
        for status, (label, tone) in facts.STATUS.items()
        if overview.by_status[status]
    ]


# --- How it went ----------------------------------------------------------------------------


def _period(request: HttpRequest) -> str:
    asked = request.GET.get("refreshes", "")
    return asked if asked in _PERIODS else next(iter(_PERIODS))


def _refreshes(period: str, now: float) -> Refreshes:
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


def _hand_outs(now: float) -> HandOuts:
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


def _quarter(minute: Minute) -> str:
    return time_of_day(minute.begins) if not minute.begins // MINUTE % 15 else ""


# --- The vault itself -----------------------------------------------------------------------


def _of_the_vault(state: Condition) -> dict[str, Any]:
    now, door, workers = state.now, state.door, state.workers
    return {
        "scheduler_away": state.scheduler_is_away,
        "last_sweep": moment(state.last_sweep, now=now, never=_("never")),
        "workers": workers.alive,
        "worker_seen": moment(workers.last_seen, now=now, never=_("not within an hour")),
        "auto_refresh": settings.CLAUDE_OAUTH_AUTO_REFRESH,
        "found_down": door.found_down,
        "closed_until": moment(door.closed_until, now=now) if door.closed_until else None,
        "spooled": state.spooled.count,
        "spooled_since": _since(state.spooled.since, now),
    }


def _of_the_trail(trail: TrailCondition, now: float) -> dict[str, Any]:
    return {
        "trail": trail,
        "trail_verified": moment(trail.verified_at, now=now, never=_("never")),
        "trail_link": reverse("admin:tokens_auditevent_changelist"),
    }


def _since(at: float | None, now: float) -> SafeString | None:
    return None if at is None else moment(at, now=now)


def _list() -> str:
    return reverse("admin:tokens_oauthcredential_changelist")
