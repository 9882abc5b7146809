"""The one refresh: claim, ask, save. Every refresh of the vault is a call of `refresh()`.

A refresh token is single use; presenting a spent one can end a person's login. So one
conditional UPDATE claims the credential for a bounded time, the authorization server is
asked outside of any transaction and without a database connection, and the answer is
saved only where ``generation`` is still the one that was presented.

An answer that the database does not take goes to the spool, sealed, and comes home when the
database is back. Between the server's answer and the end of our save (or of the spool's)
lies a window that cannot be closed from here: a process killed inside it loses the new
pair, and so does one that is killed while the server is at work on its request. Our part of
it is as long as a connection and a transaction (docs/reliability.md has the figures), the
claim has left a mark that says so, and the refresh token is then presented once more, never
twice.
"""

import logging
import time

from django.db import connection

from tokens import isolation
from tokens.models import Cause, Outcome
from tokens.oauth_client import Refusal, Refused
from tokens.refresh.ask import present
from tokens.refresh.claim import Claim, claim_credential, withdraw
from tokens.refresh.replay import keep_trying, replay_for
from tokens.refresh.save import save_answer

__all__ = ["Claim", "carry_out", "claim_refresh", "refresh", "withdraw"]

logger = logging.getLogger(__name__)


def refresh(
    *,
    tenant_id: int,
    credential_id: int,
    cause: Cause,
    actor: str,
    generation: int | None = None,
    only_if_due: bool = False,
) -> Outcome | None:
    """Refresh one credential, or leave it to whoever is at it already.

    None: nothing was claimed (another one holds the lease, the credential is not one that
    can be refreshed, it is no longer of the ``generation`` that was asked for, it is not due
    and ``only_if_due``, or the answer to an earlier refresh lay in the spool and is saved
    now), or the claim was given back. Otherwise how it ended.

    Raises UpstreamRateLimited while a 429 governs, UpstreamUnavailable while the circuit is
    open, Quarantined in a restored database, RateLimited for a second 401 in a row,
    StoreUnavailable or DatabaseError when what would have to be written cannot be; in all
    of these cases nothing has been spent.
    """
    claim = claim_refresh(
        tenant_id=tenant_id,
        credential_id=credential_id,
        cause=cause,
        actor=actor,
        generation=generation,
        only_if_due=only_if_due,
    )
    return None if claim is None else carry_out(claim)


def claim_refresh(
    *,
    tenant_id: int,
    credential_id: int,
    cause: Cause,
    actor: str,
    generation: int | None,
    only_if_due: bool = False,
) -> Claim | None:
    """The first half of a `refresh`: the claim, or None. Raises as `refresh`.

    Whoever has it calls `carry_out` next, in whichever thread, or `withdraw`.
    """
    if connection.in_atomic_block:
        raise RuntimeError("a refresh is no part of a transaction: it cannot be rolled back")
    with isolation.of(tenant_id):
        if replay_for(tenant_id=tenant_id, credential_id=credential_id):
            return None
        return claim_credential(
            tenant_id, credential_id, cause, actor, generation, only_if_due=only_if_due
        )


def carry_out(claim: Claim) -> Outcome | None:
    """The second half: ask and save. How it ended; None: the claim was given back, because
    this process was stopped until nothing could be sent for it any more."""
    # The exchange may take half a minute; a pool of connections must not wait with it.
    connection.close()
    began = time.monotonic()
    presented = present(claim)
    if presented is None and withdraw(claim):
        # It says nothing of the server, and nothing of the credential.
        logger.warning(
            "credential %s: this process was stopped for %d s between its claim and its request; "
            "nothing was sent",
            claim.credential.pk, time.monotonic() - claim.claimed_monotonic,
        )  # fmt: skip
        return None
    # Not given back, because another has claimed since, or the database is away.
    answer, tries = presented or (Refused(kind=Refusal.UNREACHABLE), 0)
    latency_ms = int((time.monotonic() - began) * 1000)
    outcome = save_answer(claim, answer, tries=tries, latency_ms=latency_ms)
    if outcome is Outcome.NOT_SAVED:
        keep_trying()
    logger.info(
        "refresh for user %r of tenant %s (credential %s, tenant %s): %s (%s, %s, %d ms)",
        claim.credential.user_id, claim.credential.tenant.slug, claim.credential.pk,
        claim.credential.tenant_id, outcome, claim.cause,
        "1 try" if tries == 1 else f"{tries} tries", latency_ms,
    )  # fmt: skip
    return outcome
