"""The ``claude_oauth`` block of LiteLLM's config, read and checked before anything is served.

Every setting of the document is accepted as the document writes it; ours stand beside them. A
setting that cannot be right stops the proxy with one sentence that names it.
"""

import difflib
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from oauthvault_litellm.secret import Secret

DEFAULT_VAULT_URL = "http://127.0.0.1:8000"
_BACKOFFS = ("exponential", "linear", "fixed")
# What the vault itself takes for a tenant or a credential.
_LONGEST_THRESHOLD, _MOST_RETRIES = 86_400, 10


class SettingsError(ValueError):
    """A setting is unknown, wrong or missing. The text names it and never quotes a secret."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OfferedCredential:
    """The tokens of the block, for the vault to take if it holds nothing yet."""

    access_token: Secret
    refresh_token: Secret | None
    expires_at: int  # as given, seconds or milliseconds: the vault tells them apart


@dataclass(frozen=True, slots=True, kw_only=True)
class RefreshPolicy:
    """How the block wants its own credential refreshed; None where it does not say."""

    enabled: bool | None = None
    threshold: int | None = None
    max_retries: int | None = None
    retry_backoff: str | None = None

    def asked(self) -> dict[str, bool | int | str]:
        """What it says, by the names that the vault has for it too."""
        said = {
            "auto_refresh": self.enabled,
            "refresh_threshold": self.threshold,
            "max_retries": self.max_retries,
            "retry_backoff": self.retry_backoff,
        }
        return {name: value for name, value in said.items() if value is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    enabled: bool
    offered: OfferedCredential | None
    refresh: RefreshPolicy
    multi_user: bool
    debug: bool
    vault_url: str
    vault_key: Secret | None  # None only where the hook is not enabled
    cache_seconds: float
    max_stale_seconds: float
    wait_seconds: float
    allowed_hosts: frozenset[str]
    fallback_to_api_key: bool
    direct_bearer: str | None  # None where the block does not say
    custom_auth: str | None  # whom to ask about everything that is no Claude token


def claude_oauth_block(config: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The block of a whole LiteLLM config, or None where there is none.

    The document shows it under ``general_settings`` in one place and at the top level in others.
    Two blocks would leave it open which one holds, so they are refused.
    """
    nested = (config.get("general_settings") or {}).get("claude_oauth")
    top = config.get("claude_oauth")
    if nested is not None and top is not None:
        raise SettingsError(
            "claude_oauth stands both under general_settings and at the top level: keep one of them"
        )
    block = nested if nested is not None else top
    if block is not None and not isinstance(block, Mapping):
        raise SettingsError(f"claude_oauth must be a mapping, not {_kind(block)}")
    return block


def read_settings(
    block: Mapping[str, Any] | None, environ: Mapping[str, str] = os.environ
) -> Settings:
    """The checked settings. Raises :class:`SettingsError` on the first thing that is wrong."""
    reader = _Reader(block or {}, environ)
    enabled = reader.boolean("enabled", default=True)
    if not reader.boolean("token_encryption", default=True):
        raise SettingsError(
            "claude_oauth.token_encryption: false is refused: the vault stores tokens only sealed"
        )
    if reader.boolean("log_tokens", default=False):
        raise SettingsError("claude_oauth.log_tokens: true is refused: tokens are never logged")
    multi_user = _multi_user(reader)
    settings = Settings(
        enabled=enabled,
        offered=_offered(reader),
        refresh=_refresh(reader),
        multi_user=multi_user,
        debug=reader.boolean("debug", default=False),
        vault_url=_vault_url(reader, environ),
        vault_key=_vault_key(reader, environ, required=enabled),
        cache_seconds=reader.number("cache_seconds", default=10, least=0),
        max_stale_seconds=reader.number("max_stale_seconds", default=900, least=0),
        wait_seconds=reader.number("wait_seconds", default=30, least=0),
        allowed_hosts=_allowed_hosts(reader),
        fallback_to_api_key=reader.boolean("fallback_to_api_key", default=not multi_user),
        direct_bearer=_direct_bearer(reader),
        custom_auth=_custom_auth(reader),
    )
    reader.refuse_what_was_not_read()
    return settings


def expand(text: str, environ: Mapping[str, str]) -> str | None:
    """``${VAR}`` and ``os.environ/VAR`` replaced; None where a variable is missing or empty.

    LiteLLM itself expands only the second form.
    """
    if text.startswith("os.environ/"):
        return environ.get(text.removeprefix("os.environ/")) or None
    missing = False

    def value(match: re.Match[str]) -> str:
        nonlocal missing
        found = environ.get(match[1], "")
        missing = missing or not found
        return found

    expanded = _VARIABLE.sub(value, text)
    return None if missing else expanded


_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


