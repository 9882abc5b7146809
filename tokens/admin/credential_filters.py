"""Which credentials: by status, by what is about to end, by what does not work or is not used."""

from dataclasses import dataclass
from typing import Any

from django.db.models import QuerySet
from django.http import HttpRequest, QueryDict
from django.utils.functional import Promise
from django.utils.translation import gettext_lazy
from unfold.contrib.filters.admin import DropdownFilter

from tokens import clock, endings, listing, statistics
from tokens.admin import facts
from tokens.listing import status_in_sql
from tokens.models import Standing, Status

# Of the filter by tenant, as Django names it.
_TENANT = "tenant__id__exact"


class StatusFilter(DropdownFilter):
    title = gettext_lazy("status")
    parameter_name = "status"

    CANNOT_WORK = "cannot_work"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return [
            (self.CANNOT_WORK, gettext_lazy("cannot work right now")),
            ("failing", gettext_lazy("works, last refresh failed")),
            ("overdue", gettext_lazy("refresh overdue")),
            *((status.value, label) for status, (label, _tone) in facts.STATUS.items()),
        ]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        wanted, now = self.value(), clock.now()
        if wanted == self.CANNOT_WORK:
            return queryset.filter(facts.cannot_work(now=now))
        if wanted == "failing":
            return queryset.filter(facts.failing(now=now))
        if wanted == "overdue":
            return queryset.filter(statistics.overdue(now=now))
        if wanted in Status.values:
            return queryset.alias(told=status_in_sql(now=now)).filter(told=wanted)
        return queryset


class ExpiryFilter(DropdownFilter):
    title = gettext_lazy("expiry of the access token")
    parameter_name = "expires"

    _within = {"1h": 3600, "24h": 86_400, "7d": 7 * 86_400}

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return [
            ("past", gettext_lazy("past")),
            ("1h", gettext_lazy("within an hour")),
            ("24h", gettext_lazy("within 24 hours")),
            ("7d", gettext_lazy("within 7 days")),
        ]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        wanted, now = self.value(), int(clock.now())
        living = queryset.exclude(standing=Standing.REVOKED)
        if wanted == "past":
            return living.filter(expires_at__lte=now)
        if wanted in self._within:
            return living.filter(expires_at__gt=now, expires_at__lte=now + self._within[wanted])
        return queryset


class LoginFilter(DropdownFilter):
    title = gettext_lazy("end of the login")
    parameter_name = "login_ends"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return [
            ("1", gettext_lazy("within 1 day")),
            ("3", gettext_lazy("within 3 days")),
            ("7", gettext_lazy("within 7 days")),
        ]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        wanted = self.value()
        if wanted in ("1", "3", "7"):
            return queryset.filter(statistics.login_ends(within=int(wanted), now=clock.now()))
        return queryset


class FailingFilter(DropdownFilter):
    title = gettext_lazy("failing")
    parameter_name = "failing"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return [
            ("1", gettext_lazy("the last refresh failed")),
            ("3", gettext_lazy("the last three or more failed")),
        ]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        wanted = self.value()
        if wanted in ("1", "3"):
            return queryset.filter(listing.failing(at_least=int(wanted)))
        return queryset


class UnusedFilter(DropdownFilter):
    title = gettext_lazy("unused for")
    parameter_name = "unused"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return [
            ("7", gettext_lazy("7 days or longer")),
            ("30", gettext_lazy("30 days or longer")),
            ("90", gettext_lazy("90 days or longer")),
            ("never", gettext_lazy("never used")),
        ]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        wanted = self.value()
        if wanted == "never":
            return queryset.filter(listing.never_used())
        if wanted in ("7", "30", "90"):
            since = clock.now() - int(wanted) * endings.DAY
            return queryset.filter(listing.unused(since=since))
        return queryset


@dataclass(frozen=True, kw_only=True)
class Shortcut:
    """One click to those who may need something. ``chosen``: the list shows just that now."""

    title: str | Promise
    link: str
    chosen: bool


def shortcuts(request: HttpRequest) -> list[Shortcut]:
    """Each puts its own question in the place of the others; which tenant is asked stays."""
    questions: tuple[tuple[Promise | str, dict[str, str]], ...] = (
        (gettext_lazy("All"), {}),
        (gettext_lazy("Cannot work"), {StatusFilter.parameter_name: StatusFilter.CANNOT_WORK}),
        (gettext_lazy("Last refresh failed"), {FailingFilter.parameter_name: "1"}),
        (gettext_lazy("Login ends within 7 days"), {LoginFilter.parameter_name: "7"}),
        (gettext_lazy("Unused for 30 days"), {UnusedFilter.parameter_name: "30"}),
    )
    tenant = request.GET.get(_TENANT, "")
    kept = {_TENANT: tenant} if tenant.isascii() and tenant.isdigit() else {}
    asked = {name: value for name, value in request.GET.items() if value and name != _TENANT}
    found = []
    for title, question in questions:
        address = QueryDict(mutable=True)
        address.update(question | kept)
        found.append(
            Shortcut(title=title, link=f"?{address.urlencode()}", chosen=asked == question)
        )
    return found
