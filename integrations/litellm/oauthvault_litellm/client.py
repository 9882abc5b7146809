"""The vault over HTTP, as its contract describes it: what the hook may ask and how it can fail."""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from json import dumps
from types import MappingProxyType
from typing import Any, Self
from urllib.parse import quote

import httpx

from oauthvault_litellm.breaker import Breaker, CircuitOpen
from oauthvault_litellm.metrics import Metrics, NoMetrics
from oauthvault_litellm.secret import Secret
from oauthvault_litellm.settings import OfferedCredential
from oauthvault_litellm.trust import certificate_authorities

logger = logging.getLogger("oauthvault_litellm")

# One question from its first to its last byte; longer than the vault itself lets a caller wait
# for a refresh.
_QUESTION_SECONDS = 15.0
_VAULT_WAITS = 10.0
_CONNECT_SECONDS = 3.0
# So many questions at once, and nobody waits longer than this for their turn: a vault that has
# become slow does not gather everybody.
_AT_ONCE = 50
_TURN_SECONDS = 3.0
_LONGEST_PAUSE = 5.0
# When the vault is out of reach, it may well be back by then.
_RETRY_AFTER = 2.0
# A connection that was kept and has ended meanwhile: nobody has read the question.
_BROKEN = (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError)


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

    def __init__(self, detail: str, *, retry_after: float = _RETRY_AFTER) -> None:
        super().__init__(detail, code="vault_unreachable", status=503, retry_after=retry_after)


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
        question_seconds: float = _QUESTION_SECONDS,
        at_once: int = _AT_ONCE,
        metrics: Metrics | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._wait_seconds = wait_seconds
        self._question_seconds = question_seconds
        self._metrics = metrics or NoMetrics()
        self._monotonic = monotonic
        self._breaker = Breaker(_NoAnswer, changed=self._circuit_changed, monotonic=self._monotonic)
        self._http = httpx.AsyncClient(
            base_url=url,
            headers={"Authorization": f"Bearer {key.reveal()}", "Accept": "application/json"},
            timeout=httpx.Timeout(question_seconds, connect=_CONNECT_SECONDS, pool=_TURN_SECONDS),
            limits=httpx.Limits(max_connections=at_once, max_keepalive_connections=at_once),
            # The key goes to the address in the settings and nowhere else.
            follow_redirects=False,
            trust_env=False,
            verify=certificate_authorities(),
            transport=transport,
        )

    async def aclose(self) -> None:
        await self._http.aclose()

    async def token(self, user: str, *, known: AccessToken | None = None) -> AccessToken:
        """The user's access token; `known` itself if the vault says that it still holds."""
        headers = self._patience()
        if known is not None and known.etag:
            headers["If-None-Match"] = known.etag
        answer = await self._ask("GET", "/auth/claude/token", user=user, headers=headers)
        if answer.status_code == httpx.codes.NOT_MODIFIED and known is not None:
            return known
        return AccessToken.from_answer(answer)

    async def rejected(self, user: str, *, generation: int) -> AccessToken:
        """Tells the vault that upstream answered 401 to this generation; a newer token."""
        answer = await self._ask(
            "POST",
            "/auth/claude/token/rejected",
            user=user,
            json={"generation": generation},
            headers=self._patience(),
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

    def _patience(self) -> dict[str, str]:
        """Whoever waits for less than the vault would let them says so (RFC 7240)."""
        short = self._wait_seconds < _VAULT_WAITS
        return {"Prefer": f"wait={int(self._wait_seconds)}"} if short else {}

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
        deadline = self._monotonic() + self._wait_seconds
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
                if self._monotonic() + pause > deadline:
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
        request = self._http.build_request(method, path, content=content, headers=sent)
        begun = self._monotonic()
        outcome = "unreachable"
        try:
            with self._breaker.question():
                answer = await self._sent(request, twice=(method, path) in _MAY_BE_ASKED_TWICE)
            outcome = _outcome(answer)
        except CircuitOpen as circuit:
            outcome, retry_after = "not_asked", circuit.retry_after
        except _NoAnswer as no_answer:
            why = str(no_answer)
        else:
            return answer
        finally:
            self._metrics.asked(outcome, self._monotonic() - begun)
        # Without the cause: an httpx error carries the request, and the request carries the
        # service key, sometimes a token.
        if outcome == "not_asked":
            raise VaultUnreachable(
                "the token vault has not answered lately, and is asked again in a moment",
                retry_after=retry_after,
            )
        raise VaultUnreachable(f"the token vault did not answer ({why})")

    async def _sent(self, request: httpx.Request, *, twice: bool) -> httpx.Response:
        """The whole answer. Raises :class:`_NoAnswer`."""
        try:
            async with asyncio.timeout(self._question_seconds):
                try:
                    answer = await self._http.send(request)
                except _BROKEN:
                    if not twice:
                        raise
                    answer = await self._http.send(request)
        except httpx.PoolTimeout:
            # Of our own making: it says nothing about the vault, and the circuit does not hear it.
            raise VaultUnreachable("too many questions to the token vault at once") from None
        except TimeoutError:
            raise _NoAnswer(f"no whole answer within {self._question_seconds:g} s") from None
        except httpx.HTTPError as error:
            raise _NoAnswer(type(error).__name__) from None
        if _is_a_gateways(answer):
            raise _NoAnswer(f"a gateway did: {answer.status_code}")
        return answer

    def _circuit_changed(self, is_open: bool) -> None:
        self._metrics.circuit(is_open)
        if is_open:
            logger.warning(
                "the token vault does not answer: tokens in hand are used while they live, and "
                "one question at a time finds out when it is back"
            )
        else:
            logger.warning("the token vault answers again")


class _NoAnswer(Exception):
    """Nobody answered for the vault. Its text names no key."""


# Asked again, they do and say the same: the report is about a generation.
_MAY_BE_ASKED_TWICE = (("GET", "/auth/claude/token"), ("POST", "/auth/claude/token/rejected"))


def _is_a_gateways(answer: httpx.Response) -> bool:
    """Whether something in front of the vault says that it has no answer. What the vault says
    itself, refusals and all, shows that it is there."""
    if answer.status_code not in (502, 503, 504):
        return False
    try:
        return not isinstance(answer.json(), dict)
    except ValueError:
        return True


def _outcome(answer: httpx.Response) -> str:
    """For the statistics: a word of ours, or a code of the contract."""
    if answer.status_code == httpx.codes.NOT_MODIFIED:
        return "not_modified"
    try:
        _checked(answer)
    except VaultError as error:
        return error.code if error.code in _KINDS else "other"
    return "ok"


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
