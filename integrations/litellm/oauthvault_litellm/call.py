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
from litellm.secret_managers.main import get_secret_str

from oauthvault_litellm.outgoing import PROVIDER, is_allowed, is_private
from oauthvault_litellm.secret import Secret
from oauthvault_litellm.settings import expand

_DEFAULT_ADDRESS = "https://api.anthropic.com"


# What LiteLLM calls Anthropic's first way of answering, and takes some model names for.
_TEXT_PROVIDER = "anthropic_text"


def is_anthropic(call: Mapping[str, Any]) -> bool:
    """Whether the provider is Anthropic: by its name, or as LiteLLM reads it off the model."""
    return _provider(call) in (PROVIDER, _TEXT_PROVIDER)


def _provider(call: Mapping[str, Any]) -> str | None:
    if provider := call.get("custom_llm_provider"):
        return str(provider)
    model = str(call.get("model") or "")
    try:
        found = litellm.get_llm_provider(
            model=litellm.model_alias_map.get(model, model), api_base=call.get("api_base")
        )
    except litellm.exceptions.BadRequestError:  # no provider: LiteLLM says so itself
        return None
    return str(found[1])


# What LiteLLM sends to Anthropic with the headers that stand in a call. Files, batches, skills and
# whatever comes next go with the server's own key, whoever asks. (`generate_content` becomes a
# completion, which is a call of its own.)
_CARRYING = frozenset(
    {
        "completion",
        "acompletion",
        "text_completion",
        "atext_completion",
        "anthropic_messages",
        "responses",
        "aresponses",
        "generate_content",
        "agenerate_content",
        "generate_content_stream",
        "agenerate_content_stream",
    }
)


def carries_headers(call: Mapping[str, Any], call_type: Any) -> bool:
    """Whether a token that is put into a call of this type is what LiteLLM sends."""
    kind = str(getattr(call_type, "value", call_type))
    return kind in _CARRYING and _provider(call) != _TEXT_PROVIDER


def names_deployments(call: Mapping[str, Any]) -> bool:
    """Whether LiteLLM would send this call to deployments that stand in the call itself, at
    addresses of their own and without asking its callbacks again."""
    return bool(call.get("model_list"))


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


def address_of(call: Mapping[str, Any]) -> str:
    """Where LiteLLM sends this call, without the path of Messages."""
    address = next(_addresses(call)).rstrip("/")
    for suffix in ("/v1/messages", "/v1"):
        address = address.removesuffix(suffix)
    return address


def api_key(call: Mapping[str, Any]) -> Secret | None:
    """The API key with which LiteLLM would send this call, if there is one."""
    stored = _stored_credential(call).get("api_key")
    key = call.get("api_key") or stored or litellm.anthropic_key or litellm.api_key
    key = key or os.environ.get("ANTHROPIC_API_KEY")
    return Secret(str(key)) if key else None


def open_to_others(call: Mapping[str, Any]) -> str | None:
    """A host that this call could reach in plain http and over a network; None if there is none."""
    return next((_host(address) for address in _addresses(call) if not is_private(address)), None)


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
    # As LiteLLM reads them: from its secret manager, where it has one.
    environment = [get_secret_str(name) for name in ("ANTHROPIC_API_BASE", "ANTHROPIC_BASE_URL")]
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
    return api_key(call) is not None


async def deployment_of(group: str) -> dict[str, Any] | None:
    """Of the deployments behind a name that clients use, the parameters of one: one that is
    available, if there is one. None where LiteLLM knows none."""
    from litellm.proxy import proxy_server

    router = proxy_server.llm_router
    if router is None:
        return None
    try:
        found = await router.async_get_available_deployment(model=group, request_kwargs={})
    except Exception:
        # The router has many ways to say that all of them rest, or that it knows none.
        found = next(iter(router.get_model_list(model_name=group) or ()), None)
    return None if found is None else dict(found["litellm_params"])


def model_of(call: Mapping[str, Any]) -> str:
    """The model's name at Anthropic."""
    model: str = litellm.get_llm_provider(
        model=str(call["model"]),
        custom_llm_provider=call.get("custom_llm_provider"),
        api_base=call.get("api_base"),
    )[0]
    return model
