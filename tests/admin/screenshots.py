"""`make screenshots`: the pictures that docs/operations.md shows, taken from the dashboard.

Not one of the tests, though it is run by pytest, whose database and server it uses. The vault
is alone in it, with the people of `night`; nothing is refreshed meanwhile.
"""

import re
from pathlib import Path

import pytest
from django.contrib.auth.models import User
from playwright.sync_api import Browser, FloatRect, Page, ViewportSize, expect
from pytest_django import Settings
from pytest_django.live_server_helper import LiveServer

from tests.admin import night
from tests.admin.browser import PHONE, enter, settle
from tokens import clock

PICTURES = Path(__file__).resolve().parents[2] / "docs" / "screenshots"
_DESK: ViewportSize = {"width": 1280, "height": 720}
_WIDE_DESK: ViewportSize = {"width": 1440, "height": 720}
# Bytes, and how many pictures.
_LARGEST, _MOST = 150 * 1024, 10


@pytest.mark.django_db(transaction=True)
@pytest.mark.timeout(300)
def test_take_the_pictures(
    olivia: User, live_server: LiveServer, browser: Browser, settings: Settings
) -> None:
    settings.CLOCK_OFFSET = night.NOW - clock.now()
    scene = night.fall()
    PICTURES.mkdir(exist_ok=True)
    for old in PICTURES.glob("*.png"):
        old.unlink()
    at_the_desk(browser, live_server.url, olivia, scene)
    on_the_phone(browser, live_server.url, olivia)
    taken = sorted(PICTURES.glob("*.png"))
    assert 0 < len(taken) <= _MOST


def at_the_desk(browser: Browser, address: str, operator: User, scene: night.Night) -> None:
    context = browser.new_context(
        viewport=_DESK,
        timezone_id="Europe/Berlin",
        color_scheme="light",
        reduced_motion="reduce",
    )
    enter(context, address, operator)
    page = context.new_page()
    page.goto(f"{address}/admin/")
    take(page, "home")
    page.emulate_media(color_scheme="dark")
    page.wait_for_selector("html.dark")
    take(page, "home-dark")
    page.emulate_media(color_scheme="light")
    page.get_by_role("link", name="bob", exact=True).click()
    expect(page.get_by_role("region", name="Timeline")).to_be_visible()
    take(page, "one-credential")
    take(page, "timeline", only="section[aria-labelledby=timeline]")
    page.get_by_role("link", name=re.compile("Revoke$")).click()
    expect(page.get_by_role("heading", name="Cut this person off?")).to_be_visible()
    take(page, "revoke")
    page.set_viewport_size(_WIDE_DESK)
    page.goto(f"{address}/admin/tokens/oauthcredential/")
    take(page, "credentials")
    page.goto(f"{address}/admin/tokens/oauthcredential/?status=cannot_work")
    take(page, "cannot-work")
    page.goto(f"{address}/admin/tokens/auditevent/")
    take(page, "audit-trail")
    page.set_viewport_size(_DESK)
    make_a_key(page, address, scene)
    take(page, "new-key")
    context.close()


def on_the_phone(browser: Browser, address: str, operator: User) -> None:
    context = browser.new_context(
        viewport=PHONE,
        timezone_id="Europe/Berlin",
        color_scheme="dark",
    )
    enter(context, address, operator)
    page = context.new_page()
    page.goto(f"{address}/admin/")
    take(page, "home-phone")
    context.close()


def make_a_key(page: Page, address: str, scene: night.Night) -> None:
    page.goto(f"{address}/admin/api/apikey/add/")
    page.get_by_label("Tenant").select_option(label=scene.acme.slug)
    page.get_by_role("button", name="Make the key").click()
    key = page.locator("#new-key")
    expect(key).to_have_text(re.compile("^ovs_"))
    # It would open nothing any more, and is no picture for a page that everybody reads.
    key.evaluate("(code) => { code.textContent = 'ovs_' + '•'.repeat(43); }")


def take(page: Page, name: str, *, only: str = "") -> None:
    """What the window shows, without the empty space below it; ``only``: this part of the page."""
    settle(page)
    window = page.viewport_size
    assert window is not None
    box = page.locator(only or "#content").first.bounding_box()
    assert box is not None
    clip: FloatRect = (
        {"x": box["x"], "y": box["y"], "width": box["width"], "height": min(box["height"], 620)}
        if only
        else {"x": 0, "y": 0, "width": window["width"],
              "height": min(box["y"] + box["height"] + 24, window["height"])}
    )  # fmt: skip
    picture = _shot(page, clip, only)
    while len(picture) > _LARGEST:
        clip["height"] *= 0.9
        picture = _shot(page, clip, only)
    (PICTURES / f"{name}.png").write_bytes(picture)
    print(f"docs/screenshots/{name}.png: {len(picture) // 1024} KiB")


def _shot(page: Page, clip: FloatRect, only: str) -> bytes:
    return page.screenshot(
        clip=clip,
        full_page=bool(only),
        animations="disabled",
        caret="hide",
    )
