"""Acts on many credentials, asked for once, worked off behind the requests, each at most once.

A job is of one tenant: an act on the credentials of three is three jobs. Whose credentials they
are was decided when it was asked for, in the operator's scope; the worker is at work for the
job's tenant. A row is marked as begun, in a transaction of its own, before anything is done for
it, and what is so marked is never begun again. So a worker that is killed leaves at most a few
rows of which nobody knows what became, and those say so; the next worker goes on with the rest.
"""

import logging
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

from django.conf import settings
from django.contrib.auth.models import User
from django.db import connection, transaction
from django.db.models import Count, Q, QuerySet
from django.utils.translation import gettext as _

from oauthvault.logging import redact
from tokens import audit, clock, isolation, obstacles, own_settings, roles, vault
from tokens.diagnosis import describe_obstacle
from tokens.errors import UpstreamRateLimited, UpstreamUnavailable, VaultError
from tokens.models import (
    Cause,
    Job,
    JobAct,
    JobRow,
    OAuthCredential,
    Outcome,
    RowState,
    Tenant,
)
from tokens.refresh import refresh
from tokens.rotation import data_keys

logger = logging.getLogger(__name__)

# Credentials of one request for an act, whatever the number of jobs that it becomes.
MOST = 10_000
# Jobs of one tenant that have not ended. Each may have a thread of the worker for its turns, and
# some must be left to the sweep and to the refreshes of everybody else.
MOST_UNFINISHED = 4
# Days after its end for which a job, and what became of each of its rows, can be looked at.
DAYS_KEPT = 14
# Seconds after which a worker that said nothing is taken for dead. A row takes 30 s at most.
_LEASE = 120.0
# Rows that are begun in one transaction, and done at the same time where the far side is asked.
_AT_ONCE = 8
# Seconds after which a job that nobody works at is published again.
_PUBLISHED_AGAIN = 60.0
_LONGEST_PAUSE = 600.0

# The right that each act takes, still, when a worker comes to it.
RIGHTS = {
    JobAct.REFRESH: "tokens.refresh_oauthcredential",
    JobAct.ROTATE: "tokens.rotate_oauthcredential",
    JobAct.REVOKE: "tokens.revoke_oauthcredential",
    JobAct.SUSPEND: "tokens.suspend_oauthcredential",
    JobAct.RESUME: "tokens.suspend_oauthcredential",
    JobAct.SUSPEND_AUTO_REFRESH: "tokens.pause_oauthcredential",
    JobAct.RESUME_AUTO_REFRESH: "tokens.pause_oauthcredential",
    JobAct.RESEAL: "tokens.reseal_oauthcredential",
}


class TooMany(VaultError):
    """An act for more credentials than were named, or than can be done at once; or one job more
    than a tenant may have under way."""

    code = "invalid_request"


@dataclass(frozen=True, kw_only=True)
class Counts:
    """How many of a job's rows are in which state."""

    waiting: int = 0
    begun: int = 0
    done: int = 0
    left_out: int = 0
    failed: int = 0
    unknown: int = 0

    @property
    def over(self) -> int:
        """Rows to which nothing more will be done."""
        return self.done + self.left_out + self.failed + self.unknown


@dataclass(frozen=True, kw_only=True)
class _Ended:
    """What became of one row."""

    state: RowState
    said: str


@dataclass(frozen=True, kw_only=True)
class _Paused:
    """Nothing was done for the row, and nothing could be for any other now."""

    seconds: float
    said: str


