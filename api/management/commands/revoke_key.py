from argparse import ArgumentParser
from typing import Any

from django.core.management.base import CommandError

from api.keys import find_key, revoke_key
from api.models import ApiKey
from tokens import clock
from tokens.management.command import VaultCommand, actor


class Command(VaultCommand):
    help = "Revoke a key, with effect on the next request. Idempotent."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "key", metavar="PREFIX", help="its first characters as `list_keys` shows them"
        )

    def run(self, **options: Any) -> None:
        given = str(options["key"]).rstrip("…")
        whole = find_key(given)
        found = [whole] if whole is not None else list(
            ApiKey.objects.filter(prefix=given).select_related("tenant")
        )  # fmt: skip
        if not found:
            raise CommandError("there is no key that begins like this; see `oauthvault list_keys`")
        if len(found) > 1:
            raise CommandError("more than one key begins like this; give the whole key")
        changed = revoke_key(key=found[0], actor=actor(), now=clock.now())
        self.say(f"Key {found[0].prefix}… {'is revoked' if changed else 'was revoked already'}.")
