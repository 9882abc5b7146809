"""Operators with and without rights, and credentials in every state, with canary tokens."""

import importlib
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest
from django.apps import apps
from django.contrib.auth.models import Permission, User
from django.db import connection
from django.test import Client
from playwright.sync_api import Browser, Page

from tests.admin.authenticator import Authenticator, enrolled
from tests.admin.browser import DESKTOP, chromium
from tests.admin.browser import PASSWORD as OF_OLIVIA
from tests.admin.canaries import Canaries
from tokens import roles, workers
from tokens.credential_file import parse_credentials
from tokens.importing import import_credential
from tokens.models import (
    Cause,
    HandOut,
    Heartbeat,
    OAuthCredential,
    Outcome,
    Problem,
    RefreshAttempt,
    Standing,
    Tenant,
)

# Of every member of staff.
PASSWORD = "correct-horse-battery"


@pytest.fixture
def canaries() -> Canaries:
    return Canaries()


Plant = Callable[..., OAuthCredential]


@pytest.fixture
def plant(canaries: Canaries) -> Plant:
    """Store a login of canary tokens for a user, and set what else is given on its row."""

    def _plant(
        tenant: Tenant, user_id: str, *, ends_in: int = 3600, renewable: bool = True, **row: object
    ) -> OAuthCredential:
        return stored(canaries, tenant, user_id, ends_in=ends_in, renewable=renewable, **row)

    return _plant


def stored(
    canaries: Canaries,
    tenant: Tenant,
    user_id: str,
    *,
    ends_in: int = 3600,
    renewable: bool = True,
    **row: object,
) -> OAuthCredential:
    now = time.time()
    file = {"accessToken": canaries.token("oat01"), "expiresAt": int(now) + max(ends_in, 60)}
    if renewable:
        file["refreshToken"] = canaries.token("ort01")
    credential = import_credential(
        tenant=tenant, user_id=user_id, offered=parse_credentials(file, now=now), actor="test",
        now=now,
    ).credential  # fmt: skip
    canaries.sealed(credential)
    if ends_in < 60:
        row.setdefault("expires_at", int(now) + ends_in)
    if row.get("standing", Standing.ACTIVE) != Standing.ACTIVE:
        row.setdefault("refresh_due_at", None)
    if row:
        OAuthCredential.objects.filter(pk=credential.pk).update(**row)
        credential.refresh_from_db()
    return credential


@dataclass
class Cast:
    """Thirty people of two tenants, four of whom cannot work."""

    acme: Tenant
    globex: Tenant
    people: list[OAuthCredential] = field(default_factory=list)

    def __getitem__(self, user_id: str) -> OAuthCredential:
        return next(each for each in self.people if each.user_id == user_id)


@pytest.fixture
def cast(acme: Tenant, globex: Tenant, canaries: Canaries) -> Cast:
    return mixed_cast(acme, globex, canaries)


