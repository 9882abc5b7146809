from argparse import SUPPRESS, ArgumentParser, ArgumentTypeError, BooleanOptionalAction
from typing import Any

from django.core.management.base import CommandError

from tokens import clock
from tokens.management.command import VaultCommand, actor, add_json, tenant_named
from tokens.models import Backoff, Tenant
from tokens.tenants import LONGEST_THRESHOLD, MOST_RETRIES, SETTINGS, change_tenant

_AS_DEPLOYED = "deployment"
_SWITCH = {"on": True, "off": False, _AS_DEPLOYED: None}


def number(text: str) -> int | None:
    """A whole number; None for the word that means: as the deployment is set."""
    if text == _AS_DEPLOYED:
        return None
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise ArgumentTypeError(f"{text!r} is no whole number from 0 up; or write {_AS_DEPLOYED}")
    return int(text)


class Command(VaultCommand):
    help = (
        "Set what is different for a tenant. Only what is named is changed; the word "
        f"`{_AS_DEPLOYED}` gives a setting back to the deployment's own."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("slug", metavar="SLUG", help="the tenant's slug")
        parser.add_argument("--name", default=None, help="a name for people to read")
        parser.add_argument(
            "--default-user", action=BooleanOptionalAction, default=None,
            dest="has_default_user",
            help="whether a request that names no user means the user default",
        )  # fmt: skip
        parser.add_argument(
            "--auto-refresh", choices=_SWITCH, default=None, help="refresh ahead of expiry"
        )
        parser.add_argument(
            "--refresh-threshold", type=number, default=SUPPRESS, metavar="SECONDS",
            help=f"how long before expiry: 1 to {LONGEST_THRESHOLD}, or {_AS_DEPLOYED}",
        )  # fmt: skip
        parser.add_argument(
            "--max-retries", type=number, default=SUPPRESS, metavar="N",
            help="quick retries inside one refresh, when the authorization server fails: "
            f"0 to {MOST_RETRIES}, or {_AS_DEPLOYED}",
        )  # fmt: skip
        parser.add_argument(
            "--retry-backoff", choices=[*Backoff.values, _AS_DEPLOYED], default=None,
            help="how the pauses between them grow",
        )  # fmt: skip
        parser.add_argument(
            "--key-network", action="append", default=None, metavar="CIDR", dest="key_networks",
            help="every key of the tenant must come from such a network, in addition to what is "
            "set for the key itself; repeats, and replaces the networks of before",
        )  # fmt: skip
        parser.add_argument(
            "--any-network", action="store_true", help="the tenant's keys may come from anywhere"
        )
        add_json(parser)

    def run(self, **options: Any) -> None:
        chosen = _chosen(options)
        if not chosen:
            raise CommandError("nothing to change: name a setting, see --help", returncode=2)
        tenant = tenant_named(options["slug"])
        changed = change_tenant(tenant=tenant, actor=actor(), now=clock.now(), **chosen)
        tenant = Tenant.objects.get(pk=tenant.pk)
        if options["json"]:
            self.print_json(
                {
                    "tenant": tenant.slug,
                    "changed": changed,
                    "settings": {name: getattr(tenant, name) for name in SETTINGS},
                }
            )
        else:
            self.say(f"Tenant {tenant.slug}: {'changed' if changed else 'it was so before'}.")


def _chosen(options: dict[str, Any]) -> dict[str, Any]:
    """What was named on the command line, by the names of the settings."""
    chosen: dict[str, Any] = {
        name: options[name]
        for name in ("name", "has_default_user", "key_networks")
        if options[name] is not None
    }
    if options["any_network"]:
        if "key_networks" in chosen:
            raise CommandError("say --key-network or --any-network, not both", returncode=2)
        chosen["key_networks"] = []
    if options["auto_refresh"] is not None:
        chosen["auto_refresh"] = _SWITCH[options["auto_refresh"]]
    if options["retry_backoff"] is not None:
        chosen["retry_backoff"] = options["retry_backoff"].replace(_AS_DEPLOYED, "")
    for name in ("refresh_threshold", "max_retries"):
        if name in options:
            chosen[name] = options[name]
    return chosen
