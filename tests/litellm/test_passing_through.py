"""The ways to Anthropic on which LiteLLM runs no callback: the caller's own token, or none."""

import json
import secrets
import socket
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import httpx
import pytest

from tests.litellm.processes import Proxy, Vault, hello, require_litellm, running
from tests.simulator import Simulator

pytestmark = [pytest.mark.system, pytest.mark.timeout(1200)]

MASTER_KEY = f"sk-{secrets.token_urlsafe(24)}"
OAUTH_BETA = "oauth-2025-04-20"
OF_THE_COMPANY = "sk-ant-api03-of-the-company"

# Anthropic by name and by wildcard; another provider; Anthropic by name and elsewhere by address.
CONFIG = """
model_list:
  - model_name: claude-3-sonnet
    litellm_params:
      model: anthropic/claude-3-sonnet-20240229
      api_key: sk-ant-api03-of-the-company
  - model_name: anthropic/*
    litellm_params:
      model: anthropic/*
  - model_name: foreign
    litellm_params:
      model: anthropic/claude-3-opus-20240229
      api_base: http://localhost:FOREIGN_PORT
  - model_name: another-provider
    litellm_params:
      model: openai/gpt-4o
      api_base: ANTHROPIC/v1
      api_key: sk-key-of-another-provider

files_settings:
  - custom_llm_provider: anthropic
    api_key: sk-ant-api03-of-the-company

general_settings:
  master_key: os.environ/TEST_MASTER_KEY
  custom_auth: proxy_auth.user_api_key_auth
  custom_auth_run_common_checks: true
  pass_through_endpoints:
    - path: /straight
      target: ANTHROPIC/v1/messages
      headers: {x-api-key: sk-ant-api03-of-the-company}

claude_oauth:
  multi_user: {enabled: true}
  fallback_to_api_key: FALLBACK
  allowed_hosts: ["127.0.0.1"]

litellm_settings:
  callbacks: ["oauthvault_litellm.hook"]
  enable_post_custom_auth_checks: true
"""


@pytest.fixture(scope="module")
def anthropic() -> Iterator[Simulator]:
    require_litellm()
    with Simulator() as simulator:
        simulator.api_keys = [OF_THE_COMPANY]
        yield simulator


@pytest.fixture(autouse=True)
def _fresh_record(anthropic: Simulator) -> None:
    anthropic.clear_faults()
    anthropic.reset_counts()


@pytest.fixture(scope="module")
def vault(anthropic: Simulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vault]:
    directory = tmp_path_factory.mktemp("vault")
    with running(Vault(directory, anthropic), "/auth/claude/health") as vault:
        yield vault


@pytest.fixture(scope="module")
def acme_key(vault: Vault) -> str:
    return vault.tenant("acme")


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[socket.socket]:
    """A host that is not Anthropic's; whoever connects is seen."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        listener.setblocking(False)
        yield listener


def config(anthropic: Simulator, elsewhere: socket.socket, *, fallback: bool) -> str:
    filled = CONFIG.replace("ANTHROPIC/", f"{anthropic.url}/")
    filled = filled.replace("FALLBACK", str(fallback).lower())
    return filled.replace("FOREIGN_PORT", str(elsewhere.getsockname()[1]))


@pytest.fixture(scope="module")
def proxy(
    anthropic: Simulator,
    vault: Vault,
    acme_key: str,
    elsewhere: socket.socket,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Proxy]:
    """Alice and bob have credentials, mallory has a key, and the server has a key of its own."""
    for user in ("alice", "bob"):
        vault.store(acme_key, user, anthropic.new_login(user))
    proxy = Proxy(
        tmp_path_factory.mktemp("proxy"),
        config(anthropic, elsewhere, fallback=False),
        TEST_MASTER_KEY=MASTER_KEY,
        ANTHROPIC_API_BASE=anthropic.url,
        ANTHROPIC_API_KEY=OF_THE_COMPANY,
        OAUTHVAULT_URL=vault.url,
        OAUTHVAULT_SERVICE_KEY=acme_key,
    )
    with running(proxy, "/health/liveliness"):
        yield proxy


def came(anthropic: Simulator) -> list[Any]:
    """What came but for refreshes, and for the models that LiteLLM asks the other provider for."""
    listing = ("/v1/models", "Bearer sk-key-of-another-provider")
    return [
        one
        for one in anthropic.requests
        if one.path != "/v1/oauth/token" and (one.path, one.headers.get("authorization")) != listing
    ]


def all_carry_the_token_of(anthropic: Simulator, user: str) -> bool:
    """Something came, and nothing of it had another credential than this user's."""
    token = anthropic.current_login(user).access_token
    return bool(came(anthropic)) and all(
        one.headers["authorization"] == f"Bearer {token}"
        and OAUTH_BETA in one.headers["anthropic-beta"].split(",")
        and "x-api-key" not in one.headers
        for one in came(anthropic)
    )


