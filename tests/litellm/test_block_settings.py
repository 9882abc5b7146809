"""The refresh settings of the block are what the vault does: seen through a real LiteLLM proxy."""

import secrets
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.litellm.processes import Proxy, Vault, require_litellm, running
from tests.simulator import Login, Simulator

pytestmark = [pytest.mark.system, pytest.mark.timeout(1200)]

MASTER_KEY = f"sk-{secrets.token_urlsafe(24)}"

# The document's "Token Refresh Strategy", with a value of its own in each line.
STRATEGY = """
model_list:
  - model_name: claude-3-sonnet
    litellm_params:
      model: anthropic/claude-3-sonnet-20240229

general_settings:
  master_key: os.environ/TEST_MASTER_KEY

claude_oauth:
  access_token: "${CLAUDE_ACCESS_TOKEN}"
  refresh_token: "${CLAUDE_REFRESH_TOKEN}"
  expires_at: "${CLAUDE_EXPIRES_AT}"
  auto_refresh:
    enabled: false
    threshold: 600  # Seconds before expiry
    max_retries: 0
    retry_backoff: fixed
  allowed_hosts: ["127.0.0.1"]

litellm_settings:
  callbacks: ["oauthvault_litellm.hook"]
"""

MANY_USERS = """
model_list:
  - model_name: claude-3-sonnet
    litellm_params:
      model: anthropic/claude-3-sonnet-20240229

general_settings:
  master_key: os.environ/TEST_MASTER_KEY
  custom_auth: proxy_auth.user_api_key_auth
  custom_auth_run_common_checks: true

claude_oauth:
  multi_user: {enabled: true, isolation: strict}
  auto_refresh: false
  refresh_threshold: 600
  allowed_hosts: ["127.0.0.1"]

litellm_settings:
  callbacks: ["oauthvault_litellm.hook"]
"""


@pytest.fixture(scope="module")
def anthropic() -> Iterator[Simulator]:
    require_litellm()
    with Simulator() as simulator:
        yield simulator


@pytest.fixture(scope="module")
def vault(anthropic: Simulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vault]:
    with running(Vault(tmp_path_factory.mktemp("vault"), anthropic), "/livez") as vault:
        yield vault


@pytest.fixture(scope="module")
def login(anthropic: Simulator) -> Login:
    """With more left than the deployment's threshold, and less than the block's."""
    return anthropic.new_login("default", expires_in=500)


@pytest.fixture(scope="module")
def proxy(
    anthropic: Simulator, vault: Vault, login: Login, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Proxy]:
    proxy = Proxy(
        tmp_path_factory.mktemp("proxy"),
        STRATEGY,
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


def settings_in(vault: Vault, key: str, user: str) -> Any:
    answer = httpx.get(
        f"{vault.url}/auth/claude/settings",
        headers={"Authorization": f"Bearer {key}", "X-OAuthVault-User": user},
        timeout=60,
    )
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_the_first_question_finds_what_the_block_says(
    proxy: Proxy, vault: Vault, anthropic: Simulator
) -> None:
    # With more left than the deployment's threshold, and less than the block's; whatever another
    # test has stored.
    fresh = anthropic.new_login("default", expires_in=500)
    stored = proxy.ask("PUT", "token", MASTER_KEY, fresh.credentials_file())
    assert stored.status_code == 200, stored.text
    status = proxy.ask("GET", "status", MASTER_KEY).json()
    assert (status["authenticated"], status["status"]) == (True, "active")
    assert status["auto_refresh_enabled"] is False
    assert status["needs_refresh"] is True, "500 s are less than 600"
    found = settings_in(vault, vault.service_key, "default")
    assert found["effective"] == {
        "auto_refresh": False, "refresh_threshold": 600, "max_retries": 0, "retry_backoff": "fixed",
    }  # fmt: skip
    assert "the vault refreshes user 'default' as claude_oauth says" in proxy.output()


def test_an_expired_token_is_refused_until_somebody_asks_for_its_refresh(
    proxy: Proxy, anthropic: Simulator
) -> None:
    """A login that was imported later is under the same settings."""
    expired = anthropic.new_login("default", expires_in=-5)
    anthropic.reset_counts()
    stored = proxy.ask("PUT", "token", MASTER_KEY, expired.credentials_file())
    assert stored.status_code == 200, stored.text
    refused = proxy.chat(MASTER_KEY)
    assert refused.status_code == 401
    assert "OAuth token expired" in refused.text
    status = proxy.ask("GET", "status", MASTER_KEY).json()
    assert (status["status"], status["auto_refresh_enabled"]) == ("expired", False)
    assert anthropic.refreshes_of("default") == 0

    assert proxy.ask("POST", "refresh", MASTER_KEY).status_code == 200
    answer = proxy.chat(MASTER_KEY)
    assert answer.status_code == 200, answer.text
    assert anthropic.refreshes_of("default") == 1


def test_under_multi_user_the_vaults_own_govern_and_that_is_said(
    anthropic: Simulator, vault: Vault, tmp_path_factory: pytest.TempPathFactory
) -> None:
    key = vault.tenant("acme")
    vault.store(key, "alice", anthropic.new_login("alice"))
    proxy = Proxy(
        tmp_path_factory.mktemp("team"),
        MANY_USERS,
        TEST_MASTER_KEY=MASTER_KEY,
        ANTHROPIC_API_BASE=anthropic.url,
        OAUTHVAULT_URL=vault.url,
        OAUTHVAULT_SERVICE_KEY=key,
    )
    with running(proxy, "/health/liveliness"):
        assert proxy.chat("sk-test-alice").status_code == 200
        status = proxy.ask("GET", "status", "sk-test-alice").json()
        said = proxy.output()
    assert status["auto_refresh_enabled"] is True
    assert set(settings_in(vault, key, "alice")["own"].values()) == {None}
    assert "auto_refresh, refresh_threshold in the block would be for the credential" in said
    assert "the vault's own settings govern" in said
