"""A vault that serves, the far side, and those who ask: what a round of callers is played on."""

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path

import httpx

from bench.reliability.bystander import Pace, Seen
from bench.reliability.callers import Call, Told
from bench.reliability.ground import SERVICE_KEY, Child, Ground
from tests.processes import web_processes
from tests.simulator import RemoteSimulator, simulator_process

_BYSTANDER = "bystander"
# Requests a second of the bystander, to each process.
_PACE = 20.0
# Seconds between the last preparation and the moment.
_LEAD = 0.3


class Scene:
    """``addresses``: one web process each."""

    def __init__(
        self, addresses: list[str], upstream: RemoteSimulator, callers: Child, bystander: Child
    ) -> None:
        self.addresses = addresses
        self.upstream = upstream
        self._callers = callers
        self._bystander = bystander
        self._persons = 0

    def warm_up(self) -> None:
        """Every process has its connections and has seen every path once."""
        self._store(_BYSTANDER, expires_in=360_000)
        self.upstream.latency_ms = 0
        self.turn([self.expired_person()], 8 * len(self.addresses))
        self.alone(1.0)

    def expired_person(self) -> str:
        """A new person whose token expired a minute ago. Nothing of an earlier round is
        left with them, and nothing is changed behind the vault's back."""
        self._persons += 1
        user = f"person-{self._persons}"
        self._store(user, expires_in=-60)
        return user

    def turn(
        self,
        users: list[str],
        callers: int,
        *,
        schedule: list[list[float]] | None = None,
        at_least: float = 0.0,
    ) -> tuple[Told, Seen]:
        """The callers and the bystander from one moment on; the bystander for as long as
        the callers, and ``at_least`` so many seconds."""
        begun = 0.0

        def begin() -> float:
            nonlocal begun
            begun = self._watch()
            return begun

        told = self._told(users, callers, schedule, begin)
        _sleep_until(begun + at_least)
        return told, self._watched()

    def callers_only(self, users: list[str], callers: int) -> Told:
        return self._told(users, callers, None, lambda: time.monotonic() + _LEAD)

    def alone(self, seconds: float) -> Seen:
        """The bystander, and nobody else."""
        _sleep_until(self._watch() + seconds)
        return self._watched()

    def _told(
        self,
        users: list[str],
        callers: int,
        schedule: list[list[float]] | None,
        begin: Callable[[], float],
    ) -> Told:
        call = Call(
            addresses=self.addresses,
            key=SERVICE_KEY,
            users=users,
            count=callers,
            schedule=schedule,
        )
        self._callers.say(asdict(call))
        self._callers.hear()  # all connections are open
        self._callers.say(begin())
        return Told(**self._callers.hear())

    def _watch(self) -> float:
        """Have the bystander begin in a moment: which."""
        moment = time.monotonic() + _LEAD
        pace = Pace(
            addresses=self.addresses, key=SERVICE_KEY, user=_BYSTANDER, rate=_PACE, moment=moment
        )
        self._bystander.say(asdict(pace))
        return moment

    def _watched(self) -> Seen:
        self._bystander.say("enough")
        return Seen(**self._bystander.hear())

    def _store(self, user: str, *, expires_in: float) -> None:
        stored = httpx.put(
            f"{self.addresses[0]}/auth/claude/token",
            headers={"Authorization": f"Bearer {SERVICE_KEY}", "X-OAuthVault-User": user},
            json=self.upstream.new_login(user, expires_in=expires_in).credentials_file(),
            timeout=30,
        )
        assert stored.status_code == 201, stored.text


@contextmanager
def played(ground: Ground, *, processes: int) -> Iterator[Scene]:
    """A scene with so many web processes, for the length of the block."""
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="oauthvault-bench-"))
        upstream = stack.enter_context(simulator_process())
        variables = stack.enter_context(
            ground.variables(
                folder, CLAUDE_OAUTH_TOKEN_URL=upstream.token_url, OAUTHVAULT_WEB_WORKERS="1"
            )
        )
        addresses = stack.enter_context(web_processes(Path(folder), processes, **variables))
        callers = stack.enter_context(Child("bench.reliability.callers"))
        bystander = stack.enter_context(Child("bench.reliability.bystander"))
        scene = Scene(addresses, upstream, callers, bystander)
        scene.warm_up()
        yield scene


def _sleep_until(moment: float) -> None:
    time.sleep(max(0.0, moment - time.monotonic()))
