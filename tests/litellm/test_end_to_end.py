"""A request goes in at a real LiteLLM proxy and comes out at Anthropic with its caller's token."""

import json
import secrets
import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import httpx
import pytest

from tests.litellm.processes import (
    HERE,
    LITELLM_ENVIRONMENT,
    Proxy,
    Vault,
    hello,
    require_litellm,
    running,
    until,
)
from tests.simulator import Simulator

pytestmark = [pytest.mark.system, pytest.mark.timeout(1200)]

MASTER_KEY = f"sk-{secrets.token_urlsafe(24)}"
OAUTH_BETA = "oauth-2025-04-20"

# The document's config.yaml with a master key that LiteLLM accepts, the callback line, and the
# host on which this Anthropic is.
DOCUMENT = """
model_list:
  - model_name: claude-3-sonnet
    litellm_params:
      model: anthropic/claude-3-sonnet-20240229

  - model_name: claude-3-opus
    litellm_params:
      model: anthropic/claude-3-opus-20240229

general_settings:
  master_key: os.environ/TEST_MASTER_KEY

  claude_oauth:
    enabled: true
    access_token: "${CLAUDE_ACCESS_TOKEN}"
    refresh_token: "${CLAUDE_REFRESH_TOKEN}"
    expires_at: "${CLAUDE_EXPIRES_AT}"

    # Token management
    auto_refresh: true
    refresh_threshold: 300  # Refresh 5 minutes before expiry

    # Security settings
    token_encryption: true

    debug: true
    allowed_hosts: ["127.0.0.1"]

litellm_settings:
  callbacks: ["oauthvault_litellm.hook"]
"""

# `two` has two deployments; `foreign` is Anthropic by name and elsewhere by address.
MANY_USERS = """
model_list:
  - model_name: claude-3-sonnet
    litellm_params:
      model: anthropic/claude-3-sonnet-20240229
      api_key: "${ANTHROPIC_API_KEY}"
  - model_name: two
    litellm_params:
      model: anthropic/claude-3-sonnet-20240229
  - model_name: two
    litellm_params:
      model: anthropic/claude-3-opus-20240229
  - model_name: foreign
    litellm_params:
      model: anthropic/claude-3-opus-20240229
      api_base: http://localhost:FOREIGN_PORT
  - model_name: another-provider
    litellm_params:
      model: openai/gpt-4o
      api_base: ANTHROPIC/v1
      api_key: sk-key-of-another-provider

general_settings:
  master_key: os.environ/TEST_MASTER_KEY
  custom_auth: proxy_auth.user_api_key_auth
  custom_auth_run_common_checks: true

claude_oauth:
  multi_user:
    enabled: true
    isolation: strict  # Each user has separate tokens
  allowed_hosts: ["127.0.0.1"]

litellm_settings:
  callbacks: ["oauthvault_litellm.hook"]
"""


# The document's "Migration from API Keys", for many users.
MIGRATION = """
model_list:
  - model_name: claude-3-sonnet
    litellm_params:
      model: anthropic/claude-3-sonnet-20240229
      api_key: "${ANTHROPIC_MIGRATION_KEY}"  # Fallback to API key

general_settings:
  master_key: os.environ/TEST_MASTER_KEY
  custom_auth: proxy_auth.user_api_key_auth
  custom_auth_run_common_checks: true

claude_oauth:
  multi_user: {enabled: true}
  fallback_to_api_key: true
  cache_seconds: 0
  allowed_hosts: ["127.0.0.1"]

litellm_settings:
  callbacks: ["oauthvault_litellm.hook"]
"""


