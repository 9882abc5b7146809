"""What the outside sees of a real web process: headers, limits, and nothing to learn from it."""

import re
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from tests.processes import oauthvault, web_processes

pytestmark = pytest.mark.system

SERVICE_KEY = "ovs_" + "h" * 43
PASSWORD = "correct-horse-battery"
LIMIT = 64 * 1024
THREADS = 4
# Words that would tell what the server is made of, or where it lies.
BANNERS = ("granian", "django", "python", "wsgi", "traceback", "exception", "site-packages",
           "/home/", "/tmp/", "debug")  # fmt: skip


@dataclass(frozen=True)
class Served:
    address: str
    key: dict[str, str]

    def raw(self, request: bytes, *, until_closed: bool = False) -> bytes:
        """What comes back to these bytes: the first answer, or all until the server closes."""
        where = urlsplit(self.address)
        with closing(socket.create_connection((where.hostname, where.port), timeout=30)) as line:
            line.sendall(request)
            answer = b""
            while part := line.recv(65_536):
                answer += part
                if _is_whole(answer) and not until_closed:
                    break
        return answer


def _is_whole(answer: bytes) -> bool:
    head, found, body = answer.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)content-length: (\d+)", head)
    return bool(found) and (length is None or len(body) >= int(length[1]))


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A vault whose public address is one of https, as its proxy would reach it."""
    folder = tmp_path_factory.mktemp("hardening")
    variables = {
        "OAUTHVAULT_DATA_DIR": str(folder / "data"),
        "OAUTHVAULT_SERVICE_KEY": SERVICE_KEY,
        "OAUTHVAULT_ADMIN_PASSWORD": PASSWORD,
        "OAUTHVAULT_BASE_URL": "https://vault.example",
        "OAUTHVAULT_WEB_WORKERS": "1",
        "OAUTHVAULT_WEB_THREADS": str(THREADS),
    }
    with web_processes(folder, 1, **variables) as (address,):
        yield Served(address, {"Authorization": f"Bearer {SERVICE_KEY}"})


def test_djangos_deployment_check_has_nothing_to_say(tmp_path: Path) -> None:
    done = oauthvault(
        "check", "--deploy", "--fail-level", "DEBUG",
        OAUTHVAULT_DATA_DIR=str(tmp_path / "data"), OAUTHVAULT_BASE_URL="https://vault.example",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "identified no issues" in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("variable", "value"),
    [("OAUTHVAULT_BASE_URL", "http://vault.example"), ("OAUTHVAULT_ALLOWED_HOSTS", "*"),
     ("CLAUDE_OAUTH_TOKEN_URL", "http://auth.example/token")],
)  # fmt: skip
def test_the_deployment_check_names_what_weakens_it(
    tmp_path: Path, variable: str, value: str
) -> None:
    variables = {"OAUTHVAULT_BASE_URL": "https://vault.example", variable: value}
    done = oauthvault("check", "--deploy", OAUTHVAULT_DATA_DIR=str(tmp_path / "data"), **variables)
    assert variable in done.stdout + done.stderr


@pytest.mark.parametrize(
    "path",
    ["/auth/claude/health", "/auth/claude/status", "/api/docs", "/api/schema", "/admin/login/",
     "/admin/nothing/", "/nothing", "/static/unfold/css/styles.css", "/static/nothing", "/livez"],
)  # fmt: skip
def test_every_answer_says_what_a_browser_may_do_with_it(served: Served, path: str) -> None:
    headers = httpx.get(served.address + path, timeout=60).headers
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "base-uri 'none'" in policy
    scripts = re.search(r"script-src ([^;]*)", policy)
    assert "'unsafe-inline'" not in (scripts[1] if scripts else "")
    assert "://" not in policy
    if not path.startswith("/admin/"):
        assert "unsafe" not in policy
    assert headers["Strict-Transport-Security"] == "max-age=31536000; includeSubDomains; preload"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "same-origin"
    assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert "camera=()" in headers["Permissions-Policy"]


def test_cookies_go_back_to_this_host_by_tls_only_and_to_no_script(served: Served) -> None:
    """All that an operator gets who signs in, does something, and is told what came of it."""
    browser = Browser(served)
    browser.get("/admin/login/")
    browser.post("/admin/login/", username="admin", password=PASSWORD)
    browser.post("/admin/tokens/tenant/add/", slug="acme", auto_refresh="unknown")
    page = browser.get("/admin/tokens/tenant/?q=acme").text
    acme = re.search(r"/admin/tokens/tenant/\d+/", page)
    assert acme is not None
    browser.post(f"{acme[0]}suspend/", confirmed="yes")
    assert "acme: suspended" in browser.get(f"{acme[0]}change/").text
    assert {cookie.partition("=")[0] for cookie in browser.set_cookies} == {
        "__Host-csrftoken", "__Host-sessionid",
    }  # fmt: skip
    for cookie in browser.set_cookies:
        for attribute in ("Secure", "HttpOnly", "Path=/", "SameSite=Lax"):
            assert attribute in cookie
        assert "Domain" not in cookie


class Browser:
    """Sends the cookies back as one behind the TLS of the proxy would, and keeps what it was
    told of each."""

    def __init__(self, served: Served) -> None:
        self._address = served.address
        self._jar: dict[str, str] = {}
        self.set_cookies: list[str] = []

    def get(self, path: str) -> httpx.Response:
        return self._request("GET", path)

    def post(self, path: str, **fields: str) -> None:
        form = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', self.get(path).text)
        assert form is not None
        answer = self._request("POST", path, data=fields | {"csrfmiddlewaretoken": form[1]})
        assert answer.status_code == 302, answer.text

    def _request(self, method: str, path: str, **more: Any) -> httpx.Response:
        cookie = "; ".join(f"{name}={value}" for name, value in self._jar.items())
        answer = httpx.request(
            method, self._address + path, headers={"Cookie": cookie}, timeout=30, **more
        )
        for told in answer.headers.get_list("Set-Cookie"):
            name, _, value = told.partition(";")[0].partition("=")
            self._jar[name] = value
            self.set_cookies.append(told)
        return answer


@pytest.mark.parametrize(
    "request_line",
    [b"GET /auth/claude/health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
     b"GET /nothing HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
     b"GET /admin/nothing/ HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
     b"GET /auth/claude/status HTTP/1.1\r\nHost: evil.example\r\n\r\n",
     b"GET /admin/ HTTP/1.1\r\nHost: evil.example\r\n\r\n",
     b"GET /admin/ HTTP/1.1\r\nHost: \xff<script>\r\n\r\n",
     b"GET / HTTP/1.1\r\n\r\n",
     b"POST /admin/login/ HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\n\r\n",
     b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\n\r\n",
     b"nonsense\r\n\r\n",
     b"GET /" + b"a" * 5000 + b" HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"],
    ids=lambda line: line[:24].decode(errors="replace"),
)  # fmt: skip
def test_no_answer_tells_what_the_server_is_made_of(served: Served, request_line: bytes) -> None:
    answer = served.raw(request_line).decode("latin-1").lower()
    assert answer.startswith("http/1.1 ")
    assert not answer.startswith("http/1.1 5")
    for banner in BANNERS:
        assert banner not in answer
    assert "evil.example" not in answer


def test_a_strange_host_is_refused_before_anybody_looks_at_the_key(served: Served) -> None:
    answer = httpx.get(
        f"{served.address}/auth/claude/status",
        headers=served.key | {"Host": "evil.example"},
        timeout=60,
    )
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_request")
    for host in ("vault.example", "127.0.0.1", "localhost"):
        answer = httpx.get(
            f"{served.address}/auth/claude/status",
            headers=served.key | {"Host": host},
            timeout=60,
        )
        assert answer.status_code == 200


@pytest.mark.parametrize(
    ("method", "path"),
    [("PUT", "/auth/claude/token"), ("POST", "/auth/claude/refresh"), ("POST", "/admin/login/"),
     ("POST", "/admin/tokens/oauthcredential/import/"),
     ("POST", "/api/docs"), ("POST", "/nothing"), ("GET", "/livez"), ("POST", "/static/x")],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["announced", "chunked", "a file in a form"])
def test_no_address_takes_more_than_64_kib(
    served: Served, method: str, path: str, kind: str
) -> None:
    """The dashboard's forms as well: a file in a form would otherwise fill the disk."""
    with httpx.Client(base_url=served.address, timeout=30) as client:
        if kind == "announced":
            answer = client.request(method, path, content=b"x" * (LIMIT + 1), headers=served.key)
        elif kind == "chunked":
            pieces = (b"x" * 8192 for _ in range(9))
            answer = client.request(method, path, content=pieces, headers=served.key)
        else:
            answer = client.request(method, path, files={"f": b"x" * LIMIT}, headers=served.key)
    assert answer.status_code == 413
    assert "64 KiB" in answer.text


