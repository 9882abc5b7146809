"""The Content-Security-Policy in a real browser: every page works under it, and no page runs a
script that somebody wrote into it."""

import pytest
from django.contrib.auth.models import User
from playwright.sync_api import Page, expect
from pytest_django.live_server_helper import LiveServer

from tests.admin.conftest import Cast
from tests.admin.test_journey import chromium, listen, sign_in
from tests.admin.test_permissions import addresses

pytestmark = [pytest.mark.system, pytest.mark.django_db(transaction=True)]


@pytest.fixture
def operator(db: None) -> User:
    return User.objects.create_superuser("olivia", password="correct horse")


def test_every_page_works_under_its_policy(
    operator: User, cast: Cast, live_server: LiveServer
) -> None:
    """Each is loaded, with what unfolds on it, and the browser complains of nothing."""
    pages = [
        page
        for page in addresses(cast)
        # One person's page is like another's.
        if not page.endswith("/change/") or f"/{cast['alice'].pk}/" in page
    ]
    pages += ["/admin/auth/user/", "/admin/auth/user/add/", "/admin/password_change/"]
    pages += [f"/admin/account/{what}" for what in ("", "second_factor/", "sign_out_everywhere/")]
    pages += [f"/admin/auth/user/{operator.pk}/{what}/" for what in ("change", "password")]
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        complaints = listen(page, live_server.url)
        sign_in(page, live_server.url)
        for address in dict.fromkeys(pages):
            if address.startswith("/admin/search/"):
                continue  # A part of a page, which the next lines ask for as a person does.
            page.goto(live_server.url + address, wait_until="networkidle")
            assert complaints == [], address
        page.goto(f"{live_server.url}/admin/", wait_until="networkidle")
        page.keyboard.press("Control+k")
        page.keyboard.type("alice")
        page.wait_for_load_state("networkidle")
        page.goto(f"{live_server.url}/api/docs", wait_until="networkidle")
        expect(page.get_by_text("/auth/claude/token/identify")).to_be_visible()
        page.get_by_text("/auth/claude/status").first.click()
        expect(page.get_by_role("button", name="Try it out")).to_be_visible()
        assert complaints == []


@pytest.mark.parametrize("address", ["/admin/", "/admin/login/", "/api/docs"])
def test_a_script_that_was_smuggled_into_a_page_does_not_run(
    operator: User, cast: Cast, live_server: LiveServer, address: str
) -> None:
    with chromium() as browser:
        page = browser.new_page()
        if address == "/admin/":
            sign_in(page, live_server.url)
        page.goto(live_server.url + address, wait_until="networkidle")
        for smuggled in (
            "const s = document.createElement('script'); s.textContent = 'window.ran = 1';"
            "document.body.append(s)",
            "const d = document.createElement('div'); d.setAttribute('onclick', 'window.ran = 2');"
            "document.body.append(d); d.click()",
            "const i = document.createElement('iframe'); i.src = 'javascript:parent.ran = 3';"
            "document.body.append(i)",
        ):
            page.evaluate(f"() => {{ {smuggled} }}")
        page.wait_for_load_state("networkidle")
        assert page.evaluate("window.ran") is None
        assert refused_to_load(page, "http://127.0.0.2:9/elsewhere.js")


def refused_to_load(page: Page, address: str) -> bool:
    """Whether the browser asks no other host for a script, an image or an answer."""
    return bool(
        page.evaluate(
            """async (address) => {
                const refused = [];
                document.addEventListener("securitypolicyviolation", (event) => {
                    refused.push(event.effectiveDirective);
                });
                const script = document.createElement("script");
                script.src = address;
                document.body.append(script);
                const image = new Image();
                image.src = address;
                await fetch(address).catch(() => null);
                await new Promise((done) => setTimeout(done, 0));
                return ["script-src-elem", "img-src", "connect-src"].every(
                    (directive) => refused.includes(directive));
            }""",
            address,
        )
    )
