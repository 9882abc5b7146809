"""A Claude token in place of a LiteLLM key: whose call it is, what it opens, who sees the token."""

import json
import os
import secrets
import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
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
from tests.ports import free_port
from tests.simulator import Simulator

pytestmark = [pytest.mark.system, pytest.mark.timeout(1200)]

MASTER_KEY = f"sk-{secrets.token_urlsafe(24)}"
OAUTH_BETA = "oauth-2025-04-20"
OF_THE_COMPANY = "sk-ant-api03-of-the-company"

# `falls-over` has somewhere to fall: another provider, which the company pays.
MODELS = """
model_list:
  - model_name: claude-3-sonnet
    litellm_params:
      model: anthropic/claude-3-sonnet-20240229
      api_key: sk-ant-api03-of-the-company
  - model_name: falls-over
    litellm_params:
      model: anthropic/claude-3-opus-20240229
      api_key: sk-ant-api03-of-the-company
  - model_name: foreign
    litellm_params:
      model: anthropic/claude-3-opus-20240229
      api_base: http://localhost:FOREIGN_PORT
  - model_name: another-provider
    litellm_params:
      model: openai/gpt-4o
      api_base: ANTHROPIC/v1
      api_key: sk-key-of-another-provider

router_settings:
  fallbacks: [{"falls-over": ["another-provider"]}]
  num_retries: 0
"""

# Every user their own, the operator's own custom_auth for all other keys.
VAULT_KNOWS = """
general_settings:
  master_key: os.environ/TEST_MASTER_KEY
  custom_auth: oauthvault_litellm.auth
  custom_auth_run_common_checks: true

claude_oauth:
  multi_user: {enabled: true}
  custom_auth: proxy_auth.user_api_key_auth
  allowed_hosts: ["127.0.0.1"]
  cache_seconds: 300

litellm_settings:
  callbacks: ["oauthvault_litellm.hook", "recorder.recorder"]
  enable_post_custom_auth_checks: true
"""

# One credential for all who have a key, and strangers who bring their own.
ANY = """
general_settings:
  master_key: os.environ/TEST_MASTER_KEY
  custom_auth: oauthvault_litellm.auth
  custom_auth_run_common_checks: true

claude_oauth:
  direct_bearer: any
  allowed_hosts: ["127.0.0.1"]

litellm_settings:
  callbacks: ["oauthvault_litellm.hook", "recorder.recorder"]
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


class DirectProxy(Proxy):
    """A proxy that takes Claude tokens, with an operator's callback beside the hook."""

    def __init__(self, directory: Path, config: str, anthropic: Simulator, **given: str) -> None:
        (directory / "recorder.py").write_text((HERE / "recorder.py").read_text())
        self._record = directory / "record"
        super().__init__(
            directory,
            config,
            "--detailed_debug",
            TEST_MASTER_KEY=MASTER_KEY,
            TEST_RECORD=str(self._record),
            ANTHROPIC_API_BASE=anthropic.url,
            ANTHROPIC_API_KEY=OF_THE_COMPANY,
            **given,
        )

    def recorded(self) -> str:
        return self._record.read_text(encoding="utf-8") if self._record.exists() else ""

    def was_told_of(self, event: str, words: str) -> bool:
        """Whether the operator's callback has written this event of the request with these
        words."""
        lines = self.recorded().splitlines()
        return any(line.startswith(f"{event}: ") and words in line for line in lines)


def saying(words: str, model: str) -> dict[str, Any]:
    return {**hello(model), "messages": [{"role": "user", "content": words}]}


def models(anthropic: Simulator, elsewhere: socket.socket) -> str:
    filled = MODELS.replace("ANTHROPIC/", f"{anthropic.url}/")
    return filled.replace("FOREIGN_PORT", str(elsewhere.getsockname()[1]))


