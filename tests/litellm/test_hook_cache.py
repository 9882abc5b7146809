"""How long a token is used from memory, and how often the vault is asked."""

import asyncio
import contextlib
import dataclasses
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st
from oauthvault_litellm.cache import TokenCache
from oauthvault_litellm.client import (
    AccessToken,
    NoToken,
    RefreshDelayed,
    TokenUnusable,
    TokenWithheld,
    VaultError,
    VaultUnreachable,
)
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
    # How long a request that has a token in hand waits for the answer.
    patience: float = 3600.0

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
            patience=self.patience,
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


def test_a_refused_token_that_only_a_person_can_replace_is_not_sent_again() -> None:
    """The vault goes on handing it out: it has not expired."""

    async def told(vault: Vault) -> None:
        cache = vault.cache()
        old = (await cache.token("alice")).access_token
        vault.next = TokenUnusable("sign in again", code="reauthorization_required", status=409)
        with pytest.raises(TokenUnusable):
            await cache.rejected("alice", old)
        for _ in range(2):
            with pytest.raises(TokenUnusable, match="sign in again"):
                await cache.token("alice")
        vault.holds = a_token(2)
        assert (await cache.token("alice")).generation == 2

    story(told)


def test_a_login_that_is_stored_again_with_the_same_token_is_used() -> None:
    """With a refresh token, say, that the one before had not: it is another generation."""

    async def told(vault: Vault) -> None:
        cache = vault.cache()
        old = (await cache.token("alice")).access_token
        vault.next = TokenUnusable("sign in again", code="no_refresh_token", status=409)
        with pytest.raises(TokenUnusable):
            await cache.rejected("alice", old)
        stored_again = dataclasses.replace(a_token(2), access_token=old)
        vault.holds = stored_again
        assert await cache.token("alice") is stored_again

    story(told)


@pytest.mark.parametrize("what", ["a minute passes", "something is changed in the vault"])
def test_a_refused_token_is_tried_again_when(what: str) -> None:
    async def told(vault: Vault) -> None:
        cache = vault.cache()
        old = (await cache.token("alice")).access_token
        vault.next = TokenUnusable("sign in again", code="no_refresh_token", status=409)
        with pytest.raises(TokenUnusable):
            await cache.rejected("alice", old)
        if what == "a minute passes":
            vault.now += 61
        else:
            cache.forget("alice")
        assert (await cache.token("alice")).access_token == old

    story(told)


def test_what_is_refused_again_and_again_keeps_nothing_of_its_callers() -> None:
    async def told(vault: Vault) -> None:
        cache = vault.cache()
        old = (await cache.token("alice")).access_token
        vault.next = TokenUnusable("sign in again", code="reauthorization_required", status=409)
        with pytest.raises(TokenUnusable):
            await cache.rejected("alice", old)
        refusals = []
        for _ in range(3):
            with pytest.raises(TokenUnusable) as refused:
                await cache.token("alice")
            refusals.append(refused.value)
        assert len({id(one) for one in refusals}) == 3

    story(told)


def test_memory_does_not_grow_with_every_user_ever_seen() -> None:
    async def told(vault: Vault) -> None:
        cache = vault.cache(cache_seconds=10, max_stale_seconds=20)
        for number in range(1000):
            vault.now = number * 100.0
            await cache.token(f"user-{number}")
        assert len(cache._entries) <= 11

    story(told)


async def at_once(cache: TokenCache, user: str = "alice") -> AccessToken:
    """The token, where a request gets it without waiting for anything; then what was begun."""
    request = cache.token(user)
    try:
        request.send(None)
    except StopIteration as done:
        await settled()
        token: AccessToken = done.value
        return token
    finally:
        request.close()
    raise AssertionError("the request had to wait")


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_in_steady_traffic_no_request_waits_for_the_vault() -> None:
    async def told(vault: Vault) -> None:
        cache = vault.cache()
        await cache.token("alice")
        for half_seconds in range(1, 200):
            vault.now = half_seconds / 2
            await at_once(cache)
        assert len(vault.asked) == 1 + int(99.5 / 7.5)

    story(told)


