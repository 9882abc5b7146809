from argparse import ArgumentParser
from typing import Any

from django.core.management.base import CommandError

from tokens import clock, epoch
from tokens.management.command import (
    VaultCommand,
    actor,
    add_json,
    add_tenant,
    add_user,
    confirm,
    progress,
    tenant_named,
    utc,
)
from tokens.models import OAuthCredential, Standing


class Command(VaultCommand):
    help = (
        "Release the quarantine of a restored database. Its credentials are used and refreshed "
        "again. Before you do: make sure that nothing else still runs on the original database, "
        "because presenting a refresh token that was spent there ends its login; and revoke again "
        "whom you revoked since the backup was made. A login that was refreshed since "
        "the backup is lost, and will ask for a new one."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        add_tenant(parser, required=False)
        add_user(parser, required=False)
        parser.add_argument("--yes", action="store_true", help="do not ask before")
        add_json(parser)

    def run(self, **options: Any) -> None:
        if options["user"] and not options["tenant"]:
            raise CommandError("--user needs --tenant", returncode=2)
        tenant = tenant_named(options["tenant"]) if options["tenant"] else None
        chosen = OAuthCredential.objects.filter(standing=Standing.QUARANTINED)
        if tenant is not None:
            chosen = chosen.for_tenant(tenant)
        if options["user"]:
            chosen = chosen.filter(user_id=options["user"])
        total = chosen.count()
        state = epoch.deployment()
        if state.quarantined_at is not None and not options["json"]:
            since = utc(state.quarantined_at)
            self.say(f"Quarantined since {since}: {state.quarantine_reason}.")
        if total:
            confirm(
                f"Release {_credentials(total)}? A refresh token that was spent since the backup "
                "ends its login when it is presented.",
                yes=options["yes"],
                otherwise="nothing was released",
            )
        shown = progress(total, wanted=not options["json"])
        released = epoch.release(
            tenant=tenant,
            user_id=options["user"],
            actor=actor(),
            now=clock.now(),
            each=shown,
        )
        if options["json"]:
            self.print_json({"released": released})
        elif released:
            self.say(
                f"{_credentials(released)} released. What is due is refreshed within two minutes."
            )
        else:
            self.say("Nothing is quarantined.")


def _credentials(count: int) -> str:
    return "1 credential" if count == 1 else f"{count} credentials"
