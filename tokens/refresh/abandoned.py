"""Refreshes whose process died: found by the mark that their claim left."""

from django.conf import settings

from tokens import audit
from tokens.models import OAuthCredential, Outcome, Problem, RefreshAttempt, Standing
from tokens.refresh.refusal import login_lost
from tokens.refresh.save import PATIENCE


def settle_abandoned(*, now: float) -> int:
    """Say plainly what became of refreshes whose process died: how many were settled.

    An attempt still in flight after its lease ended without an answer we know of. A
    credential whose refresh token was presented as often as it may be needs a new login.
    """
    settled = RefreshAttempt.objects.filter(
        outcome=Outcome.IN_FLIGHT, started_at__lt=now - settings.REFRESH_LEASE - PATIENCE
    ).update(outcome=Outcome.UNKNOWN, ended_at=now)
    exhausted = OAuthCredential.objects.filter(
        standing=Standing.ACTIVE,
        unanswered_presentations__gte=settings.MOST_PRESENTATIONS,
        lease_until__lt=now - PATIENCE,
    ).select_related("tenant")
    for credential in exhausted:
        changed = OAuthCredential.objects.filter(
            pk=credential.pk,
            generation=credential.generation,
            unanswered_presentations__gte=settings.MOST_PRESENTATIONS,
        ).update(**login_lost(Problem.ANSWER_LOST, now), lease_id=None, lease_until=None)
        if changed:
            audit.record(
                tenant=credential.tenant,
                actor="scheduler",
                action="refresh",
                subject=credential.user_id,
                outcome=Outcome.UNKNOWN,
                now=now,
            )
    return settled
