"""Real processes for the end-to-end claims: the vault, a LiteLLM proxy, a client of it."""

import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.ports import free_port
from tests.simulator import Controls

ROOT = Path(__file__).resolve().parents[2]
# Another one than `make .venv-litellm` makes, to try another release of LiteLLM.
LITELLM_ENVIRONMENT = Path(os.environ.get("TEST_LITELLM_ENVIRONMENT") or ROOT / ".venv-litellm")
HERE = Path(__file__).resolve().parent

# An empty environment but for what a program needs to be found and to speak.
_PLAIN = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}

# What it says is there at once, and where it was when it crashed as well.
_SPEAKING = {"PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1"}


def require_litellm() -> None:
    """Fails under CI and skips elsewhere, naming the remedy, where LiteLLM is not installed."""
    if not (LITELLM_ENVIRONMENT / "bin" / "litellm").exists():
        say = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
        say("the LiteLLM proxy is not installed: run `make .venv-litellm`")


def service_key() -> str:
    return f"ovs_{secrets.token_urlsafe(32)}"


class Process:
    """A server of its own, its output kept; `url` answers once it is ready."""

    def __init__(self, command: list[str], port: int, log: Path, **environment: str) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.environment = _PLAIN | _SPEAKING | environment
        self._command = command
        self._log = log
        log.touch()
        self.start()

    def start(self) -> None:
        """Once more after `stop`, at the same address."""
        with self._log.open("ab") as out:
            self.process = subprocess.Popen(
                self._command, env=self.environment, cwd=ROOT, stdout=out, stderr=subprocess.STDOUT
            )

    def output(self) -> str:
        return self._log.read_text(errors="replace")

    def wait_until_ready(self, path: str, seconds: float = 400.0) -> None:
        def ready() -> bool:
            assert self.process.poll() is None, self.output()
            try:
                return httpx.get(self.url + path, timeout=30).is_success
            except httpx.HTTPError:
                return False

        until(ready, seconds, self.output)

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Vault(Process):
    """`oauthvault up` on an empty directory, refreshing at a simulator."""

    def __init__(self, directory: Path, simulator: Controls, **environment: str) -> None:
        port = free_port()
        self.service_key = service_key()
        super().__init__(
            [sys.executable, "-m", "oauthvault.cli", "up"],
            port,
            directory / "vault.log",
            OAUTHVAULT_DATA_DIR=str(directory / "data"),
            OAUTHVAULT_PORT=str(port),
            OAUTHVAULT_SERVICE_KEY=self.service_key,
            CLAUDE_OAUTH_TOKEN_URL=simulator.token_url,
            **environment,
        )

    def run(self, *arguments: str) -> Any:
        """One `oauthvault` command with --json; what it printed."""
        done = subprocess.run(
            [sys.executable, "-m", "oauthvault.cli", *arguments, "--json"],
            env={k: v for k, v in self.environment.items() if k != "OAUTHVAULT_SERVICE_KEY"},
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def tenant(self, slug: str) -> str:
        """A tenant of many users; a service key for its LiteLLM."""
        self.run("create_tenant", slug)
        key: str = self.run("create_key", slug)["key"]
        return key

    def store(self, key: str, user: str, login: Any) -> None:
        answer = httpx.put(
            f"{self.url}/auth/claude/token",
            headers={"Authorization": f"Bearer {key}", "X-OAuthVault-User": user},
            json={
                "accessToken": login.access_token,
                "refreshToken": login.refresh_token,
                "expiresAt": login.expires_at,
            },
            timeout=60,
        )
        assert answer.status_code in (200, 201), answer.text

    def status(self, key: str, user: str) -> Any:
        answer = httpx.get(
            f"{self.url}/auth/claude/status",
            headers={"Authorization": f"Bearer {key}", "X-OAuthVault-User": user},
            timeout=60,
        )
        assert answer.status_code == 200, answer.text
        return answer.json()


class Proxy(Process):
    """A real LiteLLM proxy with the hook, from a config in YAML."""

    def __init__(self, directory: Path, config: str, *options: str, **environment: str) -> None:
        port = free_port()
        file = directory / "config.yaml"
        file.write_text(config)
        # LiteLLM looks for modules that a config names beside the config.
        (directory / "proxy_auth.py").write_text((HERE / "proxy_auth.py").read_text())
        program = str(LITELLM_ENVIRONMENT / "bin" / "litellm")
        super().__init__(
            [program, "--config", str(file), "--host", "127.0.0.1", "--port", str(port), *options],
            port,
            directory / "proxy.log",
            # Both would be asked for on the network.
            LITELLM_LOCAL_MODEL_COST_MAP="True",
            LITELLM_LOCAL_ANTHROPIC_BETA_HEADERS="True",
            # How long the router waits before it tries again.
            INITIAL_RETRY_DELAY="0.01",
            JITTER="0.01",
            **environment,
        )

    def post(self, path: str, key: str, body: Any, **headers: str) -> httpx.Response:
        return httpx.post(
            self.url + path,
            headers={"Authorization": f"Bearer {key}", **headers},
            json=body,
            timeout=60,
        )

    def ask(
        self, method: str, name: str, key: str = "", body: Any = None, **headers: str
    ) -> httpx.Response:
        """One of `/auth/claude/*`."""
        if key:
            headers["Authorization"] = f"Bearer {key}"
        url = f"{self.url}/auth/claude/{name}"
        return httpx.request(method, url, headers=headers, json=body, timeout=60)

    def chat(self, key: str, model: str = "claude-3-sonnet", **more: Any) -> httpx.Response:
        return self.post("/chat/completions", key, {**hello(model), **more})


def hello(model: str) -> dict[str, Any]:
    return {
        "model": model,
        "max_tokens": 16,
        "messages": [{"role": "user", "content": "Hello!"}],
    }


@contextmanager
def running(process: Process, ready: str, *, within: float = 400.0) -> Iterator[Any]:
    try:
        process.wait_until_ready(ready, within)
        yield process
    finally:
        process.stop()


def until(holds: Callable[[], bool], seconds: float, say: Callable[[], str] = lambda: "") -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"not within {seconds} s\n{say()}"
        time.sleep(0.05)
