"""API keys for operators: listed, made, revoked. A key's text is on one page, once."""

import secrets
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.db.models import Exists, OuterRef, QuerySet, Value
from django.db.models.functions import Concat
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext
from unfold.contrib.filters.admin import DropdownFilter, RelatedDropdownFilter
from unfold.decorators import action

from api.key_forms import NewKeyForm, RotationForm
from api.keys import (
    BadKeyRequest,
    NewKey,
    Scope,
    revoke_key,
    rotate_key,
    why_not_rotated,
)
from api.models import ApiKey, KeyKind
from tokens import clock, notices
from tokens.admin import facts, first_steps
from tokens.admin.acts import Act, ActingModelAdmin, Result, one_by_one, pages
from tokens.admin.base import operator, told_once
from tokens.admin.times import moment
from tokens.models import AuditEvent

_HOUR = 3600
# The permission to make and to rotate keys that read tokens (api.models.ApiKey).
_GRANT_TOKEN_READ = "api.grant_token_read"  # noqa: S105  a name
# What the session remembers of forms that have made their key: never a key.
_USED_FORMS, _REMEMBERED = "api_key_forms", 20


def _told(key: ApiKey) -> str:
    return f"{key.prefix}… ({key.tenant.slug})"


def _revoke(key: ApiKey, actor: str, now: float) -> Result:
    revoke_key(key=key, actor=actor, now=now)
    return Result(text=_("%(name)s: revoked.") % {"name": _told(key)})


REVOKE = Act(
    name="revoke",
    permission="delete",
    title=gettext_lazy("Revoke key"),
    icon="key_off",
    dangerous=True,
    button=lambda n: ngettext("Revoke %(n)d key", "Revoke %(n)d keys", n) % {"n": n},
    question=lambda n: ngettext("Revoke this key?", "Revoke these %(n)d keys?", n) % {"n": n},
    means=gettext_lazy(
        "From the next request on it is refused, for ever. Whoever uses it needs another one; "
        "for a change without a gap make the new key first."
    ),
    effect=lambda key, now: _("Refused from the next request on."),
    refusal=lambda key, now: _("It is revoked already.") if key.revoked_at is not None else None,
    perform=one_by_one(_revoke),
)


class StateFilter(DropdownFilter):
    title = gettext_lazy("state")
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return [
            ("active", gettext_lazy("active")),
            ("expired", gettext_lazy("expired")),
            ("revoked", gettext_lazy("revoked")),
        ]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        now = int(clock.now())
        wanted = self.value()
        if wanted == "active":
            return queryset.filter(revoked_at=None).exclude(expires_at__lte=now)
        if wanted == "expired":
            return queryset.filter(revoked_at=None, expires_at__lte=now)
        if wanted == "revoked":
            return queryset.filter(revoked_at__isnull=False)
        return queryset


