"""Every page of the dashboard over a hundred thousand credentials, on PostgreSQL.

The database is filled by statements of its own (`fill`); the pages are those of the URL
configuration (`walk`), asked as an administrator and as the operator of one tenant, through the
whole chain of middleware, by a role that row-level security holds for. What counts is the middle
of several requests: below a second for each page.
"""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.reliability.ground import CannotMeasure, initialise, prepared
from tests.processes import clean_environment

LONGEST = 1.0


@dataclass(frozen=True, kw_only=True)
class Page:
    """Seconds. ``queries``: of one request."""

    who: str
    address: str
    median: float
    worst: float
    queries: int

    @property
    def is_quick(self) -> bool:
        return self.median < LONGEST


@dataclass(frozen=True, kw_only=True)
class Measured:
    """``not_seen``: addresses that gave no page, and what they answered."""

    rows: dict[str, int]
    pages: list[Page]
    not_seen: dict[str, int]

    @property
    def slow(self) -> list[Page]:
        return [page for page in self.pages if not page.is_quick]

    def as_json(self) -> dict[str, Any]:
        return {
            "rows": self.rows,
            "below_seconds": LONGEST,
            "pages": [
                {
                    "who": page.who,
                    "page": page.address,
                    "median_ms": round(page.median * 1000),
                    "worst_ms": round(page.worst * 1000),
                    "queries": page.queries,
                    "below_a_second": page.is_quick,
                }
                for page in self.pages
            ],
            "not_seen": self.not_seen,
        }

    def table(self) -> str:
        width = max(len(page.address) for page in self.pages)
        lines = [f"{'page':<{width}}  {'who':<13}  median   worst  queries"]
        for page in sorted(self.pages, key=lambda page: -page.median):
            verdict = "" if page.is_quick else "  NOT below a second"
            lines.append(
                f"{page.address:<{width}}  {page.who:<13} {page.median * 1000:5.0f} ms "
                f"{page.worst * 1000:5.0f} ms  {page.queries:>7}{verdict}"
            )
        rows = ", ".join(f"{count:,} {name}" for name, count in self.rows.items())
        said = f"{len(self.pages)} pages over {rows}: "
        said += f"{len(self.slow)} NOT below a second" if self.slow else "each below a second"
        return "\n".join([*lines, said])


def measure(folder: Path) -> Measured:
    """CannotMeasure where there is no PostgreSQL."""
    with prepared(database="postgresql") as ground, ground.variables(str(folder)) as variables:
        initialise(variables)
        result = folder / "dashboard.json"
        done = subprocess.run(
            [sys.executable, "-m", "bench.dashboard", str(result)],
            env=clean_environment(**variables),
            check=False,
        )
        if done.returncode:
            raise CannotMeasure(f"the dashboard was not measured (status {done.returncode})")
        told = json.loads(result.read_text())
        if not told["pages"]:
            raise CannotMeasure(f"no page was shown: {told['not_seen']}")
        return Measured(
            rows=told["rows"],
            pages=[Page(**page) for page in told["pages"]],
            not_seen=told["not_seen"],
        )
