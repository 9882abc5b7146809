"""A credential is given to another user: the tokens stay, whose they are changes at once."""

import time

import pytest

from tests.conftest import Store
from tests.simulator import Simulator
from tests.vault.conftest import Reread
from tokens import clock, user_ids, vault
from tokens.errors import (
    AlreadyStored,
    NoToken,
    Quarantined,
    RefreshInProgress,
    TenantSuspended,
    VaultError,
)
from tokens.models import (
    AuditEvent,
    Cause,
    OAuthCredential,
    Outcome,
    Standing,
    Tenant,
    TokenFingerprint,
)
from tokens.reassignment import reassign
from tokens.refresh import carry_out, claim_refresh, refresh
from tokens.refresh.claim import claim_credential
from tokens.tenants import suspend_tenant

pytestmark = pytest.mark.django_db
committed = pytest.mark.django_db(transaction=True)


def give(tenant: Tenant, user_id: str, to: str) -> OAuthCredential:
    return reassign(tenant=tenant, user_id=user_id, to=to, actor="operator olga", now=clock.now())


def token_of(tenant: Tenant, user_id: str) -> str:
    handed = vault.issue_access_token(tenant=tenant, user_id=user_id, actor="test", now=clock.now())
    return handed.access_token.reveal()


def test_the_new_user_is_handed_the_token_and_the_old_one_nothing(
    acme: Tenant, upstream: Simulator, store: Store
) -> None:
    login = upstream.new_login("alice")
    before = store(acme, "alice", login)
    ledger = list(TokenFingerprint.objects.order_by("pk").values())
    given = give(acme, "alice", "alice@example.com")
    assert given.pk == before.pk
    assert given.generation == before.generation + 1
    assert token_of(acme, "alice@example.com") == login.access_token
    with pytest.raises(NoToken):
        token_of(acme, "alice")
    assert list(TokenFingerprint.objects.order_by("pk").values()) == ledger
    identity = vault.identify(
        tenant=acme,
        access_token=vault.issue_access_token(
            tenant=acme, user_id="alice@example.com", actor="test", now=clock.now()
        ).access_token,
    )
    assert identity.user_id == "alice@example.com"


def test_both_names_find_it_in_the_trail(acme: Tenant, upstream: Simulator, store: Store) -> None:
    store(acme, "alice", upstream.new_login("alice"))
    give(acme, "alice", "bob")
    found = {
        event.subject: (event.actor, event.detail)
        for event in AuditEvent.objects.filter(action="reassign")
    }
    assert found == {
        "alice": ("operator olga", {"given_to": "bob"}),
        "bob": ("operator olga", {"taken_from": "alice"}),
    }


@committed
def test_it_is_refreshed_afterwards_as_the_new_users(
    acme: Tenant, upstream: Simulator, store: Store, reread: Reread
) -> None:
    credential = store(acme, "alice", upstream.new_login("alice"))
    give(acme, "alice", "bob")
    outcome = refresh(
        tenant_id=acme.pk, credential_id=credential.pk, cause=Cause.DEMAND, actor="test"
    )
    assert outcome is Outcome.REFRESHED
    assert AuditEvent.objects.get(action="refresh").subject == "bob"
    assert token_of(acme, "bob") == upstream.current_login("alice").access_token


@committed
def test_not_while_a_refresh_is_under_way(
    acme: Tenant, upstream: Simulator, store: Store, reread: Reread
) -> None:
    """Its new pair would have no home; afterwards it goes."""
    credential = store(acme, "alice", upstream.new_login("alice"))
    claim = claim_refresh(
        tenant_id=acme.pk, credential_id=credential.pk, cause=Cause.DEMAND, actor="another",
        generation=None,
    )  # fmt: skip
    assert claim is not None
    with pytest.raises(RefreshInProgress):
        give(acme, "alice", "bob")
    assert carry_out(claim) is Outcome.REFRESHED
    give(acme, "alice", "bob")
    assert reread(credential).user_id == "bob"


@committed
def test_not_while_the_answer_to_a_refresh_is_out(
    acme: Tenant, upstream: Simulator, store: Store
) -> None:
    """The process died, its lease is over: the answer may still lie in a spool."""
    credential = store(acme, "alice", upstream.new_login("alice"))
    assert claim_credential(acme.pk, credential.pk, Cause.SWEEP, "died", None) is not None
    OAuthCredential.objects.update(lease_until=time.time() - 1)
    with pytest.raises(RefreshInProgress, match="not known yet"):
        give(acme, "alice", "bob")


def test_a_claim_that_had_read_the_old_users_row_claims_nothing(
    acme: Tenant, upstream: Simulator, store: Store
) -> None:
    credential = store(acme, "alice", upstream.new_login("alice"))
    give(acme, "alice", "bob")
    claim = claim_credential(
        acme.pk, credential.pk, Cause.SWEEP, "scheduler", credential.generation
    )
    assert claim is None


@pytest.mark.parametrize("standing", [Standing.ACTIVE, Standing.REVOKED])
def test_whoever_has_or_had_one_is_given_no_other(
    acme: Tenant, upstream: Simulator, store: Store, standing: Standing
) -> None:
    store(acme, "alice", upstream.new_login("alice"))
    store(acme, "bob", upstream.new_login("bob"))
    if standing == Standing.REVOKED:
        vault.revoke(tenant=acme, user_id="bob", actor="test", now=clock.now())
    refused(acme, "alice", "bob", AlreadyStored)


def test_nothing_is_given_away_that_cannot_be(
    acme: Tenant, globex: Tenant, upstream: Simulator, store: Store
) -> None:
    store(acme, "alice", upstream.new_login("alice"))
    refused(acme, "nobody", "bob", NoToken)
    refused(globex, "alice", "bob", NoToken)
    for name in ("", "a\nb", "a\u200bb", "default", "x" * 257):
        refused(acme, "alice", name, user_ids.BadUserId)
    OAuthCredential.objects.update(standing=Standing.QUARANTINED, refresh_due_at=None)
    refused(acme, "alice", "bob", Quarantined)
    vault.revoke(tenant=acme, user_id="alice", actor="test", now=clock.now())
    refused(acme, "alice", "bob", NoToken)
    suspend_tenant(tenant=acme, actor="test", now=clock.now())
    acme.refresh_from_db()
    refused(acme, "alice", "bob", TenantSuspended)


def refused(tenant: Tenant, user_id: str, to: str, kind: type[VaultError]) -> None:
    before = list(OAuthCredential.objects.order_by("pk").values())
    with pytest.raises(kind):
        give(tenant, user_id, to)
    assert list(OAuthCredential.objects.order_by("pk").values()) == before
    assert not AuditEvent.objects.filter(action="reassign").exists()
