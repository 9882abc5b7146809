"""What the vault's commands share: how they refuse, how they print, whom they act for."""

import getpass
import itertools
import sys
from argparse import SUPPRESS, Action, ArgumentParser
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from tokens import isolation
from tokens.errors import VaultError
from tokens.models import Tenant
from tokens.printable import printable_json, printable_lines
from tokens.tenants import find_tenant

_BAR = 30
# What people read only: empty, it widens nothing.
_MAY_BE_EMPTY = {"--name", "--label"}
# Is called what the disk calls it, in whatever bytes.
_MAY_BE_BYTES = "FILE"


class VaultCommand(BaseCommand):
    """Exit status 0; 1 where something was refused or failed; 2 for a wrong call.

    Subclasses write `run`; a VaultError becomes one sentence.
    """

    requires_system_checks: list[str] = []
    requires_migrations_checks = False
    _arguments: Sequence[Action] = ()

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        parser = super().create_parser(prog_name, subcommand, **kwargs)
        _hide_django_options(parser)
        self._arguments = [action for action in parser._actions if action.help != SUPPRESS]
        return parser

    def execute(self, *args: Any, **options: Any) -> str | None:
        try:
            # Whoever has a terminal of the vault has its keys, too.
            with isolation.every_tenant():
                self._refuse_blanks(options)
                self._refuse_bytes(options)
                return super().execute(*args, **options)
        except CommandError as error:
            if not getattr(self, "_called_from_command_line", False):
                raise
            self.stderr.write(printable_lines(f"oauthvault: {error}"))
            sys.exit(error.returncode)

    def _refuse_blanks(self, options: dict[str, Any]) -> None:
        """A script's variable that was not set names nobody: it must not come to mean everybody,
        as it does where the option is left out."""
        for name, texts in self._given(options):
            if name not in _MAY_BE_EMPTY and any(not text.strip() for text in texts):
                raise CommandError(
                    f"{name} is empty: was a variable not set? Nothing was done", returncode=2
                )

    def _refuse_bytes(self, options: dict[str, Any]) -> None:
        """What is no UTF-8 on the command line comes here as halves of characters (PEP 383), and
        no database takes one."""
        for name, texts in self._given(options):
            halves = (half for text in texts for half in text if "\ud800" <= half <= "\udfff")
            if name != _MAY_BE_BYTES and any(halves):
                raise CommandError(f"{name} is not UTF-8. Nothing was done", returncode=2)

    def _given(self, options: dict[str, Any]) -> Iterator[tuple[str, list[str]]]:
        """Each option and argument, by the name that its user knows, and the texts it has."""
        for action in self._arguments:
            given = options.get(action.dest)
            texts = given if isinstance(given, list) else [given]
            name = action.option_strings[0] if action.option_strings else str(action.metavar)
            yield name, [text for text in texts if isinstance(text, str)]

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            self.run(**options)
        except VaultError as refusal:
            raise CommandError(refusal.detail) from None

    def run(self, **options: Any) -> None:
        raise NotImplementedError

    def say(self, text: str) -> None:
        """A line, or some. A name in it that may hold the end of one: `printable`."""
        self.stdout.write(printable_lines(text))

    def print_json(self, value: object) -> None:
        self.stdout.write(printable_json(value, indent=2))


def add_tenant(parser: ArgumentParser, *, required: bool = True) -> None:
    parser.add_argument(
        "--tenant",
        required=required,
        metavar="T",
        help="the tenant's slug, as create_tenant made it",
    )


def add_user(parser: ArgumentParser, *, required: bool = True) -> None:
    parser.add_argument("--user", required=required, metavar="U", help="the user's id, exactly")


def add_json(parser: ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON, for scripts")


def tenant_named(slug: str) -> Tenant:
    """The tenant, or the refusal that says where to find their names."""
    return find_tenant(slug)


def utc(seconds: float) -> str:
    """A moment (Unix seconds) as every command writes it."""
    return f"{datetime.fromtimestamp(int(seconds), UTC):%Y-%m-%d %H:%M:%S} UTC"


def actor() -> str:
    """Who sits at this terminal, for the audit trail."""
    try:
        return f"command line ({getpass.getuser()})"
    except (KeyError, OSError):
        return "command line"


def confirm(question: str, *, yes: bool, otherwise: str, word: str | None = None) -> None:
    """Ask at the terminal before what cannot be undone. CommandError with ``otherwise`` for
    anything but a yes (or ``word``, where that must be typed); without a terminal only
    ``yes`` (the option --yes) goes through."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise CommandError(f"{otherwise}: there is no terminal to ask at; say --yes", returncode=2)
    if word is not None:
        agreed = _answer(f"{question} Type {word} to go on: ") == word
    else:
        agreed = _answer(f"{question} [y/N] ").lower() in {"y", "yes"}
    if not agreed:
        raise CommandError(otherwise)


def _answer(question: str) -> str:
    """Asked on standard error: what goes to standard output may be read by a program (--json).
    EOFError where the input has ended."""
    sys.stderr.write(question)
    sys.stderr.flush()
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    return line.strip()


def progress(total: int, *, wanted: bool = True) -> Callable[[], None]:
    """Call what this returns after each of ``total`` steps: a bar on a terminal's standard
    error, nothing elsewhere or where the work is short."""
    if not wanted or total <= 20 or not sys.stderr.isatty():
        return lambda: None
    done = itertools.count(1)

    def step() -> None:
        number = next(done)
        filled = _BAR * number // total
        end = "\n" if number == total else ""
        sys.stderr.write(f"\r[{'#' * filled}{'.' * (_BAR - filled)}] {number}/{total}{end}")
        sys.stderr.flush()

    return step


def _hide_django_options(parser: ArgumentParser) -> None:
    """Django's options stay usable; the help shows those of the command."""
    hidden = {"--version", "--settings", "--pythonpath", "--traceback", "--no-color",
              "--force-color", "--skip-checks", "--verbosity"}  # fmt: skip
    for action in parser._actions:
        if hidden.intersection(action.option_strings):
            action.help = SUPPRESS
