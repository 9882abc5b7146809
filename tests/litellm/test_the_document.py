"""Every code block of the document is run as it stands, and does what the page says.

Changed is only what the page cannot know, visibly at each block: keys and tokens in place of the
placeholders, addresses and ports, a master key that LiteLLM accepts, the line that names the hook
(and the host on which this Anthropic is), and for LiteLLM's SDK where the proxy is.
"""

import ast
import base64
import json
import os
import re
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psycopg
import pytest
import yaml
from oauthvault_litellm.settings import claude_oauth_block, read_settings

from tests import servers
from tests.litellm.page import BLOCKS, DOCUMENT, block
from tests.litellm.processes import (
    HERE,
    LITELLM_ENVIRONMENT,
    Process,
    Proxy,
    Vault,
    require_litellm,
    running,
)
from tests.ports import free_port
from tests.simulator import Login, Simulator
from tests.source import tree_of

pytestmark = [pytest.mark.system, pytest.mark.timeout(1200)]

MASTER_KEY = f"sk-{secrets.token_urlsafe(24)}"
COMPANY_KEY = "sk-ant-api03-of-the-company"

CALLBACK = """
litellm_settings:
  callbacks: ["oauthvault_litellm.hook"]
"""
ALLOWED_HOSTS = 'allowed_hosts: ["127.0.0.1"]'
# What a Claude token in place of a LiteLLM key needs beside it.
DIRECT_BEARER_AUTH = """
  custom_auth: oauthvault_litellm.auth
  custom_auth_run_common_checks: true"""
DIRECT_BEARER_CHECKS = "  enable_post_custom_auth_checks: true\n"


