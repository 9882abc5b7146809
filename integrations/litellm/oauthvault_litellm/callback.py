"""The LiteLLM callback: puts the caller's token on a request at the last moment before it goes."""

import logging
import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import HTTPException
from litellm.integrations.custom_logger import CustomLogger
from litellm.proxy._types import ProxyException, UserAPIKeyAuth

from oauthvault_litellm import (
    call,
    collector,
    outgoing,
    passing_through,
    routes,
    routing,
    surroundings,
    versions,
)
from oauthvault_litellm.client import AccessToken, VaultError
from oauthvault_litellm.demands import check_config
from oauthvault_litellm.identity import owner_for
from oauthvault_litellm.masking import Mask, take_places, watch_clients
from oauthvault_litellm.metrics import Metrics, NoMetrics, proxy_metrics
from oauthvault_litellm.presented import is_passed_on, presented
from oauthvault_litellm.refusals import Refusal, StandIn, refusal_for
from oauthvault_litellm.secret import Secret
from oauthvault_litellm.settings import Settings, SettingsError, claude_oauth_block, read_settings
from oauthvault_litellm.tokens import Tokens
from oauthvault_litellm.trust import certificate_authorities

logger = logging.getLogger("oauthvault_litellm")


def load_hook() -> "OAuthVaultHook":
    """What LiteLLM gets for ``oauthvault_litellm.hook``.

    LiteLLM loads its callbacks after it has read its config, so a setting that cannot be right
    ends the start of the proxy here, with the sentence of its SettingsError.
    """
    hook = OAuthVaultHook(proxy_metrics())
    if config := _config():
        settings = hook.settings()
        check_config(config, settings)
        if settings.enabled:
            collector.guard()
            certificate_authorities()  # whose absence is to end the start, not each request
            for sentence in surroundings.check(config, multi_user=settings.multi_user):
                logger.warning("%s", sentence)
            routes.mount(_app(), settings, hook.tokens, hook.stand_in)
            passing_through.mount(_app(), config, hook)
    return hook


def _config() -> Mapping[str, Any]:
    """LiteLLM's whole config as it stands in the file; empty before it is read."""
    from litellm.proxy import proxy_server

    config: Mapping[str, Any] = proxy_server.proxy_config.get_config_state()
    return config


def _app() -> Any:
    from litellm.proxy import proxy_server

    return proxy_server.app


# What Anthropic says about one user, their plan or their request, and not about a deployment.
_OF_ONE_USER = (401, 402, 404, 408, 429)


