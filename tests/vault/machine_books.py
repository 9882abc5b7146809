"""What the state machine knows of the far side: which login a token is of, and what became
of every presentation of a refresh token.

What a presentation was answered with is told from the fault that was armed for it and from
the status that the simulator recorded, never from what the vault made of it.
"""

from collections import defaultdict
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from tests.simulator import Fault, Login, Simulator
from tests.simulator.logins import Exchange, Family
from tests.simulator.record import Received

# Answers of a gateway that lost sight of the request, and those that are no answer at all.
_SAYS_NOTHING = (200, 201, 204, 504, 520, 524)
# `invalid_grant` for a login that is alive. The simulator itself says it with 400.
LIE = 401


class Said(Enum):
    """What an answer says of the refresh token that was presented."""

    GRANTED = auto()
    REFUSED = auto()  # a definite answer, and no word about the login: it may be tried again
    ENDED = auto()  # invalid_grant
    NOTHING = auto()  # no answer, or one that does not tell whether the token is spent


@dataclass(eq=False)
class Presentation:
    """One refresh token that arrived at the server, or that a dead claim may have sent.

    ``at``: Unix seconds by the vault's clock. ``known``: whether the answer reached the
    vault, or ever will without its holder waking up. ``lied``: see `LIE`. ``disbelieved``: it
    was told by a holder whose lease had passed on, and the vault believes no refusal of those.
    """

    token: str
    said: Said
    at: float
    known: bool = True
    kept: bool = False
    lied: bool = False
    disbelieved: bool = False
    governs_until: float = 0.0

    @property
    def is_open(self) -> bool:
        """Whether the vault cannot know what became of it."""
        return self.said is Said.NOTHING or not self.known


@dataclass(eq=False)
class Rotation:
    """The last exchange of a login that gave it a new pair. None: somebody else's."""

    by: Presentation | None

    @property
    def reached_the_vault(self) -> bool:
        return self.by is not None and self.by.said is Said.GRANTED and self.by.known


@dataclass
class _Work:
    outcome: str
    family: Family | None
    kept: bool


class Books:
    """Kept beside the simulator's own, from its first login on."""

    def __init__(self, simulator: Simulator) -> None:
        self._simulator = simulator
        self._armed: defaultdict[str, list[Fault]] = defaultdict(list)
        self._work: defaultdict[str, list[_Work]] = defaultdict(list)
        self._families: dict[str, Family] = {}
        self._read = 0
        self.last_rotation: dict[Family, Rotation] = {}
        self.reused: set[Family] = set()
        self.unread = 0
        self._watch_exchanges()

    def new_login(self, user: str, *, expires_in: float, refresh: bool) -> tuple[Login, Family]:
        login = self._simulator.new_login(user, expires_in=expires_in, refresh=refresh)
        family = self._simulator.state.logins.latest(user)
        self._learn(family)
        return login, family

    def family_of(self, token: str | None) -> Family | None:
        """The login that an access or refresh token is of."""
        return self._families.get(token) if token is not None else None

    def is_alive(self, family: Family) -> bool:
        ends = family.login_ends
        return family.alive and (ends is None or ends > self._simulator.state.now())

    def arm(self, user: str, name: str, **changes: Any) -> None:
        """Arm a fault for the next token request of this user."""
        self._armed[user].append(self._simulator.fault(name, user=user, **changes))

    def clear_faults(self) -> None:
        self._simulator.clear_faults()
        self._armed.clear()

    def rotate_elsewhere(self, family: Family, *, keep: bool) -> Login:
        """Another holder of the same login refreshes it."""
        held, state = family.refresh_token, self._simulator.state
        assert held is not None
        with state.lock:
            state.logins.exchange(
                held,
                scopes=None,
                lifetime=state.settings.real_lifetime,
                keep_refresh_token=keep,
                kill_access_token=state.settings.rotation_kills_access_token,
                reuse_kills_family=state.settings.reuse_kills_family,
                now=state.now(),
            )
            # It came by no request that will be recorded.
            self._work[held].pop()
        self.last_rotation[family] = Rotation(by=None)
        return family.login

    def presentations(self, *, offset: float) -> list[Presentation]:
        """Those since the last look, in order. ``offset``: of the vault's clock."""
        state = self._simulator.state
        with state.lock:
            received = list(state.record.requests)[self._read :]
            self._read += len(received)
            ahead = state.clock_offset
        found = []
        for request in received:
            if not request.path.endswith("/oauth/token"):
                continue
            if request.token is None:
                # With a body it was a knock, which presents nothing.
                self.unread += request.body is None
            else:
                found.append(self._presentation(request, request.at - ahead + offset))
        return found

    def _presentation(self, request: Received, at: float) -> Presentation:
        queue = self._armed[request.user or ""]
        fault = queue.pop(0) if queue else None
        work = None
        if fault is None or fault.does_the_work:
            work = self._work[request.token or ""].pop(0)
        said = _said(fault, request.status, work)
        made = Presentation(
            token=request.token or "",
            said=said,
            at=at,
            kept=work is not None and work.kept,
            lied=said is Said.ENDED and request.status == LIE,
        )
        if fault is not None and fault.status == 429 and isinstance(fault.retry_after, int):
            made.governs_until = at + fault.retry_after
        if work is not None and work.family is not None:
            if work.outcome == "refreshed":
                self.last_rotation[work.family] = Rotation(by=made)
            elif work.outcome == "reuse":
                self.reused.add(work.family)
        return made

    def _watch_exchanges(self) -> None:
        logins = self._simulator.state.logins
        exchange = logins.exchange

        def watched(refresh_token: str, **how: Any) -> Exchange:
            done = exchange(refresh_token, **how)
            kept = done.family is not None and done.family.refresh_token == refresh_token
            self._work[refresh_token].append(_Work(done.outcome, done.family, kept))
            if done.family is not None:
                self._learn(done.family)
            return done

        logins.exchange = watched  # type: ignore[method-assign]

    def _learn(self, family: Family) -> None:
        self._families[family.access_token] = family
        if family.refresh_token is not None:
            self._families[family.refresh_token] = family


def _said(fault: Fault | None, status: int | None, work: _Work | None) -> Said:
    if status is None:
        return Said.NOTHING
    if fault is not None and fault.kind == "answer":
        if isinstance(fault.body, dict) and fault.body.get("error") == "invalid_grant":
            return Said.ENDED
        return Said.NOTHING if status in _SAYS_NOTHING else Said.REFUSED
    assert work is not None
    if fault is not None and fault.kind == "cut_short":
        return Said.NOTHING if status == 200 else Said.REFUSED
    if work.outcome != "refreshed":
        return Said.ENDED
    return Said.NOTHING if fault is not None and fault.amend else Said.GRANTED
