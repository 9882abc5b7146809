"""Operators of some tenants only: what they see and do ends at those, in every corner."""

import importlib
import io
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from django.apps import apps
from django.contrib.auth.models import Group, User
from django.contrib.messages import get_messages
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import connection
from django.test import Client

from api.keys import create_key
from tests.admin.canaries import Canaries
from tests.admin.conftest import Cast
from tests.admin.test_every_page import asked, pages, read
from tests.admin.test_permissions import ACTS, LIST, job_of, page_of
from tokens import isolation, roles
from tokens.models import AuditEvent, OAuthCredential, Tenant
from tokens.roles import Role

Staff = Callable[..., Client]
SEE = ("tokens.view_oauthcredential", "tokens.view_tenant", "tokens.view_auditevent",
       "tokens.export_auditevent", "api.view_apikey")  # fmt: skip
EVERY_RIGHT = (*SEE, *set(ACTS.values()), "tokens.import_oauthcredential",
               "tokens.add_tenant", "tokens.change_tenant",
               "tokens.delete_tenant", "api.add_apikey", "api.delete_apikey",
               "api.grant_token_read", "tokens.export_oauthcredential", "tokens.view_job",
               "tokens.stop_job")  # fmt: skip
OF_ACME = ("alice", "bob", "carla", "frida", "acme")


def rows_of(tenant: Tenant) -> dict[str, list[Any]]:
    """Every row of a tenant, in every table that has one."""
    with isolation.every_tenant():
        return {
            model._meta.label: list(
                model._base_manager.filter(tenant=tenant).order_by("pk").values()
            )
            for model in apps.get_models()
            if any(field.name == "tenant" for field in model._meta.fields)
        } | {"tenant": list(Tenant.objects.filter(pk=tenant.pk).values())}


def made(role: Role | None, *tenants: Tenant, name: str = "olga") -> Client:
    user = roles.create_operator(
        name=name, password="a long one indeed", role=role, tenants=tenants, actor="test",
        now=time.time(),
    )  # fmt: skip
    client = Client()
    client.force_login(user)
    return client


def test_with_every_right_nothing_of_another_tenant_is_seen_or_changed_on_any_page(
    cast: Cast, staff: Staff, canaries: Canaries
) -> None:
    """Every address below /admin/, with another tenant's objects in it; read and written."""
    with isolation.every_tenant():
        create_key(tenant=cast.acme, actor="test", now=0)
        job_of(cast)
        assert AuditEvent.objects.filter(tenant=cast.acme).exists()
        Group.objects.create(name="readers")
        User.objects.create_user("somebody-else", is_staff=True)
        walked = pages(cast)
    assert any(f"/{cast['alice'].pk}/revoke/" in page for page in walked)
    client = staff(*EVERY_RIGHT, tenants=[cast.globex])
    before = rows_of(cast.acme)
    for page in walked:
        if page == "/admin/logout/":
            continue
        for what, answer in asked(client, page):
            text = read(answer)
            assert answer.status_code < 500, what
            assert not [name for name in OF_ACME if name in text], what
            assert canaries.found_in(text) == [], what
    assert rows_of(cast.acme) == before


def test_a_foreign_object_and_a_missing_one_are_answered_alike(cast: Cast, staff: Staff) -> None:
    client = staff(*EVERY_RIGHT, tenants=[cast.globex])
    for path in ("change", "history", *ACTS):
        answers = []
        for pk in (cast["alice"].pk, 987_654_321):
            answer = client.get(f"{LIST}{pk}/{path}/")
            said = [str(each) for each in get_messages(answer.wsgi_request)]
            answers.append(
                (answer.status_code, answer["Location"], said[-1].replace(f"“{pk}”", "“N”"))
            )
        assert answers[0] == answers[1], path


def test_their_own_tenant_is_all_there_is(cast: Cast, staff: Staff) -> None:
    client = staff(*EVERY_RIGHT, tenants=[cast.globex])
    home = client.get("/admin/").content.decode()
    own = [each for each in cast.people if each.tenant == cast.globex]
    assert f'<span class="ov-subtle">{len(own)}</span>' in home
    assert "judith" in home or "kalle" in home
    listed = client.get(LIST).content.decode()
    assert all(each.user_id in listed for each in own)
    choice = client.get("/admin/api/apikey/add/").content.decode()
    assert ">globex</option>" in choice
    assert ">acme</option>" not in choice


