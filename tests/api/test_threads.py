"""Many threads for several tenants, some of which fail or are given up in the middle: no answer
ever holds what belongs to somebody else.

Ten thousand requests on PostgreSQL, fewer on SQLite; TESTS_REQUESTS says another number.
"""

import json
import os
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from typing import Any

import pytest
from django.core.handlers.wsgi import WSGIHandler
from django.db import OperationalError, connection
from django.test import RequestFactory

from tests.conftest import MakeKey, Store
from tests.simulator import Simulator
from tokens import isolation
from tokens.models import Tenant
from tokens.tenants import create_tenant

THREADS = 16
REQUESTS = int(
    os.environ.get("TESTS_REQUESTS") or (10_000 if connection.vendor == "postgresql" else 300)
)
TENANTS = ("north", "south", "east", "west")
_TOKEN = re.compile(r"sk-ant-[A-Za-z0-9_-]+")
_USER = re.compile(rf"(?:{'|'.join(TENANTS)})-user-\d")


@dataclass(frozen=True)
class Person:
    tenant: str
    user: str
    access_token: str
    user_key: str


@pytest.fixture
def people(
    transactional_db: None, make_key: MakeKey, store: Store, upstream: Simulator
) -> tuple[dict[str, str], list[Person]]:
    """The service keys of four tenants, and three people of each."""
    keys, found = {}, []
    with isolation.every_tenant():
        for slug in TENANTS:
            tenant: Tenant = create_tenant(slug=slug, actor="test", now=0)
            keys[slug] = make_key(tenant)
            for number in range(3):
                user = f"{slug}-user-{number}"
                login = upstream.new_login(user)
                store(tenant, user, login)
                key = make_key(tenant, user_id=user, scopes=["token:read", "status:read"])
                found.append(Person(slug, user, login.access_token, key))
    return keys, found


@pytest.mark.timeout(900)
def test_no_thread_ever_answers_with_what_belongs_to_another_tenant(
    people: tuple[dict[str, str], list[Person]],
) -> None:
    keys, everybody = people
    application = WSGIHandler()

    def run(seed: int) -> Counter[int]:
        chance, seen = random.Random(seed), Counter[int]()
        try:
            for _ in range(REQUESTS // THREADS):
                seen[one(application, chance, keys, everybody)] += 1
        finally:
            connection.close()
        return seen

    with ThreadPoolExecutor(THREADS) as pool:
        seen = sum(pool.map(run, range(THREADS)), Counter[int]())
    # It was as lively as it should be: tokens, strangers, failures, and requests given up.
    assert seen[200] > REQUESTS // 10
    assert min(seen[404], seen[503], seen[0]) > 0
    assert seen[500] == 0


def one(
    application: Callable[..., Any], chance: random.Random, keys: dict[str, str],
    everybody: list[Person],
) -> int:  # fmt: skip
    """One request at random, and what may come back to it. Its status; 0 if it was given up."""
    caller, about = chance.choice(everybody), chance.choice(everybody)
    by_service = chance.random() < 0.7
    key = keys[caller.tenant] if by_service else caller.user_key
    method, path, body = chance.choice(
        [
            ("GET", "token", None),
            ("GET", "token", None),
            ("GET", "status", None),
            ("GET", "credentials", None),
            ("GET", "stats", None),
            ("POST", "token/identify", {"access_token": about.access_token}),
            ("POST", "token/identify", {"access_token": about.access_token, "more": 1}),
            ("PUT", "token", {"accessToken": "x"}),
        ]
    )
    environ = RequestFactory().generic(
        method, f"/auth/claude/{path}", b"" if body is None else json.dumps(body),
        content_type="application/json",
        headers={"Authorization": f"Bearer {key}", "X-OAuthVault-User": about.user},
    ).environ  # fmt: skip
    status = 0

    def start(line: str, headers: list[tuple[str, str]], *rest: Any) -> None:
        nonlocal status
        status = int(line.split()[0])

    with stumbling(chance):
        answer = application(environ, start)
    try:
        if chance.random() < 0.1:
            return 0
        text = b"".join(answer).decode()
    finally:
        answer.close()
    what = f"{key[:4]} of {caller.user}: {method} {path} about {about.user}: {status} {text}"
    ours = {person.access_token for person in everybody if person.tenant == caller.tenant}
    assert set(_TOKEN.findall(text)) <= ours, what
    if path == "token" and status == 200:
        wanted = about if by_service else caller
        assert json.loads(text)["access_token"] == wanted.access_token, what
        assert wanted.tenant == caller.tenant, what
    # A name that the request itself brought may come back in the answer.
    named = set(_USER.findall(text)) - {about.user}
    assert all(user.startswith(caller.tenant) for user in named), what
    if path == "token/identify" and status == 200:
        assert about.tenant == caller.tenant, what
    return status


@contextmanager
def stumbling(chance: random.Random) -> Iterator[None]:
    """Now and then the database fails at one of the statements, whichever it is."""
    falls_at = chance.randrange(1, 6) if chance.random() < 0.2 else 0
    done = 0

    def fall(execute: Callable[..., Any], *arguments: Any) -> Any:
        nonlocal done
        done += 1
        if done == falls_at:
            raise OperationalError("the connection was lost")
        return execute(*arguments)

    with connection.execute_wrapper(fall):
        yield


def test_the_search_would_notice(people: tuple[dict[str, str], list[Person]]) -> None:
    _, everybody = people
    for one_person, other in product(everybody, everybody):
        assert (one_person.access_token == other.access_token) == (one_person is other)
    assert all(_TOKEN.fullmatch(person.access_token) for person in everybody)
    assert all(_USER.fullmatch(person.user) for person in everybody)
