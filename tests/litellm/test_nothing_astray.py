"""No token goes astray: whatever a client or a config makes LiteLLM do, it reaches Anthropic only.

A second provider stands beside the simulated Anthropic, and a callback writes down all that LiteLLM
hands it. What either of them got is searched for every token there is.
"""

import json
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.litellm.processes import HERE, Proxy, Vault, hello, require_litellm, running, until
from tests.litellm.second_provider import SAYS, SecondProvider
from tests.simulator import Simulator

pytestmark = [pytest.mark.system, pytest.mark.timeout(1200)]

MASTER_KEY = f"sk-{secrets.token_urlsafe(24)}"
API_KEY = "sk-ant-api03-of-the-company"
ALICE = "sk-test-alice"

# A wide door: LiteLLM's own guard against what clients send is switched off. No deployment here
# has an API key that Anthropic takes.
TEAM = """
model_list:
  - model_name: claude
    litellm_params: {model: anthropic/claude-3-sonnet-20240229, api_key: "${ANTHROPIC_API_KEY}"}
  - model_name: elsewhere
    litellm_params: {model: anthropic/claude-3-opus-20240229, api_base: SECOND}
  - model_name: by-network
    litellm_params: {model: anthropic/claude-3-opus-20240229, api_base: "http://192.0.2.1:9"}
  - model_name: by-credential
    litellm_params:
      model: anthropic/claude-3-opus-20240229
      litellm_credential_name: elsewhere
  - model_name: other
    litellm_params: {model: openai/gpt-4o, api_base: SECOND/v1, api_key: sk-other}
  - model_name: azure-claude
    litellm_params:
      model: azure_ai/claude-sonnet-4-20250514
      api_base: SECOND/anthropic
      api_key: sk-azure
  - model_name: bedrock-claude
    litellm_params:
      model: bedrock/anthropic.claude-3-sonnet-20240229-v1:0
      aws_bedrock_runtime_endpoint: SECOND
      aws_region_name: us-east-1
      aws_access_key_id: AKIATEST
      aws_secret_access_key: test
  - model_name: openrouter-claude
    litellm_params:
      model: openrouter/anthropic/claude-3-opus
      api_base: SECOND/v1
      api_key: sk-router
  - model_name: mixed
    litellm_params: {model: anthropic/claude-3-sonnet-20240229}
  - model_name: mixed
    litellm_params: {model: openai/gpt-4o, api_base: SECOND/v1, api_key: sk-other}
  - model_name: falls-to-other
    litellm_params: {model: anthropic/claude-3-sonnet-20240229}
  - model_name: falls-to-elsewhere
    litellm_params: {model: anthropic/claude-3-sonnet-20240229}
  - model_name: context-falls-to-other
    litellm_params: {model: anthropic/claude-3-sonnet-20240229}
  - model_name: "anthropic/*"
    litellm_params: {model: "anthropic/*"}
  - model_name: "far/*"
    litellm_params: {model: "anthropic/*", api_base: SECOND}
  - model_name: aliased
    litellm_params: {model: openai/house-claude}
  - model_name: aliased-away
    litellm_params: {model: anthropic/house-gpt, api_base: SECOND/v1, api_key: sk-other}

credential_list:
  - credential_name: elsewhere
    credential_values: {api_base: SECOND, api_key: sk-named}
    credential_info: {}

router_settings:
  model_group_alias: {alias: claude, alias-elsewhere: elsewhere}
  fallbacks: [{falls-to-other: [other]}, {falls-to-elsewhere: [elsewhere]}]
  context_window_fallbacks: [{context-falls-to-other: [other]}]
  num_retries: 1
  disable_cooldowns: true

general_settings:
  master_key: os.environ/TEST_MASTER_KEY
  custom_auth: proxy_auth.user_api_key_auth
  custom_auth_run_common_checks: true
  allow_client_side_credentials: true

claude_oauth:
  multi_user: {enabled: true}
  allowed_hosts: ["127.0.0.1", "192.0.2.1"]
  debug: true

litellm_settings:
  callbacks: ["event_spy.first", "oauthvault_litellm.hook", "event_spy.last"]
  model_alias_map:
    openai/house-claude: anthropic/claude-3-sonnet-20240229
    anthropic/house-gpt: openai/gpt-4o
"""


