"""What the hook says to the vault over HTTP, and what it makes of the answers."""

import asyncio
import contextlib
import socket
import threading
import time
import traceback
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest
from oauthvault_litellm.breaker import FAILURES, PAUSE
from oauthvault_litellm.client import (
    AccessToken,
    KeyRefused,
    NoToken,
    RefreshDelayed,
    TokenUnusable,
    TokenWithheld,
    VaultClient,
    VaultError,
    VaultUnreachable,
)
from oauthvault_litellm.secret import Secret
from oauthvault_litellm.settings import OfferedCredential, SettingsError
from oauthvault_litellm.trust import certificate_authorities

from tests.certificates import self_signed
from tests.litellm.scripted_vault import Answer, ScriptedVault, encoded, problem, token_answer

KEY = "ovs_" + "k" * 43
T = TypeVar("T")


def ask(
    url: str,
    question: Callable[[VaultClient], Awaitable[T]],
    *,
    wait_seconds: float = 5,
    **more: Any,
) -> T:
    async def session() -> T:
        client = VaultClient(url=url, key=Secret(KEY), wait_seconds=wait_seconds, **more)
        try:
            return await question(client)
        finally:
            await client.aclose()

    return asyncio.run(session())


def test_a_token_comes_with_everything_that_the_hook_needs(vault: ScriptedVault) -> None:
    vault.answers(token_answer("sk-ant-oat01-canary-a", generation=7))
    token = ask(vault.url, lambda client: client.token("alice"))
    assert token.access_token.reveal() == "sk-ant-oat01-canary-a"
    assert token.generation == 7
    assert token.headers == {"anthropic-beta": "oauth-2025-04-20"}
    assert token.expires_at > time.time() + 3000
    assert "canary" not in repr(token)


def test_the_user_travels_percent_encoded_beside_the_service_key(vault: ScriptedVault) -> None:
    vault.answers(token_answer())
    ask(vault.url, lambda client: client.token("zoë/ä b@example.com"))
    (asked,) = vault.asked
    assert (asked.method, asked.path) == ("GET", "/auth/claude/token")
    assert asked.headers["Authorization"] == f"Bearer {KEY}"
    assert asked.headers["X-OAuthVault-User"] == "zo%C3%AB%2F%C3%A4%20b%40example.com"


def test_a_token_that_still_holds_is_not_sent_again(vault: ScriptedVault) -> None:
    vault.answers(token_answer(generation=3), Answer(304, headers={"ETag": '"3"'}))

    async def twice(client: VaultClient) -> tuple[AccessToken, AccessToken]:
        first = await client.token("alice")
        return first, await client.token("alice", known=first)

    first, second = ask(vault.url, twice)
    assert second is first
    assert vault.asked[1].headers["If-None-Match"] == '"3"'


def test_a_401_of_upstream_is_reported_by_generation(vault: ScriptedVault) -> None:
    vault.answers(token_answer(generation=8))
    token = ask(vault.url, lambda client: client.rejected("alice", generation=7))
    assert token.generation == 8
    (asked,) = vault.asked
    assert (asked.method, asked.path) == ("POST", "/auth/claude/token/rejected")
    assert asked.body == {"generation": 7}


def test_whose_token_it_is_is_asked_without_naming_a_user(vault: ScriptedVault) -> None:
    vault.answers(Answer(200, {"user_id": "alice", "generation": 3, "expires_at": 5}))
    token = Secret("sk-ant-oat01-canary")
    assert ask(vault.url, lambda client: client.identify(token)) == "alice"
    (asked,) = vault.asked
    assert (asked.method, asked.path) == ("POST", "/auth/claude/token/identify")
    assert asked.body == {"access_token": "sk-ant-oat01-canary"}
    assert asked.headers["X-OAuthVault-User"] is None


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (problem(404, "no_token"), NoToken),
        (problem(403, "insufficient_scope"), KeyRefused),
        (Answer(200, {"user_id": 7}), VaultUnreachable),
        (Answer(200, b"<html>"), VaultUnreachable),
    ],
)
def test_nobody_is_nobody_and_the_token_is_in_no_error(
    vault: ScriptedVault, answer: Answer, kind: type[VaultError]
) -> None:
    vault.answers(answer)
    with pytest.raises(kind) as raised:
        ask(vault.url, lambda client: client.identify(Secret("sk-ant-oat01-canary")))
    assert "canary" not in repr(raised.value)
    assert raised.value.__cause__ is None


