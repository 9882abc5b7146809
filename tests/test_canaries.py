"""No byte of a token where none belongs.

Canary tokens go in by every door of a real vault and through refreshes, refusals, the
dashboard and the broker. Then every byte that it wrote or answered is searched.
"""

import base64
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import quote, urljoin, urlsplit

import httpx
import psycopg
import pytest
import redis
from psycopg import sql

from tests.processes import oauthvault, own_stores, web_processes
from tests.simulator import Login, Simulator

pytestmark = [pytest.mark.system, pytest.mark.postgres_too]

SERVICE_KEY = "ovs_" + "CanaryKey0123456789" * 3
PASSWORD = "a password of the first operator"


@pytest.fixture
def upstream() -> Iterator[Simulator]:
    with Simulator() as simulator:
        yield simulator


@pytest.fixture
def variables(tmp_path: Path, upstream: Simulator) -> Iterator[dict[str, str]]:
    login = upstream.new_login("default", expires_in=3600)
    given = {
        "OAUTHVAULT_DATA_DIR": str(tmp_path / "data"),
        "OAUTHVAULT_SERVICE_KEY": SERVICE_KEY,
        "OAUTHVAULT_ADMIN_PASSWORD": PASSWORD,
        "OAUTHVAULT_LOG_LEVEL": "DEBUG",
        "CLAUDE_OAUTH_TOKEN_URL": upstream.token_url,
        "CLAUDE_OAUTH_MAX_RETRIES": "0",
        "CLAUDE_ACCESS_TOKEN": login.access_token,
        "CLAUDE_REFRESH_TOKEN": str(login.refresh_token),
        "CLAUDE_EXPIRES_AT": str(int(login.expires_at)),
    }
    with own_stores() as stores:
        yield given | stores


def test_canary_tokens_are_found_nowhere(
    tmp_path: Path, variables: dict[str, str], upstream: Simulator
) -> None:
    canaries = set(tokens_of(upstream.current_login("default")))
    answers: list[bytes] = []
    with web_processes(tmp_path, 1, **variables) as (address,):
        with httpx.Client(base_url=address, timeout=30) as client:
            answers += live_through_everything(client, upstream, canaries)
            answers += walk_the_dashboard(client)
        for command in (
            ["credentials", "--json"],
            ["status", "--tenant", "default", "--user", "default"],
            ["refresh", "--tenant", "default"],
            ["list_keys", "--json"],
            ["doctor"],
        ):
            done = oauthvault(*command, **variables)
            answers.append((done.stdout + done.stderr).encode())
        canaries.update(tokens_of(upstream.current_login("default")))
        answers += bytes_at_rest(tmp_path, variables)
    answers += bytes_at_rest(tmp_path, variables)
    assert len(canaries) >= 6
    searched = b"\n".join(answers)
    assert len(searched) > 100_000
    for canary in [*canaries, SERVICE_KEY]:
        for form in disguises(canary):
            place = searched.find(form)
            assert place < 0, searched[max(0, place - 200) : place + 20]


def live_through_everything(
    client: httpx.Client, upstream: Simulator, canaries: set[str]
) -> list[bytes]:
    """What the API answers to right and wrong requests, but for the hand-outs themselves."""
    client.headers["Authorization"] = f"Bearer {SERVICE_KEY}"
    token = "/auth/claude/token"
    answers = []

    def ask(method: str, path: str, **more: object) -> httpx.Response:
        answer = client.request(method, path, **more)  # type: ignore[arg-type]
        answers.append(str(answer.headers).encode() + answer.content)
        return answer

    for path in ("status", "health", "stats", "credentials"):
        assert ask("GET", f"/auth/claude/{path}").status_code == 200
    ask("GET", "/metrics")
    ask("GET", "/api/schema")
    # Near its end: the hand-out puts a message into the broker, where nobody takes it.
    soon = upstream.new_login("default", expires_in=100)
    canaries.update(tokens_of(soon))
    assert ask("PUT", token, json=soon.credentials_file()).status_code == 200
    handed = client.get(token)
    assert handed.json()["access_token"] == soon.access_token
    # What is refused never comes back in the refusal.
    wrong = soon.credentials_file()["claudeAiOauth"]
    for body in (
        wrong | {"expiresAt": "never"},
        wrong | {"refreshToken": soon.access_token},
        wrong | {soon.access_token: 1},
        [soon.access_token],
    ):
        assert ask("PUT", token, json=body).status_code == 422
    broken = f'{{"accessToken": "{soon.access_token}"'
    as_json = {"Content-Type": "application/json"}
    assert ask("PUT", token, content=broken, headers=as_json).status_code == 400
    assert ask("PUT", token, content=broken).status_code == 415
    ask("PUT", f"{token}?access_token={soon.access_token}", json=wrong)
    ask("POST", f"{token}/identify", json={"access_token": soon.access_token})
    ask("GET", "/auth/claude/status", headers={"Authorization": f"Bearer {soon.access_token}"})
    ask("GET", "/auth/claude/status", headers={"Authorization": f"Bearer {SERVICE_KEY}x"})
    # Refreshes that succeed, fail and vanish.
    for fault in ("lose_answer", None):
        if fault:
            upstream.fault(fault)
        else:
            fresh = upstream.new_login("default")
            canaries.update(tokens_of(fresh))
            ask("PUT", token, json=fresh.credentials_file())
        ask("POST", "/auth/claude/refresh")
        canaries.update(tokens_of(upstream.current_login("default")))
    ask("POST", f"{token}/rejected", json={"generation": 1, "token": soon.access_token})
    return answers


