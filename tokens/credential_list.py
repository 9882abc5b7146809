"""Files that logins come in: one person's `.credentials.json`, JSON Lines or CSV for many.

What is read here holds tokens. A sentence about it names lines, fields and kinds of files, and
repeats nothing that stands in one.
"""

import csv
import io
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from tokens import strict_json
from tokens.credential_file import shown_name
from tokens.errors import InvalidCredentials, VaultError
from tokens.models import DEFAULT_USER
from tokens.secret import Secret

_SEPARATORS = {";": "semicolons", "\t": "tabs"}
# A credential has a dozen. Each row is given every column of the first line, so a long first line
# and many short rows would be read for an hour.
_MOST_COLUMNS = 64
# How files begin that people take for text, and what these are called.
_NO_TEXT = {
    b"PK\x03\x04": "an Excel sheet or another zip archive; save it as CSV (UTF-8)",
    b"\xd0\xcf\x11\xe0": "an old Excel or Word document; save it as CSV (UTF-8)",
    b"\x1f\x8b": "compressed; unpack it first",
    b"%PDF": "a PDF document",
    b"\xff\xfe": "UTF-16 text; save it as UTF-8",
    b"\xfe\xff": "UTF-16 text; save it as UTF-8",
}


class UnreadableFile(VaultError):
    """A file of which no row can be read."""

    code = "invalid_credentials_file"


class UserUnsaid(UnreadableFile):
    """One person's login, and nobody has said whose."""


class NotOneLogin(UnreadableFile):
    """A file of something else, where one person's login was announced."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One login of a file. ``offered``: what `parse_credentials` reads, or why there is nothing
    to read. ``tenant``: the slug that the row names, if it names one."""

    line: int
    user_id: str
    tenant: str | None = None
    offered: object = field(repr=False)


def text_of(data: bytes) -> Secret:
    """The text of a file. UnreadableFile, with what it is instead, if it is none in UTF-8."""
    for beginning, kind in _NO_TEXT.items():
        if data.startswith(beginning):
            raise UnreadableFile(f"the file is {kind}")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UnreadableFile("the file is not UTF-8 text") from None
    if "\0" in text:
        raise UnreadableFile("the file is no text, or UTF-16 text: it holds null characters")
    return Secret(text)


def rows(text: Secret, *, user: str | None, has_default_user: bool) -> Iterator[Row]:
    """The rows of a file, in its order. ``user``: whose login it is; None: each row says it,
    or it is the default user's, where there is one.

    UnreadableFile, before or after some rows, if it is no such file as a whole. What is wrong
    with one row is in its ``offered``.
    """
    content = text.reveal()
    if not content.strip():
        raise UnreadableFile("the file is empty")
    whole = _json(content)
    if isinstance(whole, VaultError):
        yield Row(line=1, user_id=user or "", offered=whole)
    elif user is not None or (isinstance(whole, dict) and "user_id" not in whole):
        if whole is None:
            raise NotOneLogin("the file must be one JSON object, such as a .credentials.json")
        if user is None and not has_default_user:
            raise UserUnsaid("this file is one person's login: say whose")
        yield Row(line=1, user_id=user or DEFAULT_USER, offered=whole)
    elif isinstance(whole, dict):
        yield _row_of(1, whole)
    elif whole is not None:
        raise UnreadableFile(
            f"the file is {_kind(whole)}: it must be one JSON object to a line, without brackets "
            "around them and commas between them"
        )
    elif content.lstrip().startswith("{"):
        for line, each in enumerate(content.splitlines(), start=1):
            if each.strip():
                yield _json_row(line, each)
    else:
        yield from _csv_rows(content)


def _json_row(line: int, text: str) -> Row:
    parsed = _json(text)
    if parsed is None:
        parsed = InvalidCredentials({"(line)": "is no JSON"})
    elif not isinstance(parsed, dict | VaultError):
        parsed = InvalidCredentials({"(line)": f"is {_kind(parsed)}, and must be a JSON object"})
    if isinstance(parsed, VaultError):
        return Row(line=line, user_id="", offered=parsed)
    return _row_of(line, parsed)


def _row_of(line: int, offered: dict[str, object]) -> Row:
    if "user_id" not in offered:
        return Row(line=line, user_id="", offered=InvalidCredentials({"user_id": "is missing"}))
    named = {name: offered.pop(name) for name in ("user_id", "tenant") if name in offered}
    for name, value in named.items():
        if not isinstance(value, str):
            refusal = InvalidCredentials({name: "must be a text"})
            return Row(line=line, user_id="", offered=refusal)
    return Row(
        line=line, user_id=str(named["user_id"]), tenant=_slug(named.get("tenant")), offered=offered
    )


def _slug(named: object) -> str | None:
    return None if named is None else str(named)


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
        if len(columns) > _MOST_COLUMNS:
            raise UnreadableFile(f"the first line has more than {_MOST_COLUMNS} columns")
        if "user_id" not in columns:
            for sign, called in _SEPARATORS.items():
                if len(columns) == 1 and "user_id" in columns[0].split(sign):
                    raise UnreadableFile(
                        f"the columns of this file are separated by {called}; this reads commas"
                    )
            raise UnreadableFile(
                "this is neither JSON nor a CSV whose first line names the column user_id"
            )
        name, times = Counter(columns).most_common(1)[0]
        if times > 1:
            raise UnreadableFile(f"the first line: {_given_twice(shown_name(name)).detail}")
        for row in reader:
            yield _csv_row(reader.line_num, row)
    except csv.Error as error:
        # The module's sentences name the fault, and nothing of what stands in the line.
        raise UnreadableFile(f"line {reader.line_num} is no CSV: {error}") from None


def _csv_row(line: int, row: dict[Any, Any]) -> Row:
    user_id = row.pop("user_id", None) or ""
    if None in row:
        refusal = InvalidCredentials({"(line)": "has too many columns"})
        return Row(line=line, user_id=user_id, offered=refusal)
    tenant = row.pop("tenant", None) or None
    offered: dict[str, object] = {
        name: value for name, value in row.items() if value not in (None, "")
    }
    for name in ("is_max", "isMax"):
        if name in offered:
            offered[name] = {"true": True, "false": False}.get(
                str(offered[name]).lower(), offered[name]
            )
    return Row(line=line, user_id=user_id, tenant=tenant, offered=offered)


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
