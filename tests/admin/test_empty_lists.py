"""What a list says that has no rows: what to do first, or that it is the filter."""

import pytest
from django.contrib.auth.models import Group
from django.test import Client

from tests.admin.test_roles import Staff
from tokens.models import Tenant

LIST = "/admin/tokens/oauthcredential/"


@pytest.mark.parametrize(
    ("address", "title", "first"),
    [
        (LIST, "No credential is kept here yet.", "oauthvault import_credentials"),
        ("/admin/tokens/tenant/", "There is no tenant yet.", "Add tenant"),
        ("/admin/api/apikey/", "No key was made yet.", "Add API key"),
        ("/admin/tokens/auditevent/", "Nothing is recorded yet.", "Every import"),
        ("/admin/auth/group/", "There is nothing here yet.", "Add group"),
    ],
)
def test_an_empty_list_says_what_to_do_first(
    root: Client, address: str, title: str, first: str
) -> None:
    Group.objects.all().delete()
    empty = root.get(address).content.decode()
    assert title in empty
    assert first in empty
    filtered = root.get(address, {"q": "nobody"}).content.decode()
    if "searchbar" in filtered:
        assert "Nothing matches." in filtered
        assert 'href="?">Clear the search and the filters' in filtered


def test_who_looks_after_some_tenants_is_told_that_there_may_be_others(
    acme: Tenant, staff: Staff
) -> None:
    client = staff("tokens.view_oauthcredential", tenants=[acme])
    assert "A platform administrator assigns it to you." in client.get(LIST).content.decode()
