"""The home page: its figures are those of statistics and metrics, its charts those of the
records, and what is wrong with the vault stands there in words."""

import re
import time
import uuid
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from prometheus_client.parser import text_string_to_metric_families
from pytest_django import Settings

from tests.admin.conftest import Cast, Plant
from tests.conftest import MakeKey
from tokens import courses, endings, epoch, handouts, statistics, workers
from tokens.admin import charts, dashboard
from tokens.admin.charts import Column, Part
from tokens.admin.outcomes import TONES, WORDS
from tokens.models import (
    AuditEvent,
    Cause,
    HandOut,
    Heartbeat,
    KeySpan,
    OAuthCredential,
    Outcome,
    RefreshAttempt,
    Tenant,
)
from tokens.refresh import spool

HOME = "/admin/"
LIST = "/admin/tokens/oauthcredential/"
SEE = ("tokens.view_oauthcredential", "tokens.view_auditevent")
Staff = Callable[..., Client]


def home(client: Client, question: str = "") -> str:
    answer = client.get(HOME + question)
    assert answer.status_code == 200
    return answer.content.decode()


def figure(page: str, name: str) -> int:
    """The number that stands in the element with this id."""
    found = re.search(rf'id="{name}"[^>]*>\s*(\d+)', page)
    assert found is not None, f"no number is called {name}"
    return int(found[1])


def names_of_problems(page: str) -> list[str]:
    inside = page.partition('<ul class="ov-problems"')[2].partition("</ul>")[0]
    return re.findall(r'<li id="([a-z-]+)"', inside)


def attempt(
    credential: OAuthCredential, outcome: Outcome, *, hours_ago: float = 1.0
) -> RefreshAttempt:
    return RefreshAttempt.objects.create(
        tenant=credential.tenant, credential=credential, lease_id=uuid.uuid4(), cause=Cause.SWEEP,
        generation=1, started_at=time.time() - hours_ago * 3600, outcome=outcome,
    )  # fmt: skip


# --- One number in three places --------------------------------------------------------------


@pytest.fixture
def busy(cast: Cast) -> Cast:
    """The cast, of whom something of everything was counted, in both tenants."""
    for tenant, times in ((cast.acme, 3), (cast.globex, 2)):
        for outcome in (Outcome.REFRESHED, Outcome.INVALID_GRANT, *[Outcome.UNREACHABLE] * times):
            statistics.count_refresh(tenant=tenant, outcome=outcome, latency_ms=10)
        statistics.count_rejection(tenant=tenant)
    for name, outcome in (("hedda", Outcome.REFRESHED), ("hedda", Outcome.INVALID_GRANT),
                          ("ivar", Outcome.UNKNOWN), ("ivar", Outcome.SUPERSEDED)):  # fmt: skip
        attempt(cast[name], outcome)
    now = int(time.time())
    for name, days in (("alice", 0.5), ("user-01", 2), ("user-02", 5), ("ivar", 6)):
        OAuthCredential.objects.filter(pk=cast[name].pk).update(
            login_expires_at=now + int(days * endings.DAY)
        )
    handouts.note(credential=cast["alice"], actor="key ovs_Ab12Cd34", now=now)
    handouts.note_refusal(tenant_id=cast.globex.pk, code="suspended")
    handouts.write()
    return cast


def scraped(client: Client) -> dict[tuple[str, str], float]:
    """What `/metrics` says, by name and by the only or the second label; tenants together."""
    answer = client.get("/metrics", SERVER_NAME="127.0.0.1")
    found: dict[tuple[str, str], float] = {}
    for family in text_string_to_metric_families(answer.content.decode()):
        for sample in family.samples:
            labels = [value for name, value in sample.labels.items() if name != "tenant"]
            place = (sample.name, ",".join(labels))
            found[place] = found.get(place, 0) + sample.value
    return found


def stats_of(client: Client, key: str) -> dict[str, Any]:
    answer = client.get("/auth/claude/stats", headers={"Authorization": f"Bearer {key}"})
    assert answer.status_code == 200
    told: dict[str, Any] = answer.json()
    return told


