"""Who a Claude token makes the caller, and how long the vault's word on it is remembered."""

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import copy_context
from types import SimpleNamespace
from typing import Any

import pytest
from oauthvault_litellm.client import NoToken, VaultUnreachable
from oauthvault_litellm.identity import owner_for
from oauthvault_litellm.presented import (
    Owners,
    is_claude_token,
    is_well_made,
    label_of_owner,
    label_of_token,
    pass_on,
    presented,
)
from oauthvault_litellm.refusals import Refusal
from oauthvault_litellm.secret import Secret

ALICES = Secret("sk-ant-oat01-canary-alice")
BOBS = Secret("sk-ant-oat01-canary-bob")


class Directory:
    """Knows alice's token; `away` and `strange` are what it answers otherwise."""

    def __init__(self) -> None:
        self.asked = 0
        self.at_once = 0
        self.most_at_once = 0
        self.away = False
        self.known = {ALICES.reveal(): "alice"}
        self.open = asyncio.Event()
        self.open.set()

    async def identify(self, token: Secret) -> str:
        self.asked += 1
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await self.open.wait()
        self.at_once -= 1
        if self.away:
            raise VaultUnreachable("away")
        if token.reveal() not in self.known:
            raise NoToken("none", code="no_token", status=404)
        return self.known[token.reveal()]


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def with_owners(story: Callable[[Owners, Directory, Clock], Awaitable[None]]) -> None:
    async def run() -> None:
        directory, clock = Directory(), Clock()
        owners = Owners(directory, cache_seconds=10, max_stale_seconds=900, monotonic=clock)
        await story(owners, directory, clock)

    asyncio.run(run())


def test_the_vault_is_asked_once_in_cache_seconds() -> None:
    async def story(owners: Owners, directory: Directory, clock: Clock) -> None:
        assert await owners.of(ALICES) == "alice"
        clock.now += 9.9
        assert await owners.of(ALICES) == "alice"
        assert directory.asked == 1
        clock.now += 0.2
        assert await owners.of(ALICES) == "alice"
        assert directory.asked == 2

    with_owners(story)


def test_many_who_come_with_one_token_are_one_question() -> None:
    async def story(owners: Owners, directory: Directory, clock: Clock) -> None:
        assert set(await asyncio.gather(*(owners.of(ALICES) for _ in range(20)))) == {"alice"}
        assert directory.asked == 1

    with_owners(story)


def test_strange_tokens_are_asked_about_a_few_at_a_time() -> None:
    async def story(owners: Owners, directory: Directory, clock: Clock) -> None:
        directory.open.clear()
        strangers = [Secret(f"sk-ant-oat01-stranger-{n}") for n in range(100)]
        asking = [asyncio.create_task(owners.of(stranger)) for stranger in strangers]
        for _ in range(300):
            await asyncio.sleep(0)
        directory.open.set()
        answers = await asyncio.gather(*asking, return_exceptions=True)
        assert {type(answer) for answer in answers} == {NoToken}
        assert directory.most_at_once == 16

    with_owners(story)


def test_a_token_that_the_vault_no_longer_knows_is_forgotten_at_once() -> None:
    async def story(owners: Owners, directory: Directory, clock: Clock) -> None:
        await owners.of(ALICES)
        directory.known.clear()
        clock.now += 10
        with pytest.raises(NoToken):
            await owners.of(ALICES)
        directory.away = True
        with pytest.raises(VaultUnreachable):
            await owners.of(ALICES)

    with_owners(story)


def test_who_was_known_is_known_while_the_vault_is_away_and_strangers_are_not() -> None:
    async def story(owners: Owners, directory: Directory, clock: Clock) -> None:
        await owners.of(ALICES)
        directory.away = True
        clock.now += 899
        assert await owners.of(ALICES) == "alice"
        assert directory.asked == 2
        assert await owners.of(ALICES) == "alice"
        assert directory.asked == 2  # not for every request
        with pytest.raises(VaultUnreachable):
            await owners.of(BOBS)
        clock.now += 1
        with pytest.raises(VaultUnreachable):
            await owners.of(ALICES)

    with_owners(story)


