"""``/auth/claude/*`` on the proxy's own port, with the caller's LiteLLM key.

The vault answers; here it is only decided who may ask about whom. The hand-out of tokens is not
among the routes.
"""

from collections.abc import Callable
from typing import Annotated, Any

import httpx
from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse
from litellm.proxy._types import LiteLLMRoutes, LitellmUserRoles, UserAPIKeyAuth
from litellm.proxy.auth.user_api_key_auth import user_api_key_auth

from oauthvault_litellm import __version__
from oauthvault_litellm.client import VaultError, VaultUnreachable
from oauthvault_litellm.identity import owner_for
from oauthvault_litellm.refusals import Refusal, StandIn, refusal_for
from oauthvault_litellm.settings import Settings
from oauthvault_litellm.tokens import Tokens

_PREFIX = "/auth/claude"
_OWN = ("status", "refresh", "revoke", "token")
_LARGEST_BODY = 64 * 1024  # the vault's own limit
# What of the vault's answer means something to whom it is passed on.
_PASSED_ON = ("content-type", "retry-after", "cache-control")

Caller = Annotated[UserAPIKeyAuth, Depends(user_api_key_auth)]


def mount(
    app: Any,
    settings: Settings,
    tokens: Callable[[], Tokens],
    stand_in: Callable[[], StandIn],
) -> None:
    """Adds the routes to LiteLLM's app, for every key and not only for the proxy's admin."""
    paths = [f"{_PREFIX}/{name}{slash}" for name in _OWN for slash in ("", "/")]
    LiteLLMRoutes.self_managed_routes.value.extend(paths)
    app.include_router(_router(settings, tokens, stand_in))


def _router(
    settings: Settings, tokens: Callable[[], Tokens], stand_in: Callable[[], StandIn]
) -> APIRouter:
    router = APIRouter(tags=["claude oauth"])

    def route(method: str, name: str) -> Callable[[Any], Any]:
        def add(answer: Any) -> Any:
            for slash in ("", "/"):
                router.add_api_route(
                    f"{_PREFIX}/{name}{slash}",
                    answer,
                    methods=[method],
                    response_model=None,
                    include_in_schema=not slash,
                )
            return answer

        return add

    async def relay(request: Request, who: UserAPIKeyAuth, content: bytes = b"") -> Response:
        user = owner_for(who, multi_user=settings.multi_user)
        changes = request.method != "GET"
        if changes and not settings.multi_user and not _is_admin(who):
            raise Refusal(
                403,
                "This credential serves everybody, so only the proxy's admin may change it.",
                code="admin_required",
            )
        mine = tokens()
        if request.method == "DELETE":
            # Before the answer, which may be lost: no API key in place of what is taken away.
            stand_in().refuse(user)
        # By the route, and never by what the request says of its own address.
        path = str(request.scope["route"].path).rstrip("/")
        try:
            await mine.offer_block()
            answer = await mine.desk.relay(request.method, path, user=user, content=content)
        except VaultError as error:
            raise refusal_for(error, user=user) from None
        finally:
            if changes:
                mine.forget(user)
        return _passed_on(answer)

    async def own(request: Request, who: Caller) -> Response:
        try:
            return await relay(request, who)
        except Refusal as refusal:
            return _problem(refusal)

    async def put_token(request: Request, who: Caller) -> Response:
        """Stores a Claude credential as the caller's own."""
        try:
            body = await request.body()
            if len(body) > _LARGEST_BODY:
                raise Refusal(413, "A credential has less than 64 KiB.", code="body_too_large")
            return await relay(request, who, body)
        except Refusal as refusal:
            return _problem(refusal)

    async def health() -> Response:
        try:
            answer = await tokens().desk.relay("GET", f"{_PREFIX}/health", user=None)
        except VaultError as error:
            return JSONResponse(
                {
                    "status": "unhealthy",
                    "oauth_configured": False,
                    "version": __version__,
                    "checks": {"vault": error.detail},
                },
                503,
            )
        return _passed_on(answer)

    async def stats() -> Response:
        try:
            return _passed_on(await tokens().desk.relay("GET", f"{_PREFIX}/stats", user=None))
        except VaultError as error:
            return _problem(_about_statistics(error))

    route("GET", "status")(own)
    route("POST", "refresh")(own)
    route("DELETE", "revoke")(own)
    route("PUT", "token")(put_token)
    route("GET", "health")(health)
    route("GET", "stats")(stats)
    return router


def _is_admin(who: UserAPIKeyAuth) -> bool:
    return who.user_role == LitellmUserRoles.PROXY_ADMIN


def _about_statistics(error: VaultError) -> Refusal:
    away = isinstance(error, VaultUnreachable)
    sentence = error.detail if away else "The token vault does not give this proxy its statistics."
    return Refusal(503, sentence, code=error.code)


def _passed_on(answer: httpx.Response) -> Response:
    headers = {name: answer.headers[name] for name in _PASSED_ON if name in answer.headers}
    return Response(answer.content, answer.status_code, headers)


def _problem(refusal: Refusal) -> Response:
    """As the vault itself would say it (RFC 9457)."""
    wait = refusal.retry_after
    return JSONResponse(
        {
            "type": "about:blank",
            "title": _TITLES.get(refusal.status, "Not now"),
            "status": refusal.status,
            "detail": refusal.sentence,
            "code": refusal.code,
        },
        refusal.status,
        None if wait is None else {"Retry-After": str(int(wait))},
        "application/problem+json",
    )


_TITLES = {401: "Unauthorized", 403: "Forbidden", 413: "Content Too Large"}
