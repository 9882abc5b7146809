"""The page where logins come in: a file or a paste, a look at each row, and then the import.

A POST brings the file; the answer says what would become of each row, and nothing is stored. What
is confirmed is what was looked at: between the two the file lies sealed in the database, under a
key that only the operator's browser has, in a cookie of this page (`tokens.import_drafts` says
why). No field of a form that holds a secret is ever filled in again, after an error neither.

The address holds nothing, so that no Referer tells anything. It is not withheld altogether: with
`no-referrer` a browser says `Origin: null`, and Django then takes no form.
"""

from collections import Counter
from collections.abc import Sequence
from itertools import islice
from typing import Any, cast

from django import forms
from django.conf import settings
from django.contrib.admin import ModelAdmin
from django.contrib.auth.models import User
from django.core.files.uploadedfile import UploadedFile
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.functional import Promise
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext
from django.views.decorators.debug import sensitive_post_parameters
from unfold.widgets import (
    UnfoldAdminFileFieldWidget,
    UnfoldAdminTextareaWidget,
    UnfoldAdminTextInputWidget,
)

from oauthvault.logging import redact
from tokens import clock, import_drafts
from tokens.admin import facts
from tokens.admin.base import operator
from tokens.admin.tenant_choice import offer_tenants, tenant_choice
from tokens.admin.times import moment
from tokens.credential_list import NotOneLogin, UserUnsaid, rows, text_of
from tokens.errors import VaultError
from tokens.import_drafts import DraftBusy, NoDraft
from tokens.import_list import ImportList, Verdict, tenants_named
from tokens.importing import KEEP_IT_HERE, Effect
from tokens.models import ImportDraft
from tokens.secret import Secret

MOST_ROWS = 10_000
_ONE_LOGIN_MOST = 64 * 1024
_COOKIE = "import_key"
# Rows of one page. Of more, the refused ones come first, and the others are counted.
_SHOWN = 1000
# So many of the people whom a note concerns are named.
_NAMED = 5
# Milliseconds until a page asks for the next rows by itself; again, where others are at it.
_AT_ONCE, _IN_A_MOMENT = 0, 2000

_EFFECTS: dict[Effect, tuple[str | Promise, str]] = {
    Effect.NEW: (gettext_lazy("new"), "good"),
    Effect.AFTER_REVOCATION: (gettext_lazy("was revoked"), "uneasy"),
    Effect.REPLACED: (gettext_lazy("replaces another"), "uneasy"),
    Effect.CORRECTED: (gettext_lazy("corrected"), "plain"),
    Effect.UNCHANGED: (gettext_lazy("already stored"), "plain"),
}
_REFUSALS: dict[str, str | Promise] = {
    "duplicate": gettext_lazy("twice in the file"),
    "expired": gettext_lazy("expired"),
    "stale_credential": gettext_lazy("spent"),
    "already_stored": gettext_lazy("stored elsewhere"),
    "no_tenant": gettext_lazy("unknown tenant"),
    "tenant_suspended": gettext_lazy("tenant suspended"),
    "invalid_credentials_file": gettext_lazy("wrong field"),
    "invalid_request": gettext_lazy("no user id"),
    "refresh_in_progress": gettext_lazy("refresh under way"),
    "precondition_failed": gettext_lazy("changed since"),
}


class SecretTextarea(UnfoldAdminTextareaWidget):
    """A text area that a page never brings filled in."""

    def __init__(self) -> None:
        super().__init__(
            attrs={
                "rows": 5, "autocomplete": "off", "autocapitalize": "off", "autocorrect": "off",
                # A browser's spelling help may send what is typed to its maker.
                "spellcheck": "false", "class": "ov-secret-field",
            }
        )  # fmt: skip

    def format_value(self, value: Any) -> str:
        return ""


class NameInput(UnfoldAdminTextInputWidget):
    """For a name, which a page brings back; not, if a token was put in its place."""

    def __init__(self) -> None:
        super().__init__(attrs={"autocomplete": "off"})

    def format_value(self, value: Any) -> str:
        text = str(value or "")
        return text if redact(text) == text else ""


