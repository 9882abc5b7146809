import getpass
import sys
from argparse import ArgumentParser
from typing import Any

from django.contrib.auth import get_user_model
from django.contrib.auth.password_validation import validate_password
from django.core.exceptions import ValidationError
from django.core.management.base import CommandError

from tokens.management.command import VaultCommand


class Command(VaultCommand):
    help = (
        "Make an operator of the dashboard (a platform administrator). The password is read "
        "from standard input."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("name", metavar="NAME", help="the name to sign in with")

    def run(self, **options: Any) -> None:
        users = get_user_model()
        if users.objects.filter(username=options["name"]).exists():
            raise CommandError(f"there is an operator {options['name']!r} already")
        password = (
            getpass.getpass("Password: ")
            if sys.stdin.isatty()
            else sys.stdin.readline().strip("\n")
        )
        try:
            validate_password(password)
        except ValidationError as error:
            raise CommandError(" ".join(error.messages)) from None
        users.objects.create_superuser(username=options["name"], email="", password=password)
        self.say(f"Operator {options['name']} can sign in at /admin/.")