@pytest.fixture(scope="module")
def proxy(
    anthropic: Simulator,
    vault: Vault,
    acme_key: str,
    elsewhere: socket.socket,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[DirectProxy]:
    for user in ("alice", "bob", "carol"):
        vault.store(acme_key, user, anthropic.new_login(user))
    proxy = DirectProxy(
        tmp_path_factory.mktemp("vault-knows"),
        models(anthropic, elsewhere) + VAULT_KNOWS,
        anthropic,
        OAUTHVAULT_URL=vault.url,
        OAUTHVAULT_SERVICE_KEY=acme_key,
    )
    with running(proxy, "/health/liveliness"):
        yield proxy


@pytest.fixture(scope="module")
def open_proxy(
    anthropic: Simulator,
    vault: Vault,
    elsewhere: socket.socket,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[DirectProxy]:
    vault.store(vault.service_key, "default", anthropic.new_login("default"))
    proxy = DirectProxy(
        tmp_path_factory.mktemp("any"),
        models(anthropic, elsewhere) + ANY,
        anthropic,
        OAUTHVAULT_URL=vault.url,
        OAUTHVAULT_SERVICE_KEY=vault.service_key,
    )
    with running(proxy, "/health/liveliness"):
        yield proxy


def token_of(anthropic: Simulator, user: str) -> str:
    token: str = anthropic.current_login(user).access_token
    return token


def came(anthropic: Simulator) -> list[Any]:
    """What came but for refreshes, and for the list of models that LiteLLM asks for at start."""
    return [one for one in anthropic.requests if one.path not in ("/v1/oauth/token", "/v1/models")]


def carries_only(anthropic: Simulator, token: str) -> None:
    """The last request to Anthropic had this token, as an OAuth token is to be sent."""
    last = came(anthropic)[-1]
    assert last.headers["authorization"] == f"Bearer {token}"
    assert OAUTH_BETA in last.headers["anthropic-beta"].split(",")
    assert "x-api-key" not in last.headers


WAYS_IN = [
    ("/chat/completions", hello("claude-3-sonnet")),
    ("/v1/messages", hello("claude-3-sonnet")),
    ("/anthropic/v1/messages", hello("claude-3-sonnet")),
    ("/v1/responses", {"model": "claude-3-sonnet", "input": "Hello!"}),
]


# `vault`: only tokens that the vault knows, each for its owner


@pytest.mark.parametrize(("path", "body"), WAYS_IN, ids=[path for path, _ in WAYS_IN])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_a_token_that_the_vault_knows_makes_its_owner_the_caller(
    proxy: Proxy, anthropic: Simulator, path: str, body: dict[str, Any], stream: bool
) -> None:
    for user in ("alice", "bob"):
        token = token_of(anthropic, user)
        answer = proxy.post(path, token, {**body, "stream": stream})
        assert answer.status_code == 200, answer.text
        assert user in answer.text
        carries_only(anthropic, token)


def test_a_token_counts_tokens_too(proxy: Proxy, anthropic: Simulator) -> None:
    token = token_of(anthropic, "alice")
    answer = proxy.post("/v1/messages/count_tokens", token, hello("claude-3-sonnet"))
    assert answer.json()["input_tokens"] > 0
    carries_only(anthropic, token)


def test_a_token_in_the_header_of_api_keys_is_taken_as_well(
    proxy: Proxy, anthropic: Simulator
) -> None:
    token = token_of(anthropic, "alice")
    answer = httpx.post(
        f"{proxy.url}/v1/messages",
        headers={"x-api-key": token},
        json=hello("claude-3-sonnet"),
        timeout=60,
    )
    assert answer.status_code == 200, answer.text
    carries_only(anthropic, token)


def test_what_goes_upstream_is_the_owners_token_of_now(
    proxy: Proxy, anthropic: Simulator, vault: Vault, acme_key: str
) -> None:
    presented = token_of(anthropic, "carol")
    assert proxy.post("/v1/messages", presented, hello("claude-3-sonnet")).status_code == 200
    assert proxy.ask("POST", "refresh", "sk-test-carol").status_code == 200
    assert token_of(anthropic, "carol") != presented

    # Known to this process for as long as `cache_seconds`, although the vault has moved on.
    assert proxy.post("/v1/messages", presented, hello("claude-3-sonnet")).status_code == 200
    carries_only(anthropic, token_of(anthropic, "carol"))


def test_a_token_that_dies_upstream_is_replaced_like_any_other(
    proxy: Proxy, anthropic: Simulator, vault: Vault, acme_key: str
) -> None:
    vault.store(acme_key, "gina", anthropic.new_login("gina"))
    presented = token_of(anthropic, "gina")
    anthropic.kill_access_token(presented)
    answer = proxy.post("/v1/messages", presented, hello("claude-3-sonnet"))
    assert answer.status_code == 200, answer.text
    assert token_of(anthropic, "gina") != presented
    carries_only(anthropic, token_of(anthropic, "gina"))


def test_tokens_that_the_vault_does_not_know_are_refused_and_told_nothing(
    proxy: Proxy, anthropic: Simulator, vault: Vault, acme_key: str
) -> None:
    globex_key = vault.tenant("globex")
    for user, key in (("of-globex", globex_key), ("spent", acme_key), ("revoked", acme_key)):
        vault.store(key, user, anthropic.new_login(user))
    tokens = [token_of(anthropic, user) for user in ("of-globex", "spent", "revoked")]
    assert proxy.ask("POST", "refresh", "sk-test-spent").status_code == 200
    assert proxy.ask("DELETE", "revoke", "sk-test-revoked").status_code == 200
    tokens += [
        anthropic.new_login("stranger").access_token,
        "sk-ant-oat01-made-up",
        "sk-ant-oat",
        "sk-ant-oat01-" + "x" * 5000,
        "sk-ant-oat01-with|a|bar",
    ]
    anthropic.reset_counts()

    answers = [proxy.post("/v1/messages", token, hello("claude-3-sonnet")) for token in tokens]
    assert {answer.status_code for answer in answers} == {401}
    assert len({answer.text for answer in answers}) == 1
    assert "is not one that the vault holds" in answers[0].text
    assert not came(anthropic)


def test_who_is_revoked_or_suspended_is_refused_although_the_token_was_known(
    proxy: Proxy, anthropic: Simulator, vault: Vault, acme_key: str
) -> None:
    for user in ("hank", "ivan"):
        vault.store(acme_key, user, anthropic.new_login(user))
        token = token_of(anthropic, user)
        assert proxy.post("/v1/messages", token, hello("claude-3-sonnet")).status_code == 200
    tokens = {user: token_of(anthropic, user) for user in ("hank", "ivan")}
    assert proxy.ask("DELETE", "revoke", "sk-test-hank").status_code == 200
    vault.run("suspend", "--tenant", "acme", "--user", "ivan")
    # The proxy keeps a token for `cache_seconds`; a 401 of upstream has it ask the vault.
    anthropic.kill_access_token(tokens["ivan"])
    anthropic.reset_counts()

    answer = proxy.post("/v1/messages", tokens["hank"], hello("claude-3-sonnet"))
    assert answer.status_code == 401
    assert "was revoked" in answer.text or "No OAuth token found" in answer.text
    assert not came(anthropic)
    answer = proxy.post("/v1/messages", tokens["ivan"], hello("claude-3-sonnet"))
    assert answer.status_code == 403
    assert "suspended" in answer.text
    assert not any(one.status == 200 for one in came(anthropic))


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/auth/claude/refresh"),
        ("DELETE", "/auth/claude/revoke"),
        ("PUT", "/auth/claude/token"),
        ("GET", "/key/info"),
        ("POST", "/key/generate"),
        ("GET", "/get/config/callbacks"),
        ("GET", "/health"),
        ("POST", "/v1/embeddings"),
        ("POST", "/v1/files"),
        ("POST", "/utils/token_counter"),
        ("POST", "/vertex_ai/v1/projects/p/locations/l/publishers/google/models/m:generateContent"),
        ("POST", "/openai/v1/chat/completions"),
    ],
)
def test_a_token_opens_nothing_else(
    proxy: Proxy, anthropic: Simulator, method: str, path: str
) -> None:
    answer = httpx.request(
        method,
        proxy.url + path,
        headers={"Authorization": f"Bearer {token_of(anthropic, 'alice')}"},
        json={"model": "claude-3-sonnet", "messages": [], "input": "x"},
        timeout=60,
    )
    assert answer.status_code == 403, answer.text
    assert "and nothing else here" in answer.text
    assert not came(anthropic)


