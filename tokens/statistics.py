"""Counts: kept ones, written with what they count, and those read from the rows."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.db.models import Case, Count, F, Min, Model, Q, Sum, When
from django.db.models.aggregates import Aggregate

from tokens import endings, isolation
from tokens.listing import renewable, status_in_sql
from tokens.models import (
    HandOutTally,
    OAuthCredential,
    Outcome,
    RefreshAttempt,
    RefreshTally,
    Standing,
    Status,
    Tenant,
    TenantStatistics,
)

# Upper bounds in milliseconds, which is what a tally of refreshes is kept by.
LATENCY_BUCKETS_MS = (50, 100, 250, 500, 1000, 2500, 5000, 10_000, 30_000)

# What a refresh can end in.
ENDINGS = [outcome for outcome in Outcome if outcome != Outcome.IN_FLIGHT]

_SOON = 3600
_DAY = 86_400
# What of them is a failure.
FAILURES = [
    outcome for outcome in ENDINGS if outcome not in (Outcome.REFRESHED, Outcome.SUPERSEDED)
]


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """The document's token statistics for one tenant. Times are Unix seconds."""

    active_tokens: int
    expiring_soon: int
    expired: int
    reauthorization_required: int
    revoked: int
    refreshes_succeeded: int
    refreshes_failed: int
    succeeded_last_24h: int
    failed_last_24h: int
    auth_failures: int
    next_expiry: int | None
    as_of: int


@dataclass(frozen=True, kw_only=True)
class Overview:
    """Everything that is counted of credentials, as of one moment and by one look at the rows.

    ``overdue_since``: since when the first of the overdue ones is
    (Unix seconds). ``logins_ending``: how many end within so many days. ``chosen``: what the
    caller wanted to have counted as well.
    """

    statistics: Statistics
    by_status: Mapping[Status, int]
    overdue: int
    overdue_since: int | None
    logins_ending: Mapping[int, int]
    chosen: Mapping[str, int]

    @property
    def total(self) -> int:
        return sum(self.by_status.values())


@isolation.of_its_tenant
def statistics_for(*, tenant: Tenant, now: float) -> Statistics:
    return _statistics(Q(tenant=tenant), now=now)


@isolation.every_tenant()
def statistics_of_all(*, now: float) -> Statistics:
    """The same for every tenant together, for those who keep the deployment."""
    return _statistics(Q(), now=now)


def overview_in_scope(*, now: float, chosen: Mapping[str, Q] | None = None) -> Overview:
    """The same, and more, of the tenants for whom the code is at work, together."""
    told = status_in_sql(now=now)
    counted = (
        OAuthCredential.objects.order_by()
        .alias(told=told)
        .aggregate(
            overdue_since=Min(_overdue_since(now), filter=overdue(now=now)),
            **_counts(now),
            **in_need(now=now),
            # No GROUP BY: PostgreSQL takes the status for something of which there are many, and
            # would sort all the rows by it.
            **{f"is_{status}": Count("pk", filter=Q(told=status.value)) for status in Status},
            **{
                f"chosen_{name}": Count("pk", filter=condition)
                for name, condition in (chosen or {}).items()
            },
        )
    )
    return Overview(
        statistics=_statistics(Q(), now=now, counts=counted),
        by_status={status: counted[f"is_{status}"] for status in Status},
        overdue=counted["overdue"],
        overdue_since=counted["overdue_since"],
        logins_ending={days: counted[f"within_{days}d"] for days in endings.WARNING_DAYS},
        chosen={name: counted[f"chosen_{name}"] for name in chosen or ()},
    )


def results_in_scope() -> dict[str, int]:
    """What has come of questions for a token ever: `handed_out`, or the code of the refusal."""
    return dict(HandOutTally.objects.order_by().values_list("result").annotate(number=Sum("count")))


def in_need(*, now: float) -> dict[str, Count]:
    """How many the scheduler has left behind (``overdue``), and how many only a new login will
    help (``within_7d`` and so on): to be counted by whatever asks for the rows."""
    return {
        "overdue": Count("pk", filter=overdue(now=now)),
        **{
            f"within_{days}d": Count("pk", filter=login_ends(within=days, now=now))
            for days in endings.WARNING_DAYS
        },
    }


def overdue(*, now: float) -> Q:
    """Whose refresh should have happened: a due time that two sweeps have passed by, or a
    token that ended although it could have been renewed."""
    late = Q(refresh_due_at__lte=_two_sweeps_ago(now)) | Q(expires_at__lte=int(now))
    return (
        late
        & Q(standing=Standing.ACTIVE, suspended_at=None, tenant__suspended_at=None)
        & renewable()
    )


