from argparse import ArgumentParser
from typing import Any

from api.keys import rotate_key
from api.management.commands.create_key import duration
from api.management.key import add_key, facts_of_new, key_named, until
from tokens import clock
from tokens.management.command import VaultCommand, actor, add_json, utc

_DAY = 86_400


class Command(VaultCommand):
    help = (
        "Make a new key in place of one, and print it, once. Both are good until the old one "
        "ends, so that the change has no gap. The new one lives, from now on, as long as the old "
        "one was made for."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        add_key(parser)
        parser.add_argument(
            "--overlap", type=duration, default=_DAY, metavar="D",
            help="how long the old key still works: for example 24h (the default), 30m, 7d; "
            "digits alone are seconds",
        )  # fmt: skip
        add_json(parser)

    def run(self, **options: Any) -> None:
        old = key_named(options["key"])
        new = rotate_key(key=old, overlap=options["overlap"], actor=actor(), now=clock.now())
        old.refresh_from_db(fields=["expires_at"])
        ends = old.expires_at or 0
        if options["json"]:
            self.print_json(
                facts_of_new(new) | {"in_place_of": {"prefix": old.prefix, "expires_at": ends}}
            )
            return
        self.say(new.text.reveal())
        self.stderr.write(
            f"Keep it now: it is not shown again. {until(new.row.expires_at)} The old key "
            f"{old.prefix}… works until {utc(ends)}."
        )