@pytest.mark.parametrize(("status", "taken"), [(201, True), (200, False), (412, False)])
def test_a_credential_is_offered_only_where_nothing_is_stored(
    vault: ScriptedVault, status: int, taken: bool
) -> None:
    vault.answers(Answer(status, {}))
    credential = OfferedCredential(
        access_token=Secret("sk-ant-oat01-x"), refresh_token=Secret("sk-ant-ort01-x"), expires_at=5
    )
    assert ask(vault.url, lambda client: client.offer("default", credential)) is taken
    (asked,) = vault.asked
    assert asked.method == "PUT"
    assert asked.headers["If-None-Match"] == "*"
    assert asked.body == {
        "access_token": "sk-ant-oat01-x",
        "refresh_token": "sk-ant-ort01-x",
        "expires_at": 5,
    }


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (404, "no_token", NoToken),
        (409, "reauthorization_required", TokenUnusable),
        (409, "no_refresh_token", TokenUnusable),
        (409, "token_expired", TokenUnusable),
        (409, "revoked", TokenWithheld),
        (409, "suspended", TokenWithheld),
        (409, "quarantined", TokenWithheld),
        (403, "tenant_suspended", TokenWithheld),
        (429, "upstream_rate_limited", RefreshDelayed),
        (503, "upstream_unavailable", RefreshDelayed),
        (401, "invalid_key", KeyRefused),
        (403, "insufficient_scope", KeyRefused),
        (400, "user_required", KeyRefused),
        (418, "something_new", VaultError),
        (500, "internal_error", VaultUnreachable),
    ],
)
def test_every_problem_has_a_type(
    vault: ScriptedVault, status: int, code: str, kind: type[VaultError]
) -> None:
    vault.answers(problem(status, code))
    with pytest.raises(VaultError) as refused:
        ask(vault.url, lambda client: client.token("alice"))
    assert type(refused.value) is kind


def test_a_refresh_in_progress_is_waited_for(vault: ScriptedVault) -> None:
    vault.answers(problem(503, "refresh_in_progress", Retry_After="1"), token_answer())
    assert ask(vault.url, lambda client: client.token("alice")).generation == 1
    assert len(vault.asked) == 2


def test_the_wait_for_a_refresh_has_an_end(vault: ScriptedVault) -> None:
    vault.answers(problem(503, "refresh_in_progress", Retry_After="1"))
    with pytest.raises(RefreshDelayed) as delayed:
        ask(vault.url, lambda client: client.token("alice"), wait_seconds=0.5)
    assert delayed.value.retry_after == 1
    assert len(vault.asked) == 1


def test_nobody_waits_out_a_rate_limit_of_upstream(vault: ScriptedVault) -> None:
    vault.answers(problem(429, "upstream_rate_limited", Retry_After="1"))
    with pytest.raises(RefreshDelayed):
        ask(vault.url, lambda client: client.token("alice"))
    assert len(vault.asked) == 1


@pytest.mark.parametrize(
    "answer",
    [
        Answer(502, b"<html>Bad gateway</html>"),
        Answer(200, b"sk-ant-oat01-canary is no JSON"),
        Answer(200, {"access_token": "sk-ant-oat01-canary"}),
        Answer(200, ["sk-ant-oat01-canary"]),
        Answer(301, headers={"Location": "http://127.0.0.1:9/"}),
    ],
)
def test_an_answer_that_is_not_the_vaults_counts_as_none_and_tells_no_token(
    vault: ScriptedVault, answer: Answer
) -> None:
    vault.answers(answer)
    with pytest.raises(VaultUnreachable) as unreachable:
        ask(vault.url, lambda client: client.token("alice"))
    assert unreachable.value.__cause__ is None
    assert "canary" not in "".join(traceback.format_exception(unreachable.value))


def test_a_vault_that_is_not_there_is_out_of_reach_and_the_key_stays_unsaid() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(VaultUnreachable) as unreachable:
        ask(url, lambda client: client.token("alice"))
    error = unreachable.value
    assert (error.__cause__, error.__context__) == (None, None)
    assert KEY not in "".join(traceback.format_exception(error))