@pytest.fixture(scope="module")
def anthropic() -> Iterator[Simulator]:
    require_litellm()
    with Simulator() as simulator:
        yield simulator


@pytest.fixture(scope="module")
def second() -> Iterator[SecondProvider]:
    with SecondProvider() as provider:
        yield provider


@pytest.fixture(scope="module")
def vault(anthropic: Simulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vault]:
    directory = tmp_path_factory.mktemp("vault")
    with running(Vault(directory, anthropic), "/auth/claude/health") as vault:
        yield vault


@pytest.fixture(scope="module")
def team_key(vault: Vault) -> str:
    return vault.tenant("astray")


@pytest.fixture(scope="module")
def spy_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("spy") / "events.txt"


@pytest.fixture(scope="module")
def team(
    anthropic: Simulator,
    second: SecondProvider,
    vault: Vault,
    team_key: str,
    spy_file: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Proxy]:
    """`multi_user`: alice has a credential."""
    vault.store(team_key, "alice", anthropic.new_login("alice"))
    directory = tmp_path_factory.mktemp("team")
    (directory / "event_spy.py").write_text((HERE / "event_spy.py").read_text())
    # `localhost` is not among the allowed hosts, and the second provider answers there too.
    elsewhere = second.url.replace("127.0.0.1", "localhost")
    proxy = Proxy(
        directory,
        TEAM.replace("SECOND", elsewhere),
        "--detailed_debug",
        TEST_MASTER_KEY=MASTER_KEY,
        TEST_SPY_FILE=str(spy_file),
        ANTHROPIC_API_BASE=anthropic.url,
        OAUTHVAULT_URL=vault.url,
        OAUTHVAULT_SERVICE_KEY=team_key,
        LITELLM_LOG="DEBUG",
        # LiteLLM searches its log lines for secrets, and could hide what this is about.
        LITELLM_DISABLE_REDACT_SECRETS="true",
    )
    with running(proxy, "/health/liveliness"):
        yield proxy


@pytest.fixture(autouse=True)
def _fresh_record(anthropic: Simulator, second: SecondProvider) -> Iterator[None]:
    """Before: nothing is armed and nothing was received. After: no test let a token out."""
    anthropic.clear_faults()
    anthropic.reset_counts()
    second.received.clear()
    yield
    assert not tokens_in("\n".join(second.received))
    for one in anthropic.requests:
        if one.path == "/v1/messages" and "authorization" in one.headers:
            assert "x-api-key" not in one.headers


_TOKEN = re.compile(r"sk-ant-o[ar]t01-[A-Za-z0-9_-]{6,}")


def tokens_in(text: str) -> set[str]:
    """Every Claude OAuth token that stands in a text. A mask is none."""
    return set(_TOKEN.findall(text))


def somebody_new(vault: Vault, team_key: str, anthropic: Simulator) -> str:
    """A LiteLLM key of a user of this test's own: whom upstream refuses twice within ten seconds is
    told to come back later, and that would be the next test's trouble."""
    name = f"new-{secrets.token_hex(4)}"
    vault.store(team_key, name, anthropic.new_login(name))
    return f"sk-test-{name}"


def at_once(fault: str) -> dict[str, Any]:
    """LiteLLM waits as long as a 429 says before it tries again."""
    return {"retry_after": 0} if fault == "rate_limited" else {}


def came_to_anthropic(anthropic: Simulator) -> list[Any]:
    return [one for one in anthropic.requests if one.path == "/v1/messages"]


def carries_the_token_of(anthropic: Simulator, user: str) -> None:
    last = came_to_anthropic(anthropic)[-1]
    assert last.headers["authorization"] == f"Bearer {anthropic.current_login(user).access_token}"


def refused(answer: httpx.Response, *words: str) -> None:
    assert answer.status_code in (400, 401, 403, 404, 422), answer.text
    assert not words or any(word in answer.text for word in words), answer.text


WAYS_IN = ["/chat/completions", "/v1/messages", "/v1/responses"]


def asked(path: str, model: str, **more: Any) -> dict[str, Any]:
    if path == "/v1/responses":
        return {"model": model, "input": "Hello!", **more}
    return {**hello(model), **more}


