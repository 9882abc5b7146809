"""The dashboard for everybody: by keyboard, by ear, in the dark, on a phone, on paper, in any
time zone. Every page that has an address is looked at."""

import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from django.contrib.auth.models import Permission, User
from django.test import Client
from playwright.sync_api import Browser, Page, expect
from pytest_django.live_server_helper import LiveServer

from tests.admin.browser import DESKTOP, PASSWORD, PHONE, enter, listen, picture
from tests.admin.conftest import Cast, Plant
from tests.admin.test_every_page import every_address, read
from tests.admin.test_roles import EVERY_RIGHT
from tokens import roles
from tokens.admin.times import exact
from tokens.models import OAuthCredential, Tenant

pytestmark = [pytest.mark.system, pytest.mark.django_db(transaction=True)]

LIST = "/admin/tokens/oauthcredential/"
# Rows of a list beyond these are like those above them.
_AXE = """(options) => axe.run(
    { exclude: [["#result_list tbody:nth-of-type(n+13)"]] },
    { resultTypes: ["violations"], preload: false, ...options },
).then((found) => found.violations.flatMap((violation) => violation.nodes.map(
    (node) => `${violation.impact} ${violation.id}: ${node.html.slice(0, 200)}`)))"""
_CONTRAST = {"runOnly": {"type": "rule", "values": ["color-contrast"]}}
# In the frame after the next, when scripts that follow the window have had their turn.
_AFTER_ALL = """() => new Promise((tell) =>
    requestAnimationFrame(() => requestAnimationFrame(() => tell())))"""
_TOO_WIDE = "document.documentElement.scrollWidth > document.documentElement.clientWidth"
_CUT_OFF = """() => [...document.querySelectorAll("#result_list :is(td, th)")].some((cell) =>
    cell.checkVisibility() && cell.scrollHeight > cell.clientHeight + 1)"""


@pytest.fixture
def addresses(olivia: User, cast: Cast) -> list[str]:
    """Every address below /admin/. Those of the cast who are like another are not needed."""
    alike = [f"user-{number:02}" for number in range(17)]
    OAuthCredential.objects.filter(user_id__in=alike).delete()
    return every_address(cast)


@pytest.fixture
def gunnar(cast: Cast) -> User:
    """Who looks after acme alone, with every right there."""
    user = User.objects.create_user("gunnar", password=PASSWORD, is_staff=True)
    for right in EVERY_RIGHT:
        app, codename = right.split(".")
        user.user_permissions.add(
            Permission.objects.get(content_type__app_label=app, codename=codename)
        )
    roles.assign(operator=user, tenant=cast.acme, actor="test", now=time.time())
    return user


def shown(user: User, addresses: list[str]) -> Iterator[str]:
    """Those of the addresses that are whole pages for this operator, each once; one refusal of
    a kind."""
    client, seen = Client(raise_request_exception=False), set()
    client.force_login(user)
    for address in addresses:
        if address in ("/admin/logout/", "/admin/login/"):
            continue
        answer: Any = client.get(address, follow=True)
        place = answer.request["PATH_INFO"] if answer.status_code == 200 else answer.status_code
        is_page = answer["Content-Type"].startswith("text/html") and "<html" in read(answer)
        if is_page and place not in seen:
            seen.add(place)
            yield address


@pytest.mark.parametrize("third", range(3))
@pytest.mark.timeout(240)
def test_no_page_stands_in_anybodys_way(
    addresses: list[str], olivia: User, live_server: LiveServer, page: Page, third: int
) -> None:
    """axe finds nothing, in light and in dark; there is one first heading and a title; nothing
    is wider than a phone or cut off on it; nothing is loaded from elsewhere and no script fails."""
    looked_at = [*shown(olivia, addresses), f"{LIST}?q=nobody-of-this-name", "/admin/nothing/"]
    assert len(looked_at) > 35
    look_at(page, olivia, live_server.url, looked_at[third::3])


