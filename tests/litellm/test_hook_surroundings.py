"""Settings of LiteLLM's own that would undo what the hook promises are named at the start."""

from typing import Any

import pytest
from oauthvault_litellm.surroundings import check

QUIET: dict[str, Any] = {
    "general_settings": {"user_header_mappings": [{"litellm_user_role": "customer"}]},
    "litellm_settings": {"num_retries_per_request": 2, "cache": False},
    "router_settings": {"retry_policy": {"AuthenticationErrorRetries": 2}, "allowed_fails": 0},
}


@pytest.mark.parametrize("multi_user", [True, False])
def test_settings_that_do_no_harm_are_not_spoken_of(multi_user: bool) -> None:
    assert check(QUIET, multi_user=multi_user) == []
    assert check({"general_settings": None}, multi_user=multi_user) == []


@pytest.mark.parametrize(
    ("config", "named"),
    [
        (
            {"router_settings": {"retry_policy": {"AuthenticationErrorRetries": 0}}},
            "router_settings.retry_policy.AuthenticationErrorRetries",
        ),
        (
            {
                "router_settings": {
                    "model_group_retry_policy": {"a": {"AuthenticationErrorRetries": 0}}
                }
            },
            "router_settings.model_group_retry_policy.a.AuthenticationErrorRetries",
        ),
        (
            {"litellm_settings": {"num_retries_per_request": 1}},
            "litellm_settings.num_retries_per_request",
        ),
        (
            {"general_settings": {"enable_health_check_routing": True}},
            "general_settings.enable_health_check_routing",
        ),
        ({"litellm_settings": {"cache": True}}, "litellm_settings.cache"),
    ],
)
def test_a_setting_that_does_is_named(config: dict[str, Any], named: str) -> None:
    (sentence,) = check(config, multi_user=True)
    assert named in sentence
