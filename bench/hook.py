"""What the hook costs a LiteLLM proxy: requests a second with it and without.

Three real proxies of one process each, in front of the simulated Anthropic: one without the
hook, which pays with an API key; one whose tokens are in memory; one that asks the vault for
every request (`cache_seconds: 0`). The same clients ask them in turns.
"""

import http.client
import json
import secrets
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

from bench.ratio import Figure
from tests.litellm.processes import LITELLM_ENVIRONMENT, Proxy, Vault, running
from tests.simulator import simulator_process

_CALLERS, _EACH = 16, 4
_MASTER_KEY = f"sk-{secrets.token_urlsafe(24)}"
_API_KEY = "sk-ant-api03-of-the-bench"

_WITHOUT = """
model_list:
  - model_name: claude
    litellm_params:
      model: anthropic/claude-sonnet-4-5
      api_key: os.environ/BENCH_API_KEY
general_settings:
  master_key: os.environ/BENCH_MASTER_KEY
"""

_WITH = f"""{_WITHOUT}
  claude_oauth:
    allowed_hosts: ["127.0.0.1"]
    cache_seconds: CACHE_SECONDS
litellm_settings:
  callbacks: ["oauthvault_litellm.hook"]
"""


def measure(folder: Path, compare: Callable[..., Figure]) -> Iterator[Figure]:
    if not (LITELLM_ENVIRONMENT / "bin" / "litellm").exists():
        print("The hook is not measured: LiteLLM is not installed (make .venv-litellm)")
        return
    with ExitStack() as stack:
        upstream = stack.enter_context(simulator_process())
        upstream.api_keys = [_API_KEY]
        (folder / "vault").mkdir()
        vault = stack.enter_context(
            running(Vault(folder / "vault", upstream), "/auth/claude/health")
        )
        vault.store(vault.service_key, "default", upstream.new_login("default", expires_in=36_000))

        def proxy(name: str, config: str) -> Proxy:
            (folder / name).mkdir()
            started = Proxy(
                folder / name,
                config,
                BENCH_MASTER_KEY=_MASTER_KEY,
                BENCH_API_KEY=_API_KEY,
                ANTHROPIC_API_BASE=upstream.url,
                OAUTHVAULT_URL=vault.url,
                OAUTHVAULT_SERVICE_KEY=vault.service_key,
                LITELLM_LOG="ERROR",
            )
            result: Proxy = stack.enter_context(running(started, "/health/liveliness"))
            return result

        without = proxy("without", _WITHOUT)
        warm = proxy("warm", _WITH.replace("CACHE_SECONDS", "10"))
        cold = proxy("cold", _WITH.replace("CACHE_SECONDS", "0"))
        pool = stack.enter_context(ThreadPoolExecutor(_CALLERS))
        _see_who_pays(without, warm, cold)
        for name, hooked in (("tokens in memory", warm), ("one question of the vault each", cold)):
            for one in (hooked, without):
                _ask(pool, one)  # once before it counts
            yield compare(
                f"LiteLLM with the hook, {name}; {_CALLERS} callers, one process each",
                ("POST /chat/completions with the hook", lambda one=hooked: _ask(pool, one)),
                ("POST /chat/completions without it", lambda: _ask(pool, without)),
            )


def _see_who_pays(without: Proxy, warm: Proxy, cold: Proxy) -> None:
    """What is compared is what it says: an API key on one side, the vault's token on the other."""
    for proxy, payer in ((without, "api-key"), (warm, "default"), (cold, "default")):
        answer = proxy.chat(_MASTER_KEY, "claude")
        assert answer.json()["choices"][0]["message"]["content"] == f"Hello from {payer}", (
            answer.text
        )


def _ask(pool: ThreadPoolExecutor, proxy: Proxy) -> int:
    body = json.dumps(
        {"model": "claude", "max_tokens": 16, "messages": [{"role": "user", "content": "Hello!"}]}
    )
    headers = {"Authorization": f"Bearer {_MASTER_KEY}", "Content-Type": "application/json"}

    def caller(_: int) -> None:
        connection = http.client.HTTPConnection(urlsplit(proxy.url).netloc)
        for _ in range(_EACH):
            connection.request("POST", "/chat/completions", body, headers)
            answer = connection.getresponse()
            text = answer.read()
            assert answer.status == 200, text
        connection.close()

    list(pool.map(caller, range(_CALLERS)))
    return _CALLERS * _EACH
