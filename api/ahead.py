"""Refreshes behind a hand-out: published to the workers, once, off the request's own thread.

A broker that hangs keeps one thread of ours waiting and no caller. What is not published
here is found by the sweep, and at the latest by the request that finds the token expired.
"""

import logging
import queue
import threading
import time

from oauthvault.celery import app
from tokens.models import Cause
from tokens.vault import HandOut

logger = logging.getLogger(__name__)

_TASK = "tokens.refresh_credentials"
# Seconds in which one generation is published once by this process.
_ONCE_IN = 15.0
_MOST_WAITING = 1000

Due = tuple[int, int, int]  # tenant, credential, generation

_lock = threading.Lock()
_published: dict[Due, float] = {}
_waiting: "queue.Queue[tuple[Due, str]]" = queue.Queue(maxsize=_MOST_WAITING)
_publisher: threading.Thread | None = None


def refresh_behind(handed_out: HandOut, *, actor: str) -> None:
    """Have the workers refresh this credential. Returns at once, whatever the broker does."""
    global _publisher
    credential = handed_out.credential
    due = (credential.tenant_id, credential.pk, handed_out.generation)
    now = time.monotonic()
    with _lock:
        if now - _published.get(due, -_ONCE_IN) < _ONCE_IN:
            return
        for old in [known for known, at in _published.items() if now - at >= _ONCE_IN]:
            del _published[old]
        try:
            _waiting.put_nowait((due, actor))
        except queue.Full:
            return
        _published[due] = now
        if _publisher is None or not _publisher.is_alive():
            _publisher = threading.Thread(target=_publish_for_ever, name="ahead", daemon=True)
            _publisher.start()


def wait_until_published() -> None:
    """Return when everything handed to `refresh_behind` so far was published or given up."""
    _waiting.join()


def forget() -> None:
    """Publish anew what is due (another database, another broker)."""
    wait_until_published()
    with _lock:
        _published.clear()


def _publish_for_ever() -> None:
    while True:
        due, actor = _waiting.get()
        try:
            app.send_task(
                _TASK, args=([list(due)], Cause.HAND_OUT.value, actor), retry=False, expires=60
            )
        except Exception as error:  # whatever kind of broker, whatever it raises
            logger.warning("a refresh could not be published: %s", type(error).__name__)
        finally:
            _waiting.task_done()
