"""What all of the vault's pages share: read-only unless said otherwise, and honest history."""

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from django.contrib.admin import ListFilter, SimpleListFilter
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.db.models import Model, QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.utils.functional import Promise
from django.utils.text import capfirst
from django.utils.translation import gettext as _
from unfold.admin import ModelAdmin

from tokens import clock
from tokens.admin.lists import InfinitePaginator, RefusesSecrets
from tokens.admin.times import exact, moment
from tokens.models import AuditEvent
from tokens.trail.chains import read

Shown = TypeVar("Shown")

_HISTORY_SHOWN = 200


class VaultModelAdmin(RefusesSecrets, ModelAdmin):
    """No add, no change, no delete; a list that never counts; history from the audit trail.

    Django's own log of changes is not written for these models: what is done to them is
    done by domain functions, which record who did it in the same transaction.
    """

    paginator = InfinitePaginator
    show_full_result_count = False
    list_disable_select_all = True
    # Whether an act can be asked for all that the filters find, and not only for rows of a page.
    list_offers_all = False
    list_per_page = 50
    list_filter_submit = True
    object_history_template = "admin/audit_history.html"
    # What a list says that has no rows: that there are none, and what to do first.
    empty_title: str | Promise = ""
    empty_says: str | Promise = ""
    empty_command = ""

    def changelist_view(
        self, request: HttpRequest, extra_context: Mapping[str, Any] | None = None
    ) -> HttpResponse:
        """Titled as the menu has it, and not "Select credential to view"."""
        title = {"title": capfirst(self.opts.verbose_name_plural)}
        response: HttpResponse = super().changelist_view(request, title | dict(extra_context or {}))
        return response

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest | None = None) -> bool:
        """Only what the filters on the page ask. Django would also let anybody who may see
        the list search it by the beginning of a sealed column."""
        allowed: set[str] = set()
        for entry in self.list_filter or ():
            if isinstance(entry, type) and issubclass(entry, SimpleListFilter):
                allowed.add(str(entry.parameter_name))
            elif isinstance(entry, type) and issubclass(entry, ListFilter):
                allowed |= set(getattr(entry, "parameter_names", ()))
            else:
                field = entry[0] if isinstance(entry, tuple | list) else entry
                allowed |= {f"{field}__id__exact", f"{field}__exact"}
        return lookup in allowed

    def history_of(self, obj: Any) -> QuerySet[AuditEvent]:
        """The audit events that concern this object."""
        raise NotImplementedError

    def history_view(
        self, request: HttpRequest, object_id: str, extra_context: Mapping[str, Any] | None = None
    ) -> HttpResponse:
        obj = self.get_object(request, unquote(object_id))
        if obj is None:
            return self._get_obj_does_not_exist_redirect(request, self.opts, object_id)
        if not self.has_view_permission(request, obj):
            raise PermissionDenied
        now = clock.now()
        events = read(self.history_of(obj)[:_HISTORY_SHOWN])
        context = {
            **self.admin_site.each_context(request),
            "title": _("History: %s") % obj,
            "subtitle": None,
            "opts": self.opts,
            "original": obj,
            "events": [event_line(event, now=now) for event in events],
            "most": _HISTORY_SHOWN,
            **(extra_context or {}),
        }
        request.current_app = self.admin_site.name
        return TemplateResponse(request, self.object_history_template, context)

    def log_addition(self, request: HttpRequest, obj: Any, message: Any) -> None:
        """The domain function has recorded it."""

    def log_change(self, request: HttpRequest, obj: Any, message: Any) -> None:
        """The domain function has recorded it."""

    def log_deletions(self, request: HttpRequest, queryset: Any) -> None:
        """The domain function has recorded it."""


def told_once(display: Callable[[Any, Any], Shown]) -> Callable[[Any, Any], Shown]:
    """Of a column that asks the database: unfold's page of an object renders each field five
    times, and the object is read anew with each request."""

    @functools.wraps(display)
    def told(self: Any, obj: Any) -> Shown:
        known: dict[str, Shown] = obj.__dict__.setdefault("_told", {})
        if display.__name__ not in known:
            known[display.__name__] = display(self, obj)
        return known[display.__name__]

    return told


def operator(request: HttpRequest) -> str:
    """Who acts, as the audit trail names them."""
    return f"operator {request.user.get_username()}"


def event_line(event: AuditEvent, *, now: float) -> dict[str, Any]:
    return {
        "at": moment(event.at, now=now),
        "actor": event.actor,
        "action": event.action.replace("_", " "),
        "subject": event.subject,
        "outcome": event.outcome.replace("_", " "),
        "detail": in_words(event.detail),
    }


def in_words(detail: object) -> str:
    """``{"key": "ovs_Ab", "scopes": ["a", "b"]}`` as ``key: ovs_Ab; scopes: a, b``,
    without what is empty."""
    if not isinstance(detail, Mapping):
        return "" if detail is None else str(detail)
    return "; ".join(
        f"{name.replace('_', ' ')}: {_value(name, value)}"
        for name, value in detail.items()
        if value is not None and value not in ("", [])
    )


def _value(name: str, value: object) -> str:
    if isinstance(value, bool):
        return _("yes") if value else _("no")
    if isinstance(value, Iterable) and not isinstance(value, str):
        return ", ".join(str(each) for each in value)
    # Unix seconds; a forged record may say what no time is.
    if name.endswith("_at") and isinstance(value, int) and 0 < value < 10**11:
        return exact(value)
    return str(value)


def registered(model: type[Model]) -> str:
    """``tokens_oauthcredential``: the stem of the names of a model's pages."""
    return f"{model._meta.app_label}_{model._meta.model_name}"