# Where a deployment, an alias or a wildcard leads


@pytest.mark.parametrize("model", ["elsewhere", "alias-elsewhere", "by-credential", "far/claude-x"])
def test_no_token_goes_to_a_host_that_is_not_allowed(
    team: Proxy, anthropic: Simulator, second: SecondProvider, model: str
) -> None:
    for path in WAYS_IN:
        refused(team.post(path, ALICE, asked(path, model)), "claude_oauth.allowed_hosts")
    assert not second.received
    assert not came_to_anthropic(anthropic)


def test_no_token_goes_over_a_network_in_the_clear(team: Proxy, anthropic: Simulator) -> None:
    for path in WAYS_IN:
        refused(team.post(path, ALICE, asked(path, "by-network")), "plain http")
    assert not came_to_anthropic(anthropic)


@pytest.mark.parametrize("model", ["claude", "alias", "anthropic/claude-3-haiku-20240307"])
def test_names_that_lead_to_anthropic_carry_the_token(
    team: Proxy, anthropic: Simulator, model: str
) -> None:
    for path in WAYS_IN:
        answer = team.post(path, ALICE, asked(path, model))
        assert answer.status_code == 200, answer.text
        assert "Hello from alice" in answer.text
        carries_the_token_of(anthropic, "alice")


def test_an_alias_inside_litellm_leads_where_litellm_takes_it(
    team: Proxy, anthropic: Simulator, second: SecondProvider
) -> None:
    assert "Hello from alice" in team.chat(ALICE, "aliased").text
    carries_the_token_of(anthropic, "alice")
    anthropic.reset_counts()
    assert SAYS in team.chat(ALICE, "aliased-away").text
    assert len(second.received) == 1
    assert not came_to_anthropic(anthropic)


@pytest.mark.parametrize("model", ["other", "azure-claude", "bedrock-claude", "openrouter-claude"])
def test_no_token_goes_to_another_provider_not_even_for_claude(
    team: Proxy, anthropic: Simulator, second: SecondProvider, model: str
) -> None:
    for path in WAYS_IN:
        second.received.clear()
        team.post(path, ALICE, asked(path, model))
        assert second.received, path
        assert not tokens_in("\n".join(second.received))
    assert not came_to_anthropic(anthropic)


def test_in_a_group_of_two_providers_each_gets_its_own(
    team: Proxy, anthropic: Simulator, second: SecondProvider
) -> None:
    heard = set()

    def both_were_heard() -> bool:
        """LiteLLM draws one of the two by chance."""
        heard.add(team.chat(ALICE, "mixed").json()["choices"][0]["message"]["content"])
        return heard >= {"Hello from alice", SAYS}

    until(both_were_heard, 60)
    assert heard == {"Hello from alice", SAYS}
    assert second.received
    assert came_to_anthropic(anthropic)


# Retries and fallbacks


@pytest.mark.parametrize("fault", ["server_error", "overloaded", "unauthorized", "rate_limited"])
def test_a_fallback_to_another_provider_leaves_the_token_behind(
    team: Proxy,
    anthropic: Simulator,
    second: SecondProvider,
    vault: Vault,
    team_key: str,
    fault: str,
) -> None:
    key = somebody_new(vault, team_key, anthropic)
    for path in WAYS_IN:
        anthropic.fault(fault, on="messages", times=None, **at_once(fault))
        team.post(path, key, asked(path, "falls-to-other"))
        assert came_to_anthropic(anthropic)
        assert second.received


def test_a_fallback_to_anthropic_on_another_host_is_refused(
    team: Proxy, anthropic: Simulator, second: SecondProvider
) -> None:
    for path in WAYS_IN:
        anthropic.fault("server_error", on="messages", times=None)
        answer = team.post(path, ALICE, asked(path, "falls-to-elsewhere"))
        assert answer.status_code >= 400
        assert not second.received


def test_a_refusal_by_policy_ends_there_and_one_for_want_of_a_token_falls_back(
    team: Proxy, anthropic: Simulator, second: SecondProvider
) -> None:
    for path in WAYS_IN:
        answer = team.post(path, ALICE, asked(path, "elsewhere", fallbacks=["other"]))
        assert answer.status_code == 403, answer.text
    assert not second.received
    assert SAYS in team.chat("sk-test-mallory", "falls-to-other").text
    assert len(second.received) == 1
    assert not came_to_anthropic(anthropic)


