"""Between the password and the dashboard: the second step, a password to change, a factor to set
up; what an operator does with their own sign-in; and when a session ends."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth import password_validation
from django.contrib.auth.models import User
from django.contrib.sessions.models import Session
from django.http import HttpResponse
from django.test import Client
from pytest_django import Settings

from api import throttle
from oauthvault import first_password
from tests.admin.authenticator import Authenticator, enrolled, let_pass
from tests.admin.conftest import Cast
from tests.admin.test_permissions import LIST, addresses
from tokens import accounts, clock, roles, second_factor
from tokens.admin.operators import OperatorForm
from tokens.models import AuditEvent, OAuthCredential, SecondFactor, Standing, Tenant
from tokens.models.account import MOST_FAILURES_COUNTED
from tokens.roles import Role

LOGIN, SECOND_STEP = "/admin/login/?next=/admin/", "/admin/login/second_step/"
PASSWORD_PAGE, ACCOUNT = "/admin/password_change/", "/admin/account/"
ENROL, REMOVE = f"{ACCOUNT}second_factor/", f"{ACCOUNT}remove_second_factor/"
NEW_CODES, EVERYWHERE = f"{ACCOUNT}recovery_codes/", f"{ACCOUNT}sign_out_everywhere/"
PASSWORD, ANOTHER = "correct-horse-battery", "another-horse-altogether"

pytestmark = pytest.mark.django_db
Staff = Callable[..., Client]


@pytest.fixture
def olivia(db: None) -> User:
    return User.objects.create_superuser("olivia", password=PASSWORD)


@pytest.fixture
def phone(olivia: User) -> Authenticator:
    return enrolled(olivia)[0]


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


def at_the_moment(
    monkeypatch: pytest.MonkeyPatch, owner: object, name: str, happens: Callable[[], object]
) -> None:
    """Something that somebody else does in the middle of a request: right after what is called
    so there, which does its own work as ever. No other way leads into that moment."""
    real = getattr(owner, name)

    def and_then(*given: Any, **named: Any) -> Any:
        result = real(*given, **named)
        happens()
        return result

    monkeypatch.setattr(owner, name, and_then)


def done(action: str) -> list[str]:
    """By whom, oldest first."""
    events = AuditEvent.objects.filter(action=action, outcome="done").order_by("pk")
    return [event.actor for event in events]


# --- The second step -------------------------------------------------------------------------


def test_before_the_second_step_no_page_is_shown_and_nothing_is_done(
    cast: Cast, olivia: User, phone: Authenticator
) -> None:
    client = signed_in()
    walked = [*addresses(cast), PASSWORD_PAGE, ACCOUNT, ENROL, REMOVE, NEW_CODES, EVERYWHERE]
    for page in walked:
        assert sent_to(client.get(page)) == SECOND_STEP, page
        assert sent_to(client.post(page, {"confirmed": "yes"})) == SECOND_STEP, page
    shown = text_of(client.get(SECOND_STEP))
    assert "alice" not in shown
    assert "/admin/tokens/" not in shown
    assert done("sign_in") == []


def test_the_right_code_lets_in_where_they_were_going_and_is_written_down(
    olivia: User, phone: Authenticator, settings: Settings
) -> None:
    let_pass(settings, 30)
    client = signed_in()
    on_the_way = client.get("/admin/tokens/tenant/?q=a&p=1")["Location"]
    before = client.session.session_key
    code = phone.code()
    answer = client.post(on_the_way, {"proof-code": f"{code[:3]} {code[3:]}"})
    assert answer["Location"] == "/admin/tokens/tenant/?q=a&p=1"
    assert client.session.session_key != before
    assert is_in(client)
    event = AuditEvent.objects.get(action="sign_in")
    assert (event.actor, event.outcome) == ("operator olivia", "done")
    assert event.detail == {"second_factor": "code"}
    assert sent_to(client.get(SECOND_STEP)) == "/admin/"


def test_nobody_is_sent_to_another_host(
    olivia: User, phone: Authenticator, settings: Settings
) -> None:
    for elsewhere in ("https://evil.example/", "//evil.example/admin/", "/\\evil.example"):
        let_pass(settings, 60)
        client = signed_in()
        answer = client.post(f"{SECOND_STEP}?next={elsewhere}", {"proof-code": phone.code()})
        assert answer["Location"] == "/admin/"


def test_a_wrong_code_lets_nobody_in_and_is_written_down_without_it(
    olivia: User, phone: Authenticator
) -> None:
    client, wrong = signed_in(), phone.wrong_code()
    answer = client.post(SECOND_STEP, {"proof-code": wrong})
    assert answer.status_code == 200
    assert "This code is not right" in text_of(answer)
    assert not is_in(client)
    event = AuditEvent.objects.get(action="prove_second_factor")
    assert (event.outcome, event.subject) == ("refused", "olivia")
    assert wrong not in json.dumps(event.detail)


def test_after_wrong_codes_the_page_says_when_the_next_one_is_looked_at(
    olivia: User, phone: Authenticator, settings: Settings
) -> None:
    client = signed_in()
    for _ in range(MOST_FAILURES_COUNTED):
        let_pass(settings, 600)
        client.post(SECOND_STEP, {"proof-code": phone.wrong_code()})
        throttle.forget()
    refused = client.post(SECOND_STEP, {"proof-code": phone.code()})
    assert refused.status_code == 429
    assert 500 < int(refused["Retry-After"]) <= 512
    assert f"Try again in {refused['Retry-After']} seconds, at 20" in text_of(refused)
    assert not is_in(client)


def test_wrong_codes_are_counted_by_their_address_as_wrong_passwords_are(
    olivia: User, phone: Authenticator, settings: Settings
) -> None:
    client = signed_in()
    for _ in range(throttle.MOST_SIGN_INS):
        let_pass(settings, 600)
        assert client.post(SECOND_STEP, {"proof-code": phone.wrong_code()}).status_code == 200
    let_pass(settings, 600)
    for page, form in (
        (SECOND_STEP, {"proof-code": phone.code()}),
        (LOGIN, {"username": "olivia", "password": PASSWORD}),
    ):
        refused = client.post(page, form)
        assert refused.status_code == 429
        assert f"try again in {refused['Retry-After']} seconds" in text_of(refused)
    elsewhere = {"REMOTE_ADDR": "203.0.113.9"}
    assert client.post(SECOND_STEP, {"proof-code": phone.code()}, **elsewhere).status_code == 302


def test_a_stranger_without_the_password_slows_no_operator(
    olivia: User, phone: Authenticator, settings: Settings
) -> None:
    for number in range(20):
        Client().post(LOGIN, {"username": "olivia", "password": "x"},
                      REMOTE_ADDR=f"198.51.100.{number}")  # fmt: skip
    assert is_in(through_both_steps(phone, settings))


def test_a_recovery_code_lets_in_and_it_is_said_how_many_are_left(olivia: User) -> None:
    _, codes = enrolled(olivia)
    client = signed_in()
    assert client.post(SECOND_STEP, {"proof-code": codes[3]}).status_code == 302
    assert "9 are left" in text_of(client.get("/admin/"))
    assert AuditEvent.objects.get(action="sign_in").detail == {"second_factor": "recovery code"}


def test_an_operator_of_no_tenant_takes_the_second_step_too(db: None) -> None:
    vera = User.objects.create_user("vera", password=PASSWORD, is_staff=True)
    _, codes = enrolled(vera)
    client = signed_in("vera")
    assert sent_to(client.get("/admin/")) == SECOND_STEP
    assert client.get(SECOND_STEP).status_code == 200
    client.post(SECOND_STEP, {"proof-code": codes[0]})
    assert "You look after no tenant" in text_of(client.get("/admin/"))
    assert client.get(ACCOUNT).status_code == 200


# --- Setting a factor up, and taking it away -------------------------------------------------


def secret_on(page: str) -> str:
    found = re.search(r'id="totp-secret">([A-Z2-7 ]+)<', page)
    assert found is not None
    return found[1]


def test_a_factor_is_set_up_with_the_password_a_picture_and_a_code(olivia: User) -> None:
    """The recovery codes are in that one answer, and in no other page, session or record."""
    client, elsewhere = signed_in(), signed_in()
    assert "<svg" not in text_of(client.get(ENROL))
    assert client.post(ENROL, {"step": "begin", "proof-password": "wrong"}).status_code == 200
    assert not SecondFactor.objects.exists()
    let_pass_of_a_second(olivia)
    assert client.post(ENROL, {"step": "begin", "proof-password": PASSWORD}).status_code == 302
    page = text_of(client.get(ENROL))
    picture = page[page.index("<svg") : page.index("</svg>")]
    assert "style" not in picture
    phone = Authenticator(secret_on(page))
    assert "not right" in text_of(
        client.post(ENROL, {"step": "confirm", "code": phone.wrong_code()})
    )
    assert is_in(elsewhere)
    answer = client.post(ENROL, {"step": "confirm", "code": phone.code()})
    assert "no-store" in answer["Cache-Control"]
    codes = re.findall(r"<code>([a-z0-9-]{19})</code>", text_of(answer))
    assert len(set(codes)) == second_factor.RECOVERY_CODES
    assert is_in(client)
    assert not is_in(elsewhere)
    assert done("enrol_second_factor") == ["operator olivia"]
    shown_later = text_of(client.get(ACCOUNT)) + text_of(client.get(ENROL, follow=True))
    kept = str(list(AuditEvent.objects.values())) + str(dict(client.session.items()))
    for secret in (*codes, secret_on(page)):
        assert secret not in shown_later
        assert secret not in kept


def let_pass_of_a_second(operator: User) -> None:
    """A wrong password was a second ago."""
    account = operator.account
    account.throttle_reset()


def test_a_secret_is_shown_in_the_session_that_began_it_and_in_no_other(
    olivia: User, staff: Staff
) -> None:
    """Or an open session elsewhere would have a copy of it when it is confirmed."""
    client, elsewhere = signed_in(), signed_in()
    client.post(ENROL, {"step": "begin", "proof-password": PASSWORD})
    assert secret_on(text_of(client.get(ENROL)))
    for other in (elsewhere, staff()):
        assert "totp-secret" not in text_of(other.get(ENROL))
        answer = other.post(ENROL, {"step": "confirm", "code": "123456"})
        assert "totp-secret" not in text_of(answer)


def test_removing_it_asks_for_a_code_and_ends_the_other_sessions(
    olivia: User, phone: Authenticator, settings: Settings
) -> None:
    client, elsewhere = (through_both_steps(phone, settings) for _ in range(2))
    let_pass(settings, 60)
    assert client.post(REMOVE, {}).status_code == 200
    assert client.post(REMOVE, {"proof-code": phone.wrong_code()}).status_code == 200
    assert second_factor.is_enrolled(olivia)
    let_pass(settings, 60)
    assert client.post(REMOVE, {"proof-code": phone.code()}).status_code == 302
    assert not second_factor.is_enrolled(olivia)
    assert second_factor.codes_left(olivia) == 0
    assert done("remove_second_factor") == ["operator olivia"]
    assert is_in(client)
    assert not is_in(elsewhere)


def test_new_recovery_codes_ask_for_a_code_and_are_shown_once(
    olivia: User, phone: Authenticator, settings: Settings
) -> None:
    client = through_both_steps(phone, settings)
    let_pass(settings, 60)
    assert "<li><code>" not in text_of(client.post(NEW_CODES, {"proof-code": "123"}))
    let_pass(settings, 60)
    page = text_of(client.post(NEW_CODES, {"proof-code": phone.code()}))
    codes = re.findall(r"<code>([a-z0-9-]{19})</code>", page)
    assert len(codes) == 10
    assert second_factor.verify(operator=olivia, code=codes[9], now=clock.now()).good
    assert done("make_recovery_codes") == ["operator olivia"]


@pytest.mark.parametrize(
    ("policy", "role", "must"),
    [
        ("optional", None, False),
        ("required", None, True),
        ("required", Role.ADMINISTRATOR, True),
        ("required", Role.OPERATOR, False),
        ("required_for_all", Role.OPERATOR, True),
    ],
)
def test_who_must_have_a_factor_sees_nothing_before(
    policy: str, role: Role | None, must: bool, acme: Tenant, groups: None, settings: Settings
) -> None:
    settings.OAUTHVAULT_ADMIN_SECOND_FACTOR = policy
    roles.create_operator(
        name="olga", password=PASSWORD, role=role, tenants=[acme] if role is Role.OPERATOR else [],
        actor="test", now=clock.now(),
    )  # fmt: skip
    client = signed_in("olga")
    assert is_in(client) is not must
    if must:
        for page in ("/admin/", ACCOUNT, PASSWORD_PAGE, "/admin/search/?s=a"):
            assert sent_to(client.get(page)) == ENROL, page
        shown = text_of(client.get(ENROL))
        assert "It is required here." in shown
        assert "/admin/tokens/" not in shown
        client.post(ENROL, {"step": "begin", "proof-password": PASSWORD})
        code = Authenticator(secret_on(text_of(client.get(ENROL)))).code()
        client.post(ENROL, {"step": "confirm", "code": code})
        assert is_in(client)


# --- For somebody else -----------------------------------------------------------------------


def test_a_superuser_resets_anothers_factor_and_proves_who_they_are(
    olivia: User, phone: Authenticator, settings: Settings
) -> None:
    vera = User.objects.create_user("vera", password=PASSWORD, is_staff=True)
    enrolled(vera)
    client = through_both_steps(phone, settings)
    page = f"/admin/auth/user/{vera.pk}/reset_second_factor/"
    assert f'href="{page}"' in text_of(client.get(f"/admin/auth/user/{vera.pk}/change/"))
    question = text_of(client.get(page))
    assert "Take away the second factor of vera?" in question
    let_pass(settings, 60)
    for form in ({}, {"confirmed": "yes"}, {"confirmed": "yes", "proof-code": "000"}):
        assert client.post(page, form).status_code == 200
    assert second_factor.is_enrolled(vera)
    let_pass(settings, 60)
    assert client.post(page, {"confirmed": "yes", "proof-code": phone.code()}).status_code == 302
    assert not second_factor.is_enrolled(vera)
    assert second_factor.is_enrolled(olivia)
    event = AuditEvent.objects.get(action="reset_second_factor")
    assert (event.actor, event.subject) == ("operator olivia", "vera")


def test_ones_own_factor_is_not_reset_without_a_code(
    olivia: User, phone: Authenticator, settings: Settings
) -> None:
    client = through_both_steps(phone, settings)
    page = f"/admin/auth/user/{olivia.pk}/reset_second_factor/"
    assert sent_to(client.post(page, {"confirmed": "yes"})) == REMOVE
    assert second_factor.is_enrolled(olivia)


def test_the_list_of_operators_says_who_has_one(
    olivia: User, phone: Authenticator, settings: Settings
) -> None:
    client = through_both_steps(phone, settings)
    User.objects.create_user("vera", is_staff=True)
    found = client.get("/admin/auth/user/").context["cl"].queryset.order_by("username")
    assert [(each.username, each.second_factor_is_there) for each in found] == [
        ("olivia", True), ("vera", False),
    ]  # fmt: skip


# --- Before what is dangerous ----------------------------------------------------------------


def revoke_many(client: Client, cast: Cast, **proof: str) -> HttpResponse:
    chosen = [cast[name].pk for name in ("alice", "erik")]
    form = {"action": "revoke_many", "_selected_action": chosen, "confirmed": "yes"}
    return client.post(LIST, form | {f"proof-{name}": value for name, value in proof.items()})


def revoked() -> set[str]:
    rows = OAuthCredential.objects.filter(standing=Standing.REVOKED)
    return set(rows.values_list("user_id", flat=True)) & {"alice", "erik"}


def test_many_are_revoked_with_a_code_and_not_without(
    cast: Cast, olivia: User, phone: Authenticator, settings: Settings
) -> None:
    client = through_both_steps(phone, settings)
    let_pass(settings, 60)
    used = phone.code()
    assert second_factor.verify(operator=olivia, code=used, now=clock.now()).good
    for proof in ({}, {"code": used}, {"password": PASSWORD}):
        answer = revoke_many(client, cast, **proof)
        assert answer.status_code == 200
        assert 'autocomplete="one-time-code"' in text_of(answer)
        let_pass(settings, 2)
    assert "This code is not right, or was used already" in text_of(
        revoke_many(client, cast, code=used)
    )
    assert revoked() == set()
    let_pass(settings, 60)
    assert revoke_many(client, cast, code=phone.code()).status_code == 302
    assert revoked() == {"alice", "erik"}


def test_who_has_no_factor_is_asked_for_the_password_before_many_are_revoked(
    cast: Cast, olivia: User, settings: Settings
) -> None:
    client = signed_in()
    for proof in ({}, {"password": "wrong"}, {"code": "123456"}):
        answer = revoke_many(client, cast, **proof)
        assert answer.status_code == 200
        assert 'autocomplete="current-password"' in text_of(answer)
        assert PASSWORD not in text_of(answer)
    assert revoked() == set()
    let_pass(settings, 2)
    assert revoke_many(client, cast, password=PASSWORD).status_code == 302
    assert revoked() == {"alice", "erik"}


def test_a_password_is_not_guessed_at_a_question(
    cast: Cast, olivia: User, settings: Settings
) -> None:
    client = signed_in()
    for _ in range(4):
        revoke_many(client, cast, password="wrong")
        let_pass(settings, 9)
    revoke_many(client, cast, password="wrong")
    answer = revoke_many(client, cast, password=PASSWORD)
    assert "Try again in 16 seconds" in text_of(answer)
    assert revoked() == set()
    refused = AuditEvent.objects.filter(action="prove_password", outcome="refused")
    assert refused.count() == 5


# --- A password that somebody else knows -----------------------------------------------------


def change(client: Client, old: str, new: str) -> HttpResponse:
    form = {"old_password": old, "new_password1": new, "new_password2": new}
    return client.post(f"{PASSWORD_PAGE}?next=/admin/tokens/tenant/", form)


@pytest.fixture
def data_dir(settings: Settings, tmp_path: Path) -> Path:
    settings.OAUTHVAULT_DATA_DIR = tmp_path
    return tmp_path


@pytest.fixture
def first(db: None, data_dir: Path) -> str:
    """The password that a first start has left for the first operator."""
    roles.create_operator(
        name="admin", password=PASSWORD, role=None, must_change_password=True, actor="first start",
        now=clock.now(),
    )  # fmt: skip
    first_password.leave(PASSWORD)
    return PASSWORD


def test_a_generated_password_is_changed_before_anything_is_shown_and_its_file_goes(
    first: str, data_dir: Path
) -> None:
    client = signed_in("admin", first)
    for page in ("/admin/", "/admin/tokens/oauthcredential/", ACCOUNT, ENROL):
        assert sent_to(client.get(page)) == PASSWORD_PAGE, page
    assert "Choose a password of your own first." in text_of(client.get(PASSWORD_PAGE))
    assert "This is the old password" in text_of(change(client, first, first))
    assert (data_dir / first_password.FILE).exists()
    assert change(client, first, ANOTHER)["Location"] == "/admin/tokens/tenant/"
    assert is_in(client)
    assert not (data_dir / first_password.FILE).exists()
    assert done("set_password") == ["operator admin"]


def test_a_file_that_cannot_be_deleted_is_named(first: str, data_dir: Path) -> None:
    client = signed_in("admin", first)
    (data_dir / first_password.FILE).unlink()
    (data_dir / first_password.FILE).mkdir()
    try:
        change(client, first, ANOTHER)
        assert "The first password is still in the file admin-password" in text_of(
            client.get("/admin/")
        )
    finally:
        (data_dir / first_password.FILE).rmdir()


def test_a_file_that_says_something_else_is_left_alone(first: str, data_dir: Path) -> None:
    """It is of another vault, or another operator's."""
    (data_dir / first_password.FILE).write_text("something else\n")
    assert change(signed_in("admin", first), first, ANOTHER).status_code == 302
    assert (data_dir / first_password.FILE).exists()


