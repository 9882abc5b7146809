from argparse import ArgumentParser
from typing import Any

from tokens import clock, vault
from tokens.management.command import VaultCommand, actor, add_tenant, add_user, tenant_named
from tokens.tenants import resume_tenant


class Command(VaultCommand):
    help = "End a suspension made with `oauthvault suspend`."

    def add_arguments(self, parser: ArgumentParser) -> None:
        add_tenant(parser)
        add_user(parser, required=False)

    def run(self, **options: Any) -> None:
        tenant, now = tenant_named(options["tenant"]), clock.now()
        if options["user"]:
            vault.resume(tenant=tenant, user_id=options["user"], actor=actor(), now=now)
            self.say(f"User {options['user']} of tenant {tenant.slug} is resumed.")
        else:
            resume_tenant(tenant=tenant, actor=actor(), now=now)
            self.say(f"Tenant {tenant.slug} is resumed.")
