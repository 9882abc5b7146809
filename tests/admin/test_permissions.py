"""Who may see and do what, and that nothing is done without being asked twice."""

import time
from collections.abc import Callable

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse

from api.keys import create_key
from tests.admin.conftest import Cast
from tokens import isolation, jobs
from tokens.models import AuditEvent, DataKey, Job, JobAct, OAuthCredential, Standing, Tenant

Staff = Callable[..., Client]

ACTS = {
    "refresh": "tokens.refresh_oauthcredential",
    "rotate": "tokens.rotate_oauthcredential",
    "suspend": "tokens.suspend_oauthcredential",
    "resume": "tokens.suspend_oauthcredential",
    "revoke": "tokens.revoke_oauthcredential",
    "suspend_auto_refresh": "tokens.pause_oauthcredential",
    "resume_auto_refresh": "tokens.pause_oauthcredential",
    "reseal": "tokens.reseal_oauthcredential",
    "reassign": "tokens.reassign_oauthcredential",
}
LIST = "/admin/tokens/oauthcredential/"


def page_of(credential: OAuthCredential, act: str = "change") -> str:
    return f"{LIST}{credential.pk}/{act}/"


def job_of(cast: Cast) -> Job:
    """One that was asked for by somebody, for everybody of acme."""
    olga, _ = User.objects.get_or_create(username="olga", is_staff=True)
    with isolation.every_tenant():
        (job,) = jobs.ask(
            act=JobAct.SUSPEND, credentials=OAuthCredential.objects.for_tenant(cast.acme),
            actor="operator olga", operator=olga, now=time.time(),
        )  # fmt: skip
    return job


def addresses(cast: Cast) -> list[str]:
    """Every page of the admin that has an address."""
    key = create_key(tenant=cast.acme, actor="test", now=0).row
    event = AuditEvent.objects.filter(subject="alice").first()
    assert event is not None
    objects = {
        "tokens_job": job_of(cast).pk,
        "tokens_oauthcredential": cast["alice"].pk,
        "tokens_tenant": cast.acme.pk,
        "tokens_auditevent": event.pk,
        "api_apikey": key.pk,
    }
    pages = ["/admin/", "/admin/tokens/", "/admin/api/"]
    for stem, pk in objects.items():
        pages.append(reverse(f"admin:{stem}_changelist"))
        pages += [reverse(f"admin:{stem}_{name}", args=[pk]) for name in ("change", "history")]
    pages += [reverse(f"admin:{stem}_add") for stem in ("tokens_tenant", "api_apikey")]
    pages.append(f"{LIST}import/")
    pages += [page_of(each, act) for act in ACTS for each in (cast["alice"], cast["carla"])]
    pages += [page_of(each) for each in cast.people]
    pages += [
        f"/admin/tokens/tenant/{cast.acme.pk}/{act}/"
        for act in ("suspend", "resume", "rotate_data_key")
    ]
    pages.append(f"/admin/tokens/tenant/{cast.acme.pk}/delete/")
    job = f"/admin/tokens/job/{objects['tokens_job']}"
    pages += [f"{job}/stop/", f"{job}/change/?show=problems", "/admin/tokens/job/?state=stopped"]
    pages += [f"/admin/api/apikey/{key.pk}/{act}/" for act in ("revoke", "rotate")]
    pages += [f"{LIST}?status={word}" for word in ("cannot_work", "active", "revoked")]
    pages += [f"{LIST}?q=alice", f"{LIST}?expires=1h", f"{LIST}?login_ends=7", f"{LIST}?o=1"]
    pages += ["/admin/tokens/auditevent/?q=import+2026-01-31", "/admin/search/?s=cred&extended=1"]
    return pages


def test_whoever_is_not_signed_in_is_sent_to_the_login(cast: Cast) -> None:
    for page in addresses(cast):
        answer = Client().get(page)
        assert answer.status_code == 302, page
        assert answer["Location"].startswith("/admin/login/"), page


