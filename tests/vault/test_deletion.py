"""A tenant's end: unreadable at once, gone in the end, whatever interrupts it."""

import json
import time
from collections.abc import Iterator

import pytest
from django.apps import apps
from django.db import models
from pytest_django import Settings

from api.keys import BadKeyRequest, create_key
from api.models import ApiKey
from tests.conftest import Store
from tests.simulator import Simulator
from tests.vault.conftest import Fill
from tests.vault.test_commands import run
from tests.vault.test_refresh import refresh_one
from tests.vault.test_save_failures import Trouble, every, spooled_for
from tokens import clock, deletion, handouts, sealing
from tokens.deletion import Told
from tokens.errors import EncryptionError
from tokens.models import (
    AuditBatch,
    AuditChain,
    AuditEvent,
    Cause,
    DataKey,
    HandOut,
    HandOutTally,
    OAuthCredential,
    Outcome,
    Standing,
    Tenant,
    TokenFingerprint,
)
from tokens.refresh.ask import present
from tokens.refresh.claim import claim_credential
from tokens.refresh.save import save_answer
from tokens.secret import Secret
from tokens.tasks import sweep
from tokens.tenants import BadTenantRequest, resume_tenant

pytestmark = pytest.mark.django_db


def rows_of(tenant_id: int) -> dict[str, int]:
    """How many rows point to the tenant, by model; what was said of it apart."""
    found = {}
    for model in apps.get_models(include_auto_created=True):
        for field in model._meta.get_fields():
            if (
                isinstance(field, models.ForeignKey)
                and field.related_model is Tenant
                and model not in (AuditEvent, AuditBatch, AuditChain)
            ):
                found[model.__name__] = model._default_manager.filter(
                    **{field.attname: tenant_id}
                ).count()
    return found


@pytest.fixture
def filled(acme: Tenant, fill: Fill) -> Tenant:
    """A tenant with a row in every table that has a tenant."""
    return fill(acme)


def begun(tenant: Tenant) -> Tenant:
    deletion.begin(tenant=tenant, actor="test", now=clock.now())
    return Tenant.objects.get(pk=tenant.pk)


def steps_of(tenant: Tenant) -> Iterator[None]:
    return deletion.steps(tenant=tenant, actor="test", told=Told())


def test_a_deleted_tenant_leaves_no_row_but_what_was_said_of_it(
    filled: Tenant, globex: Tenant, upstream: Simulator, store: Store
) -> None:
    theirs = store(globex, "carol", upstream.new_login("carol"))
    before, others = rows_of(filled.pk), rows_of(globex.pk)
    assert all(before.values()), "every table that has a tenant has something to lose"
    said = AuditEvent.objects.count()
    printed = json.loads(run("delete_tenant", "acme", "--yes", "--json"))
    assert printed["tenant"] == "acme"
    assert printed["rows"] == sum(before.values()) - before["DataKey"], "that went first"
    assert printed["upstream"] == {"revoked": 0, "failed": 0, "not_told": 3}
    assert not any(rows_of(filled.pk).values())
    assert not Tenant.objects.filter(slug="acme").exists()
    assert rows_of(globex.pk) == others
    assert sealing.open_refresh_token(OAuthCredential.objects.get(pk=theirs.pk))
    events = AuditEvent.objects.filter(action="delete_tenant").order_by("pk")
    assert [event.outcome for event in events] == ["begun", "shredded", "done"]
    assert {event.detail["slug"] for event in events} == {"acme"}
    assert AuditEvent.objects.count() == said + 3


def test_the_keys_are_destroyed_before_any_row_goes(filled: Tenant) -> None:
    """In a transaction of its own: a kill right after it leaves tokens that nobody can read."""
    alice = OAuthCredential.objects.select_related("data_key").get(user_id="alice")
    before = rows_of(filled.pk)
    next(steps_of(begun(filled)))
    assert not DataKey.objects.filter(tenant=filled).exists()
    assert rows_of(filled.pk) == before | {"DataKey": 0}
    row = OAuthCredential.objects.get(pk=alice.pk)
    assert (row.access_token_encrypted, row.refresh_token_encrypted) == (None, None)
    assert (row.standing, row.generation) == (Standing.REVOKED, alice.generation + 1)
    # Put back from a backup of the rows alone, they do not open.
    row.access_token_encrypted = alice.access_token_encrypted
    with pytest.raises(EncryptionError):
        sealing.open_access_token(row)


@pytest.mark.parametrize("after", range(6))
def test_whoever_goes_on_after_a_kill_ends_it(
    filled: Tenant, after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deletion, "_BATCH", 2)
    steps = steps_of(begun(filled))
    for _ in range(after):
        next(steps)
    steps.close()
    still = Tenant.objects.get(slug="acme")
    assert still.suspended_at is not None
    with pytest.raises(BadTenantRequest, match="is being deleted and cannot be resumed"):
        resume_tenant(tenant=still, actor="test", now=time.time())
    with pytest.raises(BadKeyRequest, match="is being deleted"):
        create_key(tenant=still, actor="test", now=time.time())
    # The second call asks nobody: it was agreed to.
    assert "Tenant acme is deleted." in run("delete_tenant", "acme")
    assert not any(rows_of(filled.pk).values())


