"""LiteLLM hook: every caller's Anthropic requests carry that caller's own Claude OAuth token.

``litellm_settings.callbacks: ["oauthvault_litellm.hook"]`` is all that LiteLLM needs to know, and
``general_settings.custom_auth: oauthvault_litellm.auth`` where a Claude token is to do for a key.
"""

from typing import Any

__version__ = "0.1.0"

__all__ = ["__version__"]


def __getattr__(name: str) -> Any:
    """``hook`` and ``auth`` are made when LiteLLM asks, so that the rest imports without LiteLLM.

    LiteLLM resolves a dotted path as *import the package, read the attribute*. No module here may
    therefore be called ``hook`` or ``auth``: importing such a module would put itself where the
    instance belongs, and whether LiteLLM found one or the other would depend on the order of
    imports.
    """
    if name == "hook":
        from oauthvault_litellm.callback import load_hook

        hook = globals()["hook"] = load_hook()
        return hook
    if name == "auth":
        from oauthvault_litellm.direct import load_auth

        auth = globals()["auth"] = load_auth()
        return auth
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
