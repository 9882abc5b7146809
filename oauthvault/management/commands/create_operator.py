from argparse import ArgumentParser
from typing import Any

from django.contrib.auth.models import User
from django.core.exceptions import ValidationError
from django.core.management.base import CommandError

from tokens import clock
from tokens.management.command import VaultCommand, actor, tenant_named
from tokens.management.passwords import password_for
from tokens.roles import Role, RoleMissing, create_operator

_ROLES = {
    "administrator": Role.ADMINISTRATOR,
    "operator": Role.OPERATOR,
    "auditor": Role.AUDITOR,
}


class Command(VaultCommand):
    help = (
        "Make an operator of the dashboard. The password is read from standard input, and they "
        "choose one of their own at the first sign-in. Without options: a superuser, who looks "
        "after every tenant and makes other operators."
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
        name = _checked_name(options["name"])
        if User.objects.filter(username=name).exists():
            raise CommandError(f"there is an operator {name!r} already")
        try:
            create_operator(
                name=name,
                password=password_for(User(username=name)),
                role=_ROLES[role] if role else None,
                tenants=tenants,
                must_change_password=True,
                actor=actor(),
                now=clock.now(),
            )
        except RoleMissing as error:
            raise CommandError(str(error)) from None
        whom = f", for {', '.join(tenant.slug for tenant in tenants)}" if tenants else ""
        self.say(f"Operator {name} ({role or 'superuser'}{whom}) "
                 "can sign in at /admin/, and then chooses a password of their own.")  # fmt: skip


def _checked_name(text: str) -> str:
    """As Django's own form takes it, and stores it."""
    name = User.normalize_username(text)
    try:
        User._meta.get_field("username").clean(name, None)
    except ValidationError as error:
        raise CommandError(
            f"{text!r} is no name for an operator. {' '.join(error.messages)}", returncode=2
        ) from None
    return str(name)
