import sys
from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.core.management.base import CommandError

from tokens import clock, epoch, vault
from tokens.errors import VaultError
from tokens.management.command import (
    VaultCommand,
    actor,
    add_json,
    add_tenant,
    add_user,
    progress,
    tenant_named,
)
from tokens.models import OAuthCredential


class Command(VaultCommand):
    help = (
        "Refresh credentials now: one user's, a tenant's, or all that are due. Asks the "
        "authorization server through the same single refresh as everything else."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        add_tenant(parser, required=False)
        add_user(parser, required=False)
        parser.add_argument("--all-due", action="store_true", help="everything that is due")
        add_json(parser)

    def run(self, **options: Any) -> None:
        if not options["all_due"] and not options["tenant"]:
            raise CommandError("name --tenant (and --user), or say --all-due", returncode=2)
        if options["user"] and not options["tenant"]:
            raise CommandError("--user needs --tenant", returncode=2)
        _refuse_another_server()
        chosen = OAuthCredential.objects.select_related("tenant").order_by("tenant", "user_id")
        if options["tenant"]:
            chosen = chosen.for_tenant(tenant_named(options["tenant"]))
        if options["user"]:
            chosen = chosen.filter(user_id=options["user"])
        if options["all_due"]:
            chosen = chosen.filter(pk__in=OAuthCredential.objects.due(now=clock.now()))
        results = []
        everything = list(chosen)
        step = progress(len(everything), wanted=not options["json"] and not sys.stdout.isatty())
        for credential in everything:
            result = {"tenant": credential.tenant.slug, "user_id": credential.user_id}
            try:
                after = vault.refresh_now(
                    tenant=credential.tenant,
                    user_id=credential.user_id,
                    actor=actor(),
                    now=clock.now(),
                )
                result |= {"result": "refreshed", "detail": ""}
                result["expires_at"] = str(after.expires_at)
            except VaultError as refusal:
                result |= {"result": refusal.code, "detail": refusal.detail}
            results.append(result)
            step()
            if not options["json"]:
                line = f"{result['tenant']}/{result['user_id']}: {result['result']}"
                self.say(f"{line}. {result['detail']}" if result["detail"] else line)
        if options["json"]:
            self.print_json(results)
        if options["user"] and not results:
            raise CommandError(f"No OAuth token found for user {options['user']}")
        failed = sum(result["result"] != "refreshed" for result in results)
        if failed:
            raise CommandError(f"{failed} of {len(results)} could not be refreshed")
        if not results and not options["json"]:
            self.say("Nothing to refresh.")


def _refuse_another_server() -> None:
    """A refresh token is shown to the server that the running vault refreshes from, only."""
    theirs = epoch.deployment().token_url
    if theirs and theirs != settings.CLAUDE_OAUTH_TOKEN_URL:
        raise CommandError(
            f"the running vault refreshes from {theirs}, and this terminal's "
            f"CLAUDE_OAUTH_TOKEN_URL is {settings.CLAUDE_OAUTH_TOKEN_URL}: give it the same one"
        )
