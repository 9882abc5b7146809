"""PostgreSQL and Redis of our own for a test run, from binaries that the machine has.

`running()` starts both on private ports of the loopback and takes them away again,
data and all: at the end of its block, on Ctrl-C and SIGTERM, and when the test run is
killed with -9. The servers belong to a keeper, `python -m tests.servers`, which is
tied to the run as the vault's programs are tied to `oauthvault up` (oauthvault/tether.py).
"""

import contextlib
import fcntl
import json
import os
import pwd
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from glob import glob
from pathlib import Path
from types import FrameType
from typing import Any, Literal, NoReturn
from urllib.parse import urlsplit, urlunsplit

import psycopg
import redis
from psycopg import sql

from oauthvault.tether import Tethered
from tests.ports import free_port

_PREFIX = "oauthvault-servers-"
# What a note is called that one of the servers is to be away, for as long as it lies there.
_AWAY = ".away"
_START_WITHIN = 120.0
_STOP_WITHIN = 40.0

_POSTGRESQL_PLACES = (
    "/usr/lib/postgresql/*/bin",
    "/usr/pgsql-*/bin",
    "/opt/homebrew/opt/postgresql*/bin",
    "/usr/local/opt/postgresql*/bin",
    "/Applications/Postgres.app/Contents/Versions/*/bin",
)
_REDIS_PLACES = ("/opt/homebrew/bin", "/usr/local/bin", "/opt/homebrew/opt/redis*/bin")
_FAKETIME_PLACES = (
    "/usr/lib/*/faketime/libfaketime.so.1",
    "/usr/lib*/faketime/libfaketime.so.1",
)
_CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_CHROMIUM_ON_MACOS = (
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
)


@dataclass(frozen=True)
class Servers:
    """Where the servers listen; None for one that could not be started, and why not."""

    database_url: str | None
    redis_url: str | None
    why_no_database: str = ""
    why_no_redis: str = ""
    home: str = ""


class NotStarted(Exception):
    """A server could not be started. The message says why, and what would help."""


class NoAnswer(Exception):
    """Nothing at that address answers as a server of that kind."""


@contextlib.contextmanager
def running(*, database: bool = True, redis: bool = True) -> Iterator[Servers]:
    """The servers asked for, for as long as the block lasts."""
    wanted = [name for name, want in (("database", database), ("redis", redis)) if want]
    if not wanted:
        yield Servers(None, None)
        return
    keeper = Tethered(
        [sys.executable, "-m", "tests.servers", *wanted],
        grace=_STOP_WITHIN + 10,
        env={**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONPATH": str(_repository())},
        stdout=subprocess.PIPE,
    )
    try:
        assert keeper.stdout is not None
        lines = []
        while line := keeper.stdout.readline().decode():
            if line.startswith("{"):
                yield Servers(**json.loads(line))
                break
            lines.append(line)
        else:
            raise NotStarted(f"the keeper of the servers ended: {''.join(lines)}")
    finally:
        keeper.terminate()
        _until(lambda: keeper.returncode() is not None, _STOP_WITHIN + 15)
        keeper.close()


@contextlib.contextmanager
def away(
    ours: Servers, name: Literal["database", "redis"], *, killed: bool = False
) -> Iterator[None]:
    """One of the servers is stopped, or killed, for the length of the block.

    It answers again, at the same address and on the same data, when the block is left.
    """
    url = ours.database_url if name == "database" else ours.redis_url
    assert url is not None
    number = signal.SIGKILL if killed else signal.SIGINT
    note = Path(ours.home) / f"{name}{_AWAY}"
    note.write_text(str(number.value))
    try:
        _until(lambda: not _answers(url), _STOP_WITHIN)
        yield
    finally:
        note.unlink()
        _until(lambda: _answers(url), _START_WITHIN)


def find_chromium() -> str | None:
    """The Chromium (or Chrome) that the browser tests drive."""
    found = [shutil.which(name) for name in _CHROMIUM_NAMES]
    found += [path for path in _CHROMIUM_ON_MACOS if os.access(path, os.X_OK)]
    return next((path for path in found if path), None)


def find_faketime() -> str | None:
    """The library that shows a process another time than it is."""
    return next((found for pattern in _FAKETIME_PLACES for found in sorted(glob(pattern))), None)


def find_pg_dump() -> str | None:
    """The program that dumps a database, of the newest PostgreSQL on this machine."""
    folder = _folder_with(["pg_dump"], _POSTGRESQL_PLACES)
    return None if folder is None else str(folder / "pg_dump")


@contextlib.contextmanager
def service_role(admin_url: str) -> Iterator[str]:
    """The same address for a plain role, as the service should have it: neither superuser nor
    past row-level security. Taken away again; what it owns must be gone by then."""
    name, password = f"vault_service_{secrets.token_hex(4)}", secrets.token_hex(16)
    role = sql.Identifier(name)
    with psycopg.connect(admin_url, autocommit=True) as admin:
        admin.execute(
            sql.SQL("CREATE ROLE {} LOGIN CREATEDB PASSWORD {}").format(role, sql.Literal(password))
        )
        # To switch off the triggers that keep the audit trail, for which a table's owner is
        # needed otherwise (tests.emptying). PostgreSQL 15 is the oldest that has this right.
        admin.execute(sql.SQL("GRANT SET ON PARAMETER session_replication_role TO {}").format(role))
    try:
        yield as_role(admin_url, f"{name}:{password}")
    finally:
        # With a server of our own it may be gone already, role and all.
        with (
            contextlib.suppress(psycopg.Error),
            psycopg.connect(admin_url, autocommit=True) as admin,
        ):
            admin.execute(sql.SQL("DROP OWNED BY {}").format(role))
            admin.execute(sql.SQL("DROP ROLE {}").format(role))


def as_role(url: str, credentials: str) -> str:
    """The address with other ``credentials`` (``name:password``, or an address that has them)."""
    if "://" in credentials:
        credentials = urlsplit(credentials).netloc.rpartition("@")[0]
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=f"{credentials}@{parts.netloc.rpartition('@')[2]}"))


