"""Every address below /admin/, read from the URL configuration × who asks × how."""

from collections.abc import Iterator
from typing import Any

import pytest
from django.apps import apps
from django.contrib import admin
from django.contrib.auth.models import Group, User
from django.contrib.contenttypes.models import ContentType
from django.contrib.sessions.models import Session
from django.http import HttpResponse
from django.test import Client

from api.keys import create_key
from tests.admin.canaries import Canaries
from tests.admin.conftest import Cast
from tests.admin.test_permissions import Staff, job_of
from tests.routes import admin_patterns, filled
from tokens import isolation
from tokens.models import AuditEvent, Deployment, OAuthCredential

# Where somebody may be who has not signed in, and what each of staff may see: nothing of the vault.
_OPEN = {"/admin/login/"}
_OF_EVERY_OPERATOR = {
    "/admin/", "/admin/logout/", "/admin/password_change/", "/admin/password_change/done/",
    "/admin/jsi18n/", "/admin/search/", "/admin/login/second_step/", "/admin/account/",
    "/admin/account/second_factor/", "/admin/account/recovery_codes/",
    "/admin/account/remove_second_factor/", "/admin/account/sign_out_everywhere/",
    "/admin/account/prove/",
}  # fmt: skip
NAMES = ("alice", "acme", "globex")
# Every list, with the acts in its menu.
LISTS = {
    f"/admin/{model._meta.app_label}/{model._meta.model_name}/": [
        "delete_selected",
        *(name for name in model_admin.actions or () if isinstance(name, str)),
    ]
    for model, model_admin in admin.site._registry.items()
}


def pages(cast: Cast) -> list[str]:
    """Every address there is, with an object of its own model where it names one."""
    with isolation.every_tenant():
        objects = {
            model: model._base_manager.order_by("pk").first() for model in admin.site._registry
        }
        objects[OAuthCredential] = cast["alice"]
        content_type = ContentType.objects.get_for_model(OAuthCredential)
    found = []
    for pattern, _ in admin_patterns():
        if "?P<url>" in pattern:
            continue  # What has no page: the 404 at the end.
        if "?P<app_label>" in pattern:
            found += ["/admin/tokens/", "/admin/api/", "/admin/auth/"]
            continue
        model = next(
            (m for m in objects if f"/{m._meta.app_label}/{m._meta.model_name}/" in f"/{pattern}"),
            OAuthCredential,
        )
        assert objects[model] is not None, f"the cast has no {model.__name__}"
        pk = str(objects[model].pk)
        values = {"object_id": pk, "id": pk, "content_type_id": str(content_type.pk)}
        found.append(filled(pattern, values))
    return list(dict.fromkeys(found))


def read(answer: Any) -> str:
    """What the browser gets, be it written in pieces."""
    return b"".join(answer).decode()


@pytest.fixture
def everything(cast: Cast) -> list[str]:
    return every_address(cast)


def every_address(cast: Cast) -> list[str]:
    """Every address, and an object of each model to be found there."""
    with isolation.every_tenant():
        create_key(tenant=cast.acme, actor="test", now=0)
        job_of(cast)
        Group.objects.create(name="readers")
        User.objects.create_user("somebody-else", is_staff=True)
        assert AuditEvent.objects.exists()
    walked = pages(cast)
    assert len(walked) > 50
    return walked


def state() -> dict[str, list[Any]]:
    """Every row of every table, but the sessions and the row that whoever looks at the epoch first
    makes."""
    with isolation.every_tenant():
        return {
            model._meta.label: list(model._base_manager.order_by("pk").values())
            for model in apps.get_models()
            if model not in (Session, Deployment)
        }


def asked(client: Client, page: str) -> Iterator[tuple[str, HttpResponse]]:
    """Read, and everything that would do something if it were allowed."""
    client.raise_request_exception = False
    yield f"GET {page}", client.get(page)
    forms = [{}, {"post": "yes", "confirmed": "yes"}]
    if page in LISTS:
        chosen = {"_selected_action": "1", "select_across": "1", "post": "yes", "confirmed": "yes"}
        forms += [{"action": name} | chosen for name in LISTS[page]]
    for form in forms:
        yield f"POST {page} {form}", client.post(page, form)


def test_who_has_not_signed_in_is_sent_to_the_login_from_everywhere(
    everything: list[str], canaries: Canaries
) -> None:
    before, client = state(), Client()
    for page in everything:
        for what, answer in asked(client, page):
            if page in _OPEN:
                assert answer.status_code == 200, what
                continue
            assert answer.status_code == 302, what
            if page != "/admin/logout/":
                assert answer["Location"].startswith("/admin/login/?next="), what
            assert canaries.found_in(read(answer)) == [], what
    assert state() == before


def test_staff_without_a_permission_is_refused_everywhere(
    everything: list[str], staff: Staff, canaries: Canaries
) -> None:
    client = staff()
    before = state()
    for page in everything:
        if page in _OPEN | {"/admin/logout/"}:
            continue
        for what, answer in asked(client, page):
            text = read(answer)
            if page in _OF_EVERY_OPERATOR:
                assert answer.status_code in (200, 302, 405), what
            else:
                assert answer.status_code in (302, 403, 404, 405), what
                if answer.status_code == 302:
                    # An object's bare address leads to its page, which refuses.
                    assert client.get(answer["Location"]).status_code in (403, 404), what
            assert canaries.found_in(text) == [], what
            assert not any(name in text for name in NAMES), what
    assert state() == before


def test_looking_changes_nothing_and_shows_no_token(
    everything: list[str], root: Client, canaries: Canaries
) -> None:
    """Not even for a superuser; and nothing fails."""
    before = state()
    for page in everything:
        if page == "/admin/logout/":
            continue
        # Of an object, as if it had been asked and confirmed already.
        of_an_object = page.count("/") > 5
        answer = root.get(page, {"confirmed": "yes", "post": "yes"} if of_an_object else {})
        assert answer.status_code < 500, page
        assert canaries.found_in(read(answer)) == [], page
    assert state() == before


def test_without_its_token_no_form_is_accepted(everything: list[str], root: Client) -> None:
    client = Client(enforce_csrf_checks=True)
    client.cookies = root.cookies
    before = state()
    for page in everything:
        for what, answer in list(asked(client, page))[1:]:
            assert answer.status_code == 403, what
    assert state() == before
    assert client.get("/admin/").status_code == 200


def test_every_registered_model_is_walked(everything: list[str]) -> None:
    assert sum(len(acts) for acts in LISTS.values()) > len(LISTS) + 5
    for model in admin.site._registry:
        stem = f"/admin/{model._meta.app_label}/{model._meta.model_name}/"
        for page in ("", "add/"):
            assert f"{stem}{page}" in everything
        assert any(page.startswith(stem) and page.endswith("/history/") for page in everything)
