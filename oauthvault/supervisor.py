"""Runs several programs as one tree: together up, together down, each started again if it dies.

What ends the tree is a SIGINT, SIGTERM or SIGHUP to this process, or a program that
dies `DEATHS_ALLOWED` times within a minute. Every program is then asked once, by
SIGTERM, to finish what it has under way (a refresh whose answer must be saved), and
has `grace` seconds for it. More signals meanwhile change nothing: hurrying here would
throw away a rotated refresh token.

What happens when this process itself is killed is in tether.py.
"""

import os
import selectors
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from oauthvault.tether import Tethered, group_lives, signal_group

DEATHS_ALLOWED = 5
DEATHS_WITHIN = 60.0
LONGEST_PAUSE = 10.0

_TICK = 0.1
_STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True)
class Program:
    """A name for the lines it prints, and how it is started.

    `env` in place of the tree's own; `log`, a file to append to in place of our output.
    """

    name: str
    argv: Sequence[str]
    env: Mapping[str, str] | None = None
    log: Path | None = None


class Supervisor:
    """One tree of programs in the foreground; see the module's docstring.

    `say` gets one sentence at a time about what happens to the tree. Descriptors in
    `inherit` are held open until the last program has ended, even if we are killed.
    `stopping` is set once the tree is being ended, for threads that work beside it.
    """

    def __init__(
        self,
        programs: Sequence[Program],
        *,
        say: Callable[[str], None],
        env: Mapping[str, str] | None = None,
        grace: float = 60.0,
        inherit: Sequence[int] = (),
    ) -> None:
        width = max(len(program.name) for program in programs)
        self._branches = [
            _Branch(program, f"{program.name:<{width}} | ", env, grace, inherit)
            for program in programs
        ]
        self._say = say
        self._grace = grace
        self.stopping = threading.Event()

    def run(self) -> int:
        """Start everything and stay until all of it has ended: the exit status for the tree.

        0 when a signal asked for the end and every program obeyed in time; 1 when a
        program kept dying, or had to be killed.
        """
        with _signals() as (woken, received):
            for branch in self._branches:
                branch.start()
            failed = self._watch(woken, received)
            return max(failed, self._stop(woken))

    def stop(self) -> None:
        """End the tree, from any thread: `run` treats it as any other SIGTERM."""
        os.kill(os.getpid(), signal.SIGTERM)

    def _watch(self, woken: int, received: "deque[int]") -> int:
        while not received:
            self._wait(woken, self._next_event())
            for branch in self._branches:
                status = branch.collect()
                if status is None:
                    continue
                deaths = branch.count_death()
                if deaths >= DEATHS_ALLOWED:
                    self._say(
                        f"{branch.name} ended {deaths} times within a minute "
                        f"({_reason(status)}); stopping everything"
                    )
                    return 1
                pause = branch.pause(deaths)
                self._say(
                    f"{branch.name} ended ({_reason(status)}); starting it again in {pause:g} s"
                )
            for branch in self._branches:
                branch.start_if_due()
        self._say(f"stopping ({signal.Signals(received[0]).name})")
        return 0

    def _stop(self, woken: int) -> int:
        self.stopping.set()
        deadline = time.monotonic() + self._grace
        for branch in self._branches:
            branch.terminate()
        killed = 0
        while alive := [branch for branch in self._branches if branch.alive()]:
            if time.monotonic() >= deadline:
                killed = 1
                deadline = float("inf")
                for branch in alive:
                    self._say(f"{branch.name} did not end within {self._grace:g} s and is killed")
                    branch.kill()
            self._wait(woken, _TICK)
        for branch in self._branches:
            branch.close()
        self._say("stopped")
        return killed

    def _next_event(self) -> float | None:
        due = [branch.due_in() for branch in self._branches]
        return min((seconds for seconds in due if seconds is not None), default=None)

    def _wait(self, woken: int, timeout: float | None) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(woken, selectors.EVENT_READ)
            for branch in self._branches:
                if branch.tethered is not None:
                    selector.register(branch.tethered, selectors.EVENT_READ)
            ready = selector.select(timeout)
        if any(key.fd == woken for key, _ in ready):
            os.read(woken, 512)


