"""Jobs: acts on many credentials, how far they are, what became of each, and to stop one."""

from typing import Any
from urllib.parse import urlencode

from django.contrib import admin
from django.core.paginator import Paginator
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext
from unfold.contrib.filters.admin import DropdownFilter, RelatedDropdownFilter
from unfold.views import ChangeList

from tokens import clock, jobs
from tokens.admin import facts
from tokens.admin.acts import Act, ActingModelAdmin, Result, one_by_one, pages
from tokens.admin.bars import LIVE, bar
from tokens.admin.credentials import CredentialAdmin
from tokens.admin.times import moment
from tokens.models import AuditEvent, Job, JobAct, JobRow, RowState

# Rows of a job on one page. And seconds after which it is said that no worker has come.
_PAGE, _AWAITED = 100, 60.0
_TITLES = {act.job: act.title for act in CredentialAdmin.acts if act.job is not None}
# What an operator reads of a row, and how loudly it is said.
_ROW = {
    RowState.WAITING: (gettext_lazy("waits"), "plain"),
    RowState.BEGUN: (gettext_lazy("under way"), "plain"),
    RowState.DONE: (gettext_lazy("done"), "good"),
    RowState.LEFT_OUT: (gettext_lazy("left out"), "uneasy"),
    RowState.FAILED: (gettext_lazy("failed"), "bad"),
    RowState.UNKNOWN: (gettext_lazy("not known"), "bad"),
}
_SHOWN = {
    "problems": (RowState.FAILED, RowState.UNKNOWN),
    "left_out": (RowState.LEFT_OUT,),
    "done": (RowState.DONE,),
    "waiting": (RowState.WAITING, RowState.BEGUN),
}


def _stop(job: Job, actor: str, now: float) -> Result:
    if jobs.stop_job(tenant=job.tenant, job=job, actor=actor, now=now):
        return Result(text=_("The job is stopped. What is done stays done."))
    return Result(text=_("The job had ended already."))


def _stop_effect(job: Job, now: float) -> str:
    counted = jobs.counts(job)
    return _("%(over)d of %(total)d are done with, and stay so; %(waiting)d are not begun.") % {
        "over": counted.over,
        "total": job.total,
        "waiting": counted.waiting,
    }


STOP = Act(
    name="stop",
    permission="stop",
    title=gettext_lazy("Stop job"),
    icon="stop_circle",
    dangerous=True,
    button=lambda n: ngettext("Stop %(n)d job", "Stop %(n)d jobs", n) % {"n": n},
    question=lambda n: ngettext("Stop this job?", "Stop these %(n)d jobs?", n) % {"n": n},
    means=gettext_lazy(
        "Nothing more of it is begun; what is under way in this moment ends. What is done stays "
        "done: nothing is taken back. It cannot be taken up again, but the same can be asked for "
        "anew."
    ),
    effect=_stop_effect,
    refusal=lambda job, now: _("It has ended.") if job.ended_at is not None else None,
    perform=one_by_one(_stop),
)


class StateFilter(DropdownFilter):
    title = gettext_lazy("state")
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return [
            ("unfinished", gettext_lazy("not ended yet")),
            ("stopped", gettext_lazy("stopped")),
            ("ended", gettext_lazy("ended")),
        ]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        wanted = self.value()
        if wanted == "unfinished":
            return queryset.filter(ended_at=None)
        if wanted == "stopped":
            return queryset.exclude(stopped_by="")
        if wanted == "ended":
            return queryset.filter(ended_at__isnull=False, stopped_by="")
        return queryset


class JobList(ChangeList):
    """A page of jobs; of those that have not ended it is counted how far they are."""

    result_list: Any

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        self.result_list = list(self.result_list)
        unfinished = [job for job in self.result_list if job.ended_at is None]
        counted = jobs.counts_of(unfinished)
        for job in self.result_list:
            job.counted = counted.get(job.pk)


