from argparse import ArgumentParser
from typing import Any

from tokens import clock, own_settings
from tokens.admin.times import span
from tokens.diagnosis import describe_problem
from tokens.errors import NoToken
from tokens.management.command import (
    VaultCommand,
    add_json,
    add_tenant,
    add_user,
    tenant_named,
    utc,
)
from tokens.models import OAuthCredential, Standing, Status, Tenant
from tokens.printable import printable

# Of a revoked credential there is no token that could expire.
_OF_THE_LIVING = frozenset({"expires_at", "expires_in", "login_expires_at"})


class Command(VaultCommand):
    help = "Show how one user's credential stands, and what must be done. Never a token."

    def add_arguments(self, parser: ArgumentParser) -> None:
        add_tenant(parser)
        add_user(parser)
        add_json(parser)

    def run(self, **options: Any) -> None:
        now = clock.now()
        tenant = tenant_named(options["tenant"])
        # Not as a request is answered: an operator may look into a suspended tenant, too.
        credential = (
            OAuthCredential.objects.for_tenant(tenant).filter(user_id=options["user"]).first()
        )
        if credential is None:
            raise NoToken(f"No OAuth token found for user {options['user']} of {tenant.slug}")
        credential.tenant = tenant
        stopped = _of_the_tenant(tenant) if credential.standing != Standing.REVOKED else None
        facts: dict[str, Any] = {
            "tenant": tenant.slug,
            "user_id": credential.user_id,
            "status": str(Status.SUSPENDED if stopped else credential.status(now=now)),
            "authenticated": stopped is None and credential.is_usable(now=now),
            "expires_at": credential.expires_at,
            "expires_in": credential.expires_in(now=now),
            "login_expires_at": credential.login_expires_at,
            "login_expiry_is_estimate": credential.login_expiry_is_estimate,
            "auto_refresh_enabled": credential.refreshes_ahead and credential.has_refresh_token,
            "refresh_settings": own_settings.own_of(credential),
            "refresh_count": credential.refresh_count,
            "last_refreshed_at": credential.last_refreshed_at,
            "last_used": credential.last_used,
            "problem": stopped or describe_problem(credential, now=now),
        }
        if options["json"]:
            self.print_json(facts)
            return
        # Of its own: where it has none, they are its tenant's.
        facts["refresh_settings"] = own_settings.in_words(credential) or None
        revoked = credential.standing == Standing.REVOKED
        for name, value in facts.items():
            if name == "login_expiry_is_estimate" or (revoked and name in _OF_THE_LIVING):
                continue
            shown = _shown(name, value)
            if name == "login_expires_at" and facts["login_expiry_is_estimate"]:
                shown = shown and f"{shown} (an estimate)"
            if shown is not None:
                self.say(f"{name.replace('_', ' '):<20}  {shown}")


def _shown(name: str, value: Any) -> str | None:
    """A fact for people to read; None: not worth a line."""
    if name == "last_used" and value is None:
        return "never"
    if value is None:
        return None
    if name.endswith(("_at", "_used")):
        return utc(value)
    if name == "expires_in":
        return span(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return printable(str(value))


def _of_the_tenant(tenant: Tenant) -> str | None:
    """What keeps every credential of it from use; None: nothing does."""
    if tenant.deletion_began_at is not None:
        return "The tenant is being deleted."
    if tenant.suspended_at is not None:
        return (
            f"The tenant is suspended: `oauthvault resume --tenant {tenant.slug}` ends that. "
            "Nothing of it is handed out or refreshed until then."
        )
    return None
