"""The process tree under `oauthvault up`, with real processes and real signals."""

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from oauthvault.tether import group_lives

# Runs the programs of a directory, each a Python file, under one supervisor.
DRIVER = """
import fcntl, pathlib, sys
from oauthvault.supervisor import Program, Supervisor
here = pathlib.Path(sys.argv[1])
python = [sys.executable, "-I", "-S"]
lock = open(here / "lock", "w")
fcntl.flock(lock, fcntl.LOCK_EX)
sys.exit(Supervisor(
    [Program(file.stem, [*python, str(file)]) for file in sorted(here.glob("*.py"))],
    say=lambda sentence: print("up |", sentence, flush=True),
    grace=float(sys.argv[2]),
    inherit=[lock.fileno()],
).run())
"""

# Every program appends its process id to <name>.pids when it starts, and its watcher's
# (the leader of its session) to <name>.watchers.
PREAMBLE = """
import os, pathlib, signal, subprocess, sys, time
me = pathlib.Path(__file__)
with me.with_suffix(".pids").open("a") as pids:
    print(os.getpid(), file=pids)
with me.with_suffix(".watchers").open("a") as watchers:
    print(os.getsid(0), file=watchers)
"""
STAYS = "signal.pause()"
CRASHES = "sys.exit(3)"
DEAF = """
signal.signal(signal.SIGTERM, signal.SIG_IGN)
me.with_suffix(".deaf").touch()
while True: signal.pause()
"""
SAVES = """
def save(number, frame):
    print("saving", flush=True)
    time.sleep(1)
    with me.with_suffix(".saved").open("a") as saved:
        print("saved", file=saved)
    print("saved", flush=True)
    sys.exit(0)
signal.signal(signal.SIGTERM, save)
me.with_suffix(".listens").touch()
while True: signal.pause()
"""
SAVES_WHEN_TOLD = SAVES.replace(
    "time.sleep(1)", "while not me.with_suffix('.go').exists(): time.sleep(0.02)"
)
HAS_A_CHILD = """
child = subprocess.Popen([sys.executable, "-I", "-S", "-c", "import signal; signal.pause()"])
me.with_suffix(".child").write_text(str(child.pid))
signal.pause()
"""


class Tree:
    """A supervisor in a process of its own, and what its programs left in a directory."""

    def __init__(self, directory: Path, grace: float) -> None:
        self.directory = directory
        with (directory / "output").open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-c", DRIVER, str(directory), str(grace)],
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def output(self) -> str:
        return (self.directory / "output").read_text()

    def pids(self, name: str) -> list[int]:
        """The process ids under which the program has started, in order."""
        return self._numbers(f"{name}.pids")

    def started(self, name: str, times: int = 1) -> int:
        until(lambda: len(self.pids(name)) >= times)
        return self.pids(name)[-1]

    def exists(self, name: str) -> bool:
        return (self.directory / name).exists()

    def groups(self) -> list[int]:
        """The process groups of all programs and of their watchers."""
        files = [*self.directory.glob("*.pids"), *self.directory.glob("*.watchers")]
        return [number for file in files for number in self._numbers(file.name)]

    def nothing_is_left(self) -> bool:
        return not any(group_lives(group) for group in self.groups())

    def _numbers(self, name: str) -> list[int]:
        with contextlib.suppress(FileNotFoundError):
            return [int(line) for line in (self.directory / name).read_text().split()]
        return []


@pytest.fixture
def grow(tmp_path: Path) -> Iterator[Callable[..., Tree]]:
    trees: list[Tree] = []

    def start(grace: float = 20.0, **programs: str) -> Tree:
        for name, source in programs.items():
            (tmp_path / f"{name}.py").write_text(PREAMBLE + textwrap.dedent(source))
        trees.append(Tree(tmp_path, grace))
        return trees[-1]

    yield start
    for tree in trees:
        tree.process.kill()
        tree.process.wait()
        for group in tree.groups():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)


