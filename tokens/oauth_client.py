"""The far side: refresh (RFC 6749 section 6) and revocation (RFC 7009).

One HTTP client: no redirects, TLS verified, one total deadline, a cap on what is read.
Every answer is sorted into a kind here; nobody else looks at a status code.
"""

import asyncio
import email.utils
import functools
import json
import math
import ssl
import time
from collections.abc import Coroutine
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, TypeVar

import httpx
from django.conf import settings

from oauthvault import __version__
from tokens import email_address
from tokens.grammar import is_token, scopes_of
from tokens.secret import AccessToken, RefreshToken

_T = TypeVar("_T")

USER_AGENT = f"oauthvault/{__version__}"
_MOST_BYTES = 64 * 1024
_CONNECT_TIMEOUT = 5.0
# A server that says "in a year" is not believed; one that says nothing gets a minute.
_LONGEST_RETRY_AFTER = 86_400.0
_DEFAULT_RETRY_AFTER = 60.0
# Seconds. An `expires_in` that is missing, not a number or not above zero would have us
# refresh in a loop, and one of centuries never again: neither is believed.
ASSUMED_LIFE, LONGEST_LIFE = 300, 366 * 86_400
# Answers of a gateway that lost sight of a request after it had passed it on.
_WENT_THROUGH_PERHAPS = (504, 520, 524)
# With an object that names an error in it, the word of an authorization server about one request;
# an edge that blocks has a page of HTML, and an endpoint that moved says 404.
_ABOUT_THE_REQUEST = (400, 401, 403, 422)
_HOLD_WORDS = ("on hold", "suspended", "disabled", "banned", "deactivated")


class Refusal(StrEnum):
    """Why no token came back. Only INVALID_GRANT says anything final about the credential."""

    INVALID_GRANT = "invalid_grant"
    INVALID_SCOPE = "invalid_scope"
    ACCOUNT_ON_HOLD = "account_on_hold"
    RATE_LIMITED = "rate_limited"
    UPSTREAM_ERROR = "upstream_error"
    UNREACHABLE = "unreachable"
    UNKNOWN = "unknown"


# What only an authorization server says.
_ONLY_OF_IT = (Refusal.INVALID_GRANT, Refusal.INVALID_SCOPE, Refusal.ACCOUNT_ON_HOLD)


@dataclass(frozen=True, kw_only=True)
class Granted:
    """A new pair. ``refresh_token`` None: the one that was presented lives on.

    Lifetimes in seconds from the moment of the answer.
    """

    access_token: AccessToken
    refresh_token: RefreshToken | None
    expires_in: int
    expires_in_was_bounded: bool
    scopes: list[str] | None
    login_expires_in: int | None
    status: int
    # Whose login it is, as the server says; empty: it does not, or nothing that is an address.
    account_email: str = ""


@dataclass(frozen=True, kw_only=True)
class Refused:
    """No pair. ``spent_maybe``: the request left us and what became of it is not known.

    ``works``: only a server that works says this; whatever it is, it is about one credential.
    """

    kind: Refusal
    status: int | None = None
    retry_after: float | None = None
    works: bool = False

    @property
    def spent_maybe(self) -> bool:
        return self.kind is Refusal.UNKNOWN

    @property
    def worth_retrying_at_once(self) -> bool:
        """The server was not reached or fell over; the same request may pass in a second."""
        return self.kind is Refusal.UNREACHABLE


def refresh(refresh_token: RefreshToken, *, deadline: float) -> Granted | Refused:
    """Present the refresh token once. Never raises for what the network or server does.

    ``deadline``: seconds for the whole exchange, name look-up to last byte.
    """
    return _run(_refresh(refresh_token, deadline))