def test_staff_without_a_permission_sees_nothing(cast: Cast, staff: Staff) -> None:
    """Every page is refused, except a home page that says so and a search without results."""
    client = staff()
    home = client.get("/admin/").content.decode()
    assert "nothing here that you may see" in home
    assert "alice" not in home
    for page in addresses(cast):
        if page == "/admin/" or page.startswith("/admin/search/"):
            continue
        answer = client.get(page)
        assert answer.status_code in (302, 403, 404), page
        assert "alice" not in answer.content.decode(), page


@pytest.mark.parametrize("act", ACTS)
def test_to_see_is_not_to_act(cast: Cast, staff: Staff, act: str) -> None:
    """With every permission but the act's own, neither the page nor the list's menu does it."""
    others = set(ACTS.values()) - {ACTS[act]}
    client = staff("tokens.view_oauthcredential", *others)
    before = list(OAuthCredential.objects.order_by("pk").values())
    assert client.get(page_of(cast["alice"], act)).status_code == 403
    assert client.post(page_of(cast["alice"], act), {"confirmed": "yes"}).status_code == 403
    client.post(
        LIST,
        {"action": f"{act}_many", "_selected_action": [cast["alice"].pk], "confirmed": "yes"},
    )
    assert list(OAuthCredential.objects.order_by("pk").values()) == before
    assert f"/{act}/" not in client.get(page_of(cast["alice"])).content.decode()


def test_to_see_a_tenant_is_not_to_rotate_its_data_key(cast: Cast, staff: Staff) -> None:
    client = staff("tokens.view_tenant", "tokens.view_oauthcredential", *ACTS.values())
    page = f"/admin/tokens/tenant/{cast.acme.pk}"
    assert client.get(f"{page}/change/").status_code == 200
    assert "/rotate_data_key/" not in client.get(f"{page}/change/").content.decode()
    before = list(DataKey.objects.values())
    assert client.post(f"{page}/rotate_data_key/", {"confirmed": "yes"}).status_code == 403
    assert list(DataKey.objects.values()) == before


@pytest.mark.parametrize("act", ACTS)
def test_to_act_one_must_be_allowed_to_see(cast: Cast, staff: Staff, act: str) -> None:
    client = staff(ACTS[act])
    assert client.get(page_of(cast["alice"], act)).status_code == 403
    assert client.post(page_of(cast["alice"], act), {"confirmed": "yes"}).status_code == 403


@pytest.mark.parametrize(
    ("right", "page"), [("add", "add"), ("delete", "{}/revoke"), ("delete", "{}/rotate")]
)
def test_to_act_on_keys_one_must_be_allowed_to_see_them(
    acme: Tenant, staff: Staff, right: str, page: str
) -> None:
    """Neither a key's first characters nor the tenants there are come out beside the list."""
    key = create_key(tenant=acme, actor="test", now=time.time()).row
    client = staff(f"api.{right}_apikey")
    address = f"/admin/api/apikey/{page.format(key.pk)}/"
    for answer in (
        client.get(address),
        client.post(address, {"confirmed": "yes", "tenant": acme.pk, "once": "x"}),
    ):
        assert answer.status_code == 403
        assert "acme" not in answer.content.decode()
        assert key.prefix not in answer.content.decode()
    key.refresh_from_db()
    assert key.revoked_at is None


@pytest.mark.parametrize("act", ACTS)
def test_an_address_alone_does_nothing(cast: Cast, root: Client, act: str) -> None:
    """GET asks; a POST that was not confirmed asks as well."""
    before = list(OAuthCredential.objects.order_by("pk").values())
    target = cast["carla" if act == "resume" else "alice"]
    for answer in (
        root.get(page_of(target, act), {"confirmed": "yes"}),
        root.post(page_of(target, act)),
        root.post(LIST, {"action": f"{act}_many", "_selected_action": [target.pk]}),
    )[: 2 if act == "reassign" else 3]:
        assert answer.status_code == 200
        assert target.user_id in answer.content.decode()
        assert 'name="confirmed"' in answer.content.decode()
        assert 'name="csrfmiddlewaretoken"' in answer.content.decode()
    assert list(OAuthCredential.objects.order_by("pk").values()) == before


