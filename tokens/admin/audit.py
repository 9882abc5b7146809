"""The audit trail, to read, to search and to export, and how its chain stands."""

from collections.abc import Callable, Iterator, Mapping
from contextvars import copy_context
from typing import Any

from django.contrib import admin
from django.contrib.admin.options import IncorrectLookupParameters
from django.contrib.admin.views.main import ERROR_FLAG, SEARCH_VAR, ChangeList
from django.core.exceptions import BadRequest, PermissionDenied
from django.db.models import Count, Max, Min, Q, QuerySet
from django.http import (
    HttpRequest,
    HttpResponse,
    HttpResponseBase,
    HttpResponseNotAllowed,
    StreamingHttpResponse,
)
from django.urls import URLPattern, path, reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from unfold.contrib.filters.admin import RelatedDropdownFilter

from tokens import clock
from tokens.admin import facts
from tokens.admin.base import VaultModelAdmin, in_words, operator
from tokens.admin.lists import is_secret
from tokens.admin.times import moment
from tokens.admin.trail_filters import ActionFilter, DaysFilter, OutcomeFilter, SinceFilter
from tokens.models import AuditChain, AuditEvent
from tokens.trail import export
from tokens.trail.chains import read
from tokens.trail.search import matching


class TrailList(ChangeList):
    """A page of the trail, on which a record that cannot be read takes one line, and not all."""

    def get_ordering(self, request: HttpRequest, queryset: QuerySet[Any]) -> list[Any]:
        """Whatever the address asks: `sortable_by` takes the links away and no more, and no index
        serves another order."""
        return ["-at", "-id"]

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        self.result_list: Any = read(self.result_list)


@admin.register(AuditEvent)
class AuditEventAdmin(VaultModelAdmin):
    list_display = ("when", "tenant_name", "actor", "act", "subject", "result", "detail_in_words")
    list_display_links = ("when",)
    list_filter = (
        ("tenant", RelatedDropdownFilter), ActionFilter, OutcomeFilter, SinceFilter, DaysFilter,
    )  # fmt: skip
    list_before_template = "admin/tokens/auditevent/chain.html"
    list_fullwidth = True
    search_fields = ("actor", "subject", "request_id")
    search_help_text = gettext_lazy("Actor, user, request id, action, tenant or 2026-01-31")
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
        context = {
            "chain": _state_of_chains(),
            "export_link": link if self.has_export_permission(request) else None,
            **(extra_context or {}),
        }
        response: HttpResponse = super().changelist_view(request, context)
        return response

    def has_export_permission(self, request: HttpRequest) -> bool:
        """To export what one may see."""
        return self.has_view_permission(request) and request.user.has_perm(
            "tokens.export_auditevent"
        )

    def export(self, request: HttpRequest) -> HttpResponseBase:
        """What the list shows with these filters, all of it, as JSON lines, oldest first.

        A POST: that it was exported is written down first, and so is part of it.
        """
        if not self.has_export_permission(request):
            raise PermissionDenied
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        events = self._asked_for(request)
        asked = {name: str(value) for name, value in request.GET.items() if value}
        export.note(events, asked=asked, actor=operator(request), now=clock.now())
        answer = StreamingHttpResponse(_lines(events), content_type="application/x-ndjson")
        answer["Content-Disposition"] = 'attachment; filename="audit.jsonl"'
        return answer

    def _asked_for(self, request: HttpRequest) -> QuerySet[AuditEvent]:
        """BadRequest for what the list answers with all there is and a warning above it: in a
        file nobody sees the warning."""
        if ERROR_FLAG in request.GET or not ChangeList.search_form_class(request.GET).is_valid():
            raise BadRequest("these filters cannot be understood")
        if is_secret(request.GET.get(SEARCH_VAR, "")):
            raise BadRequest("nobody is found by a token or a key")
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
        return queryset.filter(matching(search_term)), False

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