def ask(
    *,
    act: JobAct,
    credentials: "QuerySet[OAuthCredential]",
    actor: str,
    operator: User,
    most: int | None = None,
    now: float,
) -> list[Job]:
    """A job for each tenant of these credentials. They are read once: whoever comes to match
    later is not among them. TooMany for more than ``most``, or than `MOST`, and where a tenant
    has `MOST_UNFINISHED` jobs already: then there is none at all."""
    most = MOST if most is None else min(most, MOST)
    of_tenant: dict[int, list[tuple[int, str, int]]] = defaultdict(list)
    chosen = credentials.order_by("tenant_id", "user_id").values_list(
        "tenant_id", "pk", "user_id", "generation"
    )[: most + 1]
    for tenant_id, *of_row in chosen:
        of_tenant[tenant_id].append(tuple(of_row))  # type: ignore[arg-type]
    if sum(map(len, of_tenant.values())) > most:
        raise TooMany(_("More than %(most)d credentials. Nothing was done.") % {"most": most})
    with transaction.atomic():
        return [
            _make(tenant_id, rows, act, actor=actor, operator=operator, now=now)
            for tenant_id, rows in of_tenant.items()
        ]


def work(
    *,
    tenant_id: int,
    job_id: int,
    seconds: float,
    pool: Executor,
    stopping: Callable[[], bool] = lambda: False,
) -> bool:
    """Work at a job for about so many seconds. Whether there is more to do at once.

    Nothing is done if somebody else is at it, if it has ended, or while it pauses. ``pool``:
    what asks the far side is done by its threads. ``stopping``: nothing new is begun.
    """
    with isolation.of(tenant_id):
        ends = time.monotonic() + seconds
        job = _take(tenant_id, job_id, now=clock.now())
        if job is None:
            return False
        try:
            _give_up_what_was_begun(job, now=clock.now())
            while not stopping() and time.monotonic() < ends:
                if not _may_still(job):
                    stop(job=job, by=_("the vault: who asked for it may do so no longer"),
                         now=clock.now())  # fmt: skip
                    return False
                rows = _begin(job, now=clock.now())
                if not rows:
                    _end(job, now=clock.now())
                    return False
                if _do_all(job, rows, pool):
                    return False
        finally:
            _give_back(job)
        return not stopping()


@isolation.of_its_tenant
def stop_job(*, tenant: Tenant, job: Job, actor: str, now: float) -> bool:
    """Nothing more of the job is begun; what is done stays done, and what is under way in this
    moment ends. False: it had ended already."""
    return stop(job=job, by=actor, now=now)


def stop(*, job: Job, by: str, now: float) -> bool:
    with transaction.atomic():
        stopped = Job.objects.filter(tenant_id=job.tenant_id, pk=job.pk, ended_at=None).update(
            ended_at=now, stopped_by=by[:200], resumes_at=None, pause=""
        )
        if stopped:
            counted = counts(job)
            audit.record(
                tenant=job.tenant, actor=by, action="stop_job", now=now, job=job.pk,
                act=job.act, done=counted.done, not_begun=counted.waiting,
            )  # fmt: skip
    return bool(stopped)


def counts(job: Job) -> Counts:
    found = dict(
        JobRow.objects.filter(tenant_id=job.tenant_id, job=job)
        .order_by()
        .values_list("state")
        .annotate(n=Count("pk"))
    )
    return Counts(**found)


def counts_of(some: Sequence[Job]) -> dict[int, Counts]:
    """`counts`, by the keys of several jobs, in one query."""
    found: dict[int, dict[str, int]] = {job.pk: {} for job in some}
    rows = JobRow.objects.filter(job__in=found).order_by()
    for job_id, state, number in rows.values_list("job_id", "state").annotate(n=Count("pk")):
        found[job_id][state] = number
    return {job_id: Counts(**numbers) for job_id, numbers in found.items()}


def to_publish(*, now: float) -> list[tuple[int, int]]:
    """(tenant, job) of what waits for a worker, for the sweep: nobody is at it, it does not
    pause, and it was not published a moment ago."""
    long_ago = now - _PUBLISHED_AGAIN
    return list(
        Job.objects.filter(
            Q(resumes_at=None) | Q(resumes_at__lte=now) | Q(resumes_at__gt=now + _LONGEST_PAUSE),
            Q(published_at=None) | Q(published_at__lte=long_ago) | Q(published_at__gt=now),
            _free(now),
            ended_at=None,
        )
        .order_by("asked_at")
        .values_list("tenant_id", "pk")[:200]
    )