def test_without_the_csrf_token_nothing_happens(cast: Cast, root: Client) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(User.objects.get(is_superuser=True))
    answer = client.post(page_of(cast["alice"], "revoke"), {"confirmed": "yes"})
    assert answer.status_code == 403
    assert OAuthCredential.objects.get(user_id="alice").standing == Standing.ACTIVE


def test_not_even_a_superuser_adds_edits_or_deletes_a_credential(cast: Cast, root: Client) -> None:
    alice = cast["alice"]
    assert root.get(f"{LIST}add/").status_code == 403
    assert root.post(page_of(alice), {"user_id": "mallory"}).status_code == 403
    assert root.post(page_of(alice, "delete"), {"post": "yes"}).status_code == 403
    root.post(LIST, {"action": "delete_selected", "_selected_action": [alice.pk], "post": "yes"})
    assert OAuthCredential.objects.filter(user_id="alice").exists()


def test_the_list_is_no_oracle_for_sealed_columns(cast: Cast, root: Client) -> None:
    """Django would let the address ask whether a column begins with some letters."""
    for question in (
        f"{LIST}?access_token_encrypted__startswith=a",
        f"{LIST}?refresh_token_encrypted__isnull=1",
        f"{LIST}?fingerprints__digest__startswith=a",
        "/admin/api/apikey/?digest__startswith=a",
        "/admin/tokens/tenant/?data_keys__wrapped__startswith=a",
        "/admin/tokens/auditevent/?tenant__data_keys__wrapped__startswith=a",
    ):
        assert root.get(question).status_code in (302, 400), question


def test_an_auditor_reads_the_trail_and_changes_nothing(cast: Cast, staff: Staff) -> None:
    client = staff("tokens.view_auditevent")
    event = AuditEvent.objects.first()
    assert event is not None
    assert client.get("/admin/tokens/auditevent/").status_code == 200
    page = f"/admin/tokens/auditevent/{event.pk}"
    assert client.get(f"{page}/change/").status_code == 200
    assert client.post(f"{page}/change/", {"actor": "nobody"}).status_code == 403
    assert client.post(f"{page}/delete/", {"post": "yes"}).status_code == 403
    assert client.get("/admin/tokens/auditevent/add/").status_code == 403


def test_a_staff_member_cannot_make_himself_a_superuser(staff: Staff) -> None:
    client = staff("auth.view_user", "auth.change_user")
    staff(superuser=True)
    me, boss = User.objects.order_by("pk")
    client.post(
        f"/admin/auth/user/{me.pk}/change/",
        {"username": me.username, "is_active": "on", "is_staff": "on", "is_superuser": "on"},
    )
    assert not User.objects.get(pk=me.pk).is_superuser
    assert client.post(f"/admin/auth/user/{boss.pk}/change/", {}).status_code == 403
    changed = client.post(
        f"/admin/auth/user/{boss.pk}/password/", {"password1": "x" * 20, "password2": "x" * 20}
    )
    assert changed.status_code == 403


def test_keys_at_rest_and_other_machinery_have_no_page(root: Client) -> None:
    for name in ("vaultkey", "datakey", "tokenfingerprint", "upstream", "heartbeat", "handout"):
        assert root.get(f"/admin/tokens/{name}/").status_code == 404


def test_djangos_own_log_knows_nothing_of_the_vault(cast: Cast, root: Client) -> None:
    root.post(page_of(cast["alice"], "suspend"), {"confirmed": "yes"})
    root.post("/admin/tokens/tenant/add/", {"slug": "initech", "auto_refresh": "unknown"})
    root.post(
        f"/admin/tokens/tenant/{Tenant.objects.get(slug='initech').pk}/change/",
        {"name": "Initech", "auto_refresh": "false", "refresh_threshold": "60"},
    )
    assert not LogEntry.objects.exists()
    assert AuditEvent.objects.filter(action="change_tenant", tenant__slug="initech").exists()