def knock(*, deadline: float) -> Refused | None:
    """None if the authorization server is at work; else what is there in its place.

    Presents nothing: the request lacks its refresh token, and a server that works says so
    (invalid_request, RFC 6749 section 5.2). Never raises for what the network or server does.
    """
    body = {"grant_type": "refresh_token", "client_id": settings.CLAUDE_OAUTH_CLIENT_ID}
    answer = _run(_post(settings.CLAUDE_OAUTH_TOKEN_URL, {"json": body}, deadline))
    if answer.status is None:
        return Refused(kind=Refusal.UNREACHABLE)
    found = _sort_refusal(answer, _json_object(answer.body))
    if found.kind is Refusal.RATE_LIMITED:
        return found
    if found.works:
        return None
    # Nothing was presented, so nothing can have been spent.
    down = found.kind in (Refusal.UNREACHABLE, Refusal.UNKNOWN)
    return replace(found, kind=Refusal.UNREACHABLE if down else Refusal.UPSTREAM_ERROR)


def revoke(token: RefreshToken | AccessToken, *, deadline: float = 5.0) -> bool | None:
    """Ask for revocation. None: no address is configured. Else whether the server agreed."""
    if settings.CLAUDE_OAUTH_REVOKE_URL is None:
        return None
    body = {"token": token.reveal(), "client_id": settings.CLAUDE_OAUTH_CLIENT_ID}
    if isinstance(token, RefreshToken):
        body["token_type_hint"] = "refresh_token"
    answer = _run(_post(settings.CLAUDE_OAUTH_REVOKE_URL, {"data": body}, deadline))
    return answer.status == 200


def _run(exchange: Coroutine[Any, Any, _T]) -> _T:
    """Run to the end. A name look-up that hangs is left behind in its thread, where
    `asyncio.run` would wait for it, past every deadline and past the lease."""
    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(exchange)
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


@dataclass
class _Exchange:
    """What is known of one request. ``sent``: at least one byte of it may have arrived."""

    sent: bool = False
    status: int | None = None
    headers: httpx.Headers | None = None
    body: bytes = b""


async def _refresh(refresh_token: RefreshToken, deadline: float) -> Granted | Refused:
    body = {
        "grant_type": "refresh_token",
        "refresh_token": refresh_token.reveal(),
        "client_id": settings.CLAUDE_OAUTH_CLIENT_ID,
    }
    answer = await _post(settings.CLAUDE_OAUTH_TOKEN_URL, {"json": body}, deadline)
    if answer.status is None:
        return Refused(kind=Refusal.UNKNOWN if answer.sent else Refusal.UNREACHABLE)
    # An object that is whole is an answer, whatever became of the connection behind it: a pair
    # in it is the only one there is.
    parsed = _json_object(answer.body)
    if answer.status == 200:
        granted = _granted(parsed)
        # A 200 without a token in it: the server may have rotated all the same.
        return granted or Refused(kind=Refusal.UNKNOWN, status=200)
    return _sort_refusal(answer, parsed)


@functools.cache
def _tls() -> ssl.SSLContext:
    """Read once: the certificates take longer to read than a refresh takes otherwise."""
    return httpx.create_ssl_context()


async def _post(url: str, content: dict[str, Any], deadline: float) -> _Exchange:
    exchange = _Exchange()

    async def trace(event: str, info: dict[str, Any]) -> None:
        # Not for the CONNECT to a proxy, which carries nothing of ours.
        if event.endswith("send_request_headers.started") and info["request"].method == b"POST":
            exchange.sent = True

    try:
        async with (
            asyncio.timeout(deadline),
            httpx.AsyncClient(
                timeout=httpx.Timeout(deadline, connect=min(_CONNECT_TIMEOUT, deadline)),
                verify=_tls(),
                follow_redirects=False,
                headers={"User-Agent": USER_AGENT, "Accept": "application/json"},
            ) as client,
            client.stream("POST", url, extensions={"trace": trace}, **content) as response,
        ):
            exchange.status, exchange.headers = response.status_code, response.headers
            async for chunk in response.aiter_bytes():
                exchange.body += chunk
                if len(exchange.body) > _MOST_BYTES:
                    return exchange
    except (httpx.HTTPError, httpx.InvalidURL, TimeoutError, OSError):
        # What is known is in `exchange`; the message of the exception adds nothing that
        # may be shown.
        pass
    return exchange


