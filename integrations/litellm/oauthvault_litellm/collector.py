"""Keeps a finalizer of LiteLLM's out of the garbage collector, where it can end the proxy.

Before Python 3.12 the collector runs in the middle of any allocation, that of a context variable's
new value included. What it finalizes there must set no context variable: the interpreter goes on
with memory that was freed meanwhile, and dies of a segmentation fault, with every request that
this process had (CPython issue 148891, open). LiteLLM's stream does set two, in its `__del__`.
"""

import gc
import sys
from threading import get_ident
from typing import Any

# Since 3.12 the collector waits until the interpreter is between two instructions.
IS_AT_RISK = sys.version_info < (3, 12)

_collecting: int | None = None


def guard() -> None:
    """From here on a stream that the collector finds leaves the ids of its request's log lines as
    they are. One that is dropped puts them back as LiteLLM means it to.

    LiteLLM calls this finalizer a best effort for abandoned streams, whose context ends with
    their task. Does nothing where no harm can come of it, or a second time.
    """
    if not IS_AT_RISK or _note in gc.callbacks:
        return
    from litellm.litellm_core_utils.streaming_handler import CustomStreamWrapper

    restore = getattr(CustomStreamWrapper, "__del__", None)
    if restore is None:
        return

    def finalize(stream: Any) -> None:
        if _collecting != get_ident():
            restore(stream)

    CustomStreamWrapper.__del__ = finalize
    gc.callbacks.append(_note)


def _note(phase: str, _: Any) -> None:
    """What runs while a thread collects, runs in that thread."""
    global _collecting
    _collecting = get_ident() if phase == "start" else None
