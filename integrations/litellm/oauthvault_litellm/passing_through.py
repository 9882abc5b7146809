"""The ways to Anthropic on which LiteLLM runs no callback: served here, or not at all.

LiteLLM would use the server's API key there, or send the client's token without the header that it
needs. Counting tokens and ``/anthropic/v1/messages`` carry the caller's own token; everything else
below ``/anthropic`` is refused.
"""

import json
import logging
from collections.abc import Mapping
from typing import Annotated, Any, Protocol

import httpx
from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse
from litellm.llms.anthropic.count_tokens.token_counter import AnthropicTokenCounter
from litellm.llms.custom_httpx.http_handler import get_ssl_configuration
from litellm.proxy._types import UserAPIKeyAuth
from litellm.proxy.anthropic_endpoints.endpoints import anthropic_response
from litellm.proxy.anthropic_endpoints.endpoints import count_tokens as litellm_counts
from litellm.proxy.auth.user_api_key_auth import user_api_key_auth

from oauthvault_litellm import call, outgoing
from oauthvault_litellm.client import AccessToken
from oauthvault_litellm.presented import presented
from oauthvault_litellm.refusals import Refusal
from oauthvault_litellm.secret import Secret
from oauthvault_litellm.settings import Settings

logger = logging.getLogger("oauthvault_litellm")

_TIMEOUT = httpx.Timeout(60.0, connect=10.0)
_METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]
_VERSION = "2023-06-01"
# What of Anthropic's answer means something to whom it is passed on.
_PASSED_ON = ("content-type", "retry-after", "request-id")

Caller = Annotated[UserAPIKeyAuth, Depends(user_api_key_auth)]


class Credentials(Protocol):
    """Who has the callers' tokens: the hook."""

    def settings(self) -> Settings: ...

    async def token_for(
        self, kwargs: Mapping[str, Any], who: UserAPIKeyAuth | None, settings: Settings
    ) -> AccessToken | None: ...

    async def replace(self, token: Secret, who: UserAPIKeyAuth | None) -> None: ...

    def limited(self, who: UserAPIKeyAuth | None) -> None: ...


def mount(app: Any, config: Mapping[str, Any], credentials: Credentials) -> None:
    """Puts our routes before LiteLLM's of the same paths."""
    routes = app.router.routes
    theirs = len(routes)
    app.include_router(_router(credentials))
    ours = routes[theirs:]  # one or many, by the version of FastAPI
    routes[theirs:] = []
    routes[:0] = ours
    # The other routes that count (OpenAI's, Google's, LiteLLM's own) count by themselves now:
    # they would ask Anthropic with the deployment's API key, and not say for whom.
    AnthropicTokenCounter.should_use_token_counting_api = _never  # type: ignore[method-assign, unused-ignore]
    _warn_about(config, credentials.settings())


def _never(self: AnthropicTokenCounter, custom_llm_provider: str | None = None) -> bool:
    return False


def _router(credentials: Credentials) -> APIRouter:
    router = APIRouter(tags=["claude oauth"])
    http: list[httpx.AsyncClient] = []

    def client() -> httpx.AsyncClient:
        """Made at the first use, in the event loop that serves."""
        if not http:
            http.append(
                httpx.AsyncClient(
                    timeout=_TIMEOUT,
                    verify=get_ssl_configuration(),
                    # A token goes to the host that was checked and nowhere else.
                    follow_redirects=False,
                )
            )
        return http[0]

    async def count_tokens(request: Request, who: Caller) -> Response:
        """How many tokens a request to Messages would have."""
        try:
            asked = _json_object(await request.body())
            model = asked.get("model")
            if not isinstance(model, str) or not model:
                raise Refusal(400, "model: Field required", code="invalid_request")
            deployment = await call.deployment_of(model)
            if deployment is None or not call.is_anthropic(deployment):
                if presented(who.api_key, who.user_id) is not None:
                    raise Refusal(
                        403,
                        "A Claude token opens Anthropic's models only. Use your LiteLLM key for "
                        "this one.",
                        code="provider_not_allowed",
                    )
                counted: Response = await litellm_counts(request, who)
                return counted
            question = _Question(deployment, asked, request.headers)
            return await _ask_anthropic(client(), question, credentials, who)
        except Refusal as refusal:
            return _in_the_words_of_anthropic(refusal)

    async def refused() -> Response:
        return _in_the_words_of_anthropic(
            Refusal(
                403,
                "Of Anthropic's own paths this proxy serves /anthropic/v1/messages and "
                "/anthropic/v1/messages/count_tokens only: LiteLLM would do this one with the "
                "server's API key.",
                code="route_not_allowed",
            )
        )

    for slash in ("", "/"):
        for prefix in ("", "/anthropic"):
            router.add_api_route(
                f"{prefix}/v1/messages/count_tokens{slash}",
                count_tokens,
                methods=["POST"],
                response_model=None,
                include_in_schema=not slash,
            )
        # The same as /v1/messages: models by the names of the config, through the callback.
        router.add_api_route(
            f"/anthropic/v1/messages{slash}",
            anthropic_response,
            methods=["POST"],
            response_model=None,
            include_in_schema=not slash,
        )
    for path in ("/anthropic", "/anthropic/{path:path}"):
        router.add_api_route(path, refused, methods=_METHODS, include_in_schema=False)
    return router


