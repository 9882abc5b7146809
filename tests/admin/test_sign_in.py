"""Guessing passwords is slowed and written down, and locks nobody out."""

import json

import pytest
from django.contrib.auth.models import User
from django.http import HttpResponse
from django.test import Client

from api import throttle
from tokens.models import AuditEvent

LOGIN = "/admin/login/"
PASSWORD, WRONG = "correct-horse-battery", "canary-wrong-password"
MALLORY, ELSEWHERE = "198.51.100.66", "203.0.113.9"


@pytest.fixture
def alice(db: None) -> User:
    return User.objects.create_superuser("alice", password=PASSWORD)


def try_to_sign_in(
    password: str = WRONG, *, name: str = "alice", address: str = MALLORY
) -> HttpResponse:
    return Client().post(LOGIN, {"username": name, "password": password}, REMOTE_ADDR=address)


def written() -> list[AuditEvent]:
    return list(AuditEvent.objects.filter(action="sign_in").order_by("pk"))


@pytest.fixture
def slowed(alice: User) -> None:
    for _ in range(throttle.MOST_SIGN_INS):
        assert try_to_sign_in().status_code == 200


@pytest.mark.usefixtures("slowed")
def test_after_many_failures_an_address_waits_and_nobody_elsewhere_does() -> None:
    for name, password in (("alice", WRONG), ("nobody", WRONG), ("alice", PASSWORD)):
        refused = try_to_sign_in(password, name=name)
        assert refused.status_code == 429
        assert int(refused["Retry-After"]) > 0
        assert f"try again in {refused['Retry-After']} seconds" in refused.content.decode()
        assert "no-store" in refused["Cache-Control"]
        assert "sessionid" not in refused.cookies
    assert try_to_sign_in(address=ELSEWHERE).status_code == 200
    assert try_to_sign_in(PASSWORD, address=ELSEWHERE).status_code == 302


@pytest.mark.usefixtures("slowed")
def test_whoever_is_slowed_still_sees_the_form_and_an_open_session_goes_on(alice: User) -> None:
    assert Client().get(LOGIN, REMOTE_ADDR=MALLORY).status_code == 200
    client = Client()
    client.force_login(alice)
    assert client.get("/admin/", REMOTE_ADDR=MALLORY).status_code == 200


def test_a_failed_sign_in_is_written_down_without_the_password(alice: User) -> None:
    assert try_to_sign_in().status_code == 200
    (event,) = written()
    assert (event.outcome, event.address, event.tenant) == ("refused", MALLORY, None)
    assert event.detail == {"tried": "alice"}
    assert WRONG not in json.dumps(event.detail) + event.actor + event.subject


def test_what_was_typed_as_a_name_is_written_down_only_if_it_is_one(alice: User) -> None:
    """It happens that people type their password there."""
    try_to_sign_in("", name=PASSWORD)
    try_to_sign_in("x", name=PASSWORD)
    (event,) = written()
    assert event.detail == {"tried": "a name that nobody has"}


def test_a_good_password_of_somebody_who_may_not_enter_is_a_failure_too(db: None) -> None:
    User.objects.create_user("bob", password=PASSWORD)
    assert try_to_sign_in(PASSWORD, name="bob").status_code == 200
    assert [event.detail for event in written()] == [{"tried": "bob"}]


def test_who_signs_in_counts_for_nothing(alice: User) -> None:
    for _ in range(throttle.MOST_SIGN_INS + 1):
        assert try_to_sign_in(PASSWORD).status_code == 302
    assert {event.outcome for event in written()} == {"done"}


def test_who_signs_in_and_who_sets_a_password_is_written_down(alice: User) -> None:
    client = Client()
    client.post(LOGIN, {"username": "alice", "password": PASSWORD}, REMOTE_ADDR=ELSEWHERE)
    new = "canary-another-password"
    sent = {"old_password": PASSWORD, "new_password1": new, "new_password2": new}
    client.post("/admin/password_change/", {**sent, "new_password2": "x"})
    client.post("/admin/password_change/", sent)
    alice.refresh_from_db()
    assert alice.check_password(new)
    events = AuditEvent.objects.order_by("pk")
    assert [(e.action, e.outcome, e.actor, e.subject) for e in events] == [
        ("sign_in", "done", "operator alice", ""),
        ("set_password", "done", "operator alice", "alice"),
    ]
    assert events[0].address == ELSEWHERE
    assert "canary" not in str(list(events.values()))


def test_nobody_reaches_the_page_of_passwords_without_signing_in(db: None) -> None:
    answer = Client().get("/admin/password_change/")
    assert answer.status_code == 302
    assert answer["Location"].startswith(LOGIN)


@pytest.mark.usefixtures("slowed")
def test_what_is_refused_while_slowed_is_not_written_down() -> None:
    for _ in range(3):
        assert try_to_sign_in().status_code == 429
    assert len(written()) == throttle.MOST_SIGN_INS


def test_a_flood_from_many_addresses_does_not_fill_the_trail(
    alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(throttle, "MOST_SIGN_INS_WRITTEN", 5)
    for number in range(8):
        assert try_to_sign_in(address=f"198.51.100.{number}").status_code == 200
    assert len(written()) == 5


@pytest.mark.usefixtures("slowed")
def test_failed_sign_ins_slow_no_key_and_failed_keys_no_sign_in(alice: User) -> None:
    headers = {"Authorization": "Bearer ovs_" + "x" * 43}
    for number in range(throttle.MOST_FROM_ADDRESS + 1):
        answer = Client().get("/auth/claude/status", headers=headers, REMOTE_ADDR=ELSEWHERE)
        assert answer.status_code == (429 if number == throttle.MOST_FROM_ADDRESS else 401)
    assert try_to_sign_in(PASSWORD, address=ELSEWHERE).status_code == 302
    answer = Client().get("/auth/claude/status", headers=headers, REMOTE_ADDR=MALLORY)
    assert answer.status_code == 401


def test_who_signs_out_is_told_so_in_words_of_ours(alice: User) -> None:
    client = Client()
    client.force_login(alice)
    page = client.post("/admin/logout/").content.decode()
    assert "You are signed out" in page
    assert "quality time" not in page
    assert client.get("/admin/").status_code == 302
