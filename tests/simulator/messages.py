"""The Messages API: who may call, and an answer that names whose token arrived."""

import json
import secrets
from collections.abc import Iterator
from typing import Any

from .state import State
from .wire import Malformed, Reply, Request, api_error, json_reply

BETA = "oauth-2025-04-20"


def answer_messages(state: State, request: Request) -> Reply:
    caller = _authenticate(state, request)
    if isinstance(caller, Reply):
        return caller
    try:
        asked = request.json()
    except Malformed as error:
        return api_error(400, "invalid_request_error", str(error))
    for name in ("model", "messages", "max_tokens"):
        if name not in asked:
            return api_error(400, "invalid_request_error", f"{name}: Field required")
    message = _message(asked, f"Hello from {caller}")
    if asked.get("stream") is True:
        return Reply(
            200,
            headers={"Content-Type": "text/event-stream; charset=utf-8"},
            chunks=tuple(_events(message)),
        )
    return json_reply(200, message)


def answer_count_tokens(state: State, request: Request) -> Reply:
    caller = _authenticate(state, request)
    if isinstance(caller, Reply):
        return caller
    try:
        return json_reply(200, {"input_tokens": _input_tokens(request.json())})
    except Malformed as error:
        return api_error(400, "invalid_request_error", str(error))


def _authenticate(state: State, request: Request) -> str | Reply:
    """The user of the living token, or the 401. A bearer goes before an API key."""
    if request.bearer is None:
        api_key = request.headers.get("x-api-key")
        if api_key and api_key in state.settings.api_keys:
            return "api-key"
        problem = "invalid x-api-key" if api_key else "x-api-key header is required"
        return api_error(401, "authentication_error", problem)
    betas = [beta.strip() for beta in request.headers.get("anthropic-beta", "").split(",")]
    if BETA not in betas:
        return api_error(
            401,
            "authentication_error",
            "OAuth authentication is currently not supported. "
            f"(anthropic-beta header required: {BETA})",
        )
    with state.lock:
        verdict = state.logins.judge(request.bearer, now=state.now())
        user = state.logins.owner(request.bearer)
    if verdict == "living" and user is not None:
        return user
    if verdict == "expired":
        problem = (
            "OAuth token has expired. Please obtain a new token or refresh your existing token."
        )
    else:
        problem = "Invalid bearer token"
    return api_error(401, "authentication_error", problem)


def _message(asked: dict[str, Any], text: str) -> dict[str, Any]:
    return {
        "id": f"msg_{secrets.token_hex(12)}",
        "type": "message",
        "role": "assistant",
        "model": asked["model"],
        "content": [{"type": "text", "text": text}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {
            "input_tokens": _input_tokens(asked),
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "output_tokens": len(text.split()),
        },
    }


def _events(message: dict[str, Any]) -> Iterator[bytes]:
    text: str = message["content"][0]["text"]
    usage = message["usage"]
    begun = {
        **message,
        "content": [],
        "stop_reason": None,
        "usage": {**usage, "output_tokens": 1},
    }
    yield _event("message_start", message=begun)
    yield _event("content_block_start", index=0, content_block={"type": "text", "text": ""})
    yield _event("ping")
    words = text.split(" ")
    for place, word in enumerate(words):
        piece = word if place == len(words) - 1 else word + " "
        yield _event("content_block_delta", index=0, delta={"type": "text_delta", "text": piece})
    yield _event("content_block_stop", index=0)
    yield _event(
        "message_delta",
        delta={"stop_reason": "end_turn", "stop_sequence": None},
        usage={"output_tokens": usage["output_tokens"]},
    )
    yield _event("message_stop")


def _event(kind: str, **rest: Any) -> bytes:
    data = json.dumps({"type": kind, **rest}, ensure_ascii=False)
    return f"event: {kind}\ndata: {data}\n\n".encode()


def _input_tokens(asked: dict[str, Any]) -> int:
    """A plausible number, and the same for the same question."""
    return max(1, len(json.dumps(asked.get("messages", []))) // 4)