def test_its_owner_may_see_the_own_status_and_the_models(
    proxy: Proxy, anthropic: Simulator
) -> None:
    token = token_of(anthropic, "alice")
    assert proxy.ask("GET", "status", token).json()["user_id"] == "alice"
    listed = httpx.get(
        f"{proxy.url}/v1/models", headers={"Authorization": f"Bearer {token}"}, timeout=60
    )
    assert "claude-3-sonnet" in listed.text


def pays_for_nothing_but_anthropic(
    proxy: Proxy, anthropic: Simulator, elsewhere: socket.socket, token: str
) -> None:
    for path in ("/chat/completions", "/v1/messages", "/v1/messages/count_tokens"):
        answer = proxy.post(path, token, hello("another-provider"))
        assert answer.status_code == 403, answer.text
        assert "opens Anthropic's models only" in answer.text
        assert proxy.post(path, token, hello("foreign")).status_code == 403
    with pytest.raises(BlockingIOError):
        elsewhere.accept()
    assert not came(anthropic)

    anthropic.fault("overloaded", on="messages", times=None)
    for path in ("/chat/completions", "/v1/messages"):
        assert proxy.post(path, token, hello("falls-over")).status_code >= 400
    assert {one.path for one in came(anthropic)} == {"/v1/messages"}
    for one in came(anthropic):
        assert one.headers["authorization"] == f"Bearer {token}"
        assert "x-api-key" not in one.headers


