"""The LiteLLM callback: puts the caller's token on a request at the last moment before it goes."""

import logging
import re
from collections.abc import Mapping
from typing import Any

from litellm.integrations.custom_logger import CustomLogger
from litellm.proxy._types import ProxyException, UserAPIKeyAuth

from oauthvault_litellm import call, outgoing, routes, routing, surroundings
from oauthvault_litellm.client import AccessToken, VaultError
from oauthvault_litellm.identity import credential_owner
from oauthvault_litellm.metrics import Metrics, NoMetrics, proxy_metrics
from oauthvault_litellm.refusals import Refusal, may_fall_back, refusal_for
from oauthvault_litellm.settings import Settings, SettingsError, claude_oauth_block, read_settings
from oauthvault_litellm.tokens import Tokens

logger = logging.getLogger("oauthvault_litellm")


def load_hook() -> "OAuthVaultHook":
    """What LiteLLM gets for ``oauthvault_litellm.hook``.

    LiteLLM loads its callbacks after it has read its config, so a setting that cannot be right
    ends the start of the proxy here, with the sentence of its SettingsError.
    """
    hook = OAuthVaultHook(proxy_metrics())
    if _config():
        settings = hook.settings()
        if settings.enabled:
            for sentence in surroundings.check(_config(), multi_user=settings.multi_user):
                logger.warning("%s", sentence)
            routes.mount(_app(), settings, hook.tokens)
    return hook


def _config() -> Mapping[str, Any]:
    """LiteLLM's whole config as it stands in the file; empty before it is read."""
    from litellm.proxy import proxy_server

    config: Mapping[str, Any] = proxy_server.proxy_config.get_config_state()
    return config


def _app() -> Any:
    from litellm.proxy import proxy_server

    return proxy_server.app


