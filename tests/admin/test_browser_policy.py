"""The Content-Security-Policy in a real browser: every page works under it, and no page runs a
script that somebody wrote into it."""

import re

import pytest
from django.contrib.auth.models import User
from playwright.sync_api import Page, expect
from pytest_django.live_server_helper import LiveServer

from tests.admin.browser import enter, listen
from tests.admin.conftest import Cast

pytestmark = [pytest.mark.system, pytest.mark.django_db(transaction=True)]


def test_what_is_searched_and_unfolded_works_under_the_policy(
    olivia: User, cast: Cast, live_server: LiveServer, page: Page
) -> None:
    """The browser complains of nothing. test_for_everybody.py has the pages themselves."""
    complaints = listen(page, live_server.url)
    enter(page.context, live_server.url, olivia)
    page.goto(f"{live_server.url}/admin/", wait_until="networkidle")
    page.keyboard.press("Control+k")
    with page.expect_response(re.compile("/admin/search/")):
        page.keyboard.type("cred")
    page.goto(f"{live_server.url}/api/docs", wait_until="networkidle")
    expect(page.get_by_text("/auth/claude/token/identify")).to_be_visible()
    page.get_by_text("/auth/claude/status").first.click()
    expect(page.get_by_role("button", name="Try it out")).to_be_visible()
    assert complaints == []


@pytest.mark.parametrize("address", ["/admin/", "/admin/login/", "/api/docs"])
def test_a_script_that_was_smuggled_into_a_page_does_not_run(
    olivia: User, cast: Cast, live_server: LiveServer, page: Page, address: str
) -> None:
    if address == "/admin/":
        enter(page.context, live_server.url, olivia)
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
