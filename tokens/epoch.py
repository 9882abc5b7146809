"""Is this database the one that was left, or a restored one?

A restored backup holds refresh tokens that were spent since it was made; presenting one of
them ends its person's login. Nothing in the database can tell, so a number that only rises
is kept in it and outside of it (Redis, the data directory). With every claim and every
sweep it rises, in the database first. A database that knows a lower number than the outside
is a restored one (or a replica that had lost its last writes); so is one with credentials
in it beside which the outside has nothing at all. A restore of everything at once cannot be
seen.

What follows is the quarantine: every credential that could be refreshed is set aside until
an operator says `oauthvault release_quarantine`. Nor are their tokens handed out: what was
revoked since the backup was made would be among them.

From then on the restored database is one of its own, and its epoch has a place of its own
outside (`Deployment.lineage`): a drill beside the original does not disturb it, and a second
restore is noticed, whether all of it has been released or some, or nothing.
"""

import logging
import random
import threading
import time
import uuid
from collections.abc import Callable

from django.conf import settings
from django.db import DatabaseError, IntegrityError, InterfaceError, connection, transaction
from django.db.models import F

from tokens import audit, isolation, outside
from tokens.diagnosis import RESTORED
from tokens.errors import Quarantined, StoreUnavailable
from tokens.models import (
    Deployment,
    OAuthCredential,
    Problem,
    Standing,
    Tenant,
)
from tokens.refresh.schedule import due_time, unless_switched_off

logger = logging.getLogger(__name__)

# Seconds between two looks at what lies outside.
_LOOKED_FOR = 20.0
# Seconds over which what was released falls due.
_SPREAD = 120
_PAGE = 500
_SET_ASIDE = (Standing.ACTIVE, Standing.REAUTHORIZATION_REQUIRED)
_ENDED = (
    Problem.ROTATED_ELSEWHERE,
    Problem.ANSWER_LOST,
    Problem.LOGIN_ENDED,
    Problem.MISDIRECTED,
)

_lock = threading.Lock()
_vault_id: uuid.UUID | None = None
_serves = False
_seen: dict[str, tuple[int, float]] = {}  # epoch outside, when looked (monotonic)


def deployment() -> Deployment:
    """The one row; made where there is none yet."""
    row = Deployment.objects.filter(pk=1).first()
    if row is not None:
        return row
    try:
        with transaction.atomic():
            return Deployment.objects.create(pk=1)
    except IntegrityError:
        return Deployment.objects.get(pk=1)


def serve() -> None:
    """This process is a part of the vault itself, with its Redis and its data directory, and
    finds nothing there: that means something. A command in a terminal may just have been
    given another directory."""
    global _serves
    _serves = True


def look_at_start(*, now: float) -> None:
    """Find a restored database out before anything of it is handed out. What cannot be told
    at this moment is found by the first claim or sweep."""
    try:
        verify(now=now)
    except (Quarantined, StoreUnavailable) as refusal:
        logger.error("%s", refusal.detail)
    except (DatabaseError, InterfaceError) as error:
        logger.warning("the database cannot be asked for its epoch: %s", type(error).__name__)
    finally:
        connection.close()


def verify(*, now: float) -> int:
    """The epoch that the database must at least have to be the one that was left.

    Raises Quarantined, and has set every credential aside, if it is a restored one;
    StoreUnavailable if that cannot be told at the moment.
    """
    global _vault_id
    row = deployment()
    _vault_id = row.vault_id
    known = _known_outside(row, now=now)
    if row.epoch < known:
        _quarantine(row, known, _behind(row, known), now=now)
    return known


def vault_id() -> uuid.UUID:
    """The id of the vault that this process works for, asked of the database once."""
    global _vault_id
    if _vault_id is None:
        _vault_id = deployment().vault_id
    return _vault_id


def known_vault_id() -> uuid.UUID | None:
    """The same, if this process has learned it already. Asks no database."""
    return _vault_id


def suspicion() -> str | None:
    """Why this database seems to be a restored one, or None; for who only wants to know."""
    row = deployment()
    found, everywhere = _read_outside(row.kept_as)
    if found is None and _has_left_a_trace(row):
        if everywhere:
            return "neither Redis nor the data directory given here has ever seen this vault"
        return "what is kept outside of the database cannot be read"
    if found is not None and row.epoch < found:
        return _behind(row, found)
    return None


def advance(*, now: float) -> None:
    """Let the epoch rise, in the database first. Part of every sweep."""
    verify(now=now)
    Deployment.objects.filter(pk=1).update(
        epoch=F("epoch") + 1, token_url=settings.CLAUDE_OAUTH_TOKEN_URL
    )
    row = deployment()
    keep_outside(row, everywhere=True)
    if row.quarantined_at is not None:
        _end_quarantine_of_nobody()


