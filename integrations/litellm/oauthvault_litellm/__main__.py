"""`python -m oauthvault_litellm`: what a proxy's owner can ask for on the command line."""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from oauthvault_litellm import __version__
from oauthvault_litellm.doctor import examine


def main(arguments: Sequence[str] | None = None) -> int:
    """0: nothing is wrong; 1: something is. Wrong usage ends in argparse's 2."""
    options = _parser().parse_args(arguments)
    findings = list(examine(options.config, os.environ))
    if options.json:
        print(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        for finding in findings:
            print(f"{finding.state:<8}{finding.what:<14}{finding.detail}")
    return 1 if any(finding.state == "wrong" for finding in findings) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m oauthvault_litellm",
        description="The LiteLLM side of oauthvault.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    doctor = commands.add_parser(
        "doctor",
        help="look at the proxy's config, its environment and the vault, and say what is missing",
        description="Looks at LiteLLM's config, at the environment and at the vault, and says what "
        "is missing and what to do. The proxy is not started, nothing is changed, and no secret is "
        "printed.",
        epilog="Run it with the Python and in the environment of the proxy: the same OAUTHVAULT_*, "
        "CLAUDE_* and ANTHROPIC_* variables (LiteLLM's .env file is not read). "
        "Each line says ok, warning or wrong. Exit status: 0 if nothing is wrong, 1 if something "
        "is, 2 for wrong usage.",
        allow_abbrev=False,
    )
    doctor.add_argument(
        "--config",
        type=Path,
        default=Path("config.yaml"),
        metavar="FILE",
        help="the file that `litellm --config` is given (default: config.yaml)",
    )
    doctor.add_argument("--json", action="store_true", help="print a list of what, state, detail")
    return parser


if __name__ == "__main__":
    sys.exit(main())
