import csv
import io
import sys
from argparse import ArgumentParser
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError

from oauthvault.logging import redact
from tokens import clock, strict_json
from tokens.credential_file import parse_credentials, shown_name
from tokens.errors import InvalidCredentials, VaultError
from tokens.importing import import_credential
from tokens.management.command import (
    VaultCommand,
    actor,
    add_json,
    add_tenant,
    add_user,
    progress,
    tenant_named,
)
from tokens.models import DEFAULT_USER, Tenant

_LARGEST = 64 * 1024 * 1024
# So many of the people whom a note concerns are named.
_NAMED = 5
_SEPARATORS = {";": "semicolons", "\t": "tabs"}

Row = tuple[int, str, object]  # line, user id, what is offered


class Command(VaultCommand):
    help = (
        "Store logins: a `.credentials.json` of Claude Code for one user (--user), or JSON "
        "Lines or CSV with a `user_id` for many, and accessToken, refreshToken, expiresAt beside "
        "it (Unix time in seconds or milliseconds; access_token and so on are the same). Every "
        "row has its own result; what is refused stores nothing."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("file", metavar="FILE", help="the file, or - for standard input")
        add_tenant(parser)
        add_user(parser, required=False)
        parser.add_argument(
            "--dry-run", action="store_true", help="say what would happen, store nothing"
        )
        add_json(parser)

    def run(self, **options: Any) -> None:
        tenant = tenant_named(options["tenant"])
        content = _read(options["file"])
        rows = list(_rows(content, tenant, options["user"]))
        results: list[dict[str, Any]] = []
        first: dict[str, int] = {}
        step = progress(len(rows), wanted=not options["json"])
        for line, user_id, offered in rows:
            seen = first.setdefault(user_id, line) if user_id else line
            if seen != line:
                # The second would replace the first, and its login with it.
                offered = InvalidCredentials({"user_id": f"stands on line {seen} already"})
            results.append(_store(tenant, (line, user_id, offered), dry_run=options["dry_run"]))
            step()
        if options["json"]:
            self.print_json(results)
        else:
            self._report(results, dry_run=options["dry_run"])
        refused = sum(result["result"] == "refused" for result in results)
        if refused:
            raise CommandError(f"{refused} of {len(results)} refused")

    def _report(self, results: list[dict[str, Any]], *, dry_run: bool) -> None:
        notes: dict[str, list[str]] = {}
        for result in results:
            where = f"line {result['line']}, " if len(results) > 1 else ""
            self.say(f"{where}{_shown(result['user_id']) or '(no user)'}: {result['detail']}")
            for note in result["warnings"]:
                notes.setdefault(note, []).append(_shown(result["user_id"]))
        for note, whose in notes.items():
            rest = f" and {len(whose) - _NAMED} more" if len(whose) > _NAMED else ""
            whom = f" for {', '.join(whose[:_NAMED])}{rest}" if len(results) > 1 else ""
            self.say(f"Note{whom}: {note}")
        if dry_run:
            self.say("Dry run: nothing was stored.")


def _store(tenant: Tenant, row: Row, *, dry_run: bool) -> dict[str, Any]:
    line, user_id, offered = row
    result: dict[str, Any] = {"line": line, "user_id": _sayable(user_id), "warnings": []}
    now = clock.now()
    try:
        if isinstance(offered, VaultError):
            raise offered
        if not user_id:
            raise InvalidCredentials({"user_id": "is empty"})
        done = import_credential(
            tenant=tenant,
            user_id=user_id,
            offered=parse_credentials(offered, now=now),
            actor=actor(),
            dry_run=dry_run,
            now=now,
        )
    except VaultError as refusal:
        return result | {
            "result": "refused", "code": refusal.code, "detail": f"refused: {refusal.detail}",
        }  # fmt: skip
    verdict = "created" if done.created else "replaced" if done.changed else "unchanged"
    sentence = {
        "created": "would be stored" if dry_run else "stored",
        "replaced": f"{'would be ' if dry_run else ''}stored in place of what was there",
        "unchanged": "is stored already, unchanged",
    }[verdict]
    return result | {"result": verdict, "detail": sentence, "warnings": done.warnings}


def _sayable(user_id: str) -> str:
    """The id as UTF-8 has a form for it, and no token: what is refused may be either."""
    return redact(user_id).encode("utf-8", "backslashreplace").decode("utf-8")


def _shown(user_id: str) -> str:
    """The id for a terminal, which one that is refused could steer."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in user_id
    )


def _read(name: str) -> str:
    try:
        data = sys.stdin.buffer.read(_LARGEST + 1) if name == "-" else _read_file(Path(name))
    except OSError as error:
        raise CommandError(f"{name} cannot be read: {error.strerror}") from None
    if len(data) > _LARGEST:
        raise CommandError(f"{name} is larger than 64 MiB; split it")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise CommandError(f"{name} is not UTF-8 text") from None


def _read_file(path: Path) -> bytes:
    with path.expanduser().open("rb") as file:
        return file.read(_LARGEST + 1)


def _rows(content: str, tenant: Tenant, user: str | None) -> Iterator[Row]:
    if not content.strip():
        raise CommandError("the file is empty")
    whole = _json(content)
    if isinstance(whole, VaultError):
        yield 1, user or "", whole
    elif user is not None or (isinstance(whole, dict) and "user_id" not in whole):
        if whole is None:
            raise CommandError(
                "with --user the file must be one JSON object, such as a .credentials.json"
            )
        if user is None and not tenant.has_default_user:
            raise CommandError("this file is one person's login: say whose with --user")
        yield 1, user or DEFAULT_USER, whole
    elif isinstance(whole, dict):
        yield _row_of(1, whole)
    elif whole is not None:
        raise CommandError(
            f"the file is {_kind(whole)}: it must be one JSON object to a line, without brackets "
            "around them and commas between them"
        )
    elif content.lstrip().startswith("{"):
        for line, text in enumerate(content.splitlines(), start=1):
            if text.strip():
                yield _json_row(line, text)
    else:
        yield from _csv_rows(content)


def _json_row(line: int, text: str) -> Row:
    parsed = _json(text)
    if isinstance(parsed, VaultError):
        return line, "", parsed
    if parsed is None:
        return line, "", InvalidCredentials({"(line)": "is no JSON"})
    if not isinstance(parsed, dict):
        reason = f"is {_kind(parsed)}, and must be a JSON object"
        return line, "", InvalidCredentials({"(line)": reason})
    return _row_of(line, parsed)


def _row_of(line: int, offered: dict[str, object]) -> Row:
    if "user_id" not in offered:
        return line, "", InvalidCredentials({"user_id": "is missing"})
    user_id = offered.pop("user_id")
    if not isinstance(user_id, str):
        return line, "", InvalidCredentials({"user_id": "must be a text"})
    return line, user_id, offered


def _kind(value: object) -> str:
    """What JSON calls it."""
    if isinstance(value, list):
        return "a JSON list"
    if isinstance(value, str):
        return "a JSON string"
    return "a JSON object" if isinstance(value, dict) else "a JSON number or word"


def _csv_rows(content: str) -> Iterator[Row]:
    # With all three ends of a line, and those inside quotes left as they are.
    reader = csv.DictReader(io.StringIO(content, newline=""))
    try:
        columns = list(reader.fieldnames or [])
        if "user_id" not in columns:
            for sign, called in _SEPARATORS.items():
                if len(columns) == 1 and "user_id" in columns[0].split(sign):
                    raise CommandError(
                        f"the columns of this file are separated by {called}; this reads commas"
                    )
            raise CommandError(
                "this is neither JSON nor a CSV whose first line names the column user_id"
            )
        name, times = Counter(columns).most_common(1)[0]
        if times > 1:
            raise CommandError(f"the first line: {_given_twice(shown_name(name)).detail}")
        for row in reader:
            yield _csv_row(reader.line_num, row)
    except csv.Error as error:
        # The module's sentences name the fault, and nothing of what stands in the line.
        raise CommandError(f"line {reader.line_num} is no CSV: {error}") from None


def _csv_row(line: int, row: dict[Any, Any]) -> Row:
    user_id = row.pop("user_id", None) or ""
    if None in row:
        return line, user_id, InvalidCredentials({"(line)": "has too many columns"})
    offered: dict[str, object] = {
        name: value for name, value in row.items() if value not in (None, "")
    }
    for name in ("is_max", "isMax"):
        if name in offered:
            offered[name] = {"true": True, "false": False}.get(
                str(offered[name]).lower(), offered[name]
            )
    return line, user_id, offered


def _json(text: str) -> Any:
    """The value; None for what is no JSON; the refusal of what gives a field twice."""
    try:
        return strict_json.loads(text)
    except strict_json.GivenTwice as twice:
        return _given_twice(twice.name)
    except (ValueError, RecursionError):
        return None


def _given_twice(name: str) -> InvalidCredentials:
    return InvalidCredentials({name: "is given twice"})
