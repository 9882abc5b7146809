"""A ratio of two speeds, taken in turns."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """``ratio``: how often the first happens in the time of one of the second."""

    name: str
    first: str
    second: str
    first_per_second: float
    second_per_second: float
    ratio: float
    lowest: float
    highest: float


def compare(
    name: str,
    first: tuple[str, Callable[[], int]],
    second: tuple[str, Callable[[], int]],
    *,
    rounds: int,
    seconds: float,
) -> Figure:
    """Let both take turns. Each call does some work and says how many units it was."""
    speeds: tuple[list[float], list[float]] = ([], [])
    for number in range(rounds):
        for turn in (0, 1) if number % 2 else (1, 0):
            speeds[turn].append(_speed((first, second)[turn][1], seconds))
    ratios = [one / other for one, other in zip(*speeds, strict=True)]
    return Figure(
        name=name,
        first=first[0],
        second=second[0],
        first_per_second=statistics.median(speeds[0]),
        second_per_second=statistics.median(speeds[1]),
        ratio=statistics.median(ratios),
        lowest=min(ratios),
        highest=max(ratios),
    )


def _speed(work: Callable[[], int], seconds: float) -> float:
    done, began = 0, time.perf_counter()
    while (passed := time.perf_counter() - began) < seconds:
        done += work()
    return done / passed
