"""The one refresh: claim, ask, save. Every refresh of the vault is a call of `refresh()`.

A refresh token is single use; presenting a spent one can end a person's login. So one
conditional UPDATE claims the credential for a bounded time, the authorization server is
asked outside of any transaction and without a database connection, and the answer is
saved only where ``generation`` is still the one that was presented.

Between the server's answer and our save lies a window that cannot be closed from here: a
process killed inside it loses the new pair. It is a few milliseconds long, the claim has
left a mark that says so, and the refresh token is then presented once more, never twice.
"""

import logging
import random
import time
import uuid
from dataclasses import dataclass

from django.conf import settings
from django.db import IntegrityError, connection, transaction
from django.db.models import Exists, F, FloatField, OuterRef, Q, Value
from django.db.models.functions import Cast

from tokens import audit, clock, oauth_client, sealing, statistics
from tokens.encryption import Key
from tokens.errors import EncryptionError, UpstreamRateLimited, VaultError
from tokens.keyring import sealing_key
from tokens.models import (
    Cause,
    DataKey,
    OAuthCredential,
    Outcome,
    Problem,
    RefreshAttempt,
    Standing,
    Tenant,
    Upstream,
)
from tokens.oauth_client import Granted, Refusal, Refused
from tokens.secret import RefreshToken

logger = logging.getLogger(__name__)

# Seconds between the quick tries inside one claim, before the configured back-off grows it.
_RETRY_UNIT = 0.5
# Seconds of back-off between claims: doubled with each failure, up to the longest.
_BACK_OFF_UNIT, _BACK_OFF_LONGEST = 30, 900
# How long the save is tried again when the database does not answer, in seconds.
_SAVE_PATIENCE = 60.0

_PROBLEM = {
    Refusal.INVALID_SCOPE: Problem.INVALID_SCOPE,
    Refusal.ACCOUNT_ON_HOLD: Problem.ACCOUNT_ON_HOLD,
    Refusal.RATE_LIMITED: Problem.RATE_LIMITED,
    Refusal.UPSTREAM_ERROR: Problem.UPSTREAM_ERROR,
    Refusal.UNREACHABLE: Problem.UPSTREAM_UNAVAILABLE,
    Refusal.UNKNOWN: Problem.UPSTREAM_UNAVAILABLE,
}


@dataclass(frozen=True, kw_only=True)
class Claim:
    """The right to present one refresh token once, until the lease ends."""

    credential: OAuthCredential
    refresh_token: RefreshToken
    seals_with: tuple[DataKey, Key]
    lease_id: uuid.UUID
    cause: Cause
    actor: str


def refresh(
    *,
    tenant_id: int,
    credential_id: int,
    cause: Cause,
    actor: str,
    generation: int | None = None,
) -> Outcome | None:
    """Refresh one credential, or leave it to whoever is at it already.

    None: nothing was claimed (another one holds the lease, the credential is not one that
    can be refreshed, or it is no longer of the ``generation`` that was asked for).
    Otherwise how it ended. Raises UpstreamRateLimited while a 429 governs, DatabaseError
    when the store cannot be written; in both cases nothing has been spent.
    """
    if connection.in_atomic_block:
        raise RuntimeError("a refresh is no part of a transaction: it cannot be rolled back")
    claim = _claim(tenant_id, credential_id, cause, actor, generation)
    if claim is None:
        return None
    # The exchange may take half a minute; a pool of connections must not wait with it.
    connection.close()
    began = time.monotonic()
    answer, tries = _ask(claim)
    latency_ms = int((time.monotonic() - began) * 1000)
    outcome = _save_patiently(claim, answer, tries=tries, latency_ms=latency_ms)
    logger.info(
        "refresh of credential %s of tenant %s: %s (%s, %d tries, %d ms)",
        credential_id, tenant_id, outcome, cause, tries, latency_ms,
    )  # fmt: skip
    return outcome


