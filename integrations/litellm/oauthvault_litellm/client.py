"""The vault over HTTP, as its contract describes it: what the hook may ask and how it can fail."""

import asyncio
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from json import dumps
from types import MappingProxyType
from typing import Any, Self
from urllib.parse import quote

import httpx

from oauthvault_litellm.secret import Secret
from oauthvault_litellm.settings import OfferedCredential

# Longer than the vault itself lets a caller wait for a refresh (10 s).
_READ_TIMEOUT = 15.0
_CONNECT_TIMEOUT = 3.0
_LONGEST_PAUSE = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessToken:
    """What the vault hands out for one user."""

    access_token: Secret
    expires_at: int  # Unix seconds
    generation: int
    headers: Mapping[str, str]
    etag: str | None

    @classmethod
    def from_answer(cls, answer: httpx.Response) -> Self:
        try:
            body = answer.json()
            return cls(
                access_token=Secret(_text(body["access_token"])),
                expires_at=int(body["expires_at"]),
                generation=int(body["generation"]),
                headers=MappingProxyType(
                    {_text(k): _text(v) for k, v in (body.get("headers") or {}).items()}
                ),
                etag=answer.headers.get("ETag"),
            )
        except (ValueError, TypeError, KeyError, AttributeError):
            # Without the cause: a JSON error carries the document it failed on, token and all.
            raise VaultUnreachable("the vault answered without a token that can be read") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class RefreshSettings:
    """How the vault refreshes one credential, and whose setting each is, by name."""

    effective: Mapping[str, bool | int | str]
    governed_by: Mapping[str, str]

    @classmethod
    def from_answer(cls, answer: httpx.Response, names: Iterable[str]) -> Self:
        try:
            body = answer.json()
            effective = {name: body["effective"][name] for name in names}
            if not all(isinstance(value, bool | int | str) for value in effective.values()):
                raise TypeError("no setting")
            governed_by = {name: _text(body["governed_by"][name]) for name in names}
        except (ValueError, TypeError, KeyError, AttributeError):
            raise VaultUnreachable("the vault answered without settings that can be read") from None
        return cls(effective=effective, governed_by=governed_by)