class _Branch:
    """One program: running, or waiting to be started again, or being cleared away."""

    def __init__(
        self,
        program: Program,
        prefix: str,
        env: Mapping[str, str] | None,
        grace: float,
        inherit: Sequence[int],
    ) -> None:
        self.name = program.name
        self.tethered: Tethered | None = None
        self._program = program
        self._prefix = prefix
        self._env = env
        self._grace = grace
        self._inherit = inherit
        self._deaths: deque[float] = deque()
        self._start_at: float | None = None
        # A process group whose watcher was killed, and when to stop being patient with it.
        self._left_behind: tuple[int, float] | None = None

    def start(self) -> None:
        self._start_at = None
        log = self._program.log
        with nullcontext() if log is None else log.open("ab") as output:
            self.tethered = Tethered(
                self._program.argv,
                prefix=self._prefix if log is None else "",
                grace=self._grace,
                env=self._env if self._program.env is None else self._program.env,
                stdout=output,
                inherit=self._inherit,
            )

    def collect(self) -> int | None:
        """The exit status if the program has ended since the last call."""
        if self.tethered is None:
            return None
        status = self.tethered.returncode()
        if status is None:
            return None
        group = self.tethered.orphaned()
        if group is not None:
            signal_group(group, signal.SIGTERM)
            self._left_behind = (group, time.monotonic() + self._grace)
        self.tethered.close()
        self.tethered = None
        return status

    def count_death(self) -> int:
        """How often the program has died within the last minute, this time included."""
        now = time.monotonic()
        self._deaths.append(now)
        while self._deaths[0] < now - DEATHS_WITHIN:
            self._deaths.popleft()
        return len(self._deaths)

    def pause(self, deaths: int) -> float:
        seconds = min(0.5 * 2.0 ** (deaths - 1), LONGEST_PAUSE)
        self._start_at = time.monotonic() + seconds
        return seconds

    def due_in(self) -> float | None:
        """Seconds until `start_if_due` has something to do; None while the program runs."""
        if self._start_at is None:
            return None
        remaining = max(0.0, self._start_at - time.monotonic())
        return max(remaining, _TICK) if self._left_behind is not None else remaining

    def start_if_due(self) -> None:
        """Start the program again, once its time has come and the old one is really gone."""
        if self._start_at is None or time.monotonic() < self._start_at or self._clear_away():
            return
        self.start()

    def alive(self) -> bool:
        self.collect()
        return self.tethered is not None or self._clear_away()

    def terminate(self) -> None:
        self._start_at = None
        if self.tethered is not None:
            self.tethered.terminate()

    def kill(self) -> None:
        if self.tethered is not None:
            self.tethered.kill()
        if self._left_behind is not None:
            self._left_behind = (self._left_behind[0], 0.0)

    def close(self) -> None:
        if self.tethered is not None:
            self.tethered.close()

    def _clear_away(self) -> bool:
        """Whether something of a program that lost its watcher is still there."""
        if self._left_behind is None:
            return False
        group, deadline = self._left_behind
        if group_lives(group):
            if time.monotonic() < deadline:
                return True
            signal_group(group, signal.SIGKILL)
        self._left_behind = None
        return False


@contextmanager
def _signals() -> "Iterator[tuple[int, deque[int]]]":
    """A descriptor that becomes readable on a signal, and the stopping signals received."""
    received: deque[int] = deque()
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    previous = {
        number: signal.signal(number, lambda number, _: received.append(number))
        for number in _STOPPING
        # Under nohup a hang-up is ignored, and that must stay so.
        if not (number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN)
    }
    previous_wake = signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    try:
        yield woken, received
    finally:
        signal.set_wakeup_fd(previous_wake)
        for number, handler in previous.items():
            signal.signal(number, handler)
        os.close(woken)
        os.close(wake)


def _reason(status: int) -> str:
    if status < 0:
        return "its watcher was killed"
    if status > 128:
        try:
            return f"by {signal.Signals(status - 128).name}"
        except ValueError:
            pass
    return f"with status {status}"