def shell(commands: str, **environment: str) -> str:
    """What a person at a terminal sees: standard output of bash."""
    done = subprocess.run(
        ["bash", "-c", f"set -e\n{commands}"],
        env={"PATH": os.environ["PATH"], **environment},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def exports(commands: str) -> dict[str, str]:
    """The variables that these commands export."""
    pairs = shell(f"{commands}\nenv -0").split("\0")
    found = dict(pair.split("=", 1) for pair in pairs if pair)
    return {k: v for k, v in found.items() if k.startswith("CLAUDE_") or k == "DATABASE_URL"}


class DocumentProxy(Proxy):
    """LiteLLM, started by the command of the document beside its config.yaml."""

    def __init__(self, directory: Path, config: str, command: str, **environment: str) -> None:
        port = free_port()
        (directory / "config.yaml").write_text(config)
        (directory / "proxy_auth.py").write_text((HERE / "proxy_auth.py").read_text())
        assert command.startswith("litellm ")
        Process.__init__(
            self,
            ["bash", "-c", f"cd '{directory}' && exec {command}"],
            port,
            directory / "proxy.log",
            PATH=f"{LITELLM_ENVIRONMENT / 'bin'}:{os.environ['PATH']}",
            HOST="127.0.0.1",
            PORT=str(port),
            TEST_MASTER_KEY=MASTER_KEY,
            LITELLM_LOCAL_MODEL_COST_MAP="True",
            LITELLM_LOCAL_ANTHROPIC_BETA_HEADERS="True",
            INITIAL_RETRY_DELAY="0.01",
            JITTER="0.01",
            **environment,
        )

    @property
    def here(self) -> tuple[str, str]:
        return "http://localhost:4000", self.url


WITH_MY_KEY = ("YOUR_LITELLM_KEY", MASTER_KEY)


# Quick Start: the environment, the config, the proxy, beside a vault with the same environment


@pytest.fixture(scope="module")
def anthropic() -> Iterator[Simulator]:
    require_litellm()
    for program in ("bash", "curl", "openssl"):
        if shutil.which(program) is None:
            pytest.skip(f"the document needs {program}")
    with Simulator() as simulator:
        yield simulator


@pytest.fixture(scope="module")
def login(anthropic: Simulator) -> Login:
    return anthropic.new_login("default")


@pytest.fixture(scope="module")
def database_port() -> Iterator[int | None]:
    """A PostgreSQL with the user, the password and the database of the document, on which its SQL
    has been run; None where there is no PostgreSQL to start."""
    with servers.running(redis=False) as ours:
        if ours.database_url is None:
            yield None
            return
        with psycopg.connect(ours.database_url, autocommit=True) as admin:
            admin.execute("CREATE ROLE \"user\" LOGIN PASSWORD 'pass'")
            admin.execute('CREATE DATABASE litellm OWNER "user"')
        port = urlsplit(ours.database_url).port
        assert port is not None
        with psycopg.connect(at_port(port)) as connection:
            connection.execute(block("Database Setup 1"))  # type: ignore[arg-type]
        yield port


def at_port(port: int) -> str:
    """The DATABASE_URL of the document, on this port."""
    found = exports(block("Database Setup 2", ("@localhost/", f"@localhost:{port}/")))
    return found["DATABASE_URL"]


@pytest.fixture(scope="module")
def exported(login: Login, database_port: int | None) -> dict[str, str]:
    """The environment of a shell in which the document's exports were run, in its order."""
    found = exports(
        block(
            "2. Set Environment Variables",
            ("your-access-token", login.access_token),
            ("your-refresh-token", str(login.refresh_token)),
            ("1234567890", str(login.expires_at)),
            ("your-encryption-key", "$(openssl rand -base64 32)"),
            ("@localhost/", f"@localhost:{database_port}/"),
        )
        + block("Security Best Practices")
    )
    if database_port is None:
        del found["DATABASE_URL"]
    return found


@pytest.fixture(scope="module")
def vault(
    anthropic: Simulator, exported: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Vault]:
    vault = Vault(tmp_path_factory.mktemp("vault"), anthropic, **exported)
    with running(vault, "/auth/claude/health"):
        yield vault


def of_the_hook(exported: dict[str, str]) -> dict[str, str]:
    """LiteLLM would take DATABASE_URL for its own database, and look for its engine."""
    return {name: value for name, value in exported.items() if name != "DATABASE_URL"}


@pytest.fixture(scope="module")
def proxy(
    anthropic: Simulator,
    vault: Vault,
    exported: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[DocumentProxy]:
    config = block(
        "3. Configure LiteLLM Proxy",
        ("master_key: sk-1234", f"master_key: {MASTER_KEY}{DIRECT_BEARER_AUTH}"),
        ("token_encryption: true", f"token_encryption: true\n    {ALLOWED_HOSTS}"),
    )
    proxy = DocumentProxy(
        tmp_path_factory.mktemp("proxy"),
        config + CALLBACK + DIRECT_BEARER_CHECKS,
        block("4. Start the Proxy"),
        ANTHROPIC_API_BASE=anthropic.url,
        OAUTHVAULT_URL=vault.url,
        OAUTHVAULT_SERVICE_KEY=vault.service_key,
        **of_the_hook(exported),
    )
    with running(proxy, "/health/liveliness"):
        yield proxy


def carries_only_the_token_of(anthropic: Simulator, user: str) -> None:
    """What Anthropic got last is this user's living token, as an OAuth token is to be sent."""
    last = [one for one in anthropic.requests if one.path == "/v1/messages"][-1]
    assert last.headers["authorization"] == f"Bearer {anthropic.current_login(user).access_token}"
    assert "oauth-2025-04-20" in last.headers["anthropic-beta"].split(",")
    assert "x-api-key" not in last.headers


def said(answer: str) -> str:
    text: str = json.loads(answer)["choices"][0]["message"]["content"]
    return text


def test_the_exports_give_the_vault_a_key_that_it_takes(
    vault: Vault, exported: dict[str, str]
) -> None:
    assert len(base64.b64decode(exported["CLAUDE_TOKEN_ENCRYPTION_KEY"])) == 32
    health = httpx.get(f"{vault.url}/auth/claude/health", timeout=60).json()
    assert health["checks"]["encryption"] == "ok"
    assert health["oauth_configured"] is True
    # Nothing was generated in its place.
    kept = Path(vault.environment["OAUTHVAULT_DATA_DIR"])
    assert kept.is_dir()
    assert not [file.name for file in kept.rglob("*") if "encryption" in file.name]


def test_the_exports_fill_the_default_user(vault: Vault) -> None:
    assert vault.status(vault.service_key, "default")["authenticated"] is True


def test_the_sql_of_the_document_and_the_vaults_own_tables_live_in_one_database(
    vault: Vault, database_port: int | None, exported: dict[str, str], login: Login
) -> None:
    if database_port is None:
        pytest.skip("needs PostgreSQL")
    with psycopg.connect(exported["DATABASE_URL"], autocommit=True) as connection:
        # Harmless a second time, beside a vault at work.
        connection.execute(block("Database Setup 1"))  # type: ignore[arg-type]
        columns: dict[str, set[str]] = {"public": set(), "oauthvault": set()}
        for schema, column in connection.execute(
            "SELECT table_schema, column_name FROM information_schema.columns "
            "WHERE table_name = 'claude_oauth_tokens'"
        ):
            columns[schema].add(column)
        assert columns["public"]
        assert columns["public"] <= columns["oauthvault"]
        # The vault writes into its own, sealed, and never into the other.
        assert connection.execute("SELECT * FROM public.claude_oauth_tokens").fetchall() == []
        connection.execute("SET oauthvault.tenants = '*'")
        (row,) = connection.execute(
            "SELECT access_token_encrypted FROM oauthvault.claude_oauth_tokens "
            "WHERE user_id = 'default'"
        ).fetchall()
        assert row[0].startswith("v1.")
        assert login.access_token not in row[0]


# Using Claude Models


def test_the_litellm_sdk_is_answered(proxy: DocumentProxy, anthropic: Simulator) -> None:
    program = block("Using Claude Models", WITH_MY_KEY)
    answer = python(
        f"{program}print(response.choices[0].message.content)",
        USE_LITELLM_PROXY="true",
        LITELLM_PROXY_API_BASE=proxy.url,
    )
    assert answer.strip() == "Hello from default"
    carries_only_the_token_of(anthropic, "default")


def test_the_openai_sdk_is_answered(proxy: DocumentProxy, anthropic: Simulator) -> None:
    program = block("With OpenAI SDK", WITH_MY_KEY, proxy.here)
    answer = python(f"{program}print(response.choices[0].message.content)")
    assert answer.strip() == "Hello from default"
    carries_only_the_token_of(anthropic, "default")


def python(program: str, **environment: str) -> str:
    done = subprocess.run(
        [str(LITELLM_ENVIRONMENT / "bin" / "python"), "-c", program],
        env={"PATH": os.environ["PATH"], "LITELLM_LOCAL_MODEL_COST_MAP": "True", **environment},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_curl_is_answered(proxy: DocumentProxy, anthropic: Simulator) -> None:
    assert said(shell(block("With cURL", WITH_MY_KEY, proxy.here))) == "Hello from default"
    carries_only_the_token_of(anthropic, "default")


def test_a_token_is_taken_in_place_of_a_key(proxy: DocumentProxy, anthropic: Simulator) -> None:
    token = anthropic.current_login("default").access_token
    answer = shell(block("Direct Bearer Token Usage", ("YOUR_OAUTH_TOKEN", token), proxy.here))
    assert said(answer) == "Hello from default"
    carries_only_the_token_of(anthropic, "default")


# API Endpoints


def test_status_has_the_fields_of_the_document(proxy: DocumentProxy) -> None:
    status = json.loads(shell(block("GET /auth/claude/status 1", WITH_MY_KEY, proxy.here)))
    example = json.loads(block("GET /auth/claude/status 2"))
    assert {name: type(status.get(name)) for name in example} == {
        name: type(value) for name, value in example.items()
    }
    assert status["authenticated"] is status["is_max"] is status["auto_refresh_enabled"] is True
    assert status["expires_in"] > 0


def test_refresh_brings_another_token(proxy: DocumentProxy, anthropic: Simulator) -> None:
    before = anthropic.refreshes_of("default")
    ask = block("POST /auth/claude/refresh", WITH_MY_KEY, proxy.here)
    answer = json.loads(shell(ask))
    assert answer["success"] is True
    assert answer["refresh_count"] >= 1
    # A second demand within ten seconds is answered by the first.
    assert json.loads(shell(ask))["success"] is True
    assert anthropic.refreshes_of("default") <= before + 1


def test_revoke_takes_the_token_away_until_another_is_stored(
    proxy: DocumentProxy, anthropic: Simulator
) -> None:
    chat = block("With cURL", WITH_MY_KEY, proxy.here)
    try:
        answer = json.loads(shell(block("DELETE /auth/claude/revoke", WITH_MY_KEY, proxy.here)))
        assert answer["success"] is True
        assert "The OAuth token of user 'default' was revoked" in shell(chat)
    finally:
        # As Claude Code keeps it: `accessToken`, `refreshToken`, `expiresAt`.
        another = anthropic.new_login("default").credentials_file()
        stored = proxy.ask("PUT", "token", MASTER_KEY, another)
        assert stored.status_code in (200, 201), stored.text
    assert said(shell(chat)) == "Hello from default"
    carries_only_the_token_of(anthropic, "default")


def test_health_needs_no_key(proxy: DocumentProxy) -> None:
    health = json.loads(shell(block("GET /auth/claude/health", proxy.here)))
    assert health["status"] in ("healthy", "degraded")
    assert health["oauth_configured"] is True


# Monitoring


def test_statistics_have_what_the_document_lists(proxy: DocumentProxy) -> None:
    stats = json.loads(shell(block("Token Statistics", proxy.here)))
    listed = {
        "Active tokens count": "active_tokens",
        "Tokens expiring soon": "expiring_soon",
        "Refresh statistics": "refreshes",
        "Failed refresh attempts": "failed_refresh_attempts",
    }
    for line, field in listed.items():
        assert f"\n- {line}\n" in DOCUMENT
        assert field in stats


def test_every_metric_of_the_document_is_there(vault: Vault) -> None:
    names = re.findall(r"^- `(litellm_claude_oauth_\w+)`$", DOCUMENT, re.MULTILINE)
    assert len(names) == 4
    text = httpx.get(f"{vault.url}/metrics", timeout=60).text
    for name in names:
        assert re.search(rf"^{name}{{[^}}]*}} [0-9]", text, re.MULTILINE), name


# Advanced Configuration and Troubleshooting: many users, the refresh strategy, debug mode


@pytest.fixture(scope="module")
def team_proxy(
    anthropic: Simulator, vault: Vault, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[DocumentProxy]:
    """The three fragments under one `claude_oauth`, beside the models of the Quick Start."""
    key = vault.tenant("acme")
    for user in ("alice", "bob"):
        vault.store(key, user, anthropic.new_login(user))
    quick_start = block(
        "3. Configure LiteLLM Proxy",
        # A stand-in for LiteLLM's virtual keys, which need an engine of their own.
        (
            "master_key: sk-1234",
            f"master_key: {MASTER_KEY}\n  custom_auth: proxy_auth.user_api_key_auth\n"
            "  custom_auth_run_common_checks: true",
        ),
    )
    models_and_keys = quick_start.partition("  claude_oauth:\n")[0]
    proxy = DocumentProxy(
        tmp_path_factory.mktemp("team"),
        f"{models_and_keys}\n{advanced()}  {ALLOWED_HOSTS}\n{CALLBACK}",
        block("Debug Mode 2"),
        ANTHROPIC_API_BASE=anthropic.url,
        OAUTHVAULT_URL=vault.url,
        OAUTHVAULT_SERVICE_KEY=key,
    )
    with running(proxy, "/health/liveliness"):
        yield proxy


def advanced() -> str:
    head = "claude_oauth:\n"
    fragments = (
        block("Multi-User Configuration", (head, "")),
        block("Token Refresh Strategy", (head, "")),
        block("Debug Mode 1", (head, "")),
    )
    return head + "".join(fragments)


def test_the_fragments_mean_what_they_say() -> None:
    settings = read_settings(
        claude_oauth_block(yaml.safe_load(advanced())),
        {"OAUTHVAULT_SERVICE_KEY": "ovs_" + "k" * 43},
    )
    assert settings.multi_user is settings.debug is settings.refresh.enabled is True
    assert (settings.refresh.threshold, settings.refresh.max_retries) == (300, 3)
    assert settings.refresh.retry_backoff == "exponential"


def test_each_user_has_separate_tokens(team_proxy: DocumentProxy, anthropic: Simulator) -> None:
    for user in ("alice", "bob"):
        asked = block("With cURL", ("YOUR_LITELLM_KEY", f"sk-test-{user}"), team_proxy.here)
        assert said(shell(asked)) == f"Hello from {user}"
        carries_only_the_token_of(anthropic, user)


def test_who_has_none_is_told_so_in_the_words_of_the_document(team_proxy: DocumentProxy) -> None:
    words = "No OAuth token found"
    assert f'**"{words}"**' in DOCUMENT
    asked = block("With cURL", ("YOUR_LITELLM_KEY", "sk-test-mallory"), team_proxy.here)
    assert words in shell(asked)
    status = block("GET /auth/claude/status 1", ("YOUR_LITELLM_KEY", "sk-test-mallory"),
                   team_proxy.here)  # fmt: skip
    assert json.loads(shell(status))["message"] == words


def test_debug_mode_logs_in_detail_and_never_a_token(
    team_proxy: DocumentProxy, anthropic: Simulator
) -> None:
    team_proxy.chat("sk-test-alice")
    team_proxy.chat("sk-test-mallory")
    output = team_proxy.output()
    assert "DEBUG" in output
    assert "oauthvault_litellm" in output
    assert anthropic.current_login("alice").access_token not in output
    assert str(anthropic.current_login("alice").refresh_token) not in output


# Migration from API Keys


def test_a_team_moves_from_api_keys_in_three_steps(
    anthropic: Simulator, tmp_path_factory: pytest.TempPathFactory
) -> None:
    anthropic.api_keys = [COMPANY_KEY]
    vault = Vault(tmp_path_factory.mktemp("vault"), anthropic)
    directory = tmp_path_factory.mktemp("migrating")
    both = {
        "ANTHROPIC_API_BASE": anthropic.url,
        "ANTHROPIC_API_KEY": COMPANY_KEY,
        "OAUTHVAULT_URL": vault.url,
        "OAUTHVAULT_SERVICE_KEY": vault.service_key,
    }
    first = (
        block("Migration from API Keys 1")
        + f"\ngeneral_settings:\n  master_key: {MASTER_KEY}\n{CALLBACK}"
    )
    command = block("4. Start the Proxy")

    def asked(proxy: DocumentProxy) -> str:
        return said(shell(block("With cURL", WITH_MY_KEY, proxy.here)))

    with running(vault, "/auth/claude/health"):
        # 1. Set both auth methods. The hook is there, and not yet at work.
        off = "\nclaude_oauth:\n  enabled: false\n"
        proxy = DocumentProxy(directory, first + off, command, **both)
        with running(proxy, "/health/liveliness"):
            assert asked(proxy) == "Hello from api-key"

        # 2. Configure OAuth.
        moved = anthropic.new_login("moved")
        proxy = DocumentProxy(
            directory,
            f"{first}\n{block('Migration from API Keys 2')}  {ALLOWED_HOSTS}\n",
            command,
            CLAUDE_ACCESS_TOKEN=moved.access_token,
            CLAUDE_REFRESH_TOKEN=str(moved.refresh_token),
            CLAUDE_EXPIRES_AT=str(moved.expires_at),
            **both,
        )
        with running(proxy, "/health/liveliness"):
            # 3. OAuth takes precedence.
            assert asked(proxy) == "Hello from moved"
            carries_only_the_token_of(anthropic, "moved")
        scopes = re.findall(r"^   - `(\w+:\w+)`$", DOCUMENT, re.MULTILINE)
        assert vault.status(vault.service_key, "default")["scopes"] == scopes


# The page itself


def test_every_block_of_the_document_is_taken_by_something_here() -> None:
    taken = {
        call.args[0].value
        for call in ast.walk(tree_of(Path(__file__).read_text()))
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Name)
        and call.func.id == "block"
        and isinstance(call.args[0], ast.Constant)
    }
    assert taken == set(BLOCKS)
    assert len(BLOCKS) == DOCUMENT.count("\n```\n") == 22
