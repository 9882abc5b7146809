"""`python -m oauthvault_litellm doctor` names what a proxy is missing, and no secret."""

import json
import os
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import pytest
from oauthvault_litellm import collector, versions
from oauthvault_litellm.__main__ import main
from oauthvault_litellm.doctor import Finding, environment, examine, proxy
from oauthvault_litellm.doctor.config import ConfigError, read_config

from tests.litellm.processes import LITELLM_ENVIRONMENT, Vault, require_litellm, running
from tests.simulator import Simulator

KEY = "ovs_canary_" + "k" * 40
MASTER_KEY = "sk-canary-of-the-master"
ENVIRON = {"OAUTHVAULT_SERVICE_KEY": KEY, "MY_MASTER_KEY": MASTER_KEY, "DATABASE_URL": "canary"}

GOOD = """
model_list:
  - model_name: claude-3-sonnet
    litellm_params:
      model: anthropic/claude-3-sonnet-20240229
      api_key: "${ANTHROPIC_MIGRATION_KEY}"
  - model_name: gpt
    litellm_params:
      model: openai/gpt-4o

general_settings:
  master_key: os.environ/MY_MASTER_KEY
  claude_oauth:
    enabled: true
    access_token: "${CLAUDE_ACCESS_TOKEN}"

litellm_settings:
  callbacks: ["oauthvault_litellm.hook"]

router_settings:
  num_retries: 2
"""
GOOD_ENVIRON = ENVIRON | {"ANTHROPIC_MIGRATION_KEY": "sk-ant-api03-canary"}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "config.yaml"
    file.write_text(GOOD)
    return file


def findings_of(file: Path, environ: dict[str, str] = GOOD_ENVIRON) -> list[Finding]:
    return checked(list(proxy.findings(read_config(file, environ))))


def checked(found: list[Finding]) -> list[Finding]:
    assert "canary" not in repr(found)
    return found


def says(found: list[Finding], what: str, state: str, sentence: str) -> bool:
    return any(one.what == what and one.state == state and sentence in one.detail for one in found)


# The config


def test_a_good_config_is_found_good(config: Path) -> None:
    found = findings_of(config)
    assert {one.state for one in found} == {"ok"}
    assert {"callback", "claude_oauth", "master key", "models", "responses"} <= {
        one.what for one in found
    }


CALLBACKS = 'callbacks: ["oauthvault_litellm.hook"]'
BLOCK = 'claude_oauth:\n    enabled: true\n    access_token: "${CLAUDE_ACCESS_TOKEN}"'
MODEL = "model: anthropic/claude-3-sonnet-20240229\n"
ROUTER = "num_retries: 2"
MULTI_USER = f"{BLOCK}\n    multi_user: {{enabled: true}}"


