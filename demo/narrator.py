"""Tells what happens, a line at a time, from several threads."""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable


class Narrator:
    """`when_nobody_listens` is called once, when our output can no longer be written."""

    def __init__(self) -> None:
        self.when_nobody_listens: Callable[[], None] = lambda: None
        self._lock = threading.Lock()

    def say(self, sentence: str) -> None:
        """One line, with the time."""
        self.show(f"{time.strftime('%H:%M:%S')}  {sentence}")

    def show(self, text: str) -> None:
        """The text as it is."""
        with self._lock:
            try:
                print(text, flush=True)
                return
            except OSError:
                # Nowhere from here on, so that the interpreter does not trip over it at its end.
                with contextlib.suppress(OSError):
                    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        self.when_nobody_listens()
