"""The home page: can everybody work, who cannot and why, and is the vault itself at work."""

from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.db import connection
from django.db.models import Count, F
from django.http import HttpRequest
from django.urls import reverse
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from oauthvault.env import ConfigurationError
from tokens import clock, epoch, statistics
from tokens.admin import facts
from tokens.admin.times import distance, exact, moment, span
from tokens.keyring import load_keyring
from tokens.listing import status_in_sql
from tokens.models import AuditChain, Heartbeat, OAuthCredential, Standing
from tokens.refresh import gate, spool
from tokens.roles import ALL_TENANTS
from tokens.rotation.keks import to_rewrap
from tokens.trail import triggers

_SHOWN = 10
_NEXT = 8
# A beat that was missed may be chance; after three the scheduler is called away.
_BEATS_MISSED = 3


@dataclass(frozen=True, kw_only=True)
class Scheduler:
    """When it was last seen; ``away``: longer ago than it may be."""

    last_beat: SafeString
    age: str
    away: bool


def context(request: HttpRequest, context: dict[str, Any]) -> dict[str, Any]:
    """What templates/admin/index.html shows. Nothing of credentials without the right to
    see them."""
    may_see = request.user.has_perm("tokens.view_oauthcredential")
    context["may_see"] = may_see
    context["title"] = _("Home")
    if request.user.has_perm("tokens.view_auditevent"):
        context["broken_chains"] = AuditChain.objects.exclude(broken="").count()
        context["unguarded"] = bool(triggers.missing(connection))
        context["trail_link"] = reverse("admin:tokens_auditevent_changelist")
    if not may_see:
        return context
    now = clock.now()
    scheduler = _scheduler(now)
    stopped = OAuthCredential.objects.filter(facts.cannot_work(now=now))
    how_many = stopped.count()
    by_status = _by_status(now)
    total = sum(entry["count"] for entry in by_status)
    usable = statistics.statistics_in_scope(now=now)
    door = gate.look(now=now)
    state = epoch.deployment()
    context |= {
        "as_of": exact(now),
        "total": total,
        "headline": _headline(how_many, total, usable.active_tokens),
        "tone": _tone(how_many, usable.active_tokens, uneasy=scheduler.away or door.found_down),
        "stopped": [_stopped(each, now) for each in _first(stopped, now)],
        "stopped_count": how_many,
        "stopped_link": f"{_list()}?status=cannot_work",
        "ending": [_stopping(each, now) for each in _ending(now)],
        "by_status": by_status,
        "next": [_expiry(each, now) for each in _next_expiries(now)],
        "statistics": usable,
        "scheduler": scheduler,
        "auto_refresh": settings.CLAUDE_OAUTH_AUTO_REFRESH,
        "closed_until": moment(door.closed_until, now=now) if door.closed_until else None,
        "found_down": door.found_down,
        "spooled": spool.depth(state.vault_id),
        "under_older_kek": _under_older_kek() if request.user.has_perm(ALL_TENANTS) else 0,
        "quarantined": moment(state.quarantined_at, now=now) if state.quarantined_at else None,
        "quarantine_reason": state.quarantine_reason,
        "list_link": _list(),
    }
    return context


def _tone(stopped: int, usable: int, *, uneasy: bool) -> str:
    if stopped:
        return "bad"
    return "uneasy" if uneasy or not usable else "good"


def _headline(stopped: int, total: int, usable: int) -> str:
    if stopped:
        return ngettext("%(n)d person cannot work.", "%(n)d people cannot work.", stopped) % {
            "n": stopped
        }
    if not total:
        return _("Nobody has a credential here yet.")
    return _("Everybody can work.") if usable else _("Nobody can work: all are revoked.")


def _first(stopped: Any, now: float) -> list[OAuthCredential]:
    """Whom a person must help first; among those, whoever worked last."""
    return _attached(
        stopped.order_by(facts.urgency(), F("last_used").desc(nulls_last=True), "pk")[:_SHOWN],
        now,
    )


def _ending(now: float) -> list[OAuthCredential]:
    """Who works now and will not for long, whoever stops first before the others."""
    return _attached(
        OAuthCredential.objects.filter(facts.will_stop(now=now)).order_by(facts.stops_at(), "pk")[
            :_SHOWN
        ],
        now,
    )


def _next_expiries(now: float) -> list[OAuthCredential]:
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


def _by_status(now: float) -> list[dict[str, Any]]:
    counts = dict(
        OAuthCredential.objects.order_by()
        .annotate(told=status_in_sql(now=now))
        .values_list("told")
        .annotate(count=Count("pk"))
    )
    return [
        {
            "badge": facts.badge(label, tone),
            "count": counts.get(status.value, 0),
            "link": f"{_list()}?status={status.value}",
        }
        for status, (label, tone) in facts.STATUS.items()
        if status.value in counts
    ]


def _scheduler(now: float) -> Scheduler:
    beat = Heartbeat.objects.filter(part="scheduler").first()
    if beat is None:
        return Scheduler(last_beat=moment(None, now=now, never=_("never")), age="", away=True)
    age = max(0.0, now - beat.at)
    return Scheduler(
        last_beat=moment(beat.at, now=now),
        age=span(age),
        away=age > _BEATS_MISSED * settings.SWEEP_INTERVAL,
    )


def _under_older_kek() -> int:
    """How many keys the primary encryption key does not open yet. Without a key at hand this
    page is not the one to say so: nothing works then, and health says why."""
    try:
        return to_rewrap(load_keyring())
    except ConfigurationError:
        return 0


def _list() -> str:
    return reverse("admin:tokens_oauthcredential_changelist")
