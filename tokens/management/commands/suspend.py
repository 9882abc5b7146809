from argparse import ArgumentParser
from typing import Any

from tokens import clock, vault
from tokens.management.command import VaultCommand, actor, add_tenant, add_user, tenant_named
from tokens.tenants import suspend_tenant


class Command(VaultCommand):
    help = (
        "Stop handing out and refreshing a user's credential, or everything of a tenant. "
        "Nothing is lost by it."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        add_tenant(parser)
        add_user(parser, required=False)

    def run(self, **options: Any) -> None:
        tenant, now = tenant_named(options["tenant"]), clock.now()
        if options["user"]:
            vault.suspend(tenant=tenant, user_id=options["user"], actor=actor(), now=now)
            self.say(f"User {options['user']} of tenant {tenant.slug} is suspended.")
        else:
            suspend_tenant(tenant=tenant, actor=actor(), now=now)
            self.say(f"Tenant {tenant.slug} is suspended.")
