"""The audit trail, to read and to search."""

import re
from datetime import UTC, datetime
from typing import Any

from django.contrib import admin
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy
from unfold.contrib.filters.admin import DropdownFilter, RelatedDropdownFilter

from tokens import clock
from tokens.admin import facts
from tokens.admin.base import VaultModelAdmin, in_words
from tokens.admin.times import moment
from tokens.models import AuditEvent

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
        if wanted in self._seconds:
            return queryset.filter(at__gt=clock.now() - self._seconds[wanted])
        return queryset


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
            ("revoke", gettext_lazy("revoke")),
            ("suspend", gettext_lazy("suspend")),
            ("resume", gettext_lazy("resume")),
            ("create_key", gettext_lazy("create key")),
            ("revoke_key", gettext_lazy("revoke key")),
            ("create_tenant", gettext_lazy("create tenant")),
            ("change_tenant", gettext_lazy("change tenant")),
            ("suspend_tenant", gettext_lazy("suspend tenant")),
            ("resume_tenant", gettext_lazy("resume tenant")),
        ]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset.filter(action=self.value()) if self.value() else queryset


@admin.register(AuditEvent)
class AuditEventAdmin(VaultModelAdmin):
    list_display = ("when", "tenant_name", "actor", "act", "subject", "result", "detail_in_words")
    list_display_links = ("when",)
    list_filter = (("tenant", RelatedDropdownFilter), ActionFilter, SinceFilter)
    list_select_related = ("tenant",)
    list_fullwidth = True
    search_fields = ("actor", "subject", "action", "tenant__slug")
    search_help_text = gettext_lazy("Actor, user, action, tenant or 2026-01-31")
    # An audit trail is read newest first, and by nothing else.
    sortable_by = ()
    fields = ("when", "tenant_name", "actor", "act", "subject", "result", "request_id",
              "detail_in_words")  # fmt: skip
    readonly_fields = fields
    actions = None

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
        return event.tenant.slug if event.tenant is not None else "–"

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


def _day(word: str) -> float | None:
    if not _DATE.fullmatch(word):
        return None
    try:
        return datetime.fromisoformat(word).replace(tzinfo=UTC).timestamp()
    except ValueError:
        return None
