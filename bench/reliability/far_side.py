"""The simulator with a stopwatch: `python -m bench.reliability.far_side`.

What `python -m tests.simulator` is, and one operation more: `moments`, which tells when each
presentation of a refresh token arrived, was rotated and was answered, on this machine's
monotonic clock. Prints its address and serves until SIGTERM.
"""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tests.simulator import RemoteSimulator, Simulator
from tests.simulator.operations import OPERATIONS
from tests.simulator.record import Received, Record
from tests.simulator.state import State


@dataclass(frozen=True)
class Moment:
    """``what``: token_calls (arrived), refreshed (rotated), reuse, invalid, or answered."""

    what: str
    user: str
    at: float
    token: str | None = None


class TimedRecord(Record):
    """The record of the simulator, which also keeps when it counted what."""

    def __init__(self) -> None:
        super().__init__()
        self.moments: list[dict[str, Any]] = []

    def count(self, name: str, user: str | None) -> None:
        super().count(name, user)
        if user is not None:
            self._keep(name, user)

    def note(self, received: Received) -> None:
        super().note(received)
        if received.path.startswith("/v1/oauth/token") and received.user is not None:
            self._keep("answered", received.user, received.token)

    def _keep(self, what: str, user: str, token: str | None = None) -> None:
        self.moments.append({"what": what, "user": user, "at": time.monotonic(), "token": token})


@contextmanager
def timed_simulator() -> Iterator[RemoteSimulator]:
    """The far side in a process of its own, for the length of the block."""
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.reliability.far_side"], stdout=subprocess.PIPE, text=True
    )
    with process:
        try:
            assert process.stdout is not None
            yield RemoteSimulator(process.stdout.readline().strip())
        finally:
            process.terminate()


def moments_of(upstream: RemoteSimulator, user: str) -> list[Moment]:
    return [Moment(**one) for one in upstream.perform("moments", user=user)]


def _moments(state: State, *, user: str) -> Any:
    assert isinstance(state.record, TimedRecord)
    return [one for one in state.record.moments if one["user"] == user]


def main() -> None:
    assert isinstance(OPERATIONS, dict)
    OPERATIONS["moments"] = _moments
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    with Simulator() as simulator:
        simulator.state.record = TimedRecord()
        print(simulator.url, flush=True)
        ended.wait()


if __name__ == "__main__":
    main()
