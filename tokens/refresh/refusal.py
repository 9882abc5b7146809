"""Save, where there is no new pair: which refusal says what about a credential."""

import logging
import random

from django.conf import settings
from django.db import transaction

from tokens import audit, clock, statistics
from tokens.diagnosis import describe_obstacle
from tokens.models import Cause, OAuthCredential, Outcome, Problem, RefreshAttempt, Standing
from tokens.oauth_client import Refusal, Refused
from tokens.refresh import gate
from tokens.refresh.attempt import clear_lease, end_attempt, is_of_nobody, locked, settled
from tokens.refresh.claim import Claim, is_proven
from tokens.refresh.schedule import back_off, second_look

logger = logging.getLogger(__name__)

_PROBLEM = {
    Refusal.INVALID_SCOPE: Problem.INVALID_SCOPE,
    Refusal.ACCOUNT_ON_HOLD: Problem.ACCOUNT_ON_HOLD,
    Refusal.RATE_LIMITED: Problem.RATE_LIMITED,
    Refusal.UPSTREAM_ERROR: Problem.UPSTREAM_ERROR,
    Refusal.UNREACHABLE: Problem.UPSTREAM_UNAVAILABLE,
    Refusal.UNKNOWN: Problem.NO_ANSWER,
}


def save_refused(
    claim: Claim, answer: Refused, *, tries: int, latency_ms: int, answered_at: float
) -> Outcome:
    """Note what became of the claim, and what follows for the credential."""
    tenant = claim.credential.tenant
    outcome = Outcome(answer.kind.value)
    ended: OAuthCredential | None = None
    with transaction.atomic():
        now = clock.now()
        current = locked(claim)
        before = settled(claim)
        if before is not None:
            return before
        if current is None and is_of_nobody(claim):
            return Outcome.SUPERSEDED
        if current is not None:
            if _note_refusal(current, claim, answer, tries, now):
                ended = current
        elif answer.kind is Refusal.INVALID_GRANT:
            # Another generation is there: somebody rotated it, and that is the answer.
            outcome = Outcome.SUPERSEDED
        end_attempt(claim, outcome, answer.status, tries, latency_ms, now)
        statistics.count_refresh(tenant=tenant, outcome=outcome, latency_ms=latency_ms)
        audit.record(
            tenant=tenant,
            actor=claim.actor,
            action="refresh",
            subject=claim.credential.user_id,
            outcome=outcome,
            now=now,
        )
        if answer.kind is Refusal.RATE_LIMITED:
            gate.close_for((answer.retry_after or 0.0) - (now - answered_at), now=now)
        if now - answered_at > settings.REFRESH_LEASE:
            pass  # From the spool: how the server was then says nothing of how it is now.
        elif answer.works:
            gate.note_answer()
        else:
            gate.note_failure(of=_counted_as(claim), was_probe=claim.is_probe, now=now)
    # Not before it is committed: what is rolled back is saved, and said, the next time.
    if ended is not None:
        ended.tenant = tenant
        say_login_lost(ended, now=now)
    return outcome


def _counted_as(claim: Claim) -> int | str:
    """Whose failure it is. Whoever may import has any number of made-up logins fail; all that
    were never refreshed here count as one for their tenant."""
    if is_proven(claim.credential):
        return claim.credential.pk
    return f"tenant {claim.credential.tenant_id}"


def _note_refusal(
    current: OAuthCredential, claim: Claim, answer: Refused, tries: int, now: float
) -> bool:
    """Whether the login has ended by it."""
    if current.lease_id != claim.lease_id and not _is_the_only_open_one(current, answer):
        # Another one has claimed it since, and decides. All that is known here is whether
        # this one presentation was answered.
        definite = not answer.spent_maybe and answer.kind is not Refusal.INVALID_GRANT
        if definite and current.unanswered_presentations > 0:
            current.unanswered_presentations -= 1
            current.save(update_fields=["unanswered_presentations"])
        return False
    final = _diagnose(current, claim, answer, tries, now)
    if final is not None:
        for field, value in login_lost(final, now).items():
            setattr(current, field, value)
        if claim.cause == Cause.REJECTED:
            # Upstream has refused the access token, and that is why it was asked: nothing of this
            # login is left.
            current.expires_at = min(current.expires_at, int(now))
        clear_lease(current, claim)
        current.save()
        return True
    current.problem, current.problem_at = _PROBLEM[answer.kind], int(now)
    current.consecutive_failures += 1
    # Nobody is at work at it any more, whatever becomes of its lease.
    current.taken_until = None
    if answer.spent_maybe:
        # The lease stays to its end: until then the first presentation may still be
        # under way over there.
        due = second_look(now=now, expires_at=current.expires_at)
    else:
        current.unanswered_presentations -= 1
        clear_lease(current, claim)
        wait = max(answer.retry_after or 0.0, back_off(current.consecutive_failures))
        if answer.kind is Refusal.RATE_LIMITED:
            wait = (answer.retry_after or 0.0) + random.uniform(0.5, 5)  # noqa: S311  spreads load
        due = int(now + wait) + 1
    if current.standing == Standing.ACTIVE and current.auto_refresh is not False:
        current.refresh_due_at = due
    current.save()
    return False


def _is_the_only_open_one(current: OAuthCredential, answer: Refused) -> bool:
    """Whether an `invalid_grant` that comes after its lease is believed all the same.

    Who claimed in between has had a definite answer and given the lease back: of all
    presentations this one alone was without an answer, and this is it. To go on would be to
    present a token that is known to be dead.
    """
    return (
        answer.kind is Refusal.INVALID_GRANT
        and current.lease_id is None
        and current.unanswered_presentations == 1
    )


def _diagnose(
    current: OAuthCredential, claim: Claim, answer: Refused, tries: int, now: float
) -> Problem | None:
    """What ended this login, or None while it may still live."""
    presented = current.unanswered_presentations
    if answer.spent_maybe and presented >= settings.MOST_PRESENTATIONS:
        return Problem.ANSWER_LOST
    if answer.kind is not Refusal.INVALID_GRANT:
        return None
    if presented > 1 or tries > 1 or _fell_over_before(claim):
        return Problem.ANSWER_LOST
    if current.login_expires_at is not None and current.login_expires_at <= now:
        return Problem.LOGIN_ENDED
    return Problem.ROTATED_ELSEWHERE


def _fell_over_before(claim: Claim) -> bool:
    """Whether this refresh token was answered with a server error before: a server that
    rotated first and fell over then has spent it, and nobody else has."""
    return RefreshAttempt.objects.filter(
        tenant_id=claim.credential.tenant_id,
        credential=claim.credential,
        generation=claim.generation,
        outcome=Outcome.UNREACHABLE,
        upstream_status__gte=500,
    ).exists()


def login_lost(problem: Problem, now: float) -> dict[str, object]:
    """The columns of a credential whose person must sign in again."""
    return {
        "standing": Standing.REAUTHORIZATION_REQUIRED,
        "problem": problem,
        "problem_at": int(now),
        "refresh_due_at": None,
        "taken_until": None,
    }


def say_login_lost(credential: OAuthCredential, *, now: float) -> None:
    """A person is out, and what brings them back. ``credential`` has `login_lost` in it."""
    logger.warning(
        "user %r of tenant %s must sign in again (%s; credential %s, tenant %s). %s",
        credential.user_id, credential.tenant.slug, credential.problem, credential.pk,
        credential.tenant_id, describe_obstacle(credential, now=now),
    )  # fmt: skip
