"""Replay: answers that lie in the spool come home when the database is back."""

import logging
import time
import uuid

from django.db import DatabaseError, InterfaceError, OperationalError, connection

from tokens import clock, epoch, isolation, sealing
from tokens.behind import WriteBehind
from tokens.errors import StoreUnavailable
from tokens.keyring import sealing_key
from tokens.models import Cause, DataKey, OAuthCredential, RefreshAttempt
from tokens.oauth_client import Granted, Refusal, Refused
from tokens.refresh import spool
from tokens.refresh.claim import Claim
from tokens.refresh.save import Answer, save
from tokens.secret import AccessToken, RefreshToken

logger = logging.getLogger(__name__)

Pair = tuple[AccessToken, RefreshToken]


def replay() -> int:
    """Save everything that lies in the spool, and destroy it there; how many came home.

    Harmless when several processes do it at once. DatabaseError while the database is away.
    """
    return sum(_bring_home(entry) for entry in spool.entries(epoch.vault_id()))


def replay_for(*, tenant_id: int, credential_id: int) -> bool:
    """Whether an answer for this credential lay in the spool; it is saved now.

    StoreUnavailable if one lies there and cannot be saved: its refresh token is spent.
    """
    names = spool.names_for(epoch.vault_id(), credential_id=credential_id)
    if not names:
        return False
    home = {
        entry.name
        for entry in spool.entries(epoch.vault_id())
        if (entry.tenant_id, entry.credential_id) == (tenant_id, credential_id)
        and _bring_home(entry)
    }
    # Another process may have brought one home in this moment: then it lies there no more.
    if (names - home) & spool.names_for(epoch.vault_id(), credential_id=credential_id):
        raise StoreUnavailable(
            "An answer to an earlier refresh of this credential lies in the spool and cannot be "
            "saved: nothing is presented again before it is looked at (`oauthvault doctor`).",
            retry_after=30,
        )
    return True


def keep_trying() -> None:
    """Have this process go on by itself, every few seconds from now on."""
    _keeper.wake()


def pick_up() -> None:
    """At the start of a process that serves: what one before it left is looked after."""
    if spool.has_files():
        keep_trying()


def _bring_home(entry: spool.Entry) -> bool:
    """Whether it was saved, now or before. One that cannot be read yet stays."""
    with isolation.of(entry.tenant_id):
        return _saved_at_home(entry)


def _saved_at_home(entry: spool.Entry) -> bool:
    try:
        credential = _credential(entry)
        if credential is None and epoch.deployment().quarantined_at is not None:
            logger.error("a spooled answer belongs to a credential that this backup lacks")
            return False
        if credential is None:
            # With it the key went that its answer is sealed under.
            logger.warning("a spooled answer belongs to a credential that is gone")
            spool.remove(entry)
            return True
        pair = _opened(entry) if entry.granted else None
        claim = _claim(entry, credential, pair)
        if not _was_claimed(entry, claim):
            logger.error(
                "a spooled answer for credential %s belongs to no refresh of this vault; "
                "it stays in the spool",
                entry.credential_id,
            )
            return False
        outcome = save(claim, _answer(entry, pair))
        logger.info(
            "the spooled answer for credential %s of tenant %s: %s",
            entry.credential_id, entry.tenant_id, outcome,
        )  # fmt: skip
    except (OperationalError, InterfaceError):
        connection.close()
        raise
    except Exception as error:
        # A key that is not at hand now may be at hand tomorrow. One entry that cannot be
        # read must not keep the others from coming home.
        logger.error(
            "the spooled answer for credential %s cannot be saved: %s; it stays in the spool",
            entry.credential_id, type(error).__name__,
        )  # fmt: skip
        return False
    spool.remove(entry)
    return True


def _was_claimed(entry: spool.Entry, claim: Claim) -> bool:
    """Whether we ever asked for this: what lies in Redis may have been put there by others.
    A restored database has forgotten its newest claims, and is quarantined."""
    if RefreshAttempt.objects.filter(
        tenant_id=entry.tenant_id,
        credential_id=entry.credential_id,
        generation=entry.generation,
        lease_id=claim.lease_id,
    ).exists():
        return True
    restored = epoch.deployment().quarantined_at is not None
    return restored and claim.credential.generation < entry.generation


def _credential(entry: spool.Entry) -> OAuthCredential | None:
    return (
        OAuthCredential.objects.filter(tenant_id=entry.tenant_id, pk=entry.credential_id)
        .select_related("tenant")
        .first()
    )


def _claim(entry: spool.Entry, credential: OAuthCredential, pair: Pair | None) -> Claim:
    """The claim that this is the answer to, as it was."""
    return Claim(
        credential=credential,
        generation=entry.generation,
        # A spooled pair is whole: where the server kept the old refresh token, it is in it.
        refresh_token=pair[1] if pair is not None else RefreshToken("-"),
        seals_with=sealing_key(credential.tenant),
        lease_id=uuid.UUID(entry.lease_id),
        vault_id=uuid.UUID(entry.vault_id),
        cause=Cause(entry.cause),
        actor=entry.actor,
        claimed_at=clock.now(),
        claimed_monotonic=time.monotonic(),
    )


def _answer(entry: spool.Entry, pair: Pair | None) -> Answer:
    said: Granted | Refused
    if pair is not None:
        access_token, refresh_token = pair
        said = Granted(
            access_token=access_token,
            refresh_token=refresh_token,
            expires_in=entry.granted["expires_in"],
            expires_in_was_bounded=entry.granted["expires_in_was_bounded"],
            scopes=entry.granted["scopes"],
            login_expires_in=entry.granted["login_expires_in"],
            status=entry.granted["status"],
        )
    else:
        said = Refused(
            kind=Refusal(entry.refused["kind"]),
            status=entry.refused["status"],
            retry_after=entry.refused["retry_after"],
        )
    return Answer(
        said=said,
        tries=entry.tries,
        latency_ms=entry.latency_ms,
        answered_at=entry.answered_at,
    )


def _opened(entry: spool.Entry) -> Pair:
    return sealing.open_pair(
        sealing.SealedPair(
            data_key=DataKey.objects.get(pk=entry.granted["data_key"]),
            access_token_encrypted=entry.granted["access_token_encrypted"],
            refresh_token_encrypted=entry.granted["refresh_token_encrypted"],
        ),
        tenant_id=entry.tenant_id,
        credential_id=entry.credential_id,
    )


def _try_all() -> None:
    try:
        replay()
    except DatabaseError as error:
        logger.warning("the database is still away: %s", type(error).__name__)


_keeper = WriteBehind("spool", _try_all)
