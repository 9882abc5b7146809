"""`python -m tests`, which is `make test`: the whole suite on every database.

First on SQLite, the embedded default, without Redis; then on PostgreSQL and Redis.
What could not be tested is named at the end, and under CI=true it is a failure.
"""

import argparse
import os
import secrets
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from xml.etree import ElementTree

from tests import servers

REPOSITORY = Path(__file__).resolve().parent.parent
# The tests see none of the caller's own vault, and no setting that would change pytest.
_NOT_OURS = ("CLAUDE_", "OAUTHVAULT_", "PYTEST_", "ANTHROPIC_", "GRANIAN_", "CELERY_")
_NOT_OURS_EITHER = ("DATABASE_URL", "REDIS_URL", "DJANGO_SETTINGS_MODULE")
_NOTHING_COLLECTED = 5
_SEED = secrets.randbelow(2**32)


@dataclass(frozen=True)
class Result:
    """One run of pytest: on what, how it ended, how many."""

    where: str
    status: int
    passed: int = 0
    failed: int = 0
    skipped: int = 0

    def __str__(self) -> str:
        counts = f"{self.passed} passed, {self.failed} failed, {self.skipped} skipped"
        if self.status not in (0, 1, _NOTHING_COLLECTED):
            counts += f" (pytest ended with status {self.status})"
        return f"{self.where}: {counts}"


def main(argv: Sequence[str]) -> int:
    """Run what was asked for, print the summary: 0 if all of it passed, else 1."""
    options, pytest_arguments = _parser().parse_known_args(argv)
    # SIGINT too: started in the background we inherit it as ignored, and pytest would from us.
    # So would it SIGHUP from nohup.
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    results: list[Result] = []
    untested: list[str] = []
    try:
        if options.only in (None, "sqlite"):
            untested += _missing_tools()
            where = f"SQLite {sqlite3.sqlite_version} (embedded default, no Redis)"
            results.append(_pytest(where, {}, options.markers, pytest_arguments))
        if options.only in (None, "postgresql"):
            results += _on_postgresql(options.markers, pytest_arguments, untested)
    except KeyboardInterrupt:
        print("\nInterrupted.")
        return 130
    return _summary(results, untested)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests",
        allow_abbrev=False,
        description="Run the test suite on SQLite, then on PostgreSQL and Redis. All other "
        "arguments go to pytest, for example: -k refresh -x, or tests/test_vault.py.",
        epilog="TEST_DATABASE_URL and TEST_REDIS_URL name servers to use; the role must be a "
        "superuser, for the tests make a database and roles. Without them, servers are started "
        "from installed binaries and removed again. Under CI=true whatever could not be tested "
        "is a failure.",
    )
    parser.add_argument("--only", choices=["sqlite", "postgresql"], help="one database only")
    parser.add_argument("-m", dest="markers", metavar="EXPRESSION", help="as pytest's -m")
    return parser


def _on_postgresql(
    markers: str | None, pytest_arguments: Sequence[str], untested: list[str]
) -> list[Result]:
    given = {
        "DATABASE_URL": os.environ.get("TEST_DATABASE_URL"),
        "REDIS_URL": os.environ.get("TEST_REDIS_URL"),
    }
    with servers.running(database=not given["DATABASE_URL"], redis=not given["REDIS_URL"]) as ours:
        if why := ours.why_no_database:
            untested.append(f"PostgreSQL ({why})")
        if why := ours.why_no_redis:
            untested.append(f"Redis ({why})")
        environment, versions = {"TESTS_RUN_ON": "postgresql"}, []
        for name, started in (("DATABASE_URL", ours.database_url), ("REDIS_URL", ours.redis_url)):
            if url := given[name] or started:
                try:
                    versions.append(servers.server_version(url))
                except servers.NoAnswer as error:
                    untested.append(f"what TEST_{name} names ({error})")
                else:
                    environment[name] = url
        if "DATABASE_URL" not in environment:
            return []
        # As the document wants it: one role owns and migrates, a plain one serves, and all that
        # the tests find is what row-level security lets it see.
        environment["OAUTHVAULT_MIGRATION_DATABASE_URL"] = environment["DATABASE_URL"]
        # Those that start real processes test the processes: once is enough.
        fast = "not system or postgres_too"
        markers = f"({markers}) and ({fast})" if markers else fast
        with servers.service_role(environment["DATABASE_URL"]) as plain:
            environment["DATABASE_URL"] = plain
            return [_pytest(", ".join(versions), environment, markers, pytest_arguments)]