@pytest.fixture(scope="module")
def anthropic() -> Iterator[Simulator]:
    require_litellm()
    with Simulator() as simulator:
        simulator.api_keys = ["sk-ant-api03-of-the-company"]
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
def proxy(
    anthropic: Simulator, vault: Vault, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Proxy]:
    """The document's set-up: one credential for all, its tokens in the environment."""
    login = anthropic.new_login("default")
    proxy = Proxy(
        tmp_path_factory.mktemp("proxy"),
        DOCUMENT,
        "--detailed_debug",
        TEST_MASTER_KEY=MASTER_KEY,
        ANTHROPIC_API_BASE=anthropic.url,
        OAUTHVAULT_URL=vault.url,
        OAUTHVAULT_SERVICE_KEY=vault.service_key,
        CLAUDE_ACCESS_TOKEN=login.access_token,
        CLAUDE_REFRESH_TOKEN=str(login.refresh_token),
        CLAUDE_EXPIRES_AT=str(int(login.expires_at)),
    )
    with running(proxy, "/health/liveliness"):
        yield proxy


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[socket.socket]:
    """A host that is not Anthropic's; whoever connects is seen."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        listener.setblocking(False)
        yield listener


@pytest.fixture(scope="module")
def acme_key(vault: Vault) -> str:
    return vault.tenant("acme")


@pytest.fixture(scope="module")
def team_proxy(
    anthropic: Simulator,
    vault: Vault,
    acme_key: str,
    elsewhere: socket.socket,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Proxy]:
    """`multi_user`: alice, bob and carol have credentials, mallory has a key and nothing else."""
    for user in ("alice", "bob", "carol"):
        vault.store(acme_key, user, anthropic.new_login(user))
    config = MANY_USERS.replace("ANTHROPIC/", f"{anthropic.url}/")
    proxy = Proxy(
        tmp_path_factory.mktemp("team"),
        config.replace("FOREIGN_PORT", str(elsewhere.getsockname()[1])),
        TEST_MASTER_KEY=MASTER_KEY,
        ANTHROPIC_API_BASE=anthropic.url,
        OAUTHVAULT_URL=vault.url,
        OAUTHVAULT_SERVICE_KEY=acme_key,
        ANTHROPIC_API_KEY="sk-ant-api03-of-the-company",
    )
    with running(proxy, "/health/liveliness"):
        yield proxy


@pytest.fixture(scope="module")
def migrating_proxy(
    anthropic: Simulator, vault: Vault, acme_key: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Proxy]:
    proxy = Proxy(
        tmp_path_factory.mktemp("migrating"),
        MIGRATION,
        TEST_MASTER_KEY=MASTER_KEY,
        ANTHROPIC_API_BASE=anthropic.url,
        OAUTHVAULT_URL=vault.url,
        OAUTHVAULT_SERVICE_KEY=acme_key,
        ANTHROPIC_MIGRATION_KEY="sk-ant-api03-of-the-company",
    )
    with running(proxy, "/health/liveliness"):
        yield proxy


def said(answer: httpx.Response) -> str:
    assert answer.status_code == 200, answer.text
    text: str = answer.json()["choices"][0]["message"]["content"]
    return text


def arrived(anthropic: Simulator) -> list[Any]:
    return [one for one in anthropic.requests if one.path == "/v1/messages"]


def carries_only_the_token_of(anthropic: Simulator, user: str) -> None:
    """What Anthropic got last is this user's living token, as an OAuth token is to be sent."""
    last = arrived(anthropic)[-1]
    assert last.headers["authorization"] == f"Bearer {anthropic.current_login(user).access_token}"
    assert last.headers["authorization"].startswith("Bearer sk-ant-oat01-")
    assert OAUTH_BETA in last.headers["anthropic-beta"].split(",")
    assert "x-api-key" not in last.headers


# One credential for all: the document's Quick Start


def test_curl_as_in_the_document(proxy: Proxy, anthropic: Simulator) -> None:
    answer = proxy.post(
        "/chat/completions",
        MASTER_KEY,
        {"model": "claude-3-sonnet", "messages": [{"role": "user", "content": "Hello!"}]},
    )
    assert said(answer) == "Hello from default"
    carries_only_the_token_of(anthropic, "default")