def test_a_token_near_its_end_is_asked_about_behind_the_requests_once_a_second() -> None:
    async def told(vault: Vault) -> None:
        vault.holds = a_token(expires_at=120)
        cache = vault.cache(cache_seconds=1000)
        await cache.token("alice")
        for tenths in range(1050, 1100):
            vault.now = tenths / 10
            assert (await at_once(cache)).generation == 1
        assert len(vault.asked) == 6
        vault.now, vault.holds = 110, a_token(2, expires_at=240)
        assert (await at_once(cache)).generation == 1
        assert (await at_once(cache)).generation == 2

    story(told)


def test_a_revocation_seen_behind_a_request_counts_for_the_next_one() -> None:
    async def told(vault: Vault) -> None:
        cache = vault.cache()
        await cache.token("alice")
        vault.now, vault.holds = 8, TokenWithheld("no", code="revoked", status=409)
        await at_once(cache)
        with pytest.raises(TokenWithheld):
            await cache.token("alice")

    story(told)


def test_with_no_cache_seconds_every_request_asks() -> None:
    async def told(vault: Vault) -> None:
        cache = vault.cache(cache_seconds=0)
        for _ in range(5):
            await cache.token("alice")
        assert len(vault.asked) == 5

    story(told)


def test_the_age_of_an_answer_counts_from_the_question() -> None:
    async def told(vault: Vault) -> None:
        cache = vault.cache()
        vault.gate = asyncio.Event()
        first = asyncio.create_task(cache.token("alice"))
        await settled()
        vault.now = 9
        vault.gate.set()
        await first
        vault.now = 10
        await cache.token("alice")
        assert len(vault.asked) == 2

    story(told)


def test_a_request_with_a_token_in_hand_does_not_wait_out_a_slow_vault() -> None:
    async def told(vault: Vault) -> None:
        vault.patience = 0
        cache = vault.cache()
        await cache.token("alice")
        vault.now, vault.gate, vault.holds = 100, asyncio.Event(), a_token(2)
        for _ in range(5):
            assert (await cache.token("alice")).generation == 1
        newcomer = asyncio.create_task(cache.token("bob"))
        await settled()
        assert vault.asked == ["alice", "alice", "bob"]
        vault.gate.set()
        await newcomer
        await settled()
        assert (await cache.token("alice")).generation == 2

    story(told)


def test_an_answer_that_was_under_way_when_something_changed_here_is_not_kept() -> None:
    async def told(vault: Vault) -> None:
        cache = vault.cache()
        vault.gate = asyncio.Event()
        before = asyncio.create_task(cache.token("alice"))
        await settled()
        vault.holds = a_token(2)
        cache.forget("alice")
        vault.gate.set()
        await before
        assert (await cache.token("alice")).generation == 2

    story(told)


def test_what_was_forgotten_here_is_not_used_when_the_vault_goes_away() -> None:
    async def told(vault: Vault) -> None:
        cache = vault.cache()
        await cache.token("alice")
        cache.forget("alice")
        vault.holds = VaultUnreachable("gone")
        with pytest.raises(VaultUnreachable):
            await cache.token("alice")

    story(told)


def test_a_report_that_was_put_off_is_made_by_the_next_request() -> None:
    async def told(vault: Vault) -> None:
        cache = vault.cache()
        old = (await cache.token("alice")).access_token
        vault.next = RefreshDelayed("later", code="rate_limited", status=429, retry_after=7)
        with pytest.raises(RefreshDelayed):
            await cache.rejected("alice", old)
        with pytest.raises(RefreshDelayed):
            await cache.token("alice")
        vault.next = a_token(2)
        assert (await cache.token("alice")).generation == 2
        assert vault.asked == ["alice"] + 3 * ["alice rejected 1"]

    story(told)


def test_a_401_is_reported_however_long_ago_the_token_was_handed_out() -> None:
    async def told(vault: Vault) -> None:
        cache = vault.cache(cache_seconds=0, max_stale_seconds=0)
        old = (await cache.token("alice")).access_token
        vault.now = 600
        await cache.token("bob")
        assert await cache.rejected("alice", old)
        assert vault.asked[-1] == "alice rejected 1"

    story(told)


