"""Save: the answer is in our hands, exists nowhere else, and goes into the database.

Or, while the database does not take it, into the spool (spool.py). Saving is idempotent:
whoever has an answer may save it again, and the second time changes nothing.
"""

import logging
import random
import threading
import time
from dataclasses import asdict, dataclass
from typing import Any

from django.conf import settings
from django.db import connection, transaction

from tokens import audit, clock, endings, isolation, oauth_client, sealing, statistics
from tokens.encryption import Key
from tokens.errors import VaultError
from tokens.keyring import sealing_key, still_there
from tokens.models import (
    DataKey,
    OAuthCredential,
    Outcome,
    Problem,
    Standing,
    Tenant,
    TokenKind,
)
from tokens.oauth_client import Granted, Refused
from tokens.refresh import gate, spool, stray
from tokens.refresh.attempt import (
    attempt_of,
    clear_lease,
    end_attempt,
    is_of_nobody,
    lives_on,
    locked_row,
)
from tokens.refresh.claim import Claim
from tokens.refresh.refusal import login_lost, save_refused, say_login_lost
from tokens.refresh.schedule import next_due
from tokens.refresh.stray import Fate

logger = logging.getLogger(__name__)

# Seconds for which the thread that asked goes on trying to save: where the spool has the
# answer too, and where no place takes it and only this process's memory holds it.
PATIENCE, LAST_PATIENCE = 10.0, 600.0


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the authorization server said, after how many tries, and when (Unix seconds by
    the database's clock): a lifetime counts from there, however late the save."""

    said: Granted | Refused
    tries: int
    latency_ms: int
    answered_at: float


def save_answer(claim: Claim, said: Granted | Refused, *, tries: int, latency_ms: int) -> Outcome:
    """Save the answer, or see to it that it is kept until it can be saved.

    NOT_SAVED: the database does not take it; it lies in the spool. The lease may end
    meanwhile: the save is fenced by generation and stays right.
    """
    answer = Answer(said=said, tries=tries, latency_ms=latency_ms, answered_at=claim.moment())
    kept = _Kept(claim, answer)
    began = time.monotonic()
    # A database that hangs says nothing for longer than the lease lasts.
    watch = threading.Timer(settings.SPOOL_AFTER, kept.put_down)
    watch.daemon = True
    try:
        watch.start()
    except RuntimeError:
        # No thread is to be had. The answer is here all the same, and is saved.
        logger.warning("the save of credential %s is not watched", claim.credential.pk)
    try:
        while True:
            try:
                with isolation.of(claim.credential.tenant_id):
                    outcome = save(claim, answer)
            except Exception as error:
                # Whatever stands in the way: what is held here exists nowhere else.
                connection.close()
                kept.put_down()
                waited = time.monotonic() - began
                if kept.lies_in_spool and waited > PATIENCE:
                    return Outcome.NOT_SAVED
                if waited > LAST_PATIENCE:
                    logger.critical(
                        "the answer for credential %s of tenant %s could be kept nowhere and is "
                        "lost (%s)",
                        claim.credential.pk, claim.credential.tenant_id, type(error).__name__,
                    )  # fmt: skip
                    raise
                logger.warning(
                    "the answer for credential %s cannot be saved (%s); it is held and tried again",
                    claim.credential.pk, type(error).__name__,
                )  # fmt: skip
                time.sleep(random.uniform(0.2, 0.6))  # noqa: S311  spreads load
            else:
                kept.destroy()
                return outcome
    finally:
        watch.cancel()


def save(claim: Claim, answer: Answer) -> Outcome:
    """Save the answer in one transaction; the same outcome again if it was saved already."""
    if isinstance(answer.said, Granted):
        return _save_granted(claim, answer, answer.said)
    return save_refused(
        claim,
        answer.said,
        tries=answer.tries,
        latency_ms=answer.latency_ms,
        answered_at=answer.answered_at,
    )


class _Kept:
    """One answer's way into the spool: at most once, and out of it again."""

    def __init__(self, claim: Claim, answer: Answer) -> None:
        self._claim, self._answer = claim, answer
        self._lock = threading.Lock()
        self._entry: spool.Entry | None = None
        self._over = False

    @property
    def lies_in_spool(self) -> bool:
        return self._entry is not None

    def put_down(self) -> None:
        with self._lock:
            if self._entry is not None or self._over:
                return
            try:
                entry = _entry(self._claim, self._answer)
                spool.put(entry)
            except Exception as error:
                # Whatever it is: it must not end the loop that holds the answer.
                why = error if isinstance(error, spool.SpoolUnavailable) else type(error).__name__
                logger.error(
                    "the answer for credential %s is in memory only: the spool cannot be "
                    "written (%s). Do not stop this process: the login would end with it. It "
                    "goes on trying to save the answer for %d minutes",
                    self._claim.credential.pk, why, LAST_PATIENCE // 60,
                )  # fmt: skip
                return
            self._entry = entry
        logger.warning("the answer for credential %s lies in the spool", self._claim.credential.pk)

    def destroy(self) -> None:
        with self._lock:
            self._over = True
            if self._entry is not None:
                spool.remove(self._entry)


def _entry(claim: Claim, answer: Answer) -> spool.Entry:
    granted: dict[str, Any] = {}
    refused: dict[str, Any] = {}
    if isinstance(answer.said, Granted):
        pair = sealing.seal_pair(
            tenant=claim.credential.tenant,
            credential_id=claim.credential.pk,
            access_token=answer.said.access_token,
            refresh_token=answer.said.refresh_token or claim.refresh_token,
            under=claim.seals_with,
        )
        granted = {
            "access_token_encrypted": pair.access_token_encrypted,
            "refresh_token_encrypted": pair.refresh_token_encrypted,
            "expires_in": answer.said.expires_in,
            "expires_in_was_bounded": answer.said.expires_in_was_bounded,
            "scopes": answer.said.scopes,
            "login_expires_in": answer.said.login_expires_in,
            "status": answer.said.status,
            # Sealed, too: no secret, but whoever reads the spool is to learn of nobody by it.
            "account_sealed": sealing.seal_account(
                answer.said.account_email,
                key=claim.seals_with[1],
                tenant_id=claim.credential.tenant_id,
                credential_id=claim.credential.pk,
            ),
        }
    else:
        refused = asdict(answer.said)
    entry = spool.Entry(
        vault_id=str(claim.vault_id),
        tenant_id=claim.credential.tenant_id,
        credential_id=claim.credential.pk,
        generation=claim.generation,
        lease_id=str(claim.lease_id),
        cause=claim.cause.value,
        actor=claim.actor,
        tries=answer.tries,
        latency_ms=answer.latency_ms,
        answered_at=answer.answered_at,
        granted=granted,
        refused=refused,
        data_key=claim.seals_with[0].pk,
    )
    return spool.signed(entry, claim.seals_with[1])


@dataclass(frozen=True, kw_only=True)
class _Saved:
    """``is_homeless``: the pair has no place here, and is to be given back."""

    outcome: Outcome
    is_homeless: bool = False
    set_aside: OAuthCredential | None = None


def _save_granted(claim: Claim, answer: Answer, said: Granted) -> Outcome:
    with transaction.atomic():
        now = clock.now()
        saved = _saved(claim, answer, said, now)
    # Not before it is committed: what is rolled back is saved, and said, the next time.
    if saved.set_aside is not None:
        _say_misdirected(saved.set_aside, claim.credential.tenant, now)
    if saved.is_homeless:
        _revoke_homeless(claim, said)
    return saved.outcome


def _saved(claim: Claim, answer: Answer, said: Granted, now: float) -> _Saved:
    row = locked_row(claim)
    attempt = attempt_of(claim)
    if row is None and is_of_nobody(claim):
        return _Saved(outcome=Outcome.SUPERSEDED, is_homeless=True)
    if attempt is not None and attempt.answer_saved:
        # Also for one whose save was not acknowledged the first time: to revoke twice is harmless.
        superseded = attempt.outcome == Outcome.SUPERSEDED and not lives_on(claim)
        return _Saved(outcome=Outcome(attempt.outcome), is_homeless=superseded)
    if attempt is None and row is not None:
        fate = stray.fate(row, generation=claim.generation, answered_at=answer.answered_at)
        if fate is Fate.WAITS:
            raise stray.Unplaced(fate.value)
        if fate is not Fate.HOME:
            return _Saved(outcome=Outcome.SUPERSEDED, is_homeless=fate is Fate.REPLACED)
        # This database has counted less far than the one that was left.
        row.generation = claim.generation
    current = row if row is not None and row.generation == claim.generation else None
    if current is None:
        saved = _Saved(outcome=Outcome.SUPERSEDED, is_homeless=not lives_on(claim))
    elif sealing.are_anothers(current, said.access_token, said.refresh_token):
        _set_aside(current, claim, said, now)
        saved = _Saved(outcome=Outcome.MISDIRECTED, set_aside=current)
    else:
        _note_account(current, claim, said, now)
        _store_pair(current, claim, answer, said, now)
        saved = _Saved(outcome=Outcome.REFRESHED)
    end_attempt(claim, saved.outcome, said.status, answer.tries, answer.latency_ms, now)
    statistics.count_refresh(
        tenant=claim.credential.tenant, outcome=saved.outcome, latency_ms=answer.latency_ms
    )
    audit.record(
        tenant=claim.credential.tenant,
        actor=claim.actor,
        action="refresh",
        subject=claim.credential.user_id,
        outcome=saved.outcome,
        now=now,
        **({"expires_in_bounded": True} if said.expires_in_was_bounded else {}),
    )
    # From the spool: how the server was then says nothing of how it is now.
    if now - answer.answered_at <= settings.REFRESH_LEASE:
        gate.note_answer()
    return saved


def _note_account(current: OAuthCredential, claim: Claim, said: Granted, now: float) -> None:
    """Whose login it is. Another account than before is told, without the addresses, and no more
    than that: the pair is the answer to this credential's own refresh token."""
    if not said.account_email:
        return
    if current.account_email not in ("", said.account_email):
        audit.record(
            tenant=claim.credential.tenant,
            actor=claim.actor,
            action="account_changed",
            subject=claim.credential.user_id,
            now=now,
            **({} if current.account_is_confirmed else {"instead_of": "imported"}),
        )
    current.account_email, current.account_is_confirmed = said.account_email, True


def _store_pair(
    current: OAuthCredential, claim: Claim, answer: Answer, said: Granted, now: float
) -> None:
    ended_at = endings.ends_at(current)
    refresh_token = said.refresh_token or claim.refresh_token
    pair = sealing.seal_pair(
        tenant=claim.credential.tenant,
        credential_id=current.pk,
        access_token=said.access_token,
        refresh_token=refresh_token,
        under=_key_of(claim),
    )
    # A second presentation that was refused may have called this login dead while the
    # first one's answer was still on its way here. The answer knows better.
    if current.standing == Standing.REAUTHORIZATION_REQUIRED:
        current.standing = Standing.ACTIVE
    current.data_key = pair.data_key
    current.access_token_encrypted = pair.access_token_encrypted
    current.refresh_token_encrypted = pair.refresh_token_encrypted
    current.expires_at = int(answer.answered_at) + said.expires_in
    current.generation += 1
    current.refresh_count += 1
    current.last_refreshed_at = int(now)
    current.unanswered_presentations = 0
    current.consecutive_failures = 0
    current.problem, current.problem_at = Problem.NONE, None
    if said.scopes is not None:
        current.scopes = said.scopes
    if said.login_expires_in is not None:
        current.login_expires_at = int(answer.answered_at) + said.login_expires_in
        current.login_expiry_is_estimate = False
    current.announce_at = endings.rescheduled(
        announce_at=current.announce_at,
        ended_at=ended_at,
        ends_at=endings.ends_at(current),
        now=now,
    )
    current.tenant = claim.credential.tenant
    current.refresh_due_at = next_due(current, now=now, lifetime=said.expires_in)
    clear_lease(current, claim)
    current.save()
    # An IntegrityError: another credential was given the same token in this moment. Nothing
    # of this save stays then, and the next one finds the token in the ledger.
    sealing.record_fingerprints(
        credential=current,
        access_token=said.access_token,
        refresh_token=refresh_token,
        generation=current.generation,
        now=now,
    )


def _set_aside(current: OAuthCredential, claim: Claim, said: Granted, now: float) -> None:
    """The answer is of another credential's login. What is stored here stays what it is: the
    access token is this user's own, to its end, and the refresh token has been spent."""
    lost = login_lost(Problem.MISDIRECTED, now)
    if current.standing == Standing.QUARANTINED:
        del lost["standing"]  # its tokens are not handed out; the release reads the problem
    for field, value in lost.items():
        setattr(current, field, value)
    current.unanswered_presentations = max(0, current.unanswered_presentations - 1)
    clear_lease(current, claim)
    current.save()
    if said.refresh_token is not None:
        sealing.retire_fingerprints(current, kind=TokenKind.REFRESH, now=now)


def _say_misdirected(credential: OAuthCredential, tenant: Tenant, now: float) -> None:
    credential.tenant = tenant
    logger.error(
        "the refresh for user %r of tenant %s (credential %s, tenant %s) was answered with "
        "the tokens of another credential; nothing of them was stored",
        credential.user_id, tenant.slug, credential.pk, tenant.pk,
    )  # fmt: skip
    say_login_lost(credential, now=now)


def _key_of(claim: Claim) -> tuple[DataKey, Key]:
    """The data key that was taken at the claim. Whoever was stopped for so long that it is
    destroyed meanwhile seals under the present one; destroyed between here and the commit,
    the save fails by its foreign key, and is tried again."""
    if still_there(claim.seals_with[0]):
        return claim.seals_with
    return sealing_key(claim.credential.tenant)


def _revoke_homeless(claim: Claim, said: Granted) -> None:
    """The credential was revoked or replaced while we asked: the new pair is given back."""
    token = said.refresh_token or said.access_token
    if sealing.are_anothers(claim.credential, said.access_token, said.refresh_token):
        return  # to revoke what another credential lives on would end that login
    if sealing.is_held(claim.credential, token):
        return  # it has its home: saved by another process, in a database that was restored
    try:
        oauth_client.revoke(token)
    except VaultError:
        logger.warning("a pair without a home could not be revoked upstream")