def server_version(url: str) -> str:
    """What a running server calls itself: `PostgreSQL 15.6`, `Redis 7.0.15`."""
    try:
        if url.startswith("postgres"):
            with psycopg.connect(url, connect_timeout=5) as connection:
                return f"PostgreSQL {connection.info.parameter_status('server_version')}"
        with redis.Redis.from_url(url, socket_timeout=5) as client:
            information: Any = client.info("server")
            return f"Redis {information['redis_version']}"
    except (psycopg.Error, redis.RedisError, ValueError) as error:
        raise NoAnswer(" ".join(str(error).split())) from None


# --- The keeper: a process of its own ------------------------------------------------------


@dataclass
class _Kept:
    """One server, and how it is started again."""

    process: subprocess.Popen[bytes]
    start: Callable[[], subprocess.Popen[bytes]]


def keep(wanted: Sequence[str]) -> None:
    """Start what is wanted, print one line of JSON, stay until SIGTERM, remove everything."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, _leave)
    _remove_stale_homes()
    home = Path(tempfile.mkdtemp(prefix=_PREFIX))
    kept: dict[str, _Kept] = {}
    with (home / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            home.chmod(0o711)  # The servers' user passes through; their own folders are 0700.
            report: dict[str, str | None] = asdict(Servers(None, None, home=str(home)))
            for name, start in (("database", _start_postgresql), ("redis", _start_redis)):
                if name in wanted:
                    try:
                        report[f"{name}_url"], kept[name] = start(home)
                    except (NotStarted, OSError) as error:
                        report[f"why_no_{name}"] = str(error)
            print(json.dumps(report), flush=True)
            while True:
                for name, server in kept.items():
                    _stop_or_start(server, home / f"{name}{_AWAY}")
                time.sleep(0.05)
        finally:
            # What must be done now is done, however often we are asked to hurry.
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)
            _stop([server.process for server in kept.values()])
            shutil.rmtree(home, ignore_errors=True)


def _stop_or_start(server: _Kept, note: Path) -> None:
    """As `away` asks for. A server that ended by itself stays away: a test should fail."""
    with contextlib.suppress(FileNotFoundError, ValueError):
        number = int(note.read_text())
        if server.process.poll() is None:
            server.process.send_signal(number)
            server.process.wait()
        _until(lambda: not note.exists(), float("inf"))
        server.process = server.start()


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(0)


def _remove_stale_homes() -> None:
    """Data of a keeper that was itself killed: its lock is free."""
    for home in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError), (home / "lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(home, ignore_errors=True)


def _start_postgresql(home: Path) -> tuple[str, _Kept]:
    """A PostgreSQL for tests, UTF8, nothing durable: the address, for a superuser."""
    folder = _folder_with(("initdb", "postgres"), _POSTGRESQL_PLACES)
    if folder is None:
        raise NotStarted("no server binary found; apt install postgresql or set TEST_DATABASE_URL")
    place, password = _own_place(home / "postgresql"), secrets.token_urlsafe(18)
    data, password_file = place / "data", place / "password"
    password_file.write_text(password)
    _give_away(password_file)
    with (place / "log").open("wb") as log:
        made = subprocess.run(
            [
                *(folder / "initdb", "--pgdata", data, "--username", "oauthvault"),
                *("--pwfile", password_file, "--auth", "scram-sha-256"),
                *("--encoding", "UTF8", "--locale", "C", "--no-sync"),
            ],
            cwd=place,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            **_unprivileged(),
        )
        if made.returncode:
            raise NotStarted(f"initdb failed: {_last_line(place / 'log')}")

        def start(port: int) -> list[str | Path]:
            settings = {
                "listen_addresses": "127.0.0.1",
                "port": str(port),
                "unix_socket_directories": "",
                "max_connections": "200",
                "shared_buffers": "64MB",
                "fsync": "off",
                "full_page_writes": "off",
                "wal_level": "minimal",
                "max_wal_senders": "0",
            }
            options = [f"--{name}={value}" for name, value in settings.items()]
            return [folder / "postgres", "-D", data, *options]

        def address(port: int) -> str:
            return f"postgresql://oauthvault:{password}@127.0.0.1:{port}/postgres"

    url, kept = _serve(start, address, place)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE DATABASE oauthvault")
    return url.removesuffix("/postgres") + "/oauthvault", kept


def _start_redis(home: Path) -> tuple[str, _Kept]:
    """A Redis that keeps nothing on disk."""
    folder = _folder_with(("redis-server",), _REDIS_PLACES)
    if folder is None:
        raise NotStarted("no server binary found; apt install redis-server or set TEST_REDIS_URL")
    place = _own_place(home / "redis")

    def start(port: int) -> list[str | Path]:
        return [
            *(folder / "redis-server", "--port", str(port), "--bind", "127.0.0.1"),
            *("--save", "", "--appendonly", "no", "--dir", place),
        ]

    return _serve(start, lambda port: f"redis://127.0.0.1:{port}/0", place)


def _serve(
    command: Callable[[int], list[str | Path]],
    address: Callable[[int], str],
    place: Path,
) -> tuple[str, _Kept]:
    """Start the server on a free port, another one if somebody was quicker; its address."""
    for _ in range(3):
        port = free_port()
        url = address(port)

        def start(port: int = port) -> subprocess.Popen[bytes]:
            with (place / "log").open("ab") as log:
                return subprocess.Popen(
                    command(port),
                    cwd=place,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    **_unprivileged(),
                )

        process = start()

        def settled(process: subprocess.Popen[bytes] = process, url: str = url) -> bool:
            return process.poll() is not None or _answers(url)

        try:
            _until(settled, _START_WITHIN)
            if process.poll() is None and _answers(url):
                return url, _Kept(process, start)
        except BaseException:
            # We are told to leave: nobody else knows of it yet.
            _stop([process])
            raise
        _stop([process])
    raise NotStarted(f"it did not start: {_last_line(place / 'log')}")


def _answers(url: str) -> bool:
    try:
        return bool(server_version(url))
    except NoAnswer:
        return False


def _stop(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """SIGINT: PostgreSQL's fast shutdown, which waits for no client; Redis ends as well."""
    for process in processes:
        process.send_signal(signal.SIGINT)
    for process in processes:
        try:
            process.wait(timeout=_STOP_WITHIN / 2)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