def test_a_context_window_fallback_leaves_the_token_behind(
    team: Proxy, anthropic: Simulator, second: SecondProvider
) -> None:
    too_long = {
        "type": "error",
        "error": {
            "type": "invalid_request_error",
            "message": "prompt is too long: 9 tokens > 8 maximum",
        },
    }
    anthropic.fail_next(on="messages", times=None, status=400, body=too_long)
    answer = team.chat(ALICE, "context-falls-to-other")
    assert answer.json()["choices"][0]["message"]["content"] == SAYS
    assert len(second.received) == 1


@pytest.mark.parametrize(
    "fallback",
    [
        "other",
        "elsewhere",
        {"model": "other"},
        {"model": "elsewhere"},
        {"model": "claude", "api_base": "SECOND"},
        {"model": "claude", "base_url": "SECOND"},
        {"model": "claude", "custom_llm_provider": "openai", "api_base": "SECOND/v1"},
        {"model": "claude", "litellm_credential_name": "elsewhere"},
        {"model": "claude", "model_list": "MODEL_LIST"},
        {"model": "claude", "extra_headers": {"Host": "evil.example"}},
    ],
    ids=str,
)
def test_a_fallback_that_the_client_names_gets_no_token(
    team: Proxy, anthropic: Simulator, second: SecondProvider, fallback: Any
) -> None:
    for path in WAYS_IN:
        anthropic.fault("server_error", on="messages", times=2)
        team.post(
            path, ALICE, asked(path, "claude", fallbacks=[_filled(fallback, anthropic, second)])
        )
        _nobody_names_host_or_path(anthropic)


# What a client can put into a request


@pytest.mark.parametrize("provider", ["openai", "anthropic_text", "azure"])
def test_a_provider_that_the_client_names_does_not_lead_past_the_hook(
    team: Proxy, anthropic: Simulator, second: SecondProvider, provider: str
) -> None:
    """To the deployment's API key, for whoever has no token."""
    answer = team.chat(ALICE, "claude", custom_llm_provider=provider)
    assert answer.status_code == 200, answer.text
    carries_the_token_of(anthropic, "alice")
    anthropic.reset_counts()
    assert team.chat("sk-test-mallory", "claude", custom_llm_provider=provider).status_code == 401
    named = {"model": "claude", "custom_llm_provider": provider}
    for key in (ALICE, "sk-test-mallory"):
        anthropic.fault("server_error", on="messages", times=1)
        team.chat(key, "falls-to-other", fallbacks=[named])
    for one in came_to_anthropic(anthropic):
        assert "x-api-key" not in one.headers
    assert not second.received