def due_time(*, expires_at: int, threshold: int, now: float, lifetime: int | None = None) -> int:
    """When to refresh: the threshold before the end, and a little earlier by chance.

    The chance keeps a thousand credentials that were imported together from falling due
    together. A token whose whole ``lifetime`` is short is left alone for half of it.
    """
    jitter = random.uniform(0, threshold / 2)  # noqa: S311  spreads load, guards nothing
    due = expires_at - threshold - jitter
    if lifetime is not None:
        due = max(due, now + lifetime / 2)
    return int(due)


def closed_until() -> float:
    """Until when (Unix seconds) a 429 forbids every refresh; 0 when none does."""
    row = Upstream.objects.filter(token_url=settings.CLAUDE_OAUTH_TOKEN_URL).first()
    return row.closed_until if row is not None else 0.0


def settle_abandoned(*, now: float) -> int:
    """Say plainly what became of refreshes whose process died: how many were settled.

    An attempt still in flight after its lease ended without an answer we know of. A
    credential whose refresh token was presented as often as it may be needs a new login.
    """
    settled = RefreshAttempt.objects.filter(
        outcome=Outcome.IN_FLIGHT, started_at__lt=now - settings.REFRESH_LEASE - _SAVE_PATIENCE
    ).update(outcome=Outcome.UNKNOWN, ended_at=now)
    exhausted = OAuthCredential.objects.filter(
        standing=Standing.ACTIVE,
        unanswered_presentations__gte=settings.MOST_PRESENTATIONS,
        lease_until__lt=now - _SAVE_PATIENCE,
    ).select_related("tenant")
    for credential in exhausted:
        changed = OAuthCredential.objects.filter(
            pk=credential.pk,
            generation=credential.generation,
            unanswered_presentations__gte=settings.MOST_PRESENTATIONS,
        ).update(**_login_lost(Problem.ANSWER_LOST, now), lease_id=None, lease_until=None)
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


def _claim(
    tenant_id: int, credential_id: int, cause: Cause, actor: str, generation: int | None
) -> Claim | None:
    """One conditional UPDATE decides. It also proves that the store can be written, and
    marks the credential as in flight, before anything is spent."""
    credential = (
        OAuthCredential.objects.filter(tenant_id=tenant_id, pk=credential_id)
        .select_related("tenant", "data_key")
        .first()
    )
    if (
        credential is None
        or not credential.can_refresh()
        or credential.tenant.suspended_at is not None
        or (generation is not None and credential.generation != generation)
    ):
        return None
    # Both before the claim: what cannot be opened is not sent, what cannot be sealed
    # afterwards is not asked for.
    try:
        refresh_token = sealing.open_refresh_token(credential)
    except EncryptionError as error:
        logger.error(
            "the refresh token of credential %s of tenant %s does not open: %s",
            credential_id, tenant_id, error.detail,
        )  # fmt: skip
        raise
    seals_with = sealing_key(credential.tenant)
    lease_id = uuid.uuid4()
    lease = Value(settings.REFRESH_LEASE, output_field=FloatField())
    with transaction.atomic():
        now = clock.now()
        _refuse_while_rate_limited(now)
        claimed = OAuthCredential.objects.filter(
            Q(lease_until=None) | Q(lease_until__lte=clock.DatabaseNow()),
            # No join: it would put the conditions on the row into a subquery, which is
            # not asked again after a wait for the row's lock.
            Exists(Tenant.objects.filter(pk=OuterRef("tenant_id"), suspended_at=None)),
            tenant_id=tenant_id,
            pk=credential_id,
            generation=credential.generation,
            standing=Standing.ACTIVE,
            suspended_at=None,
            unanswered_presentations=credential.unanswered_presentations,
        ).update(
            lease_id=lease_id,
            lease_until=Cast(clock.DatabaseNow() + lease, FloatField()),
            unanswered_presentations=F("unanswered_presentations") + 1,
            # If this process dies, the sweep finds the credential after the lease.
            refresh_due_at=int(now + settings.REFRESH_LEASE + 1),
        )
        if not claimed:
            return None
        RefreshAttempt.objects.create(
            tenant_id=tenant_id,
            credential=credential,
            lease_id=lease_id,
            cause=cause,
            actor=actor[:200],
            generation=credential.generation,
            started_at=now,
        )
    return Claim(
        credential=credential,
        refresh_token=refresh_token,
        seals_with=seals_with,
        lease_id=lease_id,
        cause=cause,
        actor=actor,
    )