def test_a_body_in_chunks_is_read(served: Served) -> None:
    login = b'{"accessToken": 1}'
    with httpx.Client(base_url=served.address, timeout=30, headers=served.key) as client:
        for _ in range(3):
            answer = client.put(
                "/auth/claude/token",
                content=(login[at : at + 4] for at in range(0, len(login), 4)),
                headers={"Content-Type": "application/json"},
            )
            assert answer.json()["code"] == "invalid_credentials_file"


def test_two_lengths_of_one_body_smuggle_nothing(served: Served) -> None:
    """RFC 9112 section 6.3: what follows is no second request."""
    hidden = b"GET /auth/claude/health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    answer = served.raw(
        b"PUT /auth/claude/token HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 5\r\n"
        b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n0\r\n\r\n" + hidden,
        until_closed=True,
    )
    assert answer.count(b"HTTP/1.1 ") == 1
    assert b"oauth_configured" not in answer


def test_whoever_never_finishes_a_body_takes_no_token_from_the_others(served: Served) -> None:
    """Three times as many slow senders as there are threads: whoever sends no body is served, and
    who sends one as soon as they are gone."""
    where = urlsplit(served.address)
    head = (
        "PUT /auth/claude/token HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\n"
        f"Authorization: Bearer {SERVICE_KEY}\r\n\r\n"
    ).encode()
    with (
        ExitStack() as slow,
        httpx.Client(base_url=served.address, headers=served.key, timeout=60) as client,
    ):
        lines = []
        for _ in range(3 * THREADS):
            line = slow.enter_context(socket.create_connection((where.hostname, where.port)))
            line.sendall(head + b"{")
            lines.append(line)
        for _ in range(5):
            assert client.get("/auth/claude/status", timeout=30).status_code == 200
        refused = client.put("/auth/claude/token", json={}, timeout=30)
        assert (refused.status_code, refused.json()["code"]) == (503, "unavailable")
    with httpx.Client(base_url=served.address, headers=served.key, timeout=60) as client:
        answers = iter(lambda: client.put("/auth/claude/token", json={}).status_code, None)
        assert next(status for status in answers if status != 503) == 422