def note_published(*, tenant_id: int, job_id: int, now: float) -> None:
    Job.objects.filter(tenant_id=tenant_id, pk=job_id).update(published_at=now)


def _free(now: float) -> Q:
    """Nobody is at it: `Job.lease_until`."""
    return (
        Q(lease_until=None)
        | Q(lease_until__lte=now)
        # Given by a clock that was ahead, and is set right.
        | Q(lease_until__gt=now + _LEASE + settings.CLOCK_SLACK)
    )


def _make(
    tenant_id: int,
    rows: Sequence[tuple[int, str, int]],
    act: JobAct,
    *,
    actor: str,
    operator: User,
    now: float,
) -> Job:
    with isolation.of(tenant_id):
        # Locked: of two who ask in one moment the second counts the first one's.
        tenant = Tenant.objects.select_for_update(no_key=True).get(pk=tenant_id)
        if Job.objects.filter(tenant=tenant, ended_at=None).count() >= MOST_UNFINISHED:
            raise TooMany(
                _("%(n)d jobs of %(tenant)s have not ended yet. Nothing was done: wait for one of "
                  "them, or stop it.") % {"n": MOST_UNFINISHED, "tenant": tenant.slug}
            )  # fmt: skip
        key = data_keys.present_key(tenant) if act == JobAct.RESEAL else None
        job = Job.objects.create(
            tenant=tenant,
            act=act,
            actor=actor[:200],
            operator=operator,
            replacing=key.key_id if key is not None else "",
            total=len(rows),
            asked_at=now,
        )
        JobRow.objects.bulk_create(
            (
                JobRow(
                    tenant=tenant, job=job, credential_id=pk, user_id=user_id,
                    generation=generation,
                )
                for pk, user_id, generation in rows
            ),
            batch_size=1000,
        )  # fmt: skip
        audit.record(
            tenant=tenant, actor=actor, action="ask_for_job", now=now, job=job.pk,
            act=act.value, credentials=len(rows),
        )  # fmt: skip
    return job


def _take(tenant_id: int, job_id: int, *, now: float) -> Job | None:
    """The job, for this worker alone; None: it is not to be worked at by it now."""
    lease = uuid.uuid4()
    taken = Job.objects.filter(
        Q(resumes_at=None) | Q(resumes_at__lte=now) | Q(resumes_at__gt=now + _LONGEST_PAUSE),
        _free(now),
        tenant_id=tenant_id,
        pk=job_id,
        ended_at=None,
    ).update(lease_id=lease, lease_until=now + _LEASE, worked_at=now, resumes_at=None, pause="")
    if not taken:
        return None
    return Job.objects.select_related("tenant").get(tenant_id=tenant_id, pk=job_id)


def _give_back(job: Job) -> None:
    Job.objects.filter(tenant_id=job.tenant_id, pk=job.pk, lease_id=job.lease_id).update(
        lease_id=None, lease_until=None
    )


def _give_up_what_was_begun(job: Job, *, now: float) -> None:
    """Of what a worker before this one has begun and not ended nobody knows what became. It may
    have been done, so it is not done again."""
    _rows(job).filter(state=RowState.BEGUN).update(
        state=RowState.UNKNOWN,
        said=_("Its worker ended in the middle of it, and it is not tried again. See its page."),
        ended_at=now,
    )


def _may_still(job: Job) -> bool:
    """Whether who asked for it could ask for it now: an operator who was sent away does not go
    on acting by what was asked for before. Asked before each few rows, of the account as it is
    now: in one turn thousands may be done."""
    if job.operator_id is None:
        return False
    operator = User.objects.filter(pk=job.operator_id, is_active=True).first()
    if operator is None:
        return False
    if not operator.has_perm(RIGHTS[JobAct(job.act)]):
        return False
    tenants = roles.tenants_of(operator)
    return tenants is None or job.tenant_id in tenants


