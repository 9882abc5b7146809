"""Whose trail is meant, as the commands about the trail are told."""

import re
from argparse import ArgumentParser

from django.core.management.base import CommandError

from tokens.trail import census

_BY_ID = re.compile(r"id:[0-9]{1,18}")


def add_tenant_of_the_trail(parser: ArgumentParser, *, otherwise: str) -> None:
    parser.add_argument(
        "--tenant",
        metavar="T",
        help="the tenant's slug (also of a deleted one), or id:N (id:0: acts of no tenant); "
        f"without it: {otherwise}",
    )


def chosen_chains(named: str | None) -> list[int]:
    """NoTenant where nobody is, or was, called like that."""
    if named is None:
        return census.all_chains()
    if named.startswith("id:") and not _BY_ID.fullmatch(named):
        raise CommandError(f"{named!r} is no id: that is a number, like id:17", returncode=2)
    return census.chains_of(named)