def test_forwarded_has_no_twin_behind_a_proxy_that_passes_every_name_on(tmp_path: Path) -> None:
    """`X_Forwarded_For` is `X-Forwarded-For` to a WSGI application, and the client sends it."""
    variables = {
        "OAUTHVAULT_DATA_DIR": str(tmp_path / "data"),
        "OAUTHVAULT_TRUSTED_PROXIES": "127.0.0.1",
        "OAUTHVAULT_CLIENT_ADDRESS_HEADER": "Forwarded",
        "OAUTHVAULT_WEB_WORKERS": "1",
    }
    with web_processes(tmp_path, 1, **variables) as (address,):
        made = oauthvault("create_key", "default", "--allow-from", "10.9.9.0/24", **variables)
        key = made.stdout.strip()

        def ask(*headers: str) -> int:
            lines = ["GET /auth/claude/status HTTP/1.1", "Host: 127.0.0.1", *headers,
                     f"Authorization: Bearer {key}", "Connection: close", "", ""]  # fmt: skip
            answer = Served(address, {}).raw("\r\n".join(lines).encode())
            return int(answer.split(b" ", 2)[1])

        assert ask("Forwarded: for=10.9.9.1") == 200
        for name in ("Forwarded", "FORWARDED", "X_Forwarded_For", "X-Forwarded-For", "_Forwarded",
                     "Forwarded_", "HTTP_FORWARDED", "X_Real_IP"):  # fmt: skip
            for headers in (
                (f"{name}: for=10.9.9.1", "Forwarded: for=203.0.113.7"),
                (f"{name}: 10.9.9.1", "Forwarded: for=203.0.113.7"),
            ):
                assert ask(*headers) == 401, headers