@pytest.mark.parametrize(
    ("old", "new", "what", "state", "sentence"),
    [
        (CALLBACKS, "drop_params: true", "callback", "wrong", "is not called: add `callbacks"),
        (CALLBACKS, 'callbacks: ["oauthvault_litelm.hook"]', "callback", "wrong", "did you mean"),
        (CALLBACKS, "callbacks: oauthvault_litellm.hooks", "callback", "wrong", "did you mean"),
        (CALLBACKS, 'success_callback: ["oauthvault_litellm.hook"]', "callback", "wrong",
         "under litellm_settings.success_callback, where it does nothing"),
        (CALLBACKS, "callbacks: oauthvault_litellm.hook", "callback", "ok", "is called"),
        (CALLBACKS, 'callbacks: ["prometheus", "oauthvault_litellm.hook", '
         '"oauthvault_litellm.hook"]', "callback", "warning", "twice"),
        ("  claude_oauth:", "  claude_oath:", "claude_oauth", "wrong", "did you mean claude_oauth"),
        (BLOCK, "proxy_batch_write_at: 60", "claude_oauth", "wrong", "put one under general_"),
        ("enabled: true", "enabled: perhaps", "claude_oauth", "wrong", "must be true or false"),
        ("enabled: true", "enable: true", "claude_oauth", "wrong", "did you mean enabled?"),
        ("enabled: true", "enabled: false", "claude_oauth", "warning", "touches no request"),
        ("enabled: true", "vault_url: http://vault.example.org", "claude_oauth", "warning",
         "not https"),
        (BLOCK, MULTI_USER, "claude_oauth", "ok", "a credential of their own"),
        ("os.environ/MY_MASTER_KEY", "sk-1234", "master key", "wrong", "everybody knows it"),
        ("os.environ/MY_MASTER_KEY", "os.environ/NOT_SET", "master key", "wrong", "there is none"),
        ("os.environ/MY_MASTER_KEY", "os.environ/NOT_SET", "variables", "warning",
         "general_settings.master_key (os.environ/NOT_SET)"),
        ("os.environ/MY_MASTER_KEY", "${MY_MASTER_KEY}", "variables", "warning",
         "write os.environ/VAR in general_settings.master_key"),
        ("os.environ/MY_MASTER_KEY", "sk-short", "master key", "warning", "guessed"),
        (MODEL, "model: openai/claude\n", "models", "wrong", "no model of Anthropic's"),
        (MODEL, "model: claude-3-opus-20240229\n", "models", "ok", "claude-3-sonnet"),
        (MODEL, 'model: "*"\n', "models", "ok", "claude-3-sonnet"),
        (MODEL, f"{MODEL}      api_base: https://user:canary@elsewhere.example/v1\n", "models",
         "wrong", "claude-3-sonnet (elsewhere.example)"),
        (MODEL, f"{MODEL}      api_base: ${{BASE}}\n", "models", "wrong", "may not see a token"),
        ("${ANTHROPIC_MIGRATION_KEY}", "${NOT_SET}", "api key", "warning", "nothing to fall back"),
        (ROUTER, "retry_policy: {AuthenticationErrorRetries: 0}", "settings", "warning",
         "router_settings.retry_policy.AuthenticationErrorRetries is 0"),
        (ROUTER, "model_group_retry_policy: {claude: {AuthenticationErrorRetries: 0}}", "settings",
         "warning", "model_group_retry_policy.claude"),
        (CALLBACKS, f"{CALLBACKS}\n  num_retries_per_request: 1", "settings", "warning",
         "forbids the retry after a 401"),
        (MODEL, f"{MODEL}      api_base: http://api.anthropic.com\n", "models", "wrong",
         "over plain http"),
        (ROUTER, "cache_responses: true", "responses", "warning", "router_settings.cache_respo"),
        (CALLBACKS, f"{CALLBACKS}\n  cache: true", "responses", "warning", "without a token"),
        (BLOCK, f"{BLOCK}\n  custom_auth: oauthvault_litellm.auth", "claude_oauth", "wrong",
         "general_settings.custom_auth_run_common_checks: true is missing"),
        (BLOCK, f"{BLOCK}\n    direct_bearer: vault", "claude_oauth", "wrong",
         "set general_settings.custom_auth: oauthvault_litellm.auth"),
        (BLOCK, f"{BLOCK}\n  custom_auth: oauthvault_litellm.authenticate", "custom auth", "wrong",
         "did you mean oauthvault_litellm.auth?"),
        (BLOCK, f"{BLOCK}\n  custom_auth: my_module.auth", "custom auth", "warning", "drops its"),
    ],
)  # fmt: skip
def test_what_a_config_lacks_is_named(
    config: Path, old: str, new: str, what: str, state: str, sentence: str
) -> None:
    assert old in GOOD
    config.write_text(GOOD.replace(old, new))
    found = findings_of(config)
    assert says(found, what, state, sentence), found


def test_direct_bearer_with_both_of_its_settings_is_well(config: Path) -> None:
    auth = "  custom_auth: oauthvault_litellm.auth\n  custom_auth_run_common_checks: true"
    both = GOOD.replace(BLOCK, f"{BLOCK}\n{auth}").replace(
        CALLBACKS, f"{CALLBACKS}\n  enable_post_custom_auth_checks: true"
    )
    config.write_text(both)
    assert says(findings_of(config), "custom auth", "ok", "oauthvault_litellm.auth")