class _Question:
    """What Anthropic is asked: where, what, and with which headers of the client's."""

    def __init__(
        self, deployment: Mapping[str, Any], asked: Mapping[str, Any], headers: Mapping[str, str]
    ) -> None:
        self.deployment = call.with_expanded_api_key(deployment)
        self.address = f"{call.address_of(deployment)}/v1/messages/count_tokens"
        self.body = json.dumps({**asked, "model": call.model_of(deployment)}).encode()
        self.version = headers.get("anthropic-version", _VERSION)
        self.betas = outgoing.betas_in(headers)

    def headers(self, token: AccessToken | None) -> dict[str, str]:
        """With this token, or with the API key of the deployment."""
        headers = {"content-type": "application/json", "anthropic-version": self.version}
        if token is not None:
            own = outgoing.credential_headers(token.access_token, token.headers, betas=self.betas)
            return {**headers, **own}
        if self.betas:
            headers["anthropic-beta"] = ",".join(self.betas)
        if (key := call.api_key(self.deployment)) is not None:
            headers |= outgoing.api_key_headers(key)
        return headers


async def _ask_anthropic(
    http: httpx.AsyncClient, question: _Question, credentials: Credentials, who: UserAPIKeyAuth
) -> Response:
    """Anthropic's answer; after a 401 the one to the token that replaces the refused one."""
    settings = credentials.settings()
    token = await credentials.token_for(question.deployment, who, settings)
    answer = await _once(http, question, question.headers(token))
    if answer.status_code == httpx.codes.UNAUTHORIZED and token is not None:
        await credentials.replace(token.access_token, who)
        token = await credentials.token_for(question.deployment, who, settings)
        answer = await _once(http, question, question.headers(token))
    if answer.status_code == httpx.codes.TOO_MANY_REQUESTS and token is not None:
        credentials.limited(who)
    headers = {name: answer.headers[name] for name in _PASSED_ON if name in answer.headers}
    return Response(answer.content, answer.status_code, headers)


async def _once(
    http: httpx.AsyncClient, question: _Question, headers: dict[str, str]
) -> httpx.Response:
    try:
        return await http.post(question.address, content=question.body, headers=headers)
    except (httpx.HTTPError, httpx.InvalidURL, UnicodeEncodeError) as error:
        # Without the cause: it carries the request, and the request carries the token.
        kind = type(error).__name__
    raise Refusal(502, f"Anthropic did not answer ({kind}).", code="upstream_unavailable")


def _json_object(body: bytes) -> dict[str, Any]:
    try:
        asked = json.loads(body)
    except ValueError:
        asked = None
    if not isinstance(asked, dict):
        raise Refusal(400, "The body is not a JSON object.", code="invalid_request")
    return asked


def _in_the_words_of_anthropic(refusal: Refusal) -> Response:
    """As clients of Messages expect an error."""
    wait = refusal.retry_after
    return JSONResponse(
        {
            "type": "error",
            "error": {
                "type": _TYPES.get(refusal.status, "api_error"),
                "message": refusal.sentence,
            },
        },
        refusal.status,
        None if wait is None else {"Retry-After": str(int(wait))},
    )


_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    429: "rate_limit_error",
}


def _warn_about(config: Mapping[str, Any], settings: Settings) -> None:
    """An operator may have opened a way of their own."""
    endpoints = (config.get("general_settings") or {}).get("pass_through_endpoints")
    for endpoint in endpoints if isinstance(endpoints, list) else ():
        if not isinstance(endpoint, Mapping):
            continue
        if outgoing.is_allowed(str(endpoint.get("target") or ""), settings.allowed_hosts):
            logger.warning(
                "general_settings.pass_through_endpoints: %s leads to Anthropic past the hook, "
                "with the credential that stands there and not with the caller's",
                endpoint.get("path"),
            )