def test_a_token_pays_for_nothing_but_anthropic(
    proxy: Proxy, anthropic: Simulator, elsewhere: socket.socket
) -> None:
    pays_for_nothing_but_anthropic(proxy, anthropic, elsewhere, token_of(anthropic, "alice"))


def test_every_other_key_goes_to_the_operators_own_custom_auth(
    proxy: Proxy, anthropic: Simulator
) -> None:
    assert "Hello from bob" in proxy.chat("sk-test-bob").text
    assert proxy.chat("sk-wrong").status_code == 401
    assert proxy.chat("sk-test-bob+only+claude-3-sonnet").status_code == 200
    anthropic.reset_counts()
    # What LiteLLM checks itself, it still checks.
    assert proxy.chat("sk-test-bob+only+claude-3-sonnet", "falls-over").status_code in (401, 403)
    headers = {"Authorization": "Bearer sk-test-bob"}
    refused = httpx.get(f"{proxy.url}/get/config/callbacks", headers=headers, timeout=60)
    assert refused.status_code in (401, 403), refused.text
    assert not came(anthropic)


def test_neither_callbacks_nor_logs_are_given_the_token(
    proxy: DirectProxy, anthropic: Simulator
) -> None:
    token = token_of(anthropic, "bob")
    words = secrets.token_hex(8)
    served = proxy.post("/v1/messages", token, saying(words, "claude-3-sonnet"))
    assert served.status_code == 200, served.text
    refused = proxy.post("/chat/completions", token, saying(words, "another-provider"))
    assert refused.status_code == 403, refused.text
    stranger = anthropic.new_login("stranger").access_token
    assert proxy.post("/v1/messages", stranger, hello("claude-3-sonnet")).status_code == 401
    # What comes after an answer is written behind it.
    for event in ("before", "success", "refused"):
        until(lambda event=event: proxy.was_told_of(event, words), 60, proxy.recorded)
    assert "bob" in proxy.recorded()
    for written in (proxy.recorded(), proxy.output()):
        for canary in (token, stranger):
            assert canary not in written
            assert canary.removeprefix("sk-ant-") not in written


