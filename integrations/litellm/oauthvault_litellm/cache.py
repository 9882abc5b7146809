"""Tokens in memory, for seconds: one question to the vault at a time for each user.

An entry is *fresh* for `cache_seconds`: that bounds how long a revocation can go unnoticed. It is
*kept* for `max_stale_seconds`, to be used only while the vault is out of reach.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Protocol

from oauthvault_litellm.client import AccessToken, VaultUnreachable
from oauthvault_litellm.secret import Secret

# A token this close to its end may be dead before it reaches Anthropic.
_LAST_SECONDS = 5
# While the vault is away, it is asked again this often and not once for every request.
_PAUSE_WHEN_AWAY = 1.0


class Source(Protocol):
    """Where tokens come from: the vault's client."""

    async def token(self, user: str, *, known: AccessToken | None = None) -> AccessToken: ...

    async def rejected(self, user: str, *, generation: int) -> AccessToken: ...


@dataclass(slots=True)
class _Entry:
    token: AccessToken
    confirmed_at: float  # when the vault last vouched for it
    asked_at: float  # when the vault was last asked, answered or not
    known_bad: bool = False  # upstream refused it, and nothing newer has come yet


class TokenCache:
    """Belongs to one event loop."""

    def __init__(
        self,
        source: Source,
        *,
        cache_seconds: float,
        max_stale_seconds: float,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._source = source
        self._cache_seconds = cache_seconds
        self._max_stale_seconds = max_stale_seconds
        self._monotonic = monotonic
        self._wall = wall
        self._entries: OrderedDict[str, _Entry] = OrderedDict()  # oldest confirmation first
        self._asking: dict[str, asyncio.Task[AccessToken]] = {}

    async def token(self, user: str) -> AccessToken:
        """The user's token. Raises what the vault raised; out of reach only if none is in hand."""
        if (asking := self._asking.get(user)) is None:
            entry = self._entries.get(user)
            if entry is not None and self._fresh(entry):
                return entry.token
            asking = self._ask(user, self._fetch(user))
        return await asyncio.shield(asking)

    async def rejected(self, user: str, token: Secret) -> None:
        """Upstream answered 401 to this token: have it replaced, once for all who saw the 401.

        Does nothing if a newer one is in hand already. Raises what the vault raised.
        """
        entry = self._entries.get(user)
        if entry is None or entry.token.access_token != token:
            return
        if (asking := self._asking.get(user)) is None or not entry.known_bad:
            entry.known_bad = True
            asking = self._ask(user, self._replace(user, entry.token.generation))
        await asyncio.shield(asking)

    def forget(self, user: str) -> None:
        """Ask the vault again at the next request."""
        self._entries.pop(user, None)

    def _fresh(self, entry: _Entry) -> bool:
        return (
            not entry.known_bad
            and self._lives(entry.token)
            and self._monotonic() < entry.confirmed_at + self._cache_seconds
        )

    def _usable_without_the_vault(self, entry: _Entry) -> bool:
        return (
            not entry.known_bad
            and self._lives(entry.token)
            and self._monotonic() < entry.confirmed_at + self._max_stale_seconds
        )

    def _lives(self, token: AccessToken) -> bool:
        return self._wall() < token.expires_at - _LAST_SECONDS

    def _ask(
        self, user: str, question: Coroutine[Any, Any, AccessToken]
    ) -> asyncio.Task[AccessToken]:
        """The question as a task of its own: a caller who hangs up does not end it for others."""
        task = asyncio.create_task(question)
        self._asking[user] = task

        def done(ended: asyncio.Task[AccessToken]) -> None:
            if self._asking.get(user) is ended:
                del self._asking[user]
            if not ended.cancelled():
                ended.exception()  # everybody who asked may have hung up

        task.add_done_callback(done)
        return task

    async def _fetch(self, user: str) -> AccessToken:
        entry = self._entries.get(user)
        now = self._monotonic()
        if entry is not None and self._usable_without_the_vault(entry):
            if entry.asked_at > entry.confirmed_at and now < entry.asked_at + _PAUSE_WHEN_AWAY:
                return entry.token
            entry.asked_at = now
        try:
            known = entry.token if entry is not None and self._lives(entry.token) else None
            token = await self._source.token(user, known=known)
        except VaultUnreachable:
            if entry is not None and self._usable_without_the_vault(entry):
                entry.asked_at = self._monotonic()
                return entry.token
            raise
        except Exception:
            # A refusal is an answer: a token revoked in the vault is not used from memory.
            self._entries.pop(user, None)
            raise
        now_known = self._entries.get(user)
        if now_known is None:
            self._keep(user, token)
        elif now_known is not entry and now_known.token.generation > token.generation:
            return now_known.token  # a 401 was reported meanwhile, and its answer overtook this one
        else:
            same = now_known.token.generation == token.generation
            self._keep(user, token, known_bad=same and now_known.known_bad)
        return token

    async def _replace(self, user: str, generation: int) -> AccessToken:
        try:
            token = await self._source.rejected(user, generation=generation)
        except BaseException:
            self._entries.pop(user, None)
            raise
        self._keep(user, token)
        return token

    def _keep(self, user: str, token: AccessToken, *, known_bad: bool = False) -> None:
        now = self._monotonic()
        self._entries.pop(user, None)
        self._entries[user] = _Entry(token, now, now, known_bad)
        keep = max(self._cache_seconds, self._max_stale_seconds)
        while self._entries and next(iter(self._entries.values())).confirmed_at + keep < now:
            self._entries.popitem(last=False)
