"""`make demo`: what it tells comes true, and it leaves no process behind."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from demo.cast import BOB, CAST, MALLORY
from demo.narrator import Narrator
from demo.ports import Ports
from demo.stage import Stage
from demo.story import Story
from oauthvault.tether import group_lives
from tests.litellm.processes import ROOT, require_litellm, until
from tests.processes import process_groups
from tests.simulator import RemoteSimulator

PATIENCE = 240.0


class Demo:
    """One `python -m demo`, whose temporary folder is in ours."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder = folder
        self.groups: list[int] = []
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        self._log = folder / "output"
        with self._log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "demo", *options],
                # A vault's and a proxy's own variables mean nothing to it.
                env=kept
                | {"TMPDIR": str(folder), "DATABASE_URL": "none", "ANTHROPIC_API_KEY": "none"},
                cwd=ROOT,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def output(self) -> str:
        return self._log.read_text()

    def wait_until_all_is_up(self) -> None:
        """And remember every process group."""
        until(
            lambda: "sign in as admin" in self.output() or self.process.poll() is not None,
            PATIENCE,
            self.output,
        )
        assert self.process.poll() is None, self.output()
        self.groups = process_groups(self.process.pid)
        # The simulator, the vault with its three, two proxies; each under a watcher.
        assert len(self.groups) >= 14

    def nothing_is_left(self) -> bool:
        return not any(group_lives(group) for group in self.groups)

    def its_folders(self) -> list[Path]:
        return list(self.folder.glob("oauthvault-demo-*"))


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Callable[..., Demo]]:
    require_litellm()
    demos: list[Demo] = []

    def start(*options: str) -> Demo:
        demos.append(Demo(tmp_path, *options))
        return demos[-1]

    yield start
    for each in demos:
        each.process.kill()
        each.process.wait()
        until(each.nothing_is_left, 120)


@pytest.fixture
def port_8000() -> Iterator[None]:
    """Taken: by us, if by nobody else."""
    with closing(Ports()) as ours, closing(socket.socket()) as listener:
        # A demonstration beside this test may have chosen it a moment ago, and not listen yet.
        if ours.take(8000) == 8000:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("127.0.0.1", 8000))
            listener.listen()
            # What is taken is to be seen by who listens alone.
            ours.close()
        yield


@pytest.mark.system
@pytest.mark.timeout(600)
def test_the_story_comes_true_and_nothing_is_left_of_it(
    demo: Callable[..., Demo], port_8000: None
) -> None:
    told = demo("--once")
    told.wait_until_all_is_up()

    assert told.process.wait(timeout=PATIENCE) == 0, told.output()

    assert told.nothing_is_left()
    assert not told.its_folders()
    output = told.output()
    assert "Port 8000 is taken: the vault gets 8" in output
    for pattern in (
        r"alice of acme .*“Hello from alice-of-acme”",
        r"alice of globex .*“Hello from alice-of-globex”",
        r"alice of acme .*THE TOKEN WAS REFRESHED",
        r"mallory of acme .*A NEW LOGIN IS NEEDED: ",
        r"mallory of acme .*refused \(401\): OAuth token expired for user 'mallory'",
        r"came true: mallory of acme is answered again",
        r"All of it came true\.",
    ):
        assert re.search(pattern, output), (pattern, output)
    assert not re.search(r"sk-ant-|ov[su]_", output)


@pytest.mark.system
@pytest.mark.timeout(600)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_however_it_ends_no_process_is_left(
    demo: Callable[..., Demo], number: signal.Signals
) -> None:
    running = demo()
    running.wait_until_all_is_up()

    running.process.send_signal(number)
    status = running.process.wait(timeout=120)

    until(running.nothing_is_left, 120, running.output)
    if number == signal.SIGINT:
        assert status == 0, running.output()
        assert not running.its_folders()


@pytest.mark.system
@pytest.mark.timeout(300)
def test_it_can_be_ended_before_it_began(demo: Callable[..., Demo]) -> None:
    begun = demo("--once")
    until(lambda: "Making a vault" in begun.output(), 120, begun.output)

    begun.process.send_signal(signal.SIGTERM)

    assert begun.process.wait(timeout=120) == 1
    assert "Traceback" not in begun.output()


def test_two_that_begin_at_once_choose_different_ports() -> None:
    with closing(Ports()) as one, closing(Ports()) as other:
        first = one.take(28_000)
        assert other.take(first) != first


@pytest.fixture
def story(tmp_path: Path) -> Story:
    """One that was told to its end, and in which nothing happened."""
    nowhere = "http://127.0.0.1:1"
    stage = Stage(
        folder=tmp_path,
        anthropic=RemoteSimulator(nowhere),
        vault=nowhere,
        proxies={"acme": nowhere, "globex": nowhere},
        keys=dict.fromkeys(CAST, "sk-none"),
    )
    return Story(stage, Narrator(), threading.Event())


def test_only_mallory_may_be_refused(story: Story) -> None:
    story.callers[MALLORY].refused = 3
    story.conclude()
    assert story.came_true

    story.callers[BOB].refused = 1
    story.conclude()
    assert not story.came_true


@pytest.mark.parametrize("count", ["wrong", "failed"])
def test_one_wrong_or_missing_answer_makes_the_story_untrue(story: Story, count: str) -> None:
    setattr(story.callers[MALLORY], count, 1)
    story.conclude()
    assert not story.came_true
