"""A key is shown once: on the page that answers its making, and nowhere afterwards."""

import re
import time
from collections.abc import Callable

from django.contrib.sessions.models import Session
from django.test import Client

from api.keys import create_key, find_key, revoke_key
from api.models import ApiKey
from tokens.models import AuditEvent, KeySpan, Tenant

LIST = "/admin/api/apikey/"


def make(client: Client, tenant: Tenant, **more: object) -> tuple[str, dict[str, object]]:
    form = client.get(f"{LIST}add/").context["form"]
    content = {"tenant": tenant.pk, "once": form.initial["once"], **more}
    return _post(client, content), content


def _post(client: Client, content: dict[str, object]) -> str:
    answer = client.post(f"{LIST}add/", content)
    assert answer.status_code == 200
    assert "no-store" in answer["Cache-Control"]
    return answer.content.decode()


def shown(page: str) -> str:
    found = re.search(r'id="new-key">(ov[su]_[A-Za-z0-9_-]+)<', page)
    assert found is not None
    return found[1]


def test_the_form_offers_every_tenant(root: Client, acme: Tenant, globex: Tenant) -> None:
    page = root.get(f"{LIST}add/").content.decode()
    for tenant in (acme, globex):
        assert f'<option value="{tenant.pk}">' in page


def test_a_key_is_shown_once_and_kept_nowhere(root: Client, acme: Tenant) -> None:
    """Not in a later page, message, cookie, session, history or audit event."""
    page, _ = make(root, acme, label="LiteLLM", networks="10.1.2.0/24", days=30)
    text = shown(page)
    key = find_key(text)
    assert key is not None
    assert key.networks == ["10.1.2.0/24"]
    assert key.expires_at is not None
    secret = text[12:]
    assert page.count(secret) == 1
    for address in (
        LIST, f"{LIST}{key.pk}/change/", f"{LIST}{key.pk}/history/", f"{LIST}{key.pk}/revoke/",
        "/admin/", "/admin/tokens/auditevent/", f"{LIST}add/", f"{LIST}?q={key.prefix}",
    ):  # fmt: skip
        answer = root.get(address)
        assert answer.status_code == 200, address
        assert secret not in answer.content.decode(), address
    assert all(secret not in morsel.value for morsel in root.cookies.values())
    assert all(secret not in str(each.get_decoded()) for each in Session.objects.all())
    assert all(secret not in str(event.detail) for event in AuditEvent.objects.all())
    assert AuditEvent.objects.get(action="create_key").actor == "operator operator-0"
    assert "create key" in root.get(f"{LIST}{key.pk}/history/").content.decode()


def test_reloading_the_page_makes_no_second_key(root: Client, acme: Tenant) -> None:
    _, content = make(root, acme)
    again = root.post(f"{LIST}add/", content)
    assert again.status_code == 302
    assert ApiKey.objects.count() == 1


def test_a_user_key_names_its_user(root: Client, acme: Tenant) -> None:
    page, _ = make(root, acme, user_id="alice", scopes=["status:read"])
    key = find_key(shown(page))
    assert key is not None
    assert (key.user_id, key.scopes) == ("alice", ["status:read"])
    assert shown(page).startswith("ovu_")


def test_what_cannot_be_is_said_in_the_form(root: Client, acme: Tenant) -> None:
    for wrong in (
        {"networks": "10.1.2.3/24"}, {"user_id": "default"}, {"scopes": ["everything"]},
        {"days": 0}, {"once": ""},
    ):  # fmt: skip
        page, _ = make(root, acme, **wrong)
        assert 'role="alert"' in page or "once" in wrong
        assert "new-key" not in page
    assert not ApiKey.objects.exists()


def test_a_key_is_revoked_after_asking(
    root: Client, acme: Tenant, staff: Callable[..., Client]
) -> None:
    key = create_key(tenant=acme, actor="test", now=0).row
    page = f"{LIST}{key.pk}/revoke/"
    assert staff("api.view_apikey").post(page, {"confirmed": "yes"}).status_code == 403
    assert "Revoke this key?" in root.get(page).content.decode()
    key.refresh_from_db()
    assert key.revoked_at is None
    root.post(page, {"confirmed": "yes"})
    key.refresh_from_db()
    assert key.revoked_at is not None
    assert AuditEvent.objects.get(action="revoke_key").actor.startswith("operator ")


