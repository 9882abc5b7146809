"""What the parts that call the vault's code in their own process have in common."""

import logging
import os
from typing import Any


def load() -> None:
    """Django with the vault's settings, as the environment has them, and nothing on the log."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "oauthvault.settings")
    import django

    django.setup()
    # Refusals are what is measured here; hundreds of them in a terminal say nothing.
    logging.disable(logging.CRITICAL)
    from django.conf import settings

    # A thread that writes behind requests would be cut in two by a fork.
    settings.WRITE_BEHIND_EVERY = None


def store(tenant: Any, user_id: str, login: Any, *, now: float) -> Any:
    """The credential of a login of the simulator, stored as an import stores it."""
    from tokens.credential_file import parse_credentials
    from tokens.importing import import_credential

    return import_credential(
        tenant=tenant,
        user_id=user_id,
        offered=parse_credentials(login.credentials_file(), now=now),
        actor="reliability",
        now=now,
    ).credential
