"""Tokens in memory, for seconds: one question to the vault at a time for each user.

An entry is *fresh* for `cache_seconds` from the moment in which the vault was asked for what it
then vouched for: that bounds how long a revocation can go unnoticed. Towards the end of that time
the request gets the token in hand, and the vault is asked behind it: where requests are many, none
of them waits. An entry that is no longer fresh is asked about first, and used for
`max_stale_seconds` only where the vault is out of reach: where no answer comes, or none within
`patience`.
"""

import asyncio
import logging
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Protocol

from oauthvault_litellm.client import AccessToken, RefreshDelayed, TokenUnusable, VaultUnreachable
from oauthvault_litellm.metrics import Metrics, NoMetrics, Source
from oauthvault_litellm.secret import Secret

logger = logging.getLogger("oauthvault_litellm")

# A token this close to its end may be dead before it reaches Anthropic.
_LAST_SECONDS = 5
# So much earlier the vault is asked, behind the requests, whether there is a newer one.
_AHEAD_OF_LAST_SECONDS = 10
# From this part of `cache_seconds` on the vault is asked behind the requests.
_AHEAD = 0.75
# A question that was in vain, or brought nothing new, is not asked again by the next request.
_PAUSE = 1.0
# A request that has a token in hand does not wait longer than this for a vault that is slow.
_PATIENCE = 2.0
# Upstream may take so long to say 401: until then it is known which token that was about.
_REMEMBERED = 900.0
_DEAD_REMEMBERED = 10_000
# After so many seconds such a token is tried once more: the 401 may have been a passing one.
_DEAD_FOR = 60.0


class Vault(Protocol):
    """Where tokens come from: the vault's client."""

    async def token(self, user: str, *, known: AccessToken | None = None) -> AccessToken: ...

    async def rejected(self, user: str, *, generation: int) -> AccessToken: ...


@dataclass(slots=True)
class _Entry:
    token: AccessToken
    kept_at: float
    vouched_at: float  # when the vault was asked, and answered with this token
    asked_at: float  # when the vault was last asked, answered or not
    asked_in_vain: bool = False
    refused: bool = False  # upstream answered 401 to it, and nothing newer has come yet


@dataclass(frozen=True, slots=True)
class _Given:
    token: AccessToken
    source: Source


@dataclass(frozen=True, slots=True)
class _Dead:
    """A token that upstream refused and that only a person can replace. The vault hands out what
    has not expired; to send it once more would be answered with the same 401."""

    token: AccessToken
    buried_at: float
    detail: str
    code: str
    status: int

    def is_the_same(self, token: AccessToken) -> bool:
        return (token.generation, token.access_token) == (
            self.token.generation,
            self.token.access_token,
        )

    def why(self) -> TokenUnusable:
        """Made anew each time: an exception that is raised again keeps what each of its callers
        had in hand."""
        return TokenUnusable(self.detail, code=self.code, status=self.status)


