"""A real browser for the tests of the dashboard: signing in, listening, taking pictures.

The fixtures `browser` and `page` are in conftest.py. One Chromium serves the tests of a module;
each test has a context of its own in it, with cookies and storage of its own.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from django.conf import settings
from django.contrib.auth.models import User
from django.test import Client
from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Page,
    Request,
    Response,
    ViewportSize,
    expect,
    sync_playwright,
)

from tests.servers import find_chromium

DESKTOP: ViewportSize = {"width": 1440, "height": 900}
PHONE: ViewportSize = {"width": 390, "height": 844}
PASSWORD = "correct horse"
# Where pictures are kept: in CI, and where TEST_SCREENSHOTS says so (any value).
PICTURES = Path(__file__).resolve().parents[2] / "artefacts" / "screenshots"
_KEEPS_PICTURES = os.environ.get("CI") == "true" or "TEST_SCREENSHOTS" in os.environ
_QUIET = (
    "--no-sandbox", "--disable-gpu", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--no-first-run",
)  # fmt: skip
_ASYNC_UNSAFE = "DJANGO_ALLOW_ASYNC_UNSAFE"


@contextmanager
def chromium() -> Iterator[Browser]:
    """Chromium, for the length of the block; the test is skipped where there is none, and fails
    in CI.

    Playwright's loop runs in this thread, between its calls. Django would refuse to query from a
    thread with a loop in it; nothing of ours runs in the loop, so it may.
    """
    executable = find_chromium()
    if executable is None:
        sentence = "NOT TESTED: the dashboard in a browser; no Chromium was found"
        if os.environ.get("CI") == "true":
            pytest.fail(sentence)
        pytest.skip(sentence)
    before = os.environ.get(_ASYNC_UNSAFE)
    os.environ[_ASYNC_UNSAFE] = "true"
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=str(executable), args=list(_QUIET))
            yield browser
            browser.close()
    finally:
        if before is None:
            del os.environ[_ASYNC_UNSAFE]
        else:
            os.environ[_ASYNC_UNSAFE] = before


def sign_in(page: Page, address: str, *, name: str = "olivia", password: str = PASSWORD) -> None:
    """By the form, as a person does; ends on the home page."""
    page.goto(f"{address}/admin/")
    page.get_by_label("Username").fill(name)
    page.get_by_label("Password").fill(password)
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("heading", name="Home", level=1)).to_be_visible()


def enter(context: BrowserContext, address: str, user: User) -> None:
    """Signed in without the form: what is tested begins behind it."""
    client = Client()
    client.force_login(user)
    context.add_cookies(
        [
            {
                "name": settings.SESSION_COOKIE_NAME,
                "value": client.cookies[settings.SESSION_COOKIE_NAME].value,
                "domain": str(urlsplit(address).hostname),
                "path": "/",
                "httpOnly": True,
            }
        ]
    )


def picture(page: Page, name: str) -> None:
    """The whole page as `artefacts/screenshots/NAME.png`, where pictures are kept."""
    if not _KEEPS_PICTURES:
        return
    PICTURES.mkdir(parents=True, exist_ok=True)
    settle(page)
    window = page.viewport_size
    assert window is not None
    # As high as the page: bars that stick to the edge of a window would lie across it.
    height = page.evaluate("document.documentElement.scrollHeight")
    page.set_viewport_size({"width": window["width"], "height": max(height, window["height"])})
    page.screenshot(path=PICTURES / f"{name}.png", full_page=True, animations="disabled")
    page.set_viewport_size(window)


def settle(page: Page) -> None:
    """Until the page is what a person looks at: loaded, with its letters and icons."""
    page.wait_for_load_state("load")
    page.evaluate("() => document.fonts.ready.then(() => true)")


def listen(page: Page, address: str) -> list[str]:
    """What goes wrong on the page, or is asked of another host, as it happens."""
    complaints: list[str] = []

    def on_request(request: Request) -> None:
        if not request.url.startswith((address, "data:")):
            complaints.append(f"asked {request.url}")

    def on_response(response: Response) -> None:
        if response.status >= 400:
            complaints.append(f"{response.status} {response.url}")

    def on_console(message: ConsoleMessage) -> None:
        # What the Content-Security-Policy forbids, the browser says here.
        if message.type == "error" and "Failed to load resource" not in message.text:
            complaints.append(message.text)

    page.on("console", on_console)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", on_request)
    page.on("response", on_response)
    return complaints
