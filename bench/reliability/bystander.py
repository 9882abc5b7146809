"""The bystander: `python -m bench.reliability.bystander`, a process of its own, so that a busy
load generator does not stand in its light.

Another user of the tenant, whose token is alive, asks each web process at a steady pace. It
does not wait for an answer before it asks again: while answers come in time that is one
kept connection to each process, and more of them only while they do not. So a slow second
is seen by every request that falls into it.
"""

import asyncio
import json
import random
import sys
import time
from dataclasses import asdict, dataclass, field
from urllib.parse import urlsplit

from bench.reliability.http import Connection, request


@dataclass(frozen=True, kw_only=True)
class Pace:
    """``moment``: the beginning, on this machine's monotonic clock; ``rate``: requests a
    second to each address."""

    addresses: list[str]
    key: str
    user: str
    rate: float
    moment: float


@dataclass(frozen=True, kw_only=True)
class Seen:
    """``answered``: seconds after the moment at which a request was due, and seconds from
    then to its answer. ``refused``: requests without a token."""

    answered: list[tuple[float, float]] = field(default_factory=list, repr=False)
    refused: int = 0

    def within(self, window: float) -> list[float]:
        return [took for due, took in self.answered if due < window]


async def watch(pace: Pace, ended: asyncio.Event) -> Seen:
    answered: list[tuple[float, float]] = []
    refused = 0

    async def ask(due: float, idle: list[Connection], netloc: str) -> None:
        nonlocal refused
        connection = idle.pop() if idle else Connection(netloc)
        message = request(netloc=netloc, path="/auth/claude/token", key=pace.key, user=pace.user)
        try:
            status = (await connection.ask(message)).status
        except ConnectionError:
            status = 0
        idle.append(connection)
        if status == 200:
            answered.append((due - pace.moment, time.monotonic() - due))
        else:
            refused += 1

    async def visit(address: str) -> None:
        netloc = urlsplit(address).netloc
        idle = [Connection(netloc)]
        await idle[0].open()
        under_way = set[asyncio.Task[None]]()
        due = pace.moment + random.uniform(0, 1 / pace.rate)
        while not ended.is_set():
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            task = asyncio.create_task(ask(due, idle, netloc))
            under_way.add(task)
            task.add_done_callback(under_way.discard)
            due += 1 / pace.rate
        if under_way:
            await asyncio.wait(under_way)
        for connection in idle:
            connection.close()

    await asyncio.gather(*map(visit, pace.addresses))
    return Seen(answered=answered, refused=refused)


async def _until_told(pace: Pace) -> Seen:
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    watching = asyncio.create_task(watch(pace, ended))
    await loop.run_in_executor(None, sys.stdin.readline)
    ended.set()
    return await watching


def main() -> None:
    """A line with a `Pace` begins, the next line (of any content) ends and has the answer."""
    while line := sys.stdin.readline():
        seen = asyncio.run(_until_told(Pace(**json.loads(line))))
        print(json.dumps(asdict(seen)), flush=True)


if __name__ == "__main__":
    main()
