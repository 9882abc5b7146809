from argparse import ArgumentParser
from typing import Any

from tokens import clock, deletion
from tokens.deletion import Told
from tokens.management.command import (
    VaultCommand,
    actor,
    add_json,
    confirm,
    progress,
    tenant_named,
)
from tokens.models import OAuthCredential, Standing, Tenant


class Command(VaultCommand):
    help = (
        "Delete a tenant for ever. It is suspended, its data keys are destroyed, so that its "
        "tokens can be read by nobody, and then its credentials, keys and counts are deleted; "
        "the audit trail stays. Run again after an interruption it goes on; the scheduler goes "
        "on by itself."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("slug", metavar="SLUG", help="the tenant's slug")
        parser.add_argument("--yes", action="store_true", help="do not ask")
        add_json(parser)

    def run(self, **options: Any) -> None:
        tenant = tenant_named(options["slug"])
        deletion.refuse_deletion(tenant)
        if tenant.deletion_began_at is None:
            confirm(
                _question(tenant),
                yes=options["yes"],
                otherwise="nothing was deleted",
                word=tenant.slug,
            )
            deletion.begin(tenant=tenant, actor=actor(), now=clock.now())
            tenant = Tenant.objects.get(pk=tenant.pk)
        told = Told()
        total = deletion.steps_left(tenant)
        step = progress(total, wanted=not options["json"])
        for done, _ in enumerate(deletion.steps(tenant=tenant, actor=actor(), told=told)):
            if done < total:
                step()
        if options["json"]:
            self.print_json(
                {
                    "tenant": tenant.slug,
                    "rows": told.rows,
                    "upstream": {
                        "revoked": told.revoked, "failed": told.failed, "not_told": told.untold,
                    },
                }
            )  # fmt: skip
            return
        self.say(f"Tenant {tenant.slug} is deleted. {deletion.of_upstream(told)}")


def _question(tenant: Tenant) -> str:
    people = OAuthCredential.objects.for_tenant(tenant).exclude(standing=Standing.REVOKED).count()
    logins = "1 login" if people == 1 else f"{people} logins"
    return (
        f"This deletes tenant {tenant.slug} with {logins}, its keys and its counts. Nobody can "
        "undo it."
    )
