"""A callback that looks at all that LiteLLM hands it, as deep as objects go, and writes down what
looks like a credential of Anthropic's.

LiteLLM loads this in the proxy's own process, so nothing of ours is imported. The file it writes
to is in TEST_SPY_FILE; each event begins with a line of its own.
"""

import logging
import os
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from types import FunctionType, MethodType, ModuleType
from typing import Any

from litellm.integrations.custom_logger import CustomLogger

_MOST = 60_000
_writing = threading.Lock()

# The process itself: neither an event nor a part of one.
_NOT_SHOWN = (type, ModuleType, FunctionType, MethodType, logging.Logger, CustomLogger)
_NOT_SHOWN_BY_NAME = {"Router", "FastAPI", "DualCache", "ProxyLogging", "InternalUsageCache"}


def shown(thing: Any) -> Iterator[str]:
    """The texts in this object and in all that it holds, each with the way to it."""
    seen: set[int] = set()
    waiting: list[tuple[Any, str]] = [(thing, "")]
    while waiting and len(seen) < _MOST:
        one, way = waiting.pop()
        if isinstance(one, str):
            yield f"{way}: {one}"
        elif isinstance(one, bytes | bytearray):
            yield f"{way}: {bytes(one).decode('latin-1')}"
        elif one is None or isinstance(one, bool | int | float) or id(one) in seen:
            continue
        elif not isinstance(one, _NOT_SHOWN) and type(one).__name__ not in _NOT_SHOWN_BY_NAME:
            seen.add(id(one))
            if not isinstance(one, Mapping | list | tuple | set | frozenset):
                yield f"{way}: {_as_text(one)}"
            waiting += [(part, f"{way}.{name}") for name, part in _parts(one)]


def _as_text(one: Any) -> str:
    try:
        return f"{one!r} {one}"
    except Exception:  # of whatever LiteLLM made
        return ""


def _parts(one: Any) -> list[tuple[str, Any]]:
    parts: list[tuple[str, Any]] = []
    try:
        if isinstance(one, Mapping):
            parts += [("key", name) for name in one]
            parts += [(str(name), part) for name, part in one.items()]
        elif isinstance(one, list | tuple | set | frozenset):
            parts += [("", part) for part in one]
        parts += vars(one).items() if hasattr(one, "__dict__") else []
        if isinstance(one, BaseException):
            parts += [("args", one.args), ("cause", one.__cause__), ("context", one.__context__)]
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
