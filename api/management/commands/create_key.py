import re
from argparse import ArgumentParser, ArgumentTypeError
from typing import Any

from api.keys import Scope, create_key
from api.management.key import facts_of_new, until
from tokens import clock
from tokens.management.command import VaultCommand, actor, add_json, tenant_named

_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}


def duration(text: str) -> int:
    """Seconds from digits with s, m, h or d; seconds without a letter."""
    match = re.fullmatch(r"([0-9]{1,9})([smhd]?)", text)
    if match is None or int(match[1]) == 0:
        raise ArgumentTypeError(f"{text!r} is no duration; write 90d, 12h, 30m or 45s")
    return int(match[1]) * _UNITS[match[2]]


class Command(VaultCommand):
    help = (
        "Make a key and print it, once. Without --user a service key (ovs_…) for the tenant's "
        "LiteLLM; with --user a key (ovu_…) for that user's own credential."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("tenant", metavar="TENANT", help="the tenant's slug")
        parser.add_argument("--user", metavar="U", help="make a user key for U")
        parser.add_argument(
            "--scope", action="append", default=[], metavar="S",
            help=f"allow only this; repeats. One of {', '.join(Scope)}",
        )  # fmt: skip
        parser.add_argument(
            "--expires-in",
            type=duration,
            metavar="D",
            help="for example 90d, 12h, 30m; digits alone are seconds; at most 3660d",
        )
        parser.add_argument(
            "--allow-from", action="append", default=[], metavar="CIDR",
            help="accept it from this network only; repeats",
        )  # fmt: skip
        parser.add_argument("--label", default="", help="what it is for")
        add_json(parser)

    def run(self, **options: Any) -> None:
        now = clock.now()
        lifetime, tenant = options["expires_in"], tenant_named(options["tenant"])
        new = create_key(
            tenant=tenant,
            user_id=options["user"] or "",
            scopes=options["scope"],
            networks=options["allow_from"],
            expires_at=None if lifetime is None else int(now) + lifetime,
            label=options["label"],
            actor=actor(),
            now=now,
        )
        if options["json"]:
            self.print_json(facts_of_new(new))
            return
        self.say(new.text.reveal())
        self.stderr.write(f"Keep it now: it is not shown again. {until(new.row.expires_at)}")
        if tenant.suspended_at is not None:
            self.stderr.write(
                f"Tenant {tenant.slug} is suspended: its keys are refused until `oauthvault resume "
                f"--tenant {tenant.slug}`."
            )