# `any`: whoever has one brings it, for oneself


@pytest.mark.parametrize(("path", "body"), WAYS_IN, ids=[path for path, _ in WAYS_IN])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_any_token_goes_to_anthropic_as_it_came(
    open_proxy: Proxy, anthropic: Simulator, path: str, body: dict[str, Any], stream: bool
) -> None:
    token = anthropic.new_login("mallory").access_token
    answer = open_proxy.post(path, token, {**body, "stream": stream})
    assert answer.status_code == 200, answer.text
    assert "mallory" in answer.text
    carries_only(anthropic, token)


def test_any_token_counts_tokens_too(open_proxy: Proxy, anthropic: Simulator) -> None:
    token = anthropic.new_login("mallory").access_token
    answer = open_proxy.post("/anthropic/v1/messages/count_tokens", token, hello("claude-3-sonnet"))
    assert answer.json()["input_tokens"] > 0
    carries_only(anthropic, token)


@pytest.mark.parametrize("path", ["/chat/completions", "/v1/messages", "/v1/messages/count_tokens"])
def test_a_token_that_anthropic_refuses_is_paid_by_nobody_else(
    open_proxy: Proxy, anthropic: Simulator, path: str
) -> None:
    token = "sk-ant-oat01-made-up"
    answer = open_proxy.post(path, token, hello("claude-3-sonnet"))
    assert answer.status_code == 401, answer.text
    assert [one.headers.get("authorization") for one in came(anthropic)]
    for one in came(anthropic):
        assert one.headers["authorization"] == f"Bearer {token}"
        assert "x-api-key" not in one.headers
    assert anthropic.refreshes_of("default") == 0


def test_any_token_pays_for_nothing_but_anthropic(
    open_proxy: Proxy, anthropic: Simulator, elsewhere: socket.socket
) -> None:
    token = anthropic.new_login("mallory").access_token
    pays_for_nothing_but_anthropic(open_proxy, anthropic, elsewhere, token)


def test_any_token_is_nobody(open_proxy: Proxy, anthropic: Simulator) -> None:
    token = anthropic.new_login("mallory").access_token
    for method, name in (("GET", "status"), ("POST", "refresh"), ("DELETE", "revoke")):
        answer = open_proxy.ask(method, name, token)
        assert answer.status_code == 403, answer.text
        assert "default" not in answer.text


def test_what_many_bring_at_once_is_not_mixed_up(open_proxy: Proxy, anthropic: Simulator) -> None:
    keys = {f"guest-{n}": anthropic.new_login(f"guest-{n}").access_token for n in range(5)}
    keys["default"] = MASTER_KEY
    asked = list(keys) * 6
    with ThreadPoolExecutor(6) as clients:
        answers = list(clients.map(lambda user: open_proxy.chat(keys[user]), asked))
    said = [answer.json()["choices"][0]["message"]["content"] for answer in answers]
    assert said == [f"Hello from {user}" for user in asked]


def test_every_other_key_goes_to_litellm(open_proxy: Proxy, anthropic: Simulator) -> None:
    assert "Hello from default" in open_proxy.chat(MASTER_KEY).text
    for key in ("sk-wrong", "sk-ant-api03-x", "sk-ant-ort01-x", "x"):
        assert open_proxy.chat(key).status_code in (400, 401)
    without = httpx.post(f"{open_proxy.url}/chat/completions", json={}, timeout=60)
    assert without.status_code in (400, 401)
    assert len(came(anthropic)) == 1


