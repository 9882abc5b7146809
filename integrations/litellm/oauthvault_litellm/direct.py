"""``custom_auth: oauthvault_litellm.auth``: a Claude token in place of a LiteLLM key.

Every other key goes to the operator's own custom_auth, if ``claude_oauth.custom_auth`` names one,
and else to LiteLLM's authentication.
"""

import logging
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

from fastapi import Request
from litellm.proxy._types import LitellmUserRoles, ProxyException, UserAPIKeyAuth
from litellm.proxy.auth import user_api_key_auth as litellm_authentication
from litellm.proxy.auth.auth_utils import get_request_route
from litellm.proxy.types_utils.utils import get_instance_fn

import oauthvault_litellm
from oauthvault_litellm.callback import OAuthVaultHook
from oauthvault_litellm.client import NoToken, VaultError
from oauthvault_litellm.demands import check_config
from oauthvault_litellm.presented import (
    forget_passed_on,
    is_claude_token,
    is_well_made,
    label_of_owner,
    label_of_token,
    pass_on,
)
from oauthvault_litellm.refusals import Refusal
from oauthvault_litellm.secret import Secret
from oauthvault_litellm.settings import Settings, SettingsError
from oauthvault_litellm.tokens import Tokens

logger = logging.getLogger("oauthvault_litellm")

# What LiteLLM accepts of a custom_auth; None: its own authentication decides.
Answer: TypeAlias = UserAPIKeyAuth | str | None
CustomAuth = Callable[[Request, str], Awaitable[Answer]]

# What a Claude token opens. Nothing that changes a credential: a token is in more hands than a
# key, and whoever replaces a credential reads the prompts that go out under it. And nothing that
# LiteLLM serves past the hook.
_ASKS_ANTHROPIC = frozenset(
    ("POST", path)
    for path in (
        "/chat/completions",
        "/v1/chat/completions",
        "/responses",
        "/v1/responses",
        "/v1/messages",
        "/v1/messages/count_tokens",
        "/anthropic/v1/messages",
        "/anthropic/v1/messages/count_tokens",
    )
)
_ASKS_ABOUT_ONESELF = frozenset(
    [("GET", "/models"), ("GET", "/v1/models"), ("GET", "/auth/claude/status")]
)


def load_auth() -> CustomAuth:
    """What LiteLLM gets for ``oauthvault_litellm.auth``. Raises :class:`SettingsError`, which ends
    the start of the proxy."""
    from litellm.proxy import proxy_server

    hook: OAuthVaultHook = oauthvault_litellm.hook
    settings = hook.settings()
    check_config(proxy_server.proxy_config.get_config_state(), settings)
    others = _others(settings, proxy_server.user_config_file_path)
    return DirectBearer(settings, hook.tokens, others).authenticate


def _others(settings: Settings, config_file: str | None) -> CustomAuth | None:
    if settings.custom_auth is not None:
        try:
            found: CustomAuth = get_instance_fn(settings.custom_auth, config_file)
        except (ImportError, AttributeError) as error:
            raise SettingsError(
                f"claude_oauth.custom_auth: {settings.custom_auth} is not found "
                f"({type(error).__name__})"
            ) from None
        return found
    if litellm_authentication.enterprise_custom_auth is None:
        raise SettingsError(
            "without the package litellm-enterprise (part of litellm[proxy]) LiteLLM does not look "
            "at its own keys once there is a custom_auth: install it, or name your own in "
            "claude_oauth.custom_auth"
        )
    return None


class DirectBearer:
    """One per process."""

    def __init__(
        self, settings: Settings, tokens: Callable[[], Tokens], others: CustomAuth | None
    ) -> None:
        self._mode = (settings.direct_bearer or "vault") if settings.enabled else "off"
        self._tokens = tokens
        self._others = others

    async def authenticate(self, request: Request, api_key: str) -> Answer:
        """The caller whom a Claude token makes; for any other key what the others say."""
        forget_passed_on()
        if not is_claude_token(api_key):
            return None if self._others is None else await self._others(request, api_key)
        token = Secret(api_key)
        _take_out(request, token)
        try:
            return await self._caller(request, token)
        except Refusal as refusal:
            raise _for_litellm(refusal) from None

    async def _caller(self, request: Request, token: Secret) -> UserAPIKeyAuth:
        if self._mode == "off":
            raise Refusal(
                401,
                "This proxy takes no Claude token in place of a LiteLLM key "
                "(claude_oauth.direct_bearer). Use your LiteLLM key; the token is the vault's.",
                code="direct_bearer_off",
            )
        # A connection that LiteLLM upgrades has no method.
        asked_for = (request.scope.get("method"), get_request_route(request).rstrip("/"))
        if asked_for not in _ASKS_ANTHROPIC and not (
            self._mode == "vault" and asked_for in _ASKS_ABOUT_ONESELF
        ):
            raise Refusal(
                403,
                "A Claude token in place of a LiteLLM key opens chat/completions, messages and "
                "responses, and nothing else here. Use your LiteLLM key.",
                code="route_not_allowed",
            )
        if not is_well_made(token):
            raise _unknown()
        if self._mode == "any":
            logger.debug("a Claude token does for a key and goes on as it came")
            pass_on(token)
            return _authenticated(label_of_token(token), user_id=None)
        owner = await self._owner(token)
        logger.debug("a Claude token of user %r does for a key", owner)
        return _authenticated(label_of_owner(owner), user_id=owner)

    async def _owner(self, token: Secret) -> str:
        try:
            return await self._tokens().owners.of(token)
        except NoToken:
            raise _unknown() from None
        except VaultError as error:
            if error.status in (400, 413, 422):
                raise _unknown() from None
            logger.warning("a Claude token could not be looked up: %s", error.code)
            raise Refusal(
                503,
                "The token vault cannot say for now whose Claude token this is. Send the request "
                "again later, or use your LiteLLM key.",
                code=error.code,
                retry_after=error.retry_after,
            ) from None


def _unknown() -> Refusal:
    """The same words whether the token never was one, was spent, or is somebody else's."""
    return Refusal(
        401,
        "This Claude token is not one that the vault holds at present. Store your login there "
        "(PUT /auth/claude/token with your LiteLLM key) or use your LiteLLM key.",
        code="no_token",
    )


def _authenticated(label: str, *, user_id: str | None) -> UserAPIKeyAuth:
    return UserAPIKeyAuth(
        api_key=label,
        key_alias="claude-token",
        user_id=user_id,
        user_role=LitellmUserRoles.INTERNAL_USER,
    )


def _take_out(request: Request, token: Secret) -> None:
    """From here on the request does not have the token in it.

    LiteLLM copies the headers of a request into what every callback is given.
    """
    text = token.reveal()
    request.scope["headers"] = [
        (name, value)
        for name, value in request.scope.get("headers", ())
        if text.encode() not in value
    ]
    vars(request).pop("_headers", None)  # what Starlette has read of them
    cached: Any = getattr(request.state, "_cached_headers", None)  # and LiteLLM
    if isinstance(cached, dict):
        for name in [name for name, value in cached.items() if text in value]:
            del cached[name]


def _for_litellm(refusal: Refusal) -> ProxyException:
    """In the one form that LiteLLM takes for final: after any other it may try its own keys."""
    wait = refusal.retry_after
    return ProxyException(
        message=refusal.sentence,
        type="auth_error",
        param=None,
        code=refusal.status,
        headers=None if wait is None else {"Retry-After": str(int(wait))},
    )
