"""The ways in which the far side misbehaves, and what the vault must make of each.

Outcomes and standings are the product's words (`tokens.models`), the faults the simulator's
(tests/simulator/README.md).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.simulator import RemoteSimulator

# Seconds. The product's own deadline would make the table take minutes longer.
SHORT_DEADLINE = 2.0

Arm = Callable[[RemoteSimulator, str], object]


@dataclass(frozen=True, kw_only=True)
class Expected:
    """``first``: how the refresh ends; ``standing`` after it; ``calls`` it made. ``then``:
    how the next one ends, None where there is none. ``lives_for``: the seconds for which the
    token that is held afterwards is believed; None: as long as the server said."""

    first: str
    standing: str = "active"
    calls: int = 1
    then: str | None = "refreshed"
    lives_for: int | None = None


@dataclass(frozen=True, kw_only=True)
class Case:
    name: str
    arm: Arm
    expected: Expected
    hangs: bool = False


def named(fault: str, **changes: Any) -> Arm:
    return lambda upstream, user: upstream.fault(fault, user=user, **changes)


def lifetime(value: Any) -> Arm:
    return lambda upstream, user: upstream.perform("configure", access_token_lifetime=value)


LOST = "reauthorization_required"

CASES = [
    Case(
        name="500 twice, then fine",
        arm=named("server_error", times=2),
        expected=Expected(first="refreshed", calls=3),
    ),
    Case(
        name="503 for as long as it is asked",
        arm=named("unavailable", times=None),
        expected=Expected(first="unreachable", calls=4),
    ),
    Case(
        name="403 with a page of HTML (edge block)",
        arm=named("edge_block"),
        expected=Expected(first="upstream_error"),
    ),
    Case(name="404 (moved)", arm=named("moved"), expected=Expected(first="upstream_error")),
    Case(
        name="307 to another address",
        arm=named("redirect"),
        expected=Expected(first="upstream_error"),
    ),
    Case(
        name="429, Retry-After in seconds",
        arm=named("rate_limited", retry_after=90),
        expected=Expected(first="rate_limited"),
    ),
    Case(
        name="429, Retry-After as a date",
        arm=named("rate_limited", retry_after=90, retry_after_as_date=True),
        expected=Expected(first="rate_limited"),
    ),
    Case(
        name="403: account on hold",
        arm=named("on_hold"),
        expected=Expected(first="account_on_hold"),
    ),
    Case(
        name="400 invalid_scope",
        arm=named("invalid_scope"),
        expected=Expected(first="invalid_scope"),
    ),
    Case(
        name="400 invalid_grant",
        arm=named("invalid_grant"),
        expected=Expected(first="invalid_grant", standing=LOST, then=None),
    ),
    Case(
        name="the login was revoked upstream",
        arm=lambda upstream, user: upstream.kill_login(user),
        expected=Expected(first="invalid_grant", standing=LOST, then=None),
    ),
    Case(
        name="rotated, and the connection closed without an answer",
        arm=named("lose_answer"),
        expected=Expected(first="unknown", then="invalid_grant"),
    ),
    Case(
        name="rotated, and half of the answer",
        arm=named("cut_short"),
        expected=Expected(first="unknown", then="invalid_grant"),
    ),
    Case(
        name="rotated, and silence past the deadline",
        hangs=True,
        arm=named("hang_after_rotation", seconds=2 * SHORT_DEADLINE),
        expected=Expected(first="unknown", then="invalid_grant"),
    ),
    Case(
        name="not rotated, and the connection closed",
        arm=named("close"),
        expected=Expected(first="unknown"),
    ),
    Case(
        name="not rotated, and silence past the deadline",
        hangs=True,
        arm=named("hang", seconds=2 * SHORT_DEADLINE),
        expected=Expected(first="unknown"),
    ),
    Case(name="200 with a page of HTML", arm=named("not_json"), expected=Expected(first="unknown")),
    Case(name="200 with nothing", arm=named("empty"), expected=Expected(first="unknown")),
    Case(
        name="200 without a refresh token: the old one stays",
        arm=named("keep_refresh_token"),
        expected=Expected(first="refreshed"),
    ),
    Case(
        name="expires_in −1",
        arm=lifetime(-1),
        expected=Expected(first="refreshed", lives_for=300),
    ),
    Case(
        name="expires_in of thirty years",
        arm=lifetime(10**9),
        expected=Expected(first="refreshed", lives_for=366 * 86_400),
    ),
    Case(
        name="expires_in “soon”",
        arm=lifetime("soon"),
        expected=Expected(first="refreshed", lives_for=300),
    ),
]
KILLED = Case(
    name="kill -9 after the server rotated",
    arm=lambda upstream, user: upstream.perform("configure", latency_after_ms=3000),
    expected=Expected(first="in_flight", then="invalid_grant"),
)
