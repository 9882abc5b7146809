"""The file in which the first operator's password is left, where no terminal could show it."""

from django.conf import settings

from oauthvault import datadir

FILE = "admin-password"


def leave(password: str) -> None:
    forget()
    datadir.write_once(settings.OAUTHVAULT_DATA_DIR / FILE, password)


def is_there() -> bool:
    return bool((settings.OAUTHVAULT_DATA_DIR / FILE).exists())


def forget() -> None:
    """OSError if it cannot be deleted."""
    (settings.OAUTHVAULT_DATA_DIR / FILE).unlink(missing_ok=True)


def forget_if(password: str) -> bool:
    """Delete the file if this is what it says. False: it is there still, and cannot be deleted."""
    path = settings.OAUTHVAULT_DATA_DIR / FILE
    try:
        if path.read_text(encoding="utf-8").strip() == password:
            path.unlink()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True