def test_a_key_is_never_deleted_or_edited(root: Client, acme: Tenant) -> None:
    key = create_key(tenant=acme, actor="test", now=0).row
    assert root.post(f"{LIST}{key.pk}/delete/", {"post": "yes"}).status_code == 403
    assert root.post(f"{LIST}{key.pk}/change/", {"label": "x"}).status_code == 403
    root.post(LIST, {"action": "delete_selected", "_selected_action": [key.pk], "post": "yes"})
    assert ApiKey.objects.filter(pk=key.pk).exists()


def test_to_see_keys_is_not_to_make_them(staff: Callable[..., Client], acme: Tenant) -> None:
    client = staff("api.view_apikey")
    assert client.get(LIST).status_code == 200
    assert client.get(f"{LIST}add/").status_code == 403
    assert client.post(f"{LIST}add/", {"tenant": acme.pk, "once": "x"}).status_code == 403


# --- Rotation, unusual use -------------------------------------------------------------------


def rotation(client: Client, key: ApiKey, **more: object) -> dict[str, object]:
    form = client.get(f"{LIST}{key.pk}/rotate/").context["form"]
    return {"once": form.initial["once"], "overlap": 24, **more}


def test_a_rotated_key_shows_its_successor_once(root: Client, acme: Tenant) -> None:
    old = create_key(tenant=acme, actor="test", now=time.time(), label="LiteLLM").row
    assert "until the overlap has passed" in root.get(f"{LIST}{old.pk}/rotate/").content.decode()
    content = rotation(root, old, overlap=2)
    answer = root.post(f"{LIST}{old.pk}/rotate/", content)
    assert "no-store" in answer["Cache-Control"]
    new = find_key(shown(answer.content.decode()))
    assert new is not None
    assert (new.label, new.tenant) == ("LiteLLM", acme)
    old.refresh_from_db()
    assert old.expires_at is not None
    assert abs(old.expires_at - (time.time() + 7200)) < 5
    assert root.post(f"{LIST}{old.pk}/rotate/", content).status_code == 302, "reloaded"
    assert ApiKey.objects.count() == 2
    assert AuditEvent.objects.get(action="rotate_key").actor == "operator operator-0"


def test_what_cannot_be_rotated_has_no_button_and_says_why(root: Client, acme: Tenant) -> None:
    key = create_key(tenant=acme, actor="test", now=time.time()).row
    assert "/rotate/" in root.get(f"{LIST}{key.pk}/change/").content.decode()
    for overlap in (0, "", 24 * 90 + 1):
        answer = root.post(f"{LIST}{key.pk}/rotate/", rotation(root, key, overlap=overlap))
        assert 'role="alert"' in answer.content.decode()
    revoke_key(key=key, actor="test", now=time.time())
    assert "/rotate/" not in root.get(f"{LIST}{key.pk}/change/").content.decode()
    assert root.post(f"{LIST}{key.pk}/rotate/", {"overlap": 1, "once": "x"}).status_code == 302
    assert ApiKey.objects.count() == 1


def test_to_see_keys_is_not_to_rotate_them(staff: Callable[..., Client], acme: Tenant) -> None:
    key = create_key(tenant=acme, actor="test", now=time.time(), scopes=["status:read"]).row
    page = f"{LIST}{key.pk}/rotate/"
    rights = {"api.view_apikey", "api.add_apikey", "api.delete_apikey"}
    for missing in rights:
        client = staff(*rights - {missing})
        assert client.get(page).status_code == 403
        assert client.post(page, {"overlap": 1, "once": "x"}).status_code == 403
    assert ApiKey.objects.count() == 1
    assert staff(*rights).get(page).status_code == 200


# --- Keys that read tokens -------------------------------------------------------------------

MAKER = ("api.view_apikey", "api.add_apikey", "api.delete_apikey")


