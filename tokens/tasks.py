"""The clock's rooms: what beat starts. Tasks are thin, and harmless when delivered twice."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

from celery import shared_task
from celery.signals import worker_ready, worker_shutting_down
from django.conf import settings
from django.db import DatabaseError, connection
from kombu.exceptions import KombuError

from tokens import clock, deletion, due, endings, epoch, history, isolation, jobs, line, notices
from tokens.due import Due
from tokens.errors import (
    Quarantined,
    StoreUnavailable,
    UpstreamRateLimited,
    UpstreamUnavailable,
    VaultError,
)
from tokens.models import Cause, Heartbeat, Tenant
from tokens.refresh import refresh
from tokens.refresh.abandoned import settle_abandoned
from tokens.refresh.replay import pick_up, replay
from tokens.rotation import data_keys
from tokens.trail.seal import seal_due

logger = logging.getLogger(__name__)

# Credentials that one message carries, and the seconds for which its task takes on more.
_CHUNK, _LONGEST_TURN = 8, 120.0
# Seconds of one sweep that deletions get; nothing of them is urgent but their first steps.
_DELETING = 5.0
# Credentials of one tenant that one sweep seals again, where a rotation was cut off.
# And the seconds of one sweep that all of them get.
_RESEALED_BY_A_SWEEP, _RESEALING = 1000, 5.0
# Seconds that one message works at a job: then whoever waits behind it gets a turn.
_JOB_TURN = 20.0
# A message that no worker has taken for so long is not the only one: the sweep sends another.
_JOB_EXPIRES = 600.0
_last_looked_after = 0
# Refreshes that nobody is waiting for.
_UNASKED = (Cause.SWEEP, Cause.HAND_OUT)

# A worker's refreshes, whatever the number of its tasks: nearly all of their time they wait
# for the far side. Threads of a pool are joined when the interpreter ends.
_pool = ThreadPoolExecutor(
    max_workers=settings.OAUTHVAULT_WORKER_CONCURRENCY, thread_name_prefix="refresh"
)
_stopping = threading.Event()


@worker_ready.connect
def serve(**kwargs: object) -> None:
    """A worker is a part of the vault, and what one before it left is looked after."""
    epoch.serve()
    pick_up()


@worker_shutting_down.connect
def claim_nothing_new(**kwargs: object) -> None:
    """SIGTERM: what is under way is saved, and nothing else is begun."""
    _stopping.set()


@shared_task(name="tokens.sweep")
def sweep() -> int:
    """Publish a refresh for what is due, as far as there is room; the number published.

    Before that, what only a scheduler looks after: the epoch, the spool, refreshes whose
    process died, logins that will end. After it, what no login waits for: data keys that were
    replaced, the audit trail, what is old enough to be forgotten, keys in use for unusually
    many, deletions, acts on many that nobody works at.
    """
    now = clock.now()
    safe = _look_after_epoch(now)
    Heartbeat.objects.update_or_create(part="scheduler", defaults={"at": now})
    # What lay in the spool comes home before anything is called abandoned.
    _step("the spool", replay)
    _step("abandoned refreshes", lambda: settle_abandoned(now=now))
    _step("endings", lambda: endings.announce_due(now=now))
    published = _publish(now=now) if safe and settings.CLAUDE_OAUTH_AUTO_REFRESH else 0
    _step("acts on many", lambda: _look_after_jobs(now))
    _step("replaced data keys", lambda: _look_after_old_keys(now))
    _step("the audit trail", lambda: seal_due(now=now))
    _step("old records", lambda: history.forget_old(now=now))
    _step("key spans", lambda: notices.look_at_spans(now=now))
    _step("deletions", lambda: deletion.go_on_with_all(seconds=_DELETING))
    return published


@shared_task(name="tokens.refresh_credentials")
def refresh_credentials(
    wanted: Sequence[Due], cause: str = Cause.SWEEP, actor: str = "scheduler"
) -> None:
    """Refresh each (tenant, credential, generation), unless it has moved on since.

    What nobody is waiting for is refreshed only while it is due, and what hand-outs ask for
    only as far as there is room: the sweep comes to the rest. A demand need not be due, and
    takes no turn.

    Of a sweep's message each place goes to the next in the line as soon as it is free, for
    a while: a backlog is worked off without a way through the broker for every few.
    """
    ends = time.monotonic() + _LONGEST_TURN
    if cause == Cause.HAND_OUT:
        wanted = _take_asked_for(wanted)
    under_way: set[Future[bool]] = {
        _pool.submit(_refresh_one, *each, Cause(cause), actor) for each in wanted
    }
    while under_way:
        done, under_way = wait(under_way, return_when=FIRST_COMPLETED)
        # A place whose refresh met a closed door is left to the next sweep.
        places = sum(each.result() for each in done)
        if cause == Cause.SWEEP and places and time.monotonic() < ends:
            under_way |= {
                _pool.submit(_refresh_one, *each, Cause(cause), actor)
                for each in _take_next(places)
            }


@shared_task(name="tokens.rotate_data_key")
def rotate_data_key(tenant_id: int, replacing: str, actor: str) -> None:
    """Give the tenant a new data key in place of ``replacing``, and seal its credentials again.
    A tenant that is gone, or has another key by now, is given none."""
    with isolation.of(tenant_id):
        tenant = Tenant.objects.filter(pk=tenant_id).first()
        if tenant is None:
            return
        done = data_keys.rotate_data_key(
            tenant=tenant, actor=actor, now=clock.now(), replacing=replacing
        )
    logger.info(
        "data key of tenant %s: %s, %d credentials sealed again, %d left",
        tenant_id, done.key_id, done.resealed, done.left,
    )  # fmt: skip


@shared_task(name="tokens.work_off_job")
def work_off_job(tenant_id: int, job_id: int) -> None:
    """Work at a job for a while, and ask for the next turn if something is left of it."""
    left = jobs.work(
        tenant_id=tenant_id, job_id=job_id, seconds=_JOB_TURN, pool=_pool,
        stopping=_stopping.is_set,
    )  # fmt: skip
    if left:
        publish_job(tenant_id=tenant_id, job_id=job_id, now=clock.now())


def publish_job(*, tenant_id: int, job_id: int, now: float) -> bool:
    """Tell a worker of a job. False: the broker cannot be reached, and the sweep does it later."""
    try:
        work_off_job.apply_async((tenant_id, job_id), expires=_JOB_EXPIRES, retry=False)
    except (KombuError, OSError) as error:
        logger.warning("job %d could not be published: %s", job_id, type(error).__name__)
        return False
    with isolation.of(tenant_id):
        jobs.note_published(tenant_id=tenant_id, job_id=job_id, now=now)
    return True


def _look_after_jobs(now: float) -> None:
    """What nobody works at: its worker was killed, its pause is over, or no broker took it."""
    with isolation.every_tenant():
        waiting = jobs.to_publish(now=now)
    for tenant_id, job_id in waiting:
        if not publish_job(tenant_id=tenant_id, job_id=job_id, now=now):
            return


def _look_after_old_keys(now: float) -> None:
    """For some seconds; the next sweep goes on with the tenant after the last of this one."""
    global _last_looked_after
    until = time.monotonic() + _RESEALING
    with isolation.every_tenant():
        tenants = list(data_keys.unfinished().order_by("pk"))
    tenants.sort(key=lambda tenant: tenant.pk <= _last_looked_after)
    for tenant in tenants:
        if time.monotonic() >= until:
            return
        _last_looked_after = tenant.pk
        with isolation.of(tenant.pk):
            data_keys.finish_rotation(
                tenant=tenant, actor="scheduler", now=now, most=_RESEALED_BY_A_SWEEP
            )


def _take_next(places: int) -> list[Due]:
    try:
        return due.take(now=clock.now(), most=places)
    except DatabaseError as error:
        logger.warning("the next in the line are left to the sweep: %s", type(error).__name__)
        return []


def _take_asked_for(wanted: Sequence[Due]) -> list[Due]:
    # A message carries lists.
    asked = [
        (tenant_id, credential_id, generation) for tenant_id, credential_id, generation in wanted
    ]
    try:
        return due.take_asked_for(asked, now=clock.now())
    except DatabaseError as error:
        logger.warning("what hand-outs ask for is left to the sweep: %s", type(error).__name__)
        return []


def _step(what: str, do: Callable[[], object]) -> None:
    """One that fails must not keep the others, or the refreshes, from being done."""
    try:
        do()
    except Exception:
        logger.exception("%s could not be looked after", what)


def _look_after_epoch(now: float) -> bool:
    """Whether the database is the one that was left, and may be refreshed from."""
    try:
        epoch.advance(now=now)
    except (Quarantined, StoreUnavailable) as refusal:
        logger.error("nothing is refreshed: %s", refusal.detail)
        return False
    except DatabaseError as error:
        logger.warning("the epoch could not be looked after: %s", type(error).__name__)
        return False
    return True


def _publish(*, now: float) -> int:
    taken = due.take(now=now, most=settings.OAUTHVAULT_REFRESHES_AT_ONCE)
    for start in range(0, len(taken), _CHUNK):
        chunk = taken[start : start + _CHUNK]
        try:
            refresh_credentials.apply_async((chunk,), expires=line.TAKEN_FOR, retry=False)
        except Exception as error:
            # Whatever kind of broker, whatever it raises. The next sweep tries again.
            logger.warning("refreshes could not be published: %s", type(error).__name__)
            due.put_back(taken[start:])
            return start
    return len(taken)


def _refresh_one(
    tenant_id: int, credential_id: int, generation: int, cause: Cause, actor: str
) -> bool:
    """Whether the place is free for another one."""
    this = (tenant_id, credential_id, generation)
    try:
        if _stopping.is_set():
            due.put_back([this])
            return False
        outcome = refresh(
            tenant_id=tenant_id,
            credential_id=credential_id,
            generation=generation,
            cause=cause,
            actor=actor,
            only_if_due=cause in _UNASKED,
        )
        if outcome is None:
            due.postpone(this, now=clock.now())
    except (UpstreamRateLimited, UpstreamUnavailable) as pause:
        # Nobody's fault, and over for all at the same time: the sweep finds it again.
        logger.info("credential %s is not refreshed now: %s", credential_id, pause.code)
        _quietly(lambda: due.put_back([this]))
        return False
    except VaultError as refusal:
        logger.info("credential %s is not refreshed now: %s", credential_id, refusal.code)
        _quietly(lambda: due.postpone(this, now=clock.now()))
    except Exception:
        # One that cannot be done must not keep the others of this task from theirs.
        logger.exception("the refresh of credential %s could not be done", credential_id)
        _quietly(lambda: due.postpone(this, now=clock.now()))
    finally:
        connection.close()
    return not _stopping.is_set()


def _quietly(give_up_place: Callable[[], None]) -> None:
    try:
        give_up_place()
    except DatabaseError:
        logger.warning("the place of a refresh is free again in a minute")