@admin.register(ApiKey)
class ApiKeyAdmin(ActingModelAdmin):
    list_display = (
        "key", "state", "kind", "tenant_name", "user", "label", "scope_names", "network_names",
        "expiry", "last_use",
    )  # fmt: skip
    list_display_links = ("key",)
    list_filter = (("tenant", RelatedDropdownFilter), StateFilter)
    list_select_related = ("tenant",)
    list_fullwidth = True
    search_fields = ("prefix", "user_id", "label")
    search_help_text = gettext_lazy("First characters, user or label")
    empty_title = gettext_lazy("No key was made yet.")
    empty_says = gettext_lazy(
        "LiteLLM asks for its people's tokens with a service key: make one for its tenant. It is "
        "shown once."
    )
    ordering = ("tenant_id", "-created_at", "-pk")
    fields = (
        ("key", "state"), ("tenant_name", "kind"), ("user", "label"),
        ("scope_names", "network_names"), ("expiry", "last_use"), ("created", "revocation"),
        "span",
    )  # fmt: skip
    readonly_fields = (
        "key", "state", "kind", "tenant_name", "user", "label", "scope_names", "network_names",
        "expiry", "last_use", "created", "revocation", "span",
    )  # fmt: skip
    acts = (REVOKE,)
    actions = ("revoke_many",)
    actions_detail = ("rotate_one", "revoke_one")

    revoke_one, revoke_many = pages(REVOKE)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return self._may(request, "add")

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """The right to revoke. A row is never deleted: see `delete_view`."""
        return self._may(request, "delete")

    def has_rotate_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """To rotate is to make a key and to end one."""
        return self.has_add_permission(request) and self.has_delete_permission(request)

    def _may(self, request: HttpRequest, verb: str) -> bool:
        """To act on keys one must be allowed to see them: the pages that ask name keys and
        tenants."""
        return self.has_view_permission(request) and request.user.has_perm(f"api.{verb}_apikey")

    def delete_view(
        self, request: HttpRequest, object_id: str, extra_context: Any = None
    ) -> HttpResponse:
        raise PermissionDenied

    def get_actions(self, request: HttpRequest) -> dict[str, Any]:
        actions: dict[str, Any] = super().get_actions(request)
        actions.pop("delete_selected", None)
        return actions

    def get_queryset(self, request: HttpRequest) -> QuerySet[ApiKey]:
        noticed = notices.noticed(now=clock.now()).filter(
            tenant=OuterRef("tenant"), actor=Concat(Value("key "), OuterRef("prefix"))
        )
        keys: QuerySet[ApiKey] = super().get_queryset(request).select_related("tenant")
        return keys.defer("digest").annotate(is_noticed=Exists(noticed))

    def add_view(
        self, request: HttpRequest, form_url: str = "", extra_context: Any = None
    ) -> HttpResponse:
        if not self.has_add_permission(request):
            raise PermissionDenied
        grants = request.user.has_perm(_GRANT_TOKEN_READ)
        if request.method != "POST":
            initial = {"once": secrets.token_urlsafe(16)}
            if "tenant" in request.GET:
                initial["tenant"] = request.GET["tenant"]
            form = NewKeyForm(initial=initial, grants_token_read=grants)
            return self._form_page(request, form)
        form = NewKeyForm(request.POST, grants_token_read=grants)
        if not form.is_valid():
            return self._form_page(request, form)
        if self._was_used(request, form):
            return HttpResponseRedirect(reverse("admin:api_apikey_changelist"))
        new = form.make(actor=operator(request), now=clock.now())
        if new is None:
            return self._form_page(request, form)
        self._note_used(request, form)
        return self._shown_once(request, new)

    @action(  # type: ignore[untyped-decorator]  # unfold's, which has no types
        description=gettext_lazy("Rotate key"), permissions=["rotate"], url_path="rotate",
        icon="autorenew",
    )  # fmt: skip
    def rotate_one(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """A page that asks for the overlap; its POST makes the new key and shows it."""
        old = self.get_object(request, unquote(object_id))
        if old is None:
            return self._get_obj_does_not_exist_redirect(request, self.opts, object_id)
        if not self._may_hold(request, old):
            raise PermissionDenied
        back = reverse("admin:api_apikey_change", args=[old.pk])
        if (reason := why_not_rotated(old, now=clock.now())) is not None:
            self.message_user(request, f"{_told(old)}: {reason}", messages.WARNING)
            return HttpResponseRedirect(back)
        if request.method != "POST":
            form = RotationForm(initial={"once": secrets.token_urlsafe(16), "overlap": 24})
            return self._rotation_page(request, form, old)
        form = RotationForm(request.POST)
        if not form.is_valid():
            return self._rotation_page(request, form, old)
        if self._was_used(request, form):
            return HttpResponseRedirect(back)
        try:
            new = rotate_key(
                key=old,
                overlap=form.cleaned_data["overlap"] * _HOUR,
                actor=operator(request),
                now=clock.now(),
            )
        except BadKeyRequest as refusal:
            form.add_error(None, refusal.detail)
            return self._rotation_page(request, form, old)
        self._note_used(request, form)
        old.refresh_from_db(fields=["expires_at"])
        return self._shown_once(request, new, in_place_of=old)

    def _may_hold(self, request: HttpRequest, key: ApiKey) -> bool:
        """Whether this operator may be shown a key that does what this one does: with one that
        reads tokens they could read everybody's."""
        return Scope.TOKEN_READ.value not in key.scopes or request.user.has_perm(_GRANT_TOKEN_READ)

    def _was_used(self, request: HttpRequest, form: forms.Form) -> bool:
        """Whether this very form has made its key already; then that is said."""
        used = form.cleaned_data["once"] in request.session.get(_USED_FORMS, [])
        if used:
            self.message_user(
                request,
                _("This form has made its key already, and a key is shown once. Revoke that key "
                  "if it was not written down, and make another."),
                messages.WARNING,
            )  # fmt: skip
        return used

    def _note_used(self, request: HttpRequest, form: forms.Form) -> None:
        used = request.session.get(_USED_FORMS, [])
        request.session[_USED_FORMS] = [*used, form.cleaned_data["once"]][-_REMEMBERED:]

    def _rotation_page(self, request: HttpRequest, form: RotationForm, old: ApiKey) -> HttpResponse:
        return self._form_page(
            request,
            form,
            title=_("Rotate key %(name)s") % {"name": _told(old)},
            means=_(
                "A new key is made with the same user, scopes, networks and label, and shown "
                "once. It lives, from now on, as long as the old one was made for. "
                "The old one works until the overlap has passed: put the new one into use "
                "before that."
            ),
            original=old,
            back=reverse("admin:api_apikey_change", args=[old.pk]),
        )

    def _form_page(self, request: HttpRequest, form: forms.Form, **other: Any) -> HttpResponse:
        request.current_app = self.admin_site.name
        return TemplateResponse(
            request,
            "admin/api/apikey/new.html",
            {
                **self.admin_site.each_context(request),
                "title": _("New API key"),
                "opts": self.opts,
                "form": form,
                "back": reverse("admin:api_apikey_changelist"),
                **other,
            },
        )

    def _shown_once(
        self, request: HttpRequest, new: NewKey, *, in_place_of: ApiKey | None = None
    ) -> HttpResponse:
        """The answer to the POST itself: no address leads here, and nothing keeps it."""
        request.current_app = self.admin_site.name
        now = clock.now()
        response = TemplateResponse(
            request,
            "admin/api/apikey/shown_once.html",
            {
                **self.admin_site.each_context(request),
                "title": _("New API key"),
                "opts": self.opts,
                "key": new.row,
                "key_text": new.text.reveal(),
                "expiry": moment(new.row.expires_at, now=now, never=_("never")),
                "old": in_place_of,
                "old_ends": in_place_of and moment(in_place_of.expires_at, now=now),
                "page": reverse("admin:api_apikey_change", args=[new.row.pk]),
            },
        )
        response["Cache-Control"] = "no-store"
        return response

    def render_change_form(
        self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any
    ) -> HttpResponse:
        context["show_delete"] = False
        key, now = context["original"], clock.now()
        self.leave_out_impossible(context, key, now=now)
        if why_not_rotated(key, now=now) is not None or not self._may_hold(request, key):
            context["actions_detail"] = [
                button
                for button in context.get("actions_detail", ())
                if not str(button["path"]).endswith("/rotate/")
            ]
        return super().render_change_form(request, context, *args, **kwargs)

    def history_of(self, obj: ApiKey) -> QuerySet[AuditEvent]:
        return AuditEvent.objects.filter(tenant=obj.tenant, detail__key=obj.prefix)

    def tell(self, row: ApiKey, *, now: float) -> ApiKey:
        row.told_as = _told(row)  # type: ignore[attr-defined]
        row.told_state = self.state(row)  # type: ignore[attr-defined]
        return row

    @admin.display(description=gettext_lazy("key"), ordering="prefix")
    def key(self, key: ApiKey) -> SafeString:
        return format_html("<code>{}…</code>", key.prefix)

    @admin.display(description=gettext_lazy("state"))
    def state(self, key: ApiKey) -> SafeString:
        if key.revoked_at is not None:
            return facts.badge(gettext_lazy("revoked"), "plain")
        if key.expires_at is not None and key.expires_at <= clock.now():
            return facts.badge(gettext_lazy("expired"), "uneasy")
        if getattr(key, "is_noticed", False):
            return facts.badge(gettext_lazy("unusual use"), "bad")
        if key.rotated_at is not None:
            return facts.badge(gettext_lazy("rotated"), "uneasy")
        return facts.badge(gettext_lazy("active"), "good")

    @admin.display(description=gettext_lazy("tenant"))
    def tenant_name(self, key: ApiKey) -> str:
        return key.tenant.slug

    @admin.display(description=gettext_lazy("user"), ordering="user_id")
    def user(self, key: ApiKey) -> str:
        if key.kind == KeyKind.SERVICE:
            return _("any, as each request names")
        return key.user_id

    @admin.display(description=gettext_lazy("scopes"))
    def scope_names(self, key: ApiKey) -> str:
        if set(key.scopes) == {scope.value for scope in Scope}:
            return _("all")
        return ", ".join(key.scopes)

    @admin.display(description=gettext_lazy("networks"))
    def network_names(self, key: ApiKey) -> str:
        return ", ".join(key.networks) or _("anywhere")

    @admin.display(description=gettext_lazy("expires"), ordering="expires_at")
    def expiry(self, key: ApiKey) -> SafeString:
        return moment(key.expires_at, now=clock.now(), never=_("never"))

    @admin.display(description=gettext_lazy("last used"), ordering="last_used_at")
    def last_use(self, key: ApiKey) -> SafeString:
        return moment(key.last_used_at, now=clock.now(), never=_("never"))

    @admin.display(description=gettext_lazy("created"))
    def created(self, key: ApiKey) -> SafeString:
        return moment(key.created_at.timestamp(), now=clock.now())

    @admin.display(description=gettext_lazy("revoked"))
    def revocation(self, key: ApiKey) -> SafeString:
        return moment(key.revoked_at, now=clock.now(), never=_("no"))

    @admin.display(description=gettext_lazy("unusual use"))
    @told_once
    def span(self, key: ApiKey) -> SafeString | str:
        now = clock.now()
        found = notices.noticed(now=now).filter(tenant=key.tenant, actor=key.actor).first()
        if found is None:
            return _("none in the last 24 hours")
        return format_html(
            "<div><strong>{}</strong> {}</div>{}",
            _("It was handed the tokens of %(users)d users within an hour, and of %(usual)d at "
              "most in any hour of the week before.") % {"users": found.users,
                                                        "usual": found.usual or 0},
            _("If nobody knows why, rotate or revoke it."),
            moment(found.noticed_at, now=now),
        )  # fmt: skip


@first_steps.add
def a_key(request: HttpRequest) -> first_steps.Step | None:
    """What a vault without a living key lacks: nobody can ask it for anything."""
    if not request.user.has_perm("api.view_apikey"):
        return None
    living = ApiKey.objects.filter(revoked_at=None).exclude(expires_at__lte=int(clock.now()))
    may_make = request.user.has_perm("api.add_apikey")
    return first_steps.Step(
        title=_("A service key: what LiteLLM shows to be handed the tokens"),
        is_done=living.exists(),
        why=_("It is shown once. Give it to the proxy as OAUTHVAULT_SERVICE_KEY."),
        link=reverse("admin:api_apikey_add") if may_make else "",
        link_text=_("Make a key"),
        command="oauthvault create_key my-team",
    )
