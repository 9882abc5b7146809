"""What the tests of the domain need beside the standing cast."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from django.contrib.auth.models import User
from pytest_django import Settings

from api.keys import create_key
from tests.conftest import Store
from tests.simulator import Simulator
from tokens import handouts, jobs, statistics
from tokens.models import (
    Assignment,
    Cause,
    ImportDraft,
    JobAct,
    KeySpan,
    OAuthCredential,
    Outcome,
    RefreshAttempt,
    Tenant,
)
from tokens.secret import Secret

Reread = Callable[[OAuthCredential], OAuthCredential]
Fill = Callable[[Tenant], Tenant]
NO_REDIS_THERE = Secret("redis://127.0.0.1:1/0")


@pytest.fixture
def data_dir(settings: Settings, tmp_path: Path) -> Path:
    """A data directory that no other process of this test run looks into."""
    settings.OAUTHVAULT_DATA_DIR = tmp_path
    return tmp_path


@pytest.fixture
def reread() -> Reread:
    def _reread(credential: OAuthCredential) -> OAuthCredential:
        return OAuthCredential.objects.select_related("tenant", "data_key").get(pk=credential.pk)

    return _reread


@pytest.fixture
def fill(upstream: Simulator, store: Store) -> Fill:
    """Give a tenant a row in every table whose rows go with it, and records of the trail."""

    def _fill(tenant: Tenant) -> Tenant:
        for user in ("alice", "bob", "carla"):
            credential = store(tenant, user, upstream.new_login(user))
            RefreshAttempt.objects.create(
                tenant=tenant, credential=credential, cause=Cause.SWEEP, generation=1,
                started_at=1, lease_id=f"00000000-0000-4000-8000-{credential.pk:012}",
            )  # fmt: skip
            handouts.note(credential=credential, actor="key ovs_x", now=time.time())
        handouts.write()
        statistics.count_rejection(tenant=tenant)
        statistics.count_refresh(tenant=tenant, outcome=Outcome.REFRESHED, latency_ms=5)
        create_key(tenant=tenant, actor="test", now=time.time())
        KeySpan.objects.create(tenant=tenant, actor="key ovs_x", hour=1, users=3)
        operator, _ = User.objects.get_or_create(username="olga", is_staff=True)
        Assignment.objects.create(operator=operator, tenant=tenant)
        ImportDraft.objects.create(
            operator=operator, tenant=tenant, sealed="-", report="-", ends_at=time.time() + 600
        )
        jobs.ask(
            act=JobAct.SUSPEND, credentials=OAuthCredential.objects.for_tenant(tenant),
            actor="operator olga", operator=operator, now=time.time(),
        )  # fmt: skip
        return tenant

    return _fill