def test_several_tenants_are_seen_together(cast: Cast, staff: Staff, initech: Tenant) -> None:
    client = staff(*EVERY_RIGHT, tenants=[cast.globex, cast.acme])
    listed = client.get(LIST).content.decode()
    assert "alice" in listed
    assert "hedda" in listed
    tenants = client.get("/admin/tokens/tenant/").content.decode()
    assert "initech" not in tenants


@pytest.fixture
def initech(db: None) -> Tenant:
    with isolation.every_tenant():
        return Tenant.objects.create(slug="initech")


def test_one_acts_on_ones_own_and_is_written_down(cast: Cast, staff: Staff) -> None:
    client = staff(*EVERY_RIGHT, tenants=[cast.globex])
    client.post(page_of(cast["hedda"], "suspend"), {"confirmed": "yes"})
    with isolation.every_tenant():
        assert OAuthCredential.objects.get(pk=cast["hedda"].pk).suspended_at is not None
        event = AuditEvent.objects.filter(action="suspend", subject="hedda").get()
    assert event.tenant_id == cast.globex.pk
    assert event.actor.startswith("operator ")


def test_who_looks_after_no_tenant_is_told_so_and_can_leave(cast: Cast, staff: Staff) -> None:
    client = staff(*EVERY_RIGHT, tenants=[])
    for page in ("/admin/", LIST, page_of(cast["alice"]), "/admin/search/?s=alice"):
        answer = client.get(page)
        assert answer.status_code == 403
        assert "You look after no tenant yet" in answer.content.decode()
        assert "alice" not in answer.content.decode()
    assert client.get("/admin/password_change/").status_code == 200
    assert client.post("/admin/logout/").status_code in (200, 302)


@pytest.mark.parametrize("form", ["oauthcredential/import/", "apikey/add/"])
def test_who_looks_after_one_tenant_need_not_choose_it(
    acme: Tenant, globex: Tenant, staff: Staff, form: str
) -> None:
    app = "api" if form.startswith("apikey") else "tokens"
    chosen = f'<option value="{acme.pk}" selected>acme</option>'
    for tenants, is_chosen in (([acme], True), ([acme, globex], False)):
        page = staff(*EVERY_RIGHT, tenants=tenants).get(f"/admin/{app}/{form}").content.decode()
        assert (chosen in page) == is_chosen
        assert ("---------" in page) != is_chosen


def test_an_assignment_counts_from_the_next_request_on_and_so_does_its_end(
    cast: Cast, staff: Staff
) -> None:
    client = staff(*SEE, tenants=[cast.globex])
    user = User.objects.get(pk=client.session["_auth_user_id"])
    change = {"operator": user, "tenant": cast.acme, "actor": "test", "now": time.time()}
    assert "alice" not in client.get(LIST).content.decode()
    assert roles.assign(**change) is True
    assert roles.assign(**change) is False
    assert "alice" in client.get(LIST).content.decode()
    assert roles.withdraw(**change) is True
    assert roles.withdraw(**change) is False
    assert "alice" not in client.get(LIST).content.decode()


# --- The three roles -------------------------------------------------------------------------


def test_the_migration_makes_the_roles_and_keeps_what_administrators_made_of_them(
    groups: None,
) -> None:
    auditors = Group.objects.get(name=Role.AUDITOR)
    assert {p.codename for p in auditors.permissions.all()} == {
        "view_oauthcredential", "view_tenant", "view_auditevent", "view_apikey", "view_job",
        "export_oauthcredential", "export_auditevent",
    }  # fmt: skip
    assert {group.name for group in Group.objects.all()} == {role.value for role in Role}
    auditors.permissions.clear()
    for name, make in (("0012_roles", "make_roles"), ("0016_acts_on_many", "add_rights")):
        migration = importlib.import_module(f"tokens.migrations.{name}")
        getattr(migration, make)(apps, SimpleNamespace(connection=connection))
    assert not auditors.permissions.exists()