class VaultError(Exception):
    """The vault refused or could not. `code` is the contract's, `detail` is fit to be shown."""

    def __init__(
        self, detail: str, *, code: str, status: int, retry_after: float | None = None
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.code = code
        self.status = status
        self.retry_after = retry_after


class VaultUnreachable(VaultError):
    """No answer of the vault's own: not running, not connected, too slow, or something between."""

    def __init__(self, detail: str) -> None:
        super().__init__(detail, code="vault_unreachable", status=503)


class NoToken(VaultError):
    """Nothing is stored for this user."""


class TokenUnusable(VaultError):
    """Something is stored, and only a person can make it usable again."""


class TokenWithheld(VaultError):
    """An operator has suspended, revoked or quarantined the credential or its tenant."""


class RefreshDelayed(VaultError):
    """A refresh is under way or was put off; asking again later can help."""


class KeyRefused(VaultError):
    """The vault does not accept this proxy's own key, or not for this."""


_KINDS: Mapping[str, type[VaultError]] = MappingProxyType(
    {
        "no_token": NoToken,
        "reauthorization_required": TokenUnusable,
        "no_refresh_token": TokenUnusable,
        "token_expired": TokenUnusable,
        "revoked": TokenWithheld,
        "suspended": TokenWithheld,
        "quarantined": TokenWithheld,
        "tenant_suspended": TokenWithheld,
        "refresh_in_progress": RefreshDelayed,
        "upstream_rate_limited": RefreshDelayed,
        "upstream_unavailable": RefreshDelayed,
        "upstream_error": RefreshDelayed,
        "rate_limited": RefreshDelayed,
        "invalid_key": KeyRefused,
        "insufficient_scope": KeyRefused,
        "user_required": KeyRefused,
    }
)


class VaultClient:
    """Asks one vault with one service key. Use within one event loop; `aclose` when done."""

    def __init__(
        self,
        *,
        url: str,
        key: Secret,
        wait_seconds: float,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._wait_seconds = wait_seconds
        self._http = httpx.AsyncClient(
            base_url=url,
            headers={"Authorization": f"Bearer {key.reveal()}", "Accept": "application/json"},
            timeout=httpx.Timeout(_READ_TIMEOUT, connect=_CONNECT_TIMEOUT),
            # The key goes to the address in the settings and nowhere else.
            follow_redirects=False,
            trust_env=False,
            transport=transport,
        )

    async def aclose(self) -> None:
        await self._http.aclose()

    async def token(self, user: str, *, known: AccessToken | None = None) -> AccessToken:
        """The user's access token; `known` itself if the vault says that it still holds."""
        headers = {"If-None-Match": known.etag} if known is not None and known.etag else {}
        answer = await self._ask("GET", "/auth/claude/token", user=user, headers=headers)
        if answer.status_code == httpx.codes.NOT_MODIFIED and known is not None:
            return known
        return AccessToken.from_answer(answer)

    async def rejected(self, user: str, *, generation: int) -> AccessToken:
        """Tells the vault that upstream answered 401 to this generation; a newer token."""
        answer = await self._ask(
            "POST", "/auth/claude/token/rejected", user=user, json={"generation": generation}
        )
        return AccessToken.from_answer(answer)

    async def offer(self, user: str, credential: OfferedCredential) -> bool:
        """Gives the vault a credential if it holds none for this user. Whether it took it."""
        body: dict[str, Any] = {
            "access_token": credential.access_token.reveal(),
            "expires_at": credential.expires_at,
        }
        if credential.refresh_token is not None:
            body["refresh_token"] = credential.refresh_token.reveal()
        answer = await self._ask(
            "PUT", "/auth/claude/token", user=user, json=body, headers={"If-None-Match": "*"}
        )
        return answer.status_code == httpx.codes.CREATED

    async def set_refresh(
        self, user: str, asked: Mapping[str, bool | int | str]
    ) -> RefreshSettings:
        """Tells the vault how this user's credential is to be refreshed, and by what it will
        be. What is not ``asked`` for is as the vault is set."""
        answer = await self._ask("PUT", "/auth/claude/settings", user=user, json=asked)
        return RefreshSettings.from_answer(answer, asked)

    async def identify(self, token: Secret) -> str:
        """The user whose current token this is. Raises :class:`NoToken` where it is nobody's."""
        content = dumps({"access_token": token.reveal()}).encode()
        path = "/auth/claude/token/identify"
        answer = _checked(await self._once("POST", path, user=None, content=content, headers={}))
        try:
            return _text(answer.json()["user_id"])
        except (ValueError, TypeError, KeyError):
            raise VaultUnreachable("the vault answered without a user that can be read") from None

    async def relay(
        self,
        method: str,
        path: str,
        *,
        user: str | None,
        content: bytes = b"",
        headers: Mapping[str, str] = MappingProxyType({}),
    ) -> httpx.Response:
        """The vault's answer as it is, for somebody else; `user` None where the path names none.

        Raises :class:`KeyRefused` where the answer is about this client's key and not about the
        somebody, and :class:`VaultUnreachable`.
        """
        answer = await self._once(method, path, user=user, content=content, headers=headers)
        try:
            return _checked(answer)
        except (KeyRefused, VaultUnreachable):
            raise
        except VaultError:
            return answer

    async def _ask(
        self,
        method: str,
        path: str,
        *,
        user: str,
        json: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] = MappingProxyType({}),
    ) -> httpx.Response:
        """One answer of the vault, waiting out its *refresh in progress* for `wait_seconds`."""
        deadline = time.monotonic() + self._wait_seconds
        while True:
            try:
                content = b"" if json is None else dumps(json).encode()
                answer = await self._once(method, path, user=user, content=content, headers=headers)
                return _checked(answer)
            except RefreshDelayed as delayed:
                pause = delayed.retry_after
                if delayed.code != "refresh_in_progress" or pause is None:
                    raise
                pause = min(max(pause, 0.05), _LONGEST_PAUSE)
                if time.monotonic() + pause > deadline:
                    raise
            await asyncio.sleep(pause)

    async def _once(
        self,
        method: str,
        path: str,
        *,
        user: str | None,
        content: bytes,
        headers: Mapping[str, str],
    ) -> httpx.Response:
        sent = dict(headers)
        if user is not None:
            sent["X-OAuthVault-User"] = quote(user, safe="")
        if content:
            sent["Content-Type"] = "application/json"
        try:
            return await self._http.request(method, path, content=content, headers=sent)
        except httpx.HTTPError as error:
            # Without the cause: an httpx error carries the request, and the request carries the
            # service key, sometimes a token.
            kind = type(error).__name__
        raise VaultUnreachable(f"the token vault did not answer ({kind})")


def _checked(answer: httpx.Response) -> httpx.Response:
    """The answer if it is one of the contract's good ones; else the error it stands for."""
    if answer.is_success or answer.status_code in (
        httpx.codes.NOT_MODIFIED,
        httpx.codes.PRECONDITION_FAILED,  # of If-None-Match: *, which is an answer, not a failure
    ):
        return answer
    try:
        problem = answer.json()
        code, detail = _text(problem["code"]), _text(problem.get("detail") or problem["title"])
    except (ValueError, TypeError, KeyError, AttributeError):
        raise VaultUnreachable(
            f"something other than the token vault answered ({answer.status_code})"
        ) from None
    if code not in _KINDS and answer.is_server_error:
        raise VaultUnreachable(f"the token vault is not able to answer ({code})")
    raise _KINDS.get(code, VaultError)(
        detail, code=code, status=answer.status_code, retry_after=_retry_after(answer)
    )


def _retry_after(answer: httpx.Response) -> float | None:
    value = answer.headers.get("Retry-After", "")
    return float(value) if value.isascii() and value.isdigit() else None


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("not text")
    return value
