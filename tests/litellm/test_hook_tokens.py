"""The tokens of the block: offered once, before the first question, and never insisted upon."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import pytest
from oauthvault_litellm.client import TokenWithheld, VaultUnreachable
from oauthvault_litellm.settings import read_settings
from oauthvault_litellm.tokens import Tokens

from tests.litellm.scripted_vault import Answer, ScriptedVault, problem, token_answer

KEY = "ovs_" + "k" * 43
BLOCK = {
    "access_token": "sk-ant-oat01-canary",
    "refresh_token": "sk-ant-ort01-canary",
    "expires_at": 1234567890,
}
T = TypeVar("T")


def with_tokens(url: str, story: Callable[[Tokens], Awaitable[T]], **block: Any) -> T:
    settings = read_settings({"vault_url": url, "vault_key": KEY, **block}, {})

    async def told() -> T:
        tokens = Tokens(settings)
        try:
            return await story(tokens)
        finally:
            await tokens.aclose()

    return asyncio.run(told())


def asked(vault: ScriptedVault) -> list[str]:
    return [one.method for one in vault.asked]


def test_many_first_requests_offer_the_tokens_of_the_block_once(vault: ScriptedVault) -> None:
    vault.answers(Answer(201, {}), token_answer())

    async def story(tokens: Tokens) -> None:
        await asyncio.gather(*(tokens.of("default") for _ in range(10)))
        await tokens.of("default")

    with_tokens(vault.url, story, **BLOCK)
    assert asked(vault) == ["PUT", "GET"]
    assert vault.asked[0].headers["X-OAuthVault-User"] == "default"


def test_a_vault_that_was_away_is_offered_them_again(vault: ScriptedVault) -> None:
    vault.answers(Answer(502, b"bad gateway"), Answer(201, {}), token_answer())

    async def story(tokens: Tokens) -> None:
        with pytest.raises(VaultUnreachable):
            await tokens.of("default")
        await tokens.of("default")

    with_tokens(vault.url, story, **BLOCK)
    assert asked(vault) == ["PUT", "PUT", "GET"]


def test_what_the_vault_holds_or_has_revoked_is_not_replaced(vault: ScriptedVault) -> None:
    vault.answers(Answer(412, {}), problem(409, "revoked"))

    async def story(tokens: Tokens) -> None:
        with pytest.raises(TokenWithheld):
            await tokens.of("default")

    with_tokens(vault.url, story, **BLOCK)
    assert vault.asked[0].headers["If-None-Match"] == "*"


def test_an_offer_refused_is_logged_without_its_tokens(
    vault: ScriptedVault, caplog: pytest.LogCaptureFixture
) -> None:
    vault.answers(problem(409, "stale_credential", "its refresh token is spent"), token_answer())
    with caplog.at_level(logging.DEBUG):
        with_tokens(vault.url, lambda tokens: tokens.of("default"), **BLOCK)
    assert "stale_credential" in caplog.text
    assert "canary" not in caplog.text
    assert KEY not in caplog.text


def test_nothing_is_offered_where_every_user_has_their_own(vault: ScriptedVault) -> None:
    vault.answers(token_answer())
    with_tokens(vault.url, lambda tokens: tokens.of("alice"), multi_user=True, **BLOCK)
    assert asked(vault) == ["GET"]


def test_a_change_in_the_vault_is_seen_at_once_when_it_was_made_here(vault: ScriptedVault) -> None:
    vault.answers(token_answer(), token_answer(generation=2))

    async def story(tokens: Tokens) -> int:
        await tokens.of("alice")
        tokens.forget("alice")
        return (await tokens.of("alice")).generation

    assert with_tokens(vault.url, story) == 2