@pytest.mark.parametrize(
    ("more", "what", "state", "sentence"),
    [
        ({"ANTHROPIC_API_KEY": "canary"}, "api key", "ok", "fallback_to_api_key is on"),
        ({"ANTHROPIC_AUTH_TOKEN": "canary"}, "api key", "warning", "ANTHROPIC_AUTH_TOKEN is set"),
        ({"ANTHROPIC_BASE_URL": "http://gateway.example"}, "models", "wrong", "gateway.example"),
        ({"LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true"}, "master key", "warning",
         "take LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY away"),
        ({"CLAUDE_ACCESS_TOKEN": "sk-ant-oat01-canary"}, "claude_oauth", "wrong",
         "claude_oauth.expires_at is missing"),
        ({"OAUTHVAULT_SERVICE_KEY": ""}, "claude_oauth", "wrong", "oauthvault create_key"),
    ],
)  # fmt: skip
def test_what_the_environment_does_is_named(
    config: Path, more: dict[str, str], what: str, state: str, sentence: str
) -> None:
    found = findings_of(config, GOOD_ENVIRON | more)
    assert says(found, what, state, sentence), found


def test_many_users_need_somebody_to_tell_them_apart(config: Path) -> None:
    config.write_text(GOOD.replace(BLOCK, MULTI_USER))
    assert says(findings_of(config), "users", "ok", "database")
    without = {name: value for name, value in GOOD_ENVIRON.items() if name != "DATABASE_URL"}
    assert says(findings_of(config, without), "users", "wrong", "POST /key/generate")


def test_a_cache_of_answers_does_no_harm_where_everybody_has_their_own(config: Path) -> None:
    both = GOOD.replace(BLOCK, MULTI_USER).replace(CALLBACKS, f"{CALLBACKS}\n  cache: true")
    config.write_text(both)
    assert says(findings_of(config), "responses", "ok", "keeps nothing of Anthropic's models")


def test_the_block_is_read_from_the_top_level_too_but_not_from_both(config: Path) -> None:
    config.write_text(GOOD.replace(BLOCK, "database_connection_pool_limit: 5") + f"\n{BLOCK}\n")
    assert says(findings_of(config), "claude_oauth", "ok", "one credential for all")
    config.write_text(GOOD + f"\n{BLOCK}\n")
    assert says(findings_of(config), "claude_oauth", "wrong", "keep one of them")
    config.write_text(GOOD.replace(BLOCK, "x: 1").replace(CALLBACKS, f"{CALLBACKS}\n  {BLOCK}"))
    assert says(findings_of(config), "claude_oauth", "wrong", "under litellm_settings")


def test_a_config_is_read_with_its_includes_and_its_variables_as_litellm_does(
    config: Path, tmp_path: Path
) -> None:
    (tmp_path / "models.yaml").write_text(
        "model_list: [{model_name: opus, litellm_params: {model: anthropic/claude-3-opus}}]\n"
        "include: [config.yaml]\n"
    )
    more = 'include: [models.yaml]\nenvironment_variables: {CLAUDE_ACCESS_TOKEN: "", OTHER: 5}\n'
    config.write_text(GOOD + more)
    read = read_config(config, GOOD_ENVIRON)
    assert [one["model_name"] for one in read.deployments] == ["claude-3-sonnet", "gpt", "opus"]
    assert read.section("general_settings")["master_key"] == MASTER_KEY
    assert read.environ["OTHER"] == "5"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("model_list: [canary\nx: %canary", "is not YAML: line"),
        ("general_settings: [canary]", "general_settings in "),
        ("model_list: {canary: 1}", "model_list in "),
        ("- canary", "must be a mapping"),
        ("", "must be a mapping"),
        ("include: canary", "include in "),
        ("include: [no-such-file.yaml]", "cannot be read: No such file"),
        ("x: !!python/object:canary {}", "is not YAML"),
    ],
)
def test_what_is_no_config_is_refused_without_a_word_of_it(
    config: Path, text: str, sentence: str
) -> None:
    config.write_text(text)
    with pytest.raises(ConfigError) as refused:
        read_config(config, {})
    assert sentence in str(refused.value)
    assert "canary" not in str(refused.value)


