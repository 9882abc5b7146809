"""For test_hook_collector.py: streams of LiteLLM end, one dropped, the others in cycles.

With the argument `hooked` LiteLLM has loaded the hook before. Prints how often a stream put its ids
back: when it was dropped, and when the collector found it.
"""

import contextvars
import gc
import json
import sys
from typing import Any

import oauthvault_litellm
from litellm.litellm_core_utils.streaming_handler import CustomStreamWrapper
from litellm.proxy import proxy_server

CONFIG: dict[str, Any] = {
    "general_settings": {
        "master_key": "sk-of-a-program-that-asks-nobody",
        "claude_oauth": {"vault_key": "ovs_" + "k" * 43},
    },
    "litellm_settings": {"callbacks": ["oauthvault_litellm.hook"]},
}
VARIABLES = [contextvars.ContextVar[object](f"variable-{number}") for number in range(40)]


class Ids:
    """In the place of LiteLLM's Logging, which puts two variables back: here it is all of them."""

    put_back = 0

    def _restore_correlation_context_if_unclaimed(self) -> None:
        Ids.put_back += 1
        for variable in VARIABLES:
            variable.set(object())


def stream() -> CustomStreamWrapper:
    made = CustomStreamWrapper.__new__(CustomStreamWrapper)
    made.logging_obj = Ids()
    return made


def lost_in_cycles() -> None:
    """So that the collector, which comes every few objects, comes while a variable is set."""
    kept = []
    for number in range(2000):
        lost = stream()
        lost.itself = lost
        del lost
        kept += [VARIABLES[each % 40].set(number) for each in range(number % 60)]
        if len(kept) > 300:
            kept.clear()


if "hooked" in sys.argv:
    proxy_server.proxy_config.update_config_state(config=CONFIG)
    assert oauthvault_litellm.hook.settings().enabled

dropped = stream()
del dropped
after_a_drop = Ids.put_back

gc.set_threshold(7, 10, 10)
for _ in range(20):
    contextvars.copy_context().run(lost_in_cycles)
gc.collect()
print(json.dumps({"dropped": after_a_drop, "collected": Ids.put_back - after_a_drop}))
