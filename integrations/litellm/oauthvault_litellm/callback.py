"""The LiteLLM callback: puts the caller's token on the request, at the last moment before it goes.

Everything that depends on LiteLLM's internals is on this page.
"""

import asyncio
import logging
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

import litellm
from fastapi import HTTPException
from litellm.constants import LITTELM_INTERNAL_HEALTH_SERVICE_ACCOUNT_NAME as HEALTH_CHECK
from litellm.integrations.custom_logger import CustomLogger
from litellm.proxy._types import UserAPIKeyAuth
from litellm.types.router import RetryPolicy

from oauthvault_litellm import outgoing
from oauthvault_litellm.cache import TokenCache
from oauthvault_litellm.client import VaultClient, VaultError, VaultUnreachable
from oauthvault_litellm.identity import DEFAULT_USER, credential_owner
from oauthvault_litellm.refusals import Refusal, may_fall_back, refusal_for
from oauthvault_litellm.settings import (
    Settings,
    SettingsError,
    claude_oauth_block,
    expand,
    read_settings,
)

logger = logging.getLogger("oauthvault_litellm")

DEFAULT_API_BASE = "https://api.anthropic.com"
# The ways into Anthropic on which LiteLLM lets the header through.
_STATUS_OF_A_REFUSED_TOKEN = 401


def load_hook() -> "OAuthVaultHook":
    """What LiteLLM gets for ``oauthvault_litellm.hook``.

    LiteLLM loads callbacks after it has read its config, so a wrong setting ends the start of the
    proxy here, with its sentence.
    """
    hook = OAuthVaultHook()
    if _config():
        hook.start()
    return hook


def _config() -> Mapping[str, Any]:
    from litellm.proxy import proxy_server

    return proxy_server.proxy_config.get_config_state()


