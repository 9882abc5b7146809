"""Signing in by the forms, for tests of what lies between the password and the dashboard."""

from django.http import HttpResponse
from django.test import Client
from pytest_django import Settings

from tests.admin.authenticator import Authenticator, let_pass
from tests.admin.browser import PASSWORD
from tokens.models import AuditEvent

LOGIN, SECOND_STEP = "/admin/login/?next=/admin/", "/admin/login/second_step/"
PASSWORD_PAGE, ACCOUNT = "/admin/password_change/", "/admin/account/"
ENROL, REMOVE = f"{ACCOUNT}second_factor/", f"{ACCOUNT}remove_second_factor/"
NEW_CODES, EVERYWHERE = f"{ACCOUNT}recovery_codes/", f"{ACCOUNT}sign_out_everywhere/"
ANOTHER = "another-horse-altogether"


def signed_in(name: str = "olivia", password: str = PASSWORD) -> Client:
    """With the password, as the form sends it."""
    client = Client()
    assert client.post(LOGIN, {"username": name, "password": password}).status_code == 302
    return client


def through_both_steps(phone: Authenticator, settings: Settings) -> Client:
    let_pass(settings, 30)
    client = signed_in()
    assert client.post(SECOND_STEP, {"proof-code": phone.code()}).status_code == 302
    return client


def is_in(client: Client) -> bool:
    return client.get("/admin/").status_code == 200


def sent_to(answer: HttpResponse) -> str:
    assert answer.status_code == 302, answer.status_code
    return str(answer["Location"]).partition("?")[0]


def text_of(answer: HttpResponse) -> str:
    return answer.content.decode()


def done(action: str) -> list[str]:
    """By whom, oldest first."""
    events = AuditEvent.objects.filter(action=action, outcome="done").order_by("pk")
    return [event.actor for event in events]


def change(client: Client, old: str, new: str) -> HttpResponse:
    form = {"old_password": old, "new_password1": new, "new_password2": new}
    return client.post(f"{PASSWORD_PAGE}?next=/admin/tokens/tenant/", form)
