"""What other callbacks of LiteLLM are shown of a request: all of it but its token.

LiteLLM hands its callbacks the headers as it sends them and, with an answer or a failure, the
request that led to it. :class:`Mask` stands before every other callback and takes the token out of
what those behind it get; what is sent is not touched. The hook itself stands behind all others, so
that nobody is handed the call after the token was put into it, or changes where it goes.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import httpx
import litellm
from litellm.integrations.custom_logger import CustomLogger

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

    def log_success_event(
        self, kwargs: Mapping[str, Any], response_obj: Any, start_time: Any, end_time: Any
    ) -> None:
        _hide_in_event(kwargs)

    async def async_log_success_event(
        self, kwargs: Mapping[str, Any], response_obj: Any, start_time: Any, end_time: Any
    ) -> None:
        _hide_in_event(kwargs)

    def log_failure_event(
        self, kwargs: Mapping[str, Any], response_obj: Any, start_time: Any, end_time: Any
    ) -> None:
        _hide_in_event(kwargs)

    async def async_log_failure_event(
        self, kwargs: Mapping[str, Any], response_obj: Any, start_time: Any, end_time: Any
    ) -> None:
        _hide_in_event(kwargs)


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
    for one in _with_history(answer):
        try:
            request = one.request
        except RuntimeError:  # it has none
            continue
        if _hide_in_request(request) and one.is_closed:
            # The stream remembers the request once more, in a form of its client's own.
            one.stream = httpx.ByteStream(b"")


def _with_history(answer: httpx.Response) -> Iterator[httpx.Response]:
    yield answer
    yield from answer.history


def _hide_in_request(request: httpx.Request) -> bool:
    """Whether it carries, or carried, an OAuth token."""
    carries = _is_bearer("authorization", request.headers.get("authorization"))
    if carries:
        request.headers["authorization"] = MASK
    return carries


def _hide_in_details(request_data: Mapping[str, Any]) -> None:
    details = getattr(request_data.get("litellm_logging_obj"), "model_call_details", None)
    if isinstance(details, Mapping):
        _hide_in_event(details)


def _hide_in_event(details: Mapping[str, Any]) -> None:
    if isinstance(answer := details.get("httpx_response"), httpx.Response):
        hide_in_answer(answer)
    if isinstance(failure := details.get("exception"), BaseException):
        hide_in_failure(failure)


def _masked(headers: Mapping[str, Any]) -> dict[str, Any]:
    return {k: MASK if _is_bearer(str(k), v) else v for k, v in headers.items()}


def _is_bearer(name: str, value: object) -> bool:
    return name.lower() == "authorization" and str(value).startswith(f"Bearer {OAUTH_PREFIX}")
