"""What LiteLLM's router is told: to try again after a 401, and that one user's trouble is theirs.

The router's own attributes and what it reads of a call are LiteLLM's internals, seen in 1.106.2.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import litellm
from litellm.types.router import RetryPolicy

from oauthvault_litellm import call


def router() -> Any:
    from litellm.proxy import proxy_server

    return proxy_server.llm_router


def prepare(data: dict[str, Any], *, retry: bool, users_apart: bool, team_id: str | None) -> None:
    """What a request needs of the router before it chooses a deployment.

    `retry`: one after a 401, which the router does not do by itself; by then the token has been
    replaced. What the operator says about retries after a 401 goes first. `users_apart`: no answer
    from LiteLLM's cache of answers and none into it, for it does not tell users apart.
    """
    group, current = data.get("model"), router()
    if not isinstance(group, str) or current is None:
        return
    groups = [
        name
        for name in _may_be_tried(current, data, group)
        if _anthropic(current, name, team_id=team_id)
    ]
    if not groups:
        return
    # Which provider a deployment is of, its parameters say.
    data.pop("custom_llm_provider", None)
    if retry:
        _retry_after_401(data, current, groups)
    if users_apart:
        keep_out_of_the_cache(data)


def keep_out_of_the_cache(data: dict[str, Any]) -> None:
    """No answer from LiteLLM's cache, and none into it. Said before the router chooses and once
    more for the attempt: not every name of a model shows before what is behind it."""
    if litellm.cache is not None:
        data["cache"] = {"no-cache": True, "no-store": True}
        data["caching"] = False


def is_anthropics_deployment(call_: Mapping[str, Any]) -> bool:
    """Whether the deployment that the router chose for this call is Anthropic's, whatever the
    call itself says."""
    current, info = router(), call_.get("model_info")
    number = info.get("id") if isinstance(info, Mapping) else None
    chosen = current.get_model_info(id=str(number)) if current is not None and number else None
    return chosen is not None and call.is_anthropic(chosen.get("litellm_params") or {})


def _retry_after_401(data: dict[str, Any], current: Any, groups: list[str]) -> None:
    policies = dict(data.get("model_group_retry_policy") or current.model_group_retry_policy or {})
    for name in groups:
        policy = policies.get(name) or current.retry_policy or RetryPolicy()
        if isinstance(policy, Mapping):
            policy = RetryPolicy(**policy)
        if policy.AuthenticationErrorRetries is None:
            policies[name] = policy.model_copy(update={"AuthenticationErrorRetries": 1})
            data["model_group_retry_policy"] = policies


def _may_be_tried(current: Any, data: Mapping[str, Any], group: str) -> Iterator[str]:
    """The group, and those to which its failures may lead."""
    yield group
    if "," in group:  # several models, asked at once
        yield from (name.strip() for name in group.split(","))
    for source in (
        current.fallbacks,
        current.context_window_fallbacks,
        current.content_policy_fallbacks,
        data.get("fallbacks"),
    ):
        for entry in source if isinstance(source, list) else ():
            targets = [entry] if isinstance(entry, str) else []
            if isinstance(entry, Mapping):
                targets = [
                    one
                    for several in entry.values()
                    if isinstance(several, list)
                    for one in several
                ]
            for target in targets:
                name = target.get("model") if isinstance(target, Mapping) else target
                if isinstance(name, str) and name != group:
                    yield name


def _anthropic(current: Any, group: str, *, team_id: str | None) -> bool:
    """Whether this name, as clients use it, has an Anthropic deployment behind it: a group's, a
    team's own, or a deployment's id."""
    deployments = current.get_model_list(model_name=group) or []
    if team_id is not None:
        deployments = [
            *deployments,
            *(current.get_model_list(model_name=group, team_id=team_id) or []),
        ]
    if not deployments and (chosen := current.get_model_info(id=group)) is not None:
        deployments = [chosen]
    return any(
        call.is_anthropic(deployment.get("litellm_params") or {}) for deployment in deployments
    )


class AttemptInfo(dict[str, Any]):
    """The `model_info` of one attempt, our own copy: what it says of the deployment may be changed.

    `given` is what the router itself reads in its place where a fallback fails.
    """

    def __init__(self, given: Any) -> None:
        super().__init__(given or {})
        self.given = given


def spare_the_deployment(request_data: Mapping[str, Any]) -> None:
    """One user's 401, 429 or refusal must not take the deployment away from everybody else.

    The router would let it rest for seconds, at once or when half of its requests of the minute
    have failed. How long it reads from the `model_info` of the attempt: 0 means not at all, and
    other failures still count. Which deployment it counts the failure for it reads there too. Of
    a fallback that fails it reads neither, but the id in the dictionary that it made for this
    request.
    """
    info = request_data.get("model_info")
    if isinstance(info, AttemptInfo):
        info["cooldown_time"] = 0
        if not _counts_what_is_busy(router()):
            info.pop("id", None)
        info = info.given
    if request_data.get("fallback_depth") and isinstance(info, dict) and not _is_the_routers(info):
        info.pop("id", None)


def _counts_what_is_busy(current: Any) -> bool:
    """Whether the router subtracts a failed request from a deployment's by that same id."""
    return "least-busy" in str(getattr(current, "routing_strategy", ""))


def _is_the_routers(info: Mapping[str, Any]) -> bool:
    """Whether this is the deployment's own dictionary, which nobody may change."""
    current = router()
    deployment = None if current is None else current.get_model_info(id=str(info.get("id")))
    return deployment is not None and deployment.get("model_info") is info
