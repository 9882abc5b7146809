"""A tenant's credentials, page by page, without opening anything."""

from dataclasses import dataclass
from datetime import UTC, datetime

from django.conf import settings
from django.db.models import Case, CharField, F, Q, QuerySet, Value, When

from tokens import isolation
from tokens.models import OAuthCredential, Standing, Status, Tenant
from tokens.models.credential import leased


@dataclass(frozen=True, kw_only=True)
class Page:
    """``next_after``: ask with this for the following page; None: this is the last one."""

    credentials: list[OAuthCredential]
    next_after: str | None


@isolation.of_its_tenant
def list_credentials(
    *, tenant: Tenant, status: Status | None, after: str | None, limit: int, now: float
) -> Page:
    """Up to ``limit`` credentials in the order of user ids, after the user id ``after``."""
    found: QuerySet[OAuthCredential] = OAuthCredential.objects.for_tenant(tenant)
    if status is not None:
        found = found.annotate(status_now=status_in_sql(now=now)).filter(status_now=status)
    if after is not None:
        found = found.filter(user_id__gt=after)
    page = list(found.order_by("user_id").defer("access_token_encrypted")[: limit + 1])
    for credential in page:
        credential.tenant = tenant
    more = len(page) > limit
    return Page(credentials=page[:limit], next_after=page[limit - 1].user_id if more else None)


def named(text: str) -> Q:
    """Whose user id or account's e-mail address begins with this; after a ``*`` it may stand
    anywhere in them, which reads every row. Sealed columns are never asked."""
    wanted = text.strip()
    if wanted.startswith("*"):
        part = wanted.lstrip("*").strip()
        return Q(user_id__icontains=part) | Q(account_email__contains=part.lower())
    return (
        Q(user_id__begins=wanted)
        | Q(user_id__begins=wanted.lower())
        | Q(account_email__begins=wanted.lower())
    )


def failing(*, at_least: int = 1) -> Q:
    """Whose last refreshes failed, so many in a row. Served by the index `credential_failing`."""
    return ~Q(standing=Standing.REVOKED) & Q(
        consecutive_failures__gt=0, consecutive_failures__gte=at_least
    )


def unused(*, since: float) -> Q:
    """Who was handed nothing since then, though it was there: whoever came later is no idler."""
    before = Q(last_used__lt=int(since)) | Q(
        last_used=None, created_at__lt=datetime.fromtimestamp(since, UTC)
    )
    return ~Q(standing=Standing.REVOKED) & before


def never_used() -> Q:
    return ~Q(standing=Standing.REVOKED) & Q(last_used=None)


def status_in_sql(*, now: float) -> Case:
    """`OAuthCredential.status`, for the database to filter and count by."""
    return Case(
        When(~Q(standing=Standing.ACTIVE), then=F("standing")),
        When(suspended_at__isnull=False, then=Value(Status.SUSPENDED.value)),
        When(leased(now), then=Value(Status.REFRESHING.value)),
        When(unanswered_presentations__gt=0, then=Value(Status.OUTCOME_UNKNOWN.value)),
        When(Q(expires_at__lte=int(now)) & ~renewable(), then=Value(Status.EXPIRED.value)),
        default=Value(Status.ACTIVE.value),
        output_field=CharField(),
    )


def renewable() -> Q:
    """Whether the vault renews it by itself: `has_refresh_token` and `refreshes_ahead`."""
    if not settings.CLAUDE_OAUTH_AUTO_REFRESH:
        return Q(pk__isnull=True)
    return (
        Q(refresh_token_encrypted__isnull=False)
        & (Q(auto_refresh=None) | Q(auto_refresh=True))
        & (Q(tenant__auto_refresh=None) | Q(tenant__auto_refresh=True))
    )
