"""When the next refresh of a credential is due."""

import random

from django.conf import settings

# Seconds between two refreshes of a credential that nobody demanded, however short a life the
# server gives its tokens: whoever asks for one user's token would else have it asked all the time.
FLOOR = 10.0
# Seconds of back-off between claims: doubled with each failure, up to the longest. That a
# server which is down is not asked by everybody is the circuit's affair (gate.py).
_BACK_OFF_UNIT, _BACK_OFF_LONGEST = 30, 300
# Seconds that a second presentation is put off at most while the old token lives.
_SECOND_LOOK_LATEST = 300


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
