"""The callers, all in one process of their own: `python -m bench.reliability.callers`.

Lines of JSON. A `Call` comes in; when all connections are open, `"ready"` goes out; the moment
comes in (on this machine's monotonic clock), and all ask in that moment; a `Told` goes out.
"""

import asyncio
import json
import random
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from urllib.parse import urlsplit

from bench.reliability.http import Answer, Connection, request

# Seconds for which a caller goes on following Retry-After, counted from the moment.
PATIENCE = 30.0
# A sensible client does not come back with all the others: up to so much later.
_JITTER = 0.2


@dataclass(frozen=True, kw_only=True)
class Call:
    """Who asks where: caller N asks address N, one round of the addresses after the other for
    the token of the next user; both lists are repeated.

    With a ``schedule`` (for each caller the seconds after the moment at which it asks) they
    do not follow answers: they ask as often and as early as others did before.
    """

    addresses: list[str]
    key: str
    users: list[str]
    count: int
    schedule: list[list[float]] | None = None


@dataclass(frozen=True, kw_only=True)
class Told:
    """What came of it. Times in seconds after the moment."""

    tokens: dict[str, dict[str, int]] = field(repr=False)  # user, token, callers handed it
    without: dict[str, int]  # the last refusal's code, callers who went without
    answers: dict[str, int]  # 200 or code, answers
    schedule: list[list[float]] = field(repr=False)
    ended: list[float] = field(repr=False)  # of each caller, by its last answer

    @property
    def last(self) -> float:
        return max(self.ended, default=0.0)


class Callers:
    def __init__(self, call: Call) -> None:
        self._call = call
        netlocs = [urlsplit(address).netloc for address in call.addresses]
        self._users = [
            call.users[number // len(netlocs) % len(call.users)] for number in range(call.count)
        ]
        self._connections = []
        self._messages = []
        for number, user in enumerate(self._users):
            netloc = netlocs[number % len(netlocs)]
            self._connections.append(Connection(netloc))
            self._messages.append(
                request(netloc=netloc, path="/auth/claude/token", key=call.key, user=user)
            )
        self._moment = 0.0
        self._tokens = {user: Counter[str]() for user in call.users}
        self._without = Counter[str]()
        self._answers = Counter[str]()
        self._sent: list[list[float]] = [[] for _ in range(call.count)]
        self._ended = [0.0] * call.count

    async def open(self) -> None:
        for connection in self._connections:
            await connection.open()

    async def ask(self, moment: float) -> Told:
        self._moment = moment
        await asyncio.gather(*map(self._one, range(self._call.count)))
        for connection in self._connections:
            connection.close()
        return Told(
            tokens={user: dict(tokens) for user, tokens in self._tokens.items()},
            without=dict(self._without),
            answers=dict(self._answers),
            schedule=self._sent,
            ended=self._ended,
        )

    async def _one(self, number: int) -> None:
        try:
            if self._call.schedule is None:
                await self._follow(number)
            else:
                await self._repeat(number, self._call.schedule[number])
        except ConnectionError:
            self._without["connection closed"] += 1
        self._ended[number] = self._since()

    async def _follow(self, number: int) -> None:
        await self._sleep_until(0.0)
        while True:
            answer = await self._send(number)
            if answer.status == 200:
                self._tokens[self._users[number]][json.loads(answer.body)["access_token"]] += 1
                return
            wait = answer.header(b"retry-after")
            pause = float(wait or 0) * random.uniform(1, 1 + _JITTER)
            if wait is None or self._since() + pause > PATIENCE:
                self._without[_code(answer)] += 1
                return
            await asyncio.sleep(pause)

    async def _repeat(self, number: int, offsets: list[float]) -> None:
        for offset in offsets:
            await self._sleep_until(offset)
            await self._send(number)

    async def _send(self, number: int) -> Answer:
        self._sent[number].append(self._since())
        answer = await self._connections[number].ask(self._messages[number])
        self._answers[_code(answer)] += 1
        return answer

    def _since(self) -> float:
        return time.monotonic() - self._moment

    async def _sleep_until(self, offset: float) -> None:
        left = offset - self._since()
        if left > 0:
            await asyncio.sleep(left)


def _code(answer: Answer) -> str:
    if answer.status == 200:
        return "200"
    try:
        return str(json.loads(answer.body)["code"])
    except (ValueError, KeyError):
        return str(answer.status)


async def _perform(call: Call) -> Told:
    callers = Callers(call)
    await callers.open()
    print(json.dumps("ready"), flush=True)
    return await callers.ask(float(sys.stdin.readline()))


def main() -> None:
    while line := sys.stdin.readline():
        told = asyncio.run(_perform(Call(**json.loads(line))))
        print(json.dumps(asdict(told)), flush=True)


if __name__ == "__main__":
    main()
