"""When a session ends, and when it is asked again who is at the keyboard."""

import re
from pathlib import Path

import pytest
from django.contrib.auth.models import User
from django.contrib.sessions.models import Session
from pytest_django import Settings

from tests.admin.authenticator import Authenticator, let_pass
from tests.admin.browser import PASSWORD
from tests.admin.signing_in import (
    ACCOUNT,
    ANOTHER,
    EVERYWHERE,
    LOGIN,
    SECOND_STEP,
    change,
    done,
    is_in,
    sent_to,
    signed_in,
    text_of,
    through_both_steps,
)

pytestmark = pytest.mark.django_db


# --- The end of a session --------------------------------------------------------------------


def test_a_session_ends_that_is_not_used(olivia: User, settings: Settings) -> None:
    client = signed_in()
    for _ in range(3):
        let_pass(settings, settings.OAUTHVAULT_ADMIN_SESSION_IDLE - 10)
        assert is_in(client)
    let_pass(settings, settings.OAUTHVAULT_ADMIN_SESSION_IDLE)
    answer = client.get("/admin/", follow=True)
    assert answer.redirect_chain[0][0].startswith("/admin/login/")
    assert "was not used for a while" in text_of(answer)
    assert not is_in(client)


def test_a_page_that_renews_itself_keeps_no_session_alive(olivia: User, settings: Settings) -> None:
    """A job may last all night, and the page of it be left open."""
    header = "X-Asked-By-Itself"
    assert header in (Path(__file__).parents[2] / "tokens/static/tokens/live.js").read_text()
    client = signed_in()
    let_pass(settings, settings.OAUTHVAULT_ADMIN_SESSION_IDLE - 100)
    assert client.get("/admin/", headers={header: "yes"}).status_code == 200
    let_pass(settings, 100)
    # It is led to the form, as fetch is; what there is to say waits for somebody who reads it.
    client.get("/admin/", headers={header: "yes"}, follow=True)
    assert "was not used for a while" in text_of(client.get("/admin/", follow=True))
    assert not is_in(client)


def test_a_session_ends_however_much_it_is_used(olivia: User, settings: Settings) -> None:
    client = signed_in()
    for _ in range(12):
        assert is_in(client)
        let_pass(settings, 3590)
    assert is_in(client)
    let_pass(settings, 130)
    assert "had lasted as long as one may" in text_of(client.get("/admin/", follow=True))


def test_who_signs_in_again_in_a_session_takes_both_steps_again(
    olivia: User, phone: Authenticator, settings: Settings
) -> None:
    """Or the password alone would make a session that was proven once last for ever, unrecorded."""
    client = through_both_steps(phone, settings)
    let_pass(settings, 3000)
    before = client.session.session_key
    answer = client.post(LOGIN, {"username": "olivia", "password": PASSWORD})
    assert answer.status_code == 302
    assert client.session.session_key != before
    assert not is_in(client)
    assert client.post(SECOND_STEP, {"proof-code": phone.code()}).status_code == 302
    assert is_in(client)
    assert done("sign_in") == ["operator olivia"] * 2


def test_a_page_says_when_the_session_ends(olivia: User, settings: Settings) -> None:
    client = signed_in()
    let_pass(settings, 1800)
    assert re.search(r"in 11 h (30|29) min, at 20[0-9-]+ [0-9:]+ UTC", text_of(client.get(ACCOUNT)))


def test_signing_out_everywhere_is_asked_for_and_ends_all_of_them(olivia: User) -> None:
    here, there = signed_in(), signed_in()
    assert "Sign out everywhere?" in text_of(here.post(EVERYWHERE))
    assert is_in(there)
    answer = here.post(EVERYWHERE, {"everywhere": "yes"}, follow=True)
    assert "You are signed out, here and everywhere else." in text_of(answer)
    assert not is_in(here)
    assert not is_in(there)
    assert done("end_sessions") == ["operator olivia"]
    assert is_in(signed_in())


