"""The home page: can everybody work, who cannot and why, and is the vault itself at work."""

from typing import Any

from django.conf import settings
from django.db.models import F
from django.http import HttpRequest
from django.urls import reverse
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from tokens import clock, condition, endings, statistics
from tokens.admin import activity, charts, facts, first_steps, problems
from tokens.admin.charts import Part
from tokens.admin.problems import Problem
from tokens.admin.times import distance, exact, moment
from tokens.condition import Condition, TrailCondition
from tokens.models import OAuthCredential, Standing, Status
from tokens.statistics import Overview

_SHOWN, _ENDING_SHOWN = 10, 5
_NEXT = 5


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
    context["problems"] = found
    context["tone"] = _tone(context)
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
        "revoked": overview.by_status[Status.REVOKED],
        "revoked_link": f"{_list()}?status={Status.REVOKED.value}",
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
        "refreshes": activity.refreshes(activity.period(request), now),
        "hand_outs": activity.hand_outs(now),
        **_of_the_vault(state),
    }
    return list(problems.of_the_vault(request, state, overview, now=now))


def _tone(context: dict[str, Any]) -> str:
    """The colour of the whole; what is not known to be well is not called good."""
    tones = {problem.tone for problem in context["problems"]}
    if context.get("stopped_count") or "bad" in tones:
        return "bad"
    if tones:
        return "uneasy"
    if not context.get("total"):
        return "plain"
    return "good" if context["usable"] else "uneasy"


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
