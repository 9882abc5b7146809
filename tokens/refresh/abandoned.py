"""Refreshes whose process died: found by the mark that their claim left."""

from typing import Any

from django.conf import settings
from django.db.models import Q, QuerySet

from tokens import audit, epoch, isolation
from tokens.models import OAuthCredential, Outcome, Problem, RefreshAttempt, Standing
from tokens.models.credential import longest_lease
from tokens.refresh import spool
from tokens.refresh.refusal import login_lost, say_login_lost
from tokens.refresh.set_back import cut_short

# Seconds after the end of a lease in which its holder may still be saving.
_STILL_SAVING = 60.0


def settle_abandoned(*, now: float) -> int:
    """Say plainly what became of refreshes whose process died: how many were settled.

    Call it when what lay in the spool has come home. An attempt still in flight after its
    lease ended without an answer we know of. A credential whose refresh token was presented
    as often as it may be needs a new login. What seems to have begun in the future was begun
    by a clock that has been set back since.
    """
    patience = _STILL_SAVING
    if not spool.sees_everything(epoch.vault_id()):
        patience += settings.SPOOL_GRACE
    settled = 0
    for tenant_id in _concerned(now=now):
        with isolation.of(tenant_id):
            settled += _left_in_flight(now=now).update(outcome=Outcome.UNKNOWN, ended_at=now)
            cut_short(_spent(), now=now)
            cut_short(_marked_too_long(now=now), now=now)
            for credential in (
                _spent().filter(lease_until__lt=now - patience).select_related("tenant")
            ):
                _give_up(credential, now=now)
    return settled


def _concerned(*, now: float) -> list[int]:
    """The tenants of whom there is something to settle: ids, and nothing else, across tenants."""
    with isolation.every_tenant():
        found = _ids(_left_in_flight(now=now)) | _ids(_spent()) | _ids(_marked_too_long(now=now))
    return sorted(found)


def _ids(rows: QuerySet[Any]) -> set[int]:
    return set(rows.order_by().values_list("tenant_id", flat=True).distinct())


def _left_in_flight(*, now: float) -> QuerySet[RefreshAttempt]:
    ended = Q(started_at__lt=now - settings.REFRESH_LEASE - _STILL_SAVING)
    set_ahead = Q(started_at__gt=now + settings.CLOCK_SLACK)
    return RefreshAttempt.objects.filter(ended | set_ahead, outcome=Outcome.IN_FLIGHT)


def _spent() -> QuerySet[OAuthCredential]:
    """Presented as often as may be, and not answered."""
    return OAuthCredential.objects.filter(
        standing=Standing.ACTIVE,
        unanswered_presentations__gte=settings.MOST_PRESENTATIONS,
    )


def _marked_too_long(*, now: float) -> QuerySet[OAuthCredential]:
    return OAuthCredential.objects.filter(taken_until__gt=now + longest_lease())


def _give_up(credential: OAuthCredential, *, now: float) -> None:
    """Unless it has moved on since it was read."""
    lost = login_lost(Problem.ANSWER_LOST, now)
    changed = OAuthCredential.objects.filter(
        tenant_id=credential.tenant_id,
        pk=credential.pk,
        generation=credential.generation,
        unanswered_presentations__gte=settings.MOST_PRESENTATIONS,
    ).update(**lost, lease_id=None, lease_until=None)
    if not changed:
        return
    audit.record(
        tenant=credential.tenant,
        actor="scheduler",
        action="refresh",
        subject=credential.user_id,
        outcome=Outcome.UNKNOWN,
        now=now,
    )
    for field, value in lost.items():
        setattr(credential, field, value)
    say_login_lost(credential, now=now)
