"""Acts on many credentials that are worked off behind the requests, and what became of each."""

from typing import ClassVar

from django.conf import settings
from django.db import models

from tokens.models.credential import OAuthCredential
from tokens.models.scoped import OfTenant, ScopedManager
from tokens.models.tenant import Tenant


class JobAct(models.TextChoices):
    """What is done to each of a job's credentials."""

    REFRESH = "refresh", "Refresh now"
    ROTATE = "rotate", "Rotate tokens"
    REVOKE = "revoke", "Revoke"
    SUSPEND = "suspend", "Suspend"
    RESUME = "resume", "Resume"
    SUSPEND_AUTO_REFRESH = "suspend_auto_refresh", "Suspend automatic refresh"
    RESUME_AUTO_REFRESH = "resume_auto_refresh", "Resume automatic refresh"
    RESEAL = "reseal", "Re-seal under a new data key"


class RowState(models.TextChoices):
    """How far one credential of a job is. What is `BEGUN` is never begun again."""

    WAITING = "waiting"
    BEGUN = "begun"
    DONE = "done"
    LEFT_OUT = "left_out", "left out"
    FAILED = "failed"
    UNKNOWN = "unknown", "not known"


class Job(OfTenant):
    """One act, asked for once, on many credentials of one tenant. Times are Unix seconds.

    ``replacing``: the data key that sealed when it was asked for (of `RESEAL`). ``lease_*``: of
    the worker that is at it. ``resumes_at``: it pauses until then, ``pause`` says why.
    ``stopped_by``: who ended it before its end, if somebody did.
    """

    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="jobs")
    act = models.CharField(max_length=32, choices=JobAct)
    actor = models.CharField(max_length=200)
    operator = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, related_name="+"
    )
    replacing = models.CharField(max_length=32, blank=True)
    total = models.PositiveIntegerField()
    asked_at = models.FloatField()
    published_at = models.FloatField(null=True)
    worked_at = models.FloatField(null=True)
    lease_id = models.UUIDField(null=True, editable=False)
    lease_until = models.FloatField(null=True, editable=False)
    resumes_at = models.FloatField(null=True)
    pause = models.CharField(max_length=200, blank=True)
    stopped_by = models.CharField(max_length=200, blank=True)
    ended_at = models.FloatField(null=True)

    objects = ScopedManager()

    class Meta:
        default_permissions = ("view",)
        permissions: ClassVar = [("stop_job", "Can stop a job that is under way")]
        constraints: ClassVar = [
            models.CheckConstraint(condition=models.Q(act__in=JobAct.values), name="act_is_known"),
        ]
        indexes: ClassVar = [
            models.Index(fields=["tenant", "-asked_at"], name="job_recent"),
            # What the sweep looks after, and nearly empty.
            models.Index(
                fields=["asked_at"], condition=models.Q(ended_at=None), name="job_unfinished"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.get_act_display()}, {self.total} of {self.tenant.slug}"

    @property
    def stopped(self) -> bool:
        return bool(self.stopped_by)


class JobRow(OfTenant):
    """One credential of a job. ``user_id`` and ``generation``: as they were when it was asked
    for. ``said``: what became of it, in words, never with a secret."""

    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="+")
    job = models.ForeignKey(Job, on_delete=models.CASCADE, related_name="rows")
    credential = models.ForeignKey(OAuthCredential, on_delete=models.CASCADE, related_name="+")
    user_id = models.CharField(max_length=256)
    generation = models.BigIntegerField()
    state = models.CharField(max_length=16, choices=RowState, default=RowState.WAITING)
    said = models.CharField(max_length=500, blank=True)
    begun_at = models.FloatField(null=True)
    ended_at = models.FloatField(null=True)

    objects = ScopedManager()

    class Meta:
        default_permissions: ClassVar = ()
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["job", "credential"], name="a_job_has_each_once"),
            models.CheckConstraint(
                condition=models.Q(state__in=RowState.values), name="row_state_is_known"
            ),
        ]
        indexes: ClassVar = [models.Index(fields=["job", "state", "id"], name="job_row_state")]

    def __str__(self) -> str:
        return f"{self.user_id}: {self.state}"