class OAuthVaultHook(CustomLogger):  # type: ignore[misc, unused-ignore]
    """One per process: LiteLLM's workers share nothing."""

    def __init__(self, metrics: Metrics | None = None) -> None:
        super().__init__()
        self._metrics = metrics or NoMetrics()
        self._settings: Settings | None = None
        self._tokens: Tokens | None = None
        self._stand_in: StandIn | None = None
        self._mask = Mask()

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

    def stand_in(self) -> StandIn:
        if self._stand_in is None:
            self._stand_in = StandIn(allowed=self.settings().fallback_to_api_key)
        return self._stand_in

    # LiteLLM passes by keyword and the names of the parameters are its own.

    async def async_pre_call_hook(
        self, user_api_key_dict: UserAPIKeyAuth, cache: Any, data: dict[str, Any], call_type: Any
    ) -> None:
        """Tells the router what it must know before it chooses a deployment."""
        take_places(self._mask, self)
        settings = self.settings()
        if settings.enabled:
            routing.prepare(
                data,
                # A token that a caller brought is not replaced: a retry would meet the same 401.
                retry=not is_passed_on(),
                users_apart=self._users_apart(user_api_key_dict),
                team_id=user_api_key_dict.team_id,
            )

    async def async_pre_call_deployment_hook(
        self, kwargs: dict[str, Any], call_type: Any
    ) -> dict[str, Any] | None:
        """The call with its caller's token, if it goes to Anthropic; else as it was.

        Runs for every attempt, so a retry gets the token that is right by then.
        """
        take_places(self._mask, self)
        who = call.caller(kwargs)
        if not call.is_anthropic(kwargs):
            _refuse_other_providers(who)
            _refuse_another_name(kwargs)
            self._metrics.attempt("other_provider")
            return outgoing.without_token(kwargs)
        settings = self.settings()
        changed = call.with_expanded_api_key(outgoing.without_token(kwargs))
        if not settings.enabled or call.is_health_check(who):
            return changed
        if who is not None and self._users_apart(who):
            routing.keep_out_of_the_cache(changed)
        try:
            if not call.carries_headers(kwargs, call_type):
                raise Refusal(
                    403,
                    "LiteLLM sends a request of this kind to Anthropic with the server's API key "
                    "and with no other credential, so it is not done here.",
                    code="kind_not_covered",
                )
            token = await self.token_for(changed, who, settings)
        except Refusal as refusal:
            self._metrics.attempt("refused", refusal.code)
            logger.debug("refused (%s): %s", refusal.code, refusal.sentence)
            routing.spare_the_deployment(kwargs)
            raise _final(refusal) from None
        first_time = not _was_here_before(changed)
        changed["model_info"] = routing.AttemptInfo(changed.get("model_info"))
        if token is None:
            return changed
        watch_clients()
        if first_time:
            self._metrics.attempt("token")
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
        if token is None or status not in _OF_ONE_USER:
            return
        routing.spare_the_deployment(request_data)
        who = call.caller(request_data)
        if status == 401:
            await self.replace(token, who)
        elif status == 429:
            self.limited(who)

    def limited(self, who: UserAPIKeyAuth | None) -> None:
        """Upstream answered 429 to this caller's token: no API key gets round that."""
        if _brought_by(who) is None:
            self.stand_in().limit(owner_for(who, multi_user=self.settings().multi_user))

    def _users_apart(self, who: UserAPIKeyAuth) -> bool:
        return self.settings().multi_user or _is_presented(who)

    async def replace(self, token: Secret, who: UserAPIKeyAuth | None) -> None:
        """Upstream answered 401 to this token: what :meth:`token_for` gives next is another one,
        or it says why there is none."""
        if _brought_by(who) is not None:
            return  # the vault does not have it
        user = owner_for(who, multi_user=self.settings().multi_user)
        try:
            reported = await self.tokens().rejected(user, token)
        except VaultError as error:
            self.stand_in().heard(user, error)
            # The retry asks the vault again, and then the caller is told what is wrong.
            self._metrics.refused_upstream(error.code)
            logger.warning("upstream refused the token of user %r: %s", user, error.code)
            return
        if reported:
            self._metrics.refused_upstream("replaced")
            logger.info("upstream refused the token of user %r: replaced", user)
        else:
            logger.debug("upstream refused a token of user %r that is not used any more", user)

    async def token_for(
        self, kwargs: Mapping[str, Any], who: UserAPIKeyAuth | None, settings: Settings
    ) -> AccessToken | None:
        """The token to use, or None where the deployment's API key is to serve instead.

        Raises :class:`Refusal` where neither may.
        """
        brought = _brought_by(who)
        user = owner_for(who, multi_user=settings.multi_user) if brought is None else ""
        _refuse_to_send_astray(kwargs, settings)
        if brought is not None:
            return brought
        stand_in = self.stand_in()
        try:
            token = await self.tokens().of(user)
        except VaultError as error:
            if stand_in.may_serve(user, error) and call.has_api_key(kwargs):
                if not _was_here_before(kwargs):
                    self._metrics.attempt("api_key", error.code)
                    self.api_key_serves(user, error)
                return None
            logger.warning("a request of user %r was refused: %s", user, error.code)
            raise refusal_for(error, user=user) from None
        stand_in.token_given(user)
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

    def api_key_serves(self, user: str, error: VaultError) -> None:
        """Every request that the deployment's API key pays in place of a token comes by here."""
        logger.warning(
            "no token for user %r (%s): the API key of the deployment serves this request",
            user,
            error.code,
        )


def _was_here_before(attempt: Mapping[str, Any]) -> bool:
    """/v1/responses comes twice for one attempt: as itself, and as the chat that it becomes."""
    return isinstance(attempt.get("model_info"), routing.AttemptInfo)