ATTACKS: dict[str, dict[str, Any]] = {
    "api_base": {"api_base": "SECOND"},
    "base_url": {"base_url": "SECOND"},
    "both": {"api_base": "ANTHROPIC", "base_url": "SECOND"},
    "user in url": {"api_base": "http://127.0.0.1@SECOND_HOST"},
    "backslash": {"api_base": "http://SECOND_HOST\\@127.0.0.1"},
    "another endpoint": {"api_base": "ANTHROPIC/create_api_key?x=/v1/messages"},
    "another endpoint still": {"api_base": "ANTHROPIC/create_api_key#/v1/messages"},
    "own key": {"api_base": "SECOND", "api_key": "sk-mine"},
    "provider": {"custom_llm_provider": "openai", "api_base": "SECOND/v1"},
    "anthropic by name": {"custom_llm_provider": "anthropic", "api_base": "SECOND"},
    "credential": {"litellm_credential_name": "elsewhere"},
    "model_list": {"model_list": "MODEL_LIST"},
    "user_config": {"user_config": {"model_list": "MODEL_LIST"}},
    "extra_body": {"extra_body": {"api_base": "SECOND", "headers": {"authorization": "x"}}},
    "litellm_params": {"litellm_params": {"api_base": "SECOND"}},
    "litellm_proxy": {"use_litellm_proxy": True, "api_base": "SECOND"},
    "azure": {"azure": True, "api_base": "SECOND", "api_version": "1"},
    "deployment_id": {"deployment_id": "x", "api_base": "SECOND"},
    "metadata": {"metadata": {"model_info": {"id": "x"}, "api_base": "SECOND"}},
    "model_info": {"model_info": {"id": "x", "base_model": "openai/gpt-4o"}},
    "entry": {
        "provider_specific_header": {
            "custom_llm_provider": "openai,anthropic",
            "extra_headers": {"Authorization": "Bearer sk-x", "host": "evil.example"},
        }
    },
    "entries": {"provider_specific_header": [{"custom_llm_provider": "openai"}, "anthropic"]},
    "headers": {"headers": {"Host": "evil.example", "AUTHORIZATION": "Bearer sk-x"}},
    "host": {"extra_headers": {"Host": "evil.example", "Transfer-Encoding": "chunked"}},
    "callbacks": {"callbacks": ["langfuse"], "success_callback": ["langfuse"]},
    "langfuse": {
        "success_callback": ["langfuse"],
        "langfuse_host": "SECOND",
        "langfuse_public_key": "pk",
        "langfuse_secret_key": "sk",
        "metadata": {"langfuse_host": "SECOND"},
    },
    "advisor": {
        "tools": [
            {
                "type": "advisor_20260301",
                "name": "advisor",
                "model": "claude",
                "api_base": "SECOND",
                "api_key": "sk-mine",
            }
        ]
    },
    "mcp": {
        "tools": [
            {
                "type": "mcp",
                "server_url": "SECOND/mcp",
                "server_label": "litellm_proxy",
                "require_approval": "never",
            }
        ]
    },
    "mock": {"mock_response": "mocked"},
    "debug": {"litellm_request_debug": True},
    "prompt": {"prompt_id": "x", "prompt_variables": {}},
    "store": {"store": True, "no-log": True},
    "fastest": {"model": "claude,other,elsewhere", "fastest_response": True},
    "several": {"model": "claude,other,elsewhere"},
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_client_cannot_have_a_token_sent_elsewhere(
    team: Proxy, anthropic: Simulator, second: SecondProvider, attack: str
) -> None:
    for path in WAYS_IN:
        answer = team.post(
            path, ALICE, asked(path, "claude") | _filled(ATTACKS[attack], anthropic, second)
        )
        assert not tokens_in(answer.text + str(answer.headers))
        _nobody_names_host_or_path(anthropic)


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("x-litellm-api-base", "SECOND"),
        ("anthropic-beta", "oauth-2025-04-20"),
        ("x-api-key", "sk-ant-x"),
        ("x-litellm-disable-callbacks", "Mask,OAuthVaultHook"),
        ("x-forwarded-host", "evil.example"),
    ],
)
def test_headers_of_the_client_change_nothing(
    team: Proxy, anthropic: Simulator, second: SecondProvider, header: str, value: str
) -> None:
    team.post("/v1/messages", ALICE, hello("claude"), **{header: _filled(value, anthropic, second)})
    carries_the_token_of(anthropic, "alice")
    _nobody_names_host_or_path(anthropic)


def _filled(value: Any, anthropic: Simulator, second: SecondProvider) -> Any:
    elsewhere = second.url.replace("127.0.0.1", "localhost")
    deployment = {"model": "anthropic/claude-3-opus-20240229", "api_base": elsewhere}
    models = [
        {"model_name": name, "litellm_params": {**deployment, "api_key": "sk-mine"}}
        for name in ("claude", "anthropic/claude-3-sonnet-20240229")
    ]
    text = json.dumps(value).replace('"MODEL_LIST"', json.dumps(models))
    text = text.replace("SECOND_HOST", f"localhost:{second.port}").replace("SECOND", elsewhere)
    text = text.replace("ANTHROPIC", anthropic.url)
    return json.loads(text)


def _nobody_names_host_or_path(anthropic: Simulator) -> None:
    for one in anthropic.requests:
        assert one.headers["host"] == anthropic.url.removeprefix("http://")
        assert one.path == "/v1/messages" or one.path.startswith("/v1/oauth/")