def test_no_page_stands_in_the_way_of_an_operator_of_one_tenant(
    gunnar: User, cast: Cast, live_server: LiveServer, page: Page
) -> None:
    alice = f"{LIST}{cast['alice'].pk}"
    pages = ["/admin/", LIST, f"{alice}/change/", f"{alice}/revoke/", "/admin/auth/user/"]
    look_at(page, gunnar, live_server.url, pages)


def look_at(page: Page, operator: User, address: str, looked_at: list[str]) -> None:
    complaints = listen(page, address)
    enter(page.context, address, operator)
    found = []
    for place in looked_at:
        page.goto(address + place)
        found += [f"{place}: {finding}" for finding in findings(page)]
        # A refusal is a page as well.
        found += [f"{place}: {each}" for each in complaints if each[:4] not in ("403 ", "404 ")]
        complaints.clear()
    assert not found, "\n".join(found)


def findings(page: Page) -> Iterator[str]:
    page.evaluate(Axe().axe_script)
    yield from page.evaluate(_AXE, {})
    headings = page.locator("h1:visible").count()
    if headings != 1:
        yield f"{headings} first headings"
    if not page.title().strip(" |"):
        yield "no title"
    page.emulate_media(color_scheme="dark", reduced_motion="reduce")
    if page.locator("html[x-data]").count():
        page.wait_for_selector("html.dark")
        page.evaluate(_AFTER_ALL)
    yield from page.evaluate(_AXE, _CONTRAST)
    page.emulate_media(color_scheme="light")
    page.set_viewport_size(PHONE)  # type: ignore[arg-type]
    page.evaluate(_AFTER_ALL)
    if page.evaluate(_TOO_WIDE):
        yield "wider than a phone"
    if page.evaluate(_CUT_OFF):
        yield "a cell is cut off on a phone"
    page.set_viewport_size(DESKTOP)  # type: ignore[arg-type]


def test_the_form_to_sign_in_stands_in_nobodys_way(
    olivia: User, live_server: LiveServer, page: Page
) -> None:
    complaints = listen(page, live_server.url)
    page.goto(f"{live_server.url}/admin/login/")
    assert list(findings(page)) == []
    page.get_by_label("Username").fill("olivia")
    page.get_by_label("Password").fill("wrong horse")
    page.keyboard.press("Enter")
    expect(page.get_by_text("Please enter the correct username")).to_be_visible()
    assert list(findings(page)) == []
    assert complaints == []


def test_nor_does_the_page_behind_the_way_out(
    olivia: User, live_server: LiveServer, page: Page
) -> None:
    enter(page.context, live_server.url, olivia)
    page.goto(f"{live_server.url}/admin/")
    page.get_by_text("olivia", exact=True).click()
    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_role("heading", name="You are signed out")).to_be_visible()
    assert list(findings(page)) == []
    page.get_by_role("link", name="Sign in again").click()
    expect(page.get_by_label("Password")).to_be_visible()


@pytest.mark.parametrize("width", [1024, 1280, 1366, 1440, 1441, 1512])
@pytest.mark.parametrize("name", ["alice", "christopher.anderson.of.the.department"])
def test_the_list_of_credentials_has_room_for_its_columns(
    cast: Cast, olivia: User, live_server: LiveServer, page: Page, width: int, name: str
) -> None:
    OAuthCredential.objects.update(account_email=f"{name}@research.example.com")
    enter(page.context, live_server.url, olivia)
    page.set_viewport_size({"width": width, "height": 800})
    page.goto(f"{live_server.url}{LIST}")
    expect(page.get_by_role("columnheader", name="Last used")).to_be_in_viewport(ratio=1)
    last = page.locator("#result_list tbody td.field-last_use").first
    expect(last).to_be_in_viewport(ratio=1)


