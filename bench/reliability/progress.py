"""What is being done, on standard error while it lasts: a bar for people, lines for a log."""

import sys
import time
from types import TracebackType
from typing import Self

_WIDTH = 24
# Seconds between two lines where nobody watches a terminal.
_PAUSE = 20.0


class Progress:
    """``with Progress("callers", total=16) as progress: progress.step("100 × 4, 3 s")``"""

    def __init__(self, what: str, *, total: int) -> None:
        self._what, self._total, self._done = what, total, 0
        self._began = time.monotonic()
        self._last = 0.0
        self._terminal = sys.stderr.isatty()

    def __enter__(self) -> Self:
        self._show("", now=True)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._terminal:
            print(file=sys.stderr)

    def note(self, doing: str) -> None:
        """What comes next, without a step forward."""
        self._show(doing)

    def step(self, doing: str = "") -> None:
        self._done += 1
        self._show(doing, now=self._done == self._total)

    def _show(self, doing: str, *, now: bool = False) -> None:
        passed = time.monotonic() - self._began
        line = f"{self._what} {self._done}/{self._total}, {passed:.0f} s  {doing}"
        if self._terminal:
            filled = _WIDTH * self._done // max(1, self._total)
            bar = "█" * filled + "░" * (_WIDTH - filled)
            print(f"\r\x1b[K{bar} {line}", end="", file=sys.stderr, flush=True)
        elif now or time.monotonic() - self._last > _PAUSE:
            self._last = time.monotonic()
            print(line, file=sys.stderr, flush=True)