# Kinds of request that carry no token


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/embeddings", {"input": "Hello!"}),
        ("/v1/images/generations", {"prompt": "Hello!"}),
        ("/v1/rerank", {"query": "a", "documents": ["b"]}),
        ("/v1/moderations", {"input": "Hello!"}),
        ("/v1/audio/speech", {"input": "Hello!", "voice": "x"}),
    ],
)
@pytest.mark.parametrize("model", ["claude", "elsewhere"])
def test_what_anthropic_does_not_offer_goes_nowhere(
    team: Proxy,
    anthropic: Simulator,
    second: SecondProvider,
    path: str,
    body: dict[str, Any],
    model: str,
) -> None:
    assert team.post(path, ALICE, {"model": model, **body}).status_code >= 400
    assert not second.received
    assert not anthropic.requests


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/batches"),
        ("GET", "/v1/batches/msgbatch_1?custom_llm_provider=anthropic"),
        ("POST", "/anthropic/v1/batches"),
        ("GET", "/v1/files/file_1/content?custom_llm_provider=anthropic"),
        ("GET", "/v1/files?custom_llm_provider=anthropic"),
        ("DELETE", "/v1/files/file_1?custom_llm_provider=anthropic"),
        ("GET", "/v1/skills"),
    ],
)
def test_files_batches_and_skills_are_not_asked_for_with_the_servers_key(
    team: Proxy, anthropic: Simulator, second: SecondProvider, method: str, path: str
) -> None:
    batch = {
        "input_file_id": "file_1",
        "endpoint": "/v1/chat/completions",
        "completion_window": "24h",
        "custom_llm_provider": "anthropic",
        "model": "claude",
    }
    answer = httpx.request(
        method,
        team.url + path,
        headers={"Authorization": f"Bearer {ALICE}"},
        json=batch if method == "POST" else None,
        timeout=60,
    )
    refused(answer, "with the server's API key")
    assert not anthropic.requests
    assert not second.received


def test_a_file_is_not_sent_with_the_servers_key(team: Proxy, anthropic: Simulator) -> None:
    line = {"custom_id": "1", "method": "POST", "url": "/v1/chat/completions"}
    line |= {"body": hello("claude")}
    answer = httpx.post(
        f"{team.url}/v1/files",
        headers={"Authorization": f"Bearer {ALICE}"},
        data={"purpose": "batch", "custom_llm_provider": "anthropic"},
        files={"file": ("a.jsonl", json.dumps(line).encode())},
        timeout=60,
    )
    assert answer.status_code >= 400
    assert not anthropic.requests


@pytest.mark.parametrize("path", ["/v1/completions", "/v1beta/models/claude:generateContent"])
def test_the_old_and_the_foreign_ways_in_carry_the_token(
    team: Proxy, anthropic: Simulator, path: str
) -> None:
    body = {"model": "claude", "prompt": "Hello!", "max_tokens": 16}
    if "beta" in path:
        body = {"contents": [{"role": "user", "parts": [{"text": "Hello!"}]}]}
    answer = team.post(path, ALICE, body)
    assert answer.status_code == 200, answer.text
    assert "Hello from alice" in answer.text
    carries_the_token_of(anthropic, "alice")


# What upstream can do


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_redirect_takes_the_token_nowhere(
    team: Proxy, anthropic: Simulator, second: SecondProvider, host: str, stream: bool
) -> None:
    place = second.url.replace("127.0.0.1", host)
    anthropic.fault(
        "redirect", on="messages", times=None, headers={"Location": f"{place}/v1/messages"}
    )
    for path in WAYS_IN:
        team.post(path, ALICE, asked(path, "claude", stream=stream))
    assert came_to_anthropic(anthropic)
    assert second.received  # LiteLLM follows it, and leaves the token behind


FAULTS = [
    "server_error",
    "unavailable",
    "overloaded",
    "rate_limited",
    "moved",
    "edge_block",
    "on_hold",
    "unauthorized",
    "not_json",
    "empty",
    "redirect",
    "close",
    "close_before_reading",
    "cut_short",
    "no_end",
]


@pytest.mark.parametrize("fault", FAULTS)
def test_no_answer_holds_a_token_whatever_upstream_does(
    team: Proxy, anthropic: Simulator, vault: Vault, team_key: str, fault: str
) -> None:
    key = somebody_new(vault, team_key, anthropic)
    anthropic.fault(fault, on="messages", times=None, **at_once(fault))
    for path in WAYS_IN:
        for stream in (False, True):
            try:
                answer = team.post(path, key, asked(path, "claude", stream=stream))
            except httpx.HTTPError:
                continue  # cut short upstream, cut short here
            assert not tokens_in(answer.text + str(answer.headers))