class _Reader:
    """One level of the block. Remembers what was asked for, so that the rest is refused by name."""

    def __init__(
        self, block: Mapping[str, Any], environ: Mapping[str, str], path: str = "claude_oauth"
    ) -> None:
        self._block = block
        self._environ = environ
        self._path = path
        self._known: list[str] = []
        self._levels: list[_Reader] = []

    def raw(self, name: str, *, may_be_missing: bool = False) -> Any:
        """The value with variables expanded; None where the setting is absent or empty.

        `may_be_missing`: a variable that is not set makes the setting absent, where otherwise it
        is an error. Only for what the vault may know already: the tokens.
        """
        self._known.append(name)
        value = self._block.get(name)
        if not isinstance(value, str):
            return value
        expanded = expand(value.strip(), self._environ)
        if expanded is None and not may_be_missing:
            raise SettingsError(
                f"{self._path}.{name} is {value.strip()}, and that variable is not set"
            )
        return expanded or None

    def boolean(self, name: str, *, default: bool) -> bool:
        value = self.raw(name)
        return default if value is None else self._as_boolean(name, value)

    def optional_boolean(self, name: str) -> bool | None:
        value = self.raw(name)
        return None if value is None else self._as_boolean(name, value)

    def _as_boolean(self, name: str, value: Any) -> bool:
        if isinstance(value, bool):
            return value
        if isinstance(value, str) and value.lower() in ("true", "false"):
            return value.lower() == "true"
        raise self.wrong(name, "true or false", value)

    def number(self, name: str, *, default: float, least: float) -> float:
        value = self.raw(name)
        if value is None:
            return default
        try:
            number = float(value) if not isinstance(value, bool) else float("nan")
        except (TypeError, ValueError):
            number = float("nan")
        if not least <= number < float("inf"):
            raise self.wrong(name, f"a number of seconds, {least:g} or more", value)
        return number

    def whole(
        self, name: str, *, least: int, most: int | None = None, may_be_missing: bool = False
    ) -> int | None:
        value = self.raw(name, may_be_missing=may_be_missing)
        if value is None:
            return None
        if isinstance(value, str) and re.fullmatch(r"[0-9]{1,15}", value):
            value = int(value)
        right = f"a whole number, {least} or more"
        if most is not None:
            right = f"a whole number from {least} to {most}"
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise self.wrong(name, right, value)
        if most is not None and value > most:
            raise self.wrong(name, right, value)
        return value

    def secret(self, name: str) -> Secret | None:
        value = self.raw(name, may_be_missing=True)
        if value is None:
            return None
        if not isinstance(value, str) or not value.isascii() or not value.isprintable():
            # Never with the value in it: it may be most of a token.
            raise SettingsError(f"{self._path}.{name} must be a token in printable ASCII")
        return Secret(value)

    def choice(self, name: str, choices: tuple[str, ...]) -> str | None:
        value = self.raw(name)
        if value is not None and value not in choices:
            raise self.wrong(name, _either(choices), value)
        return value  # type: ignore[no-any-return]

    def level(self, name: str, block: Mapping[str, Any]) -> "_Reader":
        inner = _Reader(block, self._environ, f"{self._path}.{name}")
        self._levels.append(inner)
        return inner

    def wrong(self, name: str, right: str, value: Any) -> SettingsError:
        return SettingsError(f"{self._path}.{name} must be {right}, not {_kind(value)}")

    def refuse_what_was_not_read(self) -> None:
        for name in self._block:
            if name not in self._known:
                near = difflib.get_close_matches(str(name), self._known, n=1)
                hint = f": did you mean {near[0]}?" if near else f": known are {_list(self._known)}"
                raise SettingsError(f"{self._path}.{name} is not a setting{hint}")
        for level in self._levels:
            level.refuse_what_was_not_read()


def _multi_user(reader: _Reader) -> bool:
    value = reader.raw("multi_user")
    if value is None:
        return False
    if isinstance(value, bool):
        return value
    if not isinstance(value, Mapping):
        raise reader.wrong("multi_user", "a mapping of enabled and isolation", value)
    level = reader.level("multi_user", value)
    level.choice("isolation", ("strict",))
    return level.boolean("enabled", default=True)


def _refresh(reader: _Reader) -> RefreshPolicy:
    value = reader.raw("auto_refresh")
    threshold = reader.whole("refresh_threshold", least=1, most=_LONGEST_THRESHOLD)
    if not isinstance(value, Mapping):
        return RefreshPolicy(enabled=reader.optional_boolean("auto_refresh"), threshold=threshold)
    level = reader.level("auto_refresh", value)
    inner = level.whole("threshold", least=1, most=_LONGEST_THRESHOLD)
    if threshold is not None and inner is not None and threshold != inner:
        raise SettingsError(
            f"claude_oauth.refresh_threshold is {threshold} and "
            f"claude_oauth.auto_refresh.threshold is {inner}: keep one of them"
        )
    return RefreshPolicy(
        enabled=level.optional_boolean("enabled"),
        threshold=threshold if inner is None else inner,
        max_retries=level.whole("max_retries", least=0, most=_MOST_RETRIES),
        retry_backoff=level.choice("retry_backoff", _BACKOFFS),
    )


