import sys
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError

from tokens import clock
from tokens.credential_list import NotOneLogin, Row, UserUnsaid, rows, text_of
from tokens.import_list import ImportList, Verdict
from tokens.importing import Effect
from tokens.management.command import (
    VaultCommand,
    actor,
    add_json,
    add_tenant,
    add_user,
    progress,
    tenant_named,
)
from tokens.models import Tenant
from tokens.secret import Secret

_LARGEST = 64 * 1024 * 1024
# So many of the people whom a note concerns are named.
_NAMED = 5
# Of the results that scripts read; the other effects are "replaced".
_WORDS = {Effect.NEW: "created", Effect.UNCHANGED: "unchanged"}


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
        many = ImportList(tenant=tenant, tenants={tenant.slug: tenant})
        found = _rows(_read(options["file"]), tenant, options["user"])
        dry_run = options["dry_run"]
        if dry_run:
            verdicts = many.judge(found, now=clock.now())
        else:
            verdicts = []
            step = progress(len(found), wanted=not options["json"])
            for row in found:
                verdicts.append(many.store(row, actor=actor(), now=clock.now()))
                step()
        results = [_result(verdict, dry_run=dry_run) for verdict in verdicts]
        if options["json"]:
            self.print_json(results)
        else:
            self._report(results, dry_run=dry_run)
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


def _result(verdict: Verdict, *, dry_run: bool) -> dict[str, Any]:
    result: dict[str, Any] = {"line": verdict.line, "user_id": verdict.user_id}
    if verdict.effect is None:
        return result | {
            "warnings": [], "result": "refused", "code": verdict.code,
            "detail": f"refused: {verdict.detail}",
        }  # fmt: skip
    word = _WORDS.get(verdict.effect, "replaced")
    sentence = {
        "created": "would be stored" if dry_run else "stored",
        "replaced": f"{'would be ' if dry_run else ''}stored in place of what was there",
        "unchanged": "is stored already, unchanged",
    }[word]
    return result | {"warnings": list(verdict.warnings), "result": word, "detail": sentence}


def _shown(user_id: str) -> str:
    """The id for a terminal, which one that is refused could steer."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in user_id
    )


def _read(name: str) -> Secret:
    try:
        data = sys.stdin.buffer.read(_LARGEST + 1) if name == "-" else _read_file(Path(name))
    except OSError as error:
        raise CommandError(f"{name} cannot be read: {error.strerror}") from None
    if len(data) > _LARGEST:
        raise CommandError(f"{name} is larger than 64 MiB; split it")
    return text_of(data)


def _read_file(path: Path) -> bytes:
    with path.expanduser().open("rb") as file:
        return file.read(_LARGEST + 1)


def _rows(text: Secret, tenant: Tenant, user: str | None) -> list[Row]:
    try:
        return list(rows(text, user=user, has_default_user=tenant.has_default_user))
    except NotOneLogin as refusal:
        raise CommandError(f"with --user {refusal.detail}") from None
    except UserUnsaid as refusal:
        raise CommandError(f"{refusal.detail} with --user") from None