def walk_the_dashboard(client: httpx.Client) -> list[bytes]:
    """Every page that a link of the dashboard leads to."""
    client.headers.pop("Authorization")
    page = client.get("/admin/login/")
    token = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', page.text)
    assert token is not None
    signed_in = client.post(
        "/admin/login/?next=/admin/",
        data={"username": "admin", "password": PASSWORD, "csrfmiddlewaretoken": token[1]},
        headers={"Referer": str(client.base_url)},
    )
    assert signed_in.status_code == 302, signed_in.text
    seen: set[str] = set()
    queue, bodies = ["/admin/"], []
    while queue and len(seen) < 150:
        path = queue.pop(0)
        if path in seen or "logout" in path:
            continue
        seen.add(path)
        answer = client.get(path, follow_redirects=True)
        assert answer.status_code < 500, path
        bodies.append(answer.content)
        for link in re.findall(r'href="([^"#]+)', answer.text):
            target = urlsplit(urljoin(f"http://here{path}", link.replace("&amp;", "&")))
            if target.netloc == "here" and target.path.startswith("/admin/"):
                queue.append(f"{target.path}?{target.query}" if target.query else target.path)
    assert any("oauthcredential" in path for path in seen), seen
    return bodies


def bytes_at_rest(folder: Path, variables: dict[str, str]) -> list[bytes]:
    """Every file, every table, every key of Redis."""
    found = [path.read_bytes() for path in folder.rglob("*") if path.is_file()]
    if url := variables.get("OAUTHVAULT_MIGRATION_DATABASE_URL"):
        with psycopg.connect(url) as connection:
            tables = connection.execute(
                "SELECT tablename FROM pg_tables WHERE schemaname = 'oauthvault'"
            ).fetchall()
            for (table,) in tables:
                statement = sql.SQL("COPY {} TO STDOUT").format(sql.Identifier("oauthvault", table))
                with connection.cursor().copy(statement) as rows:
                    found += [bytes(row) for row in rows]
    if url := variables.get("REDIS_URL"):
        with redis.Redis.from_url(url) as store:
            for key in store.scan_iter():
                found += [key, _content(store, key)]
    return found


def _content(store: "redis.Redis", key: bytes) -> bytes:
    kind = store.type(key)
    if kind == b"list":
        return b"\n".join(store.lrange(key, 0, -1))
    if kind == b"hash":
        return b"\n".join([part for pair in store.hgetall(key).items() for part in pair])
    return store.get(key) or b"" if kind == b"string" else b""


def tokens_of(login: Login) -> Iterable[str]:
    return [token for token in (login.access_token, login.refresh_token) if token]


def disguises(text: str) -> Iterator[bytes]:
    """Parts of the text, and what it looks like inside base64, hexadecimal or an address."""
    plain = text.encode()
    # A part is enough to be found: a message may have been cut short.
    yield from (plain[16:40], plain[-24:], quote(text, safe="").encode(), plain.hex().encode())
    for shift in range(3):
        # Whole groups only: what stands before and after changes the others.
        inside = plain[(3 - shift) % 3 :]
        yield base64.b64encode(inside[: len(inside) // 3 * 3])
        yield base64.urlsafe_b64encode(inside[: len(inside) // 3 * 3])
