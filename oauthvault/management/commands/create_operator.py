import getpass
import sys
from argparse import ArgumentParser
from typing import Any

from django.contrib.auth import get_user_model
from django.contrib.auth.password_validation import validate_password
from django.core.exceptions import ValidationError
from django.core.management.base import CommandError

from tokens import clock
from tokens.management.command import VaultCommand, actor, tenant_named
from tokens.roles import Role, RoleMissing, create_operator

_ROLES = {
    "administrator": Role.ADMINISTRATOR,
    "operator": Role.OPERATOR,
    "auditor": Role.AUDITOR,
}


class Command(VaultCommand):
    help = (
        "Make an operator of the dashboard. The password is read from standard input. Without "
        "options: a superuser, who looks after every tenant and makes other operators."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("name", metavar="NAME", help="the name to sign in with")
        parser.add_argument(
            "--tenant", action="append", default=None, metavar="T", dest="tenants",
            help="looks after this tenant and sees nothing of others; repeats",
        )  # fmt: skip
        parser.add_argument(
            "--role", choices=_ROLES, default=None,
            help="operator: acts on credentials and keys (the default with --tenant); auditor: "
            "reads, changes nothing; administrator: every tenant, but no other operators",
        )  # fmt: skip

    def run(self, **options: Any) -> None:
        role, slugs = options["role"], options["tenants"] or []
        if role is None and slugs:
            role = "operator"
        if role == "administrator" and slugs:
            raise CommandError(
                "an administrator looks after every tenant: leave --tenant out", returncode=2
            )
        if role in ("operator", "auditor") and not slugs:
            raise CommandError(f"an {role} looks after some tenants: name them with --tenant",
                               returncode=2)  # fmt: skip
        tenants = [tenant_named(slug) for slug in dict.fromkeys(slugs)]
        if get_user_model().objects.filter(username=options["name"]).exists():
            raise CommandError(f"there is an operator {options['name']!r} already")
        try:
            create_operator(
                name=options["name"],
                password=_password(),
                role=_ROLES[role] if role else None,
                tenants=tenants,
                actor=actor(),
                now=clock.now(),
            )
        except RoleMissing as error:
            raise CommandError(str(error)) from None
        whom = f", for {', '.join(tenant.slug for tenant in tenants)}" if tenants else ""
        self.say(f"Operator {options['name']} ({role or 'superuser'}{whom}) "
                 "can sign in at /admin/.")  # fmt: skip


def _password() -> str:
    password = (
        getpass.getpass("Password: ") if sys.stdin.isatty() else sys.stdin.readline().strip("\n")
    )
    try:
        validate_password(password)
    except ValidationError as error:
        raise CommandError(" ".join(error.messages)) from None
    return password