class ManyUsers:
    """A source with a token for each user, that can go away, rotate and revoke."""

    def __init__(self) -> None:
        self.now = 0.0
        self.away_since: float | None = None
        self.last_silence = float("-inf")
        self.generations: dict[str, int] = {}
        self.revoked: set[str] = set()
        self.vouched: dict[tuple[str, int], float] = {}
        self.under_way: set[str] = set()

    async def _answer(self, user: str) -> AccessToken:
        assert user not in self.under_way, "two questions about one user at once"
        self.under_way.add(user)
        asked_at = self.now
        try:
            await asyncio.sleep(0)
            if self.away_since is not None:
                self.last_silence = self.now
                raise VaultUnreachable("gone")
            if user in self.revoked:
                raise TokenWithheld("no", code="revoked", status=409)
        finally:
            self.under_way.discard(user)
        generation = self.generations.setdefault(user, 1)
        self.vouched[user, generation] = asked_at
        return AccessToken(
            access_token=Secret(f"sk-ant-oat01-{user}-{generation}"),
            expires_at=1_000_000,
            generation=generation,
            headers=MappingProxyType({}),
            etag=None,
        )

    async def token(self, user: str, *, known: AccessToken | None = None) -> AccessToken:
        return await self._answer(user)

    async def rejected(self, user: str, *, generation: int) -> AccessToken:
        if self.away_since is None and self.generations[user] == generation:
            self.generations[user] += 1
        return await self._answer(user)


USERS = st.sampled_from(["alice", "bob", "carol"])
EVENTS = st.one_of(
    st.tuples(st.just("pass"), st.floats(0, 6)),
    st.tuples(st.just("ask"), st.lists(USERS, min_size=1, max_size=6)),
    st.tuples(st.sampled_from(["401", "rotate", "revoke", "restore", "forget"]), USERS),
    st.tuples(st.sampled_from(["away", "back"]), st.none()),
)


@given(st.lists(EVENTS, max_size=40))
def test_whatever_happens_a_token_is_its_users_and_not_older_than_it_may_be(
    events: list[tuple[str, object]],
) -> None:
    asyncio.run(_lived(events))


async def _lived(events: list[tuple[str, object]]) -> None:
    vault = ManyUsers()
    cache = TokenCache(
        vault,
        cache_seconds=10,
        max_stale_seconds=60,
        monotonic=lambda: vault.now,
        wall=lambda: vault.now,
    )
    served: dict[str, AccessToken] = {}
    refused: set[Secret] = set()

    async def ask(user: str) -> None:
        try:
            token = await cache.token(user)
        except VaultError:
            return
        generation = token.generation
        assert token.access_token.reveal() == f"sk-ant-oat01-{user}-{generation}"
        assert token.access_token not in refused
        age = vault.now - vault.vouched[user, generation]
        out_of_reach = vault.away_since is not None or vault.now < vault.last_silence + 1
        assert age < 10 or (out_of_reach and age < 60)
        served[user] = token

    for what, about in events:
        match what, about:
            case "pass", float(seconds):
                vault.now += seconds
            case "ask", list(users):
                await asyncio.gather(*(ask(user) for user in users))
            case "401", str(user) if user in served:
                token = served[user].access_token
                refused.add(token)
                with contextlib.suppress(VaultError):
                    await asyncio.gather(*(cache.rejected(user, token) for _ in range(3)))
            case "rotate", str(user) if user in vault.generations:
                vault.generations[user] += 1
            case "revoke", str(user):
                vault.revoked.add(user)
            case "restore", str(user) if user in vault.revoked:
                vault.revoked.discard(user)
                vault.generations[user] = vault.generations.get(user, 0) + 1
            case "forget", str(user):
                cache.forget(user)
            case "away", _:
                vault.away_since = vault.now
            case "back", _:
                vault.away_since = None
        await settled()
