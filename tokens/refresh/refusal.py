"""Save, where there is no new pair: which refusal says what about a credential."""

import random

from django.conf import settings
from django.db import transaction

from tokens import audit, clock, statistics
from tokens.models import OAuthCredential, Outcome, Problem, Standing
from tokens.oauth_client import Refusal, Refused
from tokens.refresh import gate
from tokens.refresh.attempt import clear_lease, end_attempt, locked
from tokens.refresh.claim import Claim
from tokens.refresh.schedule import back_off

_PROBLEM = {
    Refusal.INVALID_SCOPE: Problem.INVALID_SCOPE,
    Refusal.ACCOUNT_ON_HOLD: Problem.ACCOUNT_ON_HOLD,
    Refusal.RATE_LIMITED: Problem.RATE_LIMITED,
    Refusal.UPSTREAM_ERROR: Problem.UPSTREAM_ERROR,
    Refusal.UNREACHABLE: Problem.UPSTREAM_UNAVAILABLE,
    Refusal.UNKNOWN: Problem.UPSTREAM_UNAVAILABLE,
}


def save_refused(claim: Claim, answer: Refused, *, tries: int, latency_ms: int) -> Outcome:
    """Note what became of the claim, and what follows for the credential."""
    tenant = claim.credential.tenant
    outcome = Outcome(answer.kind.value)
    with transaction.atomic():
        now = clock.now()
        current = locked(claim)
        if current is not None:
            _note_refusal(current, claim, answer, now)
            statistics.count_refresh(
                tenant=tenant,
                succeeded=False,
                refused_credential=answer.kind is Refusal.INVALID_GRANT,
            )
        elif answer.kind is Refusal.INVALID_GRANT:
            # Another generation is there: somebody rotated it, and that is the answer.
            outcome = Outcome.SUPERSEDED
        if answer.kind is Refusal.RATE_LIMITED:
            gate.close(now + (answer.retry_after or 0.0))
        end_attempt(claim, outcome, answer.status, tries, latency_ms, now)
        audit.record(
            tenant=tenant,
            actor=claim.actor,
            action="refresh",
            subject=claim.credential.user_id,
            outcome=outcome,
            now=now,
        )
    return outcome


def _note_refusal(current: OAuthCredential, claim: Claim, answer: Refused, now: float) -> None:
    if current.lease_id != claim.lease_id:
        # Another one has claimed it since, and decides. All that is known here is whether
        # this one presentation was answered.
        if not answer.spent_maybe and current.unanswered_presentations > 0:
            current.unanswered_presentations -= 1
            current.save(update_fields=["unanswered_presentations"])
        return
    final = _diagnose(current, answer, now)
    if final is not None:
        for field, value in login_lost(final, now).items():
            setattr(current, field, value)
        clear_lease(current, claim)
        current.save()
        return
    current.problem, current.problem_at = _PROBLEM[answer.kind], int(now)
    current.consecutive_failures += 1
    if answer.spent_maybe:
        # The lease stays to its end: until then the first presentation may still be
        # under way over there.
        wait = settings.REFRESH_LEASE + 1
    else:
        current.unanswered_presentations -= 1
        clear_lease(current, claim)
        wait = max(answer.retry_after or 0.0, back_off(current.consecutive_failures))
        if answer.kind is Refusal.RATE_LIMITED:
            wait = (answer.retry_after or 0.0) + random.uniform(0.5, 5)  # noqa: S311  spreads load
    if current.standing == Standing.ACTIVE:
        current.refresh_due_at = int(now + wait) + 1
    current.save()


def _diagnose(current: OAuthCredential, answer: Refused, now: float) -> Problem | None:
    """What ended this login, or None while it may still live."""
    presented = current.unanswered_presentations
    if answer.spent_maybe and presented >= settings.MOST_PRESENTATIONS:
        return Problem.ANSWER_LOST
    if answer.kind is not Refusal.INVALID_GRANT:
        return None
    if presented > 1:
        return Problem.ANSWER_LOST
    if current.login_expires_at is not None and current.login_expires_at <= now:
        return Problem.LOGIN_ENDED
    return Problem.ROTATED_ELSEWHERE


def login_lost(problem: Problem, now: float) -> dict[str, object]:
    """The columns of a credential whose person must sign in again."""
    return {
        "standing": Standing.REAUTHORIZATION_REQUIRED,
        "problem": problem,
        "problem_at": int(now),
        "refresh_due_at": None,
    }
