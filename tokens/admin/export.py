"""What is known of credentials, as a file: CSV or JSON lines. Never a token, sealed or not.

The file is written while it is sent, a page of rows at a time, however many there are.
"""

import csv
import re
from collections.abc import Callable, Iterator
from contextvars import copy_context
from datetime import UTC, datetime
from typing import Any

from django import forms
from django.db import transaction
from django.db.models import Count, QuerySet
from django.http import HttpResponseBase, StreamingHttpResponse
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext
from unfold.widgets import UnfoldAdminRadioSelectWidget

from tokens import audit, clock
from tokens.admin import facts
from tokens.admin.acts import HERE, Act
from tokens.models import OAuthCredential, Tenant
from tokens.printable import printable_json

_PAGE = 500
_CSV, _JSON_LINES = "csv", "jsonl"
# What a spreadsheet takes for the beginning of a formula, the wide forms of the signs as well.
_FORMULA = tuple("=+-@\t\r\n＝＋－＠")
# Where the comma is the decimal sign, a spreadsheet takes semicolons for the ends of cells, and
# quotes do not keep it from that.
_FORMULA_BEHIND = re.compile(r"(;\s*)(?=[=+\-@＝＋－＠])")
FIELDS = (
    "tenant", "user_id", "status", "usable", "problem", "since", "expires_at", "login_ends_at",
    "login_end_is_estimate", "scopes", "plan", "refreshable", "auto_refresh", "next_refresh_at",
    "generation", "refresh_count", "last_refreshed_at", "last_used_at", "suspended_at",
    "created_at", "updated_at",
)  # fmt: skip


class FormatForm(forms.Form):
    """In which form the file is written."""

    format = forms.ChoiceField(
        label=gettext_lazy("Format"),
        initial=_CSV,
        choices=[
            (_CSV, gettext_lazy("CSV, for a spreadsheet")),
            (_JSON_LINES, gettext_lazy("JSON lines, for a program")),
        ],
        widget=UnfoldAdminRadioSelectWidget(),
    )


def deliver(
    credentials: QuerySet[OAuthCredential], actor: str, now: float, *, format: str
) -> HttpResponseBase:
    """The file, and a record in the trail of each tenant whose people are in it."""
    with transaction.atomic():
        for tenant_id, number in _by_tenant(credentials):
            audit.record(
                tenant=Tenant.objects.get(pk=tenant_id), actor=actor,
                action="export_credentials", now=now, credentials=number, format=format,
            )  # fmt: skip
    lines = _in_csv if format == _CSV else _in_json_lines
    content_type = "text/csv; charset=utf-8" if format == _CSV else "application/x-ndjson"
    answer = StreamingHttpResponse(lines(_rows(credentials)), content_type=content_type)
    answer["Content-Disposition"] = f'attachment; filename="credentials.{format}"'
    answer["Cache-Control"] = "no-store"
    return answer


def told(credential: OAuthCredential, *, now: float) -> dict[str, Any]:
    """What is known of one, by `FIELDS`. Times in UTC, as ISO 8601; None: there is none."""
    facts.attach(credential, now=now)
    known = facts.of(credential)
    return {
        "tenant": credential.tenant.slug,
        "user_id": credential.user_id,
        "status": known.status.value,
        "usable": known.usable,
        "problem": known.problem,
        "since": _time(known.since),
        "expires_at": _time(facts.token_ends_at(credential)),
        "login_ends_at": _time(facts.login_ends_at(credential)),
        "login_end_is_estimate": facts.login_end_is_estimate(credential),
        "scopes": credential.scopes,
        "plan": credential.subscription_type or ("max" if credential.is_max else None),
        "refreshable": credential.has_refresh_token,
        "auto_refresh": credential.refreshes_ahead,
        "next_refresh_at": _time(credential.refresh_due_at),
        "generation": credential.generation,
        "refresh_count": credential.refresh_count,
        "last_refreshed_at": _time(credential.last_refreshed_at),
        "last_used_at": _time(credential.last_used),
        "suspended_at": _time(credential.suspended_at),
        "created_at": _time(credential.created_at.timestamp()),
        "updated_at": _time(credential.updated_at.timestamp()),
    }


def cell(value: object) -> str:
    """As it stands in a CSV file. What a spreadsheet would work out is a text, by an apostrophe
    before it: ids of users are written by others."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    text = " ".join(value) if isinstance(value, list) else str(value)
    text = _FORMULA_BEHIND.sub(r"\1'", text)
    return f"'{text}" if text.lstrip(" ").startswith(_FORMULA) else text


def _by_tenant(credentials: QuerySet[OAuthCredential]) -> list[tuple[int, int]]:
    chosen = OAuthCredential.objects.filter(pk__in=credentials.order_by().values("pk"))
    return list(chosen.order_by("tenant_id").values_list("tenant_id").annotate(n=Count("pk")))


def _rows(credentials: QuerySet[OAuthCredential]) -> Iterator[dict[str, Any]]:
    """A page at a time, each asked for whomever the request is for: it is long over when the
    last of them is read."""
    ask: Callable[..., Any] = copy_context().run
    return _in_pages(ask, credentials.order_by("pk"))


def _in_pages(
    ask: Callable[..., Any], credentials: QuerySet[OAuthCredential]
) -> Iterator[dict[str, Any]]:
    last = 0
    while page := ask(_page, credentials, last):
        last = page[-1][0]
        yield from (row for _pk, row in page)


def _page(credentials: QuerySet[OAuthCredential], last: int) -> list[tuple[int, dict[str, Any]]]:
    now = clock.now()
    rows = facts.without_tokens(credentials.filter(pk__gt=last))[:_PAGE]
    return [(row.pk, told(row, now=now)) for row in rows]


class _Line:
    """A file that keeps nothing, and gives each line back to who writes it."""

    def write(self, text: str) -> str:
        return text


def _in_csv(rows: Iterator[dict[str, Any]]) -> Iterator[str]:
    writer = csv.writer(_Line())
    yield writer.writerow(FIELDS)
    for row in rows:
        yield writer.writerow([cell(row[name]) for name in FIELDS])


def _in_json_lines(rows: Iterator[dict[str, Any]]) -> Iterator[str]:
    for row in rows:
        yield printable_json(row) + "\n"


def _time(at: float | None) -> str | None:
    if at is None:
        return None
    try:
        return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")
    except (ValueError, OverflowError, OSError):
        return None


EXPORT = Act(
    name="export",
    permission="export",
    title=gettext_lazy("Export what is known"),
    icon="download",
    button=lambda n: ngettext("Export %(n)d credential", "Export %(n)d credentials", n) % {"n": n},
    question=lambda n: (
        ngettext(
            "Write what is known of this credential into a file?",
            "Write what is known of these %(n)d credentials into a file?",
            n,
        )
        % {"n": n}
    ),
    means=gettext_lazy(
        "Who has one, its state, its ends, its use. No token is in it, sealed or not. But it names "
        "people and when they work: keep it accordingly. That it was exported is written down."
    ),
    effect=lambda credential, now: _("One line."),
    refusal=lambda credential, now: None,
    perform=lambda rows, actor, now: [],
    form=FormatForm,
    most=HERE,
    deliver=deliver,
)