def test_what_would_stand_in_the_way_is_found(live_server: LiveServer, page: Page) -> None:
    page.goto(f"{live_server.url}/admin/login/")
    page.evaluate(
        """() => {
            const [faint, image, wide] = ["p", "img", "div"].map((tag) =>
                document.querySelector("form").appendChild(document.createElement(tag)));
            faint.textContent = "Nobody can read this.";
            faint.style.color = "rgb(128 128 128 / 30%)";
            image.src = "data:,";
            wide.style.width = "500px";
        }"""
    )
    found = list(findings(page))
    for what in ("critical image-alt", "wider than a phone"):
        assert sum(what in finding for finding in found) == 1, found
    assert sum("serious color-contrast" in finding for finding in found) == 2, found


def test_everything_is_reached_by_keyboard_and_it_is_seen_where_one_is(
    olivia: User, cast: Cast, live_server: LiveServer, page: Page
) -> None:
    """Tab goes through every control that is on the page, the first of them the way to the
    content; each shows that it has the focus."""
    enter(page.context, live_server.url, olivia)
    for address in ("/admin/", f"{LIST}?q=alice", f"{LIST}{cast['alice'].pk}/revoke/"):
        page.goto(live_server.url + address)
        there = page.evaluate(_CONTROLS)
        assert len(there) > 8
        reached = []
        for _ in range(len(there) + 5):
            page.keyboard.press("Tab")
            where = page.evaluate(_FOCUS)
            if where["at"] == "BODY":
                break
            assert where["seen"], f"{address}: no focus to be seen on {where['at']}"
            reached.append(where["at"])
        assert reached[0] == "Skip to the content"
        assert sorted(set(there) - set(reached)) == [], address


# What can be pressed or filled in, by its name; what a menu hides is not there.
_NAMED = """
    const named = (e) => (e.ariaLabel || e.title || e.name
        || [...e.childNodes].filter((n) => !(n.ariaHidden === "true")).map((n) => n.textContent)
            .join(" ") || e.id).replace(/\\s+/g, " ").trim();
"""
_CONTROLS = f"""() => {{ {_NAMED}
    const all = "a[href], button, input, select, textarea, [role=button], [x-on\\\\:click]";
    return [...document.querySelectorAll(all)]
        .filter((e) => e.type !== "hidden" && !e.disabled && e.checkVisibility(
            {{ visibilityProperty: true, opacityProperty: true }}) && e.getClientRects().length)
        .map(named).filter((name) => name);
}}"""
_FOCUS = f"""() => {{ {_NAMED}
    const e = document.activeElement;
    const drawn = (each) => {{
        const style = getComputedStyle(each);
        return style.outlineStyle !== "none" && parseFloat(style.outlineWidth) > 0;
    }};
    const box = e.getBoundingClientRect();
    return {{
        at: e === document.body ? "BODY" : named(e),
        seen: (drawn(e) || drawn(e.parentElement)) && box.width > 0 && box.top < innerHeight
            && box.bottom > 0,
    }};
}}"""


