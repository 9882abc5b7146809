"""What every measurement stands on: servers, an empty database, and the far side."""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Self

from tests import servers
from tests.processes import clean_environment, fresh_database, oauthvault
from tests.servers import as_role, service_role

SERVICE_KEY = "ovs_" + "r" * 43


class CannotMeasure(Exception):
    """Something that the measurement needs is not there. The message says what would help."""


@dataclass(frozen=True, kw_only=True)
class Ground:
    """Where the servers listen. ``database_url`` None: SQLite, and no Redis."""

    database_url: str | None
    service_url: str | None
    redis_url: str | None
    versions: tuple[str, ...]

    @contextmanager
    def variables(self, folder: str, **more: str) -> Iterator[dict[str, str]]:
        """The environment of a vault with an empty database, for the length of the block."""
        ours = {"OAUTHVAULT_DATA_DIR": f"{folder}/data", "OAUTHVAULT_SERVICE_KEY": SERVICE_KEY}
        with ExitStack() as stack:
            if self.database_url is not None:
                fresh = stack.enter_context(fresh_database(self.database_url))
                ours["OAUTHVAULT_MIGRATION_DATABASE_URL"] = fresh
                ours["DATABASE_URL"] = as_role(fresh, str(self.service_url))
                ours["REDIS_URL"] = self.redis_url or ""
            yield ours | more

    def machine(self) -> dict[str, Any]:
        """What the figures depend on. No names, no paths."""
        return {
            "cores": len(os.sched_getaffinity(0))
            if hasattr(os, "sched_getaffinity")
            else os.cpu_count(),
            "python": platform.python_version(),
            # Without what the packager adds.
            "servers": [version.partition(" (")[0] for version in self.versions],
        }


@contextmanager
def prepared(*, database: str) -> Iterator[Ground]:
    """Servers for ``database`` (postgresql, sqlite): those that TEST_DATABASE_URL and
    TEST_REDIS_URL name, or our own, taken away again."""
    if database == "sqlite":
        import sqlite3

        version = f"SQLite {sqlite3.sqlite_version}"
        yield Ground(database_url=None, service_url=None, redis_url=None, versions=(version,))
        return
    given = os.environ.get("TEST_DATABASE_URL"), os.environ.get("TEST_REDIS_URL")
    with servers.running(database=not given[0], redis=not given[1]) as ours:
        urls = given[0] or ours.database_url, given[1] or ours.redis_url
        for url, why in zip(urls, (ours.why_no_database, ours.why_no_redis), strict=True):
            if url is None:
                raise CannotMeasure(why)
        database_url, redis_url = urls
        assert database_url is not None
        assert redis_url is not None
        try:
            versions = servers.server_version(database_url), servers.server_version(redis_url)
        except servers.NoAnswer as error:
            raise CannotMeasure(str(error)) from None
        with service_role(database_url) as service_url:
            yield Ground(
                database_url=database_url,
                service_url=service_url,
                redis_url=redis_url,
                versions=versions,
            )


def initialise(variables: dict[str, str]) -> None:
    """`oauthvault init`, for the parts that start no web process."""
    done = oauthvault("init", **variables)
    if done.returncode:
        raise CannotMeasure(f"oauthvault init failed: {done.stderr.strip()}")


class Child:
    """A module of ours in a process of its own, spoken to in lines of JSON."""

    def __init__(self, module: str, **variables: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", module],
            env=clean_environment(**variables),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def say(self, value: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(value) + "\n")
        self._process.stdin.flush()

    def hear(self) -> Any:
        """The next line. CannotMeasure if the process has ended."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise CannotMeasure(f"a process of ours ended with status {self._process.wait()}")
        return json.loads(line)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """The end of its input is the end of it; whoever does not see that is killed."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