def _refuse_while_rate_limited(now: float) -> None:
    until = closed_until()
    if until > now:
        raise UpstreamRateLimited(
            "Failed to refresh token: the authorization server asks everybody to wait.",
            retry_after=until - now,
        )


def _ask(claim: Claim) -> tuple[Granted | Refused, int]:
    """The answer and the number of tries. Only a request that was answered with a server
    error, or never left us, is sent again; all of it within one deadline."""
    ends = time.monotonic() + settings.REFRESH_DEADLINE
    tries = 0
    while True:
        tries += 1
        answer = oauth_client.refresh(claim.refresh_token, deadline=ends - time.monotonic())
        if isinstance(answer, Granted) or not answer.worth_retrying_at_once:
            return answer, tries
        pause = _pause(tries)
        if tries > settings.CLAUDE_OAUTH_MAX_RETRIES or time.monotonic() + pause + 1 > ends:
            return answer, tries
        time.sleep(pause)


def _pause(tries: int) -> float:
    growth = {"exponential": 2 ** (tries - 1), "linear": tries, "fixed": 1}
    factor = growth[settings.CLAUDE_OAUTH_RETRY_BACKOFF]
    return float(_RETRY_UNIT * factor * random.uniform(0.5, 1.5))  # noqa: S311  spreads load


def _save_patiently(
    claim: Claim, answer: Granted | Refused, *, tries: int, latency_ms: int
) -> Outcome:
    """Save the answer; while the database is away, hold it in memory and try again.

    The lease may end meanwhile: the save is fenced by generation and stays right.
    """
    gives_up = time.monotonic() + _SAVE_PATIENCE
    while True:
        try:
            if isinstance(answer, Granted):
                return _save_granted(claim, answer, tries=tries, latency_ms=latency_ms)
            return _save_refused(claim, answer, tries=tries, latency_ms=latency_ms)
        except Exception as error:
            # Whatever stands in the way: what is held here exists nowhere else.
            connection.close()
            if time.monotonic() > gives_up:
                logger.critical(
                    "the answer for credential %s of tenant %s could not be saved and is lost (%s)",
                    claim.credential.pk, claim.credential.tenant_id, type(error).__name__,
                )  # fmt: skip
                raise
            logger.warning(
                "the answer for credential %s cannot be saved (%s); it is held and tried again",
                claim.credential.pk, type(error).__name__,
            )  # fmt: skip
            time.sleep(random.uniform(0.2, 0.6))  # noqa: S311  spreads load


def _save_granted(claim: Claim, answer: Granted, *, tries: int, latency_ms: int) -> Outcome:
    tenant = claim.credential.tenant
    with transaction.atomic():
        now = clock.now()
        current = _locked(claim)
        outcome = Outcome.SUPERSEDED if current is None else Outcome.REFRESHED
        _end_attempt(claim, outcome, answer.status, tries, latency_ms, now)
        if current is not None:
            _store_pair(current, claim, answer, now)
            statistics.count_refresh(tenant=tenant, succeeded=True)
        audit.record(
            tenant=tenant,
            actor=claim.actor,
            action="refresh",
            subject=claim.credential.user_id,
            outcome=outcome,
            now=now,
            **({"expires_in_bounded": True} if answer.expires_in_was_bounded else {}),
        )
    if outcome == Outcome.SUPERSEDED:
        _revoke_homeless(answer)
    return outcome