def test_the_menus_open_by_keyboard(
    olivia: User, cast: Cast, live_server: LiveServer, page: Page
) -> None:
    enter(page.context, live_server.url, olivia)
    page.goto(f"{live_server.url}{LIST}")
    account = page.get_by_role("button", name="olivia")
    account.focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Dark")).to_be_visible()
    expect(page.get_by_role("button", name="Light")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.get_by_role("button", name="Dark")).not_to_be_visible()
    expect(account).to_be_focused()
    page.get_by_role("button", name="Filters").focus()
    page.keyboard.press("Space")
    expect(page.locator("#changelist-filter").get_by_text("Apply Filters")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#changelist-filter")).not_to_be_visible()
    page.keyboard.press("Home")
    page.locator(".ov-skip").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#content")).to_be_focused()


def test_dark_and_light_follow_the_system_until_one_is_chosen(
    olivia: User, live_server: LiveServer, page: Page
) -> None:
    enter(page.context, live_server.url, olivia)
    page.emulate_media(color_scheme="dark")
    page.goto(f"{live_server.url}/admin/")
    is_dark = page.locator("html.dark")
    expect(is_dark).to_have_count(1)
    page.emulate_media(color_scheme="light")
    expect(is_dark).to_have_count(0)
    page.get_by_role("button", name="olivia").click()
    page.get_by_role("button", name="Dark").click()
    expect(is_dark).to_have_count(1)
    page.goto(f"{live_server.url}/admin/tokens/tenant/")
    expect(is_dark).to_have_count(1)
    for scheme in ("dark", "light"):
        page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        page.evaluate(_AFTER_ALL)
    expect(is_dark).to_have_count(1)


def test_who_wants_no_motion_gets_none_and_paper_is_white(
    olivia: User, cast: Cast, live_server: LiveServer, page: Page
) -> None:
    enter(page.context, live_server.url, olivia)
    page.emulate_media(color_scheme="dark", reduced_motion="reduce")
    page.goto(f"{live_server.url}{LIST}{cast['alice'].pk}/change/")
    slow = """() => [...document.querySelectorAll("*")].filter((e) =>
        parseFloat(getComputedStyle(e).transitionDuration) > 0.001).length"""
    assert page.evaluate(slow) == 0
    page.emulate_media(media="print")
    expect(page.locator("#nav-sidebar")).not_to_be_visible()
    expect(page.get_by_role("link", name="Revoke")).not_to_be_visible()
    card = page.locator(".ov-card").filter(has=page.locator("#diagnosis"))
    # What fades on a screen takes a moment to become what is printed.
    expect(card).to_have_css("background-color", re.compile(r"rgb\(255, 255, 255\)|.*, 0\)"))
    expect(card).to_have_css("color", "rgb(0, 0, 0)")


@pytest.mark.parametrize(
    ("zone", "written"),
    [
        ("Australia/Darwin", "2026-11-23 04:50:05 GMT+9:30"),
        ("America/New_York", "2026-11-22 14:20:05 EST"),
        ("UTC", "2026-11-22 19:20:05 UTC"),
    ],
)
def test_times_are_in_the_persons_own_zone_with_utc_beside(
    olivia: User,
    acme: Tenant,
    plant: Plant,
    live_server: LiveServer,
    browser: Browser,
    zone: str,
    written: str,
) -> None:
    """In a field, and in the middle of a sentence. Back to UTC by the account's menu, which the
    browser remembers."""
    at = int(datetime(2026, 11, 22, 19, 20, 5, tzinfo=UTC).timestamp())
    alice = plant(acme, "alice", last_used=at)
    context = browser.new_context(timezone_id=zone, viewport=DESKTOP)  # type: ignore[arg-type]
    enter(context, live_server.url, olivia)
    page = context.new_page()
    page.goto(f"{live_server.url}{LIST}{alice.pk}/change/")
    used = page.locator(f'time[datetime="{datetime.fromtimestamp(at, UTC).isoformat()}"]')
    expect(used).to_contain_text(written)
    expect(used).to_have_attribute("title", "2026-11-22 19:20:05 UTC")
    page.get_by_role("button", name="olivia").click()
    expect(page.get_by_role("button", name="My time zone")).to_contain_text(zone)
    picture(page, f"times-in-{zone.replace('/', '-').lower()}")
    page.get_by_role("button", name="UTC", exact=True).click()
    expect(used).to_contain_text("2026-11-22 19:20:05 UTC")
    expect(used).to_have_attribute("title", written)
    page.goto(f"{live_server.url}{LIST}{alice.pk}/revoke/")
    sentence = page.get_by_role("cell", name="tokens handed out before may live until")
    expect(sentence).to_contain_text(exact(alice.expires_at))
    page.evaluate("localStorage.clear()")
    page.reload()
    if zone != "UTC":
        expect(sentence).not_to_contain_text("UTC")
    expect(sentence.locator("time")).to_have_attribute("title", exact(alice.expires_at))
    context.close()
