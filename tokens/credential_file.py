"""Credentials as people have them: `.credentials.json`, the document's names, snake_case.

Everything that is wrong is said at once, by field, and never with the value.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tokens.email_address import email_of
from tokens.errors import ExpiredLogin, InvalidCredentials
from tokens.grammar import LONGEST_TOKEN, is_scope, is_token
from tokens.secret import AccessToken, RefreshToken

DEFAULT_SCOPES = ["org:create_api_key", "user:profile", "user:inference"]
MINTS_API_KEYS = "org:create_api_key"

# From here on a number is one of milliseconds: as seconds it would be the year 5138.
_MILLISECONDS_FROM = 100_000_000_000
_LONGEST_LIFE = 10 * 366 * 86_400
_WRAPPER = "claudeAiOauth"
_NAMES = {
    "accessToken": "access_token",
    "refreshToken": "refresh_token",
    "expiresAt": "expires_at",
    "refreshTokenExpiresAt": "refresh_token_expires_at",
    "scopes": "scopes",
    "isMax": "is_max",
    "subscriptionType": "subscription_type",
    "accountEmail": "account_email",
    # In the file of Claude Code; of no use here, and no reason to refuse the file.
    "rateLimitTier": "rate_limit_tier",
    "clientId": "client_id",
}


@dataclass(frozen=True, kw_only=True)
class ImportedCredential:
    """What a file or request offers. Times are Unix seconds."""

    access_token: AccessToken
    refresh_token: RefreshToken | None
    expires_at: int
    scopes: list[str]
    is_max: bool
    subscription_type: str
    login_expires_at: int | None
    # The file names none, and `scopes` are the usual ones.
    scopes_assumed: bool = False
    # The unit in which the file tells `expires_at`; seconds if not.
    in_milliseconds: bool = False
    # In lower case; empty: the file does not say.
    account_email: str = ""


def parse_credentials(content: object, *, now: float) -> ImportedCredential:
    """Read one credential. InvalidCredentials names every field that is wrong, and how."""
    if not isinstance(content, Mapping):
        raise InvalidCredentials({"(file)": "must be a JSON object with accessToken and expiresAt"})
    prefix = ""
    if _WRAPPER in content:
        # Claude Code keeps other things beside the login (MCP servers' tokens): not ours.
        content, prefix = content[_WRAPPER], f"{_WRAPPER}."
        if not isinstance(content, Mapping):
            raise InvalidCredentials({_WRAPPER: "must be an object"})
    reader = _Reader(content, prefix)
    credential = reader.read(now=now)
    if credential is None:
        raise (ExpiredLogin if reader.has_only_ended else InvalidCredentials)(reader.wrong)
    return credential


def shown_name(name: object) -> str:
    """A field's name, if it reads like one: a token may have slipped into its place."""
    return str(name) if re.fullmatch(r"[A-Za-z_]{1,40}", str(name)) else "(unnamed)"