@pytest.mark.django_db(transaction=True)
def test_the_sweep_goes_on_with_a_deletion(filled: Tenant) -> None:
    next(steps_of(begun(filled)))
    sweep()
    assert not Tenant.objects.filter(slug="acme").exists()


def test_without_a_terminal_it_wants_a_yes(filled: Tenant) -> None:
    assert "--yes" in run("delete_tenant", "acme", refused=True)
    assert Tenant.objects.get(slug="acme").suspended_at is None


@pytest.mark.parametrize("variable", ["CLAUDE_ACCESS_TOKEN", "OAUTHVAULT_SERVICE_KEY"])
def test_the_tenant_that_the_environment_feeds_is_not_deleted(
    default_tenant: Tenant, settings: Settings, variable: str
) -> None:
    setattr(settings, variable, Secret("x"))
    printed = run("delete_tenant", "default", "--yes", refused=True)
    assert f"{variable} feeds" in printed
    setattr(settings, variable, None)
    assert "Tenant default is deleted." in run("delete_tenant", "default", "--yes")


@pytest.mark.django_db(transaction=True)
def test_upstream_is_told_of_each_login_before_its_key_goes(
    filled: Tenant, upstream: Simulator, settings: Settings
) -> None:
    settings.CLAUDE_OAUTH_REVOKE_URL = upstream.revoke_url
    printed = run("delete_tenant", "acme", "--yes")
    assert "Upstream revoked 3 of its logins." in printed
    assert upstream.counts.revoked == 3


@pytest.mark.django_db(transaction=True)
def test_an_upstream_that_is_down_keeps_no_key_alive(
    filled: Tenant, upstream: Simulator, settings: Settings
) -> None:
    settings.CLAUDE_OAUTH_REVOKE_URL = upstream.revoke_url
    upstream.fault("unavailable", on="revoke", times=None)
    printed = run("delete_tenant", "acme", "--yes")
    assert "Upstream did not revoke 3 logins" in printed
    assert not Tenant.objects.filter(slug="acme").exists()


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("how_far", ["shredded", "done"])
def test_a_refresh_under_way_finds_nothing_to_revive_and_gives_its_pair_back(
    acme: Tenant, upstream: Simulator, store: Store, settings: Settings, how_far: str
) -> None:
    alice = store(acme, "alice", upstream.new_login("alice"))
    claim = claim_credential(acme.pk, alice.pk, Cause.SWEEP, "scheduler", None)
    assert claim is not None
    said, tries = present(claim)
    steps = steps_of(begun(acme))
    next(steps)
    if how_far == "done":
        assert list(steps)
    settings.CLAUDE_OAUTH_REVOKE_URL = upstream.revoke_url
    assert save_answer(claim, said, tries=tries, latency_ms=0) == Outcome.SUPERSEDED
    assert upstream.counts.revoked == 1
    assert not DataKey.objects.filter(tenant=acme).exists()
    assert not OAuthCredential.objects.exclude(standing=Standing.REVOKED).exists()
    list(steps)
    assert not any(rows_of(acme.pk).values())


@pytest.mark.django_db(transaction=True)
def test_a_refusal_for_a_tenant_that_is_gone_is_dropped(
    acme: Tenant, upstream: Simulator, store: Store
) -> None:
    alice = store(acme, "alice", upstream.new_login("alice"))
    claim = claim_credential(acme.pk, alice.pk, Cause.SWEEP, "scheduler", None)
    assert claim is not None
    upstream.kill_login("alice")
    said, tries = present(claim)
    list(steps_of(begun(acme)))
    assert save_answer(claim, said, tries=tries, latency_ms=0) == Outcome.SUPERSEDED


@pytest.mark.django_db(transaction=True)
def test_what_lay_in_the_spool_for_a_deleted_tenant_is_destroyed(
    acme: Tenant, upstream: Simulator, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tokens.refresh.save.PATIENCE", 0.01)
    alice = store(acme, "alice", upstream.new_login("alice"))
    with Trouble(upstream, user="alice", statement=every):
        assert refresh_one(alice) == Outcome.NOT_SAVED
    assert len(spooled_for(alice)) == 1
    list(steps_of(begun(acme)))
    sweep()
    assert spooled_for(alice) == []


def test_counts_that_come_late_for_a_deleted_tenant_are_dropped(
    filled: Tenant, upstream: Simulator
) -> None:
    alice = OAuthCredential.objects.get(user_id="alice")
    handouts.note(credential=alice, actor="key ovs_x", now=time.time())
    run("delete_tenant", "acme", "--yes")
    handouts.write()
    assert not HandOut.objects.exists()
    assert not HandOutTally.objects.exists()
    assert not ApiKey.objects.exists()
    assert not TokenFingerprint.objects.exists()