def test_the_openai_sdk_as_in_the_document(proxy: Proxy, anthropic: Simulator) -> None:
    done = subprocess.run(
        [
            str(LITELLM_ENVIRONMENT / "bin" / "python"),
            str(HERE / "openai_client.py"),
            MASTER_KEY,
            proxy.url,
        ],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    whole, streamed = done.stdout.splitlines()
    assert whole == "Hello from default"
    assert streamed.endswith("pieces: Hello from default")
    carries_only_the_token_of(anthropic, "default")


def test_a_stream_comes_in_pieces(proxy: Proxy, anthropic: Simulator) -> None:
    with httpx.stream(
        "POST",
        f"{proxy.url}/chat/completions",
        headers={"Authorization": f"Bearer {MASTER_KEY}"},
        json={**hello("claude-3-sonnet"), "stream": True},
        timeout=30,
    ) as answer:
        lines = [line.removeprefix("data: ") for line in answer.iter_lines() if line]
    assert lines[-1] == "[DONE]"
    choices = [json.loads(line)["choices"] for line in lines[:-1]]
    pieces = [choice[0]["delta"].get("content") or "" for choice in choices if choice]
    assert "".join(pieces) == "Hello from default"
    assert sum(map(bool, pieces)) > 1
    carries_only_the_token_of(anthropic, "default")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/messages", hello("claude-3-opus")),
        ("/v1/responses", {"model": "claude-3-opus", "input": "Hello!"}),
    ],
)
def test_the_other_ways_in_carry_the_token_too(
    proxy: Proxy, anthropic: Simulator, path: str, body: Any
) -> None:
    answer = proxy.post(path, MASTER_KEY, body)
    assert answer.status_code == 200, answer.text
    assert "Hello from default" in answer.text
    carries_only_the_token_of(anthropic, "default")


def test_beta_values_of_the_client_are_kept(proxy: Proxy, anthropic: Simulator) -> None:
    proxy.post(
        "/v1/messages",
        MASTER_KEY,
        hello("claude-3-opus"),
        **{"anthropic-beta": "context-1m-2025-08-07"},
    )
    betas = arrived(anthropic)[-1].headers["anthropic-beta"].split(",")
    assert {"context-1m-2025-08-07", OAUTH_BETA} <= set(betas)


@pytest.mark.parametrize("stream", [False, True])
def test_a_token_that_dies_in_mid_life_costs_the_client_nothing(
    proxy: Proxy, anthropic: Simulator, stream: bool
) -> None:
    with_patience = anthropic.current_login("default").access_token
    anthropic.kill_access_token(with_patience)

    def asked() -> httpx.Response:
        return proxy.chat(MASTER_KEY, stream=stream)

    # The vault allows one forced refresh of a credential in ten seconds.
    until(lambda: asked().status_code == 200, 60)
    seen = [one.status for one in arrived(anthropic)]
    assert seen[-1] == 200
    assert 401 in seen
    carries_only_the_token_of(anthropic, "default")
    assert anthropic.current_login("default").access_token != with_patience
    assert anthropic.refreshes_of("default") == 1


def test_the_first_401_is_answered_by_one_refresh_and_one_retry(
    team_proxy: Proxy, anthropic: Simulator
) -> None:
    assert said(team_proxy.chat("sk-test-carol")) == "Hello from carol"
    anthropic.kill_access_token(anthropic.current_login("carol").access_token)
    anthropic.reset_counts()

    with ThreadPoolExecutor(8) as clients:
        answers = list(clients.map(lambda _: team_proxy.chat("sk-test-carol"), range(8)))

    assert {said(answer) for answer in answers} == {"Hello from carol"}
    assert anthropic.refreshes_of("carol") == 1
    assert anthropic.counts_of("carol").reuse == 0
    carries_only_the_token_of(anthropic, "carol")


# multi_user: everybody their own


def test_each_user_spends_their_own_token(team_proxy: Proxy, anthropic: Simulator) -> None:
    users = ["alice", "bob"] * 12
    with ThreadPoolExecutor(6) as clients:
        answers = clients.map(lambda user: said(team_proxy.chat(f"sk-test-{user}")), users)
        assert list(answers) == [f"Hello from {user}" for user in users]
    said(team_proxy.chat("sk-test-bob"))
    carries_only_the_token_of(anthropic, "bob")