# The environment of the proxy


def test_a_log_with_tokens_in_it_is_wrong() -> None:
    found = list(environment.findings({"LITELLM_DISABLE_REDACT_SECRETS": "True"}))
    assert says(found, "redaction", "wrong", "Unset it")


def test_litellm_is_looked_for_where_the_doctor_runs() -> None:
    """The vault's own environment has none."""
    assert says(list(environment.findings({})), "litellm", "wrong", "the Python that runs the")


@pytest.mark.parametrize(("at_risk", "state"), [(True, "warning"), (False, "ok")])
def test_a_python_whose_collector_can_crash_it_is_named(
    at_risk: bool, state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collector, "IS_AT_RISK", at_risk)
    assert says(list(environment.findings({})), "python", state, platform.python_version())


@pytest.mark.parametrize(
    ("version", "doubt"),
    [
        (versions.OLDEST, None),
        (versions.NEWEST, None),
        (f"{versions.NEWEST}9", None),
        ("1.0.99", f"LiteLLM 1.0.99 is older than {versions.OLDEST}"),
        ("99.0.0rc1", f"LiteLLM 99.0.0rc1 is newer than {versions.NEWEST}"),
        ("unknown", "LiteLLM unknown is older"),
    ],
)
def test_a_release_of_litellm_is_compared_by_its_numbers(version: str, doubt: str | None) -> None:
    found = versions.doubt(version)
    assert found is None if doubt is None else found is not None and found.startswith(doubt)


# The vault


class Rehearsed:
    """A real HTTP server that says yes and no in the order in which the vault does: the key, the
    scope, the fields, the user."""

    SCOPES = {
        ("GET", "token"): "token:read",
        ("PUT", "token"): "token:write",
        ("POST", "refresh"): "token:refresh",
        ("DELETE", "revoke"): "token:revoke",
        ("POST", "token/identify"): "token:identify",
        ("GET", "status"): "status:read",
        ("GET", "stats"): "stats:read",
    }

    def __init__(self) -> None:
        self.scopes = set(self.SCOPES.values())
        self.default_user = True
        self.health: Any = {
            "status": "healthy", "oauth_configured": True, "version": "0.1.0",
            "checks": {"database": "ok"},
        }  # fmt: skip
        self.status: Any = {"authenticated": True, "status": "active", "expires_at": 2_000_000_000}
        self.active_tokens = 3
        self.key_refused_as: str | None = None
        self.clock_offset = 0.0
        self.changed: list[str] = []
        vault = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                address = urlsplit(self.path)
                status, body = vault.answer(
                    self.command,
                    address.path.removeprefix("/auth/claude/"),
                    has_key=self.headers["Authorization"] == f"Bearer {KEY}",
                    unknown_field=bool(address.query),
                    user=self.headers["X-OAuthVault-User"],
                )
                out = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(out)))
                if status == 307:
                    self.send_header("Location", "https://user:canary@vault.example.org/auth")
                self.end_headers()
                self.wfile.write(out)

            do_GET = do_PUT = do_POST = do_DELETE = answer

            def date_time_string(self, timestamp: float | None = None) -> str:
                return formatdate(time.time() + vault.clock_offset, usegmt=True)

            def log_message(self, *_: Any) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def answer(
        self, method: str, name: str, *, has_key: bool, unknown_field: bool, user: str | None
    ) -> tuple[int, Any]:
        if name == "health":
            if isinstance(self.health, tuple):
                status, body = self.health
                return status, body
            return (503 if self.health["status"] == "unhealthy" else 200), self.health
        if not has_key:
            return 401, {"code": "invalid_key"}
        if self.key_refused_as:
            return 403, {"code": self.key_refused_as, "detail": "canary"}
        if self.SCOPES[method, name] not in self.scopes:
            return 403, {"code": "insufficient_scope"}
        if unknown_field:
            return 400, {"code": "invalid_request"}
        if name == "stats":
            return 200, {"active_tokens": self.active_tokens}
        if user is None and not self.default_user:
            return 400, {"code": "user_required"}
        if name != "status":
            self.changed.append(f"{method} {name}")
        return 200, self.status


