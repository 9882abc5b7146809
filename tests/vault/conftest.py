"""A tenant, a simulated authorization server, and a login stored in the vault."""

import time
from collections.abc import Callable, Iterator

import pytest
from django.db import connection
from pytest_django import Settings

from tests.simulator import Login, Simulator
from tokens import keyring
from tokens.credential_file import parse_credentials
from tokens.importing import import_credential
from tokens.models import OAuthCredential, Tenant
from tokens.tenants import create_tenant


@pytest.fixture(autouse=True)
def _nothing_remembered() -> Iterator[None]:
    keyring.forget()
    yield
    keyring.forget()


@pytest.fixture(scope="session")
def _far_side() -> Iterator[Simulator]:
    with Simulator() as simulator:
        yield simulator


@pytest.fixture
def upstream(_far_side: Simulator, settings: Settings) -> Simulator:
    """The authorization server, with nothing in its memory, and the vault pointed at it."""
    _far_side.reset()
    settings.CLAUDE_OAUTH_TOKEN_URL = _far_side.token_url
    settings.CLAUDE_OAUTH_REVOKE_URL = None
    return _far_side


@pytest.fixture
def acme(db: None) -> Tenant:
    return create_tenant(slug="acme", actor="test", now=time.time())


@pytest.fixture
def globex(db: None) -> Tenant:
    return create_tenant(slug="globex", actor="test", now=time.time())


Store = Callable[..., OAuthCredential]


@pytest.fixture
def store() -> Store:
    """Store a login of the simulator for a user, as an import would."""

    def _store(tenant: Tenant, user_id: str, login: Login) -> OAuthCredential:
        now = time.time()
        file = login.credentials_file()
        if login.refresh_token is None:
            # A setup-token has none; a blank one means that Claude Code is signed out.
            del file["claudeAiOauth"]["refreshToken"]
        return import_credential(
            tenant=tenant,
            user_id=user_id,
            offered=parse_credentials(file, now=now),
            actor="test",
            now=now,
        ).credential

    return _store


@pytest.fixture
def reread() -> Callable[[OAuthCredential], OAuthCredential]:
    def _reread(credential: OAuthCredential) -> OAuthCredential:
        return OAuthCredential.objects.select_related("tenant", "data_key").get(pk=credential.pk)

    return _reread


@pytest.fixture
def on_postgresql() -> bool:
    return connection.vendor == "postgresql"