COUNTING = ["/v1/messages/count_tokens", "/anthropic/v1/messages/count_tokens"]


@pytest.mark.parametrize("path", COUNTING)
@pytest.mark.parametrize("model", ["claude-3-sonnet", "anthropic/claude-3-sonnet-20240229"])
def test_counting_tokens_costs_the_caller_and_nobody_else(
    proxy: Proxy, anthropic: Simulator, path: str, model: str
) -> None:
    for user in ("alice", "bob"):
        anthropic.reset_counts()
        answer = proxy.post(path, f"sk-test-{user}", hello(model))
        assert answer.status_code == 200, answer.text
        assert list(answer.json()) == ["input_tokens"]
        assert all_carry_the_token_of(anthropic, user)
        assert [one.path for one in came(anthropic)] == ["/v1/messages/count_tokens"]
        assert came(anthropic)[0].body["model"] == "claude-3-sonnet-20240229"


def test_what_is_counted_is_what_the_client_wrote(proxy: Proxy, anthropic: Simulator) -> None:
    body = {
        "model": "claude-3-sonnet",
        "messages": [{"role": "user", "content": "Hello!"}],
        "system": [{"type": "text", "text": "Be brief."}],
        "tools": [{"name": "look", "input_schema": {"type": "object"}}],
        "thinking": {"type": "enabled", "budget_tokens": 1024},
    }
    answer = proxy.post(
        "/v1/messages/count_tokens?beta=true",
        "sk-test-alice",
        body,
        **{"anthropic-beta": "context-1m-2025-08-07", "anthropic-version": "2023-06-01"},
    )
    assert answer.status_code == 200, answer.text
    (one,) = came(anthropic)
    assert one.body == {**body, "model": "claude-3-sonnet-20240229"}
    assert {"context-1m-2025-08-07", OAUTH_BETA} <= set(one.headers["anthropic-beta"].split(","))


@pytest.mark.parametrize(
    ("key", "status", "sentence"),
    [
        ("sk-test-mallory", 401, "No OAuth token found for user 'mallory'"),
        ("sk-test-nobody", 403, "has no user id"),
        (MASTER_KEY, 403, "master key belongs to no single user"),
    ],
    ids=["no token", "no user", "master key"],
)
def test_who_has_no_token_does_not_count_at_the_cost_of_the_company(
    proxy: Proxy, anthropic: Simulator, key: str, status: int, sentence: str
) -> None:
    answer = proxy.post("/v1/messages/count_tokens", key, hello("claude-3-sonnet"))
    assert answer.status_code == status, answer.text
    assert answer.json()["type"] == "error"
    assert sentence in answer.json()["error"]["message"]
    assert not came(anthropic)


def test_a_token_that_died_is_replaced_before_the_client_hears_of_it(
    proxy: Proxy, vault: Vault, acme_key: str, anthropic: Simulator
) -> None:
    vault.store(acme_key, "carol", anthropic.new_login("carol"))
    anthropic.kill_access_token(anthropic.current_login("carol").access_token)
    answer = proxy.post("/v1/messages/count_tokens", "sk-test-carol", hello("claude-3-sonnet"))
    assert answer.status_code == 200, answer.text
    assert [one.status for one in came(anthropic)] == [401, 200]
    assert anthropic.refreshes_of("carol") == 1


def test_what_anthropic_says_is_passed_on(proxy: Proxy, anthropic: Simulator) -> None:
    anthropic.fault("rate_limited", on="messages", user="alice", times=1, retry_after=7)
    answer = proxy.post("/v1/messages/count_tokens", "sk-test-alice", hello("claude-3-sonnet"))
    assert answer.status_code == 429
    assert answer.headers["retry-after"] == "7"
    assert answer.json()["type"] == "error"


def test_nothing_is_counted_elsewhere(
    proxy: Proxy, anthropic: Simulator, elsewhere: socket.socket
) -> None:
    answer = proxy.post("/v1/messages/count_tokens", "sk-test-alice", hello("foreign"))
    assert answer.status_code == 403
    assert "claude_oauth.allowed_hosts" in answer.text
    with pytest.raises(BlockingIOError):
        elsewhere.accept()
    assert not came(anthropic)


