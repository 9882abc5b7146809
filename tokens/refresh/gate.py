"""The door to the authorization server: one for the whole deployment, kept in the database.

A 429 closes it until the time that the server named. Too many refreshes in a row that
found the server down open the circuit: nothing is sent for a while, and then one refresh,
the probe, tries for all of them. What counts as down says nothing about a credential.

The door is everybody's, so nobody may hold it closed with logins of their own making: what
was never refreshed here counts once for its tenant, and is the last to be the probe.
"""

import logging
import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from django.conf import settings

from tokens.errors import UpstreamRateLimited, UpstreamUnavailable
from tokens.models import Upstream

logger = logging.getLogger(__name__)

# Failures in a row, each of another credential, that open the circuit.
FAILURES_ALLOWED = 5
# The circuit when it is closed and nothing has failed.
_CALM: dict[str, Any] = {
    "consecutive_failures": 0, "circuit_open_until": 0, "failed_credentials": [],
}  # fmt: skip
# Seconds for which it stays open: doubled with each probe that fails, up to the longest.
_OPEN_UNIT, _OPEN_LONGEST = 15.0, 300.0
# Seconds by which others wait longer than a good probe: a token that was sent once without an
# answer (its second presentation is its last), and one that was never refreshed here.
_POOR_PROBE_LATER = 60.0
# Seconds after the end of a 429 in which the number of refreshes at once grows again.
_SLOW_START = 20.0
# Seconds. No 429 closes the door for longer, whoever says so.
_LONGEST_PAUSE = 86_400.0


@dataclass(frozen=True, kw_only=True)
class Door:
    """``closed_until``: nothing is sent before (Unix seconds; 0: it is open). ``found_down``:
    the circuit is open, be it that its probe is due or under way."""

    closed_until: float = 0.0
    found_down: bool = False
    # Seconds since the last 429 ended.
    calm_for: float = math.inf

    def allowance(self, *, at_once: int) -> int:
        """How many refreshes the sweep may have under way at this moment, of ``at_once``."""
        if self.closed_until:
            return 0
        if self.found_down:
            return 1
        if self.calm_for < _SLOW_START:
            # All at once would earn the next 429.
            return max(1, int(at_once * self.calm_for / _SLOW_START))
        return at_once


def look(*, now: float) -> Door:
    """How the door is, for those who do not go through it."""
    row = _row()
    if row is None:
        return Door()
    until = max(row.rate_limited_until, row.circuit_open_until)
    return Door(
        closed_until=until if until > now else 0.0,
        found_down=row.circuit_open_until > 0,
        calm_for=now - row.rate_limited_until,
    )


def refuse_while_closed(*, now: float, good_probe: Callable[[], bool] = lambda: True) -> None:
    """UpstreamRateLimited or UpstreamUnavailable while nothing may be sent.

    ``good_probe``: whether the credential would make one; asked only if the circuit is open.
    """
    row = _row()
    if row is not None:
        _refuse(row, now=now, good_probe=good_probe)


def enter(*, now: float, good_probe: Callable[[], bool]) -> bool:
    """Go through the door, as part of the claim's transaction; whether this is the probe.

    Raises as `refuse_while_closed`. With an open circuit whose time is past, one claim
    takes the place of the probe, for the length of its lease.
    """
    row = _row()
    if row is None:
        return False
    _refuse(row, now=now, good_probe=good_probe)
    if row.circuit_open_until <= 0:
        return False
    taken = Upstream.objects.filter(pk=row.pk, circuit_open_until=row.circuit_open_until).update(
        circuit_open_until=now + settings.REFRESH_LEASE
    )
    if not taken:
        raise _unavailable(1.0)
    return True


def close_for(seconds: float, *, now: float) -> None:
    """A 429: nothing is sent for so long; never for less than was said before."""
    seconds = min(seconds, _LONGEST_PAUSE)
    if seconds <= 0:
        return
    row, _ = Upstream.objects.get_or_create(token_url=settings.CLAUDE_OAUTH_TOKEN_URL)
    Upstream.objects.filter(pk=row.pk, rate_limited_until__lt=now + seconds).update(
        rate_limited_until=now + seconds
    )


def note_answer() -> None:
    """The server works: it said something that only a working one says."""
    this = Upstream.objects.filter(token_url=settings.CLAUDE_OAUTH_TOKEN_URL)
    if this.filter(circuit_open_until__gt=0).update(**_CALM):
        logger.warning(
            "%s answers again: refreshes are sent as before", settings.CLAUDE_OAUTH_TOKEN_URL
        )
    else:
        this.filter(consecutive_failures__gt=0).update(**_CALM)


def reopen() -> None:
    """Forget that the server asked us to wait, or was found down: an operator knows better."""
    Upstream.objects.filter(token_url=settings.CLAUDE_OAUTH_TOKEN_URL).update(
        rate_limited_until=0, **_CALM
    )


def note_failure(*, of: int | str, was_probe: bool, now: float) -> None:
    """The server was not reached, fell over, or answered nonsense.

    ``of``: whose failure that is. Each is counted once.
    """
    row, _ = Upstream.objects.get_or_create(token_url=settings.CLAUDE_OAUTH_TOKEN_URL)
    row = Upstream.objects.select_for_update().get(pk=row.pk)
    if row.circuit_open_until > 0 and not was_probe:
        # It began before the circuit opened, and says nothing new.
        return
    if not was_probe and of in row.failed_credentials:
        return
    row.consecutive_failures += 1
    row.failed_credentials = [*row.failed_credentials, of][-FAILURES_ALLOWED:]
    opens = row.consecutive_failures >= FAILURES_ALLOWED
    if opens and row.circuit_open_until <= 0:
        logger.warning(
            "%s was found down by %d credentials one after the other: nothing is sent for a "
            "while, and then one refresh at a time tries it for all. Nothing has to be done; sure "
            "that it is back: `oauthvault reset_upstream`",
            settings.CLAUDE_OAUTH_TOKEN_URL, FAILURES_ALLOWED,
        )  # fmt: skip
    if opens:
        row.circuit_open_until = now + _open_for(row.consecutive_failures)
    row.save()


def _row() -> Upstream | None:
    return Upstream.objects.filter(token_url=settings.CLAUDE_OAUTH_TOKEN_URL).first()


def _refuse(row: Upstream, *, now: float, good_probe: Callable[[], bool]) -> None:
    if row.rate_limited_until > now:
        raise UpstreamRateLimited(
            "Failed to refresh token: the authorization server asks everybody to wait.",
            # Not all of them in the moment in which it ends.
            retry_after=row.rate_limited_until - now + random.uniform(0, 2),  # noqa: S311
        )
    if row.circuit_open_until > 0:
        opens = row.circuit_open_until
        if opens <= now and not good_probe():
            opens += _POOR_PROBE_LATER
        if opens > now:
            raise _unavailable(opens - now)


def _unavailable(seconds: float) -> UpstreamUnavailable:
    return UpstreamUnavailable(
        "Failed to refresh token: the authorization server was found down, and is tried "
        "again by one refresh for all.",
        # The probe may have closed it before.
        retry_after=min(max(1.0, seconds), _OPEN_UNIT),
    )


def _open_for(failures: int) -> float:
    grown = _OPEN_UNIT * 2 ** min(failures - FAILURES_ALLOWED, 10)
    return float(min(grown, _OPEN_LONGEST) * random.uniform(0.8, 1.2))  # noqa: S311  spreads load
