"""When a login ends for good, and that it is said before: 7, 3 and 1 days ahead.

A refresh renews the access token and not the login. So a credential with a refresh token
ends when its login does (``login_expires_at``, from the file or the server, or else an
estimate), and one without (a setup-token) when its access token does. Times are Unix
seconds.
"""

import logging
from collections import defaultdict
from datetime import UTC, datetime

from django.db import transaction
from django.db.models import Q, QuerySet

from tokens import audit, isolation
from tokens.models import OAuthCredential, Standing

logger = logging.getLogger(__name__)

WARNING_DAYS = (7, 3, 1)
DAY = 86_400
# How many are announced by one sweep; the others by those after it.
_PAGE = 200
# A quarantine says that the refresh token may be spent; the login ends on its day all the same.
_LIVING = (Standing.ACTIVE, Standing.QUARANTINED)


def ends_at(credential: OAuthCredential) -> int | None:
    """When nothing but a new login helps any more; None: nobody knows."""
    if credential.has_refresh_token:
        return credential.login_expires_at
    return credential.expires_at


def is_estimate(credential: OAuthCredential) -> bool:
    """Whether `ends_at` was counted from the import, because nobody has said it."""
    return credential.has_refresh_token and credential.login_expiry_is_estimate


def end_between(*, after: int | None, until: int) -> Q:
    """`ends_at`, for the database to filter by: later than ``after``, at ``until`` the latest."""
    login = Q(refresh_token_encrypted__isnull=False, login_expires_at__lte=until)
    access = Q(refresh_token_encrypted=None, expires_at__lte=until)
    if after is not None:
        login &= Q(login_expires_at__gt=after)
        access &= Q(expires_at__gt=after)
    return login | access


def next_announcement(*, ends_at: int | None, now: float) -> int | None:
    """When the first warning of a login that is new here is due: at once, if one of the days
    has passed already. None: there is nothing to warn of, or it is too late."""
    if _days_passed(ends_at, now=now) is not None:
        return int(now)
    return _after_this_one(ends_at, now=now)


def rescheduled(
    *, announce_at: int | None, ended_at: int | None, ends_at: int | None, now: float
) -> int | None:
    """When the next warning is due after the end has moved from ``ended_at`` to ``ends_at``.

    A server that names the end anew with every refresh must not have the same warning said
    after each of them: what was said is due again only if the end has come nearer.
    """
    before, after = _days_passed(ended_at, now=now), _days_passed(ends_at, now=now)
    unsaid = announce_at is not None and announce_at <= now
    if before is not None and after is not None and before <= after and not unsaid:
        return _after_this_one(ends_at, now=now)
    return next_announcement(ends_at=ends_at, now=now)


def due(*, now: float) -> QuerySet[OAuthCredential]:
    """What is to be announced, oldest first. Served by the index `credential_announce`."""
    return OAuthCredential.objects.filter(
        announce_at__isnull=False, announce_at__lte=int(now)
    ).order_by("announce_at")


def announce_due(*, now: float) -> int:
    """Say of each login whose warning is due that it ends: a line in the log and a record in
    the audit trail. The number said. Two sweeps at once say it once."""
    by_tenant: dict[int, list[int]] = defaultdict(list)
    # Across tenants, ids and nothing else.
    with isolation.every_tenant():
        for tenant_id, credential_id in due(now=now).values_list("tenant_id", "pk")[:_PAGE]:
            by_tenant[tenant_id].append(credential_id)
    said = 0
    for tenant_id, ids in by_tenant.items():
        with isolation.of(tenant_id):
            # Still due: another sweep may have come to it meanwhile.
            mine = due(now=now).filter(tenant_id=tenant_id, pk__in=ids)
            page = mine.select_related("tenant").defer("access_token_encrypted")
            said += sum(_announce(credential, now=now) for credential in page)
    return said


def _announce(credential: OAuthCredential, *, now: float) -> bool:
    """Take this warning from all other sweeps, and say it. False: there was none to say."""
    end = ends_at(credential)
    days = _days_passed(end, now=now) if credential.standing in _LIVING else None
    with transaction.atomic():
        # All that the warning says must still be so: an import may have come in between.
        taken = OAuthCredential.objects.filter(
            tenant_id=credential.tenant_id,
            pk=credential.pk,
            announce_at=credential.announce_at,
            generation=credential.generation,
            standing=credential.standing,
            expires_at=credential.expires_at,
            login_expires_at=credential.login_expires_at,
        ).update(announce_at=_next_one(credential, now=now))
        if not taken or days is None or end is None:
            return False
        estimate = is_estimate(credential)
        ends = f"{datetime.fromtimestamp(end, UTC):%Y-%m-%d %H:%M} UTC"
        audit.record(
            tenant=credential.tenant,
            actor="scheduler",
            action="login_ending",
            subject=credential.user_id,
            outcome="announced",
            now=now,
            days=days,
            ends=ends,
            estimate=estimate,
        )
    # Not before it is committed: what is rolled back is said by the next sweep.
    logger.warning(
        "the login of user %r of tenant %s (credential %s) ends within %s, on %s%s; "
        "no refresh extends it: the person signs in to Claude again before that",
        credential.user_id, credential.tenant.slug, credential.pk,
        "1 day" if days == 1 else f"{days} days", ends, " (an estimate)" if estimate else "",
    )  # fmt: skip
    return True


def _next_one(credential: OAuthCredential, *, now: float) -> int | None:
    """None for one that is lost or revoked: it leaves the index until a new login comes."""
    if credential.standing not in _LIVING:
        return None
    return _after_this_one(ends_at(credential), now=now)


def _days_passed(ends_at: int | None, *, now: float) -> int | None:
    """The smallest of the days before the end that has begun; None before them and after it."""
    if ends_at is None or ends_at <= now:
        return None
    return min((days for days in WARNING_DAYS if ends_at - days * DAY <= now), default=None)


def _after_this_one(ends_at: int | None, *, now: float) -> int | None:
    """The Unix second of the first of the days before the end that lies ahead."""
    if ends_at is None:
        return None
    ahead = (ends_at - days * DAY for days in WARNING_DAYS)
    return min((at for at in ahead if at > now), default=None)
