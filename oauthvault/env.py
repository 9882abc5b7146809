"""The process environment, read once, strictly.

A value that cannot be right stops the start with one sentence that names the
variable and what would be right; nothing is replaced by a default in silence.
Every secret ``X`` may be given as ``X_FILE`` naming a file, and leaves
``os.environ`` when it is read, so that no library, crash report or child started
by accident carries it on.
"""

import difflib
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import overload

from tokens.networks import checked_networks

_TRUE = frozenset({"true", "1", "yes", "on"})
_FALSE = frozenset({"false", "0", "no", "off"})

# Every name that was asked for: what else looks like one of ours is a misspelling.
_known: set[str] = set()
# What was taken out of os.environ, for the children that we start on purpose.
_taken: dict[str, str] = {}


class ConfigurationError(Exception):
    """A setting that cannot be right. The message is one line and holds no secret.

    Not a child of Django's ImproperlyConfigured, which the command line swallows and
    answers with "unknown command".
    """


@overload
def text(name: str, default: str) -> str: ...
@overload
def text(name: str, default: None = None) -> str | None: ...
def text(name: str, default: str | None = None) -> str | None:
    """The value of ``name`` without surrounding blanks; an empty one counts as unset."""
    _known.add(name)
    value = os.environ.get(name, "").strip()
    return value or default


def secret(name: str) -> str | None:
    """The secret ``name``, from the variable or from the file that ``name_FILE`` names.

    Taken out of the environment. Both given, or a file that cannot be read or is
    empty: ConfigurationError.
    """
    value, path = _take(name), _take(f"{name}_FILE")
    if path is None:
        return value
    if value is not None:
        raise ConfigurationError(f"{name} and {name}_FILE are both set; keep one of them")
    try:
        content = Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise ConfigurationError(
            f"{name}_FILE names a file that cannot be read: {reason}"
        ) from None
    if not content:
        raise ConfigurationError(f"{name}_FILE names an empty file; it must hold the secret itself")
    return content


def given_by(name: str) -> str:
    """The variable in which this process was given the secret: ``name``, or ``name_FILE``."""
    return f"{name}_FILE" if _taken.get(f"{name}_FILE") else name


def integer(name: str, default: int, *, least: int, most: int) -> int:
    value = text(name)
    if value is None:
        return default
    if not re.fullmatch(r"[0-9]{1,15}", value) or not least <= int(value) <= most:
        raise ConfigurationError(
            f"{name} must be a whole number from {least} to {most}, not {value!r}"
        )
    return int(value)


def boolean(name: str, default: bool) -> bool:
    value = text(name)
    if value is None:
        return default
    if value.lower() in _TRUE:
        return True
    if value.lower() in _FALSE:
        return False
    raise ConfigurationError(f"{name} must be true or false, not {value!r}")


def choice(name: str, default: str, options: Sequence[str]) -> str:
    value = text(name) or default
    if value not in options:
        raise ConfigurationError(f"{name} must be one of {', '.join(options)}, not {value!r}")
    return value


def words(name: str, default: Sequence[str] = ()) -> list[str]:
    """A comma-separated list; blanks around the items and empty items are dropped."""
    value = text(name)
    if value is None:
        return list(default)
    return [word.strip() for word in value.split(",") if word.strip()]


def networks(name: str) -> list[str]:
    """A comma-separated list of CIDR blocks; a single address is the block of itself."""
    try:
        return checked_networks(words(name))
    except ValueError as error:
        raise ConfigurationError(f"{name}: {error}") from None


@overload
def http_url(name: str, default: str) -> str: ...
@overload
def http_url(name: str, default: None = None) -> str | None: ...
def http_url(name: str, default: str | None = None) -> str | None:
    value = text(name)
    if value is None:
        return default
    if not re.fullmatch(r"https?://[^\s/@]+(/\S*)?", value):
        raise ConfigurationError(
            f"{name} must be an address that starts with https:// (or http:// for a test) "
            "and names no user"
        )
    return value


def child_environment() -> dict[str, str]:
    """The environment for a process of ours: what stands, and the secrets taken from it."""
    return {**os.environ, **_taken}


def strangers() -> list[str]:
    """A sentence for each variable that looks like one of the vault's and is none."""
    sentences = []
    for name in sorted(os.environ.keys() - _known):
        near = difflib.get_close_matches(name, _known, n=1, cutoff=0.85)
        if near:
            sentences.append(f"{name} is no variable of the vault; did you mean {near[0]}?")
        elif name.startswith("OAUTHVAULT_"):
            sentences.append(f"{name} is no variable of the vault; docs/configuration.md has them")
    return sentences


def _take(name: str) -> str | None:
    _known.add(name)
    value = os.environ.pop(name, None)
    if value is None:
        # A second reader in this process (the settings may be imported anew by a
        # test or a reloader) finds what the first one took.
        return (_taken.get(name) or "").strip() or None
    _taken[name] = value
    return value.strip() or None
