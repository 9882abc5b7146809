"""A circuit breaker: who does not answer is asked by one, now and then, and not by everybody."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# So many failures in a row, and the circuit is open for so long after each further one.
FAILURES = 3
PAUSE = 1.5


class CircuitOpen(Exception):
    """Not asked. `retry_after` is in whole seconds, at least 1."""

    def __init__(self, retry_after: int) -> None:
        super().__init__("the circuit is open")
        self.retry_after = retry_after


class Breaker:
    """Belongs to one event loop.

    `failure` is the exception that says that nobody answered; any other is an answer. `changed`
    hears of the circuit opening (True) and closing (False).
    """

    def __init__(
        self,
        failure: type[Exception],
        *,
        changed: Callable[[bool], None] = lambda is_open: None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._failure = failure
        self._changed = changed
        self._monotonic = monotonic
        self._failures = 0
        self._open_until: float | None = None
        self._probing = False
        # Only questions of the present era are judged by: what was asked before the circuit
        # opened and ends now says nothing about now.
        self._era = 0

    @property
    def is_open(self) -> bool:
        return self._open_until is not None

    @contextmanager
    def question(self) -> Iterator[None]:
        """Around one question. Raises :class:`CircuitOpen` in its place."""
        era = self._admit()
        try:
            yield
        except self._failure:
            self._failed(era)
            raise
        except Exception:
            self._answered(era)
            raise
        except BaseException:  # whoever asked has gone away: nothing was learned
            self._abandoned(era)
            raise
        self._answered(era)

    def _admit(self) -> int:
        if self._open_until is not None:
            left = self._open_until - self._monotonic()
            if left > 0 or self._probing:
                raise CircuitOpen(max(1, math.ceil(left)))
            self._probing = True
            self._era += 1
        return self._era

    def _failed(self, era: int) -> None:
        if era != self._era:
            return
        self._failures += 1
        if self._probing or self._failures >= FAILURES:
            newly = self._open_until is None
            self._open_until = self._monotonic() + PAUSE
            self._probing = False
            self._era += 1
            if newly:
                self._changed(True)

    def _answered(self, era: int) -> None:
        if era != self._era:
            return
        self._failures = 0
        if self._probing:
            self._probing = False
            self._open_until = None
            self._changed(False)

    def _abandoned(self, era: int) -> None:
        if era == self._era:
            self._probing = False
