"""What other callbacks of LiteLLM are shown of a request: all of it but its token.

LiteLLM hands its callbacks the headers as it sends them and, with an answer or a failure, the
request that led to it. :class:`Mask` stands before every other callback and takes the token out of
what those behind it get; what is sent is not touched. The hook itself stands behind all others:
nobody changes where a call goes after it was looked at.
"""

import asyncio
from collections.abc import Mapping
from typing import Any

import httpx
import litellm
from litellm.integrations.custom_logger import CustomLogger
from litellm.llms.custom_httpx.http_handler import get_async_httpx_client

from oauthvault_litellm.outgoing import MASK, OAUTH_PREFIX

# Who is told of events, in the order of these lists.
_LINES = (
    "input_callback",
    "success_callback",
    "failure_callback",
    "_async_success_callback",
    "_async_failure_callback",
)


def take_places(mask: "Mask", hook: CustomLogger) -> None:
    """Mask first, hook last: asked for before each attempt, since LiteLLM adds callbacks at any
    time. The lists are replaced and not changed, for one of them is being walked through."""
    callbacks = litellm.callbacks
    if hook in callbacks and not (callbacks[0] is mask and callbacks[-1] is hook):
        others = [one for one in callbacks if one is not mask and one is not hook]
        litellm.callbacks = [mask, *others, hook]
    for name in _LINES:
        line = getattr(litellm, name)
        if not line or line[0] is not mask:
            setattr(litellm, name, [mask, *(one for one in line if one is not mask)])


def watch_clients() -> None:
    """LiteLLM's clients for Anthropic forget a token once the head of the answer is there.

    Nothing else comes before the first event about a stream that breaks off, and all that
    remembers the request later remembers the same one.
    """
    for client in (
        get_async_httpx_client(llm_provider=litellm.LlmProviders.ANTHROPIC),
        litellm.module_level_aclient,
    ):
        hooks = client.client.event_hooks
        if _forget not in hooks["response"]:
            hooks["response"].append(_forget)
            client.event_hooks = hooks  # for the client that replaces this one after a reset


async def _forget(answer: httpx.Response) -> None:
    if answer.has_redirect_location:
        # The headers of the request that follows are made from these, before the loop turns.
        asyncio.get_running_loop().call_soon(hide_in_answer, answer)
    else:
        hide_in_answer(answer)


class Mask(CustomLogger):  # type: ignore[misc, unused-ignore]
    # LiteLLM passes by keyword, or by place, and the names of the parameters are its own.

    def log_pre_api_call(self, model: Any, messages: Any, kwargs: dict[str, Any]) -> None:
        """The headers are final and not yet sent. `kwargs` is what every later event is given."""
        given = kwargs.get("additional_args")
        if isinstance(given, Mapping) and isinstance(given.get("headers"), Mapping):
            kwargs["additional_args"] = {**given, "headers": _masked(given["headers"])}

    async def async_post_call_success_deployment_hook(
        self, request_data: Mapping[str, Any], response: Any, call_type: Any
    ) -> None:
        _hide_in_details(request_data)

    async def async_post_call_failure_deployment_hook(
        self,
        request_data: Mapping[str, Any],
        exception: Exception,
        call_type: Any,
        fallback_depth: int | None = None,
    ) -> None:
        _hide_in_details(request_data)
        hide_in_failure(exception)


def hide_in_failure(failure: BaseException) -> None:
    """No request that this exception or what led to it remembers has its token any more."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [failure]
    while waiting:
        one = waiting.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        waiting += [one.__cause__, one.__context__]
        for held in vars(one).values():
            if isinstance(held, httpx.Request):
                _hide_in_request(held)
            elif isinstance(held, httpx.Response):
                hide_in_answer(held)
            elif isinstance(held, BaseException):
                waiting.append(held)


def hide_in_answer(answer: httpx.Response) -> None:
    """The request that an answer remembers was sent: its token has served."""
    for one in (answer, *getattr(answer, "history", ())):
        try:
            request = one.request
        except RuntimeError:  # it has none
            continue
        _hide_in_request(request)
        _hide_in_stream(one.stream)


def _hide_in_stream(stream: object) -> None:
    """LiteLLM sends with aiohttp underneath httpx, which keeps a request of its own."""
    for name in ("_stream", "_aiohttp_response"):
        stream = getattr(stream, name, None)
    info = getattr(stream, "_request_info", None)
    if info is None or not _is_bearer("authorization", info.headers.get("authorization")):
        return
    headers = info.headers.copy()
    headers["authorization"] = MASK
    stream._request_info = info._replace(headers=type(info.headers)(headers))  # type: ignore[attr-defined, union-attr, unused-ignore]


def _hide_in_request(request: httpx.Request) -> None:
    if _is_bearer("authorization", request.headers.get("authorization")):
        request.headers["authorization"] = MASK


def _hide_in_details(request_data: Mapping[str, Any]) -> None:
    details = getattr(request_data.get("litellm_logging_obj"), "model_call_details", None)
    answer = details.get("httpx_response") if isinstance(details, Mapping) else None
    if isinstance(answer, httpx.Response):
        hide_in_answer(answer)


def _masked(headers: Mapping[str, Any]) -> dict[str, Any]:
    return {k: MASK if _is_bearer(str(k), v) else v for k, v in headers.items()}


def _is_bearer(name: str, value: object) -> bool:
    return name.lower() == "authorization" and str(value).startswith(f"Bearer {OAUTH_PREFIX}")
