"""Percentiles, and how far one of them may be trusted."""

import random
from collections.abc import Sequence

# Draws of a bootstrap: enough for the 5th and the 95th percent of a ratio.
_DRAWS = 400


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which that share of the values lies (nearest rank); NaN of nothing."""
    if not values:
        return float("nan")
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def milliseconds(values: Sequence[float], share: float) -> float:
    """A percentile of seconds, in milliseconds with one decimal."""
    return round(percentile(values, share) * 1000, 1)


def p99_ratio(first: Sequence[float], second: Sequence[float]) -> float:
    """How many times the 99th percentile of the second that of the first is."""
    return round(percentile(first, 0.99) / percentile(second, 0.99), 2)


def trusted_range(rounds: Sequence[tuple[Sequence[float], Sequence[float]]]) -> tuple[float, float]:
    """Where `p99_ratio` lies in nine of ten draws of as many rounds, with repetition."""
    drawn = []
    for _ in range(_DRAWS):
        chosen = random.choices(rounds, k=len(rounds))
        merged = ([v for one, _ in chosen for v in one], [v for _, other in chosen for v in other])
        if all(merged):
            drawn.append(p99_ratio(*merged))
    return percentile(drawn, 0.05), percentile(drawn, 0.95)
