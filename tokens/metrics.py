"""The vault's own Prometheus metrics, read from durable records when somebody scrapes.

So they are right whichever process answers, and after a restart. A handful of grouped
queries for all tenants together; labelled by tenant, never by user.

Each name of the document stands bare and untyped. Those that count have a typed twin in
``…_total``; in the text format the two are different families, and that is the only
format in which they are served.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

from django.db import connection
from django.db.models import Count, Min, Sum
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
    UnknownMetricFamily,
)
from prometheus_client.registry import Collector

from tokens import clock, endings, epoch, handouts, isolation, notices, statistics, workers
from tokens.condition import SCHEDULER
from tokens.listing import status_in_sql
from tokens.models import (
    AuditChain,
    HandOutTally,
    Heartbeat,
    OAuthCredential,
    RefreshTally,
    Status,
    Tenant,
    TenantStatistics,
)
from tokens.refresh import gate, spool
from tokens.statistics import ENDINGS, LATENCY_BUCKETS_MS, active_at
from tokens.trail import triggers

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_ACTIVE = "litellm_claude_oauth_tokens_active"
_REFRESHED = "litellm_claude_oauth_tokens_refreshed"
_FAILURES = "litellm_claude_oauth_auth_failures"
_EXPIRY = "litellm_claude_oauth_token_expiry_seconds"


class VaultCollector(Collector):
    """Reads the database at every scrape; raises DatabaseError when it does not answer."""

    def collect(self) -> Iterator[Metric]:
        now = clock.now()
        slugs = dict(Tenant.objects.order_by("slug").values_list("pk", "slug"))
        yield from _of_the_document(slugs, now)
        yield from _tallied(slugs)
        yield _unusual_keys(slugs, now)
        yield from _of_deployment(now)

    def describe(self) -> Iterable[Metric]:
        """Nothing: to be registered costs no query."""
        return []


# Our own registry: in the global one a bare name and its `_total` twin would count as one.
REGISTRY = CollectorRegistry(auto_describe=False)
REGISTRY.register(VaultCollector())


@isolation.every_tenant()
def exposition() -> bytes:
    """The vault's metrics in Prometheus' text format 0.0.4."""
    return generate_latest(REGISTRY)


def _of_the_document(slugs: Mapping[int, str], now: float) -> Iterator[Metric]:
    at = int(now)
    kept = {
        tenant_id: (refreshed, failures)
        for tenant_id, refreshed, failures in TenantStatistics.objects.values_list(
            "tenant_id", "refreshes_succeeded", "auth_failures"
        )
    }
    living = {
        tenant_id: (active, soonest)
        for tenant_id, active, soonest in OAuthCredential.objects.filter(active_at(at))
        .order_by()
        .values("tenant_id")
        .annotate(active=Count("pk"), soonest=Min("expires_at"))
        .values_list("tenant_id", "active", "soonest")
    }
    active_tokens = UnknownMetricFamily(
        _ACTIVE, "Credentials whose access token is alive and may be handed out.", labels=["tenant"]
    )
    expiry = UnknownMetricFamily(
        _EXPIRY, "Seconds until the next access token of the tenant expires.", labels=["tenant"]
    )
    counts: list[tuple[str, str, dict[str, int]]] = [
        (_REFRESHED, "Refreshes that brought a new token.", {}),
        (_FAILURES, "Credentials refused upstream: 401 reported, or invalid_grant.", {}),
    ]
    for tenant_id, slug in slugs.items():
        active, soonest = living.get(tenant_id, (0, None))
        active_tokens.add_metric([slug], active)
        if soonest is not None:
            expiry.add_metric([slug], soonest - at)
        counts[0][2][slug], counts[1][2][slug] = kept.get(tenant_id, (0, 0))
    yield active_tokens
    for name, what, by_slug in counts:
        bare = UnknownMetricFamily(name, what, labels=["tenant"])
        typed = CounterMetricFamily(name, what, labels=["tenant"])
        for slug, count in by_slug.items():
            bare.add_metric([slug], count)
            typed.add_metric([slug], count)
        yield bare
        yield typed
    yield expiry


def _tallied(slugs: Mapping[int, str]) -> Iterator[Metric]:
    """What was counted as it happened.

    Every series that can come is there from the start, at 0: of one that appears with its
    first event, Prometheus never sees that event as an increase.
    """
    yield _counter(
        "oauthvault_refresh_outcomes",
        "Refreshes that ended, by outcome.",
        slugs,
        ("outcome", [outcome.value for outcome in ENDINGS]),
        RefreshTally.objects.values_list("tenant_id", "outcome").annotate(number=Sum("count")),
    )
    yield _counter(
        "oauthvault_token_requests",
        "Questions for a token: handed_out, or the code of the refusal.",
        slugs,
        ("result", handouts.RESULTS),
        HandOutTally.objects.values_list("tenant_id", "result", "count"),
    )
    yield _refresh_durations()


def _counter(
    name: str,
    what: str,
    slugs: Mapping[int, str],
    by: tuple[str, Sequence[str]],
    rows: Iterable[tuple[int, str, int]],
) -> Metric:
    """A counter by tenant and by the one label ``by``: its name, and every value it has."""
    label, values = by
    counts = {(tenant_id, value): count for tenant_id, value, count in rows}
    family = CounterMetricFamily(name, what, labels=["tenant", label])
    for tenant_id, slug in slugs.items():
        for value in values:
            family.add_metric([slug, value], counts.get((tenant_id, value), 0))
    return family


def _refresh_durations() -> Metric:
    """By outcome, for all tenants together: a bucket for each tenant would be too many."""
    family = HistogramMetricFamily(
        "oauthvault_refresh_duration_seconds",
        "How long refreshes took, from being begun to their answer, by outcome.",
        labels=["outcome"],
    )
    counts: dict[str, dict[int, int]] = defaultdict(dict)
    total_ms: dict[str, int] = defaultdict(int)
    for outcome, le_ms, count, spent in (
        RefreshTally.objects.values_list("outcome", "le_ms")
        .annotate(Sum("count"), Sum("total_ms"))
        .order_by()
    ):
        counts[outcome][le_ms] = count
        total_ms[outcome] += spent
    for outcome in ENDINGS:
        family.add_metric(
            [outcome.value], _cumulated(counts[outcome.value]), total_ms[outcome.value] / 1000
        )
    return family


def _cumulated(counts: Mapping[int, int]) -> list[tuple[str, float]]:
    """Buckets as Prometheus has them: each holds those below it; bounds in seconds."""
    buckets: list[tuple[str, float]] = []
    so_far = 0
    for bound in LATENCY_BUCKETS_MS:
        so_far += counts.get(bound, 0)
        buckets.append((str(bound / 1000), so_far))
    return [*buckets, ("+Inf", sum(counts.values()))]


def _unusual_keys(slugs: Mapping[int, str], now: float) -> Metric:
    family = GaugeMetricFamily(
        "oauthvault_keys_with_unusual_span",
        "Service keys that were handed the tokens of unusually many users in an hour of the "
        "last day.",
        labels=["tenant"],
    )
    counts = dict(
        notices.noticed(now=now)
        .order_by()
        .values_list("tenant_id")
        .annotate(keys=Count("actor", distinct=True))
    )
    for tenant_id, slug in slugs.items():
        family.add_metric([slug], counts.get(tenant_id, 0))
    return family


def _of_deployment(now: float) -> Iterator[Metric]:
    yield _by_status(now)
    yield from _in_need(now)
    yield from _scheduler(now)
    yield from _far_side(now)
    yield from _audit_trail()


def _by_status(now: float) -> Metric:
    by_status = dict(
        OAuthCredential.objects.order_by()
        .values_list(status_in_sql(now=now))
        .annotate(number=Count("pk"))
    )
    credentials = GaugeMetricFamily(
        "oauthvault_credentials", "Credentials by status.", labels=["status"]
    )
    for status in Status:
        credentials.add_metric([status.value], by_status.get(status.value, 0))
    return credentials


def _in_need(now: float) -> Iterator[Metric]:
    """Whom the scheduler has left behind, and whom only a new login will help. One query."""
    counted = OAuthCredential.objects.order_by().aggregate(**statistics.in_need(now=now))
    yield GaugeMetricFamily(
        "oauthvault_refreshes_overdue",
        "Credentials whose refresh should have happened by now.",
        value=counted["overdue"],
    )
    logins = GaugeMetricFamily(
        "oauthvault_logins_expiring",
        "Logins, and credentials without a refresh token, that end for good within so many "
        "days and need their person then.",
        labels=["within"],
    )
    for days in endings.WARNING_DAYS:
        logins.add_metric([f"{days}d"], counted[f"within_{days}d"])
    yield logins


def _scheduler(now: float) -> Iterator[Metric]:
    beat = Heartbeat.objects.filter(part=SCHEDULER).first()
    if beat is not None:
        yield GaugeMetricFamily(
            "oauthvault_scheduler_last_beat_age_seconds",
            "Seconds since the scheduler last had a sweep done.",
            value=max(0.0, now - beat.at),
        )
    yield GaugeMetricFamily(
        "oauthvault_workers_alive",
        "Workers that were heard of within the last minute.",
        value=workers.look(now=now).alive,
    )


def _far_side(now: float) -> Iterator[Metric]:
    """What keeps refreshes from happening, and what waits to be saved."""
    door = gate.look(now=now)
    yield GaugeMetricFamily(
        "oauthvault_spool_depth",
        "Answers of the authorization server that wait to be saved.",
        value=spool.depth(epoch.vault_id()),
    )
    yield GaugeMetricFamily(
        "oauthvault_upstream_circuit_open",
        "1 while the authorization server was found down and one refresh at a time tries it.",
        value=int(door.found_down),
    )
    yield GaugeMetricFamily(
        "oauthvault_upstream_closed_seconds",
        "Seconds for which nothing will be sent upstream: a 429, or an open circuit.",
        value=max(0.0, door.closed_until - now),
    )
    yield GaugeMetricFamily(
        "oauthvault_quarantined",
        "1 while the database counts as a restored one.",
        value=int(epoch.deployment().quarantined_at is not None),
    )


def _audit_trail() -> Iterator[Metric]:
    """As of the last verification. Nothing is verified here."""
    yield GaugeMetricFamily(
        "oauthvault_audit_chains_broken",
        "Chains of the audit trail that were not proven whole when they were verified last.",
        value=AuditChain.objects.exclude(broken="").count(),
    )
    yield GaugeMetricFamily(
        "oauthvault_audit_triggers_missing",
        "Triggers that are missing, with which the database refuses to change the audit trail.",
        value=len(triggers.missing(connection)),
    )
