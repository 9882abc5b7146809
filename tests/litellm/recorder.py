"""A callback as an operator may have one: writes down whatever LiteLLM gives it of a request.

LiteLLM loads this in the proxy's own process, so nothing of ours is imported. Before the call it
writes everything that it can reach; after it, what is meant for logs.
"""

import os
from collections.abc import Mapping
from typing import Any

from litellm.integrations.custom_logger import CustomLogger


class Recorder(CustomLogger):
    async def async_pre_call_hook(
        self, user_api_key_dict: Any, cache: Any, data: Any, call_type: Any
    ) -> None:
        _write("before", data, user_api_key_dict)

    async def async_log_success_event(
        self, kwargs: Any, response_obj: Any, start_time: Any, end_time: Any
    ) -> None:
        _write("success", kwargs.get("standard_logging_object"), kwargs.get("secret_fields"))

    async def async_log_failure_event(
        self, kwargs: Any, response_obj: Any, start_time: Any, end_time: Any
    ) -> None:
        _write("failure", kwargs.get("standard_logging_object"), kwargs.get("secret_fields"))

    async def async_post_call_failure_hook(
        self,
        request_data: Any,
        original_exception: Any,
        user_api_key_dict: Any,
        traceback_str: str | None = None,
    ) -> None:
        _write("refused", request_data, user_api_key_dict, traceback_str)


def _write(event: str, *found: Any) -> None:
    with open(os.environ["TEST_RECORD"], "a", encoding="utf-8") as record:
        record.write(f"{event}: {list(_texts(found, set()))!r}\n")


def _texts(value: Any, seen: set[int]) -> Any:
    """Every text in there, however deep: a `repr` that masks something hides it from nobody."""
    if isinstance(value, str | bytes):
        yield value
        return
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, Mapping):
        parts: Any = [*value.keys(), *value.values()]
    elif isinstance(value, list | tuple | set | frozenset):
        parts = value
    elif type(value).__module__.startswith("litellm"):
        parts = list(getattr(value, "__dict__", {}).values())
    else:
        parts = []
    for part in parts:
        yield from _texts(part, seen)


recorder = Recorder()
