"""An operator's password: changed where somebody else knows it, by its owner alone, and nothing
else with it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth import password_validation
from django.contrib.auth.models import User
from pytest_django import Settings

from oauthvault import first_password
from tests.admin.browser import PASSWORD
from tests.admin.signing_in import (
    ACCOUNT,
    ANOTHER,
    ENROL,
    PASSWORD_PAGE,
    change,
    done,
    is_in,
    sent_to,
    signed_in,
    text_of,
)
from tokens import accounts, clock, roles
from tokens.admin.operators import OperatorForm

pytestmark = pytest.mark.django_db


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
