"""Every address × every kind of foreign caller × reading and writing: nothing of acme's comes out
or is changed, and what is foreign looks like what is missing, to the byte."""

import itertools
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from django.apps import apps
from django.http import HttpResponse
from django.test import Client
from django.urls import resolve

from api import health
from api.keys import create_key, revoke_key
from api.models import ApiKey
from oauthvault.middleware import HEADER
from tests.conftest import MakeKey, Store
from tests.routes import api_paths
from tests.simulator import Login, Simulator
from tokens import isolation
from tokens.models import OAuthCredential, Tenant
from tokens.tenants import create_tenant, suspend_tenant

READS = ("GET", "HEAD", "OPTIONS")
WRITES = ("POST", "PUT", "PATCH", "DELETE")
# How the vault itself is: about nobody, and never the same for two requests. Their checks look
# from other threads, which see nothing of a test's transaction.
OF_THE_VAULT = ("/auth/claude/health", "/metrics", "/readyz")
# A second passes now and then between two requests.
_CLOCKS = re.compile(rb'"as_of":\d+|was \d+ s ago')


@dataclass(frozen=True)
class Scene:
    """acme with alice's login, and everybody who has no right to it, by what they show: the key
    with which they ask for alice, and the one with which they ask for somebody who is not there."""

    acme: Tenant
    acme_key: str
    login: Login
    strangers: dict[str, tuple[str | None, str | None]]

    @property
    def bodies(self) -> list[Any]:
        """What might be sent to an address that changes something, or that asks by a secret."""
        return [
            None,
            {},
            {"generation": 1},
            {"refresh_threshold": 600},
            {"access_token": self.login.access_token},
            {"access_token": self.login.refresh_token},
            self.login.credentials_file(),
        ]

    @property
    def secrets(self) -> list[bytes]:
        tokens = [self.login.access_token, str(self.login.refresh_token)]
        with isolation.every_tenant():
            row = OAuthCredential.objects.get(tenant=self.acme)
        return [
            text.encode()
            for text in (*tokens, row.access_token_encrypted, row.refresh_token_encrypted)
            if text
        ]


@pytest.fixture
def scene(
    acme: Tenant, globex: Tenant, acme_key: str, globex_key: str, mallory_key: str,
    make_key: MakeKey, store: Store, upstream: Simulator, monkeypatch: pytest.MonkeyPatch,
) -> Scene:  # fmt: skip
    # The checks would wait for the end of a transaction that waits for them.
    monkeypatch.setattr(health, "WITHIN", 0.1)
    now = time.time()
    login = upstream.new_login("alice")
    with isolation.every_tenant():
        store(acme, "alice", login)
        store(globex, "carol", upstream.new_login("carol"))
        revoked = create_key(tenant=acme, actor="test", now=now)
        revoke_key(key=revoked.row, actor="test", now=now)
        closed = create_tenant(slug="closed", actor="test", now=now)
        of_closed = make_key(closed)
        suspend_tenant(tenant=closed, actor="test", now=now)
        shown = {
            "the service of another tenant": globex_key,
            "a user of another tenant": make_key(globex, user_id="carol"),
            "mallory": mallory_key,
            "a key that was revoked": revoked.text.reveal(),
            "a key that has expired": make_key(acme, expires_at=int(now) - 1),
            "a key for another network": make_key(acme, networks=["192.0.2.0/24"]),
            "a suspended tenant": of_closed,
            "a key with a letter changed": acme_key[:-1] + ("A" if acme_key[-1] != "A" else "B"),
            "a token in place of a key": login.access_token,
            "nobody": None,
        }
        strangers = {name: (key, key) for name, key in shown.items()}
        strangers["a user of the same name elsewhere"] = (
            make_key(globex, user_id="alice"),
            make_key(globex, user_id="wendy"),
        )
    return Scene(acme, acme_key, login, strangers)


def ask(method: str, path: str, *, key: str | None, user: str, body: Any) -> HttpResponse:
    given = {"X-OAuthVault-User": user}
    if key is not None:
        given["Authorization"] = f"Bearer {key}"
    client = Client(raise_request_exception=False, enforce_csrf_checks=True)
    client.handler = _HANDLER
    # From another place each time: whoever guesses is slowed, which is not what is asked here.
    number = next(_NUMBERS)
    return client.generic(
        method, path, b"" if body is None else client._encode_json(body, "application/json"),
        "application/json", headers=given, REMOTE_ADDR=f"198.18.{number // 250}.{number % 250}",
    )  # fmt: skip


