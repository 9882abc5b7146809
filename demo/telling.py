"""The story, told beside the programs that it is about."""

import threading
import traceback

from demo.addresses import addresses, lines_to_paste
from demo.narrator import Narrator
from demo.stage import CannotBegin, Stage
from demo.story import Ended, Story
from oauthvault.supervisor import Supervisor


class Telling(threading.Thread):
    """Waits until everything answers and tells the story. The supervisor has the main thread.

    `once`: ends everything after the story. `status` is the exit status: for `once` 0 when all
    of it came true and else 1; otherwise 0 unless the story could not go on.
    """

    def __init__(
        self,
        stage: Stage,
        narrator: Narrator,
        supervisor: Supervisor,
        *,
        once: bool,
    ) -> None:
        super().__init__(name="story", daemon=True)
        self.status = int(once)
        self._stage = stage
        self._story = Story(stage, narrator, supervisor.stopping)
        self._narrator = narrator
        self._supervisor = supervisor
        self._once = once

    def run(self) -> None:
        try:
            self._tell()
        except Ended:
            return
        except Exception as error:
            # While everything is being ended, nothing else can be expected.
            if self._supervisor.stopping.is_set():
                return
            self.status = 1
            if isinstance(error, CannotBegin):
                self._narrator.say(f"This cannot begin: {error}")
            else:
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
