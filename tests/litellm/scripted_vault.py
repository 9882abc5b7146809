"""A real HTTP server that answers as the vault's contract says, by script."""

import json
import ssl
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self


@dataclass(frozen=True)
class Asked:
    method: str
    path: str
    headers: Message
    body: Any


@dataclass(frozen=True)
class Answer:
    status: int
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    after: float = 0.0


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """Whoever asked may have given up: nothing to print a traceback for."""
        if not isinstance(sys.exception(), ConnectionError | ssl.SSLError):
            super().handle_error(request, client_address)


class ScriptedVault:
    """Gives the answers of `script` in order, and the last one for ever. With `tls` over https."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.script: deque[Answer] = deque()
        self.asked: list[Asked] = []
        vault = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                vault.asked.append(
                    Asked(self.command, self.path, self.headers, json.loads(raw) if raw else None)
                )
                answer = vault.script.popleft() if len(vault.script) > 1 else vault.script[0]
                time.sleep(answer.after)
                body = answer.body
                out = body if isinstance(body, bytes) else b"" if body is None else encoded(body)
                self.send_response(answer.status)
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(out)))
                self.end_headers()
                self.wfile.write(out)

            do_GET = do_POST = do_PUT = do_DELETE = answer

            def log_message(self, *_: Any) -> None: ...

        self._server = _Server(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        scheme = "http" if tls is None else "https"
        self.url = f"{scheme}://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.01,), daemon=True
        )

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def answers(self, *answers: Answer) -> None:
        self.script = deque(answers)


def encoded(body: Any) -> bytes:
    return json.dumps(body).encode()


def token_answer(
    token: str = "sk-ant-oat01-canary-a",
    *,
    generation: int = 1,
    expires_in: int = 3600,
    after: float = 0.0,
) -> Answer:
    return Answer(
        200,
        {
            "access_token": token,
            "token_type": "Bearer",
            "expires_in": expires_in,
            "expires_at": int(time.time()) + expires_in,
            "generation": generation,
            "headers": {"anthropic-beta": "oauth-2025-04-20"},
        },
        {"ETag": f'"{generation}"', "Cache-Control": "no-store"},
        after=after,
    )


def problem(status: int, code: str, detail: str = "said why", **headers: str) -> Answer:
    body = {"type": "about:blank", "title": code, "status": status, "detail": detail, "code": code}
    return Answer(status, body, {name.replace("_", "-"): value for name, value in headers.items()})
