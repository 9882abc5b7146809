"""Where a token may go, and how the request looks that carries it."""

import copy
import json
import pickle
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from oauthvault_litellm.outgoing import (
    Bearer,
    _passes_a_proxy,
    carried_token,
    is_allowed,
    is_oauth_token,
    is_private,
    with_token,
    without_token,
)
from oauthvault_litellm.secret import Secret

PROVIDER = "anthropic"
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
        "https://api.anthropic.com/create_api_key?x=/v1/messages",
        "https://api.anthropic.com/create_api_key#/v1/messages",
        "https://[::1",
        "https://",
        "",
    ],
)
def test_anything_else_is_not(address: str) -> None:
    assert not is_allowed(address, HOSTS)


@pytest.mark.parametrize(
    "address",
    [
        "https://api.anthropic.com",
        "HTTPS://api.anthropic.com/v1",
        "http://127.0.0.1:8400",
        "http://127.8.8.8",
        "http://[::1]:8400/v1/messages",
        "http://LOCALHOST.:8400",
    ],
)
def test_what_is_sent_by_https_or_stays_on_this_machine_is_read_by_nobody_else(
    address: str, no_proxy: pytest.MonkeyPatch
) -> None:
    assert is_private(address)


@pytest.mark.parametrize(
    "address",
    [
        "http://api.anthropic.com",
        "http://10.0.0.7:8400",
        "http://127.0.0.1.evil.example",
        "http://localhost.evil.example",
        "ftp://127.0.0.1",
        "http://",
        "http://[::1",
    ],
)
def test_plain_http_over_a_network_is_read_by_others(
    address: str, no_proxy: pytest.MonkeyPatch
) -> None:
    assert not is_private(address)


@pytest.mark.parametrize("variable", ["http_proxy", "all_proxy"])
def test_a_proxy_of_the_environment_reads_plain_http(
    variable: str, no_proxy: pytest.MonkeyPatch
) -> None:
    no_proxy.setenv(variable, "http://proxy.example:3128")
    assert not is_private("http://127.0.0.1:8400")
    assert is_private("https://api.anthropic.com")
    _passes_a_proxy.cache_clear()
    no_proxy.setenv("no_proxy", "127.0.0.1")
    assert is_private("http://127.0.0.1:8400")


@pytest.fixture
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    _passes_a_proxy.cache_clear()
    yield monkeypatch
    _passes_a_proxy.cache_clear()


def entry(call: dict[str, Any]) -> dict[str, str]:
    last: dict[str, Any] = call["provider_specific_header"][-1]
    assert last["custom_llm_provider"] == "anthropic"
    headers: dict[str, str] = last["extra_headers"]
    return headers


def sent(headers: dict[str, str]) -> dict[str, str]:
    """What httpx puts on the wire."""
    return dict(httpx.Headers(headers))


def test_the_token_is_addressed_to_anthropic_with_the_beta_it_needs() -> None:
    call = with_token({"model": "claude"}, TOKEN, {})
    assert sent(entry(call)) == {"authorization": "Bearer sk-ant-oat01-canary", **BETA}
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


@pytest.mark.parametrize(
    "name",
    [
        "Host", "host ", "Transfer-Encoding", "Content-Length",
        # Of browsers: Anthropic answers 401 to them, and that would count against the token.
        "Origin", "Cookie", "Sec-Fetch-Mode", "anthropic-dangerous-direct-browser-access",
    ],
)  # fmt: skip
def test_a_client_says_neither_which_host_answers_nor_where_a_request_ends(name: str) -> None:
    theirs = {name: "evil.example", "x-trace": "z"}
    call = with_token(
        {
            "headers": theirs,
            "extra_headers": theirs,
            "provider_specific_header": {"custom_llm_provider": PROVIDER, "extra_headers": theirs},
        },
        TOKEN,
        {name: "evil.example"},
    )
    assert "evil.example" not in str(call)
    assert call["extra_headers"] == {"x-trace": "z"}


def test_no_api_key_stands_beside_a_token() -> None:
    assert with_token({"api_key": "sk-ant-api03-x"}, TOKEN, BETA)["api_key"] is None
    assert "api_key" not in with_token({}, TOKEN, BETA)


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


def test_an_attempt_elsewhere_starts_without_the_token_and_with_the_rest() -> None:
    theirs = {"custom_llm_provider": PROVIDER, "extra_headers": {"anthropic-beta": "a"}}
    call = without_token(with_token({"provider_specific_header": theirs, "n": 1}, TOKEN, BETA))
    assert call == {"provider_specific_header": [theirs], "n": 1}
    assert without_token(with_token({}, TOKEN, BETA))["provider_specific_header"] is None


def test_as_text_the_header_is_a_mask_and_on_the_wire_it_is_the_token() -> None:
    header = Bearer(TOKEN)
    call = with_token({"n": 1}, TOKEN, BETA)
    shown = [str(header), repr(header), f"{header}", json.dumps(call), str(call), header[7:]]
    assert not any("canary" in text for text in shown)
    assert httpx.Headers({"authorization": header})["authorization"] == (
        "Bearer sk-ant-oat01-canary"
    )
    assert header.startswith("Bearer sk-ant-oat")
    assert header.removeprefix("Bearer ") == "sk-ant-oat01-canary"


def test_a_header_is_copied_as_itself_and_never_pickled() -> None:
    header = Bearer(TOKEN)
    assert copy.copy(header) is header
    assert copy.deepcopy({"a": [header]})["a"][0] is header
    with pytest.raises(TypeError, match="not serialised"):
        pickle.dumps(header)


def test_only_what_litellm_takes_for_an_oauth_token_is_one() -> None:
    assert is_oauth_token(TOKEN)
    assert not is_oauth_token(Secret("sk-ant-api03-canary"))