class TokenCache:
    """Belongs to one event loop."""

    def __init__(
        self,
        vault: Vault,
        *,
        cache_seconds: float,
        max_stale_seconds: float,
        patience: float = _PATIENCE,
        metrics: Metrics | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._vault = vault
        self._cache_seconds = cache_seconds
        self._max_stale_seconds = max_stale_seconds
        self._patience = patience
        self._metrics = metrics or NoMetrics()
        self._monotonic = monotonic
        self._wall = wall
        self._entries: OrderedDict[str, _Entry] = OrderedDict()  # oldest first, by kept_at
        self._asking: dict[str, asyncio.Task[_Given]] = {}
        self._dead: OrderedDict[str, _Dead] = OrderedDict()

    async def token(self, user: str) -> AccessToken:
        """The user's token. Raises what the vault raised; out of reach only if none is in hand."""
        entry = self._entries.get(user)
        if entry is not None and self._fresh(entry):
            if user not in self._asking and self._due_ahead(entry):
                self._question(user)
            given = _Given(entry.token, "memory")
        else:
            given = await self._asked(user)
        self._metrics.served(given.source)
        if logger.isEnabledFor(logging.DEBUG):
            logger.debug(
                "user %r: token of generation %d, %s, %d s of life left",
                user,
                given.token.generation,
                _SOURCES[given.source],
                given.token.expires_at - self._wall(),
            )
        return given.token

    async def rejected(self, user: str, token: Secret) -> bool:
        """Upstream answered 401 to this token: have it replaced, once for all who saw the 401.

        False where a newer one was in hand already. Raises what the vault raised; then the token
        is not used again, and the next request has it replaced.
        """
        entry = self._entries.get(user)
        if entry is None or entry.token.access_token != token:
            return False
        entry.refused = True
        # A question that is under way was asked before this was known.
        while (known := self._entries.get(user)) is not None and known.refused:
            await asyncio.shield(self._question(user))
        return True

    def forget(self, user: str) -> None:
        """Ask the vault again at the next request, and believe no answer that is under way."""
        self._asking.pop(user, None)
        self._dead.pop(user, None)
        if (entry := self._entries.get(user)) is not None:
            entry.vouched_at = -math.inf

    async def _asked(self, user: str) -> _Given:
        while True:
            entry = self._entries.get(user)
            in_hand = entry is not None and self._usable_without_the_vault(entry)
            if entry is not None and in_hand and self._was_just_asked_in_vain(entry):
                return _Given(entry.token, "stale")
            question = self._question(user)
            if entry is not None and in_hand:
                left = entry.asked_at + self._patience - self._monotonic()
                if left > 0:
                    await asyncio.wait({question}, timeout=left)
                if not question.done() and self._usable_without_the_vault(entry):
                    return _Given(entry.token, "stale")
            given = await asyncio.shield(question)
            known = self._entries.get(user)
            if known is None or not known.refused or known.token is not given.token:
                return given
            # Upstream refused it while it was on its way: ask for another one.

    def _fresh(self, entry: _Entry) -> bool:
        return (
            not entry.refused
            and self._lives(entry.token)
            and self._monotonic() < entry.vouched_at + self._cache_seconds
        )

    def _due_ahead(self, entry: _Entry) -> bool:
        now = self._monotonic()
        return now >= entry.asked_at + min(_PAUSE, self._cache_seconds * _AHEAD) and (
            now >= entry.vouched_at + self._cache_seconds * _AHEAD
            or not self._lives(entry.token, after=_AHEAD_OF_LAST_SECONDS)
        )

    def _usable_without_the_vault(self, entry: _Entry) -> bool:
        return (
            not entry.refused
            and self._lives(entry.token)
            and self._monotonic() < entry.vouched_at + self._max_stale_seconds
        )

    def _was_just_asked_in_vain(self, entry: _Entry) -> bool:
        return entry.asked_in_vain and self._monotonic() < entry.asked_at + _PAUSE

    def _lives(self, token: AccessToken, *, after: float = 0) -> bool:
        return self._wall() + after < token.expires_at - _LAST_SECONDS

    def _question(self, user: str) -> asyncio.Task[_Given]:
        """The question about this user that is under way, or else the one that is due now."""
        asking = self._asking.get(user)
        if asking is not None and not asking.done():
            return asking
        entry = self._entries.get(user)
        if entry is not None:
            entry.asked_at = self._monotonic()
            if entry.refused:
                return self._begin(user, self._replace(user, entry.token))
        return self._begin(user, self._fetch(user, entry))

    def _begin(self, user: str, question: Coroutine[Any, Any, _Given]) -> asyncio.Task[_Given]:
        """The question as a task of its own: a caller who hangs up does not end it for others."""
        task = asyncio.create_task(question)
        self._asking[user] = task

        def done(ended: asyncio.Task[_Given]) -> None:
            if self._asking.get(user) is ended:
                del self._asking[user]
            if not ended.cancelled():
                ended.exception()  # everybody who asked may have hung up

        task.add_done_callback(done)
        return task

    async def _fetch(self, user: str, entry: _Entry | None) -> _Given:
        now = self._monotonic()
        try:
            known = entry.token if entry is not None and self._lives(entry.token) else None
            token = await self._vault.token(user, known=known)
        except VaultUnreachable:
            if entry is not None:
                entry.asked_in_vain = True
                entry.asked_at = self._monotonic()
                if self._usable_without_the_vault(entry):
                    return _Given(entry.token, "stale")
            raise
        except Exception:
            # A refusal is an answer: a token revoked in the vault is not used from memory.
            self._drop(user)
            raise
        if (dead := self._dead.get(user)) is not None:
            lately = self._monotonic() < dead.buried_at + _DEAD_FOR
            if lately and dead.is_the_same(token):
                self._drop(user)
                raise dead.why()
            self._dead.pop(user, None)
        self._keep(user, token, vouched_at=now)
        return _Given(token, "vault")

    async def _replace(self, user: str, token: AccessToken) -> _Given:
        now = self._monotonic()
        try:
            newer = await self._vault.rejected(user, generation=token.generation)
        except (VaultUnreachable, RefreshDelayed):
            raise  # not replaced yet: the entry stays, to be reported again
        except TokenUnusable as why:
            self._bury(user, _Dead(token, self._monotonic(), why.detail, why.code, why.status))
            self._drop(user)
            raise
        except BaseException:
            self._drop(user)
            raise
        if self._is_believed(user):
            self._entries.pop(user, None)
        self._keep(user, newer, vouched_at=now)
        return _Given(newer, "vault")

    def _bury(self, user: str, dead: _Dead) -> None:
        self._dead.pop(user, None)
        self._dead[user] = dead
        if len(self._dead) > _DEAD_REMEMBERED:
            self._dead.popitem(last=False)

    def _is_believed(self, user: str) -> bool:
        """Whether the question that runs has not been overtaken by :meth:`forget`."""
        return self._asking.get(user) is asyncio.current_task()

    def _drop(self, user: str) -> None:
        if self._is_believed(user):
            self._entries.pop(user, None)

    def _keep(self, user: str, token: AccessToken, *, vouched_at: float) -> None:
        if not self._is_believed(user):
            return
        before = self._entries.pop(user, None)
        now = self._monotonic()
        self._entries[user] = _Entry(
            token,
            kept_at=now,
            vouched_at=vouched_at,
            asked_at=vouched_at,
            refused=before is not None
            and before.refused
            and before.token.access_token == token.access_token,
        )
        keep = max(self._cache_seconds, self._max_stale_seconds, _REMEMBERED)
        while self._entries and next(iter(self._entries.values())).kept_at + keep < now:
            self._entries.popitem(last=False)


_SOURCES: dict[Source, str] = {
    "memory": "from memory",
    "vault": "from the vault",
    "stale": "from memory while the vault is out of reach",
}
