"""python -m demo: put everything up, tell the story, leave it running until it is ended."""

import argparse
import os
import shutil
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from demo.addresses import addresses, lines_to_paste
from demo.narrator import Narrator
from demo.stage import LITELLM, ROOT, CannotBegin, Stage, choose_stage
from demo.story import Ended, Story
from oauthvault.supervisor import Supervisor

# Seconds. There is nothing in a demonstration that is worth a longer end.
_GRACE = 20.0
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main() -> int:
    options = _arguments()
    narrator = Narrator()
    if not LITELLM.exists():
        narrator.show("LiteLLM is not installed here: `make demo` builds what is missing")
        return 2
    # A command of ours is found from here, wherever this one was given.
    os.chdir(ROOT)
    folder = Path(tempfile.mkdtemp(prefix="oauthvault-demo-"))
    status = 1
    try:
        with _interruptible():
            status = _play(folder, narrator, once=options.once)
    except _Interrupted:
        narrator.say("Ended before it began")
        status = int(options.once)
    except CannotBegin as why:
        narrator.say(f"This cannot begin: {why}")
    finally:
        if status:
            narrator.say(f"What everything said is kept in {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    return status


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m demo",
        description="The whole story without a Claude account: a simulated Anthropic, the vault, "
        "and a real LiteLLM proxy with the hook for each of two teams. Real requests go through "
        "it; one token comes to its end while you watch, and one person needs a new login. "
        "Then everything is left running, with the addresses printed.",
        epilog="Ports 8000 (vault), 4000 and 4001 (LiteLLM) and 8400 (Anthropic), or the next "
        "that are free. Everything is kept in a temporary folder, which is removed at the end: "
        "your data/ is not touched. Ctrl-C ends all of it. "
        'By make: `make demo`, `make demo ARGS="--once"`.',
    )
    parser.add_argument(
        "--once",
        action="store_true",
        help="end after the story, within a minute of the start: status 0 if all of it came "
        "true, else 1",
    )
    return parser.parse_args()


def _play(folder: Path, narrator: Narrator, *, once: bool) -> int:
    narrator.show(
        "oauthvault: a simulated Anthropic, the vault, and a LiteLLM proxy for each of two teams.\n"
        "Nothing leaves this machine, and your data/ is not touched. Ctrl-C ends everything.\n"
    )
    stage = choose_stage(folder, narrator)
    narrator.say(f"Making a vault in {stage.data}: database, keys, operator, two tenants …")
    stage.prepare()
    supervisor = Supervisor(stage.programs(), say=narrator.say, grace=_GRACE)
    narrator.when_nobody_listens = supervisor.stop
    story = Story(stage, narrator, supervisor.stopping)
    narrator.say("Starting all of it. LiteLLM takes its time: 10 to 40 seconds …")
    telling = _Telling(stage, story, narrator, supervisor, once=once)
    telling.start()
    status = supervisor.run()
    telling.join(timeout=_GRACE)
    return telling.status if once else max(status, telling.status)


class _Telling(threading.Thread):
    """The story beside the supervisor, which needs the main thread for its signals.

    `status` is 0 once nothing can make a failure of it: for `once`, when all of it came true.
    """

    def __init__(
        self,
        stage: Stage,
        story: Story,
        narrator: Narrator,
        supervisor: Supervisor,
        *,
        once: bool,
    ) -> None:
        super().__init__(name="story", daemon=True)
        self.status = int(once)
        self._stage = stage
        self._story = story
        self._narrator = narrator
        self._supervisor = supervisor
        self._once = once

    def run(self) -> None:
        try:
            self._tell()
        except Ended:
            return
        except CannotBegin as why:
            self.status = 1
            self._narrator.say(f"This cannot begin: {why}")
        except Exception:
            if self._supervisor.stopping.is_set():
                return
            self.status = 1
            self._narrator.show(traceback.format_exc())
        self._supervisor.stop()

    def _tell(self) -> None:
        self._story.wait_until_all_answer()
        where = addresses(self._stage)
        self._narrator.show(f"\n{where}")
        self._story.tell(once=self._once)
        if self._once:
            self.status = int(not self._story.came_true)
            return
        everything = f"{where}\n{lines_to_paste(self._stage)}"
        file = self._stage.folder / "addresses"
        file.touch(mode=0o600)
        file.write_text(everything)
        self._narrator.show(
            f"\nEverything is left running. Ctrl-C ends it.\n\n{everything}\n"
            f"These lines again: cat {file}\n"
        )
        self._story.go_on()


class _Interrupted(BaseException):
    """A signal to end, before the supervisor takes them."""


@contextmanager
def _interruptible() -> Iterator[None]:
    """A signal to end is an exception in here, so that whatever was begun is cleared away."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise _Interrupted

    previous = {
        number: signal.signal(number, interrupt)
        for number in _ENDING
        # Under nohup a hang-up is ignored, and that must stay so.
        if signal.getsignal(number) != signal.SIG_IGN
    }
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


if __name__ == "__main__":
    sys.exit(main())