def test_other_models_are_counted_by_litellm(proxy: Proxy, anthropic: Simulator) -> None:
    answer = proxy.post("/v1/messages/count_tokens", "sk-test-mallory", hello("another-provider"))
    assert answer.json()["input_tokens"] > 0
    for one in came(anthropic):
        assert one.headers["authorization"] == "Bearer sk-key-of-another-provider"


@pytest.mark.parametrize("path", [*COUNTING, "/anthropic/v1/messages"])
def test_litellm_still_checks_who_may_use_a_model(
    proxy: Proxy, anthropic: Simulator, path: str
) -> None:
    own = "sk-test-alice+only+claude-3-sonnet"
    assert proxy.post(path, own, hello("claude-3-sonnet")).status_code == 200
    anthropic.reset_counts()
    refused = proxy.post(path, own, hello("anthropic/claude-3-opus-20240229"))
    assert refused.status_code in (401, 403), refused.text
    assert proxy.post(path, "sk-wrong", hello("claude-3-sonnet")).status_code == 401
    without = httpx.post(proxy.url + path, json=hello("claude-3-sonnet"), timeout=60)
    assert without.status_code == 401
    assert not came(anthropic)


@pytest.mark.parametrize("body", [b"", b"{", b'{"messages": []}', b'{"model": 7}'])
def test_a_body_that_asks_nothing_is_refused(
    proxy: Proxy, anthropic: Simulator, body: bytes
) -> None:
    answer = httpx.post(
        f"{proxy.url}/v1/messages/count_tokens",
        headers={"Authorization": "Bearer sk-test-alice", "Content-Type": "application/json"},
        content=body,
        timeout=60,
    )
    assert answer.status_code == 400, answer.text
    assert not came(anthropic)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/utils/token_counter?call_endpoint=true", hello("claude-3-sonnet")),
        ("/v1/responses/input_tokens", {"model": "claude-3-sonnet", "input": "Hello!"}),
        (
            "/v1beta/models/claude-3-sonnet:countTokens",
            {"contents": [{"role": "user", "parts": [{"text": "Hello!"}]}]},
        ),
    ],
    ids=["litellm", "openai", "google"],
)
def test_the_other_ways_to_count_do_not_ask_anthropic_with_the_servers_key(
    proxy: Proxy, anthropic: Simulator, path: str, body: Any
) -> None:
    answer = proxy.post(path, "sk-test-mallory", body)
    assert answer.status_code == 200, answer.text
    assert not came(anthropic)


def test_anthropics_own_path_for_messages_carries_the_callers_token(
    proxy: Proxy, anthropic: Simulator
) -> None:
    for user in ("alice", "bob"):
        anthropic.reset_counts()
        body = hello("anthropic/claude-3-sonnet-20240229")
        answer = proxy.post("/anthropic/v1/messages?beta=true", f"sk-test-{user}", body)
        assert answer.status_code == 200, answer.text
        assert answer.json()["content"][0]["text"] == f"Hello from {user}"
        assert all_carry_the_token_of(anthropic, user)
    answer = proxy.post("/anthropic/v1/messages", "sk-test-mallory", hello("claude-3-sonnet"))
    assert answer.status_code == 401


