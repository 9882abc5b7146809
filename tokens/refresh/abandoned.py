"""Refreshes whose process died: found by the mark that their claim left."""

from django.conf import settings
from django.db.models import Q

from tokens import audit, epoch, isolation
from tokens.models import OAuthCredential, Outcome, Problem, RefreshAttempt, Standing
from tokens.models.credential import longest_lease
from tokens.refresh import spool
from tokens.refresh.refusal import login_lost, say_login_lost
from tokens.refresh.set_back import cut_short

# Seconds after the end of a lease in which its holder may still be saving.
_STILL_SAVING = 60.0


@isolation.every_tenant()
def settle_abandoned(*, now: float) -> int:
    """Say plainly what became of refreshes whose process died: how many were settled.

    Call it when what lay in the spool has come home. An attempt still in flight after its
    lease ended without an answer we know of. A credential whose refresh token was presented
    as often as it may be needs a new login. What seems to have begun in the future was begun
    by a clock that has been set back since.
    """
    ended = Q(started_at__lt=now - settings.REFRESH_LEASE - _STILL_SAVING)
    set_ahead = Q(started_at__gt=now + settings.CLOCK_SLACK)
    settled = RefreshAttempt.objects.filter(ended | set_ahead, outcome=Outcome.IN_FLIGHT).update(
        outcome=Outcome.UNKNOWN, ended_at=now
    )
    patience = _STILL_SAVING
    if not spool.sees_everything(epoch.vault_id()):
        patience += settings.SPOOL_GRACE
    spent = OAuthCredential.objects.filter(
        standing=Standing.ACTIVE,
        unanswered_presentations__gte=settings.MOST_PRESENTATIONS,
    )
    cut_short(spent, now=now)
    cut_short(OAuthCredential.objects.filter(taken_until__gt=now + longest_lease()), now=now)
    exhausted = spent.filter(lease_until__lt=now - patience).select_related("tenant")
    lost = login_lost(Problem.ANSWER_LOST, now)
    for credential in exhausted:
        changed = OAuthCredential.objects.filter(
            tenant_id=credential.tenant_id,
            pk=credential.pk,
            generation=credential.generation,
            unanswered_presentations__gte=settings.MOST_PRESENTATIONS,
        ).update(**lost, lease_id=None, lease_until=None)
        if changed:
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
    return settled