# A vault that is slow, away, and back


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


async def in_vain(client: VaultClient, times: int = 1) -> VaultUnreachable:
    for _ in range(times):
        with pytest.raises(VaultUnreachable) as unreachable:
            await client.token("alice")
    return unreachable.value


def test_a_question_ends_although_the_answer_does_not_come(vault: ScriptedVault) -> None:
    vault.answers(token_answer(after=30))
    error = ask(vault.url, in_vain, question_seconds=0.1)
    assert "0.1 s" in error.detail
    assert error.retry_after == 2
    assert (error.__cause__, error.__context__) == (None, None)


def test_a_vault_that_does_not_answer_is_left_alone_and_found_again(vault: ScriptedVault) -> None:
    clock = Clock()

    async def story(client: VaultClient) -> None:
        vault.answers(Answer(502, b"<html>Bad gateway</html>"))
        await in_vain(client, FAILURES)
        not_asked = await in_vain(client, 20)
        assert len(vault.asked) == FAILURES
        assert not_asked.retry_after == 2
        clock.now = PAUSE
        vault.answers(token_answer())
        await asyncio.gather(client.token("alice"), in_vain(client))
        assert len(vault.asked) == FAILURES + 1
        await client.token("alice")

    ask(vault.url, story, monotonic=clock)


def test_what_the_vault_says_itself_keeps_it_open_to_others(vault: ScriptedVault) -> None:
    async def story(client: VaultClient) -> None:
        vault.answers(problem(500, "internal_error"))
        await in_vain(client, 5 * FAILURES)
        vault.answers(problem(503, "upstream_unavailable"))
        for _ in range(5 * FAILURES):
            with pytest.raises(RefreshDelayed):
                await client.token("alice")
        vault.answers(token_answer())
        await client.token("bob")

    ask(vault.url, story)


def test_a_slow_vault_does_not_gather_everybody(vault: ScriptedVault) -> None:
    vault.answers(token_answer(after=3))

    async def story(client: VaultClient) -> None:
        async def newcomer(number: int) -> None:
            with pytest.raises(VaultUnreachable):
                await client.token(f"user-{number}")

        await asyncio.gather(*(newcomer(number) for number in range(120)))

    ask(vault.url, story, question_seconds=1.5)
    # 50 at once; whoever gets a place that has just become free may still ask on a busy machine.
    assert len(vault.asked) <= 100


def test_a_connection_that_ended_unnoticed_costs_nobody_an_answer() -> None:
    """Each connection serves one question, and the next one on it finds it closed."""
    answer = token_answer()
    body = encoded(answer.body)
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\nConnection: keep-alive\r\n\r\n"

    def serve(listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with connection:
                    if connection.recv(65536):
                        connection.sendall(head.encode() + body)
                        connection.recv(65536)

    async def twice(client: VaultClient) -> None:
        await client.token("alice")
        await client.token("alice")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, args=(listener,), daemon=True).start()
        ask(f"http://127.0.0.1:{listener.getsockname()[1]}", twice)
        listener.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize(("wait_seconds", "said"), [(0, "wait=0"), (3.5, "wait=3"), (30, None)])
def test_the_vault_is_told_how_long_the_caller_waits(
    vault: ScriptedVault, wait_seconds: float, said: str | None
) -> None:
    vault.answers(token_answer())
    ask(vault.url, lambda client: client.token("alice"), wait_seconds=wait_seconds)
    assert vault.asked[0].headers.get("Prefer") == said


def test_a_vault_with_a_certificate_of_the_house_is_believed_where_its_authority_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ScriptedVault(self_signed(tmp_path)) as vault:
        vault.answers(token_answer("sk-ant-oat01-canary-a"))
        with pytest.raises(VaultUnreachable):
            ask(vault.url, lambda client: client.token("alice"))
        assert vault.asked == []
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "self-signed.pem"))
        token = ask(vault.url, lambda client: client.token("alice"))
    assert token.access_token.reveal() == "sk-ant-oat01-canary-a"


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_an_authority_that_cannot_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | None
) -> None:
    file = tmp_path / "authority.pem"
    if content is not None:
        file.write_text(content)
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    with pytest.raises(SettingsError, match="SSL_CERT_FILE"):
        certificate_authorities()