PAGES = [
    "/v1/models",
    "/model/info",
    "/v1/model/info",
    "/model_group/info",
    "/health",
    "/health?model=claude",
    "/health/readiness",
    "/spend/logs",
    "/global/spend/logs",
    "/cache/ping",
    "/cache/redis/info",
    "/debug/asyncio-tasks",
    "/debug/memory/summary",
    "/debug/memory/details",
    "/otel-spans",
    "/active/callbacks",
    "/get/config/callbacks",
    "/config/yaml",
    "/settings",
    "/router/settings",
    "/memory-usage-in-mem-cache",
    "/memory-usage-in-mem-cache-items",
    "/in_product_nudges",
    "/metrics",
]


@pytest.mark.parametrize("key", [ALICE, MASTER_KEY], ids=["alice", "admin"])
def test_no_page_of_the_proxy_shows_a_token(team: Proxy, team_key: str, key: str) -> None:
    assert team.chat(ALICE, "claude").status_code == 200
    for path in PAGES:
        # /health asks every deployment, and one of them is on a network that may not answer.
        answer = httpx.get(team.url + path, headers={"Authorization": f"Bearer {key}"}, timeout=240)
        assert not tokens_in(answer.text), path
        assert team_key not in answer.text, path


@pytest.mark.parametrize("key", [ALICE, MASTER_KEY], ids=["alice", "admin"])
def test_a_look_at_the_request_that_would_be_sent_shows_no_token(
    team: Proxy, second: SecondProvider, key: str
) -> None:
    for address in ({}, {"api_base": second.url}):
        body = {**hello("anthropic/claude-3-opus-20240229"), **address}
        answer = team.post(
            "/utils/transform_request", key, {"call_type": "completion", "request_body": body}
        )
        assert "raw_request_body" in answer.text
        assert not tokens_in(answer.text)


# Last: all that was written while all of this went on


def test_callbacks_are_shown_everything_but_the_token(
    team: Proxy, anthropic: Simulator, spy_file: Path
) -> None:
    before = len(spy_file.read_text()) if spy_file.exists() else 0
    for path in WAYS_IN:
        for stream in (False, True):
            assert team.post(path, ALICE, asked(path, "claude", stream=stream)).status_code == 200
            anthropic.fault("on_hold", on="messages", times=None)
            assert team.post(path, ALICE, asked(path, "claude", stream=stream)).status_code >= 400
            anthropic.clear_faults()
    wanted = {
        f"{name} {event}"
        for name in ("first", "last")
        for event in (
            "log_pre_api_call",
            "async_log_success_event",
            "async_log_failure_event",
            "async_pre_call_deployment_hook",
            "async_post_call_success_deployment_hook",
            "async_post_call_failure_deployment_hook",
        )
    }

    def told() -> set[str]:
        return set(re.findall(r"^=== (.*)$", spy_file.read_text()[before:], re.MULTILINE))

    # Some are told behind the answer.
    until(lambda: wanted <= told(), 60, lambda: str(wanted - told()))
    events = spy_file.read_text().split("\n=== ")
    seen = [event for event in events if event.startswith("first log_pre_api_call")]
    assert any("sk-ant-oat01-****" in event for event in seen)
    leaks = {
        (event.partition("\n")[0], line.partition(": ")[0])
        for event in events
        for line in event.splitlines()
        if tokens_in(line)
    }
    assert not leaks


def test_no_log_holds_a_token(
    team: Proxy, anthropic: Simulator, vault: Vault, team_key: str
) -> None:
    for path in WAYS_IN:
        assert team.post(path, ALICE, asked(path, "claude")).status_code == 200
    unlucky = somebody_new(vault, team_key, anthropic)
    anthropic.fault("unauthorized", on="messages", times=None)
    assert team.chat(unlucky, "claude").status_code == 401
    for output in (team.output(), vault.output()):
        assert output
        assert not tokens_in(output)
        assert team_key not in output