def _refuse_to_send_astray(kwargs: Mapping[str, Any], settings: Settings) -> None:
    """Raises :class:`Refusal` where a token would not arrive, or not at Anthropic alone."""
    if call.names_deployments(kwargs):
        raise Refusal(
            403,
            "A request with a model_list of its own may not carry a Claude OAuth token.",
            code="host_not_allowed",
        )
    if host := call.foreign_host(kwargs, settings.allowed_hosts):
        raise Refusal(
            403,
            f"This model is served by {host}, which may not see a Claude OAuth token. The "
            "hosts that may are in claude_oauth.allowed_hosts.",
            code="host_not_allowed",
        )
    if host := call.open_to_others(kwargs):
        raise Refusal(
            403,
            f"This model is served by {host} over plain http, where others can read a Claude "
            "OAuth token. Give its api_base as https, or take it out of reach of HTTP_PROXY where "
            "it is on this machine.",
            code="host_not_allowed",
        )


def _brought_by(who: UserAPIKeyAuth | None) -> AccessToken | None:
    """The token that is the only credential of this request, because the caller came with it.

    Raises :class:`Refusal` for calls that LiteLLM makes beside such a request, on nobody's account:
    another credential would pay for them.
    """
    if who is None:
        if is_passed_on():
            raise Refusal(
                403, "Nobody pays for this call beside a caller's own token.", code="user_required"
            )
        return None
    came_with = presented(who.api_key, who.user_id)
    if came_with is None or came_with.token is None:
        return None
    return AccessToken(
        access_token=came_with.token, expires_at=0, generation=0, headers={}, etag=None
    )


def _is_presented(who: UserAPIKeyAuth) -> bool:
    """Whether the caller came with a Claude token in place of a LiteLLM key."""
    try:
        return presented(who.api_key, who.user_id) is not None
    except Refusal as refusal:
        raise _final(refusal) from None


def _refuse_other_providers(who: UserAPIKeyAuth | None) -> None:
    """Who came with a Claude token has Anthropic's models by it: others cost somebody else."""
    if who is None or not _is_presented(who):
        return
    raise _final(
        Refusal(
            403,
            "A Claude token opens Anthropic's models only. Use your LiteLLM key for this one.",
            code="provider_not_allowed",
        )
    )


def _refuse_another_name(kwargs: Mapping[str, Any]) -> None:
    """A client that calls Anthropic's deployment another provider's would be served with its API
    key."""
    if routing.is_anthropics_deployment(kwargs):
        raise _final(
            Refusal(
                403,
                "custom_llm_provider does not fit this model: leave it out.",
                code="provider_not_allowed",
            )
        )


def _final(refusal: Refusal) -> Exception:
    """The refusal in a form that LiteLLM hands to the caller as it is, and at once."""
    answer: Any
    if refusal.status == HTTPStatus.FORBIDDEN:
        # What the router takes for a rejection on purpose: no other model is tried in its place.
        answer = HTTPException(refusal.status, refusal.sentence)
    else:
        wait = refusal.retry_after
        # Of no other exception does /v1/messages take the Retry-After along.
        answer = ProxyException(
            message=refusal.sentence,
            type=_TYPES.get(refusal.status, "internal_server_error"),
            param=None,
            code=refusal.status,
            headers=None if wait is None else {"Retry-After": str(int(wait))},
        )
        answer.status_code = refusal.status
    # For the router, which would otherwise ask the vault thrice, seconds apart.
    answer.num_retries = 0
    return answer  # type: ignore[no-any-return, unused-ignore]


# What OpenAI's SDK calls them.
_TYPES = {401: "authentication_error", 429: "rate_limit_error"}


def _speak(*, debug: bool) -> None:
    """Our lines are seen where LiteLLM's are, whether or not anybody configured logging."""
    logger.setLevel(logging.DEBUG if debug else logging.INFO)
    if not logger.handlers and not logging.getLogger().handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s - %(name)s:%(levelname)s: %(message)s"))
        logger.addHandler(handler)
        logger.propagate = False


def _warn_about(settings: Settings) -> None:
    version = versions.installed()
    if version is not None and (doubt := versions.doubt(version)):
        logger.warning("%s", doubt)
    if settings.multi_user and settings.offered is not None:
        logger.warning(
            "claude_oauth.multi_user is on, so nobody uses the tokens in the block: they are not "
            "given to the vault"
        )
    if settings.multi_user and (asked := settings.refresh.asked()):
        logger.warning(
            "claude_oauth.multi_user is on, and %s in the block would be for the credential of "
            "user 'default' only: the vault's own settings govern how everybody's is refreshed",
            ", ".join(asked),
        )
    if not re.match(r"https:|http://(localhost|127\.|\[::1\])", settings.vault_url):
        logger.warning("claude_oauth.vault_url is not https: tokens travel there in the clear")
