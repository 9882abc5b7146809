"""An operator's way through the dashboard, in a real browser, and pictures of it."""

import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from django.contrib.auth.models import User
from playwright.sync_api import (
    Browser,
    ConsoleMessage,
    Page,
    Request,
    Response,
    expect,
    sync_playwright,
)
from pytest_django.live_server_helper import LiveServer

from api.models import ApiKey
from tests.admin.canaries import Canaries
from tests.admin.conftest import Cast
from tests.servers import find_chromium
from tokens import import_drafts
from tokens.models import AuditEvent, OAuthCredential, Standing

PICTURES = Path(__file__).resolve().parents[2] / "artefacts"
_QUIET = (
    "--no-sandbox", "--disable-gpu", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--no-first-run",
)  # fmt: skip

pytestmark = [pytest.mark.system, pytest.mark.django_db(transaction=True)]


@contextmanager
def chromium() -> Iterator[Browser]:
    """Chromium, for the length of the block. Inside it this thread may not query."""
    executable = find_chromium()
    if executable is None:
        sentence = "NOT TESTED: the dashboard in a browser; no Chromium was found"
        if os.environ.get("CI") == "true":
            pytest.fail(sentence)
        pytest.skip(sentence)
    PICTURES.mkdir(exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(executable), args=list(_QUIET))
        yield browser
        browser.close()


@pytest.fixture
def operator(db: None) -> User:
    return User.objects.create_superuser("olivia", password="correct horse")


def sign_in(page: Page, address: str) -> None:
    page.goto(f"{address}/admin/")
    page.get_by_label("Username").fill("olivia")
    page.get_by_label("Password").fill("correct horse")
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("heading", name="5 people cannot work.")).to_be_visible()


def picture(page: Page, name: str) -> None:
    page.wait_for_load_state("networkidle")
    page.screenshot(path=PICTURES / f"{name}.png", full_page=True)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_an_operator_finds_a_person_and_cuts_them_off(
    operator: User, cast: Cast, canaries: Canaries, live_server: LiveServer, scheme: str
) -> None:
    """Sign in, home, list, one credential, revoke with its question, suspend two; then a
    key, once. Nothing is loaded from elsewhere, and no page fails or complains."""
    with chromium() as browser:
        context = browser.new_context(
            color_scheme=scheme,  # type: ignore[arg-type]
            viewport={"width": 1440, "height": 900},
        )
        page = context.new_page()
        complaints = listen(page, live_server.url)
        sign_in(page, live_server.url)
        picture(page, f"home-{scheme}")
        revoke_alice(page, canaries, scheme)
        suspend_two(page, live_server.url, scheme)
        make_a_key(page, live_server.url, scheme)
        context.close()
    assert complaints == []
    assert OAuthCredential.objects.get(user_id="alice").standing == Standing.REVOKED
    assert AuditEvent.objects.get(action="revoke").actor == "operator olivia"
    assert set(
        AuditEvent.objects.filter(action="suspend").values_list("subject", flat=True)
    ) == {"frida", "gustav"}  # fmt: skip
    assert ApiKey.objects.count() == 1


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


def revoke_alice(page: Page, canaries: Canaries, scheme: str) -> None:
    page.get_by_role("link", name=re.compile("Credentials$")).click()
    expect(page.locator("#result_list tbody tr.data-row")).to_have_count(30)
    picture(page, f"credentials-{scheme}")
    page.get_by_role("link", name=re.compile("^alice")).first.click()
    expect(page.get_by_text("Works. There is nothing to do.")).to_be_visible()
    picture(page, f"credential-{scheme}")
    assert canaries.found_in(page.content()) == []
    page.get_by_role("link", name=re.compile("Revoke$")).click()
    expect(page.get_by_role("heading", name="Cut this person off?")).to_be_visible()
    picture(page, f"revoke-{scheme}")
    page.get_by_role("button", name="Revoke 1 credential").click()
    expect(page.get_by_text("alice (acme): revoked.")).to_be_visible()
    picture(page, f"revoked-{scheme}")


def suspend_two(page: Page, address: str, scheme: str) -> None:
    page.goto(f"{address}/admin/tokens/oauthcredential/")
    for name in ("frida", "gustav"):
        page.locator("tr.data-row", has_text=name).locator("input.action-select").check()
    page.locator("select[name=action]").select_option("suspend_many")
    page.locator("button[name=index]").click()
    expect(page.get_by_role("heading", name="Suspend these 2 credentials?")).to_be_visible()
    picture(page, f"suspend-{scheme}")
    page.get_by_role("button", name="Suspend 2 credentials").click()
    expect(page.get_by_text("gustav (acme): suspended.")).to_be_visible()


def make_a_key(page: Page, address: str, scheme: str) -> None:
    page.goto(f"{address}/admin/api/apikey/add/")
    page.get_by_label("Tenant").select_option(label="acme")
    page.get_by_role("button", name="Make the key").click()
    text = page.locator("#new-key").inner_text()
    picture(page, f"key-shown-once-{scheme}")
    page.get_by_role("link", name="I have copied it").click()
    expect(page.get_by_text(f"{text[:12]}…").first).to_be_visible()
    assert text[12:] not in page.content()
    picture(page, f"key-{scheme}")


