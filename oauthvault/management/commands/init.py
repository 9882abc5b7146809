"""Everything between an empty folder and a vault that can serve. Idempotent."""

import secrets
from argparse import ArgumentParser
from typing import Any

import redis
from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.db import IntegrityError, connection, connections

from api.keys import adopt_environment_key
from oauthvault import datadir, env, first_password
from oauthvault.env import ConfigurationError
from oauthvault.postgresql import roles
from tokens import audit, clock, epoch
from tokens.credential_file import parse_credentials
from tokens.errors import (
    AlreadyStored,
    InvalidCredentials,
    Quarantined,
    StaleCredential,
    StoreUnavailable,
    TenantSuspended,
    VaultError,
)
from tokens.importing import import_credential
from tokens.keyring import check_keys, load_keyring, prepare_keys
from tokens.management.command import VaultCommand
from tokens.models import DEFAULT_USER, VaultKey
from tokens.roles import create_operator
from tokens.tenants import ensure_default_tenant
from tokens.trail import triggers
from tokens.trail.anchor import refuse_a_second_beginning
from tokens.user_ids import BadUserId

# A double click takes the whole of it, and nobody reads one sign for another.
_LETTERS = "abcdefghijkmnpqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ23456789"


class Command(VaultCommand):
    help = (
        "Prepare the vault: database, keys, first operator, and the credential and key that "
        "the environment gives. Safe to run again; `oauthvault up` runs it by itself."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--quiet", action="store_true", help="say only what is new")

    def run(self, **options: Any) -> None:
        # One at a time on one data directory: SQLite has no lock for a whole migration.
        with datadir.turn(settings.OAUTHVAULT_DATA_DIR / "init.lock"):
            self._prepare(**options)

    def _prepare(self, **options: Any) -> None:
        for sentence in env.strangers():
            self.say(f"Note: {sentence}")
        refuse_silent_redis()
        refuse_powerful_role()
        if settings.ENCRYPTION_KEYS:
            load_keyring()  # of the right shape, or the start ends here
        if VaultKey._meta.db_table in connection.introspection.table_names():
            # Before anything is touched: a wrong key must change nothing.
            check_keys()
        unguarded = triggers.missing(connection)
        call_command("migrate", verbosity=0, interactive=False, stdout=self.stdout)
        refuse_a_second_beginning()
        prepare_keys()
        now = clock.now()
        if unguarded and not triggers.missing(connection):
            audit.record(
                tenant=None, actor="start", action="guard_audit", now=now, missing=unguarded
            )
        try:
            epoch.verify(now=now)
        except (Quarantined, StoreUnavailable) as refusal:
            # It starts all the same: that is how an operator gets to see what happened.
            self.say(f"WARNING: {refusal.detail}")
        tenant = ensure_default_tenant(now=now)
        self._first_operator()
        if settings.OAUTHVAULT_SERVICE_KEY is not None:
            try:
                key = adopt_environment_key(
                    tenant=tenant, text=settings.OAUTHVAULT_SERVICE_KEY, now=now
                )
            except VaultError as refusal:
                raise ConfigurationError(refusal.detail) from None
            if key is None:
                self.say("OAUTHVAULT_SERVICE_KEY was revoked, and stays revoked.")
        self._credential_from_environment(now)
        if not options["quiet"]:
            self.say("The vault is ready.")

    def _first_operator(self) -> None:
        users = get_user_model()
        if users.objects.filter(is_superuser=True).exists():
            return
        given, name = settings.OAUTHVAULT_ADMIN_PASSWORD, settings.OAUTHVAULT_ADMIN_USER
        password = given.reveal() if given is not None else _new_password()
        to_file = given is None and not self.stdout.isatty()
        if to_file:
            # Before the operator: one whose password nobody can read is locked out.
            first_password.leave(password)
        try:
            create_operator(
                name=name,
                password=password,
                role=None,
                # One that was given is kept where it came from; one of ours has been printed.
                must_change_password=given is None,
                actor="first start",
                now=clock.now(),
            )
        except IntegrityError:
            # Made by another `init` in the same moment, which also said the password.
            if to_file:
                first_password.forget()
            return
        if given is not None:
            self.say(f"First operator: {name}, with the password from OAUTHVAULT_ADMIN_PASSWORD.")
        elif to_file:
            path = settings.OAUTHVAULT_DATA_DIR / first_password.FILE
            self.say(
                f"First operator: {name}; the password is in {path}, and is changed at the first "
                "sign-in, which deletes the file."
            )
        else:
            self.say(
                f"First operator: {name}, password {password} (shown this once; it is changed at "
                "the first sign-in)"
            )

    def _credential_from_environment(self, now: float) -> None:
        access = settings.CLAUDE_ACCESS_TOKEN
        if access is None:
            return
        refresh = settings.CLAUDE_REFRESH_TOKEN
        offered: dict[str, object] = {
            "access_token": access.reveal(),
            "expires_at": settings.CLAUDE_EXPIRES_AT,
        }
        if refresh is not None:
            offered["refresh_token"] = refresh.reveal()
        tenant = ensure_default_tenant(now=now)
        try:
            result = import_credential(
                tenant=tenant,
                user_id=DEFAULT_USER,
                offered=parse_credentials(offered, now=now),
                actor="environment",
                now=now,
            )
        except StaleCredential:
            self.say(
                "CLAUDE_ACCESS_TOKEN names a login that the vault has refreshed or revoked since: "
                "what is stored stays as it is."
            )
        except TenantSuspended:
            self.say("CLAUDE_ACCESS_TOKEN is not taken: tenant default is suspended.")
        except (AlreadyStored, BadUserId) as refusal:
            self.say(f"CLAUDE_ACCESS_TOKEN is not taken: {refusal.detail}.")
        except InvalidCredentials as refusal:
            self.say(f"CLAUDE_ACCESS_TOKEN and its companions are not taken: {_named(refusal)}.")
        else:
            if result.changed:
                self.say("The credential of CLAUDE_ACCESS_TOKEN is stored for user default.")
                for warning in result.warnings:
                    self.say(f"  Note: {warning}")


def _new_password() -> str:
    return "".join(secrets.choice(_LETTERS) for _ in range(16))


def _named(refusal: InvalidCredentials) -> str:
    names = {
        "access_token": "CLAUDE_ACCESS_TOKEN",
        "refresh_token": "CLAUDE_REFRESH_TOKEN",
        "expires_at": "CLAUDE_EXPIRES_AT",
    }
    return "; ".join(f"{names.get(field, field)} {why}" for field, why in refusal.fields.items())


def refuse_silent_redis() -> None:
    """A Redis that is named must answer: without it nothing is refreshed ahead."""
    if settings.REDIS_URL is None:
        return
    try:
        with redis.Redis.from_url(settings.REDIS_URL.reveal(), socket_connect_timeout=5) as server:
            server.ping()
    except (redis.RedisError, OSError, ValueError) as error:
        raise ConfigurationError(
            f"REDIS_URL names a Redis that does not answer ({type(error).__name__})"
        ) from None


def refuse_powerful_role() -> None:
    """Where another role migrates, the one that serves must not be able to pass the wall."""
    if "owner" not in connections.databases:
        return
    if roles.passes_the_wall(connection):
        raise ConfigurationError(
            "DATABASE_URL names a role that is superuser or bypasses row-level security; give "
            "the service a plain role, and keep this one for OAUTHVAULT_MIGRATION_DATABASE_URL"
        )
