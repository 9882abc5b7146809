"""OAuth first, the deployment's API key second: when it may stand in, and when nothing may."""

import secrets
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.litellm.processes import Proxy, hello, require_litellm, running, until
from tests.litellm.scripted_vault import Answer, ScriptedVault, problem, token_answer
from tests.litellm.second_provider import SecondProvider
from tests.simulator import Simulator

pytestmark = [pytest.mark.system, pytest.mark.timeout(1200)]

MASTER_KEY = f"sk-{secrets.token_urlsafe(24)}"
API_KEY = "sk-ant-api03-of-the-company"
WAYS_IN = ["/chat/completions", "/v1/messages", "/v1/responses"]
AWAY = Answer(502, b"bad gateway")

CONFIG = """
model_list:
  - model_name: claude
    litellm_params: {model: anthropic/claude-3-sonnet-20240229, api_key: "${COMPANY_KEY}"}
  - model_name: keyless
    litellm_params: {model: anthropic/claude-3-sonnet-20240229, api_key: "${ANTHROPIC_API_KEY}"}
  - model_name: by-https
    litellm_params:
      model: anthropic/claude-3-sonnet-20240229
      api_base: https://127.0.0.1:1

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
    with Simulator(api_keys=[API_KEY]) as simulator:
        yield simulator


@pytest.fixture(scope="module")
def scripted() -> Iterator[ScriptedVault]:
    with ScriptedVault() as vault:
        yield vault


@pytest.fixture(scope="module")
def outbound() -> Iterator[SecondProvider]:
    """The proxy of the proxy's environment, for https only."""
    with SecondProvider() as provider:
        yield provider


@pytest.fixture(scope="module")
def proxy(
    anthropic: Simulator,
    scripted: ScriptedVault,
    outbound: SecondProvider,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Proxy]:
    proxy = Proxy(
        tmp_path_factory.mktemp("stand-in"),
        CONFIG,
        TEST_MASTER_KEY=MASTER_KEY,
        ANTHROPIC_API_BASE=anthropic.url,
        OAUTHVAULT_URL=scripted.url,
        OAUTHVAULT_SERVICE_KEY="ovs_" + "k" * 43,
        COMPANY_KEY=API_KEY,
        HTTPS_PROXY=outbound.url,
    )
    with running(proxy, "/health/liveliness"):
        yield proxy


@pytest.fixture(autouse=True)
def _fresh_record(anthropic: Simulator, proxy: Proxy, scripted: ScriptedVault) -> None:
    anthropic.clear_faults()
    # Where the vault was away in tests before this one, the proxy does not ask it for a moment.
    scripted.answers(problem(404, "no_token"))
    scripted.asked.clear()

    def is_asked() -> bool:
        send(proxy, "probe")
        return bool(scripted.asked)

    until(is_asked, 60, proxy.output)
    anthropic.reset_counts()


@pytest.fixture
def user() -> str:
    """Somebody of whom nobody has heard."""
    return f"u{secrets.token_hex(4)}"


def send(
    proxy: Proxy, user: str, path: str = "/v1/messages", model: str = "claude", **more: Any
) -> httpx.Response:
    body = {"model": model, "input": "Hello!"} if path == "/v1/responses" else hello(model)
    return proxy.post(path, f"sk-test-{user}", {**body, **more})


def handed_out(token: str, path: str) -> list[Answer]:
    """What the vault answers before the first request goes to Anthropic: LiteLLM serves
    /v1/responses by a chat completion, and asks its callbacks for both."""
    return [token_answer(token)] * (2 if path == "/v1/responses" else 1)


def credentials(anthropic: Simulator) -> list[str]:
    """What each request to Anthropic authenticated with, in order."""
    return [
        " + ".join(
            one.headers[name] for name in ("authorization", "x-api-key") if name in one.headers
        )
        for one in anthropic.requests
    ]


@pytest.mark.parametrize("path", WAYS_IN)
@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (problem(404, "no_token"), "no_token"),
        (problem(409, "reauthorization_required"), "reauthorization_required"),
        (AWAY, "vault_unreachable"),
    ],
    ids=["no token", "sign in again", "away"],
)
def test_the_api_key_stands_in_where_nothing_was_taken_away_and_it_is_logged(
    proxy: Proxy,
    anthropic: Simulator,
    scripted: ScriptedVault,
    user: str,
    path: str,
    answer: Answer,
    code: str,
) -> None:
    scripted.answers(answer)
    served = send(proxy, user, path)
    assert served.status_code == 200, served.text
    assert "Hello from api-key" in served.text
    assert credentials(anthropic) == [API_KEY]
    assert proxy.output().count(f"no token for user '{user}' ({code}): the API key") == 1


@pytest.mark.parametrize(
    ("status", "code", "path"),
    [
        *[(409, "revoked", path) for path in WAYS_IN],
        (409, "suspended", "/v1/messages"),
        (409, "quarantined", "/v1/messages"),
        (403, "tenant_suspended", "/v1/messages"),
        (409, "token_expired", "/v1/messages"),
        (409, "no_refresh_token", "/v1/messages"),
        (429, "upstream_rate_limited", "/v1/messages"),
        (429, "rate_limited", "/v1/messages"),
        (503, "upstream_unavailable", "/v1/messages"),
        (401, "invalid_key", "/v1/messages"),
        (418, "something_new", "/v1/messages"),
    ],
)
def test_no_api_key_stands_in_where_something_was_taken_away(
    proxy: Proxy,
    anthropic: Simulator,
    scripted: ScriptedVault,
    user: str,
    path: str,
    status: int,
    code: str,
) -> None:
    scripted.answers(problem(status, code))
    assert send(proxy, user, path).status_code in (401, 403, 429, 503)
    # Nor when the vault is kept from answering afterwards.
    scripted.answers(AWAY)
    assert send(proxy, user, path).status_code == 503
    assert not anthropic.requests
    # It has the last word.
    scripted.answers(problem(404, "no_token"))
    assert send(proxy, user, path).status_code == 200
    assert credentials(anthropic) == [API_KEY]


