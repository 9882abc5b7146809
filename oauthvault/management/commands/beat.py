"""`oauthvault beat`: the scheduler alone."""

import sys
from typing import Any

from django.conf import settings

from oauthvault.management.become import become
from tokens.management.command import VaultCommand


def command_line() -> list[str]:
    return [
        *(sys.executable, "-P", "-m", "celery", "--quiet"),
        *("--app", "oauthvault.celery:app", "beat"),
        *("--schedule", str(settings.OAUTHVAULT_DATA_DIR / "beat-schedule")),
        # No pid file: one left behind by a crash would stop the next start.
        "--pidfile=",
        *("--loglevel", settings.LOG_LEVEL),
    ]


class Command(VaultCommand):
    help = (
        "Run the scheduler (Celery beat), and nothing else: for a container of its own. Run one of "
        "it; two would only ask twice for the same sweeps. On one machine, `oauthvault up` runs "
        "everything."
    )

    def handle(self, *args: Any, **options: Any) -> None:
        become(command_line())
