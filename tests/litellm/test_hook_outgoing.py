"""Where a token may go, and how the request looks that carries it."""

from typing import Any

import pytest
from oauthvault_litellm.outgoing import carried_token, is_allowed, is_oauth_token, with_token
from oauthvault_litellm.secret import Secret

HOSTS = frozenset({"api.anthropic.com", "::1"})
TOKEN = Secret("sk-ant-oat01-canary")
BETA = {"anthropic-beta": "oauth-2025-04-20"}


@pytest.mark.parametrize(
    "address",
    [
        "https://api.anthropic.com",
        "https://API.Anthropic.com./v1/messages",
        "https://api.anthropic.com:8443/v1",
        "api.anthropic.com/v1/messages",
        "http://[::1]:8400",
    ],
)
def test_an_allowed_host_is_allowed_on_any_port(address: str) -> None:
    assert is_allowed(address, HOSTS)


@pytest.mark.parametrize(
    "address",
    [
        "https://evil.example",
        "https://api.anthropic.com.evil.example",
        "https://evil.example/api.anthropic.com",
        "https://evil.example#api.anthropic.com",
        "https://api.anthropic.com@evil.example",
        "https://evil.example@api.anthropic.com",
        "https://evil.example\\@api.anthropic.com",
        "https://api.anthropic.com\t.evil.example",
        "https://xapi.anthropic.com",
        "https://[::1",
        "https://",
        "",
    ],
)
def test_anything_else_is_not(address: str) -> None:
    assert not is_allowed(address, HOSTS)


def entry(call: dict[str, Any]) -> dict[str, str]:
    last: dict[str, Any] = call["provider_specific_header"][-1]
    assert last["custom_llm_provider"] == "anthropic"
    headers: dict[str, str] = last["extra_headers"]
    return headers


def test_the_token_is_addressed_to_anthropic_with_the_beta_it_needs() -> None:
    call = with_token({"model": "claude"}, TOKEN, {})
    assert entry(call) == {"authorization": "Bearer sk-ant-oat01-canary", **BETA}
    assert call["model"] == "claude"


def test_entries_of_others_stay_and_what_they_authenticate_with_goes() -> None:
    theirs = {
        "custom_llm_provider": "anthropic,bedrock",
        "extra_headers": {
            "Authorization": "Bearer sk-ant-oat01-of-the-client",
            "X-Api-Key": "sk-of-the-client",
            "anthropic-version": "2023-06-01",
        },
    }
    call = with_token({"provider_specific_header": theirs}, TOKEN, BETA)
    first = call["provider_specific_header"][0]
    assert first["extra_headers"] == {"anthropic-version": "2023-06-01"}
    assert "Authorization" in theirs["extra_headers"]  # the caller's own object is left alone


def test_entries_for_other_providers_are_not_touched() -> None:
    theirs = {"custom_llm_provider": "bedrock", "extra_headers": {"authorization": "AWS4 …"}}
    call = with_token({"provider_specific_header": [theirs]}, TOKEN, BETA)
    assert call["provider_specific_header"][0] == theirs


@pytest.mark.parametrize("name", ["headers", "extra_headers"])
def test_other_headers_lose_their_credentials_in_any_spelling(name: str) -> None:
    given = {"AUTHORIZATION": "Bearer x", "x-API-key": "y", "x-trace": "z"}
    assert with_token({name: given}, TOKEN, BETA)[name] == {"x-trace": "z"}


def test_beta_values_are_merged_from_everywhere_and_none_comes_twice() -> None:
    call = with_token(
        {
            "provider_specific_header": {
                "custom_llm_provider": "anthropic",
                "extra_headers": {"Anthropic-Beta": "context-1m-2025-08-07, oauth-2025-04-20"},
            },
            "extra_headers": {"anthropic-beta": "files-api-2025-04-14"},
        },
        TOKEN,
        BETA,
    )
    assert sorted(entry(call)["anthropic-beta"].split(",")) == [
        "context-1m-2025-08-07",
        "files-api-2025-04-14",
        "oauth-2025-04-20",
    ]


def test_a_second_attempt_carries_the_second_token_only() -> None:
    first = with_token({}, TOKEN, BETA)
    second = with_token(first, Secret("sk-ant-oat01-newer"), BETA)
    assert carried_token(second) == Secret("sk-ant-oat01-newer")
    assert "canary" not in str(second)


def test_the_token_of_a_call_can_be_read_back_and_is_missing_where_none_was_put() -> None:
    assert carried_token(with_token({}, TOKEN, BETA)) == TOKEN
    assert carried_token({}) is None
    assert carried_token({"provider_specific_header": []}) is None


def test_only_what_litellm_takes_for_an_oauth_token_is_one() -> None:
    assert is_oauth_token(TOKEN)
    assert not is_oauth_token(Secret("sk-ant-api03-canary"))