def test_no_token_is_kept_in_memory_for_longer_than_the_question() -> None:
    async def story(owners: Owners, directory: Directory, clock: Clock) -> None:
        await owners.of(ALICES)
        assert "canary" not in repr(vars(owners))
        assert all("canary" not in repr(key) for key in owners._known)

    with_owners(story)


def test_what_is_remembered_does_not_grow_for_ever() -> None:
    async def story(owners: Owners, directory: Directory, clock: Clock) -> None:
        directory.known = {f"sk-ant-oat01-{n}": f"user-{n}" for n in range(10_050)}
        for token in directory.known:
            await owners.of(Secret(token))
        assert len(owners._known) == 10_000
        clock.now += 901
        directory.known = {ALICES.reveal(): "alice"}
        await owners.of(ALICES)
        assert len(owners._known) == 1

    with_owners(story)


def caller(label: str | None, user_id: str | None = None, **more: Any) -> Any:
    return SimpleNamespace(
        **{"api_key": label, "user_id": user_id, "team_id": None, "metadata": {}, **more}
    )


@pytest.mark.parametrize("multi_user", [True, False])
def test_who_comes_with_an_own_token_spends_their_own_credential(multi_user: bool) -> None:
    alice = caller(label_of_owner("alice"), "alice")
    assert owner_for(alice, multi_user=multi_user) == "alice"


def test_a_label_of_another_owner_makes_nobody_of_them() -> None:
    with pytest.raises(Refusal, match="Send it again"):
        owner_for(caller(label_of_owner("alice"), "bob"), multi_user=True)
    with pytest.raises(Refusal):
        owner_for(caller(label_of_owner("alice"), None), multi_user=False)


def test_a_token_that_is_passed_on_is_at_hand_in_its_own_request_only() -> None:
    def request_of_alice() -> None:
        pass_on(ALICES)
        found = presented(label_of_token(ALICES), None)
        assert found is not None
        assert found.token == ALICES
        with pytest.raises(Refusal, match="not at hand"):
            presented(label_of_token(BOBS), None)
        with pytest.raises(Refusal, match="nobody's credential"):
            owner_for(caller(label_of_token(ALICES)), multi_user=False)

    copy_context().run(request_of_alice)
    with pytest.raises(Refusal, match="not at hand"):
        presented(label_of_token(ALICES), None)


@pytest.mark.parametrize("key", [None, "", "sk-1234", "88dc28d0f030c55ed4ab77ed8faf0981"])
def test_a_litellm_key_is_none_of_it(key: str | None) -> None:
    assert presented(key, "alice") is None
    assert owner_for(caller(key, "alice"), multi_user=True) == "alice"


def test_labels_give_no_token_away() -> None:
    for label in (label_of_token(ALICES), label_of_owner("alice")):
        assert not label.startswith("sk-")
        assert "canary" not in label
        assert "alice" not in label
    assert label_of_token(ALICES) != label_of_token(BOBS)


def test_what_stands_for_a_token_and_what_can_be_one() -> None:
    assert is_claude_token("sk-ant-oat01-x")
    assert is_claude_token("sk-ant-oat")
    for key in ("sk-ant-api03-x", "sk-ant-ort01-x", "sk-1234", "", None, b"sk-ant-oat01-x"):
        assert not is_claude_token(key)
    assert is_well_made(ALICES)
    for text in ("sk-ant-oat", "sk-ant-oat01-\n", "sk-ant-oat01-ä", "sk-ant-oat" + "x" * 4001):
        assert not is_well_made(Secret(text))


@pytest.mark.parametrize(
    ("who", "sentence"),
    [
        (caller("k", None, team_id="blue"), "belongs to a team"),
        (
            caller("k", None, team_id="blue", metadata={"service_account_id": "nightly"}),
            "is a service account's",
        ),
        (caller("k", None), "has no user id, so it has no Claude credential"),
        (None, "has no user id"),
    ],
    ids=["team", "service account", "nobody", "LiteLLM itself"],
)
def test_a_key_that_names_no_person_is_refused_in_words_of_its_own(who: Any, sentence: str) -> None:
    with pytest.raises(Refusal, match=sentence) as refused:
        owner_for(who, multi_user=True)
    assert refused.value.status == 403
    assert "/key/generate" in refused.value.sentence
    assert owner_for(who, multi_user=False) == "default"
