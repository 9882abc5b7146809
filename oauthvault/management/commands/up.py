"""`oauthvault up`: the whole vault in the foreground, from an empty directory if need be."""

import contextlib
import errno
import fcntl
import http.client
import os
import socket
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import connections

from oauthvault import __version__
from oauthvault.env import child_environment
from oauthvault.management.commands import beat, web, worker
from oauthvault.supervisor import Program, Supervisor
from tokens.management.command import VaultCommand

# A refresh may take 30 s, and saving it a little longer.
GRACE = 60.0


class Command(VaultCommand):
    help = (
        "Run the whole vault in the foreground: prepare the database, the keys and the first "
        "operator (as `oauthvault init` does), then web server, worker and scheduler together. "
        "Ctrl-C or SIGTERM ends all of it, as soon as a refresh under way is saved. Everything "
        "is configured by the environment: OAUTHVAULT_HOST and OAUTHVAULT_PORT say where to "
        "listen (127.0.0.1:8000), OAUTHVAULT_DATA_DIR where things are kept (./data), "
        "DATABASE_URL and REDIS_URL name PostgreSQL and Redis in place of the embedded default."
    )

    def handle(self, *args: Any, **options: Any) -> None:
        host, port = settings.OAUTHVAULT_HOST, settings.OAUTHVAULT_PORT
        lock = self._claim(settings.OAUTHVAULT_DATA_DIR)
        refuse_used_port(host, port)
        call_command("init", quiet=True)
        connections.close_all()

        over = threading.Event()
        threading.Thread(target=self._announce, args=(host, port, over), daemon=True).start()
        try:
            status = Supervisor(
                [
                    Program("web", web.command_line()),
                    Program("worker", worker.command_line()),
                    Program("beat", beat.command_line()),
                ],
                say=lambda sentence: self._print(f"{'up':<6} | {sentence}"),
                env=child_environment() | {"PYTHONUNBUFFERED": "1"},
                grace=GRACE,
                inherit=[lock],
            ).run()
        finally:
            over.set()
        if status:
            raise SystemExit(status)

    def _claim(self, data_dir: Path) -> int:
        """Lock the data directory for this `up` and its programs: the descriptor to keep open.

        CommandError if another `up` has it. One that was killed is waited for while its
        last programs end.
        """
        lock = os.open(data_dir / "up.lock", os.O_RDWR | os.O_CREAT, 0o600)
        deadline = None
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                owner = os.pread(lock, 32, 0).strip()
                if owner.isdigit() and _alive(int(owner)):
                    raise CommandError(
                        f"another `oauthvault up` (process {int(owner)}) is running on {data_dir}; "
                        "stop it, or give this one an OAUTHVAULT_DATA_DIR of its own"
                    ) from None
            if deadline is None:
                deadline = time.monotonic() + GRACE + 5
                self._print("Waiting for what is left of an earlier `oauthvault up` to end …")
            if time.monotonic() > deadline:
                raise CommandError(f"{data_dir} is still in use by an earlier `oauthvault up`")
            time.sleep(0.1)
        os.ftruncate(lock, 0)
        os.pwrite(lock, str(os.getpid()).encode(), 0)
        return lock

    def _announce(self, host: str, port: int, over: threading.Event) -> None:
        """Say where everything is, as soon as the web server answers."""
        began = time.monotonic()
        while not answers(host, port):
            # Eager at first, then patient: whatever is wrong is being said by others.
            if over.wait(0.1 if time.monotonic() < began + 10 else 2):
                return
        base = settings.OAUTHVAULT_BASE_URL.rstrip("/")
        database = "PostgreSQL" if settings.ON_POSTGRESQL else "SQLite"
        broker = "Redis" if settings.REDIS_URL is not None else "files"
        self._print(
            f"\noauthvault {__version__} is ready after {time.monotonic() - began:.1f} s\n\n"
            f"  vault    {base}\n"
            f"  admin    {base}/admin/\n"
            f"  API      {base}/api/docs\n"
            f"  health   {base}/auth/claude/health\n"
            f"  data     {settings.OAUTHVAULT_DATA_DIR} ({database}, broker: {broker})\n\n"
            "Ctrl-C stops everything.\n"
        )

    def _print(self, text: str) -> None:
        # Whoever read our output may be gone; that must not end the vault.
        with contextlib.suppress(OSError):
            self.stdout.write(text)
            self.stdout.flush()


def refuse_used_port(host: str, port: int) -> None:
    """CommandError, in one sentence, unless the address can be listened on.

    The server itself would not notice: it shares its port on purpose (SO_REUSEPORT).
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except socket.gaierror as error:
        raise CommandError(f"OAUTHVAULT_HOST {host!r} is no address: {error.strerror}") from None
    with socket.socket(family, kind, protocol) as probe:
        # As servers do: connections of an earlier run that linger in TIME_WAIT are no hindrance.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
            # Two sockets with SO_REUSEADDR may be bound; only one of them may listen.
            probe.listen(1)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise CommandError(
                    f"port {port} on {host} is in use; stop what listens there, "
                    "or choose another with OAUTHVAULT_PORT"
                ) from None
            raise CommandError(f"cannot listen on {host}:{port}: {error.strerror}") from None


def answers(host: str, port: int) -> bool:
    """Whether the web server says that it is alive."""
    target = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)  # noqa: S104
    connection = http.client.HTTPConnection(target, port, timeout=2)
    try:
        # The public name is always among the allowed hosts; the address we bind may not be.
        public_name = urlsplit(settings.OAUTHVAULT_BASE_URL).netloc
        connection.request("GET", "/livez", headers={"Host": public_name})
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
