"""What the block has for the vault: tokens, offered once and never insisted upon, and how they
are to be refreshed."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import pytest
from oauthvault_litellm.block_settings import BlockSettings
from oauthvault_litellm.client import NoToken, TokenWithheld, VaultClient, VaultUnreachable
from oauthvault_litellm.secret import Secret
from oauthvault_litellm.settings import RefreshPolicy, read_settings
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


def sent_settings(vault: ScriptedVault) -> list[Any]:
    return [one.body for one in vault.asked if one.path == "/auth/claude/settings"]


def settings_answer(governed_by: str = "credential", **effective: Any) -> Answer:
    """What governs by now, of all four settings, and that the named ones are somebody's."""
    deployed = {
        "auto_refresh": True, "refresh_threshold": 300, "max_retries": 3,
        "retry_backoff": "exponential",
    }  # fmt: skip
    return Answer(
        200,
        {
            "user_id": "default",
            "own": dict.fromkeys(deployed) | effective,
            "effective": deployed | effective,
            "governed_by": dict.fromkeys(deployed, "deployment")
            | dict.fromkeys(effective, governed_by),
        },
    )


REFRESH = {
    "auto_refresh": {
        "enabled": True, "threshold": 600, "max_retries": 0, "retry_backoff": "fixed",
    }
}  # fmt: skip
AS_ASKED = {
    "auto_refresh": True, "refresh_threshold": 600, "max_retries": 0, "retry_backoff": "fixed",
}  # fmt: skip


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


# The refresh settings of the block


def test_the_refresh_settings_follow_the_tokens_once_before_the_first_question(
    vault: ScriptedVault, caplog: pytest.LogCaptureFixture
) -> None:
    vault.answers(Answer(201, {}), settings_answer(**AS_ASKED), token_answer())

    async def story(tokens: Tokens) -> None:
        await asyncio.gather(*(tokens.of("default") for _ in range(10)))
        tokens.forget("default")
        await tokens.of("default")

    with caplog.at_level(logging.INFO):
        with_tokens(vault.url, story, **BLOCK, **REFRESH)
    assert [(one.method, one.path) for one in vault.asked] == [
        ("PUT", "/auth/claude/token"),
        ("PUT", "/auth/claude/settings"),
        ("GET", "/auth/claude/token"),
        ("GET", "/auth/claude/token"),
    ]
    assert sent_settings(vault) == [AS_ASKED]
    assert vault.asked[1].headers["X-OAuthVault-User"] == "default"
    assert "WARNING" not in caplog.text
    assert "refreshes user 'default' as claude_oauth says" in caplog.text


def test_they_are_sent_without_tokens_in_the_block_too_and_only_what_it_says(
    vault: ScriptedVault,
) -> None:
    vault.answers(settings_answer(auto_refresh=False), token_answer())
    with_tokens(vault.url, lambda tokens: tokens.of("default"), auto_refresh=False)
    assert sent_settings(vault) == [{"auto_refresh": False}]


def test_a_difference_is_one_warning_that_names_the_setting_and_both_values(
    vault: ScriptedVault, caplog: pytest.LogCaptureFixture
) -> None:
    vault.answers(settings_answer("tenant", auto_refresh=False), token_answer())
    with_tokens(
        vault.url, lambda tokens: tokens.of("default"), auto_refresh=True, refresh_threshold=300
    )
    (warning,) = [one for one in caplog.records if one.levelno == logging.WARNING]
    assert warning.getMessage() == (
        "the vault's own settings govern the refreshes of user 'default': auto_refresh is false "
        "there, by the setting of the tenant, and true in claude_oauth"
    )


@pytest.mark.parametrize(
    ("refusal", "code"),
    [
        (problem(404, "not_found"), "not_found"),  # of before there were such settings
        (problem(403, "insufficient_scope"), "insufficient_scope"),
        (Answer(404, b"<h1>a gateway that lets known addresses pass</h1>"), "vault_unreachable"),
        (Answer(200, {"effective": {}, "governed_by": {}}), "vault_unreachable"),
        (Answer(200, {"effective": {"max_retries": None}, "governed_by": 1}), "vault_unreachable"),
    ],
)
def test_a_vault_that_does_not_take_them_is_a_warning_and_no_failure(
    vault: ScriptedVault, caplog: pytest.LogCaptureFixture, refusal: Answer, code: str
) -> None:
    vault.answers(refusal, token_answer())

    async def story(tokens: Tokens) -> int:
        first = await tokens.of("default")
        tokens.forget("alice")  # another's change: asked again, and warned of once
        vault.script.appendleft(refusal)
        return (await tokens.of("default")).generation == first.generation

    assert with_tokens(vault.url, story, auto_refresh={"max_retries": 0})
    assert len(sent_settings(vault)) == 2
    warnings = [one.getMessage() for one in caplog.records if one.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert code in warnings[0]
    assert KEY not in caplog.text


def test_they_wait_for_a_credential_and_do_not_ask_with_every_request(
    vault: ScriptedVault, caplog: pytest.LogCaptureFixture
) -> None:
    nothing = problem(404, "no_token")
    vault.answers(nothing, nothing, nothing, settings_answer(auto_refresh=False), token_answer())

    async def story(tokens: Tokens) -> None:
        for _ in range(2):
            with pytest.raises(NoToken):
                await tokens.of("default")
        assert len(sent_settings(vault)) == 1
        tokens.forget("default")  # a login has been imported through this proxy
        await tokens.of("default")

    with_tokens(vault.url, story, auto_refresh=False)
    assert sent_settings(vault) == [{"auto_refresh": False}] * 2
    assert not [one for one in caplog.records if one.levelno >= logging.WARNING]


def test_a_vault_that_was_away_is_sent_them_after_a_while(vault: ScriptedVault) -> None:
    clock = [0.0]
    vault.answers(Answer(502, b"bad gateway"), settings_answer(max_retries=0), token_answer())

    async def story() -> list[int]:
        client = VaultClient(url=vault.url, key=Secret(KEY), wait_seconds=1)
        block = BlockSettings(RefreshPolicy(max_retries=0), client, monotonic=lambda: clock[0])
        seen = []
        for clock[0] in (1.0, 2.0, 60.9, 61.1, 500.0):
            await block.send()
            seen.append(len(sent_settings(vault)))
        await client.aclose()
        return seen

    assert asyncio.run(story()) == [1, 1, 1, 2, 2]


def test_none_are_sent_where_every_user_has_their_own(vault: ScriptedVault) -> None:
    vault.answers(token_answer())
    with_tokens(vault.url, lambda tokens: tokens.of("alice"), multi_user=True, **REFRESH)
    assert asked(vault) == ["GET"]