class OAuthVaultHook(CustomLogger):
    """One per process. Settings are read once; the client is made in the loop that serves."""

    def __init__(self) -> None:
        super().__init__()
        self._settings: Settings | None = None
        self._client: VaultClient | None = None
        self._cache: TokenCache | None = None
        self._offering: asyncio.Task[None] | None = None

    def start(self) -> Settings:
        """Reads and checks the settings. Raises SettingsError."""
        if self._settings is None:
            config = _config()
            block = claude_oauth_block(config)
            if block is None:
                raise SettingsError(
                    "the callback oauthvault_litellm.hook is configured and there is no "
                    "claude_oauth block: put one under general_settings"
                )
            self._settings = settings = read_settings(block)
            _speak(debug=settings.debug)
            _warn_about(settings)
        return self._settings

    # -- LiteLLM calls these, by keyword and in this order ------------------------------------

    async def async_pre_call_hook(
        self, user_api_key_dict: UserAPIKeyAuth, cache: Any, data: dict[str, Any], call_type: Any
    ) -> None:
        """Asks for one retry after a 401, which LiteLLM does not do by itself.

        By then :meth:`async_post_call_failure_deployment_hook` has had the token replaced.
        """
        group = data.get("model")
        if not self.start().enabled or not isinstance(group, str) or not _reaches_anthropic(group):
            return
        policies = dict(data.get("model_group_retry_policy") or _router_policies())
        policy = policies.get(group) or _router_policy() or RetryPolicy()
        if isinstance(policy, Mapping):
            policy = RetryPolicy(**policy)
        if policy.AuthenticationErrorRetries is None:
            policies[group] = policy.model_copy(update={"AuthenticationErrorRetries": 1})
            data["model_group_retry_policy"] = policies

    async def async_pre_call_deployment_hook(
        self, kwargs: dict[str, Any], call_type: Any
    ) -> dict[str, Any] | None:
        """The call with the caller's token, for Anthropic on an allowed host; else unchanged.

        Runs again for every attempt, so a retry gets the token that is right by then.
        """
        if not _is_anthropic(kwargs):
            return None
        kwargs = {**kwargs, "api_key": _expanded(kwargs.get("api_key"))}
        settings = self.start()
        caller = _caller(kwargs)
        if not settings.enabled or _is_health_check(caller):
            return kwargs
        try:
            return await self._with_token(kwargs, caller, settings)
        except Refusal as refusal:
            # HTTPException: neither a retry policy nor an exception mapping of LiteLLM touches it.
            headers = (
                None
                if refusal.retry_after is None
                else {"Retry-After": str(int(refusal.retry_after))}
            )
            raise HTTPException(refusal.status, refusal.sentence, headers) from None

    async def async_post_call_failure_deployment_hook(
        self,
        request_data: Mapping[str, Any],
        exception: Exception,
        call_type: Any,
        fallback_depth: int | None = None,
    ) -> None:
        """Upstream answered 401: the vault learns of it and replaces the token, before the retry."""
        _spare_the_deployment(request_data, exception)
        if getattr(exception, "status_code", None) != _STATUS_OF_A_REFUSED_TOKEN:
            return
        token = outgoing.carried_token(request_data)
        if token is None or not _is_anthropic(request_data):
            return
        settings = self.start()
        caller = _caller(request_data)
        user = credential_owner(caller and caller.user_id, multi_user=settings.multi_user)
        try:
            await self._tokens(settings).rejected(user, token)
        except VaultError as error:
            # The retry asks the vault again and then tells the caller what is wrong.
            logger.warning("upstream refused the token of user %r: %s", user, error.code)
        else:
            logger.info("upstream refused the token of user %r: replaced", user)

    # -------------------------------------------------------------------------------------------

    async def _with_token(
        self, kwargs: dict[str, Any], caller: UserAPIKeyAuth | None, settings: Settings
    ) -> dict[str, Any]:
        if caller is None and settings.multi_user:
            raise Refusal(
                403, "LiteLLM did not say who is calling, so there is no credential to use.",
                code="user_required",
            )
        user = credential_owner(caller and caller.user_id, multi_user=settings.multi_user)
        if foreign := _foreign_host(kwargs, settings.allowed_hosts):
            raise Refusal(
                403,
                f"This model is served by {foreign}, which may not see a Claude OAuth token. "
                "Hosts that may are listed in claude_oauth.allowed_hosts.",
                code="host_not_allowed",
            )
        tokens = self._tokens(settings)
        try:
            await self._offer_once(settings)
            token = await tokens.token(user)
        except VaultError as error:
            if settings.fallback_to_api_key and may_fall_back(error) and _has_api_key(kwargs):
                logger.warning(
                    "user %r has no token (%s): this request uses the API key of the deployment",
                    user, error.code,
                )
                return kwargs
            logger.warning("request of user %r refused: %s", user, error.code)
            raise refusal_for(error, user=user) from None
        if not token.access_token.reveal().startswith(outgoing.TOKEN_PREFIX):
            raise Refusal(
                401,
                f"The credential stored for user {user!r} is not a Claude OAuth access token "
                f"({outgoing.TOKEN_PREFIX}…), and LiteLLM would not send it as one. Store the "
                "accessToken of the user's Claude credentials.",
                code="not_an_oauth_token",
            )
        kwargs["model_info"] = dict(kwargs.get("model_info") or {})
        return outgoing.with_token(kwargs, token.access_token, token.headers)

    def _tokens(self, settings: Settings) -> TokenCache:
        if self._cache is None:
            assert settings.vault_key is not None
            self._client = VaultClient(
                url=settings.vault_url,
                key=settings.vault_key,
                wait_seconds=settings.wait_seconds,
            )
            self._cache = TokenCache(
                self._client,
                cache_seconds=settings.cache_seconds,
                max_stale_seconds=settings.max_stale_seconds,
            )
        return self._cache

    async def _offer_once(self, settings: Settings) -> None:
        """Gives the vault the tokens of the block, before the first question and only once.

        A vault out of reach is offered them again at the next request.
        """
        if settings.offered is None or settings.multi_user:
            return
        if self._offering is None:
            self._offering = asyncio.create_task(self._offer(settings))
        try:
            await asyncio.shield(self._offering)
        except VaultUnreachable:
            self._offering = None
            raise

    async def _offer(self, settings: Settings) -> None:
        assert self._client is not None and settings.offered is not None
        try:
            taken = await self._client.offer(DEFAULT_USER, settings.offered)
        except VaultUnreachable:
            raise
        except VaultError as error:
            logger.warning(
                "the vault did not take the tokens of claude_oauth (%s): %s",
                error.code, error.detail,
            )
            return
        logger.info(
            "the tokens of claude_oauth were %s",
            "stored in the vault" if taken else "not needed: the vault holds a credential already",
        )


def _is_anthropic(kwargs: Mapping[str, Any]) -> bool:
    provider = kwargs.get("custom_llm_provider")
    if not provider:
        try:
            _, provider, _, _ = litellm.get_llm_provider(
                model=str(kwargs.get("model") or ""), api_base=kwargs.get("api_base")
            )
        except Exception:  # LiteLLM raises its own BadRequestError, and says so itself later
            return False
    return bool(provider == outgoing.PROVIDER)


