from argparse import ArgumentParser
from typing import Any

from django.contrib.auth.models import User
from django.core.management.base import CommandError

from tokens import clock
from tokens.management.command import VaultCommand, actor
from tokens.management.passwords import password_for
from tokens.roles import set_password


class Command(VaultCommand):
    """In place of Django's command of this name, which leaves no record."""

    help = (
        "Give an operator of the dashboard another password. It is read from standard input. "
        "Whoever is signed in with the old one is signed out; who signs in with the new one "
        "chooses one of their own first."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("name", metavar="NAME", help="the name that they sign in with")

    def run(self, **options: Any) -> None:
        operator = User.objects.filter(username=options["name"]).first()
        if operator is None:
            raise CommandError(f"there is no operator {options['name']!r}")
        set_password(
            operator=operator, password=password_for(operator), actor=actor(), now=clock.now()
        )
        self.say(
            f"{operator.get_username()} signs in with the new password from now on, and then "
            "chooses one of their own."
        )