class _Reader:
    def __init__(self, content: Mapping[Any, Any], prefix: str) -> None:
        self.wrong: dict[str, str] = {}
        self._ended: set[str] = set()
        self._prefix = prefix
        self._shown: dict[str, str] = {}
        self._values: dict[str, Any] = {}
        for name, value in content.items():
            plain = _NAMES.get(name, name)
            if plain not in _NAMES.values():
                self.wrong[f"{prefix}{shown_name(name)}"] = "is not a field of a credential"
            elif plain in self._values:
                self.wrong[f"{prefix}{name}"] = f"is given twice (also as {self._shown[plain]})"
            else:
                self._values[plain], self._shown[plain] = value, str(name)

    def read(self, *, now: float) -> ImportedCredential | None:
        access = self._token("access_token", required=True)
        refresh = self._token("refresh_token", required=False)
        expires_at = self._time("expires_at", required=True)
        login_ends = self._time("refresh_token_expires_at", required=False)
        scopes = self._scopes()
        is_max = self._values.get("is_max", True)
        if not isinstance(is_max, bool):
            self._refuse("is_max", "must be true or false")
        subscription = self._values.get("subscription_type") or ""
        if not (
            isinstance(subscription, str) and subscription.isprintable() and len(subscription) <= 64
        ):
            self._refuse("subscription_type", "must be a text of at most 64 characters")
        account_email = email_of(self._values.get("account_email"))
        if self._values.get("account_email") not in (None, "") and not account_email:
            self._refuse("account_email", "must be an e-mail address")
        if expires_at is not None:
            if expires_at > now + _LONGEST_LIFE:
                self._refuse("expires_at", "lies more than ten years ahead; is the unit right?")
            elif expires_at <= now and self._values.get("refresh_token") is None:
                self._end(
                    "expires_at",
                    "is past, and there is no refreshToken: this login has expired; "
                    "sign in to Claude again",
                )
        if login_ends is not None and login_ends <= now:
            self._end(
                "refresh_token_expires_at",
                "is past: this login has expired; sign in to Claude again",
            )
        if access is not None and refresh is not None and access == refresh:
            self._refuse("refresh_token", "is the same as accessToken")
        if self.wrong or access is None or expires_at is None:
            return None
        return ImportedCredential(
            access_token=AccessToken(access),
            refresh_token=None if refresh is None else RefreshToken(refresh),
            expires_at=expires_at,
            scopes=scopes,
            is_max=is_max,
            subscription_type=subscription,
            login_expires_at=login_ends,
            scopes_assumed=self._values.get("scopes") is None,
            in_milliseconds=float(self._values["expires_at"]) >= _MILLISECONDS_FROM,
            account_email=account_email,
        )

    @property
    def has_only_ended(self) -> bool:
        return self._ended == set(self.wrong)

    def _end(self, field: str, reason: str) -> None:
        self._ended.add(self._refuse(field, reason))

    def _refuse(self, field: str, reason: str) -> str:
        """The field, as the file calls it."""
        camel = next(camel for camel, plain in _NAMES.items() if plain == field)
        name = f"{self._prefix}{self._shown.get(field, camel)}"
        self.wrong.setdefault(name, reason)
        return name

    def _token(self, field: str, *, required: bool) -> str | None:
        if field not in self._values or (not required and self._values[field] is None):
            if required:
                self._refuse(field, "is missing")
            return None
        value = self._values[field]
        if not isinstance(value, str):
            self._refuse(field, "must be a text")
        elif not value.strip():
            self._refuse(
                field,
                "is blank: this file says that Claude Code is signed out; sign in again",
            )
        elif len(value) > LONGEST_TOKEN:
            self._refuse(field, f"is longer than {LONGEST_TOKEN} characters")
        elif not is_token(value):
            self._refuse(field, "holds characters that no token has (a blank, a line break?)")
        elif field == "access_token" and value.startswith("sk-ant-ort"):
            self._refuse(field, "is a refresh token; the two may have been exchanged")
        elif field == "access_token" and value.startswith("sk-ant-api"):
            self._refuse(field, "is an API key, not an OAuth access token")
        elif field == "refresh_token" and value.startswith("sk-ant-oat"):
            self._refuse(field, "is an access token; the two may have been exchanged")
        else:
            return value
        return None

    def _time(self, field: str, *, required: bool) -> int | None:
        """Unix seconds, from seconds or milliseconds, given as a number or its digits."""
        value = self._values.get(field)
        if value is None:
            if required:
                self._refuse(field, "is missing")
            return None
        if isinstance(value, str) and value.strip().isascii() and value.strip().isdigit():
            value = int(value.strip()[:20])
        if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
            self._refuse(field, "must be a Unix time, in seconds or milliseconds")
            return None
        if not 0 < value < 10**16:
            self._refuse(field, "is no Unix time of our days, in seconds or milliseconds")
            return None
        seconds = value / 1000 if value >= _MILLISECONDS_FROM else value
        return int(seconds)

    def _scopes(self) -> list[str]:
        value = self._values.get("scopes")
        if value is None:
            return list(DEFAULT_SCOPES)
        if isinstance(value, str):
            value = value.split()
        if (
            not isinstance(value, list)
            or not all(is_scope(scope) for scope in value)
            or len(value) > 64
        ):
            self._refuse("scopes", "must be a list of scope names")
            return []
        return list(value)
