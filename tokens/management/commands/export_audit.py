import re
from argparse import ArgumentParser, ArgumentTypeError
from datetime import UTC, datetime, timedelta
from typing import Any

from tokens.management.command import VaultCommand
from tokens.trail import census, export

_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")


class Command(VaultCommand):
    help = (
        "Print the audit trail as JSON lines, oldest first, one tenant after the other. Never a "
        "token: there is none in it. `oauthvault verify_audit` says whether it is whole."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--tenant",
            metavar="T",
            help="the tenant's slug (also of a deleted one), or id:N; without it: everything",
        )
        parser.add_argument(
            "--since",
            type=_beginning,
            metavar="DATE",
            help="from this day or moment on (UTC), like 2026-01-31 or 2026-01-31T13:30:00",
        )
        parser.add_argument(
            "--until",
            type=_end,
            metavar="DATE",
            help="up to the end of this day, or to before this moment",
        )

    def run(self, **options: Any) -> None:
        named = options["tenant"]
        chains = census.chains_of(named) if named else census.all_chains()
        for line in export.lines(chains, since=options["since"], until=options["until"]):
            self.stdout.write(line, ending="")


def _beginning(text: str) -> float:
    return _moment(text).timestamp()


def _end(text: str) -> float:
    whole_day = _DAY.fullmatch(text) is not None
    return (_moment(text) + timedelta(days=whole_day)).timestamp()


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ArgumentTypeError(f"{text!r} is no date like 2026-01-31") from None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
