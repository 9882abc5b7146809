"""The token endpoint (RFC 6749 §6) and revocation (RFC 7009)."""

from typing import Any

from .logins import Exchange, account_of, organization_of
from .state import State
from .wire import EDGE_BLOCK, Malformed, Reply, Request, html_reply, json_reply, oauth_error


def answer_token(state: State, request: Request, *, keep_refresh_token: bool) -> Reply:
    """Exchange a refresh token; the rotation is one step under the lock."""
    if not request.headers.get("user-agent"):
        return html_reply(403, EDGE_BLOCK)
    if request.content_type != "application/json":
        return oauth_error(400, "invalid_request", "Content-Type must be application/json")
    try:
        asked = request.json()
    except Malformed as error:
        return oauth_error(400, "invalid_request", str(error))
    if asked.get("grant_type") != "refresh_token":
        return oauth_error(400, "unsupported_grant_type", "Only refresh_token is supported")
    if asked.get("client_id") != state.settings.client_id:
        return oauth_error(401, "invalid_client", "Client not found")
    refresh_token, scope = asked.get("refresh_token"), asked.get("scope")
    if not isinstance(refresh_token, str) or not refresh_token:
        return oauth_error(400, "invalid_request", "refresh_token is required")
    if scope is not None and not isinstance(scope, str):
        return oauth_error(400, "invalid_request", "scope is a space-separated string")

    with state.lock:
        settings = state.settings
        keeps = keep_refresh_token or not settings.rotates_refresh_tokens
        now = state.now()
        exchange = state.logins.exchange(
            refresh_token,
            scopes=scope.split() if scope else None,
            lifetime=settings.real_lifetime,
            keep_refresh_token=keeps,
            kill_access_token=settings.rotation_kills_access_token,
            reuse_kills_family=settings.reuse_kills_family,
            now=now,
        )
        user = exchange.family.user if exchange.family else None
        if exchange.outcome != "invalid_scope":
            state.record.count(exchange.outcome, user)
        if exchange.outcome == "refreshed":
            return _granted(exchange, settings.access_token_lifetime, now)
    if exchange.outcome == "invalid_scope":
        return oauth_error(400, "invalid_scope", "The requested scope exceeds the grant")
    return oauth_error(400, "invalid_grant", "Refresh token not found or invalid")


def _granted(exchange: Exchange, expires_in: Any, now: float) -> Reply:
    family = exchange.family
    assert family is not None
    answer = {
        "token_type": "Bearer",
        "access_token": family.access_token,
        "expires_in": expires_in,
        "refresh_token": family.refresh_token,
        "scope": " ".join(exchange.scopes),
        "account": account_of(family.user),
        "organization": organization_of(family.user),
    }
    if family.login_ends is not None:
        answer["refresh_token_expires_in"] = int(family.login_ends - now)
    return json_reply(200, answer, {"Cache-Control": "no-store"})


def answer_revoke(state: State, request: Request) -> Reply:
    """End the login of the token, if there is one: 200 either way."""
    try:
        token = request.form().get("token")
    except Malformed:
        token = None
    with state.lock:
        state.record.count("revoke_calls", state.logins.owner(token) if token else None)
        family = state.logins.revoke(token) if isinstance(token, str) else None
        if family is not None:
            state.record.count("revoked", family.user)
    return json_reply(200, {})
