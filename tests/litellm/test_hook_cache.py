"""How long a token is used from memory, and how often the vault is asked."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from types import MappingProxyType

import pytest
from oauthvault_litellm.cache import TokenCache
from oauthvault_litellm.client import AccessToken, NoToken, TokenWithheld, VaultUnreachable
from oauthvault_litellm.secret import Secret


def a_token(generation: int = 1, *, expires_at: int = 1_000_000) -> AccessToken:
    return AccessToken(
        access_token=Secret(f"sk-ant-oat01-{generation}"),
        expires_at=expires_at,
        generation=generation,
        headers=MappingProxyType({}),
        etag=f'"{generation}"',
    )


@dataclass
class Vault:
    """A source whose answers a test decides, with a clock that it moves."""

    holds: AccessToken | Exception = field(default_factory=a_token)
    next: AccessToken | Exception = field(default_factory=lambda: a_token(2))
    now: float = 0.0
    asked: list[str] = field(default_factory=list)
    gate: asyncio.Event | None = None

    async def token(self, user: str, *, known: AccessToken | None = None) -> AccessToken:
        self.asked.append(user)
        holds = self.holds
        if self.gate is not None:
            await self.gate.wait()
        await asyncio.sleep(0)
        if isinstance(holds, Exception):
            raise holds
        return holds

    async def rejected(self, user: str, *, generation: int) -> AccessToken:
        self.asked.append(f"{user} rejected {generation}")
        await asyncio.sleep(0)
        if isinstance(self.next, Exception):
            raise self.next
        self.holds = self.next
        return self.next

    def cache(self, *, cache_seconds: float = 10, max_stale_seconds: float = 900) -> TokenCache:
        return TokenCache(
            self,
            cache_seconds=cache_seconds,
            max_stale_seconds=max_stale_seconds,
            monotonic=lambda: self.now,
            wall=lambda: self.now,
        )


def story(test: Callable[[Vault], Awaitable[None]]) -> None:
    asyncio.run(_told(test))


async def _told(test: Callable[[Vault], Awaitable[None]]) -> None:
    await test(Vault())


def test_a_token_is_used_from_memory_for_cache_seconds_and_no_longer() -> None:
    async def told(vault: Vault) -> None:
        cache = vault.cache()
        await cache.token("alice")
        vault.now = 9.9
        await cache.token("alice")
        assert vault.asked == ["alice"]
        vault.now = 10
        await cache.token("alice")
        assert vault.asked == ["alice", "alice"]

    story(told)


def test_each_user_has_a_token_of_their_own() -> None:
    async def told(vault: Vault) -> None:
        cache = vault.cache()
        await cache.token("alice")
        vault.holds = a_token(9)
        assert (await cache.token("bob")).generation == 9
        assert (await cache.token("alice")).generation == 1

    story(told)


def test_many_requests_at_once_are_one_question() -> None:
    async def told(vault: Vault) -> None:
        cache = vault.cache()
        await asyncio.gather(*(cache.token("alice") for _ in range(50)))
        assert vault.asked == ["alice"]

    story(told)


def test_a_caller_who_hangs_up_does_not_end_the_question_of_the_others() -> None:
    async def told(vault: Vault) -> None:
        vault.gate = asyncio.Event()
        cache = vault.cache()
        first = asyncio.create_task(cache.token("alice"))
        second = asyncio.create_task(cache.token("alice"))
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.sleep(0)
        vault.gate.set()
        assert (await second).generation == 1
        assert vault.asked == ["alice"]

    story(told)


def test_a_token_about_to_expire_is_not_used_from_memory() -> None:
    async def told(vault: Vault) -> None:
        vault.holds = a_token(expires_at=12)
        cache = vault.cache()
        await cache.token("alice")
        vault.now, vault.holds = 8, a_token(2)
        assert (await cache.token("alice")).generation == 2

    story(told)


def test_while_the_vault_is_away_a_living_token_is_used_for_max_stale_seconds() -> None:
    async def told(vault: Vault) -> None:
        cache = vault.cache()
        await cache.token("alice")
        vault.holds = VaultUnreachable("gone")
        vault.now = 899
        assert (await cache.token("alice")).generation == 1
        vault.now = 900
        with pytest.raises(VaultUnreachable):
            await cache.token("alice")

    story(told)


def test_a_vault_that_is_away_is_not_asked_for_every_request() -> None:
    async def told(vault: Vault) -> None:
        cache = vault.cache()
        await cache.token("alice")
        vault.holds, vault.now = VaultUnreachable("gone"), 100
        for _ in range(20):
            await cache.token("alice")
        assert len(vault.asked) == 2
        vault.now, vault.holds = 102, a_token(2)
        assert (await cache.token("alice")).generation == 2

    story(told)


def test_an_expired_token_is_never_used_however_far_the_vault() -> None:
    async def told(vault: Vault) -> None:
        vault.holds = a_token(expires_at=50)
        cache = vault.cache()
        await cache.token("alice")
        vault.holds, vault.now = VaultUnreachable("gone"), 46
        with pytest.raises(VaultUnreachable):
            await cache.token("alice")

    story(told)


@pytest.mark.parametrize("error", [NoToken, TokenWithheld])
def test_a_refusal_of_the_vault_empties_the_memory(
    error: type[NoToken] | type[TokenWithheld],
) -> None:
    async def told(vault: Vault) -> None:
        cache = vault.cache()
        await cache.token("alice")
        vault.holds, vault.now = error("no", code="x", status=409), 10
        with pytest.raises(error):
            await cache.token("alice")
        vault.holds = VaultUnreachable("gone")
        with pytest.raises(VaultUnreachable):
            await cache.token("alice")

    story(told)


def test_many_401s_are_one_report_and_everybody_goes_on_with_the_new_token() -> None:
    async def told(vault: Vault) -> None:
        cache = vault.cache()
        old = (await cache.token("alice")).access_token
        await asyncio.gather(*(cache.rejected("alice", old) for _ in range(20)))
        assert vault.asked == ["alice", "alice rejected 1"]
        assert (await cache.token("alice")).generation == 2
        assert len(vault.asked) == 2

    story(told)


def test_a_401_of_a_token_replaced_meanwhile_reports_nothing() -> None:
    async def told(vault: Vault) -> None:
        cache = vault.cache()
        old = (await cache.token("alice")).access_token
        await cache.rejected("alice", old)
        await cache.rejected("alice", old)
        assert vault.asked == ["alice", "alice rejected 1"]

    story(told)


def test_requests_that_come_during_a_report_wait_for_its_answer() -> None:
    async def told(vault: Vault) -> None:
        cache = vault.cache()
        old = (await cache.token("alice")).access_token
        report = asyncio.create_task(cache.rejected("alice", old))
        await asyncio.sleep(0)
        assert (await cache.token("alice")).generation == 2
        await report

    story(told)


def test_an_answer_overtaken_by_a_report_does_not_bring_the_old_token_back() -> None:
    async def told(vault: Vault) -> None:
        cache = vault.cache()
        old = (await cache.token("alice")).access_token
        vault.now, vault.gate = 10, asyncio.Event()
        slow = asyncio.create_task(cache.token("alice"))
        await asyncio.sleep(0)
        report = asyncio.create_task(cache.rejected("alice", old))
        await asyncio.sleep(0)
        vault.gate.set()
        await report
        assert (await slow).generation == 2
        assert (await cache.token("alice")).generation == 2
        assert vault.asked == ["alice", "alice", "alice rejected 1"]

    story(told)


def test_a_token_that_upstream_refused_is_not_used_when_the_report_fails() -> None:
    async def told(vault: Vault) -> None:
        cache = vault.cache()
        old = (await cache.token("alice")).access_token
        vault.next = VaultUnreachable("gone")
        vault.holds = VaultUnreachable("gone")
        with pytest.raises(VaultUnreachable):
            await cache.rejected("alice", old)
        with pytest.raises(VaultUnreachable):
            await cache.token("alice")

    story(told)


def test_memory_does_not_grow_with_every_user_ever_seen() -> None:
    async def told(vault: Vault) -> None:
        cache = vault.cache(cache_seconds=10, max_stale_seconds=20)
        for number in range(1000):
            vault.now = number * 100.0
            await cache.token(f"user-{number}")
        assert len(cache._entries) <= 11

    story(told)