@admin.register(Job)
class JobAdmin(ActingModelAdmin):
    class Media:
        js = (LIVE,)

    list_display = ("what", "tenant_name", "state", "progress", "who", "asked")
    list_display_links = ("what",)
    list_filter = (("tenant", RelatedDropdownFilter), StateFilter)
    list_select_related = ("tenant",)
    list_before_template = "admin/tokens/job/about.html"
    ordering = ("-asked_at", "-pk")
    sortable_by = ()
    acts = (STOP,)
    actions = ("stop_many",)
    actions_detail = ("stop_one",)
    stop_one, stop_many = pages(STOP)

    def has_stop_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return self.has_view_permission(request) and request.user.has_perm("tokens.stop_job")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Job]:
        rows: QuerySet[Job] = super().get_queryset(request).select_related("tenant")
        return rows

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return JobList

    def get_fieldsets(self, request: HttpRequest, obj: Job | None = None) -> Any:
        """The page tells all there is, in words."""
        return ()

    def get_actions(self, request: HttpRequest) -> dict[str, Any]:
        actions: dict[str, Any] = super().get_actions(request)
        actions.pop("delete_selected", None)
        return actions

    def render_change_form(
        self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any
    ) -> HttpResponse:
        job, now = context["original"], clock.now()
        counted = jobs.counts(job)
        shown = request.GET.get("show", "")
        rows = JobRow.objects.filter(tenant_id=job.tenant_id, job=job).order_by("pk")
        if shown in _SHOWN:
            rows = rows.filter(state__in=_SHOWN[shown])
        page = Paginator(rows, _PAGE).get_page(request.GET.get("page"))
        context |= {
            "title": _title(job),
            "job": job,
            "badge": self.state(job),
            "counted": counted,
            "problems": counted.failed + counted.unknown,
            "awaited": _is_awaited(job, now=now),
            "asked": moment(job.asked_at, now=now),
            "ended": moment(job.ended_at, now=now) if job.ended_at is not None else None,
            "resumes": moment(job.resumes_at, now=now) if job.resumes_at is not None else None,
            "may_see_credentials": request.user.has_perm("tokens.view_oauthcredential"),
            "days_kept": jobs.DAYS_KEPT,
            "page": page,
            "lines": [_line(row, job) for row in page],
            "filters": _filters(counted, job, shown),
            "previous": page.has_previous() and _query(shown, page.number - 1),
            "next": page.has_next() and _query(shown, page.number + 1),
        }
        self.leave_out_impossible(context, job, now=now)
        # On the card, which is renewed while somebody looks: it goes when the job ends.
        context["buttons"], context["actions_detail"] = context["actions_detail"], []
        return super().render_change_form(request, context, *args, **kwargs)

    def history_of(self, obj: Job) -> QuerySet[AuditEvent]:
        return AuditEvent.objects.filter(tenant=obj.tenant, detail__job=obj.pk)

    def tell(self, row: Job, *, now: float) -> Job:
        row.told_as = f"{_title(row)}, {row.tenant.slug}"  # type: ignore[attr-defined]
        row.told_state = self.state(row)  # type: ignore[attr-defined]
        return row

    @admin.display(description=gettext_lazy("job"))
    def what(self, job: Job) -> str:
        return _title(job)

    @admin.display(description=gettext_lazy("tenant"))
    def tenant_name(self, job: Job) -> str:
        return job.tenant.slug

    @admin.display(description=gettext_lazy("state"))
    def state(self, job: Job) -> SafeString:
        now = clock.now()
        if job.stopped:
            return facts.badge(gettext_lazy("stopped"), "uneasy")
        if job.ended_at is not None:
            return facts.badge(gettext_lazy("ended"), "good")
        if job.resumes_at is not None and job.resumes_at > now:
            return facts.badge(gettext_lazy("pauses"), "uneasy")
        if job.worked_at is None:
            return facts.badge(gettext_lazy("waits for a worker"), "plain")
        return facts.badge(gettext_lazy("under way"), "plain")

    @admin.display(description=gettext_lazy("progress"))
    def progress(self, job: Job) -> SafeString | str:
        counted = getattr(job, "counted", None)
        if counted is None:
            return ngettext("%(n)d credential", "%(n)d credentials", job.total) % {"n": job.total}
        return format_html(
            '<span id="job-{}" data-live="{}">{}</span>',
            job.pk,
            "yes" if job.ended_at is None else "no",
            bar(counted.over, job.total, of=_title(job)),
        )

    @admin.display(description=gettext_lazy("asked for by"))
    def who(self, job: Job) -> str:
        return job.actor

    @admin.display(description=gettext_lazy("when"))
    def asked(self, job: Job) -> SafeString:
        return moment(job.asked_at, now=clock.now())


def _title(job: Job) -> str:
    return str(_TITLES.get(JobAct(job.act), job.get_act_display()))


def _is_awaited(job: Job, *, now: float) -> bool:
    """Whether a worker should have come by now, and none has."""
    if job.ended_at is not None or (job.resumes_at is not None and job.resumes_at > now):
        return False
    return now - (job.worked_at or job.asked_at) > _AWAITED


def _line(row: JobRow, job: Job) -> dict[str, Any]:
    state = RowState(row.state)
    if state == RowState.WAITING and job.ended_at is not None:
        return {"row": row, "badge": facts.badge(_("not begun"), "plain"), "said": ""}
    return {"row": row, "badge": facts.badge(*_ROW[state]), "said": row.said}


def _filters(counted: jobs.Counts, job: Job, shown: str) -> list[dict[str, Any]]:
    waiting = _("not begun") if job.ended_at is not None else _("waiting or under way")
    every = [
        ("", _("all"), job.total),
        ("problems", _("failed, or not known"), counted.failed + counted.unknown),
        ("left_out", _("left out"), counted.left_out),
        ("done", _("done"), counted.done),
        ("waiting", waiting, counted.waiting + counted.begun),
    ]
    return [
        {"title": title, "count": count, "link": _query(name, 1), "present": name == shown}
        for name, title, count in every
    ]


def _query(shown: str, page: int) -> str:
    asked = {"show": shown} if shown else {}
    return "?" + urlencode(asked | ({"page": str(page)} if page > 1 else {}))
