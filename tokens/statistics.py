"""Counts: kept ones, written with what they count, and those read from the rows."""

from dataclasses import dataclass
from typing import Any

from django.db.models import Count, F, Min, Model, Q, Sum

from tokens import isolation
from tokens.models import (
    OAuthCredential,
    Outcome,
    RefreshAttempt,
    RefreshTally,
    Standing,
    Tenant,
    TenantStatistics,
)

# Upper bounds in milliseconds, which is what a tally of refreshes is kept by.
LATENCY_BUCKETS_MS = (50, 100, 250, 500, 1000, 2500, 5000, 10_000, 30_000)

# What a refresh can end in.
ENDINGS = [outcome for outcome in Outcome if outcome != Outcome.IN_FLIGHT]

_SOON = 3600
_DAY = 86_400
_FAILED = [outcome for outcome in ENDINGS if outcome not in (Outcome.REFRESHED, Outcome.SUPERSEDED)]


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


@isolation.of_its_tenant
def statistics_for(*, tenant: Tenant, now: float) -> Statistics:
    return _statistics(Q(tenant=tenant), now=now)


@isolation.every_tenant()
def statistics_of_all(*, now: float) -> Statistics:
    """The same for every tenant together, for those who keep the deployment."""
    return _statistics(Q(), now=now)


def statistics_in_scope(*, now: float) -> Statistics:
    """The same for the tenants for whom the code is at work, together."""
    return _statistics(Q(), now=now)


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


def _statistics(whose: Q, *, now: float) -> Statistics:
    at = int(now)
    counts = OAuthCredential.objects.filter(whose).aggregate(
        active=Count("pk", filter=active_at(at)),
        soon=Count("pk", filter=active_at(at) & Q(expires_at__lte=at + _SOON)),
        expired=Count("pk", filter=Q(standing=Standing.ACTIVE, expires_at__lte=at)),
        lost=Count("pk", filter=Q(standing=Standing.REAUTHORIZATION_REQUIRED)),
        revoked=Count("pk", filter=Q(standing=Standing.REVOKED)),
        next=Min("expires_at", filter=active_at(at)),
    )
    last_day = RefreshAttempt.objects.filter(whose, started_at__gt=now - _DAY).aggregate(
        succeeded=Count("pk", filter=Q(outcome=Outcome.REFRESHED)),
        failed=Count("pk", filter=Q(outcome__in=_FAILED)),
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
        next_expiry=counts["next"],
        as_of=at,
    )


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