_HANDLER = Client(enforce_csrf_checks=True).handler
_NUMBERS = itertools.count()


def seen(answer: HttpResponse) -> tuple[int, bytes, dict[str, str]]:
    """All that a caller can tell, but for the name of the request and the time."""
    name = answer.headers.get(HEADER, "")
    headers = {key: value for key, value in answer.headers.items() if key != HEADER}
    return (
        answer.status_code,
        _CLOCKS.sub(b"", _content(answer).replace(name.encode(), b"")),
        headers,
    )


def _content(answer: HttpResponse) -> bytes:
    content = b"".join(answer) if answer.streaming else answer.content
    return bytes(content)


def state_of(tenant: Tenant) -> dict[str, list[Any]]:
    """Every row of every table that belongs to the tenant."""
    with isolation.every_tenant():
        rows = {
            model._meta.label: list(
                model._base_manager.filter(tenant=tenant).order_by("pk").values()
            )
            for model in apps.get_models()
            if any(field.name == "tenant" for field in model._meta.get_fields())
        }
        rows["tenant"] = list(Tenant._base_manager.filter(pk=tenant.pk).values())
    return rows


def requests(scene: Scene, path: str) -> Iterator[tuple[str, Any]]:
    of_people = path.startswith("/auth/claude/") and path not in OF_THE_VAULT
    for method in READS:
        yield method, None
    for method in WRITES:
        for body in scene.bodies if of_people else [None]:
            yield method, body


@pytest.mark.parametrize("path", api_paths())
def test_a_stranger_sees_and_changes_nothing_and_cannot_tell_that_there_is_something(
    scene: Scene, path: str
) -> None:
    before, secrets = state_of(scene.acme), scene.secrets
    assert len(secrets) == 4
    for stranger, (key, other_key) in scene.strangers.items():
        for method, body in requests(scene, path):
            what = f"{stranger}: {method} {path} {body and list(body)}"
            foreign = ask(method, path, key=key, user="alice", body=body)
            assert foreign.status_code < 500 or path in OF_THE_VAULT, what
            shown = _content(foreign) + str(foreign.headers).encode()
            assert not any(secret in shown for secret in secrets), what
            if path in OF_THE_VAULT:
                continue
            missing = ask(method, path, key=other_key, user="wendy", body=body)
            told = tuple(
                part.replace(b"wendy", b"alice") if isinstance(part, bytes) else part
                for part in seen(missing)
            )
            assert seen(foreign) == told, what
    assert state_of(scene.acme) == before


def test_the_walk_would_notice(scene: Scene) -> None:
    """The owner's key gets a secret out of one of these addresses, and changes something."""
    before, secrets = state_of(scene.acme), scene.secrets
    answers = [
        ask("GET", path, key=scene.acme_key, user="alice", body=None) for path in api_paths()
    ]
    assert any(secrets[0] in _content(answer) for answer in answers)
    assert ask("DELETE", "/auth/claude/revoke", key=scene.acme_key, user="alice", body=None).content
    assert state_of(scene.acme) != before
    foreign = seen(ask("GET", "/auth/claude/status", key=scene.acme_key, user="alice", body=None))
    missing = seen(ask("GET", "/auth/claude/status", key=scene.acme_key, user="wendy", body=None))
    assert foreign[1] != missing[1].replace(b"wendy", b"alice")


def test_every_address_and_its_twin_with_a_slash_are_one_view() -> None:
    for path in api_paths():
        if path != "/":
            assert resolve(path).func is resolve(f"{path}/").func, path


def test_nobody_makes_or_revokes_a_key_over_the_api(scene: Scene) -> None:
    """There is no address for it: who holds a key cannot make himself another."""
    keys = _keys()
    for path in api_paths():
        for method in WRITES:
            ask(method, path, key=scene.acme_key, user="alice", body={"scopes": ["token:read"]})
    assert _keys() == keys


def _keys() -> list[Any]:
    with isolation.every_tenant():
        keys = list(ApiKey._base_manager.order_by("pk").values("pk", "revoked_at", "scopes"))
    assert keys
    return keys