@pytest.mark.parametrize(
    "lie",
    [
        {"user": "bob"},
        {"metadata": {"user_api_key_user_id": "bob", "user_api_key_auth": {"user_id": "bob"}}},
        {"litellm_metadata": {"user_api_key_auth": {"user_id": "bob"}}},
        {"extra_headers": {"Authorization": "Bearer sk-ant-oat01-x", "X-Api-Key": "sk-ant-x"}},
    ],
)
def test_a_request_cannot_say_who_it_is_from(
    team_proxy: Proxy, anthropic: Simulator, lie: dict[str, Any]
) -> None:
    answer = team_proxy.chat("sk-test-alice", **lie)
    if answer.status_code == 200:
        assert said(answer) == "Hello from alice"
        carries_only_the_token_of(anthropic, "alice")
    else:  # LiteLLM itself refuses some of these
        assert answer.status_code in (400, 401, 403), answer.text
        assert not arrived(anthropic)


_HEADERS_OF_END_USERS = (
    "x-litellm-end-user-id",
    "x-litellm-customer-id",
    "x-litellm-user-id",
    "x-litellm-team-id",
    "x-openwebui-user-id",
)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/chat/completions", {**hello("claude-3-sonnet"), "user": "bob"}),
        ("/v1/messages", {**hello("claude-3-sonnet"), "metadata": {"user_id": "bob"}}),
        ("/v1/responses", {"model": "claude-3-sonnet", "input": "Hello!", "user": "bob"}),
    ],
    ids=["chat", "messages", "responses"],
)
def test_an_end_user_is_not_the_caller(
    team_proxy: Proxy, anthropic: Simulator, path: str, body: dict[str, Any]
) -> None:
    headers = dict.fromkeys(_HEADERS_OF_END_USERS, "bob")
    refused = team_proxy.post(path, "sk-test-of-a-team", body, **headers)
    assert refused.status_code == 403, refused.text
    assert not arrived(anthropic)
    answer = team_proxy.post(path, "sk-test-alice", body, **headers)
    assert answer.status_code == 200, answer.text
    assert "Hello from alice" in answer.text
    carries_only_the_token_of(anthropic, "alice")


def test_a_health_check_spends_nobodys_token(team_proxy: Proxy, anthropic: Simulator) -> None:
    answer = httpx.get(
        f"{team_proxy.url}/health?model=claude-3-sonnet",
        headers={"Authorization": f"Bearer {MASTER_KEY}"},
        timeout=60,
    )
    assert answer.status_code == 200, answer.text
    assert arrived(anthropic)
    for one in arrived(anthropic):
        assert one.headers["x-api-key"] == "sk-ant-api03-of-the-company"
        assert "authorization" not in one.headers


def test_mallory_without_a_credential_is_told_what_to_do(
    team_proxy: Proxy, anthropic: Simulator
) -> None:
    answer = team_proxy.chat("sk-test-mallory")
    assert answer.status_code == 401
    assert "No OAuth token found for user 'mallory'" in answer.text
    assert "PUT /auth/claude/token" in answer.text
    assert not arrived(anthropic)


@pytest.mark.parametrize(
    ("key", "sentence"),
    [
        ("sk-test-nobody", "has no user id, so it has no Claude credential"),
        ("sk-test-of-a-team", "belongs to a team"),
        ("sk-test-service-account", "is a service account's"),
        ("sk-test-default", "named 'default'"),
        (MASTER_KEY, "master key belongs to no single user"),
    ],
    ids=["no user", "team", "service account", "default", "master key"],
)
def test_a_key_without_a_person_behind_it_is_refused(
    team_proxy: Proxy, anthropic: Simulator, key: str, sentence: str
) -> None:
    answer = team_proxy.chat(key)
    assert answer.status_code == 403
    assert sentence in answer.text
    assert not arrived(anthropic)


def test_no_token_goes_to_another_host(
    team_proxy: Proxy, anthropic: Simulator, elsewhere: socket.socket
) -> None:
    for path in ("/chat/completions", "/v1/messages"):
        answer = team_proxy.post(path, "sk-test-alice", hello("foreign"))
        assert answer.status_code == 403
        assert "claude_oauth.allowed_hosts" in answer.text
    with pytest.raises(BlockingIOError):
        elsewhere.accept()
    assert not arrived(anthropic)