def _begin(job: Job, *, now: float) -> list[JobRow]:
    """The next rows, marked as begun; none: it has ended, was stopped, or another worker has it
    by now. The job's row is locked meanwhile: so each row is begun by one, once."""
    with transaction.atomic():
        mine = (
            Job.objects.select_for_update(of=("self",))
            .filter(tenant_id=job.tenant_id, pk=job.pk, lease_id=job.lease_id, ended_at=None)
            .exists()
        )
        if not mine:
            return []
        rows = list(_rows(job).filter(state=RowState.WAITING).order_by("pk")[:_AT_ONCE])
        _rows(job).filter(pk__in=[row.pk for row in rows]).update(
            state=RowState.BEGUN, begun_at=now
        )
        Job.objects.filter(tenant_id=job.tenant_id, pk=job.pk).update(
            lease_until=now + _LEASE, worked_at=now
        )
    return rows


def _do_all(job: Job, rows: Sequence[JobRow], pool: Executor) -> bool:
    """Do what is to be done to these rows, and write down what became of each. Whether the job
    pauses."""
    if _asks_the_far_side(JobAct(job.act)):
        results = list(pool.map(lambda row: _in_a_thread(job, row), rows))
    else:
        results = [_do(job, row) for row in rows]
    now, pause = clock.now(), None
    with transaction.atomic():
        for row, result in zip(rows, results, strict=True):
            # Another worker may have called it unknown meanwhile: now it is known.
            mine = _rows(job).filter(pk=row.pk, state__in=(RowState.BEGUN, RowState.UNKNOWN))
            if isinstance(result, _Paused):
                pause = result
                mine.update(state=RowState.WAITING, begun_at=None, said="", ended_at=None)
            else:
                mine.update(state=result.state, said=redact(result.said)[:500], ended_at=now)
        if pause is not None:
            Job.objects.filter(tenant_id=job.tenant_id, pk=job.pk, ended_at=None).update(
                resumes_at=now + pause.seconds, pause=pause.said[:200], published_at=None
            )
    return pause is not None


def _end(job: Job, *, now: float) -> None:
    waiting = _rows(job).filter(state=RowState.WAITING)
    if not waiting.exists():
        Job.objects.filter(
            tenant_id=job.tenant_id, pk=job.pk, lease_id=job.lease_id, ended_at=None
        ).update(ended_at=now)


def _rows(job: Job) -> "QuerySet[JobRow]":
    return JobRow.objects.filter(tenant_id=job.tenant_id, job_id=job.pk)


def _asks_the_far_side(act: JobAct) -> bool:
    if act == JobAct.REVOKE:
        return settings.CLAUDE_OAUTH_REVOKE_URL is not None
    return act in (JobAct.REFRESH, JobAct.ROTATE)


def _in_a_thread(job: Job, row: JobRow) -> _Ended | _Paused:
    try:
        with isolation.of(job.tenant_id):
            return _do(job, row)
    finally:
        connection.close()


def _do(job: Job, row: JobRow) -> _Ended | _Paused:
    """One row, by the domain function of the act. What it refuses is the row's result."""
    try:
        credential = (
            OAuthCredential.objects.filter(tenant_id=job.tenant_id, pk=row.credential_id)
            .select_related("tenant", "data_key")
            .first()
        )
        if credential is None:
            return _Ended(state=RowState.LEFT_OUT, said=_("There is nothing stored any more."))
        if credential.user_id != row.user_id:
            return _Ended(state=RowState.LEFT_OUT, said=_("It is another user's by now."))
        why_not, do = _ACTS[JobAct(job.act)]
        obstacle = why_not(credential, clock.now())
        if obstacle is not None:
            return _Ended(state=RowState.LEFT_OUT, said=obstacle)
        return do(job, row, credential)
    except VaultError as refusal:
        return _Ended(state=RowState.FAILED, said=refusal.detail)
    except Exception as error:
        # One that cannot be done must not keep the others from being done.
        logger.exception("row %s of job %s could not be done", row.pk, job.pk)
        return _Ended(
            state=RowState.FAILED,
            said=_("It could not be done (%(kind)s); the log says more.")
            % {"kind": type(error).__name__},
        )


