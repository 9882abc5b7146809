from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import CommandError
from django.db import DatabaseError, connection
from django.db.migrations.executor import MigrationExecutor
from django.db.models import Min

from oauthvault import first_password
from oauthvault.datadir import why_unwritable
from oauthvault.env import ConfigurationError
from oauthvault.management.commands.init import refuse_silent_redis
from oauthvault.postgresql import roles
from tokens import clock, epoch
from tokens.keyring import damaged_data_keys, load_keyring, verify_keys
from tokens.management.command import VaultCommand, add_json, utc
from tokens.management.far_side import another_server
from tokens.models import AuditChain, Heartbeat, OAuthCredential, Standing, Tenant
from tokens.refresh import gate, replay, spool
from tokens.rotation import data_keys, old_keys
from tokens.rotation.keks import KekUse, kek_uses
from tokens.trail import triggers

# So many of what waits in the spool for somebody are named.
_NAMED = 3
# Sweeps that may be missed before the scheduler counts as away, as in api/health.py.
_MISSED_SWEEPS = 3

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
            findings += [_keys(), _data_keys(), _role(), _scheduler(), _first_steps()]
            findings += [_quarantine(), _upstream(), _spool(), _audit_trail()]
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
        # SQLite opens no file for the question before.
        connection.introspection.table_names()
    except DatabaseError as error:
        return "database", _BROKEN, f"cannot be reached: {' '.join(str(error).split())}"
    if connection.vendor == "sqlite":
        file = Path(connection.settings_dict["NAME"])
        if file.is_file() and (why := why_unwritable(file.parent)):
            return "database", _BROKEN, f"cannot be written: {why}"
    return "database", _GOOD, f"{connection.vendor} answers"


def _migrations() -> Finding:
    executor = MigrationExecutor(connection)
    plan = executor.migration_plan(executor.loader.graph.leaf_nodes())
    if plan:
        missing = "1 is" if len(plan) == 1 else f"{len(plan)} are"
        return "migrations", _BROKEN, f"{missing} missing: run `oauthvault migrate`"
    return "migrations", _GOOD, "all are applied"


def _keys() -> Finding:
    try:
        keyring = load_keyring()
        verify_keys(keyring)
    except ConfigurationError as error:
        return "keys", _BROKEN, str(error)
    uses = kek_uses(keyring)
    for state, found, says in (
        ("needed", _WORTH_A_LOOK, "still needed: run `oauthvault rotate_keys`"),
        ("removable", _GOOD, "not needed any more, except by older backups"),
    ):
        if named := [_named(use) for use in uses if use.state == state]:
            those = f"key {named[0]} is" if len(named) == 1 else f"keys {', '.join(named)} are"
            return "keys", found, f"key {keyring.primary_id} wraps; {those} {says}"
    return "keys", _GOOD, f"key {keyring.primary_id} opens what the database holds"


def _named(use: KekUse) -> str:
    wrapped = use.data_keys + use.vault_keys
    return f"{use.kek_id} ({wrapped} wrapped by it)" if wrapped else use.kek_id


def _data_keys() -> Finding:
    if damaged := _damaged():
        return (
            "data keys", _BROKEN,
            f"do not open: {'; '.join(damaged)}. Restore these rows from a backup; else "
            "`oauthvault rotate_keys --tenant T` gives the tenant another one, and whoever's login "
            "was sealed under it signs in to Claude again",
        )  # fmt: skip
    now = clock.now()
    tenants = list(data_keys.unfinished().order_by("slug"))
    waiting = [
        f"{tenant.slug} ({rows})"
        for tenant in tenants
        if (rows := data_keys.under_older_keys(tenant).count())
    ]
    kept = [
        f"{key.key_id} of {tenant.slug}: {why}"
        for tenant in tenants
        for key in old_keys.retired(tenant)
        if (why := old_keys.why_needed(key, now=now))
    ]
    if waiting:
        return (
            "data keys", _WORTH_A_LOOK,
            "credentials that are sealed under an older data key of their tenant: "
            f"{', '.join(waiting)}. A running worker goes on with it; what does not open (the log "
            "names it) stays until a new login of theirs",
        )  # fmt: skip
    if kept:
        return "data keys", _GOOD, f"replaced, and still needed: {'; '.join(kept)}"
    return "data keys", _GOOD, "every credential is sealed under its tenant's present one"


def _damaged() -> list[str]:
    """Data keys that do not open, where that is not for want of a KEK: of that `_keys` speaks."""
    try:
        verify_keys(load_keyring())
    except ConfigurationError:
        return []
    found = []
    for row in damaged_data_keys():
        under = OAuthCredential.objects.filter(tenant=row.tenant, data_key=row).count()
        logins = "1 credential" if under == 1 else f"{under} credentials"
        found.append(f"{row.key_id} of {row.tenant.slug} ({logins} sealed under it)")
    return found


