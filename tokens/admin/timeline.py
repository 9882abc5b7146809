"""One credential's life, newest first: refreshes, acts, and hand-outs by the hour."""

import math
from dataclasses import dataclass

from django.db.models import F, Sum
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from tokens.admin.base import in_words
from tokens.admin.times import exact, moment
from tokens.models import AuditEvent, Cause, HandOut, OAuthCredential, Outcome, RefreshAttempt
from tokens.trail.chains import read

_MOST = 50
_HOURS = 48


@dataclass(frozen=True, kw_only=True)
class Entry:
    """``kind``: refresh, act or hand_out, for the eye. ``tone`` as of a badge."""

    at: float
    when: SafeString
    kind: str
    icon: str
    tone: str
    title: str
    detail: str


@dataclass(frozen=True, kw_only=True)
class Minutes:
    """Hand-outs of the last hour by the minute, as bars of a small drawing."""

    total: int
    sentence: str
    bars: list[tuple[int, int]]  # x, height, of 60 by 24


def timeline_of(credential: OAuthCredential, *, now: float) -> list[Entry]:
    entries = [
        *_refreshes(credential, now),
        *_acts(credential, now),
        *_hand_outs(credential, now),
    ]
    return sorted(entries, key=lambda entry: entry.at, reverse=True)[:_MOST]


def busy_minutes(credential: OAuthCredential, *, now: float) -> Minutes:
    this_minute = int(now) // 60
    counts = dict(
        HandOut.objects.filter(
            tenant_id=credential.tenant_id,
            credential_id=credential.pk,
            minute__gt=this_minute - 60,
        )
        .values_list("minute")
        .annotate(total=Sum("count"))
    )
    total, busiest = sum(counts.values()), max(counts.values(), default=0)
    if not total:
        return Minutes(total=0, sentence=_("No hand-out in the last hour"), bars=[])
    sentence = ngettext(
        "%(n)d hand-out in the last hour, at most %(most)d in a minute",
        "%(n)d hand-outs in the last hour, at most %(most)d in a minute",
        total,
    ) % {"n": total, "most": busiest}
    return Minutes(
        total=total,
        sentence=sentence,
        bars=[
            (minute - this_minute + 59, max(1, round(24 * count / busiest)))
            for minute, count in sorted(counts.items())
            if 0 <= minute - this_minute + 59 < 60
        ],
    )


def _refreshes(credential: OAuthCredential, now: float) -> list[Entry]:
    attempts = RefreshAttempt.objects.filter(
        tenant_id=credential.tenant_id, credential_id=credential.pk
    ).order_by("-started_at")[:_MOST]
    return [_refresh(attempt, now) for attempt in attempts]


def _refresh(attempt: RefreshAttempt, now: float) -> Entry:
    outcome = Outcome(attempt.outcome)
    tone = {
        Outcome.REFRESHED: "good", Outcome.IN_FLIGHT: "plain", Outcome.SUPERSEDED: "plain",
        Outcome.INVALID_GRANT: "bad", Outcome.MISDIRECTED: "bad", Outcome.NOT_SAVED: "bad",
    }.get(outcome, "uneasy")  # fmt: skip
    said = [_("asked by %(actor)s") % {"actor": attempt.actor}] if attempt.actor else []
    if attempt.latency_ms is not None:
        said.append(_("%(n)d ms") % {"n": attempt.latency_ms})
    if attempt.tries > 1:
        said.append(_("%(n)d tries") % {"n": attempt.tries})
    if attempt.upstream_status is not None:
        said.append(_("answer %(status)d") % {"status": attempt.upstream_status})
    said.append(_("generation %(n)d presented") % {"n": attempt.generation})
    return Entry(
        at=attempt.started_at,
        when=moment(attempt.started_at, now=now),
        kind="refresh",
        icon="sync",
        tone=tone,
        title=_("Refresh (%(cause)s): %(outcome)s")
        % {"cause": Cause(attempt.cause).label, "outcome": outcome.label.lower()},
        detail=", ".join(said),
    )


def _acts(credential: OAuthCredential, now: float) -> list[Entry]:
    """The audit trail without its refreshes, which the attempts tell in more detail."""
    events = (
        AuditEvent.objects.filter(tenant_id=credential.tenant_id, subject=credential.user_id)
        .exclude(action="refresh")
        .order_by("-at", "-id")[:_MOST]
    )
    icons = {"import": "login", "revoke": "block", "suspend": "pause", "resume": "play_arrow",
             "rejected": "report", "create_key": "key", "revoke_key": "key_off",
             "login_ending": "hourglass_bottom", "refresh_settings": "tune",
             "reassign": "person_edit", "reseal": "enhanced_encryption"}  # fmt: skip
    tones = {"revoke": "bad", "rejected": "uneasy", "suspend": "uneasy", "import": "good",
             "login_ending": "uneasy", "reassign": "uneasy"}  # fmt: skip
    return [
        Entry(
            at=_place(event.at),
            when=moment(event.at, now=now),
            kind="act",
            icon=icons.get(event.action, "person"),
            tone=tones.get(event.action, "plain"),
            title=_title(event),
            detail=in_words(event.detail),
        )
        for event in read(events)
    ]


def _place(at: float) -> float:
    """What is no time (only a forged record says it) comes first, where it is seen."""
    return at if isinstance(at, float | int) and math.isfinite(at) else math.inf


def _title(event: AuditEvent) -> str:
    if event.action == "login_ending":
        return _("Announced that the login ends")
    return _("%(action)s by %(actor)s") % {
        "action": event.action.replace("_", " ").capitalize(),
        "actor": event.actor,
    }


def _hand_outs(credential: OAuthCredential, now: float) -> list[Entry]:
    rows = (
        HandOut.objects.filter(
            tenant_id=credential.tenant_id,
            credential_id=credential.pk,
            minute__gt=int(now) // 60 - _HOURS * 60,
        )
        .annotate(hour=F("minute") / 60)
        .values_list("hour", "actor")
        .annotate(total=Sum("count"))
        .order_by("-hour", "actor")[:_MOST]
    )
    entries = []
    for hour, actor, total in rows:
        begins = int(hour) * 3600
        entries.append(
            Entry(
                at=begins,
                when=moment(begins, now=now),
                kind="hand_out",
                icon="arrow_forward",
                tone="plain",
                title=ngettext(
                    "Handed out once to %(actor)s",
                    "Handed out %(n)d times to %(actor)s",
                    total,
                )
                % {"n": total, "actor": actor},
                detail=_("in the hour from %(exact)s") % {"exact": exact(begins)},
            )
        )
    return entries
