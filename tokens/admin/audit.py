"""The audit trail, to read, to search and to export, and how its chain stands."""

import re
from collections.abc import Callable, Iterator, Mapping
from contextvars import copy_context
from datetime import UTC, datetime
from typing import Any

from django.contrib import admin
from django.contrib.admin.options import IncorrectLookupParameters
from django.contrib.admin.views.main import ERROR_FLAG, ChangeList
from django.core.exceptions import BadRequest, PermissionDenied
from django.db.models import Count, Max, Min, Q, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseBase, StreamingHttpResponse
from django.urls import URLPattern, path, reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from unfold.contrib.filters.admin import DropdownFilter, RelatedDropdownFilter

from tokens import clock
from tokens.admin import facts
from tokens.admin.base import VaultModelAdmin, in_words
from tokens.admin.times import moment
from tokens.models import AuditChain, AuditEvent
from tokens.trail import export
from tokens.trail.chains import read

_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")


class SinceFilter(DropdownFilter):
    title = gettext_lazy("time")
    parameter_name = "since"

    _seconds = {"1h": 3600, "24h": 86_400, "7d": 7 * 86_400, "30d": 30 * 86_400}

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return [
            ("1h", gettext_lazy("last hour")),
            ("24h", gettext_lazy("last 24 hours")),
            ("7d", gettext_lazy("last 7 days")),
            ("30d", gettext_lazy("last 30 days")),
        ]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        wanted = self.value()
        if not wanted:
            return queryset
        if wanted not in self._seconds:
            raise IncorrectLookupParameters
        return queryset.filter(at__gt=clock.now() - self._seconds[wanted])


class ActionFilter(DropdownFilter):
    """The acts there are in this deployment's code; a search finds any other word."""

    title = gettext_lazy("action")
    parameter_name = "action"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return [
            ("import", gettext_lazy("import")),
            ("refresh", gettext_lazy("refresh")),
            ("rejected", gettext_lazy("401 reported")),
            ("login_ending", gettext_lazy("end of login announced")),
            ("refresh_settings", gettext_lazy("refresh settings")),
            ("revoke", gettext_lazy("revoke")),
            ("suspend", gettext_lazy("suspend")),
            ("resume", gettext_lazy("resume")),
            ("reassign", gettext_lazy("reassign owner")),
            ("export_credentials", gettext_lazy("export credentials")),
            ("ask_for_job", gettext_lazy("ask for a job")),
            ("stop_job", gettext_lazy("stop job")),
            ("quarantine", gettext_lazy("quarantine")),
            ("release_quarantine", gettext_lazy("release quarantine")),
            ("create_key", gettext_lazy("create key")),
            ("rotate_key", gettext_lazy("rotate key")),
            ("revoke_key", gettext_lazy("revoke key")),
            ("unusual_span", gettext_lazy("unusual use of a key")),
            ("create_tenant", gettext_lazy("create tenant")),
            ("change_tenant", gettext_lazy("change tenant")),
            ("rotate_data_key", gettext_lazy("rotate data key")),
            ("reseal", gettext_lazy("seal again")),
            ("destroy_data_key", gettext_lazy("destroy data key")),
            ("rewrap_data_key", gettext_lazy("rewrap data key")),
            ("add_encryption_key", gettext_lazy("add encryption key")),
            ("remove_encryption_keys", gettext_lazy("remove encryption keys")),
            ("suspend_tenant", gettext_lazy("suspend tenant")),
            ("resume_tenant", gettext_lazy("resume tenant")),
            ("guard_audit", gettext_lazy("guard audit trail again")),
            ("reanchor_audit", gettext_lazy("reanchor audit trail")),
            ("delete_tenant", gettext_lazy("delete tenant")),
            ("create_operator", gettext_lazy("create operator")),
            ("change_operator", gettext_lazy("change operator")),
            ("delete_operator", gettext_lazy("delete operator")),
            ("set_password", gettext_lazy("set password of operator")),
            ("create_group", gettext_lazy("create group")),
            ("change_group", gettext_lazy("change group")),
            ("delete_group", gettext_lazy("delete group")),
            ("assign_operator", gettext_lazy("assign tenant to operator")),
            ("withdraw_operator", gettext_lazy("withdraw tenant from operator")),
            ("sign_in", gettext_lazy("sign in")),
            ("prove_password", gettext_lazy("wrong password at a question")),
            ("prove_second_factor", gettext_lazy("wrong code of second factor")),
            ("use_recovery_code", gettext_lazy("use recovery code")),
            ("enrol_second_factor", gettext_lazy("set up second factor")),
            ("make_recovery_codes", gettext_lazy("make recovery codes")),
            ("remove_second_factor", gettext_lazy("remove second factor")),
            ("reset_second_factor", gettext_lazy("reset second factor of operator")),
            ("end_sessions", gettext_lazy("end sessions of operator")),
        ]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        wanted = self.value()
        if not wanted:
            return queryset
        if "\0" in wanted:
            raise IncorrectLookupParameters
        return queryset.filter(action=wanted)


class TrailList(ChangeList):
    """A page of the trail, on which a record that cannot be read takes one line, and not all."""

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        self.result_list: Any = read(self.result_list)