def test_a_password_that_an_administrator_has_set_is_changed_and_ones_own_is_not(
    olivia: User,
) -> None:
    client = signed_in()
    vera = User.objects.create_user("vera", password=PASSWORD, is_staff=True, is_superuser=True)
    assert is_in(signed_in("vera"))
    form = {"password1": ANOTHER, "password2": ANOTHER, "usable_password": "true"}
    assert client.post(f"/admin/auth/user/{vera.pk}/password/", form).status_code == 302
    assert sent_to(signed_in("vera", ANOTHER).get("/admin/")) == PASSWORD_PAGE
    assert change(client, PASSWORD, ANOTHER).status_code == 302
    assert is_in(signed_in("olivia", ANOTHER))


def test_a_superuser_changes_their_own_password_with_the_old_one_only(olivia: User) -> None:
    """On the operators' page as well, or whoever finds their session open would have the account,
    and could set up a factor for it."""
    client = signed_in()
    form = {"password1": ANOTHER, "password2": ANOTHER, "usable_password": "true"}
    for number in (f"{olivia.pk}", f"0{olivia.pk}", f"_{ord(str(olivia.pk)[0]):02X}"):
        client.post(f"/admin/auth/user/{number}/password/", form)
        olivia.refresh_from_db()
        assert olivia.check_password(PASSWORD), number
    answer = client.get(f"/admin/auth/user/{olivia.pk}/password/")
    assert sent_to(answer) == PASSWORD_PAGE