def test_no_callback_and_no_log_is_given_any_token(
    open_proxy: DirectProxy, anthropic: Simulator
) -> None:
    token = anthropic.new_login("mallory").access_token
    words = secrets.token_hex(8)
    served = open_proxy.post("/v1/messages", token, saying(words, "claude-3-sonnet"))
    assert served.status_code == 200, served.text
    assert open_proxy.chat(token, "another-provider").status_code == 403
    until(lambda: open_proxy.was_told_of("success", words), 60, open_proxy.recorded)
    for written in (open_proxy.recorded(), open_proxy.output()):
        assert token not in written
        assert token.removeprefix("sk-ant-") not in written


# Without a vault


@pytest.fixture(scope="module")
def without_a_vault() -> Any:
    require_litellm()
    done = subprocess.run(
        [
            str(LITELLM_ENVIRONMENT / "bin" / "python"),
            str(HERE / "direct_alone.py"),
            f"http://127.0.0.1:{free_port()}",
        ],
        env={**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "canary" not in done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_while_the_vault_is_away_a_token_that_was_not_known_has_to_wait(
    without_a_vault: Any,
) -> None:
    assert without_a_vault["away"]["status"] == "503"
    assert "cannot say for now whose" in without_a_vault["away"]["says"]
    assert "canary" not in without_a_vault["away"]["says"]


def test_the_token_is_taken_out_of_the_request(without_a_vault: Any) -> None:
    assert without_a_vault["headers left"] == {"accept": "*/*"}


def test_other_keys_are_left_to_litellm(without_a_vault: Any) -> None:
    assert without_a_vault["another key"] == {"answer": "None"}
    assert without_a_vault["no key"] == {"answer": "None"}


def test_a_connection_that_is_upgraded_is_not_opened(without_a_vault: Any) -> None:
    assert without_a_vault["upgraded"]["status"] == "403"


def test_a_custom_auth_that_is_not_there_is_named(without_a_vault: Any) -> None:
    assert "claude_oauth.custom_auth: no_such.auth is not found" in without_a_vault["not found"]


# `off`, and what LiteLLM must be told besides


def test_where_it_is_off_a_token_is_refused_with_a_sentence(
    anthropic: Simulator,
    vault: Vault,
    acme_key: str,
    elsewhere: socket.socket,
    tmp_path: Path,
) -> None:
    vault.store(acme_key, "jack", anthropic.new_login("jack"))
    off = VAULT_KNOWS.replace("claude_oauth:", "claude_oauth:\n  direct_bearer: off")
    proxy = DirectProxy(
        tmp_path,
        models(anthropic, elsewhere) + off,
        anthropic,
        OAUTHVAULT_URL=vault.url,
        OAUTHVAULT_SERVICE_KEY=acme_key,
    )
    with running(proxy, "/health/liveliness"):
        answer = proxy.chat(token_of(anthropic, "jack"))
        assert answer.status_code == 401
        assert "takes no Claude token in place of a LiteLLM key" in answer.text
        assert not came(anthropic)
        assert "Hello from jack" in proxy.chat("sk-test-jack").text


def test_the_proxy_does_not_start_where_litellm_would_drop_checks_of_its_own(
    anthropic: Simulator, acme_key: str, vault: Vault, elsewhere: socket.socket, tmp_path: Path
) -> None:
    config = VAULT_KNOWS.replace("  enable_post_custom_auth_checks: true\n", "")
    proxy = DirectProxy(
        tmp_path,
        models(anthropic, elsewhere) + config,
        anthropic,
        OAUTHVAULT_URL=vault.url,
        OAUTHVAULT_SERVICE_KEY=acme_key,
    )
    try:
        assert proxy.process.wait(timeout=400) != 0
    except subprocess.TimeoutExpired:
        pytest.fail(proxy.output())
    finally:
        proxy.stop()
    assert "litellm_settings.enable_post_custom_auth_checks: true is missing" in proxy.output()
