"""When the next refresh of a credential is due."""

import random
from typing import Any

from django.conf import settings
from django.db.models import BigIntegerField, Case, Value, When

from tokens.models import OAuthCredential, Standing

# Seconds between two refreshes of a credential that nobody demanded, however short a life the
# server gives its tokens: whoever asks for one user's token would else have it asked all the time.
FLOOR = 10.0
# Seconds of back-off between claims: doubled with each failure, up to the longest. That a
# server which is down is not asked by everybody is the circuit's affair (gate.py).
_BACK_OFF_UNIT, _BACK_OFF_LONGEST = 30, 300
# Seconds that a second presentation is put off at most while the old token lives.
_SECOND_LOOK_LATEST = 300


def next_due(credential: OAuthCredential, *, now: float, lifetime: int | None = None) -> int | None:
    """`due_time` of what the credential holds, by its own threshold. None: it cannot be
    refreshed, or its own switch says that it is refreshed only when asked for."""
    if (
        credential.standing != Standing.ACTIVE
        or not credential.has_refresh_token
        or credential.auto_refresh is False
    ):
        return None
    return due_time(
        expires_at=credential.expires_at,
        threshold=credential.threshold,
        now=now,
        lifetime=lifetime,
    )


def due_time(*, expires_at: int, threshold: int, now: float, lifetime: int | None = None) -> int:
    """When to refresh: the threshold before the end, and a little earlier by chance.

    The chance keeps a thousand credentials that were imported together from falling due
    together. A token that was given a short ``lifetime`` now is left alone for half of it,
    and for `FLOOR` at least.
    """
    jitter = random.uniform(0, threshold / 2)  # noqa: S311  spreads load, guards nothing
    due = expires_at - threshold - jitter
    if lifetime is not None:
        due = max(due, now + max(FLOOR, lifetime / 2))
    return int(due)


def planned_anew(credential: OAuthCredential, *, now: float) -> int | None:
    """When the next refresh is due after the credential's settings have changed.

    By the threshold where the threshold decides. What waits for another reason goes on
    waiting: a refresh that is under way or has no answer, and the back-off after a failure.
    """
    fresh = next_due(credential, now=now)
    if fresh is None:
        return None
    if credential.unanswered_presentations or credential.lease_id is not None:
        second = second_look(now=now, expires_at=credential.expires_at)
        return credential.refresh_due_at or second
    if credential.consecutive_failures:
        return credential.refresh_due_at or int(now + back_off(credential.consecutive_failures))
    refreshed_at = credential.last_refreshed_at
    if refreshed_at is None or refreshed_at < int(credential.login_since or 0):
        return fresh
    # As the save of that refresh would have it by the new settings.
    return next_due(
        credential,
        now=min(refreshed_at, now),
        lifetime=max(0, credential.expires_at - refreshed_at),
    )


def unless_switched_off(due: int | None) -> Any:
    """``due`` as the value of an UPDATE whose row may have been switched off since it was
    read: then none."""
    if due is None:
        return None
    return Case(
        When(auto_refresh=False, then=None), default=Value(due), output_field=BigIntegerField()
    )


def second_look(*, now: float, expires_at: int) -> int:
    """When a refresh that began at ``now`` and has no answer is looked at again.

    After its lease; while the old access token lives, half of its life later: a server that
    swallows requests for some minutes would else swallow both presentations.
    """
    half_of_it = min((expires_at - now) / 2, _SECOND_LOOK_LATEST)
    return int(now + max(settings.REFRESH_LEASE + 1, half_of_it)) + 1


def back_off(failures: int) -> float:
    """Seconds to wait after so many failures in a row."""
    seconds = min(_BACK_OFF_UNIT * 2 ** min(failures - 1, 10), _BACK_OFF_LONGEST)
    return float(seconds * random.uniform(0.75, 1.25))  # noqa: S311  spreads load