def test_home_fits_a_phone_and_its_charts_are_in_the_page_itself(
    operator: User, cast: Cast, live_server: LiveServer
) -> None:
    """Neither the charts nor their tables nor the other period wait for a script."""
    with chromium() as browser:
        context = browser.new_context(viewport={"width": 390, "height": 844})
        page = context.new_page()
        complaints = listen(page, live_server.url)
        sign_in(page, live_server.url)
        picture(page, "home-phone")
        fits(page, 390)
        page.get_by_role("link", name="7 days", exact=True).press("Enter")
        expect(page.get_by_role("img", name="in the last 7 days, by the hour: 3")).to_be_visible()
        page.locator("details summary").first.press("Enter")
        expect(page.get_by_role("cell", name="1 server not reached")).to_be_visible()
        fits(page, 390)
        assert (
            page.locator("#home script, #home [x-data], #home [style], #home canvas").count() == 0
        )
        context.close()
    assert complaints == []


def fits(page: Page, width: int) -> None:
    """Nothing that stands on the page is wider than it."""
    for selector in ("#home", ".ov-card", ".ov-chart", "details"):
        for box in [each.bounding_box() for each in page.locator(selector).all()]:
            assert box is not None
            assert box["x"] >= 0, selector
            assert box["x"] + box["width"] <= width, selector


def barriers(page: Page) -> list[str]:
    """What axe finds serious on the page, and where."""
    found = Axe().run(page).response["violations"]
    return [
        f"{each['id']}: {node['target']}"
        for each in found
        if each["impact"] in ("serious", "critical")
        for node in each["nodes"]
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_an_operator_imports_a_file_and_a_paste(
    operator: User,
    cast: Cast,
    canaries: Canaries,
    live_server: LiveServer,
    scheme: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A list is uploaded, looked at and stored over several pages that follow by themselves; one
    login is pasted. What the browser shows, keeps and can go back to has no token in it."""
    monkeypatch.setattr(import_drafts, "STEP", 2)
    end = int(time.time()) + 7200

    def login(user_id: str, **more: object) -> dict[str, object]:
        tokens = {"accessToken": canaries.token("oat01"), "refreshToken": canaries.token("ort01")}
        return {"user_id": user_id, **tokens, "expiresAt": end} | more

    rows = [login("nora"), login("alice", expiresAt=end * 1000), login("olaf"), login("olaf"),
            login("pia", refreshToken=""), login("quinn", tenant="nosuch")]  # fmt: skip
    file = tmp_path / "team.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    with chromium() as browser:
        context = browser.new_context(
            color_scheme=scheme,  # type: ignore[arg-type]
            viewport={"width": 1440, "height": 900},
        )
        page = context.new_page()
        complaints = listen(page, live_server.url)
        sign_in(page, live_server.url)
        page.goto(f"{live_server.url}/admin/tokens/oauthcredential/")
        page.get_by_role("link", name=re.compile("Import$")).click()
        page.get_by_label("Tenant", exact=True).select_option(label="acme")
        picture(page, f"import-{scheme}")
        found = barriers(page)
        page.locator("input[type=file]").set_input_files(file)
        page.get_by_role("button", name="Look at it").click()
        expect(page.get_by_role("heading", name="Store these 3 logins?")).to_be_visible()
        expect(page.get_by_text("Takes the place of the login that is stored")).to_be_visible()
        expect(page.get_by_text("told in milliseconds")).to_be_visible()
        picture(page, f"import-look-{scheme}")
        found += barriers(page)
        assert canaries.found_in(page.content()) == []
        page.get_by_role("button", name="Store 3 logins").click()
        expect(page.get_by_role("heading", name="3 logins were stored.")).to_be_visible()
        picture(page, f"import-done-{scheme}")
        assert canaries.found_in(page.content()) == []
        page.get_by_role("link", name="Another file").click()
        page.get_by_label("Tenant", exact=True).select_option(label="globex")
        page.get_by_label("User", exact=True).fill("rita")
        page.get_by_label("Or paste it").fill(json.dumps({"claudeAiOauth": login("x")}))
        page.get_by_role("button", name="Look at it").click()
        expect(page.get_by_text("user_id: is not a field of a credential")).to_be_visible()
        page.go_back()
        assert page.get_by_label("Or paste it").input_value() == ""
        single = login("x")
        del single["user_id"]
        page.get_by_label("Tenant", exact=True).select_option(label="globex")
        page.get_by_label("User", exact=True).fill("rita")
        page.get_by_label("Or paste it").fill(json.dumps({"claudeAiOauth": single}))
        picture(page, f"import-paste-{scheme}")
        page.get_by_role("button", name="Look at it").click()
        page.get_by_role("button", name="Store 1 login").click()
        expect(page.get_by_role("heading", name="1 login was stored.")).to_be_visible()
        page.set_viewport_size({"width": 390, "height": 844})
        picture(page, f"import-phone-{scheme}")
        found += barriers(page)
        left = {cookie["name"] for cookie in context.cookies()}
        assert left == {"sessionid", "csrftoken"}
        context.close()
    assert complaints == []
    assert found == []
    assert set(AuditEvent.objects.filter(action="import", actor="operator olivia")
               .values_list("subject", flat=True)) == {"nora", "alice", "olaf", "rita"}  # fmt: skip
