"""The console script ``oauthvault``: ``manage.py`` with sentences in place of tracebacks."""

import os
import sys


def main(argv: list[str] | None = None) -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "oauthvault.settings")
    from django.core.management import execute_from_command_line
    from django.db.utils import OperationalError

    from oauthvault.env import ConfigurationError

    try:
        execute_from_command_line(list(sys.argv if argv is None else argv))
    except ConfigurationError as error:
        sys.exit(_line(str(error)))
    except OperationalError as error:
        sys.exit(_line(f"the database cannot be used: {error}"))
    except KeyboardInterrupt:
        sys.exit(130)


def _line(message: str) -> str:
    return f"oauthvault: {' '.join(message.split())}"


if __name__ == "__main__":
    main()
