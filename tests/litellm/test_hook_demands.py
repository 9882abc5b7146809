"""What the rest of LiteLLM's config must say, and that the start ends where it does not."""

from typing import Any

import pytest
from oauthvault_litellm.demands import check_config
from oauthvault_litellm.settings import SettingsError, read_settings

KEY = "ovs_" + "k" * 43


def check(
    general: dict[str, Any] | None = None, rest: dict[str, Any] | None = None, **block: Any
) -> None:
    settings = read_settings(block, {"OAUTHVAULT_SERVICE_KEY": KEY})
    check_config({"general_settings": general, "litellm_settings": rest}, settings)


GENERAL: dict[str, Any] = {
    "custom_auth": "oauthvault_litellm.auth",
    "custom_auth_run_common_checks": True,
}
REST: dict[str, Any] = {
    "callbacks": ["other", "oauthvault_litellm.hook"],
    "enable_post_custom_auth_checks": True,
}


@pytest.mark.parametrize("mode", [None, "vault", "any", "off", False])
def test_a_config_that_is_right_is_accepted(mode: str | bool | None) -> None:
    block = {} if mode is None else {"direct_bearer": mode}
    check(GENERAL, REST, **block)
    check(GENERAL, {**REST, "callbacks": "oauthvault_litellm.hook"}, **block)
    check(GENERAL, REST, custom_auth="my_auth.check", **block)


def test_who_takes_no_claude_tokens_needs_none_of_it() -> None:
    check(None, None)
    check({"custom_auth": "my_auth.check"}, {"callbacks": ["oauthvault_litellm.hook"]})
    check({}, {}, direct_bearer="off")


@pytest.mark.parametrize(
    ("general", "rest", "named"),
    [
        ({"custom_auth_run_common_checks": False}, {}, "custom_auth_run_common_checks: true"),
        ({"custom_auth_run_common_checks": None}, {}, "custom_auth_run_common_checks: true"),
        ({"custom_auth_run_common_checks": "false"}, {}, "custom_auth_run_common_checks: true"),
        ({}, {"enable_post_custom_auth_checks": False}, "enable_post_custom_auth_checks: true"),
        ({}, {"enable_post_custom_auth_checks": None}, "enable_post_custom_auth_checks: true"),
        ({}, {"callbacks": []}, "callbacks does not name oauthvault_litellm.hook"),
        ({}, {"callbacks": None}, "callbacks does not name oauthvault_litellm.hook"),
    ],
)
def test_what_is_missing_is_named(
    general: dict[str, Any], rest: dict[str, Any], named: str
) -> None:
    for mode in ("vault", "any", "off"):
        with pytest.raises(SettingsError, match=named):
            check({**GENERAL, **general}, {**REST, **rest}, direct_bearer=mode)


@pytest.mark.parametrize("mode", ["vault", "any"])
@pytest.mark.parametrize("general", [{}, {"custom_auth": "my_auth.check"}])
def test_a_mode_that_nothing_would_act_on_is_refused(general: dict[str, Any], mode: str) -> None:
    with pytest.raises(SettingsError, match=r"custom_auth: oauthvault_litellm\.auth"):
        check(general, REST, direct_bearer=mode)


def test_another_custom_auth_that_would_not_be_asked_is_refused() -> None:
    with pytest.raises(SettingsError, match="name them there"):
        check({}, REST, custom_auth="my_auth.check")


@pytest.mark.parametrize("value", ["on", True, "vaults", 7, ["vault"]])
def test_a_mode_that_does_not_exist_is_refused(value: Any) -> None:
    with pytest.raises(SettingsError, match=r"claude_oauth\.direct_bearer must be vault, any or"):
        check(GENERAL, REST, direct_bearer=value)


@pytest.mark.parametrize("value", ["check", "my auth.check", "../my.check", 7, ["my_auth.check"]])
def test_a_custom_auth_that_is_no_path_is_refused(value: Any) -> None:
    with pytest.raises(SettingsError, match=r"claude_oauth\.custom_auth must be a function"):
        check(GENERAL, REST, custom_auth=value)


def test_no_header_of_a_request_may_be_the_user_id_where_users_have_their_own() -> None:
    internal = {"header_name": "X-User", "litellm_user_role": "internal_user"}
    customer = {"header_name": "X-User", "litellm_user_role": "customer"}
    for value in (
        internal,
        [customer, internal],
        [{**internal, "litellm_user_role": "Internal_User"}],
    ):
        with pytest.raises(SettingsError, match="user_header_mappings"):
            check({"user_header_mappings": value}, {}, multi_user=True)
        check({"user_header_mappings": value}, {})
    check({"user_header_mappings": [customer]}, {}, multi_user=True)
