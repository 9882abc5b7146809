import re
from argparse import ArgumentParser, ArgumentTypeError
from datetime import UTC, datetime, timedelta
from typing import Any

from django.core.management.base import CommandError

from tokens.management.command import VaultCommand
from tokens.management.trail import add_tenant_of_the_trail, chosen_chains
from tokens.trail import export

_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_BEGINS_WITH_A_DAY = re.compile(rf"{_DAY.pattern}($|[T ])")


class Command(VaultCommand):
    help = (
        "Print the audit trail as JSON lines, oldest first, one tenant after the other. Never a "
        "token: there is none in it. `oauthvault verify_audit` says whether it is whole."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        add_tenant_of_the_trail(parser, otherwise="everything")
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
        since, until = options["since"], options["until"]
        if since is not None and until is not None and since >= until:
            raise CommandError(
                "--since is not before --until: nothing can lie between them", returncode=2
            )
        for line in export.lines(chosen_chains(options["tenant"]), since=since, until=until):
            self.stdout.write(line, ending="")


def _beginning(text: str) -> float:
    return _moment(text).timestamp()


def _end(text: str) -> float:
    moment = _moment(text)
    try:
        return (moment + timedelta(days=_DAY.fullmatch(text) is not None)).timestamp()
    except OverflowError:
        raise ArgumentTypeError(f"{text!r} is further away than dates go") from None


def _moment(text: str) -> datetime:
    """Only what begins like a day of ours. `fromisoformat` knows more: 20260131 would be taken
    for a moment, and its day not be in the export."""
    try:
        if not _BEGINS_WITH_A_DAY.match(text):
            raise ValueError
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ArgumentTypeError(
            f"{text!r} is no date like 2026-01-31, and no moment like 2026-01-31T13:30:00"
        ) from None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
