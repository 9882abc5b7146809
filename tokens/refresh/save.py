"""Save: the answer is in our hands, exists nowhere else, and goes into the database."""

import logging
import random
import time

from django.db import IntegrityError, connection, transaction

from tokens import audit, clock, oauth_client, sealing, statistics
from tokens.errors import VaultError
from tokens.models import OAuthCredential, Outcome, Problem, Standing
from tokens.oauth_client import Granted, Refused
from tokens.refresh.attempt import clear_lease, end_attempt, locked
from tokens.refresh.claim import Claim
from tokens.refresh.refusal import save_refused
from tokens.refresh.schedule import due_time

logger = logging.getLogger(__name__)

# How long the save is tried again when the database does not answer, in seconds.
PATIENCE = 60.0


def save_answer(claim: Claim, answer: Granted | Refused, *, tries: int, latency_ms: int) -> Outcome:
    """Save the answer; while the database is away, hold it in memory and try again.

    The lease may end meanwhile: the save is fenced by generation and stays right.
    """
    gives_up = time.monotonic() + PATIENCE
    while True:
        try:
            if isinstance(answer, Granted):
                return _save_granted(claim, answer, tries=tries, latency_ms=latency_ms)
            return save_refused(claim, answer, tries=tries, latency_ms=latency_ms)
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
        current = locked(claim)
        outcome = Outcome.SUPERSEDED if current is None else Outcome.REFRESHED
        end_attempt(claim, outcome, answer.status, tries, latency_ms, now)
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
    clear_lease(current, claim)
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


def _revoke_homeless(answer: Granted) -> None:
    """The credential was revoked or replaced while we asked: the new pair is given back."""
    try:
        oauth_client.revoke(answer.refresh_token or answer.access_token)
    except VaultError:
        logger.warning("a pair without a home could not be revoked upstream")
