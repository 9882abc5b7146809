from argparse import ArgumentParser
from typing import Any

from tokens import clock
from tokens.management.command import VaultCommand, actor, add_json
from tokens.tenants import create_tenant


class Command(VaultCommand):
    help = "Make a tenant: one team with its own users, keys and credentials."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("slug", metavar="SLUG", help="lower-case letters, digits, hyphens")
        parser.add_argument("--name", default="", help="a name for people to read")
        add_json(parser)

    def run(self, **options: Any) -> None:
        tenant = create_tenant(
            slug=options["slug"], name=options["name"], actor=actor(), now=clock.now()
        )
        if options["json"]:
            self.print_json({"tenant": tenant.slug, "id": tenant.pk})
        else:
            self.say(
                f"Tenant {tenant.slug} is there. A key for its LiteLLM: "
                f"oauthvault create_key {tenant.slug}"
            )