class ImportForm(forms.Form):
    """What `oauthvault import_credentials` asks, on a page."""

    tenant = tenant_choice(
        help_text=gettext_lazy("A row of a list may name another one, in a field “tenant”.")
    )
    user_id = forms.CharField(
        label=gettext_lazy("User"),
        required=False,
        strip=False,
        max_length=256,
        help_text=gettext_lazy("Whose login it is. Empty for a list, where each row says it."),
        widget=NameInput(),
    )
    file = forms.FileField(
        label=gettext_lazy("File"),
        required=False,
        help_text=gettext_lazy(
            "A .credentials.json of Claude Code, up to 64 KiB; or JSON Lines or CSV with a user_id "
            "in each row, up to 5 MiB and 10,000 rows."
        ),
        widget=UnfoldAdminFileFieldWidget(attrs={"autocomplete": "off"}),
    )
    pasted = forms.CharField(
        label=gettext_lazy("Or paste it"),
        required=False,
        strip=False,
        help_text=gettext_lazy("The same, up to 64 KiB. What is pasted here is not shown again."),
        widget=SecretTextarea(),
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        offer_tenants(self)

    def clean(self) -> dict[str, Any]:
        given = self.cleaned_data
        if self.errors:
            return given
        uploaded: UploadedFile[Any] | None = given.get("file")
        pasted = given.get("pasted", "")
        if (uploaded is None) == (not pasted):
            raise forms.ValidationError(_("Choose a file, or paste what is in it: one of the two."))
        size = uploaded.size or 0 if uploaded is not None else 0
        if given["user_id"] and size > _ONE_LOGIN_MOST:
            self.add_error("file", _("One person's login has at most 64 KiB."))
        elif size > settings.IMPORT_FILE_MOST:
            self.add_error("file", _("A file has at most 5 MiB here."))
        return given

    def look(self, *, now: float) -> tuple[Secret, list[Verdict]] | None:
        """The text, and what would become of its rows; None, and an error in the form."""
        given = self.cleaned_data
        tenant, user = given["tenant"], given["user_id"] or None
        try:
            data = given["file"].read() if given["file"] else given["pasted"].encode("utf-8")
            text = text_of(data)
            read = rows(text, user=user, has_default_user=tenant.has_default_user)
            found = list(islice(read, MOST_ROWS + 1))
        except UserUnsaid:
            self.add_error("user_id", _("This is one person's login: say whose."))
            return None
        except NotOneLogin:
            sentence = _(
                "This is not the JSON of one person's login. For a list, leave the user empty."
            )
            self.add_error("pasted" if given["pasted"] else "file", sentence)
            return None
        except VaultError as refusal:
            self.add_error(None, f"{refusal.detail[:1].upper()}{refusal.detail[1:]}.")
            return None
        if len(found) > MOST_ROWS:
            self.add_error("file", _("A list has at most 10,000 rows; split it."))
            return None
        many = ImportList(tenant=tenant, tenants=tenants_named(found))
        return text, many.judge(found, now=now)


@sensitive_post_parameters()
def import_page(request: HttpRequest, model_admin: "ModelAdmin[Any]") -> HttpResponse:
    """The form; for its POST the look; for the POST of that one the import, some rows at a time."""
    if request.method != "POST":
        response = _form_page(request, model_admin, ImportForm())
    elif "draft" in request.POST:
        response = _store(request, model_admin)
    else:
        response = _look(request, model_admin)
    response["Cache-Control"] = "no-store"
    return response


def _look(request: HttpRequest, model_admin: "ModelAdmin[Any]") -> HttpResponse:
    now = clock.now()
    form = ImportForm(request.POST, request.FILES)
    looked = form.look(now=now) if form.is_valid() else None
    if looked is None:
        return _form_page(request, model_admin, form)
    text, verdicts = looked
    possible = sum(verdict.changes_something for verdict in verdicts)
    if not possible:
        return _rows_page(request, model_admin, verdicts, now=now, looked=True)
    draft, key = import_drafts.keep(
        tenant=form.cleaned_data["tenant"],
        operator=cast("User", request.user),
        session=request.session.session_key or "",
        text=text,
        user=form.cleaned_data["user_id"] or None,
        verdicts=verdicts,
        now=now,
    )
    response = _rows_page(
        request, model_admin, verdicts, now=now, looked=True, draft=draft,
        button=ngettext("Store %(n)d login", "Store %(n)d logins", possible) % {"n": possible},
    )  # fmt: skip
    response.set_cookie(
        _COOKIE, key.reveal(), path=_address(), secure=settings.SESSION_COOKIE_SECURE,
        httponly=True, samesite="Strict",
    )  # fmt: skip
    return response


def _store(request: HttpRequest, model_admin: "ModelAdmin[Any]") -> HttpResponse:
    now = clock.now()
    told = request.POST.get("position", "")
    position = int(told[:9]) if told.isascii() and told.isdigit() else 0
    try:
        progress = import_drafts.store_some(
            draft_id=request.POST["draft"],
            position=position,
            operator=cast("User", request.user),
            session=request.session.session_key or "",
            key_text=request.COOKIES.get(_COOKIE, ""),
            actor=operator(request),
            now=now,
        )
    except NoDraft as refusal:
        form = ImportForm()
        sentence = f"{refusal.detail[:1].upper()}{refusal.detail[1:]}."
        response = _form_page(request, model_admin, form, refused=sentence)
        response.delete_cookie(_COOKIE, path=_address(), samesite="Strict")
        return response
    except DraftBusy:
        return _rows_page(
            request, model_admin, [], now=now, draft_id=request.POST["draft"],
            position=position, asks_again_in=_IN_A_MOMENT,
        )  # fmt: skip
    if progress.draft is not None:
        return _rows_page(
            request, model_admin, progress.verdicts, now=now, draft=progress.draft,
            position=progress.done, total=progress.total, asks_again_in=_AT_ONCE,
        )  # fmt: skip
    response = _rows_page(request, model_admin, progress.verdicts, now=now)
    response.delete_cookie(_COOKIE, path=_address(), samesite="Strict")
    return response


def _form_page(
    request: HttpRequest, model_admin: "ModelAdmin[Any]", form: ImportForm, **other: Any
) -> HttpResponse:
    return _page(request, model_admin, "admin/import.html", form=form, **other)


def _rows_page(
    request: HttpRequest,
    model_admin: "ModelAdmin[Any]",
    verdicts: Sequence[Verdict],
    *,
    now: float,
    looked: bool = False,
    draft: ImportDraft | None = None,
    **other: Any,
) -> HttpResponse:
    shown = sorted(verdicts, key=lambda verdict: verdict.effect is not None)[:_SHOWN]
    if len(verdicts) <= _SHOWN:
        shown = list(verdicts)
    if draft is not None:
        other = {"draft_id": str(draft.pk), "position": 0, **other}
    return _page(
        request,
        model_admin,
        "admin/import_rows.html",
        looked=looked,
        headline=_headline(verdicts, looked=looked),
        counts=_counts(verdicts),
        lines=[_line(verdict, now=now, looked=looked) for verdict in shown],
        left_out=len(verdicts) - len(shown),
        notes=_notes(verdicts),
        refused=sum(verdict.effect is None for verdict in verdicts),
        **other,
    )


def _page(
    request: HttpRequest, model_admin: "ModelAdmin[Any]", template: str, **context: Any
) -> HttpResponse:
    request.current_app = model_admin.admin_site.name
    return TemplateResponse(
        request,
        template,
        {
            **model_admin.admin_site.each_context(request),
            "title": _("Import credentials"),
            "subtitle": None,
            "opts": model_admin.opts,
            "address": _address(),
            "back": reverse("admin:tokens_oauthcredential_changelist"),
            **context,
        },
    )


def _address() -> str:
    return reverse("admin:tokens_oauthcredential_import_page")


def _headline(verdicts: Sequence[Verdict], *, looked: bool) -> str:
    changed = sum(verdict.changes_something for verdict in verdicts)
    if looked and not changed:
        return _("There is nothing to store.")
    if looked:
        return ngettext(
            "Store this login? Nothing has been stored yet.",
            "Store these %(n)d logins? Nothing has been stored yet.",
            changed,
        ) % {"n": changed}
    return ngettext("%(n)d login was stored.", "%(n)d logins were stored.", changed) % {
        "n": changed
    }


def _counts(verdicts: Sequence[Verdict]) -> list[tuple[SafeString, int]]:
    """How many of each, the most frequent first."""
    badges = Counter((*_told(verdict),) for verdict in verdicts)
    return [(facts.badge(text, tone), n) for (text, tone), n in badges.most_common()]


def _told(verdict: Verdict) -> tuple[str, str]:
    if verdict.effect is None:
        return str(_REFUSALS.get(verdict.kind, _("refused"))), "bad"
    text, tone = _EFFECTS[verdict.effect]
    return str(text), tone


def _line(verdict: Verdict, *, now: float, looked: bool) -> dict[str, Any]:
    ended = verdict.expires_at is not None and verdict.expires_at <= now
    return {
        "line": verdict.line,
        "user": verdict.user_id,
        "tenant": verdict.tenant,
        "badge": facts.badge(*_told(verdict)),
        "refused": verdict.effect is None,
        "sentence": _sentence(verdict, looked=looked),
        "ends": moment(verdict.expires_at, now=now) if verdict.effect else None,
        "unit": _("told in milliseconds") if verdict.in_milliseconds else _("told in seconds"),
        "ended": facts.badge(_("ended"), "uneasy") if ended else None,
    }


def _sentence(verdict: Verdict, *, looked: bool) -> str:
    if verdict.effect is None:
        return verdict.detail
    if verdict.effect is Effect.UNCHANGED:
        return _("This very login is stored; nothing changes.")
    if verdict.effect is Effect.CORRECTED:
        return (
            _("This very login is stored; what the file says of its end or scopes is taken over.")
            if looked
            else _("This very login was stored; its end or scopes are set anew.")
        )
    if not looked:
        return _("Stored.")
    if verdict.effect is Effect.AFTER_REVOCATION:
        return _("This user was revoked, and works again with this login.")
    if verdict.effect is Effect.REPLACED:
        return _("Takes the place of the login that is stored (generation %(n)d).") % {
            "n": verdict.replaces
        }
    return _("Nothing is stored for this user yet.")


def _notes(verdicts: Sequence[Verdict]) -> list[dict[str, str]]:
    """Each note once, and whom it concerns; without the one that the page gives as advice."""
    whose: dict[str, list[str]] = {}
    for verdict in verdicts:
        for note in (note for note in verdict.warnings if note != KEEP_IT_HERE):
            whose.setdefault(note, []).append(verdict.user_id)
    everybody = sum(verdict.effect is not None for verdict in verdicts)
    return [
        {"text": note, "whom": "" if len(users) == everybody else _named(users)}
        for note, users in whose.items()
    ]


def _named(users: Sequence[str]) -> str:
    named = ", ".join(users[:_NAMED])
    if len(users) <= _NAMED:
        return named
    return _("%(users)s and %(n)d more") % {"users": named, "n": len(users) - _NAMED}
