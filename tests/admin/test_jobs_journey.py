"""An act on all that match a filter, in a real browser: asked for, watched, and stopped."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from django.contrib.auth.models import User
from django.db import connection
from playwright.sync_api import Page, expect
from pytest_django.live_server_helper import LiveServer

from tests.admin.browser import chromium, listen, picture, sign_in
from tests.admin.conftest import Cast
from tests.admin.test_permissions import LIST
from tokens import isolation, jobs
from tokens.models import Job

pytestmark = [pytest.mark.system, pytest.mark.django_db(transaction=True)]


@pytest.fixture
def operator(db: None) -> User:
    return User.objects.create_superuser("olivia", password="correct horse")


def beside(do: Callable[[], object]) -> None:
    """By a thread, as a worker would: this one may not query while a browser is open."""

    def run() -> None:
        try:
            with isolation.every_tenant():
                do()
        finally:
            connection.close()

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()


def ask_for_all_of_acme(page: Page, url: str, cast: Cast, act: str) -> None:
    page.goto(f"{url}{LIST}?tenant__id__exact={cast.acme.pk}")
    page.locator("#action-toggle").check()
    page.get_by_role("button", name="Select all that match the filters").click()
    expect(page.get_by_text("All that match the filters, on every page.")).to_be_visible()
    page.get_by_label("Select action to run").select_option(act)
    page.get_by_role("button", name="Run").click()


def test_all_that_match_are_suspended_while_the_operator_watches(
    operator: User, cast: Cast, live_server: LiveServer
) -> None:
    with chromium() as browser, ThreadPoolExecutor(1) as pool:
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        complaints = listen(page, live_server.url)
        sign_in(page, live_server.url)
        ask_for_all_of_acme(page, live_server.url, cast, "suspend_many")
        expect(page.get_by_role("heading", name="Suspend these 13 credentials?")).to_be_visible()
        picture(page, "job-asked")
        page.get_by_role("button", name="Suspend 13 credentials").click()
        expect(page.get_by_text("0 of 13 are done with.")).to_be_visible()
        picture(page, "job-waits")

        def work() -> None:
            job = Job.objects.get()
            jobs.work(tenant_id=job.tenant_id, job_id=job.pk, seconds=60, pool=pool)

        beside(work)
        # Nobody has loaded the page anew.
        expect(page.get_by_text("13 of 13 are done with.")).to_be_visible()
        expect(page.get_by_role("link", name="Stop job")).to_have_count(0)
        expect(page.get_by_role("cell", name="It is suspended already.")).to_be_visible()
        picture(page, "job-ended")
        page.get_by_role("link", name="left out 1").click()
        expect(page.get_by_role("row")).to_have_count(2)
        assert complaints == []


def test_a_job_is_stopped_in_two_clicks(
    operator: User, cast: Cast, live_server: LiveServer
) -> None:
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        complaints = listen(page, live_server.url)
        sign_in(page, live_server.url)
        ask_for_all_of_acme(page, live_server.url, cast, "suspend_auto_refresh_many")
        page.get_by_role("button", name="Suspend automatic refresh of 13").click()
        page.get_by_role("link", name="Stop job").click()
        picture(page, "job-stop")
        page.get_by_role("button", name="Stop 1 job").click()
        expect(page.get_by_text("Stopped by operator olivia.")).to_be_visible()
        page.goto(f"{live_server.url}/admin/tokens/job/")
        picture(page, "jobs")
        assert complaints == []
