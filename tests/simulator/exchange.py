"""From a request to the reply that will be sent: latency, fault, work, record."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from .faults import Fault
from .messages import answer_count_tokens, answer_messages
from .oauth import answer_revoke, answer_token
from .record import Received
from .state import State
from .wire import Endpoint, Malformed, Reply, Request, api_error

KEPT_BODY = 16 * 1024
FAULT_NAMES: dict[Endpoint, str] = {
    "token": "token",
    "revoke": "revoke",
    "messages": "messages",
    "count_tokens": "messages",
}


@contextmanager
def exchange(state: State, request: Request) -> Iterator[Reply]:
    """Decide the reply and record it before its first byte leaves.

    A test that has read the answer therefore finds it counted. The request is in flight
    until the block ends.
    """
    endpoint = request.endpoint
    if endpoint is None:
        reply = api_error(404, "not_found_error", "Not found")
        _note(state, request, reply, user=None)
        yield reply
        return
    with state.lock:
        token = presented_token(request)
        user = state.logins.owner(token) if token else None
        state.record.enter(endpoint, user)
        if endpoint == "token":
            state.record.count("knocks" if _presents_nothing(request) else "token_calls", user)
        fault = state.faults.take(FAULT_NAMES[endpoint], user)
        if fault is not None:
            state.record.count("faults", user)
    try:
        reply = _reply(state, request, endpoint, fault)
        _note(state, request, reply, user=user)
        yield reply
    finally:
        with state.lock:
            state.record.leave(endpoint, user)


def presented_token(request: Request) -> str | None:
    """The token that the request is about, whatever else is wrong with it."""
    if request.endpoint in ("messages", "count_tokens"):
        return request.bearer
    try:
        asked = request.json() if request.endpoint == "token" else request.form()
    except Malformed:
        return None
    token = asked.get("refresh_token") or asked.get("token")
    return token if isinstance(token, str) else None


def _presents_nothing(request: Request) -> bool:
    """A request that is right but for the refresh token, which it lacks."""
    try:
        asked = request.json()
    except Malformed:
        return False
    return "grant_type" in asked and "refresh_token" not in asked


def note_unread(state: State, *, method: str, path: str) -> None:
    """Record a request whose connection was reset before it was read."""
    with state.lock:
        state.record.count("faults", None)
        _note(state, Request(method, path, {}, b""), Reply(0, delivery="none"), user=None)


def _reply(state: State, request: Request, endpoint: Endpoint, fault: Fault | None) -> Reply:
    before, after = _latencies(state, endpoint)
    state.pause_ms(before)
    if fault is not None:
        state.pause(fault.delay)
    real = None
    if fault is None or fault.does_the_work:
        real = _work(state, request, endpoint, fault is not None and fault.keep_refresh_token)
    state.pause_ms(after)
    if endpoint == "token":
        state.wait_while_held()
    if fault is None:
        assert real is not None
        return real
    state.pause(fault.delay_after)
    return fault.reply(real, now=state.now())


def _latencies(state: State, endpoint: Endpoint) -> tuple[float, float]:
    settings = state.settings
    if endpoint == "token":
        return settings.latency_ms, settings.latency_after_ms
    return (0.0 if endpoint == "revoke" else settings.messages_latency_ms), 0.0


def _work(state: State, request: Request, endpoint: Endpoint, keep_refresh_token: bool) -> Reply:
    if request.method != "POST":
        refused = api_error(405, "invalid_request_error", "Method Not Allowed")
        return replace(refused, headers={**refused.headers, "Allow": "POST"})
    if endpoint == "token":
        return answer_token(state, request, keep_refresh_token=keep_refresh_token)
    if endpoint == "revoke":
        return answer_revoke(state, request)
    if endpoint == "messages":
        return answer_messages(state, request)
    return answer_count_tokens(state, request)


def _note(state: State, request: Request, reply: Reply, *, user: str | None) -> None:
    status = None if reply.delivery == "none" else reply.status
    with state.lock:
        if request.endpoint == "messages" and status == 200:
            state.record.count("messages_ok", user)
        elif request.endpoint == "messages" and status == 401:
            state.record.count("messages_401", user)
        state.record.note(
            Received(
                method=request.method,
                path=request.path,
                user=user,
                status=status,
                has_api_key="x-api-key" in request.headers,
                headers=request.headers,
                token=presented_token(request),
                body=_kept_body(request),
                at=state.now(),
            )
        )


def _kept_body(request: Request) -> Any:
    if not request.body or len(request.body) > KEPT_BODY:
        return None
    try:
        return request.form()
    except Malformed:
        return None