def _granted(body: dict[str, Any] | None) -> Granted | None:
    if body is None:
        return None
    access, refresh_text = body.get("access_token"), body.get("refresh_token")
    if not is_token(access):
        return None
    if refresh_text is not None and refresh_text != "" and not is_token(refresh_text):
        # To keep the old one in its place would be to present a spent one next time.
        return None
    said = body.get("expires_in")
    if isinstance(said, str) and said.isascii() and said.isdigit():
        said = int(said[:16])  # a number as text; more digits are no lifetime either
    seconds = _whole(said) or 0
    bounded = min(seconds, LONGEST_LIFE) if seconds > 0 else ASSUMED_LIFE
    login = _whole(body.get("refresh_token_expires_in"))
    return Granted(
        access_token=AccessToken(access),
        refresh_token=RefreshToken(refresh_text) if is_token(refresh_text) else None,
        expires_in=bounded,
        expires_in_was_bounded=bounded != seconds,
        scopes=scopes_of(body.get("scope")),
        login_expires_in=login if login is not None and 0 < login <= LONGEST_LIFE else None,
        status=200,
        account_email=email_address.named_in(body.get("account")),
    )


def _sort_refusal(answer: _Exchange, body: dict[str, Any] | None) -> Refused:
    status = answer.status or 0
    error = (body or {}).get("error")
    # RFC 6749 section 5.2 says a string; the provider also answers with an object.
    name = error if isinstance(error, str) else ""
    kind = Refusal.UPSTREAM_ERROR
    if status == 429:
        return Refused(
            kind=Refusal.RATE_LIMITED,
            status=status,
            retry_after=_retry_after(answer.headers),
            works=True,
        )
    if 200 <= status < 300 or status in _WENT_THROUGH_PERHAPS:
        kind = Refusal.UNKNOWN
    elif status >= 500:
        kind = Refusal.UNREACHABLE
    elif status in (400, 401, 403) and body is not None:
        if name == "invalid_grant":
            kind = Refusal.INVALID_GRANT
        elif name == "invalid_scope":
            kind = Refusal.INVALID_SCOPE
        elif any(word in json.dumps(body).lower() for word in _HOLD_WORDS):
            kind = Refusal.ACCOUNT_ON_HOLD
    works = kind in _ONLY_OF_IT or (status in _ABOUT_THE_REQUEST and bool(error))
    return Refused(kind=kind, status=status, works=works)


def _retry_after(headers: httpx.Headers | None) -> float:
    """Seconds, from either form of the header (RFC 9110 section 10.2.3), within bounds.

    A date is one by the server's clock, and so is compared with the Date of its answer:
    our own clock may be minutes away from it.
    """
    headers = headers or httpx.Headers()
    value = headers.get("retry-after", "").strip()
    seconds: float | None = None
    if value.isascii() and value.isdigit():
        seconds = float(value[:9])
    elif value and (until := _http_date(value)) is not None:
        answered = _http_date(headers.get("date", ""))
        seconds = until - (answered if answered is not None else time.time())
    if seconds is None:
        return _DEFAULT_RETRY_AFTER
    return min(max(seconds, 1.0), _LONGEST_RETRY_AFTER)


def _http_date(value: str) -> float | None:
    """Unix seconds of an HTTP date (RFC 9110 section 5.6.7); None if it is none."""
    try:
        return email.utils.parsedate_to_datetime(value).timestamp()
    except (ValueError, OverflowError, TypeError):
        return None


def _json_object(body: bytes) -> dict[str, Any] | None:
    try:
        parsed = json.loads(body, parse_int=_bounded)
    except (ValueError, RecursionError):
        return None
    return parsed if isinstance(parsed, dict) else None


def _bounded(digits: str) -> float:
    """Python reads no number of more than 4,300 digits, and a pair would be lost over it."""
    return int(digits) if len(digits) < 20 else math.inf


def _whole(value: object) -> int | None:
    """The number without its fraction; None for what is no number of seconds at all."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
        return None
    return int(value) if abs(value) < 10**12 else None