def rise(*, least: int) -> Deployment:
    """Let the epoch rise as the last act of a claim's transaction. Quarantined if the database
    is not at ``least`` any more, which rolls the claim back."""
    if not Deployment.objects.filter(pk=1, epoch__gte=least).update(epoch=F("epoch") + 1):
        raise Quarantined("The database was exchanged for an older one.")
    return Deployment.objects.get(pk=1)


def keep_outside(row: Deployment, *, everywhere: bool = False) -> None:
    """Keep its epoch outside, in Redis or else in the data directory; ``everywhere``: in both.
    After the commit, and before anything is spent."""
    _remember(row.kept_as, row.epoch, looked=False)
    if not _write_outside(row.kept_as, row.epoch, everywhere=everywhere):
        logger.warning("the epoch cannot be written outside of the database")


@isolation.every_tenant()
def release(
    *,
    tenant: Tenant | None,
    user_id: str | None,
    actor: str,
    now: float,
    each: Callable[[], None] = lambda: None,
) -> int:
    """Let what is quarantined be used and refreshed again; how many.

    Whoever's login had ended before stays so. The others fall due spread over two minutes.
    ``each`` is called for every credential (a progress bar).
    """
    chosen = OAuthCredential.objects.filter(standing=Standing.QUARANTINED)
    if tenant is not None:
        chosen = chosen.for_tenant(tenant)
    if user_id is not None:
        chosen = chosen.filter(user_id=user_id)
    released = 0
    while page := list(chosen.select_related("tenant").order_by("pk")[:_PAGE]):
        with transaction.atomic():
            for credential in page:
                released += _release_one(credential, now=now)
                each()
            for owner in {credential.tenant for credential in page}:
                audit.record(
                    tenant=owner,
                    actor=actor,
                    action="release_quarantine",
                    now=now,
                    subject=user_id or "",
                    credentials=sum(credential.tenant_id == owner.pk for credential in page),
                )
    if released:
        _shut_out_the_original(deployment())
    _end_quarantine_of_nobody()
    return released


def forget() -> None:
    """Look outside anew (another database, another process)."""
    global _vault_id, _serves
    with _lock:
        _seen.clear()
        _vault_id, _serves = None, False


def _release_one(credential: OAuthCredential, *, now: float) -> bool:
    spent = credential.unanswered_presentations >= settings.MOST_PRESENTATIONS
    ended = spent or credential.problem in _ENDED
    due = None
    if not ended and credential.has_refresh_token:
        due = due_time(expires_at=credential.expires_at, threshold=credential.threshold, now=now)
        due = max(due, int(now + random.uniform(0, _SPREAD)))  # noqa: S311  spreads load
    return bool(
        OAuthCredential.objects.filter(
            tenant_id=credential.tenant_id,
            pk=credential.pk,
            standing=Standing.QUARANTINED,
            generation=credential.generation,
        ).update(
            standing=Standing.REAUTHORIZATION_REQUIRED if ended else Standing.ACTIVE,
            refresh_due_at=unless_switched_off(due),
            released_at=now,
            problem=Problem.ANSWER_LOST if spent else credential.problem,
        )
    )


@isolation.every_tenant()
def _end_quarantine_of_nobody() -> None:
    """Take the mark away once nothing is quarantined any more: released, replaced by a new
    login, or revoked."""
    with transaction.atomic():
        # Under the lock of whoever quarantines.
        row = Deployment.objects.select_for_update().get(pk=1)
        if not OAuthCredential.objects.filter(standing=Standing.QUARANTINED).exists():
            row.quarantined_at, row.quarantine_reason = None, ""
            row.save(update_fields=["quarantined_at", "quarantine_reason"])


def _shut_out_the_original(row: Deployment) -> None:
    """What is released here is presented from here. Should the database that this one was
    restored for still be at work, or be put back, it finds itself behind."""
    for name in row.kept_before_as:
        found, _ = _read_outside(name)
        _write_outside(name, max(found or 0, row.epoch) + 1, everywhere=True)


def _known_outside(row: Deployment, *, now: float) -> int:
    """The highest epoch that anything outside of the database remembers."""
    with _lock:
        known, looked = _seen.get(row.kept_as, (-1, float("-inf")))
    if time.monotonic() - looked < _LOOKED_FOR:
        return known
    found, everywhere = _read_outside(row.kept_as)
    if found is None and known >= 0:
        found = known
    if found is None:
        found = _with_nothing_outside(row, everywhere=everywhere, now=now)
    _remember(row.kept_as, found, looked=True)
    return max(known, found)