@pytest.mark.parametrize("undone", [{"is_active": False}, {"password": "of somebody else"}])
def test_who_was_sent_away_in_that_moment_sets_no_password(
    olivia: User, monkeypatch: pytest.MonkeyPatch, undone: dict[str, object]
) -> None:
    """Between the proof and the change lie two slow hashes."""
    client = signed_in()
    at_the_moment(
        monkeypatch, accounts, "prove_password",
        lambda: User.objects.filter(pk=olivia.pk).update(**undone),
    )  # fmt: skip
    assert "was changed in this moment" in text_of(change(client, PASSWORD, ANOTHER))
    assert User.objects.filter(pk=olivia.pk, **undone).exists()
    assert done("set_password") == []
    olivia.refresh_from_db()
    assert not olivia.check_password(ANOTHER)


def test_a_change_of_password_gives_no_right_back(
    olivia: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = signed_in()
    at_the_moment(
        monkeypatch, accounts, "prove_password",
        lambda: User.objects.filter(pk=olivia.pk).update(is_superuser=False),
    )  # fmt: skip
    assert change(client, PASSWORD, ANOTHER).status_code == 302
    olivia.refresh_from_db()
    assert olivia.check_password(ANOTHER)
    assert not olivia.is_superuser


def test_what_an_administrator_does_to_an_account_undoes_nothing_of_anothers(
    olivia: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One sets a password, or a name, while another deactivates the operator."""
    vera = User.objects.create_user("vera", password=PASSWORD, is_staff=True)
    client = signed_in()

    def deactivate() -> None:
        User.objects.filter(pk=vera.pk).update(is_active=False)

    at_the_moment(monkeypatch, password_validation, "validate_password", deactivate)
    form = {"password1": ANOTHER, "password2": ANOTHER, "usable_password": "true"}
    assert client.post(f"/admin/auth/user/{vera.pk}/password/", form).status_code == 302
    vera.refresh_from_db()
    assert vera.check_password(ANOTHER)
    assert not vera.is_active
    User.objects.filter(pk=vera.pk).update(is_active=True)
    at_the_moment(monkeypatch, OperatorForm, "clean", deactivate)
    form = {"username": "vera", "first_name": "Vera", "is_staff": "on", "is_active": "on",
            "date_joined_0": "2026-01-01", "date_joined_1": "00:00:00"}  # fmt: skip
    assert client.post(f"/admin/auth/user/{vera.pk}/change/", form).status_code == 302
    vera.refresh_from_db()
    assert vera.first_name == "Vera"
    assert not vera.is_active


def test_a_new_account_changes_the_password_that_it_was_made_with(olivia: User) -> None:
    form = {"username": "vera", "password1": ANOTHER, "password2": ANOTHER,
            "usable_password": "true"}  # fmt: skip
    assert signed_in().post("/admin/auth/user/add/", form).status_code == 302
    assert sent_to(signed_in("vera", ANOTHER).get("/admin/")) == PASSWORD_PAGE


def test_the_old_password_is_not_guessed_by_whoever_found_an_open_session(olivia: User) -> None:
    client = signed_in()
    assert change(client, "guess", ANOTHER).status_code == 200
    refused = change(client, PASSWORD, ANOTHER)
    assert refused.status_code == 429
    assert refused["Retry-After"] == "1"
    assert "Try again in 1 seconds" in text_of(refused)
    assert is_in(signed_in())


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


# --- For a screen reader and a password manager ----------------------------------------------


@pytest.mark.parametrize(
    ("page", "fields"),
    [
        (LOGIN, {"username": "username", "password": "current-password"}),
        (PASSWORD_PAGE, {"old_password": "current-password", "new_password1": "new-password",
                         "new_password2": "new-password"}),
        (ENROL, {"proof-password": "current-password"}),
    ],
)  # fmt: skip
def test_fields_say_what_they_are_for_and_where_their_errors_stand(
    olivia: User, page: str, fields: dict[str, str]
) -> None:
    client = Client() if page == LOGIN else signed_in()
    shown = text_of(client.post(page, {"step": "begin"} | dict.fromkeys(fields, "")))
    for name, purpose in fields.items():
        field = re.search(rf'<input[^>]*name="{name}"[^>]*>', shown)
        assert field is not None
        assert f'autocomplete="{purpose}"' in field[0]
        identity = re.search(r' id="([^"]+)"', field[0])
        assert identity is not None
        assert f'<label for="{identity[1]}"' in shown
        described = re.search(r'aria-describedby="([^"]+)"', field[0])
        assert 'aria-invalid="true"' in field[0]
        assert described is not None
        for each in described[1].split():
            assert f'id="{each}"' in shown


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
