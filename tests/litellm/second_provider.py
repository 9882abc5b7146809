"""A real HTTP server beside the simulated Anthropic: another provider, or whoever stands where a
token should never come. It keeps all that it is sent, answers in OpenAI's form, and in Anthropic's
where it is asked in Anthropic's."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self


class SecondProvider:
    def __init__(self) -> None:
        self.received: list[str] = []  # each request whole: line, headers, body
        provider = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                text = body.decode("utf-8", "replace")
                provider.received.append(f"{self.requestline}\n{self.headers}\n{text}")
                status, out = _answer(self.command, self.path)
                data = json.dumps(out).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = do_PUT = do_DELETE = do_CONNECT = answer

            def log_message(self, *_: Any) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
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


def _answer(method: str, path: str) -> tuple[int, dict[str, Any]]:
    if method == "CONNECT":
        return 502, {}
    if path.endswith("/messages"):
        return 200, {
            "id": "msg_elsewhere",
            "type": "message",
            "role": "assistant",
            "model": "elsewhere",
            "content": [{"type": "text", "text": SAYS}],
            "stop_reason": "end_turn",
            "stop_sequence": None,
            "usage": {"input_tokens": 1, "output_tokens": 1},
        }
    if path.partition("?")[0].endswith("/chat/completions"):
        message = {"role": "assistant", "content": SAYS}
        return 200, {
            "id": "chatcmpl-elsewhere",
            "object": "chat.completion",
            "created": 1,
            "model": "elsewhere",
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
        }
    return 404, {"error": {"message": "not here", "type": "not_found"}}


SAYS = "Hello from elsewhere"