def test_who_may_make_keys_makes_none_that_read_tokens(
    staff: Callable[..., Client], acme: Tenant
) -> None:
    """Or an operator would see every token, by way of a key."""
    client = staff(*MAKER)
    form = client.get(f"{LIST}add/")
    assert 'value="token:read"' not in form.content.decode()
    assert "A key that reads tokens" in form.content.decode()
    for user_id in ("", "alice"):
        page, _ = make(client, acme, user_id=user_id, scopes=["token:read", "status:read"])
        assert 'role="alert"' in page
        assert "new-key" not in page
    assert not ApiKey.objects.exists()
    for user_id in ("", "alice"):
        page, _ = make(client, acme, user_id=user_id)
        key = find_key(shown(page))
        assert key is not None
        assert "token:read" not in key.scopes
        assert "token:write" in key.scopes
        answer = Client().get(
            "/auth/claude/token",
            headers={"Authorization": f"Bearer {shown(page)}", "X-OAuthVault-User": "alice"},
        )
        assert answer.json()["code"] == "insufficient_scope"


def test_who_may_grant_it_makes_keys_that_read_tokens(
    staff: Callable[..., Client], root: Client, acme: Tenant
) -> None:
    for client in (staff(*MAKER, "api.grant_token_read"), root):
        assert 'value="token:read"' in client.get(f"{LIST}add/").content.decode()
        for chosen in ([], ["token:read"]):
            key = find_key(shown(make(client, acme, scopes=chosen)[0]))
            assert key is not None
            assert "token:read" in key.scopes


def test_a_key_that_reads_tokens_is_rotated_by_who_may_grant_it(
    staff: Callable[..., Client], acme: Tenant
) -> None:
    reads = create_key(tenant=acme, actor="test", now=time.time()).row
    other = create_key(tenant=acme, actor="test", now=time.time(), scopes=["status:read"]).row
    client = staff(*MAKER)
    for key, status in ((reads, 403), (other, 200)):
        page = f"{LIST}{key.pk}/rotate/"
        button = page in client.get(f"{LIST}{key.pk}/change/").content.decode()
        assert button is (status == 200)
        assert client.get(page).status_code == status
        assert client.post(page, {"overlap": 1, "once": "x"}).status_code == status
    assert ApiKey.objects.count() == 3
    granting = staff(*MAKER, "api.grant_token_read")
    assert f"{LIST}{reads.pk}/rotate/" in granting.get(f"{LIST}{reads.pk}/change/").content.decode()
    answer = granting.post(f"{LIST}{reads.pk}/rotate/", rotation(granting, reads))
    assert shown(answer.content.decode())


def test_to_grant_the_reading_of_tokens_is_not_to_make_keys(
    staff: Callable[..., Client], acme: Tenant
) -> None:
    client = staff("api.view_apikey", "api.grant_token_read")
    assert client.get(f"{LIST}add/").status_code == 403


def test_a_key_in_unusual_use_is_marked(root: Client, acme: Tenant, globex: Tenant) -> None:
    now = int(time.time())
    key = create_key(tenant=acme, actor="test", now=now).row
    other = create_key(tenant=globex, actor="test", now=now).row
    for tenant, actor, noticed_at in (
        (acme, key.actor, now - 60),
        (globex, key.actor, now - 60),  # a namesake of another tenant
        (globex, other.actor, now - 90_000),
    ):
        KeySpan.objects.create(
            tenant=tenant, actor=actor, hour=noticed_at // 3600, users=41, usual=6,
            noticed_at=noticed_at,
        )  # fmt: skip
    page = root.get(f"{LIST}{key.pk}/change/").content.decode()
    assert "41 users within an hour" in page
    assert "of 6 at most" in page
    assert "none in the last 24 hours" in root.get(f"{LIST}{other.pk}/change/").content.decode()
    assert root.get(LIST).content.decode().count("unusual use") == 1


def test_a_tenants_page_leads_to_a_new_key_of_its_own(
    acme: Tenant, globex: Tenant, root: Client
) -> None:
    address = f"/admin/api/apikey/add/?tenant={globex.pk}"
    assert address in root.get(f"/admin/tokens/tenant/{globex.pk}/change/").content.decode()
    form = root.get(address).content.decode()
    assert f'<option value="{globex.pk}" selected>globex</option>' in form
    for nonsense in ("x", "0", "9" * 40):
        assert root.get(f"/admin/api/apikey/add/?tenant={nonsense}").status_code == 200
