"""What a call says about itself, in the form in which LiteLLM hands it to its callbacks.

The names are LiteLLM's internals, seen in 1.106.2; they are read here and nowhere else.
"""

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

import litellm
from litellm.constants import LITTELM_INTERNAL_HEALTH_SERVICE_ACCOUNT_NAME as HEALTH_CHECK
from litellm.proxy._types import UserAPIKeyAuth

from oauthvault_litellm.outgoing import PROVIDER, is_allowed
from oauthvault_litellm.settings import expand

_DEFAULT_ADDRESS = "https://api.anthropic.com"


def is_anthropic(call: Mapping[str, Any]) -> bool:
    """Whether the provider is Anthropic: by its name, or as LiteLLM reads it off the model."""
    provider = call.get("custom_llm_provider")
    if not provider:
        try:
            _, provider, _, _ = litellm.get_llm_provider(
                model=str(call.get("model") or ""), api_base=call.get("api_base")
            )
        except litellm.exceptions.BadRequestError:  # no provider: LiteLLM says so itself
            return False
    return bool(provider == PROVIDER)


def caller(call: Mapping[str, Any]) -> UserAPIKeyAuth | None:
    """Whom LiteLLM authenticated; None for calls that it makes on its own account.

    A client can send metadata that looks like this object. It cannot send one.
    """
    for name in ("litellm_metadata", "metadata"):
        metadata = call.get(name)
        if isinstance(metadata, Mapping):
            found = metadata.get("user_api_key_auth")
            if isinstance(found, UserAPIKeyAuth):
                return found
    return None


def is_health_check(who: UserAPIKeyAuth | None) -> bool:
    """LiteLLM's own probe: by its whole identity, not by an alias that anybody could give a key."""
    return who is not None and (
        who.key_alias == who.team_id == who.team_alias == HEALTH_CHECK  # type: ignore[comparison-overlap, unused-ignore]
    )


def foreign_host(call: Mapping[str, Any], allowed_hosts: frozenset[str]) -> str | None:
    """A host that this call could reach and that may not see a token; None if there is none."""
    for address in _addresses(call):
        if not is_allowed(address, allowed_hosts):
            return _host(address)
    return None


def host(call: Mapping[str, Any]) -> str:
    """The host that this call goes to, for a person to read."""
    return _host(next(_addresses(call)))


def attempt(call: Mapping[str, Any]) -> int:
    """Which attempt the router makes of this request: 1, and more after a retry."""
    for name in ("litellm_metadata", "metadata"):
        metadata = call.get(name)
        if isinstance(metadata, Mapping) and isinstance(metadata.get("attempted_retries"), int):
            return int(metadata["attempted_retries"]) + 1
    return 1


def _host(address: str) -> str:
    return re.sub(r"^(\w+:)?//|[/?#].*$", "", address).rpartition("@")[2] or "no host"


def _addresses(call: Mapping[str, Any]) -> Iterator[str]:
    """Every address that LiteLLM could come to use: the call's own, else the process's."""
    stored = _stored_credential(call)
    own = [source.get(name) for source in (call, stored) for name in ("api_base", "base_url")]
    environment = [os.environ.get(name) for name in ("ANTHROPIC_API_BASE", "ANTHROPIC_BASE_URL")]
    for addresses in (own, [litellm.api_base, *environment], [_DEFAULT_ADDRESS]):
        if any(addresses):
            yield from (str(address) for address in addresses if address)
            return


def _stored_credential(call: Mapping[str, Any]) -> Mapping[str, Any]:
    """LiteLLM merges a named credential into the call only after the deployment hook."""
    name = call.get("litellm_credential_name")
    for credential in litellm.credential_list if name else ():
        if credential.credential_name == name:
            return credential.credential_values  # type: ignore[no-any-return, unused-ignore]
    return {}


def with_expanded_api_key(call: Mapping[str, Any]) -> dict[str, Any]:
    """A copy in which ``api_key: "${VAR}"`` is what the variable holds, or absent.

    LiteLLM would send the four characters and the name to Anthropic.
    """
    key = call.get("api_key")
    if isinstance(key, str) and "${" in key:
        return {**call, "api_key": expand(key, os.environ)}
    return dict(call)


def has_api_key(call: Mapping[str, Any]) -> bool:
    """Whether LiteLLM could serve this call without a token of ours."""
    return bool(
        call.get("api_key")
        or _stored_credential(call).get("api_key")
        or litellm.anthropic_key
        or litellm.api_key
        or os.environ.get("ANTHROPIC_API_KEY")
    )