def mixed_cast(acme: Tenant, globex: Tenant, canaries: Canaries) -> Cast:
    now = time.time()
    cast = Cast(acme, globex)

    def add(tenant: Tenant, user_id: str, **given: object) -> None:
        cast.people.append(stored(canaries, tenant, user_id, **given))

    add(acme, "alice", ends_in=5 * 3600, last_used=int(now) - 40, refresh_count=12,
        last_refreshed_at=int(now) - 10_000)  # fmt: skip
    add(acme, "bob", ends_in=-4000, standing=Standing.REAUTHORIZATION_REQUIRED,
        problem=Problem.ROTATED_ELSEWHERE, problem_at=int(now) - 5000,
        last_used=int(now) - 5100)  # fmt: skip
    add(acme, "carla", ends_in=2 * 3600, suspended_at=int(now) - 90_000)
    add(acme, "dora", ends_in=-600, renewable=False)
    add(acme, "erik", ends_in=-30, problem=Problem.UPSTREAM_UNAVAILABLE, problem_at=int(now) - 70,
        consecutive_failures=3)  # fmt: skip
    add(acme, "frida", ends_in=1800, standing=Standing.REAUTHORIZATION_REQUIRED,
        problem=Problem.LOGIN_ENDED, problem_at=int(now) - 300)  # fmt: skip
    add(acme, "gustav", ends_in=7200, renewable=False)
    add(globex, "hedda", ends_in=900, lease_id="6c0a6cd6-6a50-4d36-a0a9-3ac0bd9ad8a6",
        lease_until=now + 300, unanswered_presentations=1)  # fmt: skip
    add(globex, "ivar", ends_in=700, unanswered_presentations=1)
    add(globex, "judith", ends_in=-20)
    add(globex, "kalle", ends_in=4000, standing=Standing.QUARANTINED)
    for number in range(18):
        add(globex if number % 3 else acme, f"user-{number:02}", ends_in=1000 + 900 * number)
    add(globex, "zoe@example.com", ends_in=50_000, last_used=int(now) - 4)
    revoked = cast["user-17"]
    OAuthCredential.objects.filter(pk=revoked.pk).update(
        standing=Standing.REVOKED, access_token_encrypted=None, refresh_token_encrypted=None,
        data_key=None, refresh_due_at=None,
    )  # fmt: skip
    alice = cast["alice"]
    for hours, outcome in ((1, Outcome.REFRESHED), (5, Outcome.UNREACHABLE), (6, Outcome.REFRESHED),
                           (30, Outcome.REFRESHED)):  # fmt: skip
        RefreshAttempt.objects.create(
            tenant=alice.tenant, credential=alice, lease_id=f"00000000-0000-4000-8000-{hours:012}",
            cause=Cause.SWEEP, actor="scheduler", generation=5, started_at=now - hours * 3600,
            ended_at=now - hours * 3600 + 1, outcome=outcome, upstream_status=200, tries=1,
            latency_ms=412,
        )  # fmt: skip
    for minutes in (0, 1, 2, 3, 10, 11, 30, 55, 90, 200):
        HandOut.objects.create(
            tenant=alice.tenant, credential=alice, actor="key ovs_Ab12Cd34",
            minute=int(now) // 60 - minutes, count=1 + minutes % 7,
        )  # fmt: skip
    Heartbeat.objects.update_or_create(part="scheduler", defaults={"at": now - 7})
    workers.beat("worker here", now=now - 4)
    return cast


@pytest.fixture
def staff(db: None) -> Callable[..., Client]:
    """A signed-in member of staff who has exactly these permissions, for every tenant or for
    those of ``tenants``."""

    def _staff(
        *permissions: str, superuser: bool = False, tenants: Iterable[Tenant] | None = None
    ) -> Client:
        name = f"operator-{User.objects.count()}"
        user = User.objects.create_user(
            name, password=PASSWORD, is_staff=True, is_superuser=superuser
        )
        if tenants is None:
            permissions += (roles.ALL_TENANTS,)
        for tenant in tenants or ():
            roles.assign(operator=user, tenant=tenant, actor="test", now=time.time())
        for permission in permissions:
            app, codename = permission.split(".")
            user.user_permissions.add(
                Permission.objects.get(content_type__app_label=app, codename=codename)
            )
        client = Client()
        client.force_login(user)
        return client

    return _staff


@pytest.fixture
def root(staff: Callable[..., Client]) -> Client:
    return staff(superuser=True)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """An empty page at a desk; nobody is signed in."""
    context = browser.new_context(viewport=DESKTOP)
    context.set_default_timeout(10_000)
    yield context.new_page()
    context.close()


@pytest.fixture
def olivia(db: None) -> User:
    """A platform administrator, whom `sign_in` signs in."""
    return User.objects.create_superuser("olivia", password=OF_OLIVIA)


@pytest.fixture
def phone(olivia: User) -> Authenticator:
    """olivia's second factor."""
    return enrolled(olivia)[0]


@pytest.fixture
def groups(db: None) -> None:
    """The roles, as the migrations make them: the tests' database is emptied in between."""
    here = SimpleNamespace(connection=connection)
    importlib.import_module("tokens.migrations.0012_roles").make_roles(apps, here)
    importlib.import_module("tokens.migrations.0016_acts_on_many").add_rights(apps, here)
    importlib.import_module("tokens.migrations.0017_import_drafts").let_roles_import(apps, here)
    importlib.import_module("tokens.migrations.0018_lists").grant_export(apps, here)