def test_no_token_goes_to_another_provider(team_proxy: Proxy, anthropic: Simulator) -> None:
    team_proxy.chat("sk-test-alice", "another-provider")
    assert anthropic.requests
    for request in anthropic.requests:
        assert request.headers["authorization"] == "Bearer sk-key-of-another-provider"


@pytest.mark.parametrize("model", ["claude-3-sonnet", "two"])
@pytest.mark.parametrize("fault", ["unauthorized", "rate_limited"])
def test_what_befalls_alice_does_not_reach_bob(
    team_proxy: Proxy,
    anthropic: Simulator,
    vault: Vault,
    acme_key: str,
    model: str,
    fault: str,
) -> None:
    # An alice of this test's own: what befalls her counts for ten seconds.
    alice = f"alice-{secrets.token_hex(4)}"
    vault.store(acme_key, alice, anthropic.new_login(alice))
    anthropic.fault(fault, on="messages", user=alice, times=None, **_at_once(fault))
    for _ in range(2):
        assert team_proxy.chat(f"sk-test-{alice}", model).status_code in (401, 429, 503)
        assert said(team_proxy.chat("sk-test-bob", model)) == "Hello from bob"
    assert team_proxy.chat("sk-test-mallory", model).status_code == 401
    assert said(team_proxy.chat("sk-test-bob", model)) == "Hello from bob"


def _at_once(fault: str) -> dict[str, Any]:
    return {"retry_after": 0} if fault == "rate_limited" else {}


# Both ways of paying at once: the document's migration path


def test_oauth_goes_before_the_api_key_of_the_deployment(
    migrating_proxy: Proxy, vault: Vault, acme_key: str, anthropic: Simulator
) -> None:
    vault.store(acme_key, "erin", anthropic.new_login("erin"))
    assert said(migrating_proxy.chat("sk-test-erin")) == "Hello from erin"
    carries_only_the_token_of(anthropic, "erin")


def test_the_api_key_stands_in_for_who_has_no_token_and_it_is_logged(
    migrating_proxy: Proxy, anthropic: Simulator
) -> None:
    assert said(migrating_proxy.chat("sk-test-mallory")) == "Hello from api-key"
    last = arrived(anthropic)[-1]
    assert last.headers["x-api-key"] == "sk-ant-api03-of-the-company"
    assert "authorization" not in last.headers
    assert "no token for user 'mallory' (no_token): the API key" in migrating_proxy.output()


def test_the_api_key_does_not_undo_a_revocation(
    migrating_proxy: Proxy, vault: Vault, acme_key: str, anthropic: Simulator
) -> None:
    vault.store(acme_key, "frank", anthropic.new_login("frank"))
    assert said(migrating_proxy.chat("sk-test-frank")) == "Hello from frank"
    assert migrating_proxy.ask("DELETE", "revoke", "sk-test-frank").status_code == 200
    anthropic.reset_counts()
    assert migrating_proxy.chat("sk-test-frank").status_code == 401
    assert not arrived(anthropic)


# The document's endpoints, on the proxy's own port


def test_everybody_sees_their_own_status(team_proxy: Proxy) -> None:
    for user in ("alice", "bob"):
        status = team_proxy.ask("GET", "status", f"sk-test-{user}").json()
        assert (status["user_id"], status["authenticated"]) == (user, True)
        assert status["auto_refresh_enabled"] is True
        assert status["expires_in"] > 0
    nothing = team_proxy.ask("GET", "status", "sk-test-mallory").json()
    assert nothing["authenticated"] is False
    assert nothing["message"] == "No OAuth token found"


def test_a_header_of_the_client_names_nobody(team_proxy: Proxy) -> None:
    answer = team_proxy.ask("GET", "status", "sk-test-mallory", **{"X-OAuthVault-User": "alice"})
    assert answer.json()["user_id"] == "mallory"


