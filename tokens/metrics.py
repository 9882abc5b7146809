"""The vault's own Prometheus metrics, read from durable records when somebody scrapes.

So they are right whichever process answers, and after a restart. A handful of grouped
queries for all tenants together; labelled by tenant, never by user.

Each name of the document stands bare and untyped. Those that count have a typed twin in
``…_total``; in the text format the two are different families, and that is the only
format in which they are served.
"""

from collections.abc import Iterable, Iterator

from django.conf import settings
from django.db.models import Count, Min, Q
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    Metric,
    UnknownMetricFamily,
)
from prometheus_client.registry import Collector

from tokens import clock
from tokens.listing import status_in_sql
from tokens.models import Heartbeat, OAuthCredential, Standing, Status, Tenant
from tokens.statistics import active_at

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SCHEDULER = "scheduler"
_LOGIN_WARNING_DAYS = (7, 3, 1)
_DAY = 86_400

_ACTIVE = "litellm_claude_oauth_tokens_active"
_REFRESHED = "litellm_claude_oauth_tokens_refreshed"
_FAILURES = "litellm_claude_oauth_auth_failures"
_EXPIRY = "litellm_claude_oauth_token_expiry_seconds"


class VaultCollector(Collector):
    """Reads the database at every scrape; raises DatabaseError when it does not answer."""

    def collect(self) -> Iterator[Metric]:
        now = clock.now()
        yield from _by_tenant(now)
        yield from _of_deployment(now)

    def describe(self) -> Iterable[Metric]:
        """Nothing: to be registered costs no query."""
        return []


# Our own registry: in the global one a bare name and its `_total` twin would count as one.
REGISTRY = CollectorRegistry(auto_describe=False)
REGISTRY.register(VaultCollector())


def exposition() -> bytes:
    """The vault's metrics in Prometheus' text format 0.0.4."""
    return generate_latest(REGISTRY)


def _by_tenant(now: float) -> Iterator[Metric]:
    at = int(now)
    tenants = list(
        Tenant.objects.values_list(
            "pk",
            "slug",
            "statistics__refreshes_succeeded",
            "statistics__auth_failures",
        ).order_by("slug")
    )
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
    for tenant_id, slug, refreshed, failures in tenants:
        active, soonest = living.get(tenant_id, (0, None))
        active_tokens.add_metric([slug], active)
        if soonest is not None:
            expiry.add_metric([slug], soonest - at)
        counts[0][2][slug], counts[1][2][slug] = refreshed or 0, failures or 0
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


def _of_deployment(now: float) -> Iterator[Metric]:
    at = int(now)
    # Whose refresh should have happened: a due time that two sweeps have passed by, or a
    # token that ended although it could have been renewed.
    late = Q(refresh_due_at__lte=int(now - 2 * settings.SWEEP_INTERVAL)) | Q(expires_at__lte=at)
    overdue = (
        late
        & Q(standing=Standing.ACTIVE, suspended_at=None, tenant__suspended_at=None)
        & Q(refresh_token_encrypted__isnull=False)
        & (Q(tenant__auto_refresh=None) | Q(tenant__auto_refresh=True))
    )
    if not settings.CLAUDE_OAUTH_AUTO_REFRESH:
        overdue = Q(pk__in=())
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
    yield credentials

    counted = OAuthCredential.objects.order_by().aggregate(
        overdue=Count("pk", filter=overdue),
        **{
            f"within_{days}d": Count(
                "pk",
                filter=Q(
                    standing=Standing.ACTIVE,
                    login_expires_at__gt=at,
                    login_expires_at__lte=at + days * _DAY,
                ),
            )
            for days in _LOGIN_WARNING_DAYS
        },
    )
    yield GaugeMetricFamily(
        "oauthvault_refreshes_overdue",
        "Credentials whose refresh should have happened by now.",
        value=counted["overdue"],
    )
    logins = GaugeMetricFamily(
        "oauthvault_logins_expiring",
        "Logins that end within so many days and need their person then.",
        labels=["within"],
    )
    for days in _LOGIN_WARNING_DAYS:
        logins.add_metric([f"{days}d"], counted[f"within_{days}d"])
    yield logins

    beat = Heartbeat.objects.filter(part=SCHEDULER).first()
    if beat is not None:
        yield GaugeMetricFamily(
            "oauthvault_scheduler_last_beat_age_seconds",
            "Seconds since the scheduler last had a sweep done.",
            value=max(0.0, now - beat.at),
        )