def _pytest(
    where: str, servers_of_ours: dict[str, str], markers: str | None, arguments: Sequence[str]
) -> Result:
    """One pytest in a process of its own, in a clean environment."""
    print(f"\n── {where} ──", flush=True)
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(_NOT_OURS) and name not in _NOT_OURS_EITHER
    }
    with tempfile.TemporaryDirectory(prefix="oauthvault-tests-") as folder:
        report = Path(folder) / "report.xml"
        command = [
            *(sys.executable, "-m", "pytest", f"--junitxml={report}"),
            *("-n", "2", "--dist", "loadgroup"),
            *(("-m", markers) if markers else ()),
            *_random_order(arguments),
            *arguments,
        ]
        with _interruptible(
            subprocess.Popen(command, cwd=REPOSITORY, env=environment | servers_of_ours)
        ) as process:
            status = process.wait()
        return _result(where, status, report)


def _random_order(arguments: Sequence[str]) -> list[str]:
    """A seed that every run of pytest shares, and that can be given again."""
    if any("randomly" in argument for argument in arguments):
        return []
    return [f"--randomly-seed={_SEED}"]


@contextmanager
def _interruptible(process: "subprocess.Popen[bytes]") -> "Iterator[subprocess.Popen[bytes]]":
    """On an interruption wait for pytest, which has databases to drop.

    A Ctrl-C reached it as well, and a second one would make it drop nothing; it is told
    only if it does not seem to know.
    """
    try:
        yield process
    except KeyboardInterrupt:
        for number, patience in ((0, 3), (signal.SIGINT, 15), (signal.SIGKILL, None)):
            process.send_signal(number)
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=patience)
                break
        raise


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _result(where: str, status: int, report: Path) -> Result:
    if not report.exists():
        return Result(where, status)
    suites = ElementTree.parse(report).getroot().iter("testsuite")
    total = failed = skipped = 0
    for suite in suites:
        total += int(suite.get("tests", 0))
        failed += int(suite.get("failures", 0)) + int(suite.get("errors", 0))
        skipped += int(suite.get("skipped", 0))
    return Result(where, status, total - failed - skipped, failed, skipped)


def _missing_tools() -> list[str]:
    missing = []
    litellm = Path(os.environ.get("TEST_LITELLM_ENVIRONMENT") or REPOSITORY / ".venv-litellm")
    if not (litellm / "bin" / "litellm").exists():
        missing.append("the LiteLLM hook in a real proxy (no .venv-litellm; make .venv-litellm)")
    for program in ("bash", "curl", "openssl"):
        if shutil.which(program) is None:
            missing.append(f"the commands of the document (no {program}; apt install {program})")
    if servers.find_chromium() is None:
        missing.append("the dashboard in a browser (no Chromium found; apt install chromium)")
    if servers.find_faketime() is None:
        missing.append("processes whose clocks are wrong (apt install libfaketime)")
    return missing


def _summary(results: Sequence[Result], untested: Sequence[str]) -> int:
    print("\n── Summary ──")
    for result in results:
        print(result)
    for what in untested:
        print(f"NOT TESTED: {what}")
    passed, failed, skipped = (
        sum(getattr(result, name) for result in results) for name in ("passed", "failed", "skipped")
    )
    print(f"Order of the tests: --randomly-seed={_SEED}")
    ran_badly = any(result.status not in (0, _NOTHING_COLLECTED) for result in results)
    nothing_ran = not passed + failed + skipped
    if nothing_ran:
        print("No test ran.")
    elif ran_badly and not failed:
        print("pytest itself failed: see above.")
    print(f"{passed} passed, {failed} failed, {skipped} skipped", flush=True)
    ci = os.environ.get("CI", "").lower() in ("1", "true", "yes")
    return 1 if ran_badly or nothing_ran or (ci and untested) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
