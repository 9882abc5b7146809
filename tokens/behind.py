"""Writing behind the requests: gathered in memory, written every few seconds and at the end.

For counts and times of use, which may lose a process's last seconds when it is killed, and
for nothing else.
"""

import atexit
import logging
import threading
from collections.abc import Callable

from django.conf import settings
from django.db import connection

logger = logging.getLogger(__name__)


class WriteBehind:
    """A thread of this process that calls ``write`` every `settings.WRITE_BEHIND_EVERY`
    seconds, and once more when the process ends. None there: only tests call `write`."""

    def __init__(self, name: str, write: Callable[[], None]) -> None:
        self._name, self._write = name, write
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        atexit.register(self._finish)

    def wake(self) -> None:
        """There is something to write. Starts the thread with the first call in a process."""
        if settings.WRITE_BEHIND_EVERY is None:
            return
        with self._lock:
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(settings.WRITE_BEHIND_EVERY):
            self._write_once()
        self._write_once()

    def _write_once(self) -> None:
        try:
            self._write()
        except Exception:
            # Whatever it was: what is gathered from now on is written all the same.
            logger.exception("%s could not be written", self._name)
        finally:
            connection.close()

    def _finish(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=5)
