from argparse import ArgumentParser
from typing import Any

from api.keys import Scope
from api.models import ApiKey
from tokens import clock
from tokens.management.command import VaultCommand, add_json, add_tenant, tenant_named, utc
from tokens.printable import printable


class Command(VaultCommand):
    help = (
        "List keys: their first characters, whose they are, whether they still work, what they may "
        "where that is not all, and from where."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        add_tenant(parser, required=False)
        add_json(parser)

    def run(self, **options: Any) -> None:
        now = clock.now()
        keys = ApiKey.objects.select_related("tenant").order_by("tenant__slug", "created_at")
        if options["tenant"]:
            keys = keys.filter(tenant=tenant_named(options["tenant"]))
        facts = [
            {
                "prefix": key.prefix,
                "tenant": key.tenant.slug,
                "kind": key.kind,
                "user_id": key.user_id,
                "state": _state(key, now),
                "scopes": key.scopes,
                "networks": key.networks,
                "expires_at": key.expires_at,
                "last_used_at": key.last_used_at,
                "label": key.label,
            }
            for key in keys
        ]
        if options["json"]:
            self.print_json(facts)
            return
        if not facts:
            self.say("There are no keys.")
        for fact in facts:
            used = fact["last_used_at"]
            when = utc(used) if used else "never"
            whose = f" of {printable(fact['user_id'])}" if fact["user_id"] else ""
            ends = fact["expires_at"]
            until = f", ends {utc(ends)}" if ends else ""
            may = "" if len(fact["scopes"]) == len(Scope) else f", may {' '.join(fact['scopes'])}"
            where = f", from {' '.join(fact['networks'])}" if fact["networks"] else ""
            self.say(
                f"{fact['prefix']}…  {printable(fact['tenant']):<16} {fact['kind']}{whose}, "
                f"{fact['state']}{until}{may}{where}, last used {when}  "
                f"{printable(fact['label'])}".rstrip()
            )


def _state(key: ApiKey, now: float) -> str:
    if key.revoked_at is not None:
        return "revoked"
    if key.expires_at is not None and key.expires_at <= now:
        return "expired"
    if key.rotated_at is not None:
        return "rotated"
    return "active"
