"""The refresh settings of the block: sent to the vault for user `default`, and what came of them.

The vault does the refreshes. What its operator has switched off stays off, whatever the block
says, and a difference is logged.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

from oauthvault_litellm.client import NoToken, RefreshSettings, VaultClient, VaultError
from oauthvault_litellm.identity import DEFAULT_USER
from oauthvault_litellm.settings import RefreshPolicy

logger = logging.getLogger("oauthvault_litellm")

# Seconds after which a vault that did not take them is asked again, at the next question, and for
# which a request then waits at most.
_AGAIN_AFTER = 60.0
_PATIENCE = 2.0


class BlockSettings:
    """Belongs to one event loop."""

    def __init__(
        self,
        policy: RefreshPolicy,
        vault: VaultClient,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._asked = policy.asked()
        self._vault = vault
        self._monotonic = monotonic
        self._taken = not self._asked
        self._not_before = 0.0
        self._sending: asyncio.Task[None] | None = None
        self._told = ""

    async def send(self) -> None:
        """Once; later again if the vault did not take them. That is logged, and fails nothing."""
        if self._taken:
            return
        if self._sending is None:
            if self._monotonic() < self._not_before:
                return
            self._sending = asyncio.create_task(self._send())
        # Where it was in vain before, no request waits for it for long.
        await asyncio.wait({self._sending}, timeout=_PATIENCE if self._told else None)

    def credential_changed(self) -> None:
        """Where nothing was stored, there may be something to set by now."""
        self._not_before = 0.0

    async def _send(self) -> None:
        try:
            found = await self._vault.set_refresh(DEFAULT_USER, self._asked)
        except VaultError as error:
            self._tell(error)
            self._not_before = self._monotonic() + _AGAIN_AFTER
        else:
            self._taken = True
            self._compare(found)
        finally:
            self._sending = None

    def _tell(self, error: VaultError) -> None:
        """Once for each kind of failure, however often it is met."""
        if error.code == self._told:
            return
        self._told = error.code
        if isinstance(error, NoToken):
            logger.info(
                "the refresh settings of claude_oauth wait until the vault has a credential of "
                "user 'default'"
            )
        else:
            logger.warning(
                "the vault did not take the refresh settings of claude_oauth, and its own govern "
                "for now (%s): %s",
                error.code,
                error.detail,
            )

    def _compare(self, found: RefreshSettings) -> None:
        differ = [
            f"{name} is {_shown(found.effective[name])} there, by the setting of the "
            f"{found.governed_by[name]}, and {_shown(wanted)} in claude_oauth"
            for name, wanted in self._asked.items()
            if found.effective[name] != wanted
        ]
        if differ:
            logger.warning(
                "the vault's own settings govern the refreshes of user 'default': %s",
                "; ".join(differ),
            )
        else:
            logger.info("the vault refreshes user 'default' as claude_oauth says")


def _shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
