from argparse import ArgumentParser
from datetime import UTC, datetime
from typing import Any

from tokens import clock, vault
from tokens.diagnosis import describe_problem
from tokens.errors import NoToken
from tokens.management.command import (
    VaultCommand,
    add_json,
    add_tenant,
    add_user,
    tenant_named,
)


class Command(VaultCommand):
    help = "Show how one user's credential stands, and what must be done. Never a token."

    def add_arguments(self, parser: ArgumentParser) -> None:
        add_tenant(parser)
        add_user(parser)
        add_json(parser)

    def run(self, **options: Any) -> None:
        now = clock.now()
        tenant = tenant_named(options["tenant"])
        credential = vault.describe(tenant=tenant, user_id=options["user"])
        if credential is None:
            raise NoToken(f"No OAuth token found for user {options['user']} of {tenant.slug}")
        facts: dict[str, Any] = {
            "tenant": tenant.slug,
            "user_id": credential.user_id,
            "status": str(credential.status(now=now)),
            "authenticated": credential.is_usable(now=now),
            "expires_at": credential.expires_at,
            "expires_in": credential.expires_in(now=now),
            "login_expires_at": credential.login_expires_at,
            "login_expiry_is_estimate": credential.login_expiry_is_estimate,
            "refresh_count": credential.refresh_count,
            "last_refreshed_at": credential.last_refreshed_at,
            "last_used": credential.last_used,
            "problem": describe_problem(credential, now=now),
        }
        if options["json"]:
            self.print_json(facts)
            return
        for name, value in facts.items():
            if value is not None and (name, value) != ("login_expiry_is_estimate", False):
                exact = name.endswith(("_at", "_used")) and isinstance(value, int)
                shown = datetime.fromtimestamp(int(value), UTC).isoformat(" ") if exact else value
                self.say(f"{name.replace('_', ' '):<18} {shown}")