def test_home_stats_and_metrics_count_the_same_rows_alike(
    busy: Cast, root: Client, make_key: MakeKey, client: Client
) -> None:
    """For a platform administrator: the tenants' statistics together, and the metrics."""
    page = home(root)
    stats = [stats_of(client, make_key(tenant)) for tenant in (busy.acme, busy.globex)]
    metrics = scraped(client)

    def together(*path: str) -> int:
        total = 0
        for each in stats:
            value: Any = each
            for name in path:
                value = value[name]
            total += value
        return total

    document = "litellm_claude_oauth_"
    assert (
        figure(page, "active-tokens")
        == together("active_tokens")
        == metrics[f"{document}tokens_active", ""]
    )
    assert figure(page, "expiring-soon") == together("expiring_soon")
    assert (
        figure(page, "succeeded-ever")
        == together("refreshes", "succeeded")
        == metrics[f"{document}tokens_refreshed", ""]
        == 2
    )
    assert figure(page, "failed-ever") == together("refreshes", "failed") == 7
    assert figure(page, "auth-failures") == metrics[f"{document}auth_failures", ""] == 4
    for name in ("succeeded", "failed"):
        assert (
            figure(page, f"{name}-24h")
            == figure(page, name)
            == together("refreshes", "last_24h", name)
        )
    for days in endings.WARNING_DAYS:
        assert (
            figure(page, f"login-ends-{days}") == metrics["oauthvault_logins_expiring", f"{days}d"]
        )
    assert figure(page, "login-ends-7") == 4 + 1  # and gustav, who has no refresh token
    assert figure(page, "overdue-now") == metrics["oauthvault_refreshes_overdue", ""]
    assert figure(page, "spool-now") == metrics["oauthvault_spool_depth", ""] == 0
    assert figure(page, "workers") == metrics["oauthvault_workers_alive", ""] == 1
    assert (
        figure(page, "handed-out-ever")
        == metrics["oauthvault_token_requests_total", "handed_out"]
        == 1
    )
    assert figure(page, "refused-ever") == 1
    context = root.get(HOME).context
    by_status = {entry["link"].partition("=")[2]: entry["count"] for entry in context["by_status"]}
    assert by_status == {
        status: count
        for (name, status), count in metrics.items()
        if name == "oauthvault_credentials" and count
    }


