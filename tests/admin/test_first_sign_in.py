"""The first operator's first hour, in a real browser: password, second factor, and back in."""

import re
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from django.core.management import call_command
from playwright.sync_api import Page, expect
from pytest_django import Settings
from pytest_django.live_server_helper import LiveServer

from oauthvault import first_password
from tests.admin.authenticator import Authenticator
from tests.admin.browser import chromium, listen, picture
from tokens.models import AuditEvent

pytestmark = [pytest.mark.system, pytest.mark.django_db(transaction=True)]

OWN = "a password of my own"


@pytest.fixture
def first(settings: Settings, tmp_path: Path, db: None) -> str:
    """What a first start leaves in the file."""
    settings.OAUTHVAULT_ADMIN_PASSWORD = None
    settings.OAUTHVAULT_ADMIN_SECOND_FACTOR = "required"
    settings.OAUTHVAULT_DATA_DIR = tmp_path
    call_command("init", quiet=True)
    return (tmp_path / first_password.FILE).read_text().strip()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_first_operator_changes_the_password_sets_up_a_factor_and_signs_in_with_it(
    first: str, tmp_path: Path, live_server: LiveServer, scheme: str
) -> None:
    """With a phone's width where it is dark."""
    with chromium() as browser:
        width = 1280 if scheme == "light" else 390
        context = browser.new_context(
            color_scheme=scheme,  # type: ignore[arg-type]
            viewport={"width": width, "height": 860},
        )
        page = context.new_page()
        complaints = listen(page, live_server.url)
        page.goto(f"{live_server.url}/admin/tokens/tenant/")
        with_password(page, first)
        own_password(page, first, scheme)
        phone, codes = set_up(page, scheme)
        page.get_by_role("link", name="I have kept them").click()
        expect(page).to_have_url(re.compile("/admin/tokens/tenant/$"))
        page.goto(f"{live_server.url}/admin/account/sign_out_everywhere/")
        page.get_by_role("button", name="Sign out everywhere").click()
        with_password(page, OWN)
        second_step(page, phone.wrong_code(), scheme)
        expect(page.get_by_role("alert")).to_contain_text("This code is not right")
        second_step(page, codes[0], scheme)
        expect(page.get_by_text("9 are left")).to_be_visible()
        page.goto(f"{live_server.url}/admin/account/")
        expect(page.get_by_text("You sign in with a password and a second factor.")).to_be_visible()
        looked_at(page, f"account-{scheme}")
        context.close()
    assert complaints == []
    assert not (tmp_path / first_password.FILE).exists()
    acts = AuditEvent.objects.filter(actor="operator admin", outcome="done").order_by("pk")
    assert list(acts.values_list("action", flat=True)) == [
        "sign_in", "set_password", "enrol_second_factor", "end_sessions", "end_sessions",
        "use_recovery_code", "sign_in",
    ]  # fmt: skip


def looked_at(page: Page, name: str) -> None:
    """A picture, and what a screen reader would stumble over."""
    picture(page, name)
    violations = Axe().run(page).response["violations"]
    grave = {
        each["id"]: [node["html"] for node in each["nodes"]]
        for each in violations
        if each["impact"] in ("serious", "critical")
    }
    assert grave == {}, name


def with_password(page: Page, password: str) -> None:
    page.get_by_label("Username").fill("admin")
    page.get_by_label("Password").fill(password)
    page.get_by_role("button", name="Log in").click()


def own_password(page: Page, old: str, scheme: str) -> None:
    expect(page.get_by_role("heading", name="Choose a password of your own first.")).to_be_visible()
    page.get_by_label("Old password").fill(old)
    page.get_by_label("New password", exact=True).fill(OWN)
    page.get_by_label("New password confirmation").fill("something else")
    page.get_by_role("button", name="Change password").click()
    expect(page.get_by_role("alert")).to_be_visible()
    looked_at(page, f"first-password-{scheme}")
    page.get_by_label("Old password").fill(old)
    page.get_by_label("New password", exact=True).fill(OWN)
    page.get_by_label("New password confirmation").fill(OWN)
    page.get_by_role("button", name="Change password").click()


def set_up(page: Page, scheme: str) -> tuple[Authenticator, list[str]]:
    expect(page.get_by_text("It is required here.")).to_be_visible()
    looked_at(page, f"second-factor-begin-{scheme}")
    page.get_by_label("Your password").fill(OWN)
    page.get_by_role("button", name="Show the QR code").click()
    expect(page.locator(".ov-qr svg")).to_be_visible()
    looked_at(page, f"second-factor-scan-{scheme}")
    phone = Authenticator(page.locator("#totp-secret").inner_text())
    page.get_by_role("textbox", name="Code").fill(phone.code())
    page.keyboard.press("Enter")
    expect(page.locator("#recovery-codes code")).to_have_count(10)
    looked_at(page, f"recovery-codes-{scheme}")
    return phone, page.locator("#recovery-codes code").all_inner_texts()


def second_step(page: Page, code: str, scheme: str) -> None:
    expect(page.get_by_role("textbox", name="Code")).to_have_attribute("autofocus", "")
    looked_at(page, f"second-step-{scheme}")
    page.get_by_role("textbox", name="Code").fill(code)
    page.keyboard.press("Enter")
