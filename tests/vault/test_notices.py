"""A service key in use for unusually many users is noticed, by its own past."""

import logging
from collections.abc import Callable

import pytest

from tests.vault.test_sweep_index import plan
from tokens import metrics, notices
from tokens.models import AuditEvent, HandOut, KeySpan, OAuthCredential, Standing, Tenant

pytestmark = pytest.mark.django_db

NOW = 2_000_000_000.0
HOUR = int(NOW) // 3600
KEY = "key ovs_Ab12Cd34"

HandedOut = Callable[..., None]


@pytest.fixture
def handed_out(acme: Tenant) -> HandedOut:
    """Hand-outs of one hour: `handed_out(5, ago=2)`, to five users two hours ago."""
    people = OAuthCredential.objects.bulk_create(
        OAuthCredential(
            tenant=acme, user_id=f"user-{number}", standing=Standing.REVOKED, expires_at=0
        )
        for number in range(80)
    )

    def _handed_out(users: int, *, ago: int = 0, actor: str = KEY) -> None:
        HandOut.objects.bulk_create(
            HandOut(
                tenant=acme, credential=people[number], actor=actor, count=3,
                minute=(HOUR - ago) * 60 + number % 5 + again,
            )
            for number in range(users)
            for again in (0, 5)
        )  # fmt: skip

    return _handed_out


def look_through(hours: int) -> int:
    """Look as the sweep does, from so many hours ago until now; the notices."""
    return sum(notices.look_at_spans(now=NOW - ago * 3600) for ago in range(hours, -1, -1))


def test_a_key_in_use_for_many_more_users_than_ever_is_said_to_be(
    acme: Tenant, handed_out: HandedOut, caplog: pytest.LogCaptureFixture
) -> None:
    for ago, users in ((5, 4), (4, 9), (3, 7), (2, 8)):
        handed_out(users, ago=ago)
    handed_out(40)
    with caplog.at_level(logging.WARNING, logger="tokens.notices"):
        assert look_through(5) == 1
    span = KeySpan.objects.get(noticed_at__isnull=False)
    assert (span.tenant, span.actor, span.users, span.usual) == (acme, KEY, 40, 9)
    event = AuditEvent.objects.get(action="unusual_span")
    assert event.detail == {"key": "ovs_Ab12Cd34", "users": 40, "usual": 9}
    (record,) = caplog.records
    assert "40 users within an hour" in record.getMessage()
    assert notices.look_at_spans(now=NOW + notices.EVERY) == 0, "said once of an hour"


@pytest.mark.parametrize(
    ("past", "present"),
    [
        ([4, 4, 4], 19),  # below the floor
        ([15, 9, 9], 44),  # less than three times what was usual
        ([4, 4], 60),  # too new to have a usual
        ([], 60),
    ],
)
def test_what_is_usual_or_small_or_new_is_not_said(
    handed_out: HandedOut, past: list[int], present: int
) -> None:
    for ago, users in enumerate(past, start=1):
        handed_out(users, ago=ago)
    handed_out(present)
    assert look_through(4) == 0
    assert not AuditEvent.objects.filter(action="unusual_span").exists()


def test_each_key_is_compared_with_its_own_past(handed_out: HandedOut) -> None:
    for ago in (1, 2, 3):
        handed_out(60, ago=ago, actor="key ovs_theBusyOn")
        handed_out(5, ago=ago)
    handed_out(60, actor="key ovs_theBusyOn")
    handed_out(30)
    handed_out(30, actor="key ovu_oneUser0")
    assert look_through(3) == 1
    assert KeySpan.objects.get(noticed_at__isnull=False).actor == KEY
    assert not KeySpan.objects.filter(actor__startswith="key ovu_").exists()


def test_a_look_is_taken_every_few_minutes_at_most(handed_out: HandedOut) -> None:
    notices.look_at_spans(now=NOW)
    handed_out(7)
    notices.look_at_spans(now=NOW + notices.EVERY - 1)
    assert not KeySpan.objects.exists()
    notices.look_at_spans(now=NOW + notices.EVERY)
    assert KeySpan.objects.get().users == 7


def test_a_clock_that_was_ahead_keeps_nobody_from_looking(handed_out: HandedOut) -> None:
    notices.look_at_spans(now=NOW + 300 * 86_400)
    handed_out(7)
    notices.look_at_spans(now=NOW)
    assert KeySpan.objects.get().users == 7
    handed_out(9, ago=-1)
    notices.look_at_spans(now=NOW + 1)
    assert KeySpan.objects.get().users == 7, "and the next look comes in its turn"


def test_what_is_older_than_a_week_is_forgotten(acme: Tenant) -> None:
    for ago in (1, 24 * 7, 24 * 7 + 2):
        KeySpan.objects.create(tenant=acme, actor=KEY, hour=HOUR - ago, users=1)
    notices.look_at_spans(now=NOW)
    assert set(KeySpan.objects.values_list("hour", flat=True)) == {HOUR - 1, HOUR - 24 * 7}


def test_the_hand_outs_of_an_hour_are_found_by_their_index(
    acme: Tenant,
) -> None:
    person = OAuthCredential.objects.create(
        tenant=acme, user_id="alice", standing=Standing.REVOKED, expires_at=0
    )
    HandOut.objects.bulk_create(
        HandOut(tenant=acme, credential=person, actor=KEY, minute=HOUR * 60 - 1 - each)
        for each in range(2000)
    )
    assert "hand_out_by_minute" in plan(notices.users_by_key(HOUR)[:100])


def test_the_metric_counts_the_keys_of_the_last_day(
    acme: Tenant, globex: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tokens.clock.now", lambda: NOW)
    for hour, noticed_at in ((HOUR, NOW - 5), (HOUR - 1, NOW - 3600), (HOUR - 40, NOW - 90_000)):
        KeySpan.objects.create(
            tenant=acme, actor=KEY, hour=hour, users=50, usual=2, noticed_at=int(noticed_at)
        )
    text = metrics.exposition().decode()
    assert 'oauthvault_keys_with_unusual_span{tenant="acme"} 1.0' in text
    assert 'oauthvault_keys_with_unusual_span{tenant="globex"} 0.0' in text
