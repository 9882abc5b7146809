"""Which addresses there are: read from the URL configuration and from what the lists offer, so
that a page, a filter or a column is measured on the day it is born."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

from django.contrib import admin
from django.contrib.admin import ListFilter, SimpleListFilter
from django.contrib.admin.options import ModelAdmin
from django.contrib.contenttypes.models import ContentType
from django.db.models import Model
from django.http import HttpRequest

from tests.routes import admin_patterns, filled
from tokens.models import OAuthCredential

# What is typed into a search: the beginning of many names, of one, of none; and, where a star
# means anywhere, the middle of some.
_SEARCHES = ("user-0", "user-099990", "nobody-has-this-name", "person.aa", "scheduler", "*99999")
_DEEP = (2, 200)
# Neither a page, nor one that leaves its caller signed in.
_NOT_PAGES = ("logout", "autocomplete", "<url>", "jsi18n")


def addresses(request: HttpRequest, *, one_of: dict[type[Model], int]) -> Iterator[str]:
    """``one_of``: the object of each model whose own pages are asked."""
    for pattern, _ in admin_patterns():
        if any(name in pattern for name in _NOT_PAGES):
            continue
        if "app_label" in pattern:
            yield from (f"/admin/{label}/" for label in ("tokens", "api", "auth"))
            continue
        model = _model_of(pattern)
        pk = str(one_of.get(model, ""))
        if "<" in pattern and not pk:
            continue
        content_type = ContentType.objects.get_for_model(model)
        values = {"object_id": pk, "id": pk, "content_type_id": str(content_type.pk)}
        try:
            yield filled(pattern, values)
        except KeyError:
            continue  # a page of something that this database has none of
    for model, model_admin in admin.site._registry.items():
        start = f"/admin/{model._meta.app_label}/{model._meta.model_name}/"
        for question in _questions(request, model, model_admin, one_of):
            yield f"{start}?{question}"


def _model_of(pattern: str) -> type[Model]:
    return next(
        (
            model
            for model in admin.site._registry
            if f"/{model._meta.app_label}/{model._meta.model_name}/" in f"/{pattern}"
        ),
        OAuthCredential,
    )


def _questions(
    request: HttpRequest,
    model: type[Model],
    model_admin: ModelAdmin[Any],
    one_of: dict[type[Model], int],
) -> Iterator[str]:
    yield from (f"p={page}" for page in _DEEP)
    if model_admin.search_fields:
        yield from (f"q={quote(text)}" for text in _SEARCHES)
    for place, column in enumerate(model_admin.get_list_display(request), start=1):
        if _is_sortable(model_admin, column):
            yield from (f"o={place}", f"o=-{place}")
    for entry in model_admin.get_list_filter(request):
        if isinstance(entry, type) and issubclass(entry, SimpleListFilter):
            offered = entry(request, {}, model, model_admin)
            for value, _ in offered.lookup_choices:
                yield f"{entry.parameter_name}={quote(str(value))}"
        elif not (isinstance(entry, type) and issubclass(entry, ListFilter)):
            field = entry[0] if isinstance(entry, tuple) else entry
            related = model._meta.get_field(str(field)).related_model
            if not isinstance(related, type):
                yield f"{field}__exact=1"
            elif related in one_of:
                yield f"{field}__id__exact={one_of[related]}"


def _is_sortable(model_admin: ModelAdmin[Any], column: Any) -> bool:
    if model_admin.sortable_by is not None:
        return column in model_admin.sortable_by
    shown = getattr(model_admin, str(column), None)
    return shown is None or getattr(shown, "admin_order_field", None) is not None