@pytest.mark.parametrize("act", ACTS)
def test_an_auditor_reads_and_changes_nothing(groups: None, cast: Cast, act: str) -> None:
    client = made(Role.AUDITOR, cast.acme)
    assert client.get(page_of(cast["alice"])).status_code == 200
    assert "alice" in client.get("/admin/tokens/auditevent/?q=alice").content.decode()
    before = rows_of(cast.acme)
    assert client.post(page_of(cast["alice"], act), {"confirmed": "yes"}).status_code == 403
    client.post(
        LIST,
        {"action": f"{act}_many", "_selected_action": [cast["alice"].pk], "confirmed": "yes"},
    )
    assert client.get("/admin/api/apikey/add/").status_code == 403
    for form in ({}, {"tenant": cast.acme.pk, "user_id": "new", "pasted": "{}"}, {"draft": "x"}):
        assert client.post(f"{LIST}import/", form).status_code == 403
    assert "/import/" not in client.get(LIST).content.decode()
    assert rows_of(cast.acme) == before


def test_an_operator_acts_makes_keys_that_read_no_token_and_no_tenants(
    groups: None, cast: Cast
) -> None:
    client = made(Role.OPERATOR, cast.acme)
    for act in ACTS:
        # A data key is the whole tenant's, and a login somebody's: for who keeps the tenants.
        expected = 403 if act in ("reseal", "reassign") else 200
        assert client.get(page_of(cast["alice"], act)).status_code == expected, act
    assert "/import/" in client.get(LIST).content.decode()
    assert client.get(f"{LIST}import/").status_code == 200
    form = client.get("/admin/api/apikey/add/").content.decode()
    assert "status:read" in form
    assert 'value="token:read"' not in form
    assert client.get("/admin/tokens/tenant/add/").status_code == 403
    assert client.get("/admin/auth/user/").status_code == 403


def test_an_administrator_looks_after_every_tenant_and_makes_no_operators(
    groups: None, cast: Cast
) -> None:
    client = made(Role.ADMINISTRATOR)
    listed = client.get(LIST).content.decode()
    assert "alice" in listed
    assert "hedda" in listed
    assert all(client.get(page_of(cast["alice"], act)).status_code == 200 for act in ACTS)
    assert client.get("/admin/tokens/tenant/add/").status_code == 200
    assert client.get("/admin/auth/user/").status_code == 403


def test_a_superuser_assigns_tenants_on_the_page_of_an_account(
    groups: None, cast: Cast, root: Client
) -> None:
    made(Role.OPERATOR, cast.acme)
    olga = User.objects.get(username="olga")
    page = f"/admin/auth/user/{olga.pk}/change/"
    form = root.get(page)
    assert "Looks after these" in form.content.decode()
    sent = {
        "username": "olga", "is_active": "on", "is_staff": "on",
        "groups": [group.pk for group in olga.groups.all()],
        "date_joined_0": "2026-01-01", "date_joined_1": "00:00:00",
    }  # fmt: skip
    assert root.post(page, {**sent, "tenants": [cast.globex.pk]}).status_code == 302
    assert roles.tenants_of(olga) == {cast.globex.pk}
    with isolation.every_tenant():
        written = [
            (event.action, event.tenant_slug)
            for event in AuditEvent.objects.filter(subject="olga").order_by("pk")
        ]
    assert written == [
        ("create_operator", ""), ("assign_operator", "acme"), ("assign_operator", "globex"),
        ("withdraw_operator", "acme"), ("change_operator", ""),
    ]  # fmt: skip


def test_what_is_done_to_accounts_and_groups_in_the_dashboard_is_written_down(
    groups: None, root: Client
) -> None:
    new = "canary-password-of-vera"
    chosen = {"usable_password": "true", "password1": new, "password2": new}
    root.post("/admin/auth/user/add/", {"username": "vera", **chosen})
    vera = User.objects.get(username="vera")
    assert vera.is_staff
    page = f"/admin/auth/user/{vera.pk}"
    sent = {"date_joined_0": "2026-01-01", "date_joined_1": "00:00:00", "is_staff": "on",
            "is_active": "on", "is_superuser": "on"}  # fmt: skip
    root.post(f"{page}/change/", {"username": "vera", **sent})
    again = {"password1": new + "2", "password2": new + "2", "set-password": "1"}
    root.post(f"{page}/password/", {"usable_password": "true", **again})
    vera.refresh_from_db()
    assert vera.check_password(new + "2")
    root.post(f"{page}/delete/", {"post": "yes"})
    root.post("/admin/auth/group/add/", {"name": "readers"})
    events = AuditEvent.objects.filter(tenant=None).order_by("pk")
    assert [(each.action, each.subject) for each in events] == [
        ("create_operator", "vera"), ("change_operator", "vera"), ("set_password", "vera"),
        ("delete_operator", "vera"), ("create_group", "readers"),
    ]  # fmt: skip
    assert events[1].detail["superuser"] is True
    assert {each.actor[:9] for each in events} == {"operator "}
    assert "canary" not in str(list(events.values()))


