"""The HTTP server, and the simulator that runs it in this process."""

import secrets
import socket
import struct
import sys
import threading
from email.utils import formatdate
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from socketserver import TCPServer
from types import TracebackType
from typing import Any, Self

from .controls import Controls
from .exchange import exchange, note_unread
from .operations import OPERATIONS, perform
from .state import ControlError, Settings, State
from .wire import Reply, Request, json_reply

CONTROL = "/_control"
LARGEST_BODY = 32 * 1024 * 1024
TRICKLE_PAUSE = 0.05


class Simulator(Controls):
    """A simulated Anthropic on a loopback socket, from `with` to the end of its block."""

    def __init__(self, *, host: str = "127.0.0.1", port: int = 0, **settings: Any) -> None:
        self.state = State(Settings(**settings))
        self._server = _Server((host, port), self.state)
        self.host, self.port = host, self._server.server_address[1]
        self.url = f"http://{host}:{self.port}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.02,), name="simulator", daemon=True
        )

    def perform(self, operation: str, /, **arguments: Any) -> Any:
        return perform(self.state, operation, arguments)

    def start(self) -> Self:
        self._thread.start()
        return self

    def close(self) -> None:
        """Stop at once: waits end, connections close, every thread is joined."""
        self.state.closing.set()
        self.state.let_go()
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.close_connections()
        self._server.server_close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class _Server(TCPServer):
    """One daemon thread to a connection, all of them known so that all can be ended."""

    allow_reuse_address = True
    request_queue_size = 512

    def __init__(self, address: tuple[str, int], state: State) -> None:
        self.state = state
        self._open: dict[threading.Thread, socket.socket] = {}
        self._open_lock = threading.Lock()
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        thread = threading.Thread(
            target=self._serve, args=(request, client_address), name="simulator", daemon=True
        )
        with self._open_lock:
            self._open[thread] = request
        thread.start()

    def _serve(self, request: socket.socket, client_address: Any) -> None:
        try:
            self.finish_request(request, client_address)
        except Exception:
            self.handle_error(request, client_address)
        finally:
            # Out of the table before the descriptor is free for another socket.
            with self._open_lock:
                del self._open[threading.current_thread()]
            self.shutdown_request(request)

    def shutdown_request(self, request: Any) -> None:
        """Close with a FIN, or, where the socket is not to linger, with a bare reset."""
        if request.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER):
            self.close_request(request)
        else:
            super().shutdown_request(request)

    def close_connections(self) -> None:
        with self._open_lock:
            left = dict(self._open)
            for connection in left.values():
                try:
                    connection.shutdown(socket.SHUT_RDWR)
                except OSError:
                    continue  # the client was faster
        for thread in left:
            thread.join(5)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news; a mistake of ours is."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def handle_one_request(self) -> None:
        if self._struck_unread():
            self.close_connection = True
            return
        super().handle_one_request()

    def do_POST(self) -> None:
        body = self._read_body()
        if body is None:
            self._send(json_reply(413, {"error": "request_too_large"}), last=True)
            return
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Request(self.command, self.path, headers, body)
        if self.path == CONTROL or self.path.startswith(f"{CONTROL}/"):
            self._send(_control(self.server.state, request))
            return
        with exchange(self.server.state, request) as reply:
            self._send(reply)

    do_GET = do_PUT = do_DELETE = do_PATCH = do_HEAD = do_OPTIONS = do_POST

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet: what was received is in `requests`."""

    def _struck_unread(self) -> bool:
        """Wait for the next request, and reset the connection if a fault says so.

        The request line is peeked at in the kernel's buffer: closing with bytes unread is
        what makes the kernel send a reset. Clients that pipeline are not provided for.
        """
        first = self.connection.recv(1024, socket.MSG_PEEK)
        if not first:
            return True
        words = first.split(b"\r\n", 1)[0].decode("latin-1").split(" ")
        if len(words) != 3:
            return False
        request = Request(words[0], words[1], {}, b"")
        if request.endpoint is None:
            return False
        on = "messages" if request.endpoint == "count_tokens" else request.endpoint
        state = self.server.state
        with state.lock:
            fault = state.faults.take(on, None, unread=True)
        if fault is None:
            return False
        note_unread(state, method=request.method, path=request.path)
        state.pause(fault.delay)
        linger = struct.pack("ii", 1, 0)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        return True

    def _read_body(self) -> bytes | None:
        """The whole body, or None if it is larger than anybody has reason to send."""
        if "chunked" not in self.headers.get("Transfer-Encoding", "").lower():
            length = int(self.headers.get("Content-Length") or 0)
            return self.rfile.read(length) if length <= LARGEST_BODY else None
        body = b""
        while size := int(self.rfile.readline().partition(b";")[0], 16):
            if len(body) + size > LARGEST_BODY:
                return None
            body += self.rfile.read(size)
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass  # trailers
        return body

    def _send(self, reply: Reply, *, last: bool = False) -> None:
        chunked = bool(reply.chunks) or reply.delivery == "trickle"
        plain = chunked and self.request_version == "HTTP/1.0"  # ended by closing
        if reply.delivery != "whole" or plain or last or self.server.state.closing.is_set():
            self.close_connection = True
        if reply.delivery == "none":
            return
        head = self._head(reply, chunked=chunked and not plain, plain=plain)
        if not chunked or self.command == "HEAD":
            body = b"" if self.command == "HEAD" else reply.body
            if reply.delivery == "cut_short":
                body = body[: len(body) // 2]
            self.wfile.write(head + body)
            return
        self.wfile.write(head)
        for piece, pause in self._pieces(reply):
            self.wfile.write(piece if plain else b"%x\r\n%s\r\n" % (len(piece), piece))
            self.server.state.pause(pause)
            if self.server.state.closing.is_set():
                self.close_connection = True
                return
        if not plain and reply.delivery not in ("cut_short", "no_end"):
            self.wfile.write(b"0\r\n\r\n")

    def _pieces(self, reply: Reply) -> list[tuple[bytes, float]]:
        pause = self.server.state.settings.stream_pause_ms / 1000
        pieces = [(chunk, pause) for chunk in reply.chunks or (reply.body,) if chunk]
        if reply.delivery == "cut_short":
            return pieces[: len(pieces) // 2]
        if reply.delivery == "trickle":
            # A line feed is blank to JSON and to an event stream alike.
            blanks = max(1, round(reply.seconds / TRICKLE_PAUSE))
            return [(b"\n", TRICKLE_PAUSE)] * blanks + pieces
        return pieces

    def _head(self, reply: Reply, *, chunked: bool, plain: bool) -> bytes:
        try:
            phrase = HTTPStatus(reply.status).phrase
        except ValueError:
            phrase = "Overloaded" if reply.status == 529 else "Simulated"
        headers = {
            "Date": formatdate(self.server.state.now(), usegmt=True),
            "request-id": f"req_{secrets.token_hex(12)}",
            **reply.headers,
        }
        if chunked:
            headers["Transfer-Encoding"] = "chunked"
        elif not plain:
            more = 1 if reply.delivery == "no_end" else 0
            headers["Content-Length"] = str(len(reply.body) + more)
        if self.close_connection and reply.delivery == "whole":
            headers["Connection"] = "close"
        lines = [f"HTTP/1.1 {reply.status} {phrase}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def _control(state: State, request: Request) -> Reply:
    """`/_control/<operation>` with its arguments as a JSON object; the result as JSON."""
    name = request.path.partition("?")[0].removeprefix(CONTROL).strip("/")
    if not name:
        return json_reply(200, {"operations": list(OPERATIONS)})
    try:
        arguments = request.json() if request.body else {}
        return json_reply(200, perform(state, name, arguments))
    except ControlError as error:
        return json_reply(400 if name in OPERATIONS else 404, {"error": str(error)})
    except ValueError as error:
        return json_reply(400, {"error": str(error)})
