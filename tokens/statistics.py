"""Counts: kept ones, written with what they count, and those read from the rows."""

from dataclasses import dataclass

from django.db.models import Count, F, Min, Q, QuerySet, Sum

from tokens.models import (
    OAuthCredential,
    Outcome,
    RefreshAttempt,
    Standing,
    Tenant,
    TenantStatistics,
)

_SOON = 3600
_DAY = 86_400
_FAILED = [
    outcome
    for outcome in Outcome
    if outcome not in (Outcome.IN_FLIGHT, Outcome.REFRESHED, Outcome.SUPERSEDED)
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


def statistics_for(*, tenant: Tenant, now: float) -> Statistics:
    return _statistics(Q(tenant=tenant), now=now)


def statistics_of_all(*, now: float) -> Statistics:
    """The same for every tenant together, for those who keep the deployment."""
    return _statistics(Q(), now=now)


def count_refresh(*, tenant: Tenant, succeeded: bool, refused_credential: bool = False) -> None:
    """Count one refresh that ended. Part of the transaction that saves it."""
    _row(tenant).update(
        refreshes_succeeded=F("refreshes_succeeded") + int(succeeded),
        refreshes_failed=F("refreshes_failed") + int(not succeeded),
        auth_failures=F("auth_failures") + int(refused_credential),
    )


def count_rejection(*, tenant: Tenant) -> None:
    """Count one 401 of the upstream that was reported to us."""
    _row(tenant).update(auth_failures=F("auth_failures") + 1)


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


def _row(tenant: Tenant) -> QuerySet[TenantStatistics]:
    TenantStatistics.objects.get_or_create(tenant=tenant)
    return TenantStatistics.objects.filter(tenant=tenant)
