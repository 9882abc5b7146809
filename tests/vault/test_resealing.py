"""One credential is sealed again: under a new data key of its tenant, which all others follow."""

import time

import pytest

from tests.conftest import Store
from tests.simulator import Simulator
from tests.vault.conftest import Reread
from tokens import clock, sealing, vault
from tokens.errors import EncryptionError, NoToken
from tokens.models import AuditEvent, DataKey, OAuthCredential, Tenant
from tokens.rotation.data_keys import (
    begin_rotation,
    finish_rotation,
    present_key,
    reseal,
    under_older_keys,
)

pytestmark = pytest.mark.django_db


def key_of(tenant: Tenant) -> str:
    key = present_key(tenant)
    assert key is not None
    return key.key_id


def reseal_for(tenant: Tenant, user_id: str, *, replacing: str) -> bool:
    return reseal(
        tenant=tenant, user_id=user_id, replacing=replacing, actor="operator olga",
        now=clock.now(),
    )  # fmt: skip


def test_it_is_under_a_new_key_with_the_tokens_it_had(
    acme: Tenant, globex: Tenant, upstream: Simulator, store: Store, reread: Reread
) -> None:
    alice = store(acme, "alice", upstream.new_login("alice"))
    bob = store(acme, "bob", upstream.new_login("bob"))
    carol = store(globex, "carol", upstream.new_login("carol"))
    old = key_of(acme)
    assert reseal_for(acme, "alice", replacing=old) is True
    after = reread(alice)
    assert after.generation == alice.generation
    assert after.access_token_encrypted != alice.access_token_encrypted
    assert after.data_key is not None
    assert after.data_key.key_id == key_of(acme) != old
    login = upstream.current_login("alice")
    assert sealing.open_access_token(after).reveal() == login.access_token
    assert sealing.open_refresh_token(after).reveal() == login.refresh_token
    assert list(under_older_keys(acme)) == [bob]
    assert reread(carol).access_token_encrypted == carol.access_token_encrypted
    event = AuditEvent.objects.get(action="reseal")
    assert (event.actor, event.subject, event.detail) == (
        "operator olga", "alice", {"replaces": old},
    )  # fmt: skip
    finish_rotation(tenant=acme, actor="scheduler", now=clock.now(), most=10)
    assert not under_older_keys(acme).exists()


def test_asked_for_twice_it_is_one_new_key(acme: Tenant, upstream: Simulator, store: Store) -> None:
    """As by the rows of a job, or by a message that comes again."""
    for user in ("alice", "bob"):
        store(acme, user, upstream.new_login(user))
    old = key_of(acme)
    assert [reseal_for(acme, user, replacing=old) for user in ("alice", "bob", "alice")] == [
        True, True, False,
    ]  # fmt: skip
    assert DataKey.objects.filter(tenant=acme, retired_at=None).count() == 1
    assert AuditEvent.objects.filter(action="rotate_data_key").count() == 1


def test_while_an_earlier_rotation_is_unfinished_no_further_key_is_made(
    acme: Tenant, upstream: Simulator, store: Store
) -> None:
    for user in ("alice", "bob"):
        store(acme, user, upstream.new_login(user))
    assert begin_rotation(tenant=acme, actor="test", now=clock.now(), replacing=key_of(acme))
    second = key_of(acme)
    assert reseal_for(acme, "alice", replacing=second) is True
    assert key_of(acme) == second
    assert not begin_rotation(tenant=acme, actor="test", now=clock.now(), replacing=second)


def test_what_does_not_open_or_is_not_there_is_refused(
    acme: Tenant, globex: Tenant, upstream: Simulator, store: Store, reread: Reread
) -> None:
    alice = store(acme, "alice", upstream.new_login("alice"))
    store(acme, "bob", upstream.new_login("bob"))
    store(acme, "carol", upstream.new_login("carol"))
    old = key_of(acme)
    stolen = OAuthCredential.objects.get(user_id="bob").access_token_encrypted
    OAuthCredential.objects.filter(pk=alice.pk).update(access_token_encrypted=stolen)
    vault.revoke(tenant=acme, user_id="carol", actor="test", now=time.time())
    with pytest.raises(EncryptionError):
        reseal_for(acme, "alice", replacing=old)
    assert reread(alice).access_token_encrypted == stolen
    for tenant, user in ((acme, "carol"), (acme, "nobody"), (globex, "alice")):
        with pytest.raises(NoToken):
            reseal_for(tenant, user, replacing=old)
