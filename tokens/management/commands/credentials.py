from argparse import ArgumentParser
from typing import Any

from tokens import clock
from tokens.management.command import VaultCommand, add_json, add_tenant, tenant_named, utc
from tokens.models import OAuthCredential
from tokens.printable import printable


class Command(VaultCommand):
    help = "List credentials: whose, how they stand, when they expire. Never a token."

    def add_arguments(self, parser: ArgumentParser) -> None:
        add_tenant(parser, required=False)
        add_json(parser)

    def run(self, **options: Any) -> None:
        now = clock.now()
        rows = OAuthCredential.objects.select_related("tenant").order_by("tenant__slug", "user_id")
        if options["tenant"]:
            rows = rows.for_tenant(tenant_named(options["tenant"]))
        facts = [
            {
                "tenant": row.tenant.slug,
                "user_id": row.user_id,
                "status": str(row.status(now=now)),
                "expires_at": row.expires_at,
                "refresh_count": row.refresh_count,
            }
            for row in rows.iterator()
        ]
        if options["json"]:
            self.print_json(facts)
            return
        if not facts:
            self.say("No credentials are stored.")
            return
        self.say(f"{'TENANT':<16} {'USER':<28} {'STATUS':<26} {'EXPIRES':<24} REFRESHES")
        for fact in facts:
            expires = utc(int(str(fact["expires_at"])))
            tenant, user = printable(str(fact["tenant"])), printable(str(fact["user_id"]))
            self.say(
                f"{tenant:<16} {user:<28} {fact['status']:<26} "
                f"{expires:<24} {fact['refresh_count']}"
            )
