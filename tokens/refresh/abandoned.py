"""Refreshes whose process died: found by the mark that their claim left."""

from django.conf import settings

from tokens import audit, epoch, isolation
from tokens.models import OAuthCredential, Outcome, Problem, RefreshAttempt, Standing
from tokens.refresh import spool
from tokens.refresh.refusal import login_lost, say_login_lost

# Seconds after the end of a lease in which its holder may still be saving.
_STILL_SAVING = 60.0


@isolation.every_tenant()
def settle_abandoned(*, now: float) -> int:
    """Say plainly what became of refreshes whose process died: how many were settled.

    Call it when what lay in the spool has come home. An attempt still in flight after its
    lease ended without an answer we know of. A credential whose refresh token was presented
    as often as it may be needs a new login.
    """
    settled = RefreshAttempt.objects.filter(
        outcome=Outcome.IN_FLIGHT, started_at__lt=now - settings.REFRESH_LEASE - _STILL_SAVING
    ).update(outcome=Outcome.UNKNOWN, ended_at=now)
    patience = _STILL_SAVING
    if not spool.sees_everything(epoch.vault_id()):
        patience += settings.SPOOL_GRACE
    exhausted = OAuthCredential.objects.filter(
        standing=Standing.ACTIVE,
        unanswered_presentations__gte=settings.MOST_PRESENTATIONS,
        lease_until__lt=now - patience,
    ).select_related("tenant")
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