def login_ends(*, within: int, now: float) -> Q:
    """Whose login, or token that nothing renews, ends for good within so many days."""
    at = int(now)
    return Q(standing=Standing.ACTIVE) & endings.end_between(
        after=at, until=at + within * endings.DAY
    )


def count_refresh(*, tenant: Tenant, outcome: Outcome, latency_ms: int) -> None:
    """Count one refresh that ended, ``latency_ms`` milliseconds after it was begun. Part of
    the transaction that saves it.

    A superseded one is in the tally by outcome only: it brought a pair that nobody wanted
    any more, which is neither a success nor a failure.
    """
    if outcome != Outcome.SUPERSEDED:
        succeeded = outcome == Outcome.REFRESHED
        _add(
            TenantStatistics,
            {"tenant_id": tenant.pk},
            refreshes_succeeded=int(succeeded),
            refreshes_failed=int(not succeeded),
            auth_failures=int(outcome == Outcome.INVALID_GRANT),
        )
    # After the row above, and never before: whoever holds both has taken them in one order.
    _add(
        RefreshTally,
        {"tenant_id": tenant.pk, "outcome": outcome.value, "le_ms": _bucket(latency_ms)},
        count=1,
        total_ms=latency_ms,
    )


def count_rejection(*, tenant: Tenant) -> None:
    """Count one 401 of the upstream that was reported to us."""
    _add(TenantStatistics, {"tenant_id": tenant.pk}, auth_failures=1)


def _statistics(whose: Q, *, now: float, counts: Mapping[str, Any] | None = None) -> Statistics:
    """``counts``: what `_counts` count, where that has been done already."""
    if counts is None:
        counts = OAuthCredential.objects.filter(whose).aggregate(**_counts(now))
    last_day = RefreshAttempt.objects.filter(whose, started_at__gt=now - _DAY).aggregate(
        succeeded=Count("outcome", filter=Q(outcome=Outcome.REFRESHED)),
        failed=Count("outcome", filter=Q(outcome__in=FAILURES)),
    )
    kept = TenantStatistics.objects.filter(whose).aggregate(
        succeeded=Sum("refreshes_succeeded", default=0),
        failed=Sum("refreshes_failed", default=0),
        refused=Sum("auth_failures", default=0),
    )
    return Statistics(
        active_tokens=counts["active"],
        expiring_soon=counts["soon"],
        expired=counts["expired"],
        reauthorization_required=counts["lost"],
        revoked=counts["revoked"],
        refreshes_succeeded=int(kept["succeeded"]),
        refreshes_failed=int(kept["failed"]),
        succeeded_last_24h=last_day["succeeded"],
        failed_last_24h=last_day["failed"],
        auth_failures=int(kept["refused"]),
        next_expiry=counts["next_expiry"],
        as_of=int(now),
    )


def _counts(now: float) -> dict[str, Aggregate]:
    at = int(now)
    return {
        "active": Count("pk", filter=active_at(at)),
        "soon": Count("pk", filter=active_at(at) & Q(expires_at__lte=at + _SOON)),
        "expired": Count("pk", filter=Q(standing=Standing.ACTIVE, expires_at__lte=at)),
        "lost": Count("pk", filter=Q(standing=Standing.REAUTHORIZATION_REQUIRED)),
        "revoked": Count("pk", filter=Q(standing=Standing.REVOKED)),
        "next_expiry": Min("expires_at", filter=active_at(at)),
    }


def _overdue_since(now: float) -> Case:
    """By the due time where there is one that has passed, else by the end of the token."""
    return Case(
        When(refresh_due_at__lte=_two_sweeps_ago(now), then=F("refresh_due_at")),
        default=F("expires_at"),
    )


def _two_sweeps_ago(now: float) -> int:
    return int(now - 2 * settings.SWEEP_INTERVAL)


def active_at(at: int) -> Q:
    """What counts as an active token at the Unix second ``at``."""
    return Q(
        standing=Standing.ACTIVE,
        suspended_at=None,
        tenant__suspended_at=None,
        expires_at__gt=at,
    )


def _bucket(latency_ms: int) -> int:
    """The bound of the bucket in milliseconds; 0 for what is longer than the longest."""
    return next((bound for bound in LATENCY_BUCKETS_MS if latency_ms <= bound), 0)


def _add(model: type[Model], row: dict[str, Any], **numbers: int) -> None:
    """Raise the numbers of one row, which is made with the first of them.

    Made in a savepoint (`get_or_create`): of two saves that make it at once, the one that
    finds it made goes on, and loses nothing of what it saves.
    """
    rows = model._default_manager.filter(**row)
    higher = {name: F(name) + number for name, number in numbers.items()}
    if not rows.update(**higher):
        model._default_manager.get_or_create(**row)
        rows.update(**higher)
