"""What comes in and what goes out, before and after HTTP framing."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import parse_qsl

Endpoint = Literal["token", "revoke", "messages", "count_tokens"]
Delivery = Literal["whole", "trickle", "cut_short", "no_end", "none"]

ROUTES: Mapping[str, Endpoint] = {
    "/v1/oauth/token": "token",
    "/v1/oauth/token/revoke": "revoke",
    "/v1/messages": "messages",
    "/v1/messages/count_tokens": "count_tokens",
}


class Malformed(ValueError):
    """The body is not what its content type says."""


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    headers: Mapping[str, str] = field(repr=False)  # lower-case names
    body: bytes = field(repr=False)

    @property
    def endpoint(self) -> Endpoint | None:
        return ROUTES.get(self.path.partition("?")[0].rstrip("/"))

    @property
    def content_type(self) -> str:
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    @property
    def bearer(self) -> str | None:
        scheme, _, token = self.headers.get("authorization", "").partition(" ")
        return token.strip() or None if scheme.lower() == "bearer" else None

    def json(self) -> dict[str, Any]:
        """The body as a JSON object; raises Malformed for anything else."""
        try:
            value = json.loads(self.body)
        except ValueError as error:
            raise Malformed("body is not JSON") from error
        if not isinstance(value, dict):
            raise Malformed("body is not a JSON object")
        return value

    def form(self) -> dict[str, Any]:
        """The body as a form or, where the content type says so, as JSON."""
        if self.content_type == "application/json":
            return self.json()
        return dict(parse_qsl(self.body.decode("utf-8", "replace")))


@dataclass(frozen=True)
class Reply:
    status: int
    body: bytes = field(default=b"", repr=False)
    headers: Mapping[str, str] = field(default_factory=dict)
    chunks: tuple[bytes, ...] = field(default=(), repr=False)  # a stream, instead of a body
    delivery: Delivery = "whole"
    seconds: float = 0.0  # how long a trickle takes


def json_reply(status: int, value: object, headers: Mapping[str, str] | None = None) -> Reply:
    body = json.dumps(value, ensure_ascii=False).encode()
    return Reply(status, body, {"Content-Type": "application/json", **(headers or {})})


def oauth_error(status: int, error: str, description: str) -> Reply:
    """RFC 6749 §5.2."""
    return json_reply(
        status,
        {"error": error, "error_description": description},
        {"Cache-Control": "no-store"},
    )


def api_error(status: int, kind: str, message: str) -> Reply:
    """Anthropic's own error shape."""
    return json_reply(status, api_error_body(kind, message))


def api_error_body(kind: str, message: str) -> dict[str, Any]:
    return {"type": "error", "error": {"type": kind, "message": message}}


EDGE_BLOCK = (
    "<!DOCTYPE html><html><head><title>Access denied</title></head>"
    "<body><h1>Sorry, you have been blocked</h1></body></html>"
)


def html_reply(status: int, page: str) -> Reply:
    return Reply(status, page.encode(), {"Content-Type": "text/html; charset=UTF-8"})