def test_a_user_imports_refreshes_and_revokes_their_own(
    team_proxy: Proxy, anthropic: Simulator
) -> None:
    key, login = "sk-test-dave", anthropic.new_login("dave")
    body = {"accessToken": login.access_token, "refreshToken": login.refresh_token}
    stored = team_proxy.ask("PUT", "token", key, {**body, "expiresAt": login.expires_at})
    assert stored.status_code == 201, stored.text
    assert said(team_proxy.chat(key)) == "Hello from dave"

    refreshed = team_proxy.ask("POST", "refresh", key)
    assert refreshed.status_code == 200, refreshed.text
    assert refreshed.json()["success"] is True
    assert said(team_proxy.chat(key)) == "Hello from dave"
    carries_only_the_token_of(anthropic, "dave")

    revoked = team_proxy.ask("DELETE", "revoke", key)
    assert revoked.json()["success"] is True
    refused = team_proxy.chat(key)
    assert refused.status_code == 401
    assert "'dave'" in refused.text
    assert said(team_proxy.chat("sk-test-alice")) == "Hello from alice"


def test_a_wrong_import_is_refused_as_the_vault_refuses_it(team_proxy: Proxy) -> None:
    answer = team_proxy.ask("PUT", "token", "sk-test-mallory", {"accessToken": "sk-ant-oat01-x"})
    assert answer.status_code == 422
    assert answer.headers["content-type"].startswith("application/problem+json")
    assert answer.json()["code"] == "invalid_credentials_file"


def test_the_one_credential_of_all_is_changed_by_the_admin_only(proxy: Proxy) -> None:
    assert proxy.ask("GET", "status", MASTER_KEY).json()["user_id"] == "default"
    assert proxy.ask("POST", "refresh", MASTER_KEY).status_code == 200


def test_a_key_is_asked_for_where_a_person_is_meant(team_proxy: Proxy) -> None:
    assert team_proxy.ask("GET", "status").status_code == 401
    assert team_proxy.ask("GET", "status", "sk-wrong").status_code == 401
    for name in ("refresh", "revoke"):
        method = "POST" if name == "refresh" else "DELETE"
        assert team_proxy.ask(method, name).status_code == 401
        assert team_proxy.ask(method, name, "sk-test-nobody").status_code == 403


def test_health_and_statistics_need_no_key(team_proxy: Proxy) -> None:
    health = team_proxy.ask("GET", "health").json()
    assert health["status"] in ("healthy", "degraded")
    assert {"oauth_configured", "version", "checks"} <= set(health)
    stats = team_proxy.ask("GET", "stats").json()
    assert stats["active_tokens"] >= 3


def test_no_token_is_handed_out_on_the_proxys_port(team_proxy: Proxy) -> None:
    for method, name in [("GET", "token"), ("POST", "token/rejected"), ("POST", "token/identify")]:
        answer = team_proxy.ask(method, name, "sk-test-alice", {"generation": 1})
        assert answer.status_code in (401, 403, 404, 405)
        assert "sk-ant-oat" not in answer.text


# Last: what the processes wrote while all of this went on


def test_no_token_and_no_key_is_in_any_log(
    proxy: Proxy,
    team_proxy: Proxy,
    migrating_proxy: Proxy,
    vault: Vault,
    acme_key: str,
    anthropic: Simulator,
) -> None:
    said(proxy.chat(MASTER_KEY))
    said(team_proxy.chat("sk-test-alice"))
    imported = anthropic.new_login("default")
    body = {"accessToken": imported.access_token, "refreshToken": imported.refresh_token}
    answer = proxy.ask("PUT", "token", MASTER_KEY, {**body, "expiresAt": imported.expires_at})
    assert answer.status_code == 200, answer.text

    canaries = [vault.service_key, acme_key]
    for user in ("default", "alice", "bob", "carol"):
        login = anthropic.current_login(user)
        canaries += [login.access_token, str(login.refresh_token)]
    for process in (proxy, team_proxy, migrating_proxy, vault):
        output = process.output()
        assert output
        for canary in canaries:
            assert canary not in output
        assert "sk-ant-ort01-" not in output
