from argparse import ArgumentParser
from typing import Any

from django.contrib.auth.models import User
from django.core.management.base import CommandError

from tokens import clock, second_factor
from tokens.management.command import VaultCommand, actor


class Command(VaultCommand):
    help = (
        "Take away an operator's second factor and recovery codes, for somebody who has lost the "
        "phone and the codes. Their sessions end; they sign in with the password, and set up "
        "another one where it is required. Be sure that it is they who ask."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("name", metavar="NAME", help="the name that they sign in with")

    def run(self, **options: Any) -> None:
        operator = User.objects.filter(username=options["name"]).first()
        if operator is None:
            raise CommandError(f"there is no operator {options['name']!r}")
        name = operator.get_username()
        if second_factor.remove(operator=operator, actor=actor(), now=clock.now()):
            self.say(
                f"{name} has no second factor any more, and all sessions of theirs have ended. "
                "They sign in with the password."
            )
        else:
            self.say(f"{name} had no second factor. Nothing was changed.")
