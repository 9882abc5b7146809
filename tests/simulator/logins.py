"""The server's books: who logged in, which token lives, which refresh token is spent.

Not thread-safe by itself: `State` holds its one lock around every call.
"""

import secrets
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

DEFAULT_SCOPES = ("user:inference", "user:profile")
REFRESH_TOKEN_LIFETIME = 30 * 24 * 3600


@dataclass(frozen=True, kw_only=True)
class Login:
    """One login as its holder sees it. Times in Unix seconds."""

    user: str
    access_token: str = field(repr=False)
    refresh_token: str | None = field(repr=False)
    expires_at: int
    refresh_token_expires_at: int | None
    scopes: tuple[str, ...]
    alive: bool

    def credentials_file(self) -> dict[str, Any]:
        """As Claude Code writes it to `.credentials.json`: times in milliseconds."""
        oauth: dict[str, Any] = {
            "accessToken": self.access_token,
            "refreshToken": self.refresh_token or "",
            "expiresAt": self.expires_at * 1000,
            "scopes": list(self.scopes),
            "subscriptionType": "max",
        }
        if self.refresh_token_expires_at is not None:
            oauth["refreshTokenExpiresAt"] = self.refresh_token_expires_at * 1000
        return {"claudeAiOauth": oauth}

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "Login":
        return cls(**{**value, "scopes": tuple(value["scopes"])})


@dataclass(eq=False)
class Family:
    """Every token that descends from one login; they die together."""

    user: str
    scopes: tuple[str, ...]
    login_ends: float | None
    access_token: str = field(default="", repr=False)
    access_ends: float = 0.0
    refresh_token: str | None = field(default=None, repr=False)
    alive: bool = True

    @property
    def login(self) -> Login:
        return Login(
            user=self.user,
            access_token=self.access_token,
            refresh_token=self.refresh_token,
            expires_at=int(self.access_ends),
            refresh_token_expires_at=None if self.login_ends is None else int(self.login_ends),
            scopes=self.scopes,
            alive=self.alive,
        )


@dataclass(eq=False)
class _AccessToken:
    family: Family
    ends: float
    killed: bool = False


@dataclass(frozen=True)
class Exchange:
    """What became of one presented refresh token; `family` is set when it was known."""

    outcome: Literal["refreshed", "reuse", "invalid", "invalid_scope"]
    family: Family | None = None
    scopes: tuple[str, ...] = ()


class Logins:
    def __init__(self) -> None:
        self._access: dict[str, _AccessToken] = {}
        self._refresh: dict[str, Family] = {}
        self._families: dict[str, list[Family]] = {}

    def open(
        self, *, user: str, lifetime: float, refresh: bool, scopes: Sequence[str], now: float
    ) -> Family:
        ends = now + REFRESH_TOKEN_LIFETIME if refresh else None
        family = Family(user, tuple(scopes), ends)
        self._issue_access(family, lifetime=lifetime, now=now)
        if refresh:
            self._issue_refresh(family)
        self._families.setdefault(user, []).append(family)
        return family

    def exchange(
        self,
        refresh_token: str,
        *,
        scopes: Sequence[str] | None,
        lifetime: float,
        keep_refresh_token: bool,
        kill_access_token: bool,
        reuse_kills_family: bool,
        now: float,
    ) -> Exchange:
        """Spend a refresh token for a new pair; a spent one is a reuse, not a mere mistake."""
        family = self._refresh.get(refresh_token)
        if family is None:
            return Exchange("invalid")
        if refresh_token != family.refresh_token:
            family.alive = family.alive and not reuse_kills_family
            return Exchange("reuse", family)
        if not family.alive or (family.login_ends is not None and family.login_ends <= now):
            return Exchange("invalid", family)
        granted = tuple(scopes) if scopes is not None else family.scopes
        if not set(granted) <= set(family.scopes):
            return Exchange("invalid_scope", family)
        if kill_access_token:
            self._access[family.access_token].killed = True
        self._issue_access(family, lifetime=lifetime, now=now)
        if not keep_refresh_token:
            self._issue_refresh(family)
        return Exchange("refreshed", family, granted)

    def judge(self, access_token: str, *, now: float) -> Literal["living", "expired", "invalid"]:
        held = self._access.get(access_token)
        if held is None or held.killed or not held.family.alive:
            return "invalid"
        return "living" if now < held.ends else "expired"

    def owner(self, token: str) -> str | None:
        """The user whose token this is or once was."""
        family = self._family_of(token)
        return family.user if family else None

    def latest(self, user: str) -> Family:
        try:
            return self._families[user][-1]
        except KeyError:
            raise LookupError(f"no login of user {user!r}") from None

    def expire_access_token(self, token: str, *, now: float) -> None:
        held = self._held(token)
        held.ends = now - 1
        if held.family.access_token == token:
            held.family.access_ends = held.ends

    def kill_access_token(self, token: str) -> None:
        self._held(token).killed = True

    def kill_user(self, user: str) -> None:
        for family in self._families[self.latest(user).user]:
            family.alive = False

    def revoke(self, token: str) -> Family | None:
        """End the login that this token belongs to; None if there is none to end."""
        family = self._family_of(token)
        if family is None or not family.alive:
            return None
        family.alive = False
        return family

    def _held(self, token: str) -> _AccessToken:
        try:
            return self._access[token]
        except KeyError:
            raise LookupError("not an access token of this server") from None

    def _family_of(self, token: str) -> Family | None:
        held = self._access.get(token)
        return held.family if held else self._refresh.get(token)

    def _issue_access(self, family: Family, *, lifetime: float, now: float) -> None:
        family.access_token = "sk-ant-oat01-" + secrets.token_urlsafe(64) + "AA"
        family.access_ends = now + lifetime
        self._access[family.access_token] = _AccessToken(family, family.access_ends)

    def _issue_refresh(self, family: Family) -> None:
        family.refresh_token = "sk-ant-ort01-" + secrets.token_urlsafe(64) + "AA"
        self._refresh[family.refresh_token] = family


def account_of(user: str) -> dict[str, Any]:
    return {
        "uuid": str(uuid.uuid5(uuid.NAMESPACE_OID, f"account:{user}")),
        "email_address": f"{user}@example.com",
    }


def organization_of(user: str) -> dict[str, Any]:
    return {
        "uuid": str(uuid.uuid5(uuid.NAMESPACE_OID, f"organization:{user}")),
        "name": f"{user}'s organization",
    }
