"""`oauthvault worker`: the Celery worker alone."""

import sys
from typing import Any

from django.conf import settings

from oauthvault.management.become import become
from tokens.management.command import VaultCommand

# As root (a container, a bare machine) Celery warns at every start. Its reason is
# pickle, which CELERY_ACCEPT_CONTENT does not accept.
_NO_ROOT_WARNING = "ignore:You're running the worker with superuser privileges:UserWarning"


def _tasks_at_once() -> int:
    """Celery's threads mostly wait for the refreshes of their message; there is always one
    left for a sweep."""
    return (
        max(settings.OAUTHVAULT_WORKER_CONCURRENCY, settings.OAUTHVAULT_REFRESHES_AT_ONCE // 8) + 2
    )


def command_line() -> list[str]:
    return [
        *(sys.executable, "-P", "-W", _NO_ROOT_WARNING, "-m", "celery", "--quiet"),
        *("--app", "oauthvault.celery:app", "worker"),
        *("--pool", "threads", "--concurrency", str(_tasks_at_once())),
        # Workers have nothing to tell each other: the database decides who does what.
        *("--without-gossip", "--without-mingle", "--without-heartbeat"),
        *("--loglevel", settings.LOG_LEVEL),
    ]


class Command(VaultCommand):
    help = (
        "Run the Celery worker, with OAUTHVAULT_WORKER_CONCURRENCY refreshes at once, and nothing "
        "else: for a container of its own. SIGTERM ends it when the refreshes under way are saved. "
        "On one machine, `oauthvault up` runs everything."
    )

    def handle(self, *args: Any, **options: Any) -> None:
        become(command_line())
