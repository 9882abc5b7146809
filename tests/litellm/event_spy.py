"""A callback that looks at all that LiteLLM hands it, as deep as objects go, and writes down what
looks like a credential of Anthropic's.

LiteLLM loads this in the proxy's own process, so nothing of ours is imported. The file it writes
to is in TEST_SPY_FILE; each event begins with a line of its own.
"""

import logging
import os
import threading
from collections.abc import AsyncIterator, Mapping
from types import FunctionType, MethodType, ModuleType
from typing import Any

from litellm.integrations.custom_logger import CustomLogger

_DEEPEST = 14
_MOST = 60_000
_writing = threading.Lock()

# The process itself: neither an event nor a part of one.
_NOT_SHOWN = (type, ModuleType, FunctionType, MethodType, logging.Logger, CustomLogger)
_NOT_SHOWN_BY_NAME = {"Router", "FastAPI", "DualCache", "ProxyLogging", "InternalUsageCache"}


def shown(thing: Any) -> list[str]:
    """The texts in this object and in all that it holds."""
    texts: list[str] = []
    seen: set[int] = set()
    waiting: list[tuple[Any, int]] = [(thing, 0)]
    while waiting and len(texts) < _MOST:
        one, depth = waiting.pop()
        if isinstance(one, str):
            texts.append(one)
        elif isinstance(one, bytes | bytearray):
            texts.append(bytes(one).decode("latin-1"))
        elif (
            one is None
            or isinstance(one, bool | int | float)
            or id(one) in seen
            or isinstance(one, _NOT_SHOWN)
            or type(one).__name__ in _NOT_SHOWN_BY_NAME
        ):
            continue
        elif depth < _DEEPEST:
            seen.add(id(one))
            texts += _as_text(one)
            waiting += [(part, depth + 1) for part in _parts(one)]
    return texts


def _as_text(one: Any) -> list[str]:
    if isinstance(one, Mapping | list | tuple | set | frozenset):
        return []  # its parts say it all
    try:
        return [repr(one), str(one)]
    except Exception:  # of whatever LiteLLM made
        return []


def _parts(one: Any) -> list[Any]:
    parts: list[Any] = []
    try:
        if isinstance(one, Mapping):
            parts += [part for pair in one.items() for part in pair]
        elif isinstance(one, list | tuple | set | frozenset):
            parts += list(one)
        parts += list(vars(one).values()) if hasattr(one, "__dict__") else []
        if isinstance(one, BaseException):
            parts += [*one.args, one.__cause__, one.__context__]
    except Exception:
        return parts
    return parts


def note(event: str, *given: Any) -> None:
    # What is no credential is not written down: a request has a thousand texts.
    lines = [f"=== {event}", *(text for text in shown(given) if "sk-ant-" in text)]
    with _writing, open(os.environ["TEST_SPY_FILE"], "a", errors="replace") as out:
        out.write("\n".join(lines) + "\n")


class Spy(CustomLogger):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    async def async_post_call_streaming_iterator_hook(
        self, user_api_key_dict: Any, response: Any, request_data: Any
    ) -> AsyncIterator[Any]:
        async for piece in response:
            yield piece
        note(
            f"{self.name} async_post_call_streaming_iterator_hook", user_api_key_dict, request_data
        )


def _plain(event: str) -> Any:
    def told(self: Spy, *args: Any, **kwargs: Any) -> None:
        note(f"{self.name} {event}", args, kwargs)

    return told


def _awaited(event: str) -> Any:
    async def told(self: Spy, *args: Any, **kwargs: Any) -> None:
        note(f"{self.name} {event}", args, kwargs)

    return told


for _event in (
    "log_pre_api_call",
    "log_post_api_call",
    "log_success_event",
    "log_failure_event",
    "log_stream_event",
):
    setattr(Spy, _event, _plain(_event))
for _event in (
    "async_log_pre_api_call",
    "async_log_success_event",
    "async_log_failure_event",
    "async_log_stream_event",
    "async_pre_request_hook",
    "async_pre_call_hook",
    "async_pre_call_deployment_hook",
    "async_post_call_success_deployment_hook",
    "async_post_call_failure_deployment_hook",
    "async_post_call_success_hook",
    "async_post_call_failure_hook",
    "async_moderation_hook",
    "log_success_fallback_event",
    "log_failure_fallback_event",
    "log_model_group_rate_limit_error",
):
    setattr(Spy, _event, _awaited(_event))


first = Spy("first")
last = Spy("last")
