"""An operator's ways through the dashboard, in a real browser, and pictures of each step."""

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from django.contrib.auth.models import Permission, User
from playwright.sync_api import Browser, Locator, Page, expect
from playwright.sync_api import Error as PlaywrightError
from pytest_django.live_server_helper import LiveServer

from api.models import ApiKey
from oauthvault.celery import app
from tests.admin.browser import PASSWORD, enter, listen, picture, sign_in
from tests.admin.canaries import Canaries
from tests.admin.conftest import Cast
from tests.admin.test_permissions import page_of
from tests.conftest import Store
from tests.simulator import Simulator
from tokens import import_drafts, roles
from tokens.models import AuditEvent, OAuthCredential, RefreshAttempt, Standing, Tenant
from tokens.tasks import refresh_credentials

pytestmark = [pytest.mark.system, pytest.mark.django_db(transaction=True)]

# With how many clicks an act is done, from the home page on, its confirmation among them.
ACTS_WITHIN = 3


class Clicks:
    """A mouse that counts."""

    def __init__(self) -> None:
        self.count = 0

    def on(self, what: Locator) -> None:
        what.click()
        self.count += 1


@pytest.fixture
def at_home(page: Page, olivia: User, live_server: LiveServer) -> Iterator[Page]:
    """olivia's home page. What the browser complains of, on this page or those after it, fails
    the test."""
    complaints = listen(page, live_server.url)
    enter(page.context, live_server.url, olivia)
    page.goto(f"{live_server.url}/admin/")
    yield page
    assert complaints == []


@pytest.fixture
def worker() -> Iterator[None]:
    """At once: a task is done in the request that publishes it."""
    app.conf.task_always_eager = True
    yield
    app.conf.task_always_eager = False


def test_an_operator_signs_in_and_sees_who_cannot_work(
    olivia: User, cast: Cast, live_server: LiveServer, page: Page
) -> None:
    page.goto(f"{live_server.url}/admin/")
    picture(page, "sign-in-1-form")
    page.get_by_label("Username").fill("olivia")
    page.get_by_label("Password").fill("wrong horse")
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_text("Please enter the correct username and password")).to_be_visible()
    picture(page, "sign-in-2-refused")
    sign_in(page, live_server.url, password=PASSWORD)
    expect(page.get_by_role("heading", name="5 people cannot work.")).to_be_visible()
    picture(page, "sign-in-3-home")


def test_an_operator_looks_into_a_credential_in_two_clicks(
    cast: Cast, canaries: Canaries, at_home: Page
) -> None:
    page, clicks = at_home, Clicks()
    clicks.on(page.get_by_role("link", name=re.compile("Credentials$")))
    expect(page.locator("#result_list tbody tr.data-row")).to_have_count(30)
    picture(page, "inspect-1-list")
    clicks.on(page.get_by_role("link", name=re.compile("^alice")).first)
    expect(page.get_by_text("Works. There is nothing to do.")).to_be_visible()
    timeline = page.get_by_role("region", name="Timeline")
    expect(timeline.get_by_text(re.compile("no answer|unreachable")).first).to_be_visible()
    expect(timeline.get_by_text("412 ms").first).to_be_visible()
    picture(page, "inspect-2-credential")
    assert clicks.count == 2
    assert canaries.found_in(page.content()) == []


def test_whoever_cannot_work_is_cut_off_in_three_clicks_from_home(
    cast: Cast, at_home: Page
) -> None:
    page, clicks = at_home, Clicks()
    clicks.on(page.get_by_role("link", name="bob", exact=True))
    expect(page.get_by_text(re.compile("another holder of this login"))).to_be_visible()
    picture(page, "revoke-1-credential")
    clicks.on(page.get_by_role("link", name=re.compile("Revoke$")))
    expect(page.get_by_role("heading", name="Cut this person off?")).to_be_visible()
    picture(page, "revoke-2-question")
    clicks.on(page.get_by_role("button", name="Revoke 1 credential"))
    expect(page.get_by_text("bob (acme): revoked.")).to_be_visible()
    picture(page, "revoke-3-done")
    assert clicks.count <= ACTS_WITHIN
    assert OAuthCredential.objects.get(user_id="bob").standing == Standing.REVOKED
    assert AuditEvent.objects.get(action="revoke").actor == "operator olivia"


@pytest.mark.parametrize(
    ("act", "button"),
    [("Refresh now", "Refresh 1 credential"), ("Rotate tokens", "Rotate 1 token pair")],
)
def test_an_operator_has_new_tokens_fetched(
    acme: Tenant,
    store: Store,
    upstream: Simulator,
    at_home: Page,
    worker: None,
    act: str,
    button: str,
) -> None:
    """The timeline shows who asked, and how it ended."""
    store(acme, "alice", upstream.new_login("alice", expires_in=9000))
    page, clicks, name = at_home, Clicks(), act.split()[0].lower()
    page.reload()
    clicks.on(page.get_by_role("link", name="alice", exact=True).first)
    clicks.on(page.get_by_role("link", name=re.compile(f"{act}$")))
    expect(page.get_by_role("heading", name=re.compile(r"\?$"))).to_be_visible()
    picture(page, f"{name}-1-question")
    clicks.on(page.get_by_role("button", name=button))
    expect(page.get_by_text("alice (acme): the refresh is on its way")).to_be_visible()
    timeline = page.get_by_role("region", name="Timeline")
    expect(timeline.get_by_text("asked by operator olivia").first).to_be_visible()
    picture(page, f"{name}-2-done")
    assert clicks.count <= ACTS_WITHIN
    assert upstream.counts.token_calls == 1
    assert RefreshAttempt.objects.get().actor == "operator olivia"


