"""`oauthvault web`: the HTTP server alone."""

import sys
from typing import Any

from django.conf import settings

from oauthvault.management.become import become
from tokens.management.command import VaultCommand


def command_line() -> list[str]:
    return [
        *(sys.executable, "-P", "-m", "granian"),
        *("--interface", "wsgi", "--http", "1", "--no-ws"),
        *("--host", settings.OAUTHVAULT_HOST, "--port", str(settings.OAUTHVAULT_PORT)),
        *("--workers", str(settings.OAUTHVAULT_WEB_WORKERS)),
        *("--blocking-threads", str(settings.OAUTHVAULT_WEB_THREADS)),
        # Milliseconds. A client that never finishes its request must not hold up a shutdown
        # for longer; httpx lets go of an idle connection after five seconds by itself.
        *("--http1-header-read-timeout", "8000"),
        # A crashed worker is replaced without its neighbours losing a connection.
        "--respawn-failed-workers",
        # An access log would hold every caller's address and query string.
        "--no-access-log",
        *("--log-level", settings.LOG_LEVEL.lower()),
        "oauthvault.wsgi:application",
    ]


class Command(VaultCommand):
    help = (
        "Serve HTTP on OAUTHVAULT_HOST:OAUTHVAULT_PORT with OAUTHVAULT_WEB_WORKERS processes of "
        "OAUTHVAULT_WEB_THREADS threads, and nothing else: for a container of its own. Run "
        "`oauthvault init` first. On one machine, `oauthvault up` runs everything."
    )

    def handle(self, *args: Any, **options: Any) -> None:
        argv = command_line()
        host = (
            f"[{settings.OAUTHVAULT_HOST}]"
            if ":" in settings.OAUTHVAULT_HOST
            else (settings.OAUTHVAULT_HOST)
        )
        self.say(f"The web server starts, on http://{host}:{settings.OAUTHVAULT_PORT}")
        self.stdout.flush()
        become(argv)
