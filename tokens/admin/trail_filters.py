"""Which records of the trail: what was done, what came of it, and when."""

from collections.abc import Iterator
from typing import Any

from django import forms
from django.contrib.admin import ListFilter
from django.contrib.admin.options import IncorrectLookupParameters
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.translation import gettext_lazy
from unfold.contrib.filters.admin import DropdownFilter
from unfold.widgets import INPUT_CLASSES

from tokens import clock
from tokens.models import WENT_WELL, Outcome
from tokens.trail.search import day_of

_DAY = 86_400


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
            ("account_changed", gettext_lazy("another account")),
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
            ("export_audit", gettext_lazy("export audit trail")),
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


class OutcomeFilter(DropdownFilter):
    title = gettext_lazy("outcome")
    parameter_name = "outcome"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return [
            ("other", gettext_lazy("other than done or refreshed")),
            ("done", gettext_lazy("done")),
            ("refused", gettext_lazy("refused")),
            ("announced", gettext_lazy("announced")),
            ("noticed", gettext_lazy("noticed")),
            ("begun", gettext_lazy("begun")),
            ("shredded", gettext_lazy("shredded")),
            *((outcome.value, outcome.value.replace("_", " ")) for outcome in Outcome),
        ]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        wanted = self.value()
        if not wanted:
            return queryset
        if "\0" in wanted:
            raise IncorrectLookupParameters
        if wanted == "other":
            return queryset.exclude(outcome__in=WENT_WELL)
        return queryset.filter(outcome=wanted)


class _DaysForm(forms.Form):
    """The browser's own fields for a date, named for who cannot see where they stand."""

    day_from = forms.CharField(required=False)
    day_until = forms.CharField(required=False)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for name, label in (
            ("day_from", gettext_lazy("First day (UTC)")),
            ("day_until", gettext_lazy("Last day (UTC)")),
        ):
            self.fields[name].widget = forms.DateInput(
                attrs={"type": "date", "aria-label": label, "class": " ".join(INPUT_CLASSES)}
            )


class DaysFilter(ListFilter):
    """From the beginning of one day to the end of another (UTC)."""

    title = gettext_lazy("days")
    template = "unfold/filters/filters_date_range.html"
    parameter_names = ("day_from", "day_until")

    def __init__(
        self, request: HttpRequest, params: dict[str, Any], model: Any, model_admin: Any
    ) -> None:
        super().__init__(request, params, model, model_admin)
        for name in self.parameter_names:
            if name in params:
                value = params.pop(name)[-1]
                if value:
                    self.used_parameters[name] = value

    def has_output(self) -> bool:
        return True

    def expected_parameters(self) -> list[str | None]:
        return list(self.parameter_names)

    def choices(self, changelist: Any) -> Iterator[dict[str, Any]]:
        yield {"form": _DaysForm(self.used_parameters)}

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        first, last = (self._day(name) for name in self.parameter_names)
        if first is not None:
            queryset = queryset.filter(at__gte=first)
        if last is not None:
            queryset = queryset.filter(at__lt=last + _DAY)
        return queryset

    def _day(self, name: str) -> float | None:
        value = self.used_parameters.get(name)
        if value is None:
            return None
        day = day_of(str(value))
        if day is None:
            raise IncorrectLookupParameters
        return day
