"""A Claude token in place of a LiteLLM key: the caller that it makes, and where it is kept.

LiteLLM never learns the token. What it takes for the caller's key, and writes into spend logs and
metrics, is a *label*: of the owner, where the vault knows one, so that it outlives the token.
"""

import asyncio
import hashlib
import hmac
import re
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Protocol

from oauthvault_litellm.client import VaultUnreachable
from oauthvault_litellm.outgoing import OAUTH_PREFIX
from oauthvault_litellm.refusals import Refusal
from oauthvault_litellm.secret import Secret

_LABEL = "claude-token-"
_TOKEN = re.compile(re.escape(OAUTH_PREFIX) + r"[A-Za-z0-9._~+/=-]{1,4000}")
# Each strange token is a question to the vault. So many are asked at once, and others wait.
_QUESTIONS_AT_ONCE = 16
# Seconds for which a question waits for its turn.
_PATIENCE = 3.0
_PAUSE_WHEN_AWAY = 1.0

# The token of the request under way, where it is to be passed on as it is. Each request is served
# in a context of its own, so no other request can see it.
_passed_on: ContextVar[Secret | None] = ContextVar("oauthvault_presented", default=None)


@dataclass(frozen=True, slots=True)
class Presented:
    """Exactly one of both: whose token the vault says it is, or the token, if nobody was asked."""

    owner: str | None = None
    token: Secret | None = None


def is_claude_token(key: object) -> bool:
    """Whether this stands for a Claude OAuth token, well made or not. LiteLLM has no such keys."""
    return isinstance(key, str) and key.startswith(OAUTH_PREFIX)


def is_well_made(token: Secret) -> bool:
    """Whether it can be a token at all, so that it is worth a question."""
    return bool(_TOKEN.fullmatch(token.reveal()))


def label_of_owner(owner: str) -> str:
    """What stands for the key of someone whom the vault names."""
    return f"{_LABEL}of-{hashlib.sha256(owner.encode()).hexdigest()[:40]}"


def label_of_token(token: Secret) -> str:
    """What stands for the key of someone of whom only the token is known."""
    digest = hashlib.sha256(b"oauthvault " + token.reveal().encode())
    return _LABEL + digest.hexdigest()


def pass_on(token: Secret) -> None:
    """Keeps the token for the rest of this request."""
    _passed_on.set(token)


def forget_passed_on() -> None:
    """Where a request begins: one connection may bring several."""
    _passed_on.set(None)


def is_passed_on() -> bool:
    """Whether the request under way came with a token that is its only credential."""
    return _passed_on.get() is not None


def presented(label: str | None, user_id: str | None) -> Presented | None:
    """What a caller presented whom LiteLLM knows by this key and user; None: a LiteLLM key.

    Raises :class:`Refusal` where it was a token and it is not at hand: nobody else's credential
    takes its place.
    """
    if label is None or not label.startswith(_LABEL):
        return None
    if user_id and hmac.compare_digest(label, label_of_owner(user_id)):
        return Presented(owner=user_id)
    token = _passed_on.get()
    if token is not None and hmac.compare_digest(label, label_of_token(token)):
        return Presented(token=token)
    raise Refusal(
        401,
        "The Claude token that came with this request is not at hand any more. Send it again.",
        code="token_not_at_hand",
    )


class Directory(Protocol):
    """Who knows whose token it is: the vault's client."""

    async def identify(self, token: Secret) -> str: ...


@dataclass(slots=True)
class _Known:
    owner: str
    confirmed_at: float  # when the vault last said so
    asked_at: float  # when it was last asked, answered or not


class Owners:
    """Whose token it is, remembered for `cache_seconds`; while the vault is out of reach, for
    `max_stale_seconds`. Tokens are remembered by a keyed digest. Belongs to one event loop."""

    _MOST = 10_000

    def __init__(
        self,
        directory: Directory,
        *,
        cache_seconds: float,
        max_stale_seconds: float,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._directory = directory
        self._cache_seconds = cache_seconds
        self._max_stale_seconds = max_stale_seconds
        self._monotonic = monotonic
        self._key = secrets.token_bytes(32)
        self._known: OrderedDict[bytes, _Known] = OrderedDict()  # oldest confirmation first
        self._asking: dict[bytes, asyncio.Task[str]] = {}
        self._doors = asyncio.Semaphore(_QUESTIONS_AT_ONCE)

    async def of(self, token: Secret) -> str:
        """The vault's user whose current token this is. Raises what the vault raised."""
        digest = hmac.digest(self._key, token.reveal().encode(), "sha256")
        if (asking := self._asking.get(digest)) is None:
            known = self._known.get(digest)
            if known is not None and self._age(known) < self._cache_seconds:
                return known.owner
            asking = self._asking[digest] = asyncio.create_task(self._ask(digest, token))
            asking.add_done_callback(lambda ended: self._done(digest, ended))
        return await asyncio.shield(asking)

    def _age(self, known: _Known) -> float:
        return self._monotonic() - known.confirmed_at

    def _was_away_just_now(self, known: _Known) -> bool:
        return known.confirmed_at < known.asked_at > self._monotonic() - _PAUSE_WHEN_AWAY

    def _done(self, digest: bytes, ended: asyncio.Task[str]) -> None:
        del self._asking[digest]
        if not ended.cancelled():
            ended.exception()  # everybody who asked may have hung up

    async def _ask(self, digest: bytes, token: Secret) -> str:
        known = self._known.get(digest)
        if known is not None and self._age(known) >= self._max_stale_seconds:
            known = None
        if known is not None and self._was_away_just_now(known):
            return known.owner
        try:
            owner = await self._identified(token)
        except VaultUnreachable:
            if known is None:
                raise
            known.asked_at = self._monotonic()
            return known.owner
        except Exception:
            self._known.pop(digest, None)
            raise
        self._keep(digest, owner)
        return owner

    async def _identified(self, token: Secret) -> str:
        """In one of a few places, so that strangers' tokens do not fill the vault's; nor does
        anybody wait for one without end."""
        try:
            async with asyncio.timeout(_PATIENCE):
                await self._doors.acquire()
        except TimeoutError:
            raise VaultUnreachable("too many tokens are looked up at once") from None
        try:
            return await self._directory.identify(token)
        finally:
            self._doors.release()

    def _keep(self, digest: bytes, owner: str) -> None:
        now = self._monotonic()
        self._known.pop(digest, None)
        self._known[digest] = _Known(owner, now, now)
        keep = max(self._cache_seconds, self._max_stale_seconds)
        while len(self._known) > self._MOST or (
            next(iter(self._known.values())).confirmed_at + keep < now
        ):
            self._known.popitem(last=False)