class OAuthVaultHook(CustomLogger):  # type: ignore[misc, unused-ignore]
    """One per process: LiteLLM's workers share nothing."""

    def __init__(self, metrics: Metrics | None = None) -> None:
        super().__init__()
        self._metrics = metrics or NoMetrics()
        self._settings: Settings | None = None
        self._tokens: Tokens | None = None

    def settings(self) -> Settings:
        """Read and checked at the first use. Raises :class:`SettingsError`."""
        if self._settings is None:
            block = claude_oauth_block(_config())
            if block is None:
                raise SettingsError(
                    "the callback oauthvault_litellm.hook is configured and there is no "
                    "claude_oauth block: put one under general_settings"
                )
            self._settings = settings = read_settings(block)
            _speak(debug=settings.debug)
            _warn_about(settings)
        return self._settings

    def tokens(self) -> Tokens:
        """Made at the first use, in the event loop that serves: it keeps connections."""
        if self._tokens is None:
            self._tokens = Tokens(self.settings(), self._metrics)
        return self._tokens

    # LiteLLM passes by keyword and the names of the parameters are its own.

    async def async_pre_call_hook(
        self, user_api_key_dict: UserAPIKeyAuth, cache: Any, data: dict[str, Any], call_type: Any
    ) -> None:
        """Tells the router what it must know before it chooses a deployment."""
        settings = self.settings()
        if settings.enabled:
            routing.prepare(data, multi_user=settings.multi_user)

    async def async_pre_call_deployment_hook(
        self, kwargs: dict[str, Any], call_type: Any
    ) -> dict[str, Any] | None:
        """The call with its caller's token, if it goes to Anthropic; else as it was.

        Runs for every attempt, so a retry gets the token that is right by then.
        """
        if not call.is_anthropic(kwargs):
            self._metrics.attempt("other_provider")
            return None
        settings = self.settings()
        changed = call.with_expanded_api_key(kwargs)
        who = call.caller(kwargs)
        if not settings.enabled or call.is_health_check(who):
            return changed
        try:
            token = await self._token_for(changed, who, settings)
        except Refusal as refusal:
            self._metrics.attempt("refused", refusal.code)
            logger.debug("refused (%s): %s", refusal.code, refusal.sentence)
            routing.spare_the_deployment(kwargs)
            raise _final(refusal) from None
        if token is None:
            return changed
        if not isinstance(changed.get("model_info"), routing.AttemptInfo):
            # /v1/responses comes here twice for one attempt: as itself, and as the chat it becomes.
            self._metrics.attempt("token")
        changed["model_info"] = routing.AttemptInfo(changed.get("model_info"))
        return outgoing.with_token(changed, token.access_token, token.headers)

    async def async_post_call_failure_deployment_hook(
        self,
        request_data: Mapping[str, Any],
        exception: Exception,
        call_type: Any,
        fallback_depth: int | None = None,
    ) -> None:
        """Upstream answered 401: the vault learns of it and replaces the token for the retry."""
        status = getattr(exception, "status_code", None)
        token = outgoing.carried_token(request_data)
        if token is None or status not in (401, 429):
            return
        routing.spare_the_deployment(request_data)
        if status == 429:
            return
        settings = self.settings()
        who = call.caller(request_data)
        user = credential_owner(who.user_id if who else None, multi_user=settings.multi_user)
        try:
            reported = await self.tokens().rejected(user, token)
        except VaultError as error:
            # The retry asks the vault again, and then the caller is told what is wrong.
            self._metrics.refused_upstream(error.code)
            logger.warning("upstream refused the token of user %r: %s", user, error.code)
            return
        if reported:
            self._metrics.refused_upstream("replaced")
            logger.info("upstream refused the token of user %r: replaced", user)
        else:
            logger.debug("upstream refused a token of user %r that is not used any more", user)

    async def _token_for(
        self, kwargs: Mapping[str, Any], who: UserAPIKeyAuth | None, settings: Settings
    ) -> AccessToken | None:
        """The token to use, or None where the deployment's API key is to serve instead.

        Raises :class:`Refusal` where neither may.
        """
        user = credential_owner(who.user_id if who else None, multi_user=settings.multi_user)
        if host := call.foreign_host(kwargs, settings.allowed_hosts):
            raise Refusal(
                403,
                f"This model is served by {host}, which may not see a Claude OAuth token. The "
                "hosts that may are in claude_oauth.allowed_hosts.",
                code="host_not_allowed",
            )
        try:
            token = await self.tokens().of(user)
        except VaultError as error:
            if settings.fallback_to_api_key and may_fall_back(error) and call.has_api_key(kwargs):
                self._metrics.attempt("api_key", error.code)
                logger.warning(
                    "no token for user %r (%s): the API key of the deployment serves this request",
                    user,
                    error.code,
                )
                return None
            logger.warning("a request of user %r was refused: %s", user, error.code)
            raise refusal_for(error, user=user) from None
        if not outgoing.is_oauth_token(token.access_token):
            raise Refusal(
                401,
                f"What is stored for user {user!r} is not a Claude OAuth access token "
                f"({outgoing.OAUTH_PREFIX}…). Store the accessToken of the user's Claude "
                "credentials in the vault.",
                code="not_an_oauth_token",
            )
        if logger.isEnabledFor(logging.DEBUG):
            logger.debug(
                "attempt %d of a request of user %r goes to %s with their token",
                call.attempt(kwargs),
                user,
                call.host(kwargs),
            )
        return token


def _final(refusal: Refusal) -> ProxyException:
    """The refusal in a form that LiteLLM hands to the caller as it is, at once, and with the
    Retry-After, which /v1/messages takes from no other exception."""
    wait = refusal.retry_after
    answer = ProxyException(
        message=refusal.sentence,
        type=_TYPES.get(refusal.status, "internal_server_error"),
        param=None,
        code=refusal.status,
        headers=None if wait is None else {"Retry-After": str(int(wait))},
    )
    # For the router, which would otherwise ask the vault thrice, seconds apart.
    answer.num_retries = 0  # type: ignore[attr-defined, unused-ignore]
    answer.status_code = refusal.status  # type: ignore[attr-defined, unused-ignore]
    return answer


# What OpenAI's SDK calls them.
_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


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
    if not re.match(r"https:|http://(localhost|127\.|\[::1\])", settings.vault_url):
        logger.warning("claude_oauth.vault_url is not https: tokens travel there in the clear")