@pytest.mark.parametrize("slug", ["acme", "globex"])
def test_a_tenants_operator_sees_the_figures_of_that_tenant(
    busy: Cast, staff: Staff, make_key: MakeKey, client: Client, slug: str
) -> None:
    tenant = getattr(busy, slug)
    page = home(staff(*SEE, tenants=[tenant]))
    stats = stats_of(client, make_key(tenant))
    refreshes = stats["refreshes"]
    assert figure(page, "active-tokens") == stats["active_tokens"]
    assert figure(page, "expiring-soon") == stats["expiring_soon"]
    assert figure(page, "succeeded-ever") == refreshes["succeeded"]
    assert figure(page, "failed-ever") == refreshes["failed"]
    assert figure(page, "succeeded") == refreshes["last_24h"]["succeeded"]
    assert figure(page, "failed") == refreshes["last_24h"]["failed"]
    assert figure(page, "handed-out-ever") == (1 if slug == "acme" else 0)
    if slug == "globex":
        assert "No token was handed out in the last hour." in page
        assert "suspended</code>" in page
    else:
        counts = HandOut.objects.filter(minute__gt=int(time.time()) // 60 - 60)
        assert figure(page, "handed-out") == sum(counts.values_list("count", flat=True))
        assert "suspended</code>" not in page


def test_each_number_leads_to_the_list_of_those_who_are_counted(busy: Cast, root: Client) -> None:
    OAuthCredential.objects.filter(pk=busy["user-05"].pk).update(problem="upstream_error")
    OAuthCredential.objects.filter(pk=busy["user-06"].pk).update(
        refresh_due_at=int(time.time()) - 3600
    )
    context = root.get(HOME).context

    def listed(link: str) -> int:
        return len(root.get(link).context["cl"].result_list)

    for entry in (*context["by_status"], *context["login_ends"]):
        assert listed(entry["link"]) == entry["count"], entry["link"]
    assert listed(context["stopped_link"]) == context["stopped_count"] == 5
    links = {problem.name: problem.link for problem in context["problems"]}
    assert listed(links["overdue"]) == context["overdue"] == 3  # with erik and judith
    assert listed(links["failing"]) == 1


# --- Charts ----------------------------------------------------------------------------------


def test_a_chart_is_of_a_day_or_of_a_week_by_a_plain_link(cast: Cast, root: Client) -> None:
    """No script is asked for it. Anything else than the two is a day."""
    day, week, nonsense = (home(root, ask) for ask in ("", "?refreshes=7d", "?refreshes=<b>"))
    assert figure(day, "succeeded") == figure(nonsense, "succeeded") == 2
    assert figure(week, "succeeded") == 3
    assert figure(day, "succeeded-24h") == figure(week, "succeeded-24h") == 2
    shown = '<a href="?refreshes={0}#refreshes" aria-current="true">'
    assert shown.format("24h") in day
    assert shown.format("7d") in week
    assert "<b>" not in nonsense


def test_a_chart_says_the_same_in_words_and_in_a_table(cast: Cast, root: Client) -> None:
    attempt(cast["erik"], Outcome.UNREACHABLE, hours_ago=0)
    attempt(cast["bob"], Outcome.INVALID_GRANT, hours_ago=0)
    page = home(root)
    drawn = page.partition('aria-labelledby="refreshes"')[2].partition("</section>")[0]
    assert 'aria-label="Refreshes that failed in the last 24 hours, by the hour: 3 together."' in (
        drawn
    )
    assert "2 server not reached" not in drawn  # in two different hours
    assert "1 login refused, 1 server not reached" in drawn
    assert re.search(r"<th scope=\"row\">[^<]+–now</th><td>0</td><td>2</td>", drawn)
    legend = drawn.partition('<ul class="ov-legend">')[2].partition("</ul>")[0]
    assert re.findall(r'ov-number">(\d+)<', legend) == ["1", "2"]


def test_where_nothing_happened_the_page_says_so(plant: Plant, acme: Tenant, root: Client) -> None:
    plant(acme, "alice")
    page = home(root)
    assert "No refresh in the last 24 hours." in page
    assert "No refresh in the last 7 days." in home(root, "?refreshes=7d")
    assert "No token was handed out in the last hour." in page
    assert "Nobody who works now will stop within a week." in page
    assert "ov-chart" not in page


def test_every_class_of_failure_has_its_words_and_its_colour() -> None:
    assert set(WORDS) == set(TONES) == set(statistics.FAILURES)
    assert len({str(words) for words in WORDS.values()}) == len(WORDS)


def test_a_column_is_as_high_as_its_number_and_never_too_small_to_be_seen() -> None:
    drawn = charts.chart(
        [
            Column(title="a", parts=[Part(tone="good", number=1000)]),
            Column(title="b", parts=[Part(tone="good", number=250), Part(tone="bad", number=250)]),
            Column(title="c", parts=[Part(tone="good", number=0), Part(tone="bad", number=1)]),
            Column(title="d", parts=[]),
        ],
        words="",
    )
    assert drawn.most == 1000
    assert [(piece.tone, piece.y, piece.height) for piece in drawn.pieces] == [
        ("good", "0.00%", "100.00%"),
        ("good", "75.00%", "25.00%"),
        ("bad", "50.00%", "25.00%"),
        ("bad", "98.00%", "2.00%"),
    ]
    assert [place.x for place in drawn.places] == ["0.00%", "25.00%", "50.00%", "75.00%"]
    assert charts.chart([], words="").most == 0


# --- What it costs ---------------------------------------------------------------------------


@pytest.mark.parametrize("question", ["", "?refreshes=7d"])
def test_home_asks_as_often_for_hundreds_as_for_thirty(
    busy: Cast, root: Client, question: str
) -> None:
    def cost() -> int:
        with CaptureQueriesContext(connection) as queries:
            home(root, question)
        return len(queries)

    cost()  # The first one may read the database's clock as well.
    before = cost()
    now = time.time()
    OAuthCredential.objects.bulk_create(
        OAuthCredential(
            tenant=busy.acme, user_id=f"more-{number}", expires_at=int(now) - number,
            access_token_encrypted="sealed", data_key=busy["alice"].data_key,
            problem="upstream_error", login_expires_at=int(now) + number,
        )
        for number in range(200)
    )  # fmt: skip
    RefreshAttempt.objects.bulk_create(
        RefreshAttempt(
            tenant=busy.acme, credential=busy["alice"], lease_id=uuid.uuid4(), cause=Cause.SWEEP,
            generation=1, started_at=now - 2000 * number, outcome=Outcome.UNREACHABLE,
        )
        for number in range(300)
    )  # fmt: skip
    HandOut.objects.bulk_create(
        HandOut(tenant=busy.acme, credential=busy["bob"], actor=f"key {number}",
                minute=int(now) // 60 - number % 60, count=1)
        for number in range(300)
    )  # fmt: skip
    assert cost() == before <= 25


# --- What is wrong, and what to do -----------------------------------------------------------


def test_where_all_is_well_no_problem_is_named(plant: Plant, acme: Tenant, root: Client) -> None:
    now = time.time()
    plant(acme, "alice")
    Heartbeat.objects.create(part="scheduler", at=now - 5)
    workers.beat("worker one", now=now)
    page = home(root)
    assert "Everybody can work." in page
    assert names_of_problems(page) == []
    assert "What is wrong" not in page
    assert "ov-edge-good" in page


@pytest.mark.parametrize(
    ("seen", "says"),
    [
        ((), "No worker has been seen within the last hour."),
        ((180,), "No worker is running: the last one was seen 3 min ago."),
        ((180, 4000, 300), "No worker is running: the last one was seen 3 min ago."),
        ((-7200,), "No worker has been seen within the last hour."),  # of a clock that was ahead
        ((20, 3000), None),
    ],
)
def test_that_no_worker_is_alive_is_said(
    plant: Plant, acme: Tenant, root: Client, seen: Iterable[int], says: str | None
) -> None:
    plant(acme, "alice")
    now = time.time()
    Heartbeat.objects.create(part="scheduler", at=now - 5)
    for number, ago in enumerate(seen):
        Heartbeat.objects.create(part=f"worker {number}", at=now - ago)
    page = home(root)
    if says is None:
        assert names_of_problems(page) == []
        assert figure(page, "workers") == 1
    else:
        assert says in page
        assert "oauthvault worker" in page
        assert names_of_problems(page) == ["no-worker"]
        assert figure(page, "workers") == 0


def test_a_scheduler_that_is_away_is_told_from_a_worker_that_is_away(
    plant: Plant, acme: Tenant, root: Client, settings: Settings
) -> None:
    plant(acme, "alice")
    now = time.time()
    workers.beat("worker one", now=now)
    Heartbeat.objects.create(part="scheduler", at=now - 600)
    page = home(root)
    assert names_of_problems(page) == ["no-scheduler"]
    assert "Nothing is refreshed ahead: the scheduler was last seen 10 min ago." in page
    assert "oauthvault beat" in page
    assert "ov-edge-bad" in page
    settings.CLAUDE_OAUTH_AUTO_REFRESH = False
    page = home(root)
    assert "Nothing is refreshed ahead" not in page
    assert "The scheduler was last seen 10 min ago." in page


def spooled(credential: OAuthCredential, *, ago: float) -> spool.Entry:
    return spool.Entry(
        vault_id=str(epoch.vault_id()), tenant_id=credential.tenant_id,
        credential_id=credential.pk, generation=1, lease_id=str(uuid.uuid4()), cause=Cause.SWEEP,
        actor="", tries=1, latency_ms=10, answered_at=time.time() - ago, data_key=1,
        refused={"kind": "unreachable"},
    )  # fmt: skip


def test_answers_in_the_spool_are_said_to_whom_they_concern(
    cast: Cast, root: Client, staff: Staff
) -> None:
    for name, ago in (("alice", 3700), ("bob", 60)):
        spool.put(spooled(cast[name], ago=ago))
    page = home(root)
    assert "2 answers of the authorization server wait to be saved." in page
    assert "1 h 1 min ago" in page.partition('id="spooled"')[2].partition("</li>")[0]
    assert figure(page, "spool-now") == 2
    theirs = home(staff(*SEE, tenants=[cast.globex]))
    assert "spooled" not in names_of_problems(theirs)
    assert figure(theirs, "spool-now") == 0


def test_what_waits_for_too_long_to_be_sealed_is_said(cast: Cast, root: Client) -> None:
    assert "unsealed" not in names_of_problems(home(root))
    # As if the record had come before: the database itself lets nobody change one.
    AuditEvent.objects.create(
        tenant=cast.acme, at=time.time() - 900, actor="test", action="import", subject="alice"
    )
    page = home(root)
    assert "have waited for too long to be sealed" in page
    assert "15 min ago" in page.partition('id="unsealed"')[2].partition("</li>")[0]


def test_a_key_in_unusual_use_is_said_to_whom_may_see_keys(
    cast: Cast, root: Client, staff: Staff
) -> None:
    now = int(time.time())
    for hour in (now // 3600, now // 3600 - 1):
        KeySpan.objects.create(
            tenant=cast.acme, actor="key ovs_Ab12Cd34", hour=hour, users=41, usual=6,
            noticed_at=now - 60,
        )  # fmt: skip
    page = home(root)
    assert "1 service key was handed the tokens of unusually many users" in page
    assert 'href="/admin/api/apikey/"' in page.partition('id="unusual-keys"')[2]
    assert "unusual-keys" not in names_of_problems(home(staff(*SEE)))


def test_the_worst_comes_first_and_colours_the_page(cast: Cast, root: Client) -> None:
    Heartbeat.objects.all().delete()
    names = names_of_problems(home(root))
    assert names[:2] == ["no-worker", "no-scheduler"]
    assert "overdue" in names[2:]


# --- First steps -----------------------------------------------------------------------------


def test_an_empty_vault_leads_to_a_tenant_a_login_and_a_key(
    root: Client, plant: Plant, make_key: MakeKey
) -> None:
    page = home(root)
    assert 'href="/admin/tokens/tenant/add/"' in page
    assert "oauthvault import_credentials" in page
    assert f'href="{reverse("admin:tokens_oauthcredential_import_page")}"' in page
    assert 'href="/admin/api/apikey/add/"' in page
    tenant = Tenant.objects.create(slug="initech")
    plant(tenant, "peter")
    page = home(root)
    assert 'href="/admin/tokens/tenant/add/"' not in page
    assert "oauthvault import_credentials" not in page
    assert 'href="/admin/api/apikey/add/"' in page
    make_key(tenant)
    assert "First steps" not in home(root)


def test_who_may_only_look_is_led_to_no_form(
    acme: Tenant, globex: Tenant, staff: Staff, make_key: MakeKey
) -> None:
    """And a key of another tenant is none of theirs."""
    make_key(globex)
    page = home(staff(*SEE, "tokens.view_tenant", "api.view_apikey", tenants=[acme]))
    assert "First steps" in page
    assert "/add/" not in page
    assert "A service key" in page
    assert "First steps" not in home(staff(tenants=[acme]))


# --- Workers ---------------------------------------------------------------------------------


def parts() -> set[str]:
    return set(Heartbeat.objects.values_list("part", flat=True))


@pytest.mark.django_db
def test_a_worker_beats_and_leaves_and_what_a_killed_one_left_is_swept_up() -> None:
    now = time.time()
    Heartbeat.objects.create(part="scheduler", at=now - 90_000)
    workers.beat("worker killed", now=now - 3650)
    workers.beat("worker old", now=now - 90)
    workers.beat("worker old", now=now)
    assert parts() == {"scheduler", "worker killed", "worker old"}
    assert workers.look(now=now) == workers.Workers(alive=1, last_seen=now)
    workers.beat("worker new", now=now)
    assert parts() == {"scheduler", "worker old", "worker new"}
    assert workers.look(now=now).alive == 2
    workers.leave("worker old")
    assert parts() == {"scheduler", "worker new"}
    assert workers.look(now=now + 61).alive == 0
    assert workers.look(now=now + 61).last_seen == now


def test_two_workers_of_one_machine_have_two_names_that_fit() -> None:
    longest = Heartbeat._meta.get_field("part").max_length
    assert longest is not None
    names = {workers.name_of_this_one() for _ in range(5)}
    assert len(names) > 1
    assert all(name.startswith("worker ") and len(name) <= longest for name in names)


# --- By indexes ------------------------------------------------------------------------------


def test_on_postgresql_what_home_looks_for_is_found_by_its_indexes(cast: Cast) -> None:
    if connection.vendor != "postgresql":
        pytest.skip("SQLite does not use a partial index for a value that it is told later")
    now = time.time()
    RefreshAttempt.objects.bulk_create(
        RefreshAttempt(
            tenant=cast.acme, credential=cast["alice"], lease_id=uuid.uuid4(), cause=Cause.SWEEP,
            generation=1, started_at=now - 3600 * number, outcome=Outcome.REFRESHED,
        )
        for number in range(2000)
    )  # fmt: skip
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE tokens_refreshattempt, claude_oauth_tokens")
        # Small tables are read whole whatever indexes they have; this asks for the choice.
        cursor.execute("SET LOCAL enable_seqscan = off")
    with CaptureQueriesContext(connection) as queries:
        courses.refreshes_by_hour(hours=24, now=now)
        dashboard._next_expiries(now)
    plans = []
    for query in queries.captured_queries:
        with connection.cursor() as cursor:
            cursor.execute("EXPLAIN " + query["sql"].rpartition(";\n")[2])
            plans.append("\n".join(row[0] for row in cursor.fetchall()))
    assert "attempt_by_time" in plans[0]
    assert "credential_next_expiry" in plans[1]
