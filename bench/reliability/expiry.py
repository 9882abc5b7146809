"""Many callers ask for one expired credential in the same moment, and what a bystander feels.

A *process* is one `oauthvault web` with one worker process on a port of its own, so that the
callers are spread evenly. A round has four turns, so that a slow minute of the machine meets
all of them:

expired   the callers ask for a token that has just expired, and follow Retry-After
alive     the very same requests at the same times, for a token that is alive: so much of
          what the bystander feels is the load of so many requests, and not the waiting
once      each caller asks once for that living token
alone     nobody asks but the bystander
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, product
from typing import Any

from bench.reliability import figures
from bench.reliability.callers import Told
from bench.reliability.ground import Ground
from bench.reliability.progress import Progress
from bench.reliability.scene import Scene, played
from tests.simulator import RemoteSimulator

# A 99th percentile wants some hundreds of answers on each side.
_ENOUGH_ANSWERS = 300
_MOST_ROUNDS = 8
_ALONE_SECONDS = 2.0
# Slow rounds that only count are taken so many at a time, each with a person of its own.
_ABREAST = 5

Tell = Callable[[int], None]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One line of the table. Times in milliseconds, counts over all rounds.

    ``last_caller_ms``: until the last caller had its token, in the middle one of the rounds.
    """

    callers: int
    processes: int
    latency_ms: int
    rounds: int
    upstream_calls: int
    reuse: int
    without: int
    wrong: int
    answers: dict[str, int]
    last_caller_ms: float
    bystander: dict[str, Any] = field(default_factory=dict)


def measure(
    ground: Ground,
    *,
    callers: Sequence[int],
    processes: Sequence[int],
    latencies_ms: Sequence[int],
    least_rounds: int,
) -> Iterator[Cell]:
    """The table of callers × processes × latencies with the bystander, line by line."""
    total = len(callers) * len(processes) * len(latencies_ms)
    with Progress("callers at expiry", total=total) as progress:
        for count in processes:
            with played(ground, processes=count) as scene:
                for number, latency in product(callers, latencies_ms):
                    what = f"{number} callers × {count} processes, {latency} ms"
                    tell = _telling(progress, what)
                    cell = _watched_rounds(scene, number, latency, least_rounds, tell)
                    progress.step(f"{what}: p99 × {cell.bystander['ratio']}")
                    yield cell


def count(
    ground: Ground, *, rounds: int, processes: int, callers: int, latencies_ms: Sequence[int]
) -> Iterator[Cell]:
    """Many rounds for their counts alone, line by line."""
    with (
        Progress(f"{rounds} rounds of counting", total=len(latencies_ms)) as progress,
        played(ground, processes=processes) as scene,
    ):
        for latency in latencies_ms:
            cell = _counted_rounds(
                scene, callers, latency, rounds, _telling(progress, f"{latency} ms")
            )
            progress.step(f"{latency} ms")
            yield cell


def _telling(progress: Progress, what: str) -> Tell:
    return lambda number: progress.note(f"{what}, round {number}")


def _watched_rounds(
    scene: Scene, callers: int, latency_ms: int, least_rounds: int, tell: Tell
) -> Cell:
    scene.upstream.latency_ms = latency_ms
    tally = _Tally(scene.upstream)
    expired, alive, once, alone = (list[list[float]]() for _ in range(4))
    refused = 0
    while tally.rounds < least_rounds or (
        # One round is a look, and wants no percentile.
        least_rounds > 1
        and sum(map(len, expired)) < _ENOUGH_ANSWERS
        and tally.rounds < _MOST_ROUNDS
    ):
        tell(tally.rounds + 1)
        users = [scene.expired_person()]
        scene.upstream.reset_counts()
        told, seen = scene.turn(users, callers)
        tally.add(told, users)
        refused += seen.refused
        expired.append(seen.within(told.last))
        _, seen = scene.turn(users, callers, schedule=told.schedule, at_least=told.last)
        alive.append(seen.within(told.last))
        quick, seen = scene.turn(users, callers, schedule=[[0.0]] * callers)
        once.append(seen.within(quick.last))
        alone.append(scene.alone(_ALONE_SECONDS).within(_ALONE_SECONDS))
    return tally.cell(
        callers,
        len(scene.addresses),
        latency_ms,
        {
            "answers": sum(map(len, expired)),
            "refused": refused,
            **_spread("expired", expired),
            **_spread("alive", alive),
            **_spread("once", once),
            **_spread("alone", alone),
            "ratio": figures.p99_ratio([*chain(*expired)], [*chain(*alive)]),
            "ratio_range": figures.trusted_range(list(zip(expired, alive, strict=True))),
        },
    )


def _counted_rounds(scene: Scene, callers: int, latency_ms: int, rounds: int, tell: Tell) -> Cell:
    scene.upstream.latency_ms = latency_ms
    tally = _Tally(scene.upstream)
    while tally.rounds < rounds:
        tell(tally.rounds + 1)
        abreast = min(_ABREAST if latency_ms >= 1000 else 1, rounds - tally.rounds)
        users = [scene.expired_person() for _ in range(abreast)]
        scene.upstream.reset_counts()
        tally.add(scene.callers_only(users, callers * abreast), users)
    return tally.cell(callers, len(scene.addresses), latency_ms, {})


class _Tally:
    """What is counted over the rounds of one line."""

    def __init__(self, upstream: RemoteSimulator) -> None:
        self.rounds = 0
        self._upstream = upstream
        self._calls = self._reuse = self._without = self._wrong = 0
        self._answers = Counter[str]()
        self._last: list[float] = []

    def add(self, told: Told, users: Sequence[str]) -> None:
        counts = self._upstream.counts
        self.rounds += len(users)
        self._calls += counts.token_calls
        self._reuse += counts.reuse
        self._without += sum(told.without.values())
        self._answers.update(told.answers)
        self._last.append(told.last)
        for user in users:
            right = self._upstream.current_login(user).access_token
            handed = told.tokens[user]
            self._wrong += sum(handed.values()) - handed.get(right, 0)

    def cell(
        self, callers: int, processes: int, latency_ms: int, bystander: dict[str, Any]
    ) -> Cell:
        return Cell(
            callers=callers,
            processes=processes,
            latency_ms=latency_ms,
            rounds=self.rounds,
            upstream_calls=self._calls,
            reuse=self._reuse,
            without=self._without,
            wrong=self._wrong,
            answers=dict(self._answers),
            last_caller_ms=figures.milliseconds(self._last, 0.5),
            bystander=bystander,
        )


def _spread(name: str, rounds: list[list[float]]) -> dict[str, float]:
    merged = [*chain(*rounds)]
    return {
        f"{name}_p50_ms": figures.milliseconds(merged, 0.5),
        f"{name}_p99_ms": figures.milliseconds(merged, 0.99),
    }
