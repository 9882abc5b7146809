"""How many hand-outs one web process gives, against a view that does nothing."""

import http.client
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

from bench.ratio import Figure
from tests.processes import web_processes
from tests.simulator import Simulator

SERVICE_KEY = "ovs_" + "b" * 43
_CALLERS, _EACH = 8, 10


def measure(folder: Path, compare: Callable[..., Figure]) -> Iterator[Figure]:
    with Simulator() as upstream:
        variables = {
            "OAUTHVAULT_DATA_DIR": str(folder / "hand-outs"),
            "OAUTHVAULT_SERVICE_KEY": SERVICE_KEY,
            "CLAUDE_OAUTH_TOKEN_URL": upstream.token_url,
        }
        with (
            web_processes(folder, 1, **variables) as (address,),
            ThreadPoolExecutor(_CALLERS) as pool,
        ):
            _store(address, upstream)
            yield compare(
                "Hand-outs over HTTP, SQLite, one process of two threads",
                ("GET /auth/claude/token", lambda: _ask(pool, address, "/auth/claude/token")),
                ("GET /livez", lambda: _ask(pool, address, "/livez")),
            )


def _store(address: str, upstream: Simulator) -> None:
    connection = http.client.HTTPConnection(urlsplit(address).netloc)
    body = json.dumps(upstream.new_login("default", expires_in=36_000).credentials_file())
    headers = {"Authorization": f"Bearer {SERVICE_KEY}", "Content-Type": "application/json"}
    connection.request("PUT", "/auth/claude/token", body, headers)
    assert connection.getresponse().status == 201
    connection.close()


def _ask(pool: ThreadPoolExecutor, address: str, path: str) -> int:
    def caller(_: int) -> None:
        connection = http.client.HTTPConnection(urlsplit(address).netloc)
        for _ in range(_EACH):
            connection.request("GET", path, headers={"Authorization": f"Bearer {SERVICE_KEY}"})
            answer = connection.getresponse()
            assert answer.status == 200
            answer.read()
        connection.close()

    list(pool.map(caller, range(_CALLERS)))
    return _CALLERS * _EACH
