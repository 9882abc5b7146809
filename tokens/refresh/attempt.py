"""The row and the attempt that a claim is about, as both kinds of answer need them."""

from tokens.models import OAuthCredential, Outcome, RefreshAttempt
from tokens.refresh.claim import Claim


def locked(claim: Claim) -> OAuthCredential | None:
    """The row, if it is still of the generation that was presented. Whoever holds the
    lease by now does not matter: a stalled holder has the only valid pair in its hands."""
    return (
        OAuthCredential.objects.select_for_update(of=("self",))
        .filter(
            tenant_id=claim.credential.tenant_id,
            pk=claim.credential.pk,
            generation=claim.credential.generation,
        )
        .first()
    )


def clear_lease(current: OAuthCredential, claim: Claim) -> None:
    """The lease id decides this, and nothing else."""
    if current.lease_id == claim.lease_id:
        current.lease_id, current.lease_until = None, None


def end_attempt(
    claim: Claim, outcome: Outcome, status: int | None, tries: int, latency_ms: int, now: float
) -> None:
    """Write down how the attempt ended."""
    RefreshAttempt.objects.filter(
        tenant_id=claim.credential.tenant_id, lease_id=claim.lease_id
    ).update(
        outcome=outcome,
        upstream_status=status,
        tries=tries,
        latency_ms=latency_ms,
        ended_at=now,
    )
