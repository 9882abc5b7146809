"""Unix seconds as people read them: how far away, and exactly when.

Written in UTC, and so named. In the browser static/tokens/times.js turns what is written in just
this way into the zone of whoever looks.
"""

from datetime import UTC, datetime

from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _

_MINUTE, _HOUR, _DAY = 60, 3600, 86_400


def exact(at: float) -> str:
    """``2026-11-22 18:20:05 UTC``"""
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M:%S} UTC"


def time_of_day(at: float) -> str:
    """``18:20``"""
    return f"{datetime.fromtimestamp(at, UTC):%H:%M}"


def day(at: float) -> str:
    """``11-22``, month and day"""
    return f"{datetime.fromtimestamp(at, UTC):%m-%d}"


def distance(at: float, *, now: float) -> str:
    """``in 3 h 5 min``, ``2 d ago``, ``now``"""
    seconds = round(at - now)
    if seconds == 0:
        return _("now")
    if seconds > 0:
        return _("in %(span)s") % {"span": span(seconds)}
    return _("%(span)s ago") % {"span": span(-seconds)}


def span(seconds: float) -> str:
    """The two largest units that matter: ``45 s``, ``3 h 5 min``, ``27 d``."""
    whole = int(seconds)
    if whole < _MINUTE:
        return _("%(n)d s") % {"n": whole}
    if whole < _HOUR:
        return _("%(n)d min") % {"n": whole // _MINUTE}
    if whole < _DAY:
        hours, minutes = divmod(whole // _MINUTE, 60)
        text = _("%(n)d h") % {"n": hours}
        return f"{text} {_('%(n)d min') % {'n': minutes}}" if minutes else text
    days, hours = divmod(whole // _HOUR, 24)
    text = _("%(n)d d") % {"n": days}
    return f"{text} {_('%(n)d h') % {'n': hours}}" if hours and days < 7 else text


def moment(at: float | None, *, now: float, never: str = "–") -> SafeString:
    """Both, for a page: the distance, and the exact time below it. ``never`` too for what is no
    time at all: only a forged record says it."""
    try:
        there = datetime.fromtimestamp(at, UTC) if at is not None else None
    except (ValueError, TypeError, OverflowError, OSError):
        there = None
    if at is None or there is None:
        return format_html('<span class="ov-subtle">{}</span>', never)
    date, time, zone = exact(at).split()
    return format_html(
        '<time class="ov-moment" datetime="{}"><span class="ov-far">{}</span>'
        '<span class="ov-exact"><span>{}</span> <span>{} {}</span></span></time>',
        there.isoformat(timespec="seconds"),
        distance(at, now=now),
        date,
        time,
        zone,
    )