def _offered(reader: _Reader) -> OfferedCredential | None:
    access_token = reader.secret("access_token")
    refresh_token = reader.secret("refresh_token")
    expires_at = reader.whole("expires_at", least=1, may_be_missing=True)
    if access_token is None and expires_at is None and refresh_token is None:
        return None
    if access_token is None or expires_at is None:
        missing = "access_token" if access_token is None else "expires_at"
        raise SettingsError(
            f"claude_oauth.{missing} is missing: access_token and expires_at are given together "
            "(CLAUDE_ACCESS_TOKEN and CLAUDE_EXPIRES_AT), or the vault already holds the "
            "credential and the block needs no tokens"
        )
    return OfferedCredential(
        access_token=access_token, refresh_token=refresh_token, expires_at=expires_at
    )


def _vault_url(reader: _Reader, environ: Mapping[str, str]) -> str:
    value = reader.raw("vault_url") or environ.get("OAUTHVAULT_URL") or DEFAULT_VAULT_URL
    right = "the address of the vault, such as https://vault.example.com"
    if not isinstance(value, str):
        raise reader.wrong("vault_url", right, value)
    try:
        parts = urlsplit(value)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname)
        usable = usable and not (parts.username or parts.query or parts.fragment)
    except ValueError:
        usable = False
    if not usable:
        raise SettingsError(f"claude_oauth.vault_url (or OAUTHVAULT_URL) must be {right}")
    return value.rstrip("/")


def _vault_key(reader: _Reader, environ: Mapping[str, str], *, required: bool) -> Secret | None:
    key = reader.secret("vault_key")
    if key is None:
        value = _from_environment_or_file("OAUTHVAULT_SERVICE_KEY", environ)
        key = Secret(value) if value else None
    if key is None:
        if not required:
            return None
        raise SettingsError(
            "claude_oauth.vault_key (or OAUTHVAULT_SERVICE_KEY) is missing: make one with "
            "`oauthvault create_key TENANT`"
        )
    if not re.fullmatch(r"ovs_[A-Za-z0-9_.-]{32,}", key.reveal()):
        raise SettingsError(
            "claude_oauth.vault_key (or OAUTHVAULT_SERVICE_KEY) is not a key of the vault: "
            "it starts with ovs_ and `oauthvault create_key TENANT` makes one"
        )
    return key


def _from_environment_or_file(name: str, environ: Mapping[str, str]) -> str | None:
    if value := environ.get(name, "").strip():
        return value
    if path := environ.get(f"{name}_FILE", "").strip():
        try:
            return Path(path).read_text(encoding="utf-8").strip()
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not text"
            raise SettingsError(f"{name}_FILE cannot be read: {reason}") from None
    return None


def _allowed_hosts(reader: _Reader) -> frozenset[str]:
    value = reader.raw("allowed_hosts")
    if value is None:
        return frozenset({"api.anthropic.com"})
    if isinstance(value, str):
        value = [part.strip() for part in value.split(",")]
    right = "a list of host names without scheme, port or path"
    if not isinstance(value, list | tuple) or not value:
        raise reader.wrong("allowed_hosts", right, value)
    if not all(isinstance(host, str) and _HOST.fullmatch(host) for host in value):
        raise SettingsError(f"claude_oauth.allowed_hosts must be {right}")
    return frozenset(host.lower().rstrip(".").strip("[]") for host in value)


_HOST = re.compile(r"[A-Za-z0-9._-]+|\[?[0-9A-Fa-f:]*:[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*\]?")

_BEARERS = ("vault", "any", "off")
_ATTRIBUTE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", re.ASCII)


def _direct_bearer(reader: _Reader) -> str | None:
    if reader.raw("direct_bearer") is False:  # what YAML makes of `off`
        return "off"
    return reader.choice("direct_bearer", _BEARERS)


def _custom_auth(reader: _Reader) -> str | None:
    value = reader.raw("custom_auth")
    if value is None:
        return None
    if not isinstance(value, str) or not _ATTRIBUTE.fullmatch(value):
        raise reader.wrong("custom_auth", "a function by its path, such as my_auth.check", value)
    return value


_KINDS: tuple[tuple[Callable[[Any], bool], str], ...] = (
    (lambda value: isinstance(value, Mapping), "a mapping"),
    (lambda value: isinstance(value, list | tuple), "a list"),
)


def _kind(value: Any) -> str:
    for is_of_kind, name in _KINDS:
        if is_of_kind(value):
            return name
    # Long text may be a token that was put on the wrong line.
    return repr(value) if len(repr(value)) <= 20 else f"a {type(value).__name__} of that length"


def _either(choices: tuple[str, ...]) -> str:
    return " or ".join((", ".join(choices[:-1]), choices[-1])) if len(choices) > 1 else choices[0]


def _list(names: list[str]) -> str:
    return ", ".join(sorted(set(names)))
