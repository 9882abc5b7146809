"""Real web processes hand out tokens, some fifty a second, while every key is rotated."""

import json
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.processes import database_url, oauthvault, own_stores, web_processes
from tests.simulator import Simulator

pytestmark = [pytest.mark.system, pytest.mark.postgres_too]

SERVICE_KEY = "ovs_" + "k" * 43
PEOPLE = ("alice", "bob", "carla", "dora")
CALLERS, PAUSE = 4, 0.08
ROUNDS = 2


@pytest.fixture
def upstream() -> Iterator[Simulator]:
    with Simulator() as simulator:
        yield simulator


@pytest.fixture
def variables(tmp_path: Path, upstream: Simulator) -> Iterator[dict[str, str]]:
    """Of the embedded default: the encryption key lies in the data directory."""
    given = {
        "OAUTHVAULT_DATA_DIR": str(tmp_path / "data"),
        "OAUTHVAULT_SERVICE_KEY": SERVICE_KEY,
        "CLAUDE_OAUTH_TOKEN_URL": upstream.token_url,
        "OAUTHVAULT_WEB_WORKERS": "1",
    }
    with own_stores() as stores:
        yield given | stores


class Callers:
    """Ask for each person's token over and over, until told to stop."""

    def __init__(self, addresses: list[str], key: str) -> None:
        self._addresses, self._key = addresses, key
        self._over = threading.Event()
        self.answers: Counter[str] = Counter()

    def __enter__(self) -> "Callers":
        self._pool = ThreadPoolExecutor(CALLERS)
        self._futures = [self._pool.submit(self._ask, number) for number in range(CALLERS)]
        return self

    def __exit__(self, *exception: object) -> None:
        self._over.set()
        for future in self._futures:
            self.answers += future.result()
        self._pool.shutdown()

    def _ask(self, number: int) -> "Counter[str]":
        said: Counter[str] = Counter()
        address = self._addresses[number % len(self._addresses)]
        with httpx.Client(base_url=address, timeout=30) as client:
            while not self._over.wait(PAUSE):
                person = PEOPLE[said.total() % len(PEOPLE)]
                answer = fetch(client, self._key, person)
                said["ok" if answer.status_code == 200 else answer.text] += 1
        return said


def fetch(client: httpx.Client, key: str, person: str) -> httpx.Response:
    return client.get("/auth/claude/token", headers=headers(key, person))


def headers(key: str, person: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}", "X-OAuthVault-User": person}


def test_no_hand_out_fails_while_every_key_is_rotated(
    tmp_path: Path, variables: dict[str, str], upstream: Simulator
) -> None:
    def command(*arguments: str) -> dict[str, object]:
        done = oauthvault(*arguments, "--json", **variables)
        assert done.returncode == 0, done.stderr
        told: dict[str, object] = json.loads(done.stdout)
        return told

    file = tmp_path / "data" / "encryption.key"
    with web_processes(tmp_path, 2 if database_url() else 1, **variables) as addresses:
        first_key = file.read_text()
        assert oauthvault("create_tenant", "acme", **variables).returncode == 0
        key = str(command("create_key", "acme")["key"])
        with httpx.Client(base_url=addresses[0], timeout=30) as client:
            for person in PEOPLE:
                file_of_theirs = upstream.new_login(person, expires_in=3600).credentials_file()
                stored = client.put(
                    "/auth/claude/token", headers=headers(key, person), json=file_of_theirs
                )
                assert stored.status_code == 201, stored.text
            with Callers(addresses, key) as callers:
                for number in range(ROUNDS):
                    assert command("rotate_keys", "--new-key", "--yes")["left"] == 0
                    assert command("rotate_keys", "--all-tenants")["encryption_keys"]
                    # And a refresh of somebody, whose pair is sealed meanwhile.
                    demanded = client.post(
                        "/auth/claude/refresh", headers=headers(key, PEOPLE[number])
                    )
                    assert demanded.status_code == 200, demanded.text
                removed = command("rotate_keys", "--remove-unneeded", "--yes")["removed"]
            assert isinstance(removed, list)
            assert len(removed) == ROUNDS
            assert callers.answers.keys() == {"ok"}, callers.answers
            for person in PEOPLE:
                handed = fetch(client, key, person).json()["access_token"]
                assert handed == upstream.current_login(person).access_token
    assert len(file.read_text().split()) == 1
    assert file.read_text() != first_key
    assert oauthvault("doctor", **variables).returncode == 0