def test_anthropics_own_path_streams(proxy: Proxy, anthropic: Simulator) -> None:
    with httpx.stream(
        "POST",
        f"{proxy.url}/anthropic/v1/messages",
        headers={"Authorization": "Bearer sk-test-alice"},
        json={**hello("claude-3-sonnet"), "stream": True},
        timeout=60,
    ) as answer:
        lines = [line.removeprefix("data: ") for line in answer.iter_lines()]
    events = [json.loads(line) for line in lines if line.startswith("{")]
    said = [event["delta"].get("text", "") for event in events if "delta" in event]
    assert "".join(said) == "Hello from alice"
    assert all_carry_the_token_of(anthropic, "alice")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/anthropic"),
        ("GET", "/anthropic/"),
        ("GET", "/anthropic/v1/models"),
        ("POST", "/anthropic/v1/complete"),
        ("POST", "/anthropic/v1/messages/batches"),
        ("GET", "/anthropic/v1/messages/batches/b/results"),
        ("GET", "/anthropic/v1/messages"),
        ("POST", "/anthropic/v1/files"),
        ("GET", "/anthropic/v1/files/f/content"),
        ("POST", "/anthropic/v1/batches"),
        ("POST", "/anthropic/v1/skills"),
        ("POST", "/anthropic/api/oauth/claude_cli/create_api_key"),
        ("POST", "/anthropic//v1/messages"),
        ("POST", "/anthropic/v1/messages/../complete"),
        ("POST", "/%61nthropic/v1/complete"),
    ],
)
@pytest.mark.parametrize(
    "key", ["sk-test-alice", "sk-test-mallory", MASTER_KEY], ids=["alice", "mallory", "admin"]
)
def test_anthropics_other_paths_are_refused(
    proxy: Proxy, anthropic: Simulator, key: str, method: str, path: str
) -> None:
    # By hand: httpx would tidy the path up.
    target = httpx.URL(proxy.url).copy_with(raw_path=path.encode())
    answer = httpx.request(
        method,
        target,
        headers={"Authorization": f"Bearer {key}"},
        json=hello("claude-3-sonnet"),
        timeout=60,
    )
    assert answer.status_code == 403, answer.text
    assert "with the server's API key" in answer.json()["error"]["message"]
    assert not came(anthropic)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/batches/msgbatch_01?provider=anthropic"),
        ("GET", "/v1/files?provider=anthropic"),
        ("GET", "/v1/files/file_01?provider=anthropic"),
        ("GET", "/v1/files/file_01/content?provider=anthropic"),
        ("DELETE", "/v1/files/file_01?provider=anthropic"),
        ("GET", "/v1/skills"),
        ("GET", "/v1/skills/skill_01"),
        ("DELETE", "/v1/skills/skill_01"),
    ],
)
def test_what_litellm_does_with_the_servers_key_only_is_not_done(
    proxy: Proxy, anthropic: Simulator, method: str, path: str
) -> None:
    for key in ("sk-test-alice", MASTER_KEY):
        answer = httpx.request(
            method,
            proxy.url + path,
            headers={"Authorization": f"Bearer {key}", "custom-llm-provider": "anthropic"},
            timeout=60,
        )
        assert answer.status_code == 403, answer.text
        assert "with the server's API key and with no other credential" in answer.text
        assert not came(anthropic)


def test_a_file_is_not_uploaded_with_the_servers_key(proxy: Proxy, anthropic: Simulator) -> None:
    for path, form in (
        ("/v1/files", {"purpose": "assistants", "custom_llm_provider": "anthropic"}),
        ("/v1/skills", {"display_title": "a skill"}),
    ):
        answer = httpx.post(
            proxy.url + path,
            headers={"Authorization": "Bearer sk-test-alice"},
            data=form,
            files={"file": ("a.txt", b"a")},
            timeout=60,
        )
        assert answer.status_code == 403, answer.text
        assert not came(anthropic)


def test_googles_way_to_a_claude_model_carries_the_callers_token(
    proxy: Proxy, anthropic: Simulator
) -> None:
    answer = proxy.post(
        "/v1beta/models/claude-3-sonnet:generateContent",
        "sk-test-alice",
        {"contents": [{"role": "user", "parts": [{"text": "Hello!"}]}]},
    )
    assert "Hello from alice" in answer.text
    assert all_carry_the_token_of(anthropic, "alice")


def test_a_way_past_the_hook_that_the_operator_opened_is_pointed_out(proxy: Proxy) -> None:
    assert "pass_through_endpoints: /straight leads to Anthropic past the hook" in proxy.output()


def test_where_it_is_allowed_the_api_key_counts_for_who_has_no_token(
    anthropic: Simulator,
    vault: Vault,
    acme_key: str,
    elsewhere: socket.socket,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    vault.store(acme_key, "dave", anthropic.new_login("dave"))
    proxy = Proxy(
        tmp_path_factory.mktemp("fallback"),
        config(anthropic, elsewhere, fallback=True),
        TEST_MASTER_KEY=MASTER_KEY,
        ANTHROPIC_API_BASE=anthropic.url,
        OAUTHVAULT_URL=vault.url,
        OAUTHVAULT_SERVICE_KEY=acme_key,
    )
    with running(proxy, "/health/liveliness"):
        for path in COUNTING:
            answer = proxy.post(path, "sk-test-mallory", hello("claude-3-sonnet"))
            assert answer.status_code == 200, answer.text
            assert came(anthropic)[-1].headers["x-api-key"] == OF_THE_COMPANY
            assert "authorization" not in came(anthropic)[-1].headers
        assert "no token for user 'mallory' (no_token): the API key" in proxy.output()

        anthropic.reset_counts()
        assert proxy.ask("DELETE", "revoke", "sk-test-dave").status_code == 200
        answer = proxy.post(COUNTING[0], "sk-test-dave", hello("claude-3-sonnet"))
        assert answer.status_code == 401, answer.text
        assert not came(anthropic)