# --- The commands ----------------------------------------------------------------------------


@pytest.fixture
def password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("a long one indeed\n"))


@pytest.mark.usefixtures("groups", "password")
def test_create_operator_for_a_tenant(acme: Tenant, capsys: pytest.CaptureFixture[str]) -> None:
    call_command("create_operator", "olga", tenants=["acme"], role="auditor")
    olga = User.objects.get(username="olga")
    assert roles.tenants_of(olga) == {acme.pk}
    assert [group.name for group in olga.groups.all()] == ["Tenant auditors"]
    assert not olga.is_superuser
    assert olga.check_password("a long one indeed")
    event = AuditEvent.objects.get(action="create_operator")
    assert (event.subject, event.detail["tenants"]) == ("olga", ["acme"])


def test_changepassword_is_written_down(
    db: None, monkeypatch: pytest.MonkeyPatch, password: None
) -> None:
    olga = User.objects.create_user("olga", is_staff=True)
    call_command("changepassword", "olga")
    olga.refresh_from_db()
    assert olga.check_password("a long one indeed")
    event = AuditEvent.objects.get(action="set_password")
    assert (event.subject, event.detail) == ("olga", {})
    with pytest.raises(CommandError, match="no operator 'nobody'"):
        call_command("changepassword", "nobody")
    for typed, sentence in (("", "no password was given"), ("olga\n", "similar to the user")):
        monkeypatch.setattr("sys.stdin", io.StringIO(typed))
        with pytest.raises(CommandError, match=sentence):
            call_command("changepassword", "olga")
    assert AuditEvent.objects.filter(action="set_password").count() == 1


@pytest.mark.parametrize("name", ["two words", "tab\tbed", "x" * 151])
def test_an_operators_name_is_one_that_the_dashboard_takes(
    db: None, password: None, name: str
) -> None:
    with pytest.raises(CommandError, match="is no name for an operator"):
        call_command("create_operator", name)
    assert not User.objects.exists()


@pytest.mark.usefixtures("groups", "password")
@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"role": "auditor"}, "name them with --tenant"),
        ({"role": "administrator", "tenants": ["acme"]}, "leave --tenant out"),
        ({"tenants": ["nobody-there"]}, "nobody-there"),
    ],
)
def test_create_operator_refuses_what_cannot_be_meant(
    acme: Tenant, options: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(CommandError, match=sentence):
        call_command("create_operator", "olga", **options)
    assert not User.objects.filter(username="olga").exists()


@pytest.mark.usefixtures("password")
def test_without_the_roles_group_nobody_is_made(acme: Tenant) -> None:
    Group.objects.all().delete()
    with pytest.raises(CommandError, match="no group 'Tenant operators'"):
        call_command("create_operator", "olga", tenants=["acme"])
    assert not User.objects.filter(username="olga").exists()


@pytest.mark.usefixtures("groups")
def test_assign_operator_and_withdraw(
    acme: Tenant, globex: Tenant, capsys: pytest.CaptureFixture[str]
) -> None:
    made(Role.OPERATOR, acme)
    olga = User.objects.get(username="olga")
    call_command("assign_operator", "olga", tenant="globex")
    assert roles.tenants_of(olga) == {acme.pk, globex.pk}
    call_command("assign_operator", "olga", tenant="acme", withdraw=True)
    assert roles.tenants_of(olga) == {globex.pk}
    assert "olga no longer looks after acme." in capsys.readouterr().out
    with pytest.raises(CommandError, match="no operator 'nobody'"):
        call_command("assign_operator", "nobody", tenant="acme")
