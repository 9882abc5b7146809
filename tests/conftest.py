"""The standing cast, and a simulated authorization server.

alice and bob of acme, carol of globex, and mallory, who has a good key of a tenant of her
own and no right to anything of theirs. The tenant ``default`` has its default user.
"""

import time
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit, urlunsplit

import hypothesis
import psycopg
import pytest
import redis
from django.apps import AppConfig
from django.conf import settings
from django.db.models.signals import post_migrate
from django.dispatch import receiver
from psycopg import sql
from pytest_django import Settings

from api import ahead, throttle, usage
from api.keys import create_key
from oauthvault.env import child_environment
from tests.simulator import Login, Simulator
from tokens import epoch, flight, handouts, isolation, keyring, outside
from tokens.credential_file import parse_credentials
from tokens.importing import import_credential
from tokens.models import OAuthCredential, Tenant
from tokens.refresh import spool
from tokens.tenants import create_tenant, ensure_default_tenant

# How long an example takes says how busy the machine is.
hypothesis.settings.register_profile(
    "unhurried",
    parent=hypothesis.settings.default,
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("unhurried")

# Seconds for a test that starts real programs, the first of its module all those that the others
# use after it: on a busy machine each takes a minute and more until it answers.
_WITH_PROGRAMS = 900

Store = Callable[[Tenant, str, Login], OAuthCredential]
MakeKey = Callable[..., str]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("system") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(_WITH_PROGRAMS))


@receiver(post_migrate)
def _give_the_vault_its_keys(sender: AppConfig, **kwargs: object) -> None:
    """As `oauthvault init` does. Flushing after a test migrates too."""
    if sender.name == "tokens":
        keyring.ensure_vault_keys(keyring.load_keyring())


@pytest.fixture(scope="session")
def django_db_setup(django_db_setup: None) -> None:
    """The tests empty tables between them, which the role that serves may not."""
    owner_url = child_environment().get("OAUTHVAULT_MIGRATION_DATABASE_URL")
    if owner_url is None:
        return
    database, role = settings.DATABASES["default"]["NAME"], settings.DATABASES["default"]["USER"]
    url = urlsplit(owner_url)._replace(path=f"/{database}")
    with psycopg.connect(urlunsplit(url), autocommit=True) as owner:
        owner.execute(
            sql.SQL("GRANT TRUNCATE ON ALL TABLES IN SCHEMA oauthvault TO {}").format(
                sql.Identifier(role)
            )
        )


@pytest.fixture(autouse=True)
def _for_everybody() -> Iterator[None]:
    """What a test itself looks at, it may see. Requests, tasks and threads begin at work for
    nobody all the same, and say for whom they are."""
    with isolation.every_tenant():
        yield


@pytest.fixture(autouse=True)
def _nothing_remembered() -> Iterator[None]:
    """Processes remember keys by what lies in their database; here each test has its own. And
    Redis remembers what an earlier test's vault has kept there, which may have had the same id:
    a thread of a test that is rolled back commits what it makes."""
    if settings.REDIS_URL is not None:
        with redis.Redis.from_url(settings.REDIS_URL.reveal()) as store:
            store.flushdb()
    _forget()
    yield
    while flight._begun:
        time.sleep(0.01)
    ahead.forget()
    handouts._counts.clear()
    handouts._last_used.clear()
    handouts._results.clear()
    usage._used.clear()
    # The heads of the audit trail too: a test that is rolled back leaves the vault's keys.
    for name in ("spool", "audit"):
        for entry in (settings.OAUTHVAULT_DATA_DIR / name).glob("*"):
            entry.unlink(missing_ok=True)
    _forget()


def _forget() -> None:
    for memory in (keyring, epoch, outside, spool, throttle):
        memory.forget()


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


@pytest.fixture
def default_tenant(db: None) -> Tenant:
    return ensure_default_tenant(now=time.time())


@pytest.fixture
def make_key() -> MakeKey:
    """Make a key and give its text: `make_key(acme, user_id="alice", scopes=[…])`."""

    def _make(tenant: Tenant, **how: object) -> str:
        made = create_key(tenant=tenant, actor="test", now=time.time(), **how)  # type: ignore[arg-type]
        return made.text.reveal()

    return _make


@pytest.fixture
def acme_key(acme: Tenant, make_key: MakeKey) -> str:
    """The service key of acme's LiteLLM, good for alice and bob."""
    return make_key(acme)


@pytest.fixture
def globex_key(globex: Tenant, make_key: MakeKey) -> str:
    return make_key(globex)


@pytest.fixture
def mallory_key(make_key: MakeKey, db: None) -> str:
    """A service key with every scope, of a tenant that holds nothing."""
    return make_key(create_tenant(slug="mallory", actor="test", now=time.time()))


@pytest.fixture
def alice_key(acme: Tenant, make_key: MakeKey) -> str:
    """alice's own user key."""
    return make_key(acme, user_id="alice")


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