def _store_pair(current: OAuthCredential, claim: Claim, answer: Granted, now: float) -> None:
    refresh_token = answer.refresh_token or claim.refresh_token
    pair = sealing.seal_pair(
        tenant=claim.credential.tenant,
        credential_id=current.pk,
        access_token=answer.access_token,
        refresh_token=refresh_token,
        under=claim.seals_with,
    )
    # A second presentation that was refused may have called this login dead while the
    # first one's answer was still on its way here. The answer knows better.
    if current.standing == Standing.REAUTHORIZATION_REQUIRED:
        current.standing = Standing.ACTIVE
    current.data_key = pair.data_key
    current.access_token_encrypted = pair.access_token_encrypted
    current.refresh_token_encrypted = pair.refresh_token_encrypted
    current.expires_at = int(now) + answer.expires_in
    current.generation += 1
    current.refresh_count += 1
    current.last_refreshed_at = int(now)
    current.unanswered_presentations = 0
    current.consecutive_failures = 0
    current.problem, current.problem_at = Problem.NONE, None
    if answer.scopes is not None:
        current.scopes = answer.scopes
    if answer.login_expires_in is not None:
        current.login_expires_at = int(now) + answer.login_expires_in
        current.login_expiry_is_estimate = False
    current.refresh_due_at = (
        due_time(
            expires_at=current.expires_at,
            threshold=claim.credential.tenant.threshold,
            now=now,
            lifetime=answer.expires_in,
        )
        if current.standing == Standing.ACTIVE
        else None
    )
    _clear_lease(current, claim)
    current.save()
    try:
        with transaction.atomic():
            sealing.record_fingerprints(
                credential=current,
                access_token=answer.access_token,
                refresh_token=refresh_token,
                generation=current.generation,
                now=now,
            )
    except IntegrityError:
        # The server gave one login's token to another. The pair is kept, being all there
        # is, and what happened is said.
        logger.error("credential %s was given a refresh token held by another", current.pk)


def _save_refused(claim: Claim, answer: Refused, *, tries: int, latency_ms: int) -> Outcome:
    tenant = claim.credential.tenant
    outcome = Outcome(answer.kind.value)
    with transaction.atomic():
        now = clock.now()
        current = _locked(claim)
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
            _close_upstream(now + (answer.retry_after or 0.0))
        _end_attempt(claim, outcome, answer.status, tries, latency_ms, now)
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
        for field, value in _login_lost(final, now).items():
            setattr(current, field, value)
        _clear_lease(current, claim)
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
        _clear_lease(current, claim)
        wait = max(answer.retry_after or 0.0, _back_off(current.consecutive_failures))
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


def _login_lost(problem: Problem, now: float) -> dict[str, object]:
    return {
        "standing": Standing.REAUTHORIZATION_REQUIRED,
        "problem": problem,
        "problem_at": int(now),
        "refresh_due_at": None,
    }


def _locked(claim: Claim) -> OAuthCredential | None:
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


def _clear_lease(current: OAuthCredential, claim: Claim) -> None:
    if current.lease_id == claim.lease_id:
        current.lease_id, current.lease_until = None, None


def _end_attempt(
    claim: Claim, outcome: Outcome, status: int | None, tries: int, latency_ms: int, now: float
) -> None:
    RefreshAttempt.objects.filter(
        tenant_id=claim.credential.tenant_id, lease_id=claim.lease_id
    ).update(
        outcome=outcome,
        upstream_status=status,
        tries=tries,
        latency_ms=latency_ms,
        ended_at=now,
    )


def _close_upstream(until: float) -> None:
    row, _ = Upstream.objects.get_or_create(token_url=settings.CLAUDE_OAUTH_TOKEN_URL)
    Upstream.objects.filter(pk=row.pk, closed_until__lt=until).update(closed_until=until)


def _revoke_homeless(answer: Granted) -> None:
    """The credential was revoked or replaced while we asked: the new pair is given back."""
    try:
        oauth_client.revoke(answer.refresh_token or answer.access_token)
    except VaultError:
        logger.warning("a pair without a home could not be revoked upstream")


def _back_off(failures: int) -> float:
    seconds = min(_BACK_OFF_UNIT * 2 ** min(failures - 1, 10), _BACK_OFF_LONGEST)
    return float(seconds * random.uniform(0.75, 1.25))  # noqa: S311  spreads load
