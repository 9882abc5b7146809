from argparse import ArgumentParser
from collections.abc import Sequence
from typing import Any

from django.conf import settings
from django.core.management.base import CommandError
from django.db import connection

from oauthvault import env
from tokens import audit, clock, isolation
from tokens.keyring import damaged_data_keys, load_keyring, verify_keys
from tokens.management.command import (
    VaultCommand,
    actor,
    add_json,
    add_tenant,
    confirm,
    progress,
    tenant_named,
)
from tokens.models import OAuthCredential, Tenant
from tokens.rotation import key_file
from tokens.rotation.data_keys import Rotation, rotate_data_key
from tokens.rotation.keks import KekUse, kek_uses, rewrap_all, to_rewrap

_BACKUPS = (
    "A backup that was made before opens with the old key only: keep a copy as long as the backup."
)


class Command(VaultCommand):
    help = (
        "Rotate keys while the vault serves. Without options: every data key is wrapped under "
        "the primary encryption key, the one in CLAUDE_TOKEN_ENCRYPTION_KEY (or the first line "
        "of the key file), and it is said which of the others may be removed. Before that, "
        "every process must have the new key: docs/operations.md, “Rotating keys”, has the "
        "steps. With --tenant or --all-tenants: a new data key each, and the credentials sealed "
        "again under it. Interrupted at any point, it goes on when it is run again."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        add_tenant(parser, required=False)
        parser.add_argument(
            "--all-tenants", action="store_true", help="a new data key for every tenant"
        )
        parser.add_argument(
            "--new-key",
            action="store_true",
            help="first make a new encryption key in the key file (not where it is given by "
            "CLAUDE_TOKEN_ENCRYPTION_KEY)",
        )
        parser.add_argument(
            "--remove-unneeded",
            action="store_true",
            help="take out of the key file what nothing in the database needs; backups that were "
            "made before open with the removed key only",
        )
        parser.add_argument("--yes", action="store_true", help="do not ask before")
        add_json(parser)

    def run(self, **options: Any) -> None:
        chosen = [
            name
            for name in ("tenant", "all_tenants", "new_key", "remove_unneeded")
            if options[name]
        ]
        if len(chosen) > 1:
            one, other = (f"--{name.replace('_', '-')}" for name in chosen[:2])
            raise CommandError(f"{one} and {other} are two different things", returncode=2)
        if options["remove_unneeded"]:
            self._remove(**options)
        elif options["tenant"] or options["all_tenants"]:
            self._rotate_data_keys(**options)
        else:
            self._rewrap(**options)

    def _rewrap(self, **options: Any) -> None:
        new_key = self._new_key(**options) if options["new_key"] else None
        keyring = load_keyring()
        verify_keys(keyring)
        step = progress(to_rewrap(keyring), wanted=not options["json"])
        done = rewrap_all(keyring, actor=actor(), now=clock.now(), each=step)
        left = to_rewrap(keyring)
        if options["json"]:
            self.print_json(
                {"new_key": new_key, "rewrapped": done, "left": left} | _told(kek_uses(keyring))
            )
        else:
            if options["new_key"] and new_key is None:
                self.say("An earlier rotation was unfinished: it goes on, and no new key was made.")
            if new_key is not None:
                self.say(
                    f"Key {new_key} is new in {settings.ENCRYPTION_KEY_FILE}: back the file up."
                )
            self.say(
                f"{_keys(done)} wrapped under key {keyring.primary_id}."
                if done
                else f"Everything is wrapped under key {keyring.primary_id} already."
            )
            self._say_uses(kek_uses(keyring))
        if damaged := damaged_data_keys():
            named = ", ".join(f"{row.key_id} of {row.tenant.slug}" for row in damaged)
            raise CommandError(
                f"data keys that do not open: {named}. All others are done; `oauthvault doctor` "
                "says what becomes of these"
            )
        if left:
            raise CommandError(
                f"{_keys(left)} not wrapped under key {keyring.primary_id}: another process "
                "changes them; run this again"
            )

    def _new_key(self, **options: Any) -> str | None:
        key_file.refuse_given_keys()
        if connection.vendor == "postgresql":
            confirm(
                f"Is {settings.ENCRYPTION_KEY_FILE} the only copy of the key file that processes "
                "read? What is on another machine does not learn of the new key.",
                yes=options["yes"],
                otherwise="nothing was changed",
            )
        made = key_file.add_new_key()
        if made is not None:
            _note("add_encryption_key", keys=[made])
        return made

    def _remove(self, **options: Any) -> None:
        key_file.refuse_given_keys()
        going = [use.kek_id for use in kek_uses(load_keyring()) if use.state == "removable"]
        if going:
            confirm(
                f"Remove key {', '.join(going)} from {settings.ENCRYPTION_KEY_FILE}? Backups of "
                "the database that were made before its rotation open with it only: have a copy.",
                yes=options["yes"],
                otherwise="nothing was removed",
            )
        removed = key_file.remove_unneeded()
        if removed:
            _note("remove_encryption_keys", keys=removed)
        uses = kek_uses(load_keyring())
        if options["json"]:
            self.print_json({"removed": removed} | _told(uses))
            return
        self.say(
            f"Removed from {settings.ENCRYPTION_KEY_FILE}: key {', '.join(removed)}."
            if removed
            else "Nothing was removed: every key in the file is needed."
        )
        self._say_uses(uses)

    def _rotate_data_keys(self, **options: Any) -> None:
        verify_keys(load_keyring())
        tenants = (
            [tenant_named(options["tenant"])]
            if options["tenant"]
            else list(Tenant.objects.order_by("slug"))
        )
        step = progress(
            OAuthCredential.objects.filter(tenant__in=tenants, data_key__isnull=False).count(),
            wanted=not options["json"],
        )
        results: list[tuple[Tenant, Rotation]] = []
        for tenant in tenants:
            with isolation.of(tenant.pk):
                done = rotate_data_key(tenant=tenant, actor=actor(), now=clock.now(), each=step)
            results.append((tenant, done))
        uses = kek_uses(load_keyring())
        if options["json"]:
            told = [_result(tenant, done) for tenant, done in results]
            self.print_json({"tenants": told} | _told(uses))
        else:
            for tenant, done in results:
                self._say_rotation(tenant, done)
            self._say_uses(uses)
        if damaged := sum(done.damaged for _, done in results):
            raise CommandError(
                f"{_credentials(damaged)} left under an older key, because what is sealed there "
                "does not open (the log names it): a new login of theirs ends that"
            )

    def _say_rotation(self, tenant: Tenant, done: Rotation) -> None:
        if not done.key_id:
            self.say(f"{tenant.slug}: nothing was ever sealed, and there is no data key.")
            return
        began = (
            f"data key {done.key_id} is new"
            if done.is_new
            else f"the rotation to data key {done.key_id} had been cut off, and goes on"
        )
        self.say(f"{tenant.slug}: {began}; {_credentials(done.resealed)} sealed again.")
        for old in done.old_keys:
            if old.why is None:
                self.say(f"  data key {old.key_id}: destroyed")
            else:
                self.say(f"  data key {old.key_id}: still needed, {old.why}")
        if any(old.why is not None for old in done.old_keys):
            self.say("  The worker destroys it as soon as nothing needs it; so does the next call.")

    def _say_uses(self, uses: Sequence[KekUse]) -> None:
        self.say(f"\n{'ENCRYPTION KEY':<16} {'STATE':<10} WRAPS")
        for use in uses:
            self.say(f"{use.kek_id:<16} {use.state:<10} {_wraps(use)}")
        if any(use.state == "removable" for use in uses):
            how = (
                f"take it out of {env.given_by('CLAUDE_TOKEN_ENCRYPTION_KEY_FALLBACKS')} once no "
                f"process has it in its {env.given_by('CLAUDE_TOKEN_ENCRYPTION_KEY')} any more"
                if settings.ENCRYPTION_KEYS
                else "`oauthvault rotate_keys --remove-unneeded` takes it out of the key file"
            )
            self.say(f"\nNothing in this database needs what is removable: {how}. {_BACKUPS}")


def _told(uses: Sequence[KekUse]) -> dict[str, Any]:
    removable = any(use.state == "removable" for use in uses)
    return {
        "encryption_keys": [
            {
                "id": use.kek_id,
                "state": use.state,
                "data_keys": use.data_keys,
                "vault_keys": use.vault_keys,
            }
            for use in uses
        ],
        "note": _BACKUPS if removable else None,
    }


def _result(tenant: Tenant, done: Rotation) -> dict[str, Any]:
    return {
        "tenant": tenant.slug,
        "data_key": done.key_id or None,
        "is_new": done.is_new,
        "resealed": done.resealed,
        "left": done.left,
        "damaged": done.damaged,
        "old_data_keys": [
            {
                "id": old.key_id,
                "state": "destroyed" if old.why is None else "needed",
                "why": old.why,
            }
            for old in done.old_keys
        ],
    }


def _wraps(use: KekUse) -> str:
    parts = []
    if use.data_keys:
        parts.append(f"{use.data_keys} data key{'s' if use.data_keys > 1 else ''}")
    if use.vault_keys:
        parts.append(f"{use.vault_keys} of the vault's own keys")
    if use.may_be_more and not use.is_primary:
        parts.append("a key that is being made, perhaps: ask again")
    return ", ".join(parts) or "nothing"


def _keys(count: int) -> str:
    return "1 key is" if count == 1 else f"{count} keys are"


def _credentials(count: int) -> str:
    return "1 credential was" if count == 1 else f"{count} credentials were"


def _note(action: str, *, keys: list[str]) -> None:
    """An act of no tenant. ``keys``: names of encryption keys, which say nothing of them."""
    audit.record(tenant=None, actor=actor(), action=action, now=clock.now(), keys=keys)
