"""How a command turns into the one program it is named for."""

import os
from typing import NoReturn

from django.db import connection, connections

from oauthvault.env import ConfigurationError, child_environment
from tokens.keyring import load_keyring, verify_keys
from tokens.models import VaultKey


def become(argv: list[str]) -> NoReturn:
    """Replace this process by ``argv``: same process id, so that signals reach it.

    Not before the keys at hand have opened what the database holds. ConfigurationError
    if they do not, or if nothing is prepared yet.
    """
    if VaultKey._meta.db_table not in connection.introspection.table_names():
        raise ConfigurationError("the database is not prepared: run `oauthvault init` first")
    verify_keys(load_keyring())
    connections.close_all()
    os.execvpe(argv[0], argv, child_environment())
