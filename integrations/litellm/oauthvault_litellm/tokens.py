"""Tokens for LiteLLM's callers: the vault, the memory in front of it, and the block's own offer."""

import asyncio
import logging

from oauthvault_litellm.block_settings import BlockSettings
from oauthvault_litellm.cache import TokenCache
from oauthvault_litellm.client import AccessToken, VaultClient, VaultError, VaultUnreachable
from oauthvault_litellm.identity import DEFAULT_USER
from oauthvault_litellm.metrics import Metrics, NoMetrics
from oauthvault_litellm.presented import Owners
from oauthvault_litellm.secret import Secret
from oauthvault_litellm.settings import (
    OfferedCredential,
    RefreshPolicy,
    Settings,
    SettingsError,
)

logger = logging.getLogger("oauthvault_litellm")


_AT_THE_DESK = 8


class Tokens:
    """Belongs to one event loop."""

    def __init__(self, settings: Settings, metrics: Metrics | None = None) -> None:
        if settings.vault_key is None:
            raise SettingsError("claude_oauth.vault_key (or OAUTHVAULT_SERVICE_KEY) is missing")
        # Where every user has their own, nobody is user `default`.
        self._offered = None if settings.multi_user else settings.offered
        self._offering: asyncio.Task[None] | None = None
        self._metrics = metrics or NoMetrics()
        self.vault = VaultClient(
            url=settings.vault_url,
            key=settings.vault_key,
            wait_seconds=settings.wait_seconds,
            metrics=self._metrics,
        )
        # For what people ask on the proxy's port, some of it without a key: never in the way of
        # the requests.
        self.desk = VaultClient(
            url=settings.vault_url,
            key=settings.vault_key,
            wait_seconds=settings.wait_seconds,
            at_once=_AT_THE_DESK,
        )
        policy = RefreshPolicy() if settings.multi_user else settings.refresh
        self._block_settings = BlockSettings(policy, self.vault)
        self._cache = TokenCache(
            self.vault,
            cache_seconds=settings.cache_seconds,
            max_stale_seconds=settings.max_stale_seconds,
            metrics=self._metrics,
        )
        self.owners = Owners(
            self.vault,
            cache_seconds=settings.cache_seconds,
            max_stale_seconds=settings.max_stale_seconds,
        )

    async def of(self, user: str) -> AccessToken:
        """The user's token. Raises :class:`VaultError` where there is none to use."""
        await self.offer_block()
        return await self._cache.token(user)

    async def rejected(self, user: str, token: Secret) -> bool:
        """Upstream answered 401 to this token. Raises :class:`VaultError` if none replaces it;
        False if one has already."""
        return await self._cache.rejected(user, token)

    def forget(self, user: str) -> None:
        """Something was changed in the vault: ask again at the next request."""
        self._cache.forget(user)
        self._block_settings.credential_changed()

    async def aclose(self) -> None:
        await self.vault.aclose()
        await self.desk.aclose()

    async def offer_block(self) -> None:
        """The tokens of the block are given to the vault, and then its refresh settings: once,
        before this process asks it anything; at the next question if the vault was away for
        the tokens (VaultUnreachable)."""
        await self._offer_tokens()
        await self._block_settings.send()

    async def _offer_tokens(self) -> None:
        if self._offered is None:
            return
        if self._offering is None:
            self._offering = asyncio.create_task(self._offer(self._offered))
        try:
            await asyncio.shield(self._offering)
        except VaultUnreachable:
            self._offering = None
            raise

    async def _offer(self, offered: OfferedCredential) -> None:
        try:
            taken = await self.vault.offer(DEFAULT_USER, offered)
        except VaultUnreachable:
            raise
        except VaultError as error:
            logger.warning(
                "the vault did not take the tokens of claude_oauth (%s): %s",
                error.code,
                error.detail,
            )
        else:
            logger.info(
                "the tokens of claude_oauth were %s",
                "stored in the vault" if taken else "not needed: the vault knows user 'default'",
            )
