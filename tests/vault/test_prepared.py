"""A prepared query gives what the ORM gives."""

import pytest

from api.keys import find_key
from api.models import ApiKey
from tests.conftest import MakeKey, Store
from tests.simulator import Simulator
from tokens import vault
from tokens.models import OAuthCredential, Tenant

pytestmark = pytest.mark.django_db


def values(row: object) -> dict[str, object]:
    return {name: value for name, value in vars(row).items() if name != "_state"}


def test_every_column_comes_out_as_the_orm_has_it(
    acme: Tenant, upstream: Simulator, store: Store, django_assert_num_queries: object
) -> None:
    store(acme, "alice", upstream.new_login("alice"))
    found = vault.describe(tenant=acme, user_id="alice")
    assert found is not None
    same = OAuthCredential.objects.select_related("data_key").get(user_id="alice")
    assert values(found) == values(same)
    assert found == same
    with django_assert_num_queries(0):  # type: ignore[operator]
        assert found.data_key is not None
        assert values(found.data_key) == values(same.data_key)
        assert found.tenant is acme
    found.is_max = False
    found.save()
    assert OAuthCredential.objects.get().is_max is False, "it is an object like any other"


def test_what_is_joined_and_missing_is_none(
    acme: Tenant, upstream: Simulator, store: Store
) -> None:
    store(acme, "alice", upstream.new_login("alice"))
    vault.revoke(tenant=acme, user_id="alice", actor="test", now=1)
    found = vault.describe(tenant=acme, user_id="alice")
    assert found is not None
    assert found.data_key is None


def test_the_tenant_is_a_part_of_the_question(
    acme: Tenant, globex: Tenant, upstream: Simulator, store: Store
) -> None:
    store(acme, "alice", upstream.new_login("alice"))
    assert vault.describe(tenant=globex, user_id="alice") is None
    assert vault.describe(tenant=acme, user_id="bob") is None
    assert vault.describe(tenant=acme, user_id="a user") is None


def test_a_key_comes_with_its_tenant_in_one_statement(
    acme: Tenant, make_key: MakeKey, django_assert_num_queries: object
) -> None:
    text = make_key(acme, networks=["10.0.0.0/8"], label="proxy")
    find_key(text)
    with django_assert_num_queries(1):  # type: ignore[operator]
        found = find_key(text)
        assert found is not None
        assert found.tenant == acme
    assert values(found)["networks"] == ["10.0.0.0/8"]
    assert values(ApiKey.objects.get()) == {
        name: value for name, value in values(found).items() if name != "_state"
    }
