"""Ask: one exchange with the authorization server, under one deadline."""

import random
import time

from django.conf import settings
from django.db import DatabaseError, InterfaceError, connection

from tokens import oauth_client
from tokens.errors import UpstreamRateLimited, UpstreamUnavailable
from tokens.models import Backoff
from tokens.oauth_client import Granted, Refused
from tokens.refresh import gate
from tokens.refresh.claim import Claim

# Seconds that a knock takes at most, and for which a server is knocked at that does not answer.
_KNOCK, _LONGEST_KNOCKING = 10.0, 86_400.0
# Seconds between the quick tries inside one claim, before the configured back-off grows it.
_RETRY_UNIT = 0.5


def present(claim: Claim) -> tuple[Granted | Refused, int] | None:
    """The answer and the number of tries; None if nothing was sent, for it is too late.

    Only a request that was answered with a server error, or never left us, is sent again,
    and only while the door stands open; all of it within one deadline, which counts from
    the claim: a process that was stopped in between may have lost its lease.
    """
    ends = claim.claimed_monotonic + settings.REFRESH_DEADLINE
    if time.monotonic() >= ends:
        return None
    nobody = _nobody_at_home(claim, ends)
    if nobody is not None:
        return nobody, 0
    tries = 0
    while True:
        tries += 1
        answer = oauth_client.refresh(claim.refresh_token, deadline=ends - time.monotonic())
        if isinstance(answer, Granted) or not answer.worth_retrying_at_once:
            return answer, tries
        pause = _pause(tries, claim.credential.backoff)
        if claim.is_last_chance or tries > claim.credential.retries:
            return answer, tries
        if time.monotonic() + pause + 1 > ends:
            return answer, tries
        time.sleep(pause)
        if _door_was_closed(claim):
            return answer, tries


def _nobody_at_home(claim: Claim, ends: float) -> Refused | None:
    """What is there in place of a server that works, before a last chance is spent on it.

    A token whose first presentation has no answer is presented once more, and never again:
    not to a gateway that swallowed the first one and goes on doing so. A server that has
    not answered a knock for a day may be one that does not know what to make of it.
    """
    since = claim.unanswered_since
    if since is None or claim.claimed_at - since > _LONGEST_KNOCKING:
        return None
    left = ends - time.monotonic()
    return oauth_client.knock(deadline=min(left / 2, _KNOCK))


def _door_was_closed(claim: Claim) -> bool:
    """Whether a 429 or the circuit has closed the door since the claim: another refresh's
    answer counts for this one too."""
    try:
        gate.refuse_while_closed(now=claim.moment())
    except UpstreamUnavailable:
        return not claim.is_probe
    except (UpstreamRateLimited, DatabaseError, InterfaceError):
        return True
    finally:
        connection.close()
    return False


def _pause(tries: int, backoff: Backoff) -> float:
    growth = {Backoff.EXPONENTIAL: 2 ** (tries - 1), Backoff.LINEAR: tries, Backoff.FIXED: 1}
    factor = growth[backoff]
    return float(_RETRY_UNIT * factor * random.uniform(0.5, 1.5))  # noqa: S311  spreads load