# --- The machine ---------------------------------------------------------------------------


def _repository() -> Path:
    return Path(__file__).resolve().parent.parent


def _folder_with(names: Sequence[str], places: Sequence[str]) -> Path | None:
    """Where all the programs are: on the PATH, else in the newest of the usual places."""
    on_path = shutil.which(names[0])
    folders = [Path(on_path).resolve().parent] if on_path else []
    for pattern in places:
        folders += sorted((Path(found) for found in glob(pattern)), key=_newest_first)
    for folder in folders:
        if all(os.access(folder / name, os.X_OK) for name in names):
            return folder
    return None


def _newest_first(path: Path) -> list[int]:
    return [-int(number) for number in re.findall(r"\d+", str(path))]


def _user() -> pwd.struct_passwd | None:
    """Whom servers run as when we are root, which PostgreSQL refuses to be; else None."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise NotStarted("this runs as root, and there is neither a user postgres nor nobody")


def _unprivileged() -> dict[str, Any]:
    user = _user()
    if user is None:
        return {}
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


def _own_place(path: Path) -> Path:
    path.mkdir(mode=0o700)
    _give_away(path)
    return path


def _give_away(path: Path) -> None:
    user = _user()
    if user is not None:
        os.chown(path, user.pw_uid, user.pw_gid)


def _until(holds: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.05)


def _last_line(path: Path) -> str:
    lines = path.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing"


if __name__ == "__main__":
    keep(sys.argv[1:])
