from argparse import ArgumentParser
from typing import Any

from django.contrib.auth.models import User
from django.core.management.base import CommandError

from tokens import clock, roles
from tokens.management.command import VaultCommand, actor, add_tenant, tenant_named


class Command(VaultCommand):
    help = (
        "Have an operator of the dashboard look after a tenant, or no longer. It counts from "
        "their next request on; what they may do there is said by their role."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("name", metavar="NAME", help="the name that they sign in with")
        add_tenant(parser)
        parser.add_argument("--withdraw", action="store_true", help="no longer, from now on")

    def run(self, **options: Any) -> None:
        operator = User.objects.filter(username=options["name"], is_staff=True).first()
        if operator is None:
            raise CommandError(f"there is no operator {options['name']!r}")
        tenant = tenant_named(options["tenant"])
        change = roles.withdraw if options["withdraw"] else roles.assign
        changed = change(operator=operator, tenant=tenant, actor=actor(), now=clock.now())
        state = "no longer looks after" if options["withdraw"] else "looks after"
        self.say(f"{options['name']} {state} {tenant.slug}{'' if changed else ', as before'}.")
        if operator.has_perm(roles.ALL_TENANTS):
            self.say("As a platform administrator they look after every tenant all the same.")
