"""What `claude_oauth` may say, and how the hook answers to what it may not."""

from typing import Any

import pytest
from oauthvault_litellm.settings import (
    Settings,
    SettingsError,
    claude_oauth_block,
    read_settings,
)

KEY = "ovs_" + "k" * 43
ENVIRON = {
    "OAUTHVAULT_SERVICE_KEY": KEY,
    "CLAUDE_ACCESS_TOKEN": "sk-ant-oat01-canary-access",
    "CLAUDE_REFRESH_TOKEN": "sk-ant-ort01-canary-refresh",
    "CLAUDE_EXPIRES_AT": "1234567890",
}


def read(environ: dict[str, str] | None = None, **block: Any) -> Settings:
    return read_settings(block, ENVIRON if environ is None else environ)


def test_the_block_of_the_document_is_read_as_it_stands() -> None:
    settings = read(
        enabled=True,
        access_token="${CLAUDE_ACCESS_TOKEN}",
        refresh_token="${CLAUDE_REFRESH_TOKEN}",
        expires_at="${CLAUDE_EXPIRES_AT}",
        auto_refresh=True,
        refresh_threshold=300,
        token_encryption=True,
        debug=True,
        log_tokens=False,
    )
    assert settings.enabled
    assert settings.offered is not None
    assert settings.offered.access_token.reveal() == "sk-ant-oat01-canary-access"
    assert settings.offered.refresh_token is not None
    assert settings.offered.expires_at == 1234567890
    assert (settings.refresh.enabled, settings.refresh.threshold) == (True, 300)
    assert settings.debug
    assert not settings.multi_user


def test_the_refresh_strategy_of_the_document_is_read() -> None:
    refresh = read(
        auto_refresh={
            "enabled": True,
            "threshold": 300,
            "max_retries": 3,
            "retry_backoff": "exponential",
        }
    ).refresh
    assert (refresh.enabled, refresh.threshold) == (True, 300)
    assert (refresh.max_retries, refresh.retry_backoff) == (3, "exponential")
    assert refresh.asked() == {
        "auto_refresh": True, "refresh_threshold": 300, "max_retries": 3,
        "retry_backoff": "exponential",
    }  # fmt: skip


def test_of_the_refreshes_only_what_the_block_says_is_asked_for() -> None:
    assert read().refresh.asked() == {}
    assert read(auto_refresh=False).refresh.asked() == {"auto_refresh": False}
    both = read(refresh_threshold="600", auto_refresh={"max_retries": 0}).refresh
    assert both.asked() == {"refresh_threshold": 600, "max_retries": 0}


def test_the_defaults_are_those_of_the_contract() -> None:
    settings = read()
    assert settings.vault_url == "http://127.0.0.1:8000"
    assert settings.vault_key is not None
    assert settings.vault_key.reveal() == KEY
    assert (settings.cache_seconds, settings.max_stale_seconds) == (10, 900)
    assert settings.wait_seconds == 30
    assert settings.allowed_hosts == {"api.anthropic.com"}
    assert settings.fallback_to_api_key


def test_multi_user_takes_the_api_key_fallback_away_unless_it_is_asked_for() -> None:
    both = {"enabled": True, "isolation": "strict"}
    assert read(multi_user=both).multi_user
    assert not read(multi_user=both).fallback_to_api_key
    assert read(multi_user=both, fallback_to_api_key=True).fallback_to_api_key
    assert not read(multi_user={"enabled": False}).multi_user


def test_litellms_own_form_of_a_variable_is_expanded_too() -> None:
    settings = read(vault_key="os.environ/MY_KEY", environ={"MY_KEY": KEY})
    assert settings.vault_key is not None
    assert settings.vault_key.reveal() == KEY


def test_variables_that_are_not_set_leave_the_tokens_to_the_vault() -> None:
    settings = read(
        access_token="${CLAUDE_ACCESS_TOKEN}",
        refresh_token="${CLAUDE_REFRESH_TOKEN}",
        expires_at="${CLAUDE_EXPIRES_AT}",
        environ={"OAUTHVAULT_SERVICE_KEY": KEY},
    )
    assert settings.offered is None


def test_the_service_key_may_stand_in_a_file(tmp_path: Any) -> None:
    file = tmp_path / "key"
    file.write_text(KEY + "\n")
    settings = read(environ={"OAUTHVAULT_SERVICE_KEY_FILE": str(file)})
    assert settings.vault_key is not None
    assert settings.vault_key.reveal() == KEY


