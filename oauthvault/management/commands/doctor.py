import os
from argparse import ArgumentParser
from datetime import UTC, datetime
from typing import Any

from django.conf import settings
from django.core.management.base import CommandError
from django.db import DatabaseError, connection
from django.db.migrations.executor import MigrationExecutor

from oauthvault.env import ConfigurationError
from oauthvault.management.commands.init import refuse_silent_redis
from tokens import clock, epoch
from tokens.keyring import load_keyring, verify_keys
from tokens.management.command import VaultCommand, add_json
from tokens.models import Heartbeat, OAuthCredential, Standing, Tenant
from tokens.refresh import gate, spool

_GOOD, _WORTH_A_LOOK, _BROKEN = "ok", "note", "wrong"


class Command(VaultCommand):
    help = "Look at everything that a vault needs, and say what is wrong and what to do."

    def add_arguments(self, parser: ArgumentParser) -> None:
        add_json(parser)

    def run(self, **options: Any) -> None:
        findings = [_database()]
        if findings[0][1] == _GOOD:
            findings += [_migrations()]
        if findings[-1][1] == _GOOD:
            findings += [_keys(), _role(), _scheduler(), _first_steps()]
            findings += [_quarantine(), _upstream(), _spool()]
        findings += [_redis(), _files()]
        if options["json"]:
            self.print_json(
                [{"what": what, "state": state, "detail": text} for what, state, text in findings]
            )
        else:
            for what, state, text in findings:
                self.say(f"{state:<6} {what:<12} {text}")
        if any(state == _BROKEN for _, state, _ in findings):
            raise CommandError("something is wrong")


Finding = tuple[str, str, str]


def _database() -> Finding:
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
    except DatabaseError as error:
        return "database", _BROKEN, f"cannot be reached: {' '.join(str(error).split())}"
    return "database", _GOOD, f"{connection.vendor} answers"


def _migrations() -> Finding:
    executor = MigrationExecutor(connection)
    plan = executor.migration_plan(executor.loader.graph.leaf_nodes())
    if plan:
        return "migrations", _BROKEN, f"{len(plan)} are missing: run `oauthvault migrate`"
    return "migrations", _GOOD, "all are applied"


def _keys() -> Finding:
    try:
        keyring = load_keyring()
        verify_keys(keyring)
    except ConfigurationError as error:
        return "keys", _BROKEN, str(error)
    return "keys", _GOOD, f"key {keyring.primary_id} opens what the database holds"


def _role() -> Finding:
    if connection.vendor != "postgresql":
        return "role", _GOOD, "SQLite has no roles"
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT current_user, rolsuper OR rolbypassrls FROM pg_roles "
            "WHERE rolname = current_user"
        )
        name, powerful = cursor.fetchone()
    if powerful:
        return (
            "role", _WORTH_A_LOOK,
            f"{name} is superuser or bypasses row-level security; give the service a plain role "
            "and migrate with OAUTHVAULT_MIGRATION_DATABASE_URL",
        )  # fmt: skip
    return "role", _GOOD, f"{name} bypasses nothing"


def _scheduler() -> Finding:
    beat = Heartbeat.objects.filter(part="scheduler").first()
    if beat is None:
        return "scheduler", _WORTH_A_LOOK, "has not run yet: nothing is refreshed ahead of expiry"
    age = int(clock.now() - beat.at)
    if age > 3 * settings.SWEEP_INTERVAL + 30:
        return "scheduler", _BROKEN, f"last ran {age} s ago: start `oauthvault beat` and `worker`"
    return "scheduler", _GOOD, f"ran {age} s ago"


def _quarantine() -> Finding:
    state = epoch.deployment()
    if state.quarantined_at is None:
        if why := epoch.suspicion():
            return "quarantine", _BROKEN, f"{why}: it may be a restored one. Refreshes will tell"
        return "quarantine", _GOOD, "this database is the one that was left"
    since = datetime.fromtimestamp(state.quarantined_at, UTC)
    waiting = OAuthCredential.objects.filter(standing=Standing.QUARANTINED).count()
    return (
        "quarantine", _BROKEN,
        f"since {since:%Y-%m-%d %H:%M:%S} UTC: {state.quarantine_reason}. {waiting} credentials "
        "are neither handed out nor refreshed. Make sure nothing else runs on the original "
        "database, revoke again whom you revoked since the backup, then run "
        "`oauthvault release_quarantine`",
    )  # fmt: skip


def _upstream() -> Finding:
    now = clock.now()
    door = gate.look(now=now)
    if door.found_down:
        return (
            "upstream", _WORTH_A_LOOK,
            f"{settings.CLAUDE_OAUTH_TOKEN_URL} was found down; one refresh at a time tries it, "
            "and the others wait",
        )  # fmt: skip
    if door.closed_until:
        return (
            "upstream", _WORTH_A_LOOK,
            f"asked everybody to wait, for {int(door.closed_until - now)} s more",
        )  # fmt: skip
    return "upstream", _GOOD, f"nothing known against {settings.CLAUDE_OAUTH_TOKEN_URL}"


def _spool() -> Finding:
    depth = spool.depth(epoch.vault_id())
    if depth:
        return (
            "spool", _BROKEN,
            f"{depth} answers of the authorization server wait to be saved; a running worker "
            "does it as soon as the database takes them",
        )  # fmt: skip
    return "spool", _GOOD, "empty"


def _first_steps() -> Finding:
    if not Tenant.objects.exists():
        return "tenants", _WORTH_A_LOOK, "none yet: run `oauthvault init`"
    return "tenants", _GOOD, f"{Tenant.objects.count()}"


def _redis() -> Finding:
    if settings.REDIS_URL is None:
        return "broker", _GOOD, "files in the data directory (one machine only)"
    try:
        refuse_silent_redis()
    except ConfigurationError as error:
        return "broker", _BROKEN, str(error)
    return "broker", _GOOD, "Redis answers"


def _files() -> Finding:
    folder = settings.OAUTHVAULT_DATA_DIR
    loose = [
        entry.name for entry in folder.iterdir() if entry.is_file() and entry.stat().st_mode & 0o077
    ]
    if loose:
        return "files", _BROKEN, f"{', '.join(sorted(loose))}: others may read them; chmod 600"
    if not os.access(folder, os.W_OK):
        return "files", _BROKEN, f"{folder} cannot be written"
    return "files", _GOOD, f"{folder} is private"
