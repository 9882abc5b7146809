"""What is old enough is forgotten: refreshes that ended, hand-outs by the minute, jobs with what
became of their rows, and the audit trail's oldest batches.

Looked after by the sweep, once an hour, tenant by tenant, in pages, and for a few seconds
at a time: what is left over is for the next sweep. The counts in `tokens.statistics` are
kept by themselves and lose nothing by it. Times are Unix seconds.

A clock that is a year ahead makes a year of the trail look old. So the time by which age is
judged goes on by a day at most with each look: set right within some hours, such a clock costs
some days of what was next to go. A vault that was away catches up in the same way.
"""

import logging
import time
from datetime import UTC, datetime
from typing import Any

from django.conf import settings
from django.db.models import Exists, OuterRef, QuerySet

from tokens import import_drafts, isolation, jobs
from tokens.models import (
    UNSETTLED,
    HandOut,
    Heartbeat,
    Job,
    JobRow,
    Outcome,
    RefreshAttempt,
    Tenant,
)
from tokens.trail.drop import drop_old

logger = logging.getLogger(__name__)

_DAY, _HOUR = 86_400, 3600
# When it was done last, and by what time age was judged when all of it was.
_PART, _JUDGED = "history", "history judged"
# Rows of one transaction, and seconds of one sweep.
_PAGE, _LONGEST = 1000, 5.0


def forget_old(*, now: float) -> bool:
    """Forget what is too old, if that was not done within the hour. Whether it was done."""
    # One sweep of several that come at once.
    if not Heartbeat.take_turn(_PART, every=_HOUR, now=now):
        return False
    until = time.monotonic() + _LONGEST
    judged = _judged_by(now)
    done = drop_old(before=judged - settings.OAUTHVAULT_AUDIT_DAYS * _DAY, now=now, until=until)
    with isolation.every_tenant():
        tenants = list(Tenant.objects.order_by("pk").values_list("pk", flat=True))
    before = judged - settings.OAUTHVAULT_HISTORY_DAYS * _DAY
    for tenant_id in tenants:
        with isolation.of(tenant_id):
            import_drafts.forget_ended(tenant_id=tenant_id, now=now)
            for old in (attempts, hand_outs):
                done = _delete(old(tenant_id=tenant_id, before=before), until=until) and done
            for ended in (rows_of_jobs, ended_jobs):
                rows = ended(tenant_id=tenant_id, before=judged - jobs.DAYS_KEPT * _DAY)
                done = _delete(rows, until=until) and done
    if done:
        Heartbeat.objects.update_or_create(part=_JUDGED, defaults={"at": judged})
    else:
        Heartbeat.objects.filter(part=_PART, at=now).update(at=0.0)
    return True


def attempts(*, tenant_id: int, before: float) -> QuerySet[RefreshAttempt]:
    """Refreshes that ended and were begun before. Served by the index `attempt_recent`.

    Not those whose answer may still come home: a replaced data key is kept for its sake
    (`tokens.rotation.old_keys`), and an answer without its attempt is nobody's.
    """
    return (
        RefreshAttempt.objects.filter(tenant_id=tenant_id, started_at__lt=before)
        .exclude(outcome=Outcome.IN_FLIGHT)
        .exclude(UNSETTLED)
        .order_by("started_at")
    )


def hand_outs(*, tenant_id: int, before: float) -> QuerySet[HandOut]:
    """Minutes of hand-outs from before. Served by the index `hand_out_minute`."""
    return HandOut.objects.filter(tenant_id=tenant_id, minute__lt=int(before) // 60).order_by(
        "minute"
    )


def rows_of_jobs(*, tenant_id: int, before: float) -> QuerySet[JobRow]:
    """What became of each credential of a job that ended before."""
    return JobRow.objects.filter(tenant_id=tenant_id, job__ended_at__lt=before).order_by("pk")


def ended_jobs(*, tenant_id: int, before: float) -> QuerySet[Job]:
    """Jobs that ended before, and of whose rows none is left."""
    old = Job.objects.filter(tenant_id=tenant_id, ended_at__lt=before)
    return old.filter(~Exists(JobRow.objects.filter(job=OuterRef("pk")))).order_by("pk")


def _judged_by(now: float) -> float:
    """The time by which age is judged: now, and not more than a day after the last one."""
    last = Heartbeat.objects.filter(part=_JUDGED).values_list("at", flat=True).first()
    if last is None or now <= last + _DAY:
        return now
    logger.warning(
        "what is old enough to be forgotten is judged by %s, a day after it was judged last, and "
        "not by the clock (%s): the vault was away, or the clock is wrong",
        _told(last + _DAY), _told(now),
    )  # fmt: skip
    return last + _DAY


def _told(moment: float) -> str:
    return f"{datetime.fromtimestamp(moment, UTC):%Y-%m-%d %H:%M} UTC"


def _delete(old: "QuerySet[Any]", *, until: float) -> bool:
    """False if time was up first."""
    while time.monotonic() < until:
        page = list(old.values_list("pk", flat=True)[:_PAGE])
        if page:
            old.order_by().filter(pk__in=page).delete()
        if len(page) < _PAGE:
            return True
    return False
