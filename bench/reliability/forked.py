"""A child made by fork, that may be killed at any moment, and whose last words are read.

The parent has Django loaded, no thread, and no connection to the database: neither may be
shared with a child.
"""

import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

from django.db import connections

Say = Callable[[Any], None]


class Forked:
    """``work(say)`` in a process of its own; what it says comes as lines of JSON."""

    def __init__(self, work: Callable[[Say], None]) -> None:
        connections.close_all()
        _wait_for_threads()
        reading, writing = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(reading)
            self._live(work, writing)
        os.close(writing)
        self._said = os.fdopen(reading, "rb")
        self._status: int | None = None

    @staticmethod
    def _live(work: Callable[[Say], None], writing: int) -> None:
        """The child's whole life. It never returns into what the parent was doing."""
        status = 1
        try:
            work(lambda value: _write(writing, value))
            status = 0
        except BaseException:
            traceback.print_exc(file=sys.stderr)
        finally:
            sys.stderr.flush()
            os._exit(status)

    def hear(self) -> Any:
        """The next thing it says; None when it has ended."""
        line = self._said.readline()
        return json.loads(line) if line.endswith(b"\n") else None

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)

    def ended(self) -> list[Any]:
        """Wait for its end: what it said that was not heard yet."""
        left = []
        while (value := self.hear()) is not None:
            left.append(value)
        self._said.close()
        _, self._status = os.waitpid(self.pid, 0)
        return left

    @property
    def failed(self) -> bool:
        """Ended by itself, and not well."""
        return bool(self._status) and not os.WIFSIGNALED(self._status or 0)


def _wait_for_threads() -> None:
    """A timer of a refresh that was called off ends in a moment; anything else is wrong."""
    ends = time.monotonic() + 2
    while threading.active_count() > 1:
        if time.monotonic() > ends:
            raise AssertionError(f"a process with threads must not fork: {threading.enumerate()}")
        time.sleep(0.001)


def _write(writing: int, value: Any) -> None:
    # One write below PIPE_BUF is whole or not there, whatever kills the writer.
    os.write(writing, json.dumps(value).encode() + b"\n")
