"""What happens to the people, and whether it came true."""

import json
import threading
import time
from collections.abc import Callable

import httpx

from demo.caller import Caller, Pace, question, reason
from demo.cast import ALICE, BOB, CAST, LIFETIME, LONG_LIFE, MALLORY, Person, first_life
from demo.narrator import Narrator
from demo.stage import CannotBegin, Stage

# Seconds between two requests of one person: in the story, and while it is left running.
_BRISK, _EASY = 4.0, 15.0
_LONGEST_START, _LONGEST_WAIT = 240.0, 90.0
_TICK = 0.1


class Ended(Exception):
    """Everything is being ended; the story is not told to its end."""


class Story:
    """`came_true` is False until the story was told and nothing in it was otherwise."""

    def __init__(self, stage: Stage, narrator: Narrator, stopping: threading.Event) -> None:
        self.came_true = False
        self._stage = stage
        self._say = narrator.say
        self._show = narrator.show
        self._stopping = stopping
        self._pace = Pace(_BRISK)
        self._claims: list[tuple[bool, str]] = []
        self.callers = {
            person: Caller(
                person,
                proxy=stage.proxies[person.tenant],
                key=stage.keys[person],
                pace=self._pace,
                say=narrator.say,
                stopping=stopping,
            )
            for person in CAST
        }

    def wait_until_all_answer(self) -> None:
        """Raises CannotBegin where something does not, in minutes."""
        began = time.monotonic()
        waiting = {
            "Anthropic": f"{self._stage.anthropic.url}/_control/",
            "the vault": f"{self._stage.vault}/readyz",
        } | {
            f"LiteLLM of {tenant}": f"{url}/health/liveliness"
            for tenant, url in self._stage.proxies.items()
        }
        next_word = began + 10
        while waiting:
            for name in [name for name, url in waiting.items() if _answers(url)]:
                del waiting[name]
                self._say(f"{name} answers after {time.monotonic() - began:.0f} s")
            if not waiting:
                return
            self._pause(_TICK)
            if time.monotonic() > next_word:
                next_word += 10
                self._say(
                    f"Still waiting for {' and '.join(waiting)} ({next_word - began - 10:.0f} s)"
                )
            if time.monotonic() > began + _LONGEST_START:
                raise CannotBegin(
                    f"{' and '.join(waiting)} did not answer within {_LONGEST_START:.0f} s; "
                    f"what they said is in {self._stage.logs}"
                )

    def tell(self, *, once: bool) -> None:
        """The chapters; returns when the last of them is over. Raises Ended."""
        self._everybody_brings_a_login()
        began = time.monotonic()
        self._everybody_asks()
        self._a_key_is_good_at_its_own_team_only()
        self._mallory_uses_the_login_elsewhere()
        self._two_tokens_end(began + LIFETIME)
        if once:
            self._mallory_comes_back()
        self.conclude()

    def go_on(self) -> None:
        """Requests at an easy pace, and what came of them once a minute. Raises Ended."""
        self._pace.seconds = _EASY
        while True:
            self._pause(60)
            self._say(
                f"So far {self._total('answered')} answers, {self._total('refused')} refusals, "
                f"{self._total('refreshes')} refreshes, {self._total('wrong')} answers from "
                f"another's account, {self._total('failed')} failures. "
                f"Dashboard: {self._stage.vault}/admin/"
            )

    # chapters

    def _everybody_brings_a_login(self) -> None:
        self._chapter("Everybody signs in to Claude and gives the login to their team's LiteLLM")
        for person, caller in self.callers.items():
            life = first_life(person)
            answer = caller.bring(self._new_login(person, life).encode())
            if answer.status_code != 201:
                raise CannotBegin(f"the login of {person} was not taken: {reason(answer)}")
            self._say(
                f"{person!s:<15}  is stored; the access token lives "
                f"{f'{life} s' if life < 3600 else f'{life // 3600} h'}"
            )

    def _everybody_asks(self) -> None:
        self._chapter("Everybody asks, and goes on asking. There is an alice in each team")
        for caller in self.callers.values():
            caller.start()
            self._pause(_BRISK / len(CAST))
        self._claim(
            "everybody was answered from their own account",
            self._until(lambda: all(caller.answered for caller in self.callers.values())),
        )

    def _a_key_is_good_at_its_own_team_only(self) -> None:
        elsewhere = next(team for team in self._stage.proxies if team != BOB.tenant)
        self._chapter(f"{BOB} tries the same key at {elsewhere}'s LiteLLM")
        answer = httpx.post(
            f"{self._stage.proxies[elsewhere]}/chat/completions",
            headers={"Authorization": f"Bearer {self._stage.keys[BOB]}"},
            json=question(),
            timeout=60,
            trust_env=False,
        )
        self._claim(
            f"a key opens nothing at another team's LiteLLM (status {answer.status_code})",
            answer.status_code == 401,
        )

    def _mallory_uses_the_login_elsewhere(self) -> None:
        self._chapter(
            f"{MALLORY} goes on using the same login on a laptop, where it is refreshed.\n"
            "A refresh token is good once: the one in the vault is spent by that"
        )
        anthropic = self._stage.anthropic
        # Else this Anthropic ends the whole login when the vault presents what is spent, and not
        # only that: the access token as well.
        anthropic.reuse_kills_family = False
        answer = httpx.post(
            anthropic.token_url,
            json={
                "grant_type": "refresh_token",
                "refresh_token": anthropic.current_login(MALLORY.account).refresh_token,
                "client_id": anthropic.client_id,
            },
            trust_env=False,
        )
        answer.raise_for_status()
        self._say(f"{MALLORY!s:<15}  refreshes on the laptop: {answer.status_code}")
        # What mallory will bring one day.
        file = self._stage.login_file(MALLORY)
        file.touch(mode=0o600)
        file.write_text(self._new_login(MALLORY, LONG_LIFE))

    def _two_tokens_end(self, at: float) -> None:
        """``at``: the monotonic time at which the tokens of alice and mallory end."""
        self._chapter(f"The tokens of {ALICE} and of {MALLORY} come to their end")
        alice, mallory = self.callers[ALICE], self.callers[MALLORY]
        self._until(lambda: time.monotonic() > at)
        before = alice.answered
        self._claim(
            f"the token of {ALICE} was refreshed in time, and its end was noticed by nobody",
            self._until(lambda: alice.refreshes > 0 and alice.answered > before)
            and not alice.refused
            and not alice.failed,
        )
        self._claim(
            f"{MALLORY} was told to sign in again, and the vault knows why",
            self._until(
                lambda: (
                    "Sign in to Claude" in mallory.told
                    and mallory.status.get("status") == "reauthorization_required"
                )
            ),
        )

    def _mallory_comes_back(self) -> None:
        self._chapter(f"{MALLORY} signs in again and brings the new login")
        mallory = self.callers[MALLORY]
        before = mallory.answered
        answer = mallory.bring(self._stage.login_file(MALLORY).read_bytes())
        self._claim(
            f"{MALLORY} is answered again (PUT /auth/claude/token: {answer.status_code})",
            answer.is_success and self._until(lambda: mallory.answered > before),
        )

    def conclude(self) -> None:
        self._chapter("The end of the story")
        others = [caller for person, caller in self.callers.items() if person != MALLORY]
        self._claim("nobody was ever answered from another's account", not self._total("wrong"))
        self._claim(
            "of all the others' requests none failed",
            not self._total("failed") and not any(caller.refused for caller in others),
        )
        false = [sentence for holds, sentence in self._claims if not holds]
        self.came_true = not false
        self._say(
            "All of it came true."
            if self.came_true
            else f"NOT ALL OF IT CAME TRUE. What did not: {'; '.join(false)}"
        )

    # what they are made of

    def _chapter(self, title: str) -> None:
        self._show(f"\n{title}\n")

    def _claim(self, sentence: str, holds: bool) -> None:
        self._claims.append((holds, sentence))
        self._say(f"{'==  came true' if holds else '!!  NOT TRUE'}: {sentence}")

    def _new_login(self, person: Person, life: int) -> str:
        """The `.credentials.json` that a person has who signed in at Anthropic just now."""
        login = self._stage.anthropic.new_login(person.account, expires_in=life)
        return json.dumps(login.credentials_file())

    def _total(self, count: str) -> int:
        return sum(int(getattr(caller, count)) for caller in self.callers.values())

    def _until(self, holds: Callable[[], bool]) -> bool:
        deadline = time.monotonic() + _LONGEST_WAIT
        while not holds():
            if time.monotonic() > deadline:
                return False
            self._pause(_TICK)
        return True

    def _pause(self, seconds: float) -> None:
        if self._stopping.wait(seconds):
            raise Ended


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5, trust_env=False).is_success
    except httpx.HTTPError:
        return False
