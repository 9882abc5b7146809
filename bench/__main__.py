"""`python -m bench`: measure, print a table, and write the figures as JSON.

Machines are noisy: what counts is a ratio, whose two sides take turns in short rounds of the
same run. The middle of the rounds' ratios is shown, with the lowest and the highest.
"""

import argparse
import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from bench import hand_outs, hook, sealing
from bench.ratio import compare

_PARTS = {"sealing": sealing.measure, "hand-outs": hand_outs.measure, "hook": hook.measure}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="turns of each side (7)")
    parser.add_argument("--seconds", type=float, default=1.0, help="length of a turn (1)")
    parser.add_argument("--only", choices=[*_PARTS], help="one part of it: %(choices)s")
    parser.add_argument("--output", type=Path, default=Path("artefacts/bench.json"))
    options = parser.parse_args()

    figures = []
    with tempfile.TemporaryDirectory(prefix="oauthvault-bench-") as folder:
        for part in [options.only] if options.only else _PARTS:
            for figure in _PARTS[part](
                Path(folder),
                lambda *what: compare(*what, rounds=options.rounds, seconds=options.seconds),
            ):
                figures.append(figure)
                print(
                    f"{figure.name}\n"
                    f"  {figure.first:<44} {figure.first_per_second:>12,.0f} /s\n"
                    f"  {figure.second:<44} {figure.second_per_second:>12,.0f} /s\n"
                    f"  ratio {figure.ratio:.3f} ({figure.lowest:.3f} to {figure.highest:.3f})",
                    flush=True,
                )
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(
        json.dumps(
            {"python": sys.version.split()[0], "figures": [asdict(one) for one in figures]},
            indent=2,
        )
        + "\n"
    )
    print(f"Written to {options.output}")


if __name__ == "__main__":
    main()