@pytest.fixture
def rehearsed() -> Iterator[Rehearsed]:
    with Rehearsed() as vault:
        yield vault


def of_the_vault(file: Path, vault: Rehearsed, **more: str) -> list[Finding]:
    environ = GOOD_ENVIRON | {"OAUTHVAULT_URL": vault.url} | more
    found = checked(list(examine(file, environ)))
    assert vault.changed == []
    return found


def test_a_vault_that_does_all_is_found_good(config: Path, rehearsed: Rehearsed) -> None:
    found = of_the_vault(config, rehearsed)
    whats = ("vault", "release", "clock", "key", "tenant", "credentials")
    assert {one.what: one.state for one in found if one.what in whats} == dict.fromkeys(whats, "ok")
    assert says(found, "credentials", "ok", "user 'default' has one, good until 2033-05-1")


@pytest.mark.parametrize(
    ("scope", "state"),
    [
        ("token:read", "wrong"),
        ("token:write", "warning"),
        ("token:refresh", "warning"),
        ("token:revoke", "warning"),
        ("status:read", "warning"),
        ("stats:read", "warning"),
    ],
)
def test_a_scope_that_is_missing_is_named_with_what_fails(
    config: Path, rehearsed: Rehearsed, scope: str, state: str
) -> None:
    rehearsed.scopes.remove(scope)
    assert says(of_the_vault(config, rehearsed), "key", state, f"lacks scopes. {scope}: ")


def test_a_scope_is_asked_for_where_something_needs_it(config: Path, rehearsed: Rehearsed) -> None:
    rehearsed.scopes -= {"token:identify", "token:write"}
    tokens = {"CLAUDE_ACCESS_TOKEN": "sk-ant-oat01-canary"}
    config.write_text(GOOD.replace(BLOCK, f"{BLOCK}\n    expires_at: 2000000000"))
    found = of_the_vault(config, rehearsed, **tokens)
    assert says(found, "key", "wrong", "token:write: ")
    assert not says(found, "key", "wrong", "token:identify")
    config.write_text(GOOD.replace(BLOCK, f"{BLOCK}\n  custom_auth: oauthvault_litellm.auth"))
    assert says(of_the_vault(config, rehearsed), "key", "wrong", "token:identify: ")


def test_a_tenant_of_many_users_wants_multi_user_and_the_other_way_round(
    config: Path, rehearsed: Rehearsed
) -> None:
    rehearsed.default_user = False
    assert says(of_the_vault(config, rehearsed), "tenant", "wrong", "switch multi_user on")
    config.write_text(GOOD.replace(BLOCK, MULTI_USER))
    assert says(of_the_vault(config, rehearsed), "tenant", "ok", "has many users")
    rehearsed.default_user = True
    assert says(of_the_vault(config, rehearsed), "tenant", "warning", "--no-default-user")


@pytest.mark.parametrize(
    ("code", "sentence"),
    [("invalid_key", "oauthvault list_keys"), ("tenant_suspended", "oauthvault resume")],
)
def test_a_key_that_is_not_accepted_is_wrong(
    config: Path, rehearsed: Rehearsed, code: str, sentence: str
) -> None:
    rehearsed.key_refused_as = code
    assert says(of_the_vault(config, rehearsed), "key", "wrong", sentence)


