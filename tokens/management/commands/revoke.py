from argparse import ArgumentParser
from typing import Any

from django.core.management.base import CommandError

from tokens import clock, vault
from tokens.errors import NoToken
from tokens.management.command import (
    VaultCommand,
    actor,
    add_json,
    add_tenant,
    add_user,
    confirm,
    tenant_named,
    utc,
)
from tokens.models import OAuthCredential, Standing


class Command(VaultCommand):
    help = (
        "Revoke a user's credential, or all of a tenant's. The sealed tokens are destroyed. "
        "Idempotent: what is revoked already, or was never there, is not an error."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        add_tenant(parser)
        add_user(parser, required=False)
        parser.add_argument("--all", action="store_true", help="every user of the tenant")
        parser.add_argument("--yes", action="store_true", help="do not ask before --all")
        add_json(parser)

    def run(self, **options: Any) -> None:
        if options["user"] and options["all"]:
            raise CommandError("--user and --all exclude each other: say one of them", returncode=2)
        if not options["user"] and not options["all"]:
            raise CommandError("name --user U, or say --all", returncode=2)
        tenant = tenant_named(options["tenant"])
        users = [options["user"]] if options["user"] else _living_users(tenant.pk)
        if options["all"] and users:
            people = "1 user" if len(users) == 1 else f"{len(users)} users"
            confirm(
                f"Revoke the credentials of {people} of {tenant.slug}?",
                yes=options["yes"],
                otherwise="nothing was revoked",
            )
        results: list[dict[str, Any]] = []
        for user_id in users:
            now = clock.now()
            try:
                done = vault.revoke(tenant=tenant, user_id=user_id, actor=actor(), now=now)
            except NoToken:
                results.append({"user_id": user_id, "result": "nothing_stored"})
                continue
            results.append(
                {
                    "user_id": user_id,
                    "result": "revoked",
                    "upstream": done.upstream,
                    "lives_until": done.lives_until,
                }
            )
        if options["json"]:
            self.print_json(results)
            return
        for result in results:
            if result["result"] == "revoked":
                until = utc(result["lives_until"])
                self.say(
                    f"{result['user_id']}: revoked (upstream: {result['upstream']}; a token handed "
                    f"out before may live until {until})"
                )
            else:
                self.say(f"{result['user_id']}: nothing is stored, or it was revoked before")


def _living_users(tenant_id: int) -> list[str]:
    return list(
        OAuthCredential.objects.filter(tenant_id=tenant_id)
        .exclude(standing=Standing.REVOKED)
        .order_by("user_id")
        .values_list("user_id", flat=True)
    )
