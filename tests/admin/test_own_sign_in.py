"""Between the password and the dashboard: the second step, and a factor to set up; and what is
asked again before what is dangerous."""

import json
import re
from collections.abc import Callable

import pytest
from django.contrib.auth.models import User
from django.http import HttpResponse
from django.test import Client
from pytest_django import Settings

from api import throttle
from tests.admin.authenticator import Authenticator, enrolled, let_pass
from tests.admin.browser import PASSWORD
from tests.admin.conftest import Cast
from tests.admin.signing_in import (
    ACCOUNT,
    ENROL,
    EVERYWHERE,
    LOGIN,
    NEW_CODES,
    PASSWORD_PAGE,
    REMOVE,
    SECOND_STEP,
    done,
    is_in,
    sent_to,
    signed_in,
    text_of,
    through_both_steps,
)
from tests.admin.test_permissions import LIST, addresses
from tokens import clock, roles, second_factor
from tokens.models import AuditEvent, OAuthCredential, SecondFactor, Standing, Tenant
from tokens.models.account import MOST_FAILURES_COUNTED
from tokens.roles import Role

pytestmark = pytest.mark.django_db
Staff = Callable[..., Client]


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