def _reaches_anthropic(group: str) -> bool:
    """Whether a model name that clients use has an Anthropic deployment behind it."""
    from litellm.proxy.proxy_server import llm_router

    if llm_router is None:
        return False
    deployments = llm_router.get_model_list(model_name=group) or []
    return any(_is_anthropic(deployment.get("litellm_params") or {}) for deployment in deployments)


def _router_policies() -> Mapping[str, Any]:
    from litellm.proxy.proxy_server import llm_router

    return (llm_router and llm_router.model_group_retry_policy) or {}


def _router_policy() -> RetryPolicy | None:
    from litellm.proxy.proxy_server import llm_router

    return llm_router and llm_router.retry_policy


def _caller(kwargs: Mapping[str, Any]) -> UserAPIKeyAuth | None:
    """Whom LiteLLM authenticated. JSON from a client can look like this object, not be one."""
    found = [
        metadata["user_api_key_auth"]
        for name in ("litellm_metadata", "metadata")
        if isinstance(metadata := kwargs.get(name), Mapping)
        and isinstance(metadata.get("user_api_key_auth"), UserAPIKeyAuth)
    ]
    return found[0] if found else None


def _is_health_check(caller: UserAPIKeyAuth | None) -> bool:
    # The whole identity, not only an alias that somebody could give to a key.
    return caller is not None and (
        caller.key_alias == caller.team_id == caller.team_alias == HEALTH_CHECK
    )


def _foreign_host(kwargs: Mapping[str, Any], allowed_hosts: frozenset[str]) -> str | None:
    """An address this call could go to that may not see a token; None if there is none."""
    for address in _addresses(kwargs):
        if not outgoing.is_allowed(address, allowed_hosts):
            return re.sub(r"^(\w+:)?//|[/?#].*$|.*@", "", address) or "an address without a host"
    return None


def _addresses(kwargs: Mapping[str, Any]) -> Iterator[str]:
    """Every address that LiteLLM could come to use. It prefers the first kind to the second."""
    # Loaded after the deployment hook, for keys that are not there yet.
    named = kwargs.get("litellm_credential_name")
    values = next(
        (c.credential_values for c in litellm.credential_list if c.credential_name == named), {}
    ) if named else {}
    own = [kwargs.get("api_base"), kwargs.get("base_url"), values.get("api_base"),
           values.get("base_url")]
    if any(own):
        yield from (str(address) for address in own if address)
        return
    fallback = [litellm.api_base, *map(os.environ.get, ("ANTHROPIC_API_BASE", "ANTHROPIC_BASE_URL"))]
    yield from (str(address) for address in fallback if address)
    if not any(fallback):
        yield DEFAULT_API_BASE


def _has_api_key(kwargs: Mapping[str, Any]) -> bool:
    return bool(
        kwargs.get("api_key")
        or kwargs.get("litellm_credential_name")
        or litellm.anthropic_key
        or litellm.api_key
        or os.environ.get("ANTHROPIC_API_KEY")
    )


def _expanded(api_key: Any) -> Any:
    """LiteLLM would send ``${ANTHROPIC_API_KEY}`` to Anthropic as it stands."""
    return expand(api_key, os.environ) if isinstance(api_key, str) and "${" in api_key else api_key


def _spare_the_deployment(request_data: Mapping[str, Any], exception: Exception) -> None:
    """One user's 401 or 429 must not take the deployment away from the others.

    `model_info` is this attempt's own copy; a cooldown of 0 seconds there means none.
    """
    if getattr(exception, "status_code", None) in (401, 429) and outgoing.carried_token(
        request_data
    ):
        request_data["model_info"]["cooldown_time"] = 0


def _speak(*, debug: bool) -> None:
    """Our lines are seen where LiteLLM's are, whether or not anybody configured logging."""
    logger.setLevel(logging.DEBUG if debug else logging.INFO)
    if not logger.handlers and not logging.getLogger().handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s - %(name)s:%(levelname)s: %(message)s"))
        logger.addHandler(handler)
        logger.propagate = False


def _warn_about(settings: Settings) -> None:
    if settings.multi_user and settings.offered is not None:
        logger.warning(
            "claude_oauth.multi_user is on, so nobody uses the tokens in the block: they are not "
            "given to the vault"
        )
    if settings.vault_url.startswith("http://") and not re.match(
        r"http://(localhost|127\.\d+\.\d+\.\d+|\[::1\])(:|/|$)", settings.vault_url
    ):
        logger.warning("claude_oauth.vault_url is not https: tokens travel there in the clear")