def test_the_page_shows_by_itself_how_a_refresh_that_was_asked_for_ended(
    acme: Tenant, store: Store, upstream: Simulator, at_home: Page, live_server: LiveServer
) -> None:
    """Its diagnosis, its facts and its timeline, while the worker is at it."""
    credential = store(acme, "alice", upstream.new_login("alice", expires_in=9000))
    upstream.kill_login("alice")
    page = at_home
    page.goto(f"{live_server.url}{page_of(credential)}?asked={time.time():.3f}")
    expect(page.get_by_text("Works. There is nothing to do.")).to_be_visible()
    refresh_credentials(
        [(credential.tenant_id, credential.pk, credential.generation)], "demand", "operator olivia"
    )
    expect(page.get_by_text("Works. There is nothing to do.")).to_have_count(0, timeout=20_000)
    timeline = page.get_by_role("region", name="Timeline")
    expect(timeline.get_by_text("asked by operator olivia")).to_be_visible()
    for part in ("present", "known", "life"):
        expect(page.locator(f"#{part}")).to_have_attribute("data-live", "no")
    # Nor is there a button any more for what is not possible.
    expect(page.get_by_role("link", name=re.compile("Refresh now$"))).to_have_count(0)


def test_a_page_that_follows_something_does_not_outlive_its_session(
    acme: Tenant, store: Store, upstream: Simulator, at_home: Page, live_server: LiveServer
) -> None:
    credential = store(acme, "alice", upstream.new_login("alice", expires_in=9000))
    page = at_home
    page.goto(f"{live_server.url}{page_of(credential)}?asked={time.time():.3f}")
    expect(page.get_by_role("link", name=re.compile("Refresh now$"))).to_have_count(1)
    page.context.clear_cookies()
    expect(page.get_by_label("Password")).to_be_visible(timeout=20_000)
    assert "alice" not in page.content().replace(page.url, "")


def test_an_operator_suspends_two_from_the_list(cast: Cast, at_home: Page) -> None:
    page = at_home
    page.get_by_role("link", name=re.compile("Credentials$")).click()
    for name in ("frida", "gustav"):
        page.locator("tr.data-row", has_text=name).locator("input.action-select").check()
    page.locator("select[name=action]").select_option("suspend_many")
    page.locator("button[name=index]").click()
    expect(page.get_by_role("heading", name="Suspend these 2 credentials?")).to_be_visible()
    picture(page, "suspend-1-question")
    page.get_by_role("button", name="Suspend 2 credentials").click()
    expect(page.get_by_text("gustav (acme): suspended.")).to_be_visible()
    picture(page, "suspend-2-done")
    suspended = AuditEvent.objects.filter(action="suspend").values_list("subject", flat=True)
    assert set(suspended) == {"frida", "gustav"}


def test_an_operator_sees_a_new_key_once(acme: Tenant, at_home: Page) -> None:
    page = at_home
    page.get_by_role("link", name=re.compile("API keys$")).click()
    page.get_by_role("link", name=re.compile("Add API key|Add$|^add$", re.I)).first.click()
    page.get_by_label("Tenant").select_option(label="acme")
    picture(page, "key-1-form")
    page.get_by_role("button", name="Make the key").click()
    text = page.locator("#new-key").inner_text()
    assert text.startswith("ovs_")
    page.get_by_role("link", name="I have copied it").click()
    expect(page.get_by_text(f"{text[:12]}…").first).to_be_visible()
    assert text[12:] not in page.content()
    picture(page, "key-2-its-page")
    with pytest.raises(PlaywrightError, match="ERR_CACHE_MISS"):
        page.go_back()
    assert ApiKey.objects.count() == 1


def test_an_operator_of_one_tenant_sees_only_theirs(
    cast: Cast, live_server: LiveServer, page: Page
) -> None:
    """On the home page, in the lists, in their filters, and at an address of another tenant's."""
    gunnar = User.objects.create_user("gunnar", password=PASSWORD, is_staff=True)
    gunnar.user_permissions.set(
        Permission.objects.filter(
            codename__in=("view_oauthcredential", "view_tenant", "view_apikey", "view_auditevent")
        )
    )
    roles.assign(operator=gunnar, tenant=cast.globex, actor="test", now=time.time())
    sign_in(page, live_server.url, name="gunnar")
    expect(page.get_by_role("heading", name=re.compile(r"^\d+ .* cannot work\.$"))).to_be_visible()
    picture(page, "tenant-operator-1-home")
    main = page.locator("#main")
    expect(main.get_by_text("kalle")).not_to_have_count(0)
    expect(main.get_by_text("bob", exact=True)).to_have_count(0)
    page.get_by_role("link", name=re.compile("Credentials$")).click()
    expect(main.get_by_text("zoe@example.com")).not_to_have_count(0)
    expect(main.get_by_text("acme")).to_have_count(0)
    picture(page, "tenant-operator-2-credentials")
    page.get_by_role("link", name=re.compile("Tenants$")).click()
    expect(main.get_by_role("link", name="globex")).to_have_count(1)
    expect(main.get_by_role("link", name="acme")).to_have_count(0)
    page.goto(f"{live_server.url}/admin/tokens/oauthcredential/{cast['alice'].pk}/change/")
    assert "alice" not in page.content()
    expect(page.get_by_role("link", name="Operators")).to_have_count(0)


def test_home_fits_a_phone_and_its_charts_are_in_the_page_itself(
    olivia: User, cast: Cast, live_server: LiveServer, browser: Browser
) -> None:
    """Neither the charts nor their tables nor the other period wait for a script."""
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
    assert page.locator("#home script, #home [x-data], #home [style], #home canvas").count() == 0
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
    olivia: User,
    cast: Cast,
    canaries: Canaries,
    live_server: LiveServer,
    browser: Browser,
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