def test_hosts_are_names_without_regard_to_case() -> None:
    assert read(allowed_hosts=["API.anthropic.com", "::1"]).allowed_hosts == {
        "api.anthropic.com",
        "::1",
    }


@pytest.mark.parametrize(
    ("block", "sentence"),
    [
        ({"token_encryption": False}, "only sealed"),
        ({"log_tokens": True}, "never logged"),
        ({"refresh_treshold": 300}, "did you mean refresh_threshold?"),
        ({"multi_user": {"enabled": True, "isolaton": "strict"}}, "did you mean isolation?"),
        ({"auto_refresh": {"treshold": 1}}, "claude_oauth.auto_refresh.treshold"),
        ({"zzz": 1}, "known are "),
        ({"multi_user": {"enabled": True, "isolation": "loose"}}, "must be strict, not 'loose'"),
        ({"enabled": "perhaps"}, "claude_oauth.enabled must be true or false"),
        ({"cache_seconds": -1}, "claude_oauth.cache_seconds must be a number of seconds"),
        ({"cache_seconds": "ten"}, "claude_oauth.cache_seconds"),
        ({"wait_seconds": float("inf")}, "claude_oauth.wait_seconds"),
        ({"refresh_threshold": True}, "claude_oauth.refresh_threshold must be a whole number"),
        ({"refresh_threshold": 0}, "claude_oauth.refresh_threshold must be a whole number from 1"),
        ({"refresh_threshold": 86_401}, "from 1 to 86400, not 86401"),
        ({"auto_refresh": {"threshold": 0}}, "claude_oauth.auto_refresh.threshold must be"),
        ({"auto_refresh": {"max_retries": 11}}, "a whole number from 0 to 10, not 11"),
        ({"auto_refresh": {"retry_backoff": "random"}}, "exponential, linear or fixed"),
        ({"auto_refresh": {"threshold": 1}, "refresh_threshold": 2}, "keep one of them"),
        ({"allowed_hosts": ["https://api.anthropic.com"]}, "without scheme, port or path"),
        ({"allowed_hosts": []}, "claude_oauth.allowed_hosts"),
        ({"vault_url": "vault:8000"}, "claude_oauth.vault_url"),
        ({"vault_url": "${NOT_SET}"}, "that variable is not set"),
        ({"access_token": "sk-ant-oat01-canary"}, "claude_oauth.expires_at is missing"),
        ({"refresh_token": "sk-ant-ort01-canary"}, "claude_oauth.access_token is missing"),
        ({"access_token": "sk-ant-oat01-canary\n x", "expires_at": 1}, "printable ASCII"),
        ({"expires_at": "sk-ant-oat01-canary-in-the-wrong-place"}, "claude_oauth.expires_at"),
        ({"vault_key": "sk-canary-of-something-else"}, "not a key of the vault"),
    ],
)
def test_what_cannot_be_right_is_refused_by_name(block: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SettingsError) as refused:
        read(**block)
    assert sentence in str(refused.value)
    assert "canary" not in str(refused.value)


def test_a_missing_key_is_refused_with_the_command_that_makes_one() -> None:
    with pytest.raises(SettingsError, match="oauthvault create_key"):
        read(environ={})
    assert not read(environ={}, enabled=False).enabled


def test_the_block_is_found_in_both_places_and_refused_in_both_at_once() -> None:
    block = {"enabled": True}
    assert claude_oauth_block({"general_settings": {"claude_oauth": block}}) == block
    assert claude_oauth_block({"claude_oauth": block, "general_settings": None}) == block
    assert claude_oauth_block({"general_settings": {}}) is None
    with pytest.raises(SettingsError, match="keep one of them"):
        claude_oauth_block({"claude_oauth": block, "general_settings": {"claude_oauth": block}})
    with pytest.raises(SettingsError, match="must be a mapping"):
        claude_oauth_block({"claude_oauth": [block]})


def test_no_secret_shows_when_settings_are_printed() -> None:
    settings = read(
        access_token="${CLAUDE_ACCESS_TOKEN}",
        refresh_token="${CLAUDE_REFRESH_TOKEN}",
        expires_at="${CLAUDE_EXPIRES_AT}",
    )
    assert "canary" not in repr(settings)
    assert KEY not in f"{settings} {settings.vault_key}"