def until(holds: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_the_whole_tree_within_ten_seconds(
    grow: Callable[..., Tree], number: signal.Signals
) -> None:
    tree = grow(web=STAYS, worker=STAYS, beat=HAS_A_CHILD)
    for name in ("web", "worker", "beat"):
        tree.started(name)
    until(lambda: tree.exists("beat.child"))

    tree.process.send_signal(number)

    # What does not end by itself would be killed after twenty, and the status be 1.
    assert tree.process.wait(timeout=10) == 0
    until(tree.nothing_is_left)


def test_kill_9_on_the_supervisor_leaves_no_process(grow: Callable[..., Tree]) -> None:
    tree = grow(web=HAS_A_CHILD, worker=STAYS, beat=STAYS)
    for name in ("web", "worker", "beat"):
        tree.started(name)
    until(lambda: tree.exists("web.child"))

    tree.process.kill()

    until(tree.nothing_is_left)


def test_a_program_that_saves_is_waited_for(grow: Callable[..., Tree]) -> None:
    tree = grow(worker=SAVES, web=STAYS)
    until(lambda: tree.exists("worker.listens"))

    tree.process.terminate()
    until(lambda: "worker | saving" in tree.output())
    tree.process.terminate()  # Asking again must not hurry it,
    tree.process.send_signal(signal.SIGINT)  # nor must Ctrl-C.

    assert tree.process.wait(timeout=60) == 0
    assert (tree.directory / "worker.saved").read_text() == "saved\n"


def test_a_program_may_save_after_kill_9_on_the_supervisor(grow: Callable[..., Tree]) -> None:
    tree = grow(worker=SAVES)
    until(lambda: tree.exists("worker.listens"))

    tree.process.kill()

    until(tree.nothing_is_left)
    assert (tree.directory / "worker.saved").read_text() == "saved\n"
    assert "worker | saved" in tree.output()


def test_a_program_that_will_not_end_is_killed_after_the_grace(grow: Callable[..., Tree]) -> None:
    tree = grow(grace=1.0, worker=DEAF)
    until(lambda: tree.exists("worker.deaf"))

    tree.process.terminate()

    assert tree.process.wait(timeout=60) == 1
    assert "worker did not end within 1 s and is killed" in tree.output()
    until(tree.nothing_is_left)


def test_kill_9_on_the_supervisor_ends_a_deaf_program_too(grow: Callable[..., Tree]) -> None:
    tree = grow(grace=1.0, worker=DEAF)
    until(lambda: tree.exists("worker.deaf"))

    tree.process.kill()

    until(tree.nothing_is_left)


def test_a_crashed_program_is_started_again_and_its_neighbours_stay(
    grow: Callable[..., Tree],
) -> None:
    tree = grow(worker=STAYS, web=STAYS)
    first, neighbour = tree.started("worker"), tree.started("web")

    os.kill(first, signal.SIGKILL)

    second = tree.started("worker", times=2)
    assert second != first
    assert "worker ended (by SIGKILL); starting it again in 0.5 s" in tree.output()
    assert tree.pids("web") == [neighbour]


def test_what_a_crashed_program_leaves_behind_is_cleared_away(grow: Callable[..., Tree]) -> None:
    tree = grow(web=HAS_A_CHILD)
    first = tree.started("web")
    until(lambda: tree.exists("web.child"))

    os.kill(first, signal.SIGKILL)

    tree.started("web", times=2)
    assert not group_lives(first)


def test_a_program_whose_watcher_is_killed_is_cleared_away_and_started_again(
    grow: Callable[..., Tree],
) -> None:
    tree = grow(worker=HAS_A_CHILD)
    first = tree.started("worker")
    until(lambda: tree.exists("worker.child"))

    os.kill(os.getsid(first), signal.SIGKILL)  # The watcher leads the session.

    tree.started("worker", times=2)
    assert not group_lives(first)


def test_a_program_that_keeps_dying_ends_the_tree(grow: Callable[..., Tree]) -> None:
    tree = grow(web=STAYS, worker=CRASHES)

    assert tree.process.wait(timeout=100) == 1

    assert len(tree.pids("worker")) == 5
    assert "worker ended 5 times within a minute (with status 3)" in tree.output()
    until(tree.nothing_is_left)


def test_a_lock_is_held_until_the_last_program_has_ended(grow: Callable[..., Tree]) -> None:
    tree = grow(worker=SAVES_WHEN_TOLD)
    until(lambda: tree.exists("worker.listens"))

    tree.process.kill()
    tree.process.wait()

    with (tree.directory / "lock").open() as lock:
        with pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        (tree.directory / "worker.go").touch()
        fcntl.flock(lock, fcntl.LOCK_EX)
    assert tree.exists("worker.saved")


def test_a_program_may_have_an_environment_and_a_log_of_its_own(tmp_path: Path) -> None:
    log = tmp_path / "log"
    driver = """
import pathlib, sys, threading, time
from oauthvault.supervisor import Program, Supervisor
log = pathlib.Path(sys.argv[1])
source = "import os, signal; print(os.environ, flush=True); signal.pause()"
tree = Supervisor(
    [Program("speaks", [sys.executable, "-I", "-S", "-c", source], env={"WORD": "own"}, log=log)],
    say=print,
    env={"WORD": "the tree's"},
)
def end_when_it_spoke():
    while not log.exists() or not log.read_text().endswith("\\n"):
        time.sleep(0.02)
    tree.stop()
threading.Thread(target=end_when_it_spoke, daemon=True).start()
status = tree.run()
assert tree.stopping.is_set()
sys.exit(status)
"""
    done = subprocess.run(
        [sys.executable, "-c", driver, str(log)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "'WORD': 'own'" in log.read_text()
    assert "speaks" not in done.stdout


def test_output_arrives_in_whole_lines_under_the_name_of_the_program(
    grow: Callable[..., Tree],
) -> None:
    speaks = """
    os.write(1, b"one\\ntw"); time.sleep(0.1); os.write(2, b"o\\n\\n"); signal.pause()
    """
    tree = grow(web=speaks, worker=STAYS)

    until(lambda: "web    | two" in tree.output())

    assert [line for line in tree.output().splitlines() if "web" in line] == [
        "web    | one",
        "web    | two",
    ]
