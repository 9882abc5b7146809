"""`python -m bench.reliability`, which is `make reliability`: does the vault keep its promises
while many ask at once, while it is killed, and while the far side misbehaves?

Writes the figures to artefacts/reliability.json and the tables into docs/reliability.md. Ends with
status 1 if a promise was broken: more than one upstream call, a caller who went without, a
login lost in silence, a fault sorted wrongly.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.reliability import expiry, ground, page

PARTS = ("expiry", "counts", "kills", "faults")
_PAGE = Path("docs/reliability.md")
_CALLERS_COUNTED = 50


def main() -> int:
    options = _parser().parse_args()
    if options.quick:
        _be_quick(options)
    parts: dict[str, Any] = {}
    try:
        with ground.prepared(database=options.database) as prepared:
            for part in options.parts:
                for found in _measure(part, prepared, options):
                    # At once: what was measured is not lost with what comes after it.
                    parts = page.merged(parts, part, found)
                    page.keep(options.output, part, found)
    except ground.CannotMeasure as error:
        print(f"This cannot be measured here: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    print(page.render(parts))
    print(f"Written to {options.output}")
    if options.page is not None:
        page.write(options.page, page.kept(options.output))
        print(f"Written to {options.page}")
    for sentence in page.over_target(parts):
        print(f"OVER THE TARGET: {sentence}")
    broken = page.failures(parts)
    for sentence in broken:
        print(f"BROKEN: {sentence}")
    return 1 if broken else 0


def _measure(
    part: str, prepared: ground.Ground, options: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    """What the part has found, piece by piece."""
    machine = prepared.machine()
    if part in ("expiry", "counts"):
        for cell in _cells(part, prepared, options):
            yield {"cells": [asdict(cell)], "machine": machine}
        return
    with (
        tempfile.TemporaryDirectory(prefix="oauthvault-bench-") as folder,
        prepared.variables(folder) as variables,
    ):
        ground.initialise(variables)
        with ground.Child(f"bench.reliability.{part}", **variables) as child:
            child.say({"rounds": options.rounds})
            yield {**child.hear(), "machine": machine}


def _cells(
    part: str, prepared: ground.Ground, options: argparse.Namespace
) -> Iterator[expiry.Cell]:
    if part == "expiry":
        return expiry.measure(
            prepared,
            callers=options.callers,
            processes=options.processes,
            latencies_ms=options.latencies,
            least_rounds=options.least_rounds,
        )
    return expiry.count(
        prepared,
        rounds=options.counting_rounds,
        processes=max(options.processes),
        callers=_CALLERS_COUNTED,
        latencies_ms=options.latencies,
    )


def _be_quick(options: argparse.Namespace) -> None:
    """A look within three minutes, which proves little and is written into no page."""
    options.callers, options.processes, options.latencies = [100], [2], [20, 200]
    options.least_rounds, options.counting_rounds, options.rounds = 1, 4, 20
    options.page = None
    options.output = options.output.with_stem(options.output.stem + "-quick")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.reliability",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="TEST_DATABASE_URL and TEST_REDIS_URL name servers to use; without them, servers "
        "are started from installed binaries and removed again.",
    )
    parser.add_argument("--quick", action="store_true", help="a small version, written to no page")
    parser.add_argument(
        "--parts", type=_words, default=list(PARTS), help=f"some of {','.join(PARTS)} (all)"
    )
    parser.add_argument(
        "--callers", type=_numbers, default=[100, 1000], help="who ask in one moment (100,1000)"
    )
    parser.add_argument("--processes", type=_numbers, default=[1, 4], help="web processes (1,4)")
    parser.add_argument(
        "--latencies",
        type=_numbers,
        default=[20, 200, 3000, 11000],
        help="of the authorization server, in milliseconds (20,200,3000,11000)",
    )
    parser.add_argument(
        "--least-rounds", type=int, default=3, help="of each line of “expiry”, at least (3)"
    )
    parser.add_argument(
        "--counting-rounds", type=int, default=30, help="of each line of “counts” (30)"
    )
    parser.add_argument("--rounds", type=int, default=300, help="of “kills” (300)")
    parser.add_argument(
        "--database",
        choices=["postgresql", "sqlite"],
        default="postgresql",
        help="sqlite: for “kills” and “faults”, and one process of the others",
    )
    parser.add_argument("--output", type=Path, default=Path("artefacts/reliability.json"))
    parser.add_argument(
        "--page", type=Path, default=_PAGE, help="the page to write the tables into"
    )
    parser.add_argument(
        "--no-page", dest="page", action="store_const", const=None, help="write into no page"
    )
    return parser


def _numbers(text: str) -> list[int]:
    return [int(word) for word in text.split(",")]


def _words(text: str) -> list[str]:
    words = text.split(",")
    for word in words:
        if word not in PARTS:
            raise argparse.ArgumentTypeError(f"{word} is none of {', '.join(PARTS)}")
    return words


if __name__ == "__main__":
    sys.exit(main())
