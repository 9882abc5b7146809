"""python -m demo: put everything up, tell the story, leave it running until it is ended."""

import argparse
import io
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from demo.narrator import Narrator
from demo.ports import Ports
from demo.stage import LITELLM, ROOT, CannotBegin, Stage, choose_stage
from demo.telling import Telling
from oauthvault.supervisor import Supervisor

# Seconds that a program may take to end. It takes five, where the machine is not busy.
_GRACE = 30.0
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main() -> int:
    options = _arguments()
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Not every terminal has every sign of ours.
        sys.stdout.reconfigure(errors="replace")
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
    ports = Ports()
    stage = choose_stage(folder, ports, narrator)
    narrator.say(f"Making a vault in {stage.data}: database, keys, operator, two tenants …")
    stage.prepare()
    supervisor = Supervisor(
        stage.programs(),
        say=lambda sentence: narrator.say(sentence + _last_words(stage, sentence)),
        grace=_GRACE,
    )
    narrator.when_nobody_listens = supervisor.stop
    narrator.say(
        "Starting all of it. LiteLLM takes its time: 10 to 40 seconds. "
        f"What each program says is in {stage.logs}"
    )
    telling = Telling(stage, narrator, supervisor, once=once)
    telling.start()
    status = supervisor.run()
    telling.join(timeout=_GRACE)
    return telling.status if once else max(status, telling.status)


def _last_words(stage: Stage, sentence: str) -> str:
    """Of a program that ended by itself: it is named first in what the supervisor says of it."""
    name, _, what = sentence.partition(" ")
    log = stage.logs / f"{name}.log"
    if not what.startswith("ended") or not log.exists():
        return ""
    lines = log.read_text(errors="replace").rstrip().splitlines()
    return f". It said: {lines[-1]}" if lines else ""


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
