from argparse import ArgumentParser
from datetime import UTC, datetime
from typing import Any

from api.models import ApiKey
from tokens import clock
from tokens.management.command import VaultCommand, add_json, add_tenant, tenant_named


class Command(VaultCommand):
    help = "List keys: their first characters, what they may, whether they still work."

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
            when = datetime.fromtimestamp(used, UTC).strftime("%Y-%m-%d %H:%M") if used else "never"
            whose = f" of {fact['user_id']}" if fact["user_id"] else ""
            ends = fact["expires_at"]
            until = f", ends {datetime.fromtimestamp(ends, UTC):%Y-%m-%d %H:%M}" if ends else ""
            self.say(
                f"{fact['prefix']}…  {fact['tenant']:<16} {fact['kind']}{whose}, "
                f"{fact['state']}{until}, last used {when}  {fact['label']}".rstrip()
            )


def _state(key: ApiKey, now: float) -> str:
    if key.revoked_at is not None:
        return "revoked"
    if key.expires_at is not None and key.expires_at <= now:
        return "expired"
    return "active"
