"""As little of an HTTP/1.1 client as a load generator needs; it shares the cores with what
it measures. Keep-alive, no pipelining, answers with a Content-Length.
"""

import asyncio
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    head: bytes
    body: bytes

    def header(self, name: bytes) -> bytes | None:
        """The value of the first header of that name (in lower case); None without one."""
        _, found, rest = self.head.lower().partition(b"\r\n" + name + b":")
        return rest.partition(b"\r\n")[0].strip() if found else None


def request(*, netloc: str, path: str, key: str, user: str) -> bytes:
    """A GET of the vault's API, ready for the wire."""
    lines = (
        f"GET {path} HTTP/1.1",
        f"Host: {netloc}",
        f"Authorization: Bearer {key}",
        f"X-OAuthVault-User: {user}",
    )
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def whole_answer(received: bytes) -> Answer | None:
    """The answer once all of it is there, else None."""
    head, found, body = received.partition(b"\r\n\r\n")
    if not found:
        return None
    answer = Answer(int(head[9:12]), head, body)
    length = int(answer.header(b"content-length") or 0)
    return answer if len(body) >= length else None


class Connection(asyncio.Protocol):
    """One connection to one web process, opened again when it turns out to be closed."""

    def __init__(self, netloc: str) -> None:
        host, _, port = netloc.rpartition(":")
        self._host, self._port = host, int(port)
        self._transport: asyncio.Transport | None = None
        self._received = b""
        self._waiting: asyncio.Future[Answer] | None = None

    async def open(self) -> None:
        loop = asyncio.get_running_loop()
        await loop.create_connection(lambda: self, self._host, self._port)

    async def ask(self, message: bytes) -> Answer:
        """Send one request and wait for its answer.

        A connection that the server closed while it lay idle is opened again, and the
        request sent once more: it was never answered, and a GET.
        """
        for last in (False, True):
            if self._transport is None:
                await self.open()
            assert self._transport is not None
            self._waiting = asyncio.get_running_loop().create_future()
            self._transport.write(message)
            try:
                return await self._waiting
            except ConnectionError:
                if last:
                    raise
        raise AssertionError("unreachable")

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport, self._received = transport, b""

    def data_received(self, data: bytes) -> None:
        self._received += data
        answer = whole_answer(self._received)
        if answer is None or self._waiting is None:
            return
        waiting, self._waiting, self._received = self._waiting, None, b""
        if not waiting.done():
            waiting.set_result(answer)

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        waiting, self._waiting = self._waiting, None
        if waiting is not None and not waiting.done():
            waiting.set_exception(ConnectionResetError("closed by the server"))
