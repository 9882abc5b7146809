"""How the commands name a key: by its first characters, or by the whole of it."""

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import CommandError

from api.keys import NewKey, find_key
from api.models import ApiKey
from tokens.management.command import utc


def add_key(parser: ArgumentParser) -> None:
    parser.add_argument(
        "key", metavar="PREFIX", help="its first characters as `list_keys` shows them"
    )


def key_named(text: str) -> ApiKey:
    """The one key that is meant. CommandError if there is none, or more than one."""
    given = text.rstrip("…")
    whole = find_key(given)
    found = [whole] if whole is not None else list(
        ApiKey.objects.filter(prefix=given).select_related("tenant")
    )  # fmt: skip
    if not found:
        raise CommandError("there is no key that begins like this; see `oauthvault list_keys`")
    if len(found) > 1:
        raise CommandError("more than one key begins like this; give the whole key")
    return found[0]


def until(expires_at: int | None) -> str:
    """When a new key ends, in a sentence."""
    return "It has no end." if expires_at is None else f"It works until {utc(expires_at)}."


def facts_of_new(new: NewKey) -> dict[str, Any]:
    """What a script is told of a key that was just made: the only time that it is shown."""
    return {
        "key": new.text.reveal(),
        "prefix": new.row.prefix,
        "kind": new.row.kind,
        "scopes": new.row.scopes,
        "networks": new.row.networks,
        "expires_at": new.row.expires_at,
    }
