"""One credential's life, newest first: refreshes, acts, and hand-outs by the hour."""

import math
from collections import defaultdict
from collections.abc import Mapping
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
# Keys that are named beside an hour's hand-outs.
_KEYS_NAMED = 3
# Unix seconds behind all that are stored: the year 5138.
END_OF_TIME = 100_000_000_000.0
_HOUR = 3600


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


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """A page of it. ``older``: Unix seconds, before which the next page begins; None: it is the
    last one."""

    entries: list[Entry]
    older: float | None


def timeline_of(credential: OAuthCredential, *, before: float | None, now: float) -> Timeline:
    """What happened before then, the newest of it; None: all there is."""
    entries = sorted(
        [
            *_refreshes(credential, before, now),
            *_acts(credential, before, now),
            *_hand_outs(credential, before, now),
        ],
        key=lambda entry: entry.at,
        reverse=True,
    )
    if len(entries) <= _MOST:
        return Timeline(entries=entries, older=None)
    # Of what happened at the very same time nothing is left for a page that begins before it.
    end = entries[_MOST - 1].at
    shown = [entry for entry in entries if entry.at >= end]
    if len(shown) == len(entries) and math.isfinite(end):
        return Timeline(entries=shown, older=None)
    # What is no time stands before all that is one, and hides none of it.
    return Timeline(entries=shown, older=min(end, END_OF_TIME))


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


def _refreshes(credential: OAuthCredential, before: float | None, now: float) -> list[Entry]:
    attempts = RefreshAttempt.objects.filter(
        tenant_id=credential.tenant_id, credential_id=credential.pk
    )
    if before is not None:
        attempts = attempts.filter(started_at__lt=before)
    newest = attempts.order_by("-started_at")[: _MOST + 1]
    return [_refresh(attempt, now) for attempt in newest]


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


def _acts(credential: OAuthCredential, before: float | None, now: float) -> list[Entry]:
    """The audit trail without its refreshes, which the attempts tell in more detail."""
    events = AuditEvent.objects.filter(
        tenant_id=credential.tenant_id, subject=credential.user_id
    ).exclude(action="refresh")
    if before is not None:
        # From the year 1970 on: what lies before all time is shown with the newest.
        events = events.filter(at__lt=before, at__gte=0)
    newest = events.order_by("-at", "-id")[: _MOST + 1]
    icons = {"import": "login", "revoke": "block", "suspend": "pause", "resume": "play_arrow",
             "rejected": "report", "create_key": "key", "revoke_key": "key_off",
             "login_ending": "hourglass_bottom", "refresh_settings": "tune",
             "reassign": "person_edit", "reseal": "enhanced_encryption",
             "account_changed": "manage_accounts"}  # fmt: skip
    tones = {"revoke": "bad", "rejected": "uneasy", "suspend": "uneasy", "import": "good",
             "login_ending": "uneasy", "reassign": "uneasy",
             "account_changed": "uneasy"}  # fmt: skip
    return [
        Entry(
            at=_place(event.at),
            when=moment(event.at, now=now),
            kind="act",
            icon=icons.get(event.action, "person"),
            tone=tones.get(event.action, "plain"),
            title=_title(event),
            detail="" if event.action == "account_changed" else in_words(event.detail),
        )
        for event in read(newest)
    ]


def _place(at: float) -> float:
    """What is no time (only a forged record says it) comes first, where it is seen."""
    return at if isinstance(at, float | int) and math.isfinite(at) else math.inf


def _title(event: AuditEvent) -> str:
    if event.action == "login_ending":
        return _("Announced that the login ends")
    if event.action == "account_changed":
        if isinstance(event.detail, Mapping) and "instead_of" in event.detail:
            return _("The authorization server names another account than the imported file")
        return _("The authorization server names another account than before")
    return _("%(action)s by %(actor)s") % {
        "action": event.action.replace("_", " ").capitalize(),
        "actor": event.actor,
    }


def _hand_outs(credential: OAuthCredential, before: float | None, now: float) -> list[Entry]:
    """One entry for an hour, however many keys asked in it."""
    minutes = HandOut.objects.filter(tenant_id=credential.tenant_id, credential_id=credential.pk)
    if before is not None:
        # An hour stands where it begins.
        minutes = minutes.filter(minute__lt=math.ceil(before / _HOUR) * 60)
    by_hour = minutes.annotate(hour=F("minute") / 60).values_list("hour")
    hours = [hour for (hour,) in by_hour.distinct().order_by("-hour")[: _MOST + 1]]
    if not hours:
        return []
    handed: dict[int, list[tuple[str, int]]] = defaultdict(list)
    of_those = minutes.filter(minute__gte=hours[-1] * 60).annotate(hour=F("minute") / 60)
    for hour, actor, total in (
        of_those.values_list("hour", "actor").annotate(total=Sum("count")).order_by("-total")
    ):
        handed[hour].append((actor, total))
    return [_hand_out(hour, handed[hour], now) for hour in hours]


def _hand_out(hour: int, keys: list[tuple[str, int]], now: float) -> Entry:
    begins, total = hour * _HOUR, sum(count for _key, count in keys)
    named = ", ".join(
        actor if len(keys) == 1 else f"{actor} ({count})" for actor, count in keys[:_KEYS_NAMED]
    )
    left = len(keys) - _KEYS_NAMED
    if left > 0:
        others = ngettext("%(n)d other", "%(n)d others", left) % {"n": left}
        named = _("%(named)s and %(others)s") % {"named": named, "others": others}
    return Entry(
        at=begins,
        when=moment(begins, now=now),
        kind="hand_out",
        icon="arrow_forward",
        tone="plain",
        title=ngettext("Handed out once", "Handed out %(n)d times", total) % {"n": total},
        detail=_("in the hour from %(exact)s, to %(named)s")
        % {"exact": exact(begins), "named": named},
    )
