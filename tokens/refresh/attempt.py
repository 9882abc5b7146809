"""The row and the attempt that a claim is about, as both kinds of answer need them."""

from tokens.models import OAuthCredential, Outcome, RefreshAttempt, Standing, Tenant
from tokens.refresh.claim import Claim


def locked(claim: Claim) -> OAuthCredential | None:
    """The row, if it is still of the generation that was presented. Whoever holds the
    lease by now does not matter: a stalled holder has the only valid pair in its hands."""
    row = locked_row(claim)
    return row if row is not None and row.generation == claim.generation else None


def locked_row(claim: Claim) -> OAuthCredential | None:
    """The row, of whichever generation; None if it is gone."""
    return (
        OAuthCredential.objects.select_for_update(of=("self",))
        .filter(tenant_id=claim.credential.tenant_id, pk=claim.credential.pk)
        .first()
    )


def attempt_of(claim: Claim) -> RefreshAttempt | None:
    """What the claim wrote down of itself. Read it when the row is locked: a save beside this
    one has then been committed, or comes after. None: see `tokens.refresh.stray`."""
    return RefreshAttempt.objects.filter(
        tenant_id=claim.credential.tenant_id,
        credential=claim.credential,
        lease_id=claim.lease_id,
        generation=claim.generation,
    ).first()


def settled(claim: Claim) -> Outcome | None:
    """How this claim's answer was saved before, if it was: by a transaction whose commit
    went through although we were told that it failed, or from the spool."""
    attempt = attempt_of(claim)
    return Outcome(attempt.outcome) if attempt is not None and attempt.answer_saved else None


def lives_on(claim: Claim) -> bool:
    """Whether another refresh of this very generation brought a pair home: then ours is of a
    login that is in use, and to revoke it would end that login (RFC 7009 section 2.1)."""
    return RefreshAttempt.objects.filter(
        tenant_id=claim.credential.tenant_id,
        credential=claim.credential,
        credential__standing__in=[Standing.ACTIVE, Standing.QUARANTINED],
        generation=claim.generation,
        outcome=Outcome.REFRESHED,
    ).exists()


def is_of_nobody(claim: Claim) -> bool:
    """Whether the tenant has been deleted since: there is nothing left to write to."""
    return not Tenant.objects.filter(pk=claim.credential.tenant_id).exists()


def clear_lease(current: OAuthCredential, claim: Claim) -> None:
    """The lease id decides this, and nothing else."""
    if current.lease_id == claim.lease_id:
        current.lease_id, current.lease_until, current.taken_until = None, None, None


def end_attempt(
    claim: Claim, outcome: Outcome, status: int | None, tries: int, latency_ms: int, now: float
) -> None:
    """Write down how the attempt ended, with the answer's own transaction."""
    RefreshAttempt.objects.filter(
        tenant_id=claim.credential.tenant_id, lease_id=claim.lease_id
    ).update(
        outcome=outcome,
        upstream_status=status,
        tries=tries,
        latency_ms=latency_ms,
        ended_at=now,
        answer_saved=True,
    )
