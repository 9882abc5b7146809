"""`python -m bench`: measure, print a table, and write the figures as JSON.

Machines are noisy: what counts is a ratio, whose two sides take turns in short rounds of the
same run. The middle of the rounds' ratios is shown, with the lowest and the highest. The pages of
the dashboard alone are held against a bound: one second. It ends with 1 where one is above it.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench import dashboard, hand_outs, hook, sealing
from bench.ratio import Figure, compare
from bench.reliability.ground import CannotMeasure

_RATIOS = {"sealing": sealing.measure, "hand-outs": hand_outs.measure, "hook": hook.measure}
_DASHBOARD = "dashboard"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="turns of each side (7)")
    parser.add_argument("--seconds", type=float, default=1.0, help="length of a turn (1)")
    parser.add_argument(
        "--only", choices=[*_RATIOS, _DASHBOARD], help="one part of it: %(choices)s"
    )
    parser.add_argument("--output", type=Path, default=Path("artefacts/bench.json"))
    options = parser.parse_args()

    parts = [options.only] if options.only else [*_RATIOS, _DASHBOARD]
    told: dict[str, Any] = {"python": sys.version.split()[0]}
    status = 0
    with tempfile.TemporaryDirectory(prefix="oauthvault-bench-") as folder:
        told["figures"] = [
            asdict(figure)
            for figure in _ratios(parts, Path(folder), options.rounds, options.seconds)
        ]
        if _DASHBOARD in parts:
            try:
                measured = dashboard.measure(Path(folder))
            except CannotMeasure as error:
                print(f"NOT MEASURED: the dashboard ({error})")
                status = 1
            else:
                print(measured.table())
                told["dashboard"] = measured.as_json()
                status = 1 if measured.slow else 0
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(told, indent=2) + "\n")
    print(f"Written to {options.output}")
    return status


def _ratios(parts: Iterable[str], folder: Path, rounds: int, seconds: float) -> Iterator[Figure]:
    for part in parts:
        if part not in _RATIOS:
            continue
        for figure in _RATIOS[part](
            folder, lambda *what: compare(*what, rounds=rounds, seconds=seconds)
        ):
            print(
                f"{figure.name}\n"
                f"  {figure.first:<44} {figure.first_per_second:>12,.0f} /s\n"
                f"  {figure.second:<44} {figure.second_per_second:>12,.0f} /s\n"
                f"  ratio {figure.ratio:.3f} ({figure.lowest:.3f} to {figure.highest:.3f})",
                flush=True,
            )
            yield figure


if __name__ == "__main__":
    sys.exit(main())
