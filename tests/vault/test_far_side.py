"""The one HTTP client: what it believes, where it goes, and how much it reads.

Real servers on the far side, each of them wrong in one way.
"""

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pytest_django import Settings

from tests.certificates import self_signed
from tests.simulator import Simulator
from tokens import oauth_client
from tokens.oauth_client import Refusal, Refused
from tokens.secret import RefreshToken

TOKEN = RefreshToken("sk-ant-ort01-canary-of-the-far-side")


class Peer:
    """A server for one connection at a time; ``handle`` has the socket. Remembers what it read."""

    def __init__(
        self, handle: Callable[["Peer", socket.socket], None], tls: ssl.SSLContext | None = None
    ) -> None:
        self.read = b""
        self.sent = 0
        self.refusals: list[str] = []
        self._handle, self._tls = handle, tls
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """After the one who is served now."""
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._thread.join(timeout=30)
        assert not self._thread.is_alive(), "somebody is still read from"

    def _serve(self) -> None:
        while True:
            try:
                line, _ = self._listening.accept()
            except OSError:
                return
            line.settimeout(30)
            try:
                if self._tls is not None:
                    line = self._tls.wrap_socket(line, server_side=True)
                self._handle(self, line)
            except OSError as error:
                self.refusals.append(str(error))
            finally:
                line.close()

    def take_request(self, line: socket.socket) -> None:
        while TOKEN.reveal().encode() not in self.read and (part := line.recv(65_536)):
            self.read += part


@contextmanager
def peer(
    handle: Callable[[Peer, socket.socket], None], tls: ssl.SSLContext | None = None
) -> Iterator[Peer]:
    served = Peer(handle, tls)
    try:
        yield served
    finally:
        served.close()


def answer(head: str) -> Callable[[Peer, socket.socket], None]:
    def handle(self: Peer, line: socket.socket) -> None:
        self.take_request(line)
        line.sendall(head.replace("\n", "\r\n").encode())

    return handle


def test_a_certificate_that_nobody_vouches_for_is_refused_and_nothing_is_sent(
    settings: Settings, tmp_path: Path
) -> None:
    with peer(answer("HTTP/1.1 200 OK\n\n"), self_signed(tmp_path)) as server:
        settings.CLAUDE_OAUTH_TOKEN_URL = f"https://127.0.0.1:{server.port}/token"
        result = oauth_client.refresh(TOKEN, deadline=20)
    assert isinstance(result, Refused)
    assert result.kind is Refusal.UNREACHABLE
    assert server.read == b""
    assert server.refusals


def test_a_redirect_is_not_followed(settings: Settings, upstream: Simulator) -> None:
    """The token is for one address."""
    head = f"HTTP/1.1 307 Temporary Redirect\nLocation: {upstream.token_url}\nContent-Length: 0\n\n"
    with peer(answer(head)) as server:
        settings.CLAUDE_OAUTH_TOKEN_URL = f"http://127.0.0.1:{server.port}/token"
        result = oauth_client.refresh(TOKEN, deadline=20)
    assert isinstance(result, Refused)
    assert result.kind is Refusal.UPSTREAM_ERROR
    assert upstream.counts.token_calls == 0


@pytest.mark.parametrize("status", [200, 400, 500])
def test_an_endless_body_is_read_to_64_kib_and_no_further(settings: Settings, status: int) -> None:
    def pour(self: Peer, line: socket.socket) -> None:
        self.take_request(line)
        line.sendall(f"HTTP/1.1 {status} X\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        while True:
            line.sendall(b"1000\r\n" + b"x" * 0x1000 + b"\r\n")
            self.sent += 0x1000

    with peer(pour) as server:
        settings.CLAUDE_OAUTH_TOKEN_URL = f"http://127.0.0.1:{server.port}/token"
        result = oauth_client.refresh(TOKEN, deadline=60)
    assert isinstance(result, Refused)
    # What was sent beyond what is read lies in the buffers of the two sockets.
    assert server.sent < 20 * 1024 * 1024
    assert server.refusals, "the connection was not closed"


def test_a_body_that_trickles_for_ever_ends_with_the_deadline(settings: Settings) -> None:
    def trickle(self: Peer, line: socket.socket) -> None:
        self.take_request(line)
        line.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        gone = threading.Event()
        while not gone.wait(0.05):
            line.sendall(b"1\r\nx\r\n")

    with peer(trickle) as server:
        settings.CLAUDE_OAUTH_TOKEN_URL = f"http://127.0.0.1:{server.port}/token"
        result = oauth_client.refresh(TOKEN, deadline=1.5)
    assert isinstance(result, Refused)
    assert result.kind is Refusal.UNKNOWN
    assert server.refusals, "the connection was not closed"


def test_a_netrc_is_not_looked_into(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login somebody password canary\n")
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    monkeypatch.setenv("HOME", str(tmp_path))
    with peer(answer("HTTP/1.1 500 X\nContent-Length: 0\n\n")) as server:
        settings.CLAUDE_OAUTH_TOKEN_URL = f"http://127.0.0.1:{server.port}/token"
        oauth_client.refresh(TOKEN, deadline=20)
    assert TOKEN.reveal().encode() in server.read
    assert b"authorization" not in server.read.lower()
