from argparse import ArgumentParser
from typing import Any

from tokens.management.command import VaultCommand, add_json
from tokens.models import Tenant
from tokens.printable import printable
from tokens.tenants import SETTINGS


class Command(VaultCommand):
    help = "List tenants: their names, whether they are at work, and what is set for each."

    def add_arguments(self, parser: ArgumentParser) -> None:
        add_json(parser)

    def run(self, **options: Any) -> None:
        tenants = list(Tenant.objects.order_by("slug"))
        if options["json"]:
            self.print_json([_facts(tenant) for tenant in tenants])
            return
        if not tenants:
            self.say("There are no tenants.")
        for tenant in tenants:
            users = "user default" if tenant.has_default_user else "many users"
            chosen = ", ".join(
                f"{name} {_told(value)}"
                for name, value in _facts(tenant)["settings"].items()
                if name not in {"name", "has_default_user"} and value not in (None, "", [])
            )
            self.say(
                f"{printable(tenant.slug):<20} {state_of(tenant):<14} {users}, "
                f"{chosen or 'as the deployment is set'}  {printable(tenant.name)}".rstrip()
            )


def state_of(tenant: Tenant) -> str:
    if tenant.deletion_began_at is not None:
        return "being deleted"
    return "active" if tenant.suspended_at is None else "suspended"


def _facts(tenant: Tenant) -> dict[str, Any]:
    """``settings``: as set for the tenant; null or empty means as the deployment is set."""
    return {
        "tenant": tenant.slug,
        "id": tenant.pk,
        "state": state_of(tenant),
        "settings": {name: getattr(tenant, name) for name in SETTINGS},
    }


def _told(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return " ".join(value) if isinstance(value, list) else str(value)
