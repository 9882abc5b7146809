"""One credential's life: all of it, a page at a time."""

import re
import time
from html import unescape

import pytest
from django.test import Client

from tests.admin.conftest import Plant
from tests.admin.test_lists import asked
from tests.vault.test_audit_chain import poisoned
from tokens import audit, vault
from tokens.models import Cause, HandOut, OAuthCredential, Outcome, RefreshAttempt, Tenant


@pytest.fixture
def alice(plant: Plant, acme: Tenant) -> OAuthCredential:
    return plant(acme, "alice")


def pages(client: Client, credential: OAuthCredential) -> list[str]:
    """Every page of the timeline, by its own links."""
    address = f"/admin/tokens/oauthcredential/{credential.pk}/change/"
    found, question = [], ""
    while True:
        text = client.get(f"{address}{question}").content.decode()
        found.append(text.partition('id="timeline"')[2])
        older = re.search(r'href="(\?before=[^"]*)#timeline"', text)
        if older is None:
            return found
        question = unescape(older[1])
        assert len(found) < 50


def test_every_event_of_thousands_is_on_exactly_one_page(
    alice: OAuthCredential, acme: Tenant, root: Client
) -> None:
    now = time.time()
    RefreshAttempt.objects.bulk_create(
        RefreshAttempt(
            tenant=acme, credential=alice, cause=Cause.SWEEP, generation=1, tries=1,
            lease_id=f"00000000-0000-4000-8000-{number:012}", started_at=now - 700 * number - 0.1,
            outcome=Outcome.UNREACHABLE, latency_ms=100_000 + number, upstream_status=503,
        )
        for number in range(130)
    )  # fmt: skip
    HandOut.objects.bulk_create(
        HandOut(tenant=acme, credential=alice, actor=f"key ovs_{number % 5}",
                minute=int(now) // 60 - number * 10, count=1)
        for number in range(60 * 6)
    )  # fmt: skip
    for number in range(70):
        audit.record(tenant=acme, actor="operator olga", action="suspend", subject="alice",
                     now=now - number * 1000, reason=f"number {number:03}.")  # fmt: skip
    walked = pages(root, alice)
    assert len(walked) > 4
    text = "\n".join(walked)
    for number in range(130):
        assert text.count(f"{100_000 + number} ms") == 1, number
    for number in range(70):
        assert text.count(f"number {number:03}.") == 1, number
    handed = [int(count or 1) for count in re.findall(r"Handed out (?:once|(\d+) times)", text)]
    assert sum(handed) == 60 * 6
    assert "Back to the newest" not in walked[0]
    assert "Back to the newest" in walked[-1]


def test_the_timeline_tells_import_refresh_hand_outs_rejections_and_acts(
    alice: OAuthCredential, acme: Tenant, root: Client
) -> None:
    now = time.time()
    RefreshAttempt.objects.create(
        tenant=acme, credential=alice, cause=Cause.REJECTED, actor="key ovs_x", generation=1,
        tries=2, lease_id="00000000-0000-4000-8000-000000000001", started_at=now - 60,
        outcome=Outcome.INVALID_GRANT, latency_ms=412, upstream_status=400,
    )  # fmt: skip
    for actor, count in (("key ovs_a", 3), ("key ovs_b", 7)):
        HandOut.objects.create(tenant=acme, credential=alice, actor=actor,
                               minute=int(now) // 60, count=count)  # fmt: skip
    audit.record(tenant=acme, actor="key ovs_x", action="rejected", subject="alice", now=now)
    vault.suspend(tenant=acme, user_id="alice", actor="operator olga", now=now)
    (page,) = pages(root, alice)
    for said in (
        "Import by test", "Refresh (upstream said 401): invalid grant", "412 ms", "2 tries",
        "answer 400", "Handed out 10 times", "key ovs_b (7), key ovs_a (3)",
        "Rejected by key ovs_x", "Suspend by operator olga",
    ):  # fmt: skip
        assert said in page, said


@pytest.mark.parametrize("before", ["x", "nan", "-inf", "inf", "-5", "1e300", "%00"])
def test_a_time_that_is_none_shows_the_newest(
    alice: OAuthCredential, root: Client, before: str
) -> None:
    page = root.get(f"/admin/tokens/oauthcredential/{alice.pk}/change/?before={before}")
    assert page.status_code == 200
    assert "Import by test" in page.content.decode()


def test_before_everything_nothing_is_known(alice: OAuthCredential, root: Client) -> None:
    page = root.get(f"/admin/tokens/oauthcredential/{alice.pk}/change/?before=1")
    assert "Nothing is known from before that." in page.content.decode()
    assert "Import by test" not in page.content.decode()


def test_forged_times_hide_nothing(alice: OAuthCredential, acme: Tenant, root: Client) -> None:
    for _ in range(55):
        poisoned(acme.pk, at=float("-inf"), subject="alice")
    assert "Import by test" in "".join(pages(root, alice))


def test_a_page_of_the_timeline_costs_the_same_whatever_has_happened(
    alice: OAuthCredential, acme: Tenant, root: Client
) -> None:
    page = f"/admin/tokens/oauthcredential/{alice.pk}/change/?before={time.time()}"

    def cost() -> int:
        return len(asked(root, page))

    HandOut.objects.create(tenant=acme, credential=alice, actor="a", minute=1, count=1)
    few = cost()
    HandOut.objects.bulk_create(
        HandOut(tenant=acme, credential=alice, actor=f"key {number % 4}", minute=number, count=1)
        for number in range(2, 800)
    )
    assert cost() == few <= 12