def _refresh(job: Job, row: JobRow, credential: OAuthCredential) -> _Ended | _Paused:
    """Of the generation that was there when it was asked for: one that has been refreshed since
    has what was wanted, and its new refresh token is not spent on this."""
    if credential.generation > row.generation:
        return _Ended(state=RowState.LEFT_OUT, said=_("It has a newer token pair already."))
    try:
        outcome = refresh(
            tenant_id=job.tenant_id,
            credential_id=credential.pk,
            generation=row.generation,
            cause=Cause.DEMAND,
            actor=job.actor,
        )
    except (UpstreamRateLimited, UpstreamUnavailable) as closed:
        # Said before anything is sent, and over for all at the same time.
        seconds = min(_LONGEST_PAUSE, max(1.0, closed.retry_after or 1.0))
        return _Paused(seconds=seconds, said=closed.detail)
    if outcome == Outcome.REFRESHED:
        return _Ended(state=RowState.DONE, said=_("A new token pair is there."))
    if outcome is None:
        return _Ended(
            state=RowState.LEFT_OUT,
            said=_("A refresh of it was under way already, or has ended in this moment."),
        )
    credential.refresh_from_db()
    reason = describe_obstacle(credential, now=clock.now()) or ""
    return _Ended(state=RowState.FAILED, said=f"{Outcome(outcome).label}. {reason}".strip())


def _revoke(job: Job, row: JobRow, credential: OAuthCredential) -> _Ended:
    done = vault.revoke(
        tenant=credential.tenant, user_id=credential.user_id, actor=job.actor, now=clock.now()
    )
    if done.upstream == "failed":
        return _Ended(
            state=RowState.DONE,
            said=_("Revoked here. The authorization server was told, and did not agree."),
        )
    return _Ended(state=RowState.DONE, said=_("Revoked."))


def _by(
    function: Callable[..., object], said: Callable[[], str]
) -> Callable[[Job, JobRow, OAuthCredential], _Ended]:
    """What is done by a domain function that takes a user, and says nothing but refusals."""

    def do(job: Job, row: JobRow, credential: OAuthCredential) -> _Ended:
        function(
            tenant=credential.tenant, user_id=credential.user_id, actor=job.actor, now=clock.now()
        )
        return _Ended(state=RowState.DONE, said=said())

    return do


def _reseal(job: Job, row: JobRow, credential: OAuthCredential) -> _Ended:
    moved = data_keys.reseal(
        tenant=credential.tenant, user_id=credential.user_id, replacing=job.replacing,
        actor=job.actor, now=clock.now(),
    )  # fmt: skip
    if moved:
        return _Ended(state=RowState.DONE, said=_("Sealed under the new data key."))
    return _Ended(state=RowState.DONE, said=_("It is sealed under its tenant's newest data key."))


_Do = Callable[[Job, JobRow, OAuthCredential], _Ended | _Paused]
_ACTS: dict[JobAct, tuple[Callable[[OAuthCredential, float], str | None], _Do]] = {
    JobAct.REFRESH: (obstacles.to_refresh, _refresh),
    JobAct.ROTATE: (obstacles.to_refresh, _refresh),
    JobAct.REVOKE: (obstacles.to_revoke, _revoke),
    JobAct.SUSPEND: (obstacles.to_suspend, _by(vault.suspend, lambda: _("Suspended."))),
    JobAct.RESUME: (obstacles.to_resume, _by(vault.resume, lambda: _("Resumed."))),
    JobAct.SUSPEND_AUTO_REFRESH: (
        obstacles.to_suspend_auto_refresh,
        _by(own_settings.suspend_auto_refresh, lambda: _("Its automatic refresh is suspended.")),
    ),
    JobAct.RESUME_AUTO_REFRESH: (
        obstacles.to_resume_auto_refresh,
        _by(own_settings.resume_auto_refresh, lambda: _("It is refreshed automatically again.")),
    ),
    JobAct.RESEAL: (obstacles.to_reseal, _reseal),
}
