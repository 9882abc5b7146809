"""What else stands in LiteLLM's config and would undo what the hook promises.

Read from the file as it stands; what the hook can set right by itself for each request is not here.
"""

from collections.abc import Iterator, Mapping
from typing import Any


def check(config: Mapping[str, Any], *, multi_user: bool) -> list[str]:
    """Sentences for the operator's log. What ends the start is in `demands`."""
    return list(_warnings(config, _block(config, "general_settings"), multi_user=multi_user))


def _warnings(
    config: Mapping[str, Any], general: Mapping[str, Any], *, multi_user: bool
) -> Iterator[str]:
    litellm = _block(config, "litellm_settings")
    router = _block(config, "router_settings")
    for path, policy in _retry_policies(router, litellm):
        if policy.get("AuthenticationErrorRetries") == 0:
            yield (
                f"{path}.AuthenticationErrorRetries is 0: a token that upstream refuses is "
                "replaced, and the caller gets the 401 all the same. Remove it"
            )
    cap = litellm.get("num_retries_per_request")
    if isinstance(cap, int) and not isinstance(cap, bool) and cap < 2:
        yield (
            f"litellm_settings.num_retries_per_request is {cap}, which forbids the retry after a "
            "401: callers get it although the token was replaced. Make it 2 or remove it"
        )
    if general.get("enable_health_check_routing"):
        yield (
            "general_settings.enable_health_check_routing goes by probes, and LiteLLM's probes "
            "carry no user's token: deployments without an api_key are taken for unhealthy. "
            "Remove it, or list other groups in background_health_check_model_groups"
        )
    if multi_user and (litellm.get("cache") or router.get("cache_responses")):
        yield (
            "litellm_settings.cache is on: requests to models of Anthropic are neither answered "
            "from it nor kept in it, for it does not tell users apart"
        )


def _retry_policies(
    router: Mapping[str, Any], litellm: Mapping[str, Any]
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for path, policy in (
        ("router_settings.retry_policy", router.get("retry_policy")),
        ("litellm_settings.retry_policy", litellm.get("retry_policy")),
    ):
        if isinstance(policy, Mapping):
            yield path, policy
    for group, policy in _block(router, "model_group_retry_policy").items():
        if isinstance(policy, Mapping):
            yield f"router_settings.model_group_retry_policy.{group}", policy


def _block(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    block = config.get(name)
    return block if isinstance(block, Mapping) else {}