@pytest.mark.parametrize(
    ("health", "state", "sentence"),
    [
        ({"status": "unhealthy", "checks": {"database": "away"}}, "wrong", "database: away"),
        ({"status": "degraded", "checks": {"a": "ok", "b": "slow"}}, "warning", ": b: slow"),
        ((200, b"<html>canary</html>"), "wrong", "something other than a vault answers at http"),
        ((200, {"canary": 1}), "wrong", "something other than a vault answers"),
        ((404, b""), "wrong", "(404)"),
        ((307, b""), "wrong", "sends us on to https://vault.example.org"),
    ],
)  # fmt: skip
def test_what_answers_in_the_vaults_place_is_looked_at(
    config: Path, rehearsed: Rehearsed, health: Any, state: str, sentence: str
) -> None:
    rehearsed.health = rehearsed.health | health if isinstance(health, dict) else health
    assert says(of_the_vault(config, rehearsed), "vault", state, sentence)


def test_a_vault_that_is_not_there_is_wrong(config: Path) -> None:
    with Rehearsed() as gone:
        pass
    assert says(of_the_vault(config, gone), "vault", "wrong", "does not answer (ConnectError)")


def test_another_release_of_the_vault_is_worth_a_look(config: Path, rehearsed: Rehearsed) -> None:
    rehearsed.health["version"] = "7.0.0"
    assert says(of_the_vault(config, rehearsed), "release", "warning", "the vault is 7.0.0")


@pytest.mark.parametrize(
    ("offset", "state", "sentence"),
    [(0, "ok", "agrees"), (20, "warning", "behind the vault's"), (-500, "wrong", "ahead of the")],
)
def test_clocks_that_differ_are_found(
    config: Path, rehearsed: Rehearsed, offset: float, state: str, sentence: str
) -> None:
    rehearsed.clock_offset = offset
    assert says(of_the_vault(config, rehearsed), "clock", state, sentence)


@pytest.mark.parametrize(
    ("status", "state", "sentence"),
    [
        ({"authenticated": False, "message": "No OAuth token found"}, "wrong", "PUT /auth/claude"),
        ({"authenticated": False, "status": "reauthorization_required", "problem": "Sign in."},
         "wrong", "reauthorization_required. Sign in."),
        ({"authenticated": True, "status": "active", "problem": "Ends soon."}, "warning", "soon."),
    ],
)  # fmt: skip
def test_the_one_credential_of_all_is_looked_at(
    config: Path, rehearsed: Rehearsed, status: Any, state: str, sentence: str
) -> None:
    rehearsed.status = status
    assert says(of_the_vault(config, rehearsed), "credentials", state, sentence)


def test_tokens_in_the_block_will_be_stored(config: Path, rehearsed: Rehearsed) -> None:
    rehearsed.status = {"authenticated": False, "message": "No OAuth token found"}
    config.write_text(GOOD.replace(BLOCK, f"{BLOCK}\n    expires_at: 2000000000"))
    found = of_the_vault(config, rehearsed, CLAUDE_ACCESS_TOKEN="sk-ant-oat01-canary")
    assert says(found, "credentials", "ok", "it is given the tokens of the block")


def test_many_users_without_a_credential_among_them_are_noticed(
    config: Path, rehearsed: Rehearsed
) -> None:
    config.write_text(GOOD.replace(BLOCK, MULTI_USER))
    assert says(of_the_vault(config, rehearsed), "credentials", "ok", "3 can be used")
    rehearsed.active_tokens = 0
    assert says(of_the_vault(config, rehearsed), "credentials", "warning", "nobody has one")


# The command


def test_wrong_usage_is_status_2_and_help_helps(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["docter"], ["doctor", "--confg", "x"]):
        with pytest.raises(SystemExit, match="2"):
            main(arguments)
    with pytest.raises(SystemExit, match="0"):
        main(["doctor", "--help"])
    help_text = capsys.readouterr().out
    for word in ("--config FILE", "--json", "Exit status", "nothing is changed"):
        assert word in " ".join(help_text.split())


