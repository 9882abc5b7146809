"""Replay: answers that lie in the spool come home when the database is back."""

import logging
import time
import uuid

from django.db import DatabaseError, InterfaceError, OperationalError, connection

from tokens import clock, email_address, epoch, isolation, outside, sealing
from tokens.behind import WriteBehind
from tokens.errors import EncryptionError, StoreUnavailable
from tokens.keyring import sealing_key, unwrap_data_key
from tokens.models import Cause, DataKey, OAuthCredential, RefreshAttempt
from tokens.oauth_client import Granted, Refusal, Refused
from tokens.refresh import spool, stray
from tokens.refresh.claim import Claim
from tokens.refresh.save import Answer, save
from tokens.refresh.stray import Fate, Unplaced
from tokens.secret import AccessToken, RefreshToken

logger = logging.getLogger(__name__)

Pair = tuple[AccessToken, RefreshToken]


def replay() -> int:
    """Save everything that lies in the spool, and destroy it there; how many came home.

    Harmless when several processes do it at once. DatabaseError while the database is away.
    """
    outside.remove_leftovers(now=time.time())
    spool.share_files()
    return sum(_bring_home(entry) for entry in spool.entries(epoch.vault_id()))


def replay_for(*, tenant_id: int, credential_id: int) -> bool:
    """Whether an answer for this credential lay in the spool, and does no more.

    StoreUnavailable if one lies there that cannot be saved, and may be the answer to a
    presentation of the refresh token that is stored now: that one is spent then.
    """
    vault_id = epoch.vault_id()
    names = spool.names_for(vault_id, credential_id=credential_id)
    if not names:
        return False
    entries = {
        entry.name: entry
        for entry in spool.entries(vault_id)
        if (entry.tenant_id, entry.credential_id) == (tenant_id, credential_id)
        and _is_signed(entry)
    }
    home = {name for name, entry in entries.items() if _bring_home(entry)}
    # Another process may have brought one home in this moment: then it lies there no more.
    left = (names - home) & spool.names_for(vault_id, credential_id=credential_id)
    row = OAuthCredential.objects.filter(tenant_id=tenant_id, pk=credential_id).first()
    if row is not None and any(_is_in_the_way(name, entries.get(name), row) for name in left):
        raise StoreUnavailable(
            "An answer to an earlier refresh of this credential lies in the spool and cannot be "
            "saved: nothing is presented again before it is looked at (`oauthvault doctor`), or "
            "a new login is imported.",
            retry_after=30,
        )
    return left != names


def waiting() -> list[str]:
    """What lies in the spool and will not come home by itself, a sentence for each."""
    vault_id = epoch.vault_id()
    entries = {entry.name: entry for entry in spool.entries(vault_id) if _is_signed(entry)}
    sentences = [
        f"{name} cannot be read: it is no answer of this vault, or damaged, or its key is not at "
        "hand; look at it"
        for name in sorted(spool.names(vault_id) - entries.keys())
    ]
    for entry in entries.values():
        credential = _credential(entry)
        if credential is None or _is_known(entry) or _fate(entry, credential) is not Fate.WAITS:
            continue
        sentences.append(
            f"an answer for {credential.user_id!r} of {credential.tenant.slug} belongs to no "
            "refresh that this database knows, and may be newer than what it holds; with a new "
            "login, or a revocation, it is discarded"
        )
    return sentences


def keep_trying() -> None:
    """Have this process go on by itself, every few seconds from now on."""
    _keeper.wake()