def test_a_new_password_ends_the_other_sessions(olivia: User) -> None:
    here, there = signed_in(), signed_in()
    assert change(here, PASSWORD, ANOTHER).status_code == 302
    assert is_in(here)
    assert not is_in(there)


def test_a_deactivated_operators_session_does_not_come_back_with_the_account(olivia: User) -> None:
    vera = User.objects.create_user("vera", password=PASSWORD, is_staff=True, is_superuser=True)
    theirs, mine = signed_in("vera"), signed_in()
    page = f"/admin/auth/user/{vera.pk}/change/"
    form = {"username": "vera", "is_staff": "on", "is_superuser": "on",
            "date_joined_0": "2026-01-01", "date_joined_1": "00:00:00"}  # fmt: skip
    assert mine.post(page, form).status_code == 302
    assert not is_in(theirs)
    assert mine.post(page, form | {"is_active": "on"}).status_code == 302
    assert not is_in(theirs)
    assert is_in(signed_in("vera"))


def test_a_session_from_before_there_were_limits_has_ended(olivia: User) -> None:
    client = signed_in()
    session = client.session
    del session["began_at"]
    session.save()
    assert not is_in(client)


def test_looking_at_pages_writes_no_session(olivia: User) -> None:
    client = signed_in()
    before = list(Session.objects.values())
    assert is_in(client)
    assert list(Session.objects.values()) == before


# --- Who it is, is asked again before the accounts of operators ------------------------------


ACCOUNTS, PROVE = "/admin/auth/user/", f"{ACCOUNT}prove/"
NEW = {"username": "mallory", "usable_password": "true", "password1": ANOTHER, "password2": ANOTHER}


def test_ten_minutes_after_the_sign_in_no_account_is_made_by_whoever_found_the_session_open(
    olivia: User, settings: Settings
) -> None:
    client = signed_in()
    assert client.get(f"{ACCOUNTS}add/").status_code == 200
    let_pass(settings, 601)
    for page in (f"{ACCOUNTS}add/", f"{ACCOUNTS}{olivia.pk}/change/", "/admin/auth/group/add/"):
        assert sent_to(client.get(page)) == PROVE
        assert sent_to(client.post(page, NEW)) == PROVE
    assert sent_to(client.post(ACCOUNTS, {"action": "delete_selected"})) == PROVE
    assert not User.objects.filter(username="mallory").exists()
    assert client.get(ACCOUNTS).status_code == 200
    assert is_in(client)


def test_whoever_proves_that_it_is_they_goes_on_where_they_were_for_ten_minutes(
    olivia: User, settings: Settings
) -> None:
    client = signed_in()
    let_pass(settings, 601)
    asked = client.get(f"{ACCOUNTS}add/")["Location"]
    assert client.post(asked, {"proof-password": "a guess"}).status_code == 200
    assert sent_to(client.get(f"{ACCOUNTS}add/")) == PROVE
    let_pass(settings, 2)
    answer = client.post(asked, {"proof-password": PASSWORD})
    assert answer["Location"] == f"{ACCOUNTS}add/"
    assert client.post(f"{ACCOUNTS}add/", NEW).status_code == 302
    assert User.objects.filter(username="mallory").exists()
    let_pass(settings, 601)
    assert sent_to(client.get(f"{ACCOUNTS}add/")) == PROVE


def test_who_has_a_second_factor_proves_it_by_a_code(
    olivia: User, phone: Authenticator, settings: Settings
) -> None:
    client = through_both_steps(phone, settings)
    let_pass(settings, 601)
    asked = client.get(f"{ACCOUNTS}add/")["Location"]
    assert client.post(asked, {"proof-password": PASSWORD}).status_code == 200
    assert client.post(asked, {"proof-code": phone.code()}).status_code == 302
    assert client.get(f"{ACCOUNTS}add/").status_code == 200
