"""The key file of the embedded default: a new KEK comes into it, an old one goes out of it.

Its processes read the file whenever they open a key that is new to them. So nothing has to
be restarted: a key stands in the file before anything is wrapped by it, and as long as
anything is (`tokens.wrapping`).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from django.conf import settings

from oauthvault import datadir, env
from oauthvault.env import ConfigurationError
from tokens.encryption import generate_kek, kek_id, parse_kek
from tokens.errors import VaultError
from tokens.keyring import keys_in_file, load_keyring, verify_keys
from tokens.rotation.keks import is_unfinished, kek_uses
from tokens.wrapping import while_nobody_wraps


class KeysAreGiven(VaultError):
    """The KEKs come from the environment, and the key file does not count."""

    code = "invalid_request"


def add_new_key() -> str | None:
    """Put a new KEK at the top of the key file; its id.

    None: an earlier rotation is unfinished, and is finished first (`keks.rewrap_all`).
    KeysAreGiven where the file does not count, ConfigurationError where it cannot be
    written or the keys in it do not open the database.
    """
    with _turn():
        keyring = load_keyring()
        verify_keys(keyring)
        if is_unfinished(keyring):
            return None
        new = generate_kek()
        _write([new, *keys_in_file()])
        return kek_id(parse_kek(new))


def remove_unneeded() -> list[str]:
    """Take out of the key file what nothing in the database needs; the ids of these keys.
    Raises as `add_new_key`."""
    # From the counting to the writing, so that who wraps next reads the file as it is then.
    with _turn(), while_nobody_wraps():
        keyring, texts = load_keyring(), keys_in_file()
        verify_keys(keyring)
        removed = [use.kek_id for use in kek_uses(keyring) if use.state == "removable"]
        if removed:
            _write([text for text in texts if kek_id(parse_kek(text)) not in removed])
        return removed


def refuse_given_keys() -> None:
    """KeysAreGiven unless it is the key file that counts."""
    if settings.ENCRYPTION_KEYS:
        raise KeysAreGiven(
            f"the encryption keys are given by {env.given_by('CLAUDE_TOKEN_ENCRYPTION_KEY')}, and "
            "the key file of the data directory does not count: change them there, and in "
            f"{env.given_by('CLAUDE_TOKEN_ENCRYPTION_KEY_FALLBACKS')} "
            "(docs/operations.md, “Rotating keys”)"
        )


@contextmanager
def _turn() -> Iterator[None]:
    refuse_given_keys()
    with datadir.turn(settings.OAUTHVAULT_DATA_DIR / "init.lock"):
        yield


def _write(texts: Sequence[str]) -> None:
    path = settings.ENCRYPTION_KEY_FILE
    try:
        datadir.replace(path, "".join(f"{text}\n" for text in texts))
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be written: {error.strerror}") from None