def pick_up() -> None:
    """At the start of a process that serves: what one before it left is looked after."""
    outside.remove_leftovers(now=time.time())
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
        elif not _is_signed(entry):
            logger.error(
                "what lies in the spool as %s cannot be told to be an answer of this vault: it is "
                "somebody else's, or damaged, or its key is not at hand; it is left where it is",
                entry.name,
            )
            return False
        elif _is_of_no_use(entry, credential):
            logger.warning(
                "a spooled answer for credential %s is older than what is stored, and discarded",
                entry.credential_id,
            )
        else:
            pair = _opened(entry) if entry.granted else None
            outcome = save(_claim(entry, credential, pair), _answer(entry, pair))
            logger.info(
                "the spooled answer for credential %s of tenant %s: %s",
                entry.credential_id, entry.tenant_id, outcome,
            )  # fmt: skip
    except (OperationalError, InterfaceError):
        connection.close()
        raise
    except Unplaced:
        logger.error(
            "a spooled answer for credential %s belongs to no refresh that this database knows, "
            "and may be newer than what it holds; it stays in the spool until a new login is "
            "imported, or the credential revoked",
            entry.credential_id,
        )
        return False
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


def _is_signed(entry: spool.Entry) -> bool:
    """Whether it is this vault's, as it was written. Without its key that cannot be told: no."""
    key = DataKey.objects.filter(tenant_id=entry.tenant_id, pk=entry.data_key).first()
    try:
        return key is not None and spool.is_signed(entry, unwrap_data_key(key))
    except EncryptionError:
        return False


def _is_of_no_use(entry: spool.Entry, credential: OAuthCredential) -> bool:
    """Whether it can be discarded as it lies there. A pair whose login was replaced is opened,
    to be given back upstream."""
    if _is_known(entry):
        return False
    # A refusal is no pair: whatever it said, the row's own next refresh will be told.
    return not entry.granted or _fate(entry, credential) is Fate.PASSED


def _is_known(entry: spool.Entry) -> bool:
    """Whether this database knows the refresh that it answers."""
    return RefreshAttempt.objects.filter(
        tenant_id=entry.tenant_id,
        credential_id=entry.credential_id,
        lease_id=entry.lease_id,
        generation=entry.generation,
    ).exists()


def _fate(entry: spool.Entry, credential: OAuthCredential) -> Fate:
    return stray.fate(credential, generation=entry.generation, answered_at=entry.answered_at)


def _is_in_the_way(name: str, entry: spool.Entry | None, row: OAuthCredential) -> bool:
    """Whether what is left there may be the answer to a presentation of the row's refresh
    token. Of one that cannot be read only the name speaks: it ends with its claim's lease."""
    if entry is not None:
        return entry.generation >= row.generation
    try:
        lease_id = uuid.UUID(name.removeprefix(f"{row.pk}-"))
    except ValueError:
        return False
    return RefreshAttempt.objects.filter(
        tenant_id=row.tenant_id,
        credential=row,
        lease_id=lease_id,
        generation__gte=row.generation,
        answer_saved=False,
    ).exists()


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
            account_email=_account(entry),
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


def _account(entry: spool.Entry) -> str:
    """Empty if it does not open: it must not cost anybody a pair. Older versions have put it down
    in the open, or not at all."""
    sealed = entry.granted.get("account_sealed")
    if not isinstance(sealed, str):
        return email_address.email_of(entry.granted.get("account_email"))
    try:
        return sealing.open_account(
            sealed,
            data_key=DataKey.objects.get(pk=entry.data_key),
            tenant_id=entry.tenant_id,
            credential_id=entry.credential_id,
        )
    except EncryptionError:
        return ""


def _opened(entry: spool.Entry) -> Pair:
    return sealing.open_pair(
        sealing.SealedPair(
            data_key=DataKey.objects.get(pk=entry.data_key),
            access_token_encrypted=entry.granted["access_token_encrypted"],
            refresh_token_encrypted=entry.granted["refresh_token_encrypted"],
        ),
        tenant_id=entry.tenant_id,
        credential_id=entry.credential_id,
    )


def _try_all() -> None:
    try:
        replay()
    except (DatabaseError, InterfaceError) as error:
        logger.warning("the database is still away: %s", type(error).__name__)


_keeper = WriteBehind("spool", _try_all)