@admin.register(AuditEvent)
class AuditEventAdmin(VaultModelAdmin):
    list_display = ("when", "tenant_name", "actor", "act", "subject", "result", "detail_in_words")
    list_display_links = ("when",)
    list_filter = (("tenant", RelatedDropdownFilter), ActionFilter, SinceFilter)
    list_before_template = "admin/tokens/auditevent/chain.html"
    list_fullwidth = True
    search_fields = ("actor", "subject", "action", "tenant_slug")
    search_help_text = gettext_lazy("Actor, user, action, tenant or 2026-01-31")
    empty_title = gettext_lazy("Nothing is recorded yet.")
    empty_says = gettext_lazy(
        "Every import, refresh and revocation, every key and every act of an operator is written "
        "here as it happens."
    )
    # An audit trail is read newest first, and by nothing else.
    sortable_by = ()
    fields = ("when", "tenant_name", "actor", "act", "subject", "result", "address",
              "request_id", "detail_in_words", "link_of_chain")  # fmt: skip
    readonly_fields = fields
    actions = None

    def get_urls(self) -> list[URLPattern]:
        own = path(
            "export/", self.admin_site.admin_view(self.export), name="tokens_auditevent_export"
        )
        return [own, *super().get_urls()]

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return TrailList

    def changelist_view(
        self, request: HttpRequest, extra_context: Mapping[str, Any] | None = None
    ) -> HttpResponse:
        question = request.GET.urlencode()
        link = reverse("admin:tokens_auditevent_export") + (f"?{question}" if question else "")
        context = {"chain": _state_of_chains(), "export_link": link, **(extra_context or {})}
        response: HttpResponse = super().changelist_view(request, context)
        return response

    def export(self, request: HttpRequest) -> HttpResponseBase:
        """What the list shows with these filters, all of it, as JSON lines, oldest first."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        events = self._asked_for(request)
        answer = StreamingHttpResponse(_lines(events), content_type="application/x-ndjson")
        answer["Content-Disposition"] = 'attachment; filename="audit.jsonl"'
        return answer

    def _asked_for(self, request: HttpRequest) -> QuerySet[AuditEvent]:
        """BadRequest for what the list answers with all there is and a warning above it: in a
        file nobody sees the warning."""
        if ERROR_FLAG in request.GET or not ChangeList.search_form_class(request.GET).is_valid():
            raise BadRequest("these filters cannot be understood")
        try:
            events: QuerySet[AuditEvent] = self.get_changelist_instance(request).get_queryset(
                request
            )
        except IncorrectLookupParameters:
            raise BadRequest("these filters cannot be understood") from None
        return events

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        """Every word must be found; a date is that day (UTC)."""
        for word in search_term.split():
            day = _day(word)
            if day is not None:
                queryset = queryset.filter(at__gte=day, at__lt=day + 86_400)
                continue
            found = Q()
            for field in self.search_fields:
                found |= Q(**{f"{field}__icontains": word})
            queryset = queryset.filter(found)
        return queryset, False

    def history_of(self, obj: AuditEvent) -> QuerySet[AuditEvent]:
        return AuditEvent.objects.filter(pk=obj.pk)

    @admin.display(description=gettext_lazy("time"))
    def when(self, event: AuditEvent) -> SafeString:
        return moment(event.at, now=clock.now())

    @admin.display(description=gettext_lazy("tenant"))
    def tenant_name(self, event: AuditEvent) -> str:
        return event.tenant_slug or "–"

    @admin.display(description=gettext_lazy("action"))
    def act(self, event: AuditEvent) -> str:
        return event.action.replace("_", " ")

    @admin.display(description=gettext_lazy("outcome"))
    def result(self, event: AuditEvent) -> SafeString:
        tone = {"done": "good", "refreshed": "good", "superseded": "plain"}.get(
            event.outcome, "uneasy"
        )
        return facts.badge(event.outcome.replace("_", " "), tone)

    @admin.display(description=gettext_lazy("detail"))
    def detail_in_words(self, event: AuditEvent) -> SafeString:
        return format_html('<span class="ov-sentence">{}</span>', in_words(event.detail) or "–")

    @admin.display(description=gettext_lazy("sealed in"))
    def link_of_chain(self, event: AuditEvent) -> str:
        if event.batch is None:
            return _("not sealed yet")
        return _("batch %(number)d") % {"number": event.batch.number}


def _lines(events: QuerySet[AuditEvent]) -> Iterator[str]:
    """A page at a time, each asked for whomever the request is for: it is long over when the
    last of them is read."""
    ask: Callable[..., Any] = copy_context().run
    return _in_pages(ask, events)


def _in_pages(ask: Callable[..., Any], events: QuerySet[AuditEvent]) -> Iterator[str]:
    after: AuditEvent | None = None
    while rows := ask(export.page, events, after=after):
        after = rows[-1]
        yield from map(export.line, rows)


def _state_of_chains() -> dict[str, Any]:
    """As of the last sealing and the last `oauthvault verify_audit`: nothing is verified here."""
    now = clock.now()
    found = AuditChain.objects.aggregate(
        chains=Count("pk"),
        unverified=Count("pk", filter=Q(verified_at=None)),
        sealed_at=Max("sealed_at"),
        verified_at=Min("verified_at"),
        broken=Count("pk", filter=~Q(broken="")),
    )
    for name in ("sealed_at", "verified_at"):
        found[name] = moment(found[name], now=now) if found[name] is not None else None
    broken = AuditChain.objects.exclude(broken="").order_by("pk")[:5] if found["broken"] else ()
    return {**found, "first_broken": list(broken)}


def _day(word: str) -> float | None:
    if not _DATE.fullmatch(word):
        return None
    try:
        return datetime.fromisoformat(word).replace(tzinfo=UTC).timestamp()
    except ValueError:
        return None
