"""The console script ``oauthvault``: ``manage.py`` with sentences in place of tracebacks."""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import NoReturn

_HELP = {"help", "--help", "-h"}
# What may begin a vault in an empty folder. Everything else looks for one that is there.
_BEGINNERS = {"up", "init", "migrate", "web", "worker", "beat"}


def main(argv: list[str] | None = None) -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "oauthvault.settings")
    from django.core.management import execute_from_command_line
    from django.db.utils import OperationalError, ProgrammingError

    from oauthvault import __version__
    from oauthvault.env import ConfigurationError

    arguments = list(sys.argv if argv is None else argv)
    wanted = arguments[1] if len(arguments) > 1 else "help"
    if wanted == "--version":
        print(__version__)
        return
    try:
        asks_for_help = wanted in _HELP or not _HELP.isdisjoint(arguments[2:])
        if wanted in _ours().keys() - _BEGINNERS and not asks_for_help:
            _refuse_missing_vault()
        try:
            with _no_vault_begun() if asks_for_help else nullcontext():
                if wanted in _HELP and len(arguments) < 3:
                    _print_help()
                else:
                    execute_from_command_line(arguments)
        finally:
            # Here, and not at the interpreter's end, where nothing can be caught.
            sys.stdout.flush()
    except ConfigurationError as error:
        _refuse(str(error))
    except (OperationalError, ProgrammingError) as error:
        if "no such table" in str(error) or "does not exist" in str(error):
            _refuse(
                "the database is not prepared: run `oauthvault init` (or `oauthvault up`) first"
            )
        if isinstance(error, ProgrammingError):
            raise
        _refuse(f"the database cannot be used: {error}{_of_the_disk()}")
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # Whoever read (`| head`) has read enough. What is still buffered goes nowhere, and the
        # status is the one of a program that such a pipe has ended (128 + SIGPIPE).
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(141)
    except EOFError:
        _refuse("an answer was asked for, and the input ended: run this at a terminal")


def _ours() -> dict[str, str]:
    """Our commands and the packages that they are in, found without reading a setting."""
    root = Path(__file__).resolve().parent.parent
    return {
        file.stem: package
        for package in ("oauthvault", "tokens", "api")
        for file in (root / package / "management" / "commands").glob("[a-z]*.py")
    }


def _data_dir() -> Path:
    """Where the vault of this place is or would be; found without reading a setting."""
    return Path(os.environ.get("OAUTHVAULT_DATA_DIR", "").strip() or "data").absolute()


@contextmanager
def _no_vault_begun() -> Iterator[None]:
    """Whoever asks for help in a place without a vault does not want the beginning of one.

    Reading the settings makes the data directory and a key in it: here, somewhere that is gone
    at the end.
    """
    if _data_dir().exists():
        yield
        return
    with tempfile.TemporaryDirectory(prefix="oauthvault-") as folder:
        os.environ["OAUTHVAULT_DATA_DIR"] = folder
        yield


def _refuse_missing_vault() -> None:
    """Stop before a folder that holds no vault is made into half of one."""
    if os.environ.get("DATABASE_URL") or os.environ.get("DATABASE_URL_FILE"):
        return
    folder = _data_dir()
    if not folder.is_dir():
        _refuse(
            f"there is no vault in {folder}: run this in the folder where `make run` or "
            "`oauthvault up` was started, or name the place in OAUTHVAULT_DATA_DIR"
        )


def _of_the_disk() -> str:
    """What is behind a "disk I/O error" of SQLite, where it can be seen; else nothing."""
    from django.conf import settings

    from oauthvault.datadir import why_unwritable

    if settings.ON_POSTGRESQL:
        return ""
    why = why_unwritable(Path(settings.DATABASES["default"]["NAME"]).parent)
    return f": {why}. Make room, or make it writable" if why else ""


def _print_help() -> None:
    import django
    from django.core.management import load_command_class

    django.setup()

    print("usage: oauthvault COMMAND [options]\n")
    print("The commands; `oauthvault COMMAND --help` says more about each.\n")
    for name, package in sorted(_ours().items()):
        told = str(load_command_class(package, name).help)
        print(f"  {name:<20} {told.partition('. ')[0].partition(': ')[0].rstrip('.')}")
    print("\nDjango's own commands (shell, dbshell, dumpdata, …) work as well.")
    print("Everything is configured by the environment: docs/configuration.md.")


def _refuse(message: str) -> NoReturn:
    sys.exit(f"oauthvault: {' '.join(message.split())}")


if __name__ == "__main__":
    main()
