from argparse import ArgumentParser
from typing import Any

from api.keys import revoke_key
from api.management.key import add_key, key_named
from tokens import clock
from tokens.management.command import VaultCommand, actor, add_json


class Command(VaultCommand):
    help = "Revoke a key, with effect on the next request. Idempotent."

    def add_arguments(self, parser: ArgumentParser) -> None:
        add_key(parser)
        add_json(parser)

    def run(self, **options: Any) -> None:
        key = key_named(options["key"])
        changed = revoke_key(key=key, actor=actor(), now=clock.now())
        if options["json"]:
            self.print_json(
                {
                    "prefix": key.prefix,
                    "tenant": key.tenant.slug,
                    "result": "revoked" if changed else "already_revoked",
                }
            )
            return
        self.say(f"Key {key.prefix}… {'is revoked' if changed else 'was revoked already'}.")