def test_what_is_wrong_is_status_1_and_can_be_read_by_a_program(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", "--config", str(tmp_path / "none.yaml"), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert {"what", "state", "detail"} == set(found[-1])
    assert found[-1]["state"] == "wrong"
    assert "none.yaml cannot be read: No such file" in found[-1]["detail"]


# On the real vault, with the Python of a real proxy


@pytest.fixture(scope="module")
def vault(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vault]:
    require_litellm()
    with (
        Simulator() as anthropic,
        running(Vault(tmp_path_factory.mktemp("vault"), anthropic), "/auth/claude/health") as vault,
    ):
        login = anthropic.new_login("default")
        vault.store(vault.service_key, "default", login)
        yield vault


def doctor(file: Path, vault: Vault, key: str) -> tuple[int, dict[str, Any]]:
    """Its exit status, and what it said by what it looked at."""
    done = subprocess.run(
        [str(LITELLM_ENVIRONMENT / "bin" / "python"), "-m", "oauthvault_litellm", "doctor",
         "--config", str(file), "--json"],
        env={"PATH": os.environ["PATH"], "OAUTHVAULT_URL": vault.url,
             "OAUTHVAULT_SERVICE_KEY": key, "MY_MASTER_KEY": MASTER_KEY,
             "ANTHROPIC_MIGRATION_KEY": "sk-ant-api03-canary", "DATABASE_URL": "canary"},
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.stderr == ""
    assert key not in done.stdout
    assert "canary" not in done.stdout
    return done.returncode, {one["what"]: one for one in json.loads(done.stdout)}


@pytest.mark.system
def test_the_real_vault_and_a_good_config_leave_nothing_to_do(config: Path, vault: Vault) -> None:
    status, found = doctor(config, vault, vault.service_key)
    assert status == 0
    of_here = ("litellm", "python", "vault")
    assert {one["state"] for what, one in found.items() if what not in of_here} == {"ok"}
    assert {"vault", "release", "clock", "key", "tenant", "credentials"} <= set(found)
    assert found["vault"]["detail"].startswith(f"at {vault.url}, ")
    assert "good until" in found["credentials"]["detail"]


@pytest.mark.system
def test_the_real_vault_shows_what_a_key_may_not_and_nothing_happens(
    config: Path, vault: Vault
) -> None:
    before = vault.status(vault.service_key, "default")
    made = vault.run("create_key", "default", "--scope", "status:read", "--scope", "token:read")
    status, found = doctor(config, vault, made["key"])
    assert status == 0
    assert found["key"]["state"] == "warning"
    for scope in ("token:write", "token:refresh", "token:revoke", "stats:read"):
        assert f"{scope}: " in found["key"]["detail"]
    for scope in ("status:read", "token:read"):
        assert f"{scope}: " not in found["key"]["detail"]
    doctor(config, vault, vault.service_key)
    after = vault.status(vault.service_key, "default")
    assert (after["refresh_count"], after["status"]) == (before["refresh_count"], "active")


@pytest.mark.system
def test_the_real_vault_tells_tenants_of_many_users(config: Path, vault: Vault) -> None:
    key = vault.tenant("many")
    status, found = doctor(config, vault, key)
    assert (status, found["tenant"]["state"]) == (1, "wrong")
    config.write_text(GOOD.replace(BLOCK, MULTI_USER))
    status, found = doctor(config, vault, key)
    assert (status, found["tenant"]["detail"]) == (0, "has many users")
    assert found["credentials"]["state"] == "warning"


@pytest.mark.system
def test_the_real_vault_does_not_know_every_key(config: Path, vault: Vault) -> None:
    status, found = doctor(config, vault, KEY.replace("canary", "unheard"))
    assert (status, found["key"]["state"]) == (1, "wrong")
    assert "does not accept it" in found["key"]["detail"]


def test_the_doctor_runs_where_litellm_is_not(config: Path) -> None:
    """With the vault's own Python: it says what is missing in place of a traceback."""
    done = subprocess.run(
        [sys.executable, "-m", "oauthvault_litellm", "doctor", "--config", str(config)],
        env={"PYTHONPATH": str(Path(proxy.__file__).parents[2]), "MY_MASTER_KEY": MASTER_KEY},
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stdout.startswith("wrong   litellm       is not installed here")
    assert "canary" not in done.stdout + done.stderr