def _role() -> Finding:
    if connection.vendor != "postgresql":
        return "role", _GOOD, "SQLite has no roles"
    if open_tables := roles.tables_before_the_wall(connection):
        return "role", _BROKEN, f"no row-level security on {', '.join(open_tables)}: migrate"
    name = roles.name_of(connection)
    if roles.passes_the_wall(connection):
        return (
            "role", _WORTH_A_LOOK,
            f"{name} is superuser or bypasses row-level security, or may turn into a role that "
            "does; give the service a plain role (`oauthvault prepare_roles`) and migrate with "
            "OAUTHVAULT_MIGRATION_DATABASE_URL",
        )  # fmt: skip
    if roles.owns_the_tables(connection):
        return (
            "role", _WORTH_A_LOOK,
            f"{name} bypasses nothing, but owns the tables and could take the wall down; give the "
            "service a role of its own (`oauthvault prepare_roles`)",
        )  # fmt: skip
    return "role", _GOOD, f"{name} bypasses nothing and owns nothing"


def _scheduler() -> Finding:
    beat = Heartbeat.objects.filter(part="scheduler").first()
    if beat is None:
        return "scheduler", _WORTH_A_LOOK, "has not run yet: nothing is refreshed ahead of expiry"
    age = int(clock.now() - beat.at)
    if age > _MISSED_SWEEPS * settings.SWEEP_INTERVAL:
        return "scheduler", _BROKEN, f"last ran {age} s ago: start `oauthvault beat` and `worker`"
    if age > 2 * settings.SWEEP_INTERVAL:
        return (
            "scheduler", _WORTH_A_LOOK,
            f"ran {age} s ago, and runs every {settings.SWEEP_INTERVAL:g} s: are `oauthvault beat` "
            "and `worker` there?",
        )  # fmt: skip
    return "scheduler", _GOOD, f"ran {age} s ago"


def _quarantine() -> Finding:
    state = epoch.deployment()
    if state.quarantined_at is None:
        if why := epoch.suspicion():
            return "quarantine", _BROKEN, f"{why}: it may be a restored one. Refreshes will tell"
        return "quarantine", _GOOD, "this database is the one that was left"
    since = utc(state.quarantined_at)
    waiting = OAuthCredential.objects.filter(standing=Standing.QUARANTINED).count()
    those = "1 credential is" if waiting == 1 else f"{waiting} credentials are"
    return (
        "quarantine", _BROKEN,
        f"since {since}: {state.quarantine_reason}. {those} "
        "neither handed out nor refreshed. Make sure nothing else runs on the original "
        "database, revoke again whom you revoked since the backup, then run "
        "`oauthvault release_quarantine`",
    )  # fmt: skip


def _upstream() -> Finding:
    if sentence := another_server():
        return "upstream", _BROKEN, sentence
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
        waiting = replay.waiting()
        rest = f". Not by itself, however: {'; '.join(waiting[:_NAMED])}" if waiting else ""
        rest += f" (and {len(waiting) - _NAMED} more)" if len(waiting) > _NAMED else ""
        answers = "1 answer of the authorization server waits"
        if depth > 1:
            answers = f"{depth} answers of the authorization server wait"
        return (
            "spool", _BROKEN,
            f"{answers} to be saved; a running worker "
            f"does it as soon as the database takes them{rest}",
        )  # fmt: skip
    return "spool", _GOOD, "empty"


def _audit_trail() -> Finding:
    broken = [
        f"{chain}: {chain.broken}" for chain in AuditChain.objects.exclude(broken="").order_by("pk")
    ]
    wrong = []
    if broken:
        rest = f"; and {len(broken) - _NAMED} more" if len(broken) > _NAMED else ""
        wrong.append(
            f"was not proven whole when it was verified last ({'; '.join(broken[:_NAMED])}{rest}). "
            "Run `oauthvault verify_audit`"
        )
    if gone := triggers.missing(connection):
        wrong.append(
            "the database does not refuse to change it any more: somebody took triggers away "
            f"({', '.join(gone)}). `oauthvault migrate` makes them anew; then run `oauthvault "
            "verify_audit`"
        )
    if wrong:
        return "audit trail", _BROKEN, ". ".join(wrong)
    verified = AuditChain.objects.aggregate(at=Min("verified_at"))["at"]
    if verified is None:
        return (
            "audit trail",
            _GOOD,
            "never verified: `oauthvault verify_audit`",
        )
    return "audit trail", _GOOD, f"was whole when it was verified last, {utc(verified)}"


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
    if why := why_unwritable(folder):
        return "files", _BROKEN, why
    if first_password.is_there():
        return (
            "files", _WORTH_A_LOOK,
            f"the first operator's password is still in {folder / first_password.FILE}: sign in "
            "with it and change it, which deletes the file",
        )  # fmt: skip
    return "files", _GOOD, f"{folder} is private"