@pytest.mark.parametrize("path", WAYS_IN)
def test_a_token_goes_before_every_api_key(
    proxy: Proxy, anthropic: Simulator, scripted: ScriptedVault, user: str, path: str
) -> None:
    token = anthropic.new_login(user).access_token
    scripted.answers(token_answer(token))
    for own in ({}, {"api_key": "sk-ant-api03-of-the-client"}, {"api_key": "sk-ant-oat01-client"}):
        served = send(proxy, user, path, **own)
        assert served.status_code == 200, served.text
        assert f"Hello from {user}" in served.text
    assert credentials(anthropic) == [f"Bearer {token}"] * 3


@pytest.mark.parametrize("path", WAYS_IN)
@pytest.mark.parametrize("key", ["sk-ant-api03-of-the-client", "sk-ant-oat01-of-the-client"])
def test_a_clients_own_key_does_not_undo_a_revocation(
    proxy: Proxy, anthropic: Simulator, scripted: ScriptedVault, user: str, path: str, key: str
) -> None:
    scripted.answers(problem(409, "revoked"))
    assert send(proxy, user, path, api_key=key).status_code == 401
    assert not anthropic.requests


@pytest.mark.parametrize("path", WAYS_IN)
def test_an_api_key_whose_variable_is_not_set_is_none(
    proxy: Proxy, anthropic: Simulator, scripted: ScriptedVault, user: str, path: str
) -> None:
    scripted.answers(problem(404, "no_token"))
    assert send(proxy, user, path, "keyless").status_code == 401
    assert not anthropic.requests
    token = anthropic.new_login(user).access_token
    scripted.answers(token_answer(token))
    assert send(proxy, user, path, "keyless").status_code == 200
    assert credentials(anthropic) == [f"Bearer {token}"]


@pytest.mark.parametrize("path", WAYS_IN)
def test_a_401_that_ends_in_a_new_sign_in_ends_with_the_api_key(
    proxy: Proxy, anthropic: Simulator, scripted: ScriptedVault, user: str, path: str
) -> None:
    dead = anthropic.new_login(user).access_token
    anthropic.kill_access_token(dead)
    scripted.answers(*handed_out(dead, path), problem(409, "reauthorization_required"))
    served = send(proxy, user, path)
    assert served.status_code == 200, served.text
    assert credentials(anthropic) == [f"Bearer {dead}", API_KEY]


@pytest.mark.parametrize("path", WAYS_IN)
@pytest.mark.parametrize("code", ["revoked", "suspended"])
def test_a_401_that_turns_out_to_be_a_revocation_ends_there(
    proxy: Proxy, anthropic: Simulator, scripted: ScriptedVault, user: str, path: str, code: str
) -> None:
    dead = anthropic.new_login(user).access_token
    anthropic.kill_access_token(dead)
    scripted.answers(*handed_out(dead, path), problem(409, code), AWAY)
    for _ in range(2):
        assert send(proxy, user, path).status_code >= 400
    assert set(credentials(anthropic)) == {f"Bearer {dead}"}


@pytest.mark.parametrize("path", WAYS_IN)
def test_no_api_key_gets_round_anthropics_429(
    proxy: Proxy, anthropic: Simulator, scripted: ScriptedVault, user: str, path: str
) -> None:
    token = anthropic.new_login(user).access_token
    scripted.answers(*handed_out(token, path), AWAY)
    anthropic.fault("rate_limited", on="messages", times=None, retry_after=0)
    for _ in range(2):
        assert send(proxy, user, path).status_code == 429
    assert set(credentials(anthropic)) == {f"Bearer {token}"}


@pytest.mark.parametrize("path", WAYS_IN)
def test_a_proxy_of_the_environment_is_asked_for_a_tunnel_and_told_no_token(
    proxy: Proxy,
    anthropic: Simulator,
    scripted: ScriptedVault,
    outbound: SecondProvider,
    user: str,
    path: str,
) -> None:
    token = anthropic.new_login(user).access_token
    scripted.answers(token_answer(token))
    outbound.received.clear()
    assert send(proxy, user, path, "by-https").status_code >= 400
    assert outbound.received
    for one in outbound.received:
        assert one.startswith("CONNECT 127.0.0.1:1 ")
        assert "sk-ant-oat" not in one


def test_no_api_key_stands_in_after_a_revocation_on_the_proxys_port(
    proxy: Proxy, anthropic: Simulator, scripted: ScriptedVault, user: str
) -> None:
    scripted.answers(Answer(200, {"success": True}))
    answer = proxy.ask("DELETE", "revoke", f"sk-test-{user}")
    assert answer.status_code == 200, answer.text
    scripted.answers(AWAY)
    assert send(proxy, user).status_code == 503
    assert not credentials(anthropic)
