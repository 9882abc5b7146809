"""A tenant's settings and its end, on the dashboard."""

import time
from collections.abc import Callable

from django.test import Client
from pytest_django import Settings

from tests.admin.conftest import Cast
from tests.admin.test_acts import said
from tokens import clock, deletion
from tokens.admin.base import in_words
from tokens.models import AuditEvent, DataKey, OAuthCredential, Tenant
from tokens.secret import Secret
from tokens.tenants import suspend_tenant

LIST = "/admin/tokens/tenant/"


def page_of(tenant: Tenant, name: str) -> str:
    return f"{LIST}{tenant.pk}/{name}/"


def test_what_is_different_for_a_tenant_is_set_on_its_page(root: Client, acme: Tenant) -> None:
    form = {
        "name": "Acme", "auto_refresh": "unknown", "refresh_threshold": "", "max_retries": "0",
        "retry_backoff": "linear", "key_networks": "10.1.2.0/24\n2001:db8::/48",
    }  # fmt: skip
    assert root.post(page_of(acme, "change"), form).status_code == 302
    acme.refresh_from_db()
    assert (acme.max_retries, acme.retry_backoff) == (0, "linear")
    assert acme.key_networks == ["10.1.2.0/24", "2001:db8::/48"]
    event = AuditEvent.objects.get(action="change_tenant")
    assert event.actor == "operator operator-0"
    page = root.get(page_of(acme, "change")).content.decode()
    assert "10.1.2.0/24\n2001:db8::/48" in page
    root.post(page_of(acme, "change"), form)
    assert AuditEvent.objects.filter(action="change_tenant").count() == 1, "nothing was changed"
    root.post(page_of(acme, "change"), form | {"key_networks": "", "retry_backoff": ""})
    acme.refresh_from_db()
    assert (acme.key_networks, acme.retry_backoff) == ([], "")


def test_a_setting_that_cannot_be_is_refused_beside_its_field(root: Client, acme: Tenant) -> None:
    for field, wrong, sentence in (
        ("max_retries", "11", "Quick retries must be a whole number from 0 to 10"),
        ("refresh_threshold", "0", "from 1 to 86400"),
        ("key_networks", "10.1.2.3/24", "is no network"),
        ("retry_backoff", "quick", "not one of the available choices"),
    ):
        answer = root.post(page_of(acme, "change"), {"auto_refresh": "unknown", field: wrong})
        assert answer.status_code == 200
        assert sentence in " ".join(answer.context["adminform"].form.errors[field])
    assert not AuditEvent.objects.filter(action="change_tenant").exists()


def test_a_deletion_is_explained_has_the_name_typed_and_is_done(cast: Cast, root: Client) -> None:
    page = page_of(cast.acme, "delete")
    question = root.get(page).content.decode()
    for sentence in ("Delete tenant acme for ever?", "data keys are destroyed", "audit trail stays",
                     "Type its name, acme"):  # fmt: skip
        assert sentence in question
    for wrong in ({}, {"slug": "globex"}, {"slug": "", "post": "yes"}):
        assert root.post(page, wrong).status_code == 200
    assert Tenant.objects.get(slug="acme").suspended_at is None
    answer = root.post(page, {"slug": "acme"})
    assert answer["Location"] == LIST
    assert "acme is deleted." in " ".join(said(answer))
    assert not Tenant.objects.filter(slug="acme").exists()
    assert not OAuthCredential.objects.exclude(tenant=cast.globex).exists()
    events = AuditEvent.objects.filter(action="delete_tenant")
    assert {event.actor for event in events} == {"operator operator-0"}


def test_what_the_page_does_not_finish_is_seen_and_goes_on(root: Client, cast: Cast) -> None:
    deletion.begin(tenant=cast.acme, actor="test", now=clock.now())
    assert deletion.go_on(tenant=cast.acme, actor="test", seconds=0).finished is False
    assert not DataKey.objects.filter(tenant=cast.acme).exists(), "the first step is the keys"
    assert "being deleted" in root.get(LIST).content.decode()
    page = root.get(page_of(cast.acme, "change")).content.decode()
    assert "/resume/" not in page
    root.post(page_of(cast.acme, "resume"), {"confirmed": "yes"})
    assert Tenant.objects.get(slug="acme").suspended_at is not None
    root.post(page_of(cast.acme, "delete"), {"slug": "acme"})
    assert not Tenant.objects.filter(slug="acme").exists()


def test_to_see_or_to_change_a_tenant_is_not_to_delete_it(
    staff: Callable[..., Client], acme: Tenant
) -> None:
    page = page_of(acme, "delete")
    for rights in (("tokens.view_tenant", "tokens.change_tenant"), ("tokens.delete_tenant",)):
        client = staff(*rights)
        assert client.get(page).status_code == 403
        assert client.post(page, {"slug": "acme"}).status_code == 403
    assert Tenant.objects.get().deletion_began_at is None
    client = staff("tokens.view_tenant", "tokens.delete_tenant")
    assert client.post(page, {"slug": "acme"}).status_code == 302
    assert not Tenant.objects.exists()


def test_the_list_deletes_nobody(root: Client, acme: Tenant) -> None:
    suspend_tenant(tenant=acme, actor="test", now=time.time())
    root.post(LIST, {"action": "delete_selected", "_selected_action": [acme.pk], "post": "yes"})
    assert Tenant.objects.filter(slug="acme", deletion_began_at=None).exists()


def test_the_tenant_that_the_environment_feeds_says_why_it_stays(
    root: Client, default_tenant: Tenant, settings: Settings
) -> None:
    settings.CLAUDE_ACCESS_TOKEN = Secret("x")
    page = page_of(default_tenant, "delete")
    shown = root.get(page).content.decode()
    assert "CLAUDE_ACCESS_TOKEN feeds" in shown
    assert "Delete this tenant" not in shown
    assert root.post(page, {"slug": "default"}).status_code == 302
    assert Tenant.objects.filter(slug="default", suspended_at=None).exists()


def test_a_name_above_a_page_is_written_as_it_is(acme: Tenant, root: Client) -> None:
    page = root.get(f"/admin/tokens/tenant/{acme.pk}/change/").content.decode()
    words = page.replace(">", "> ").replace("<", " <").split()
    assert "acme" in words
    assert "Acme" not in words


def test_the_history_leaves_out_what_is_empty() -> None:
    detail = {"networks": [], "ends": None, "name": "", "label": "CI", "on": False, "retries": 0}
    assert in_words(detail) == "label: CI; on: no; retries: 0"