def _with_nothing_outside(row: Deployment, *, everywhere: bool, now: float) -> int:
    """The epoch to go on from. Raises unless nothing ever lay outside of this database."""
    if _has_left_a_trace(row):
        if not everywhere:
            raise StoreUnavailable(
                "What is kept outside of the database cannot be read now, and without it a "
                "restored database cannot be told from the one that was left. Nothing is "
                "refreshed until it can.",
                retry_after=5,
            )
        if not _serves:
            raise StoreUnavailable(
                "Neither Redis nor the data directory given here has ever seen this vault: give "
                "this command the vault's REDIS_URL or OAUTHVAULT_DATA_DIR. Nothing was refreshed."
            )
        _quarantine(row, row.epoch + 1, "what is kept outside of the database is missing", now=now)
    _write_outside(row.kept_as, row.epoch, everywhere=True)
    return row.epoch


@isolation.every_tenant()
def _quarantine(seen: Deployment, known: int, reason: str, *, now: float) -> None:
    with transaction.atomic():
        row = Deployment.objects.select_for_update().get(pk=1)
        if row.kept_as != seen.kept_as or row.epoch >= known:
            # All of this was said already: then nothing is left that could be claimed. Or it
            # was read before another claim let it rise.
            return
        counts = {
            tenant: OAuthCredential.objects.for_tenant(tenant)
            .filter(standing__in=_SET_ASIDE)
            .update(
                standing=Standing.QUARANTINED,
                refresh_due_at=None,
                taken_until=None,
                lease_id=None,
                lease_until=None,
            )
            for tenant in Tenant.objects.all()
        }
        # Said once: from here on it is a database of its own, with an epoch of its own.
        row.begin_anew(epoch=known + 1)
        row.quarantined_at, row.quarantine_reason = now, reason
        row.save()
        for tenant, count in counts.items():
            if count:
                audit.record(
                    tenant=tenant,
                    actor="scheduler",
                    action="quarantine",
                    now=now,
                    reason=reason,
                    credentials=count,
                )
        logger.critical(
            "this database seems to be a restored one (%s): %s credentials are quarantined "
            "until an operator runs `oauthvault release_quarantine`",
            reason, sum(counts.values()),
        )  # fmt: skip
        # Before the commit: killed after it, this database would be one that nothing outside
        # knows. Nobody else looks into this place. The original, which may still be at work
        # beside us, has its own.
        keep_outside(row, everywhere=True)
    raise Quarantined(RESTORED)


def _behind(row: Deployment, known: int) -> str:
    return f"the database is at epoch {row.epoch}, and was at {known} before"


@isolation.every_tenant()
def _has_left_a_trace(row: Deployment) -> bool:
    """Whether the outside must know this database: its epoch has risen, and it is filled."""
    return row.epoch > 0 and OAuthCredential.objects.exclude(standing=Standing.REVOKED).exists()


def _remember(name: str, epoch: int, *, looked: bool) -> None:
    with _lock:
        before, when = _seen.get(name, (-1, float("-inf")))
        _seen[name] = (max(before, epoch), time.monotonic() if looked else when)


def _read_outside(name: str) -> tuple[int | None, bool]:
    """The epoch found outside, and whether every place could be looked into."""
    found, everywhere = [], True
    try:
        kept = (outside.folder("epoch") / name).read_text(encoding="ascii")
        found.append(int(kept))
    except FileNotFoundError:
        pass
    except (OSError, ValueError):
        logger.warning("the epoch in the data directory cannot be read")
        everywhere = False
    if outside.has_redis():
        try:
            text = outside.in_redis("GET", _key(name))
        except outside.Unreachable:
            everywhere = False
        else:
            if text is not None and str(text).isdigit():
                found.append(int(str(text)))
    return max(found, default=None), everywhere


def _write_outside(name: str, epoch: int, *, everywhere: bool) -> bool:
    """Whether any place took it. Two processes may pass each other here, and the lower of
    two epochs stay: one less is known then, and nothing is taken for restored by it."""
    written = False
    if outside.has_redis():
        try:
            outside.in_redis("SET", _key(name), epoch)
            written = True
        except outside.Unreachable:
            pass
    if everywhere or not written:
        try:
            outside.write_durably(outside.folder("epoch") / name, f"{epoch}\n")
            written = True
        except OSError:
            pass
    return written


def _key(name: str) -> str:
    return f"oauthvault:{name}:epoch"
