"""One of the people: asks Claude through the team's LiteLLM, again and again, with one key."""

import itertools
import threading
from collections.abc import Callable, Mapping
from typing import Any

import httpx

from demo.cast import Person

# What is asked for in turns: LiteLLM's two ways to the same model, and where the answer stands.
_WAYS: tuple[tuple[str, Callable[[Any], str]], ...] = (
    ("/chat/completions", lambda answer: str(answer["choices"][0]["message"]["content"])),
    ("/v1/messages", lambda answer: str(answer["content"][0]["text"])),
)
MODEL = "claude"
_LONGEST_REASON = 800


class Pace:
    """Seconds between two requests of one person."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds


class Caller(threading.Thread):
    """A thread that asks until `stopping`. Its counts are read by others and written by it alone.

    `answered` are answers from the person's own account, `wrong` those from another's;
    `refused` are 4xx, the last of them with the reason `told`; `failed` is whatever else there is.
    """

    def __init__(
        self,
        person: Person,
        *,
        proxy: str,
        key: str,
        pace: Pace,
        say: Callable[[str], None],
        stopping: threading.Event,
    ) -> None:
        super().__init__(name=str(person), daemon=True)
        self.person = person
        self.answered = self.wrong = self.refused = self.failed = 0
        self.refreshes = 0
        self.status: Mapping[str, Any] = {}
        self._pace = pace
        self._narrate = say
        self._stopping = stopping
        self.told = ""
        self._client = httpx.Client(
            base_url=proxy,
            headers={"Authorization": f"Bearer {key}"},
            timeout=60,
            trust_env=False,
        )

    def bring(self, login: bytes) -> httpx.Response:
        """Store a login, as the whole `.credentials.json`, through LiteLLM's port."""
        return self._client.put(
            "/auth/claude/token", content=login, headers={"Content-Type": "application/json"}
        )

    def run(self) -> None:
        for path, words_of in itertools.cycle(_WAYS):
            try:
                self._ask(path, words_of)
                self._look()
            except (httpx.HTTPError, ValueError, LookupError, TypeError) as error:
                if self._stopping.is_set():
                    return
                self.failed += 1
                self._say(f"no answer, or none that can be read ({type(error).__name__})")
            if self._stopping.wait(self._pace.seconds):
                return

    def _ask(self, path: str, words_of: Callable[[Any], str]) -> None:
        answer = self._client.post(path, json=question())
        if self._stopping.is_set():
            return
        if answer.status_code == 200:
            words = words_of(answer.json())
            if words == f"Hello from {self.person.account}":
                self.answered += 1
                self._say(f"asks {path}: “{words}”")
            else:
                self.wrong += 1
                self._say(f"asks {path}: “{words}”. THAT IS WRONG")
            self.told = ""
        elif answer.is_client_error:
            self.refused += 1
            why = reason(answer)
            self._say(
                f"asks {path}: refused as before ({answer.status_code})"
                if why == self.told
                else f"asks {path}: refused ({answer.status_code}): {why}"
            )
            self.told = why
        else:
            self.failed += 1
            self._say(f"asks {path}: no answer ({answer.status_code}): {reason(answer)}")

    def _look(self) -> None:
        """What the vault says of the person's login, and what is new in it."""
        answer = self._client.get("/auth/claude/status")
        if self._stopping.is_set() or answer.status_code != 200:
            return
        before, self.status = self.status, answer.json()
        if not self.status.get("status"):
            return
        refreshed = self.status["refresh_count"] - before.get("refresh_count", 0)
        if before and refreshed > 0:
            self.refreshes += refreshed
            self._say(
                f"THE TOKEN WAS REFRESHED (refresh {self.status['refresh_count']} of this "
                f"login); the new one lives {self.status['expires_in']} s more"
            )
        if before.get("status") == self.status["status"]:
            return
        if self.status["status"] == "reauthorization_required":
            self._say(f"A NEW LOGIN IS NEEDED: {self.status['problem']}")
        elif before.get("status"):
            self._say(f"the login is {self.status['status']} now")

    def _say(self, what: str) -> None:
        self._narrate(f"{self.person!s:<15}  {what}")


def question() -> dict[str, Any]:
    return {
        "model": MODEL,
        "max_tokens": 16,
        "messages": [{"role": "user", "content": "Hello!"}],
    }


def reason(answer: httpx.Response) -> str:
    """The sentence in a refusal of LiteLLM's, or what there is of it."""
    try:
        sentence = str(answer.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        sentence = answer.text
    # What LiteLLM appends, about fallbacks, stands in lines of its own.
    return sentence.strip().partition("\n")[0][:_LONGEST_REASON]
