"""What the rest of LiteLLM's config must say, now that the hook is in it; looked at once, at start.

Where it says something else, LiteLLM would leave out checks of its own, or a setting of ours would
be without effect. Either is said by name, and ends the start.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from oauthvault_litellm.settings import Settings, SettingsError

HOOK = "oauthvault_litellm.hook"
AUTH = "oauthvault_litellm.auth"


def check_config(config: Mapping[str, Any], settings: Settings) -> None:
    """Raises :class:`SettingsError` on the first thing that is wrong or missing."""
    general = config.get("general_settings") or {}
    rest = config.get("litellm_settings") or {}
    if general.get("custom_auth") == AUTH:
        _checks_stay_on(general, rest)
        if HOOK not in _callbacks(rest):
            raise SettingsError(
                f"general_settings.custom_auth is {AUTH} and litellm_settings.callbacks does not "
                f"name {HOOK}: callers would be let in and their tokens not used"
            )
    elif settings.direct_bearer in ("vault", "any"):
        raise SettingsError(
            f"claude_oauth.direct_bearer is {settings.direct_bearer} and nobody looks at Claude "
            f"tokens: set general_settings.custom_auth: {AUTH}"
        )
    elif settings.custom_auth is not None:
        raise SettingsError(
            "claude_oauth.custom_auth names whom general_settings.custom_auth would name if that "
            f"were not {AUTH}, which it is not: name them there"
        )
    if settings.enabled and settings.multi_user:
        _nobody_names_themselves(general)


def _checks_stay_on(general: Mapping[str, Any], rest: Mapping[str, Any]) -> None:
    """With a custom_auth LiteLLM drops checks of every caller, virtual keys included."""
    for block, name, on, checks in (
        (
            "general_settings",
            "custom_auth_run_common_checks",
            general.get("custom_auth_run_common_checks"),
            "which routes are for the admin, budgets, and blocked teams",
        ),
        (
            "litellm_settings",
            "enable_post_custom_auth_checks",
            rest.get("enable_post_custom_auth_checks"),
            "the models of a key and its expiry",
        ),
    ):
        if on is not True:
            raise SettingsError(
                f"{block}.{name}: true is missing: with general_settings.custom_auth, LiteLLM "
                f"stops checking {checks} without it"
            )


def _callbacks(rest: Mapping[str, Any]) -> list[Any]:
    named = rest.get("callbacks") or []
    return named if isinstance(named, list) else [named]


def _nobody_names_themselves(general: Mapping[str, Any]) -> None:
    """This setting has LiteLLM take the user id of a caller from a header of the request."""
    for mapping in _mappings(general.get("user_header_mappings")):
        if str(mapping.get("litellm_user_role", "")).lower() == "internal_user":
            raise SettingsError(
                "general_settings.user_header_mappings makes a header of the request the user id "
                "(litellm_user_role: internal_user), so anybody could spend anybody's credential: "
                "take it out, or turn claude_oauth.multi_user off"
            )


def _mappings(value: Any) -> Iterator[Mapping[str, Any]]:
    for mapping in value if isinstance(value, list) else [value]:
        if isinstance(mapping, Mapping):
            yield mapping
