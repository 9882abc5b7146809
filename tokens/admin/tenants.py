"""Tenants: made, set, suspended. A name is for ever, since keys and scripts use it."""

from collections.abc import Sequence
from typing import Any

from django import forms
from django.conf import settings
from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from tokens import clock, statistics
from tokens.admin import facts
from tokens.admin.acts import Act, ActingModelAdmin, Result, one_by_one, pages
from tokens.admin.base import operator
from tokens.admin.times import moment
from tokens.models import AuditEvent, Tenant
from tokens.tenants import change_tenant, create_tenant, resume_tenant, suspend_tenant

_SETTINGS = ("name", "has_default_user", "auto_refresh", "refresh_threshold")


def _suspend(tenant: Tenant, actor: str, now: float) -> Result:
    suspend_tenant(tenant=tenant, actor=actor, now=now)
    return Result(text=_("%(name)s: suspended.") % {"name": tenant.slug})


def _resume(tenant: Tenant, actor: str, now: float) -> Result:
    resume_tenant(tenant=tenant, actor=actor, now=now)
    return Result(text=_("%(name)s: resumed.") % {"name": tenant.slug})


def _suspend_effect(tenant: Tenant, now: float) -> str:
    active = statistics.statistics_for(tenant=tenant, now=now).active_tokens
    return ngettext(
        "%(n)d person who can work now is stopped.",
        "%(n)d people who can work now are stopped.",
        active,
    ) % {"n": active}


SUSPEND = Act(
    name="suspend",
    permission="change",
    title=gettext_lazy("Suspend tenant"),
    icon="pause",
    dangerous=True,
    button=lambda n: ngettext("Suspend %(n)d tenant", "Suspend %(n)d tenants", n) % {"n": n},
    question=lambda n: (
        ngettext("Suspend this whole tenant?", "Suspend these %(n)d tenants?", n) % {"n": n}
    ),
    means=gettext_lazy(
        "Every request of the tenant's keys is refused, and none of its tokens is handed out or "
        "refreshed. Nothing is lost by it, and resuming ends it; but logins that are left for "
        "weeks may reach their end. Tokens handed out before may live until their own end."
    ),
    effect=_suspend_effect,
    refusal=lambda tenant, now: _("It is suspended already.") if tenant.suspended_at else None,
    perform=one_by_one(_suspend),
)
RESUME = Act(
    name="resume",
    permission="change",
    title=gettext_lazy("Resume tenant"),
    icon="play_arrow",
    button=lambda n: ngettext("Resume %(n)d tenant", "Resume %(n)d tenants", n) % {"n": n},
    question=lambda n: ngettext("Resume this tenant?", "Resume these %(n)d tenants?", n) % {"n": n},
    means=gettext_lazy("Its keys are answered, and its tokens refreshed, from this moment on."),
    effect=lambda tenant, now: _("Works again."),
    refusal=lambda tenant, now: None if tenant.suspended_at else _("It is not suspended."),
    perform=one_by_one(_resume),
)


class TenantForm(forms.ModelForm):  # type: ignore[type-arg]
    """What may be set. The slug only when the tenant is made."""

    class Meta:
        model = Tenant
        fields = ("slug", *_SETTINGS)
        labels = {
            "auto_refresh": gettext_lazy("Automatic refresh"),
            "has_default_user": gettext_lazy("Default user"),
        }
        help_texts = {
            "slug": gettext_lazy(
                "Its name in commands, keys and addresses: lower-case letters, digits, hyphens. "
                "It cannot be changed later."
            ),
        }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if "auto_refresh" in self.fields:  # Not there for those who may only look.
            self.fields["auto_refresh"].widget.choices = [
                ("unknown", gettext_lazy("as the deployment is set")),
                ("true", gettext_lazy("on")),
                ("false", gettext_lazy("off")),
            ]

    def clean_refresh_threshold(self) -> int | None:
        threshold: int | None = self.cleaned_data["refresh_threshold"]
        if threshold is not None and not 1 <= threshold <= 86_400:
            raise forms.ValidationError(_("Between 1 and 86400 seconds."))
        return threshold


@admin.register(Tenant)
class TenantAdmin(ActingModelAdmin):
    form = TenantForm
    list_display = ("slug", "name", "state", "refreshing", "users", "created")
    list_filter = ()
    search_fields = ("slug", "name")
    search_help_text = gettext_lazy("Name")
    ordering = ("slug",)
    acts = (SUSPEND, RESUME)
    actions = ("suspend_many", "resume_many")
    actions_detail = ("suspend_one", "resume_one")

    suspend_one, suspend_many = pages(SUSPEND)
    resume_one, resume_many = pages(RESUME)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("tokens.add_tenant")

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.has_perm("tokens.change_tenant")

    def get_fieldsets(self, request: HttpRequest, obj: Tenant | None = None) -> Any:
        if obj is None:
            return ((None, {"fields": ("slug", "name", "auto_refresh", "refresh_threshold")}),)
        return (
            (None, {"fields": (("slug", "state"), "name")}),
            (
                gettext_lazy("Settings"),
                {"fields": (("auto_refresh", "refresh_threshold"), "has_default_user")},
            ),
            (
                gettext_lazy("Now"),
                {"fields": (("people", "refreshes"), ("links", "created"))},
            ),
        )

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Sequence[str]:
        if obj is None:
            return ()
        return ("slug", "state", "people", "refreshes", "links", "created")

    def save_model(self, request: HttpRequest, obj: Tenant, form: Any, change: bool) -> None:
        """By the domain functions, which also write the audit trail."""
        actor, now = operator(request), clock.now()
        chosen = {name: form.cleaned_data[name] for name in form.changed_data if name in _SETTINGS}
        if change:
            change_tenant(tenant=obj, actor=actor, now=now, **chosen)
            return
        made = create_tenant(slug=obj.slug, name=obj.name, actor=actor, now=now)
        chosen.pop("name", None)
        change_tenant(tenant=made, actor=actor, now=now, **chosen)
        obj.pk, obj._state.adding = made.pk, False

    def get_actions(self, request: HttpRequest) -> dict[str, Any]:
        actions: dict[str, Any] = super().get_actions(request)
        actions.pop("delete_selected", None)
        return actions

    def render_change_form(
        self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any
    ) -> HttpResponse:
        context["show_save_and_add_another"] = False
        if context.get("original") is not None:
            self.leave_out_impossible(context, context["original"], now=clock.now())
        return super().render_change_form(request, context, *args, **kwargs)

    def history_of(self, obj: Tenant) -> QuerySet[AuditEvent]:
        return AuditEvent.objects.filter(tenant=obj, subject="")

    def tell(self, row: Tenant, *, now: float) -> Tenant:
        row.told_as = row.slug  # type: ignore[attr-defined]
        row.told_state = self.state(row)  # type: ignore[attr-defined]
        return row

    @admin.display(description=gettext_lazy("state"))
    def state(self, tenant: Tenant) -> SafeString:
        if tenant.suspended_at is not None:
            return facts.badge(gettext_lazy("suspended"), "uneasy")
        return facts.badge(gettext_lazy("active"), "good")

    @admin.display(description=gettext_lazy("automatic refresh"))
    def refreshing(self, tenant: Tenant) -> str:
        if not settings.CLAUDE_OAUTH_AUTO_REFRESH:
            return _("off for the deployment")
        if not tenant.refreshes_ahead:
            return _("off")
        return _("%(n)d s before the end") % {"n": tenant.threshold}

    @admin.display(description=gettext_lazy("users"))
    def users(self, tenant: Tenant) -> str:
        return _("one, “default”") if tenant.has_default_user else _("many")

    @admin.display(description=gettext_lazy("credentials"))
    def people(self, tenant: Tenant) -> str:
        now = statistics.statistics_for(tenant=tenant, now=clock.now())
        return _(
            "%(active)d active, %(lost)d in need of a new login, %(expired)d expired, "
            "%(revoked)d revoked"
        ) % {
            "active": now.active_tokens,
            "lost": now.reauthorization_required,
            "expired": now.expired,
            "revoked": now.revoked,
        }

    @admin.display(description=gettext_lazy("refreshes of the last 24 hours"))
    def refreshes(self, tenant: Tenant) -> str:
        now = statistics.statistics_for(tenant=tenant, now=clock.now())
        return _("%(ok)d succeeded, %(failed)d failed") % {
            "ok": now.succeeded_last_24h,
            "failed": now.failed_last_24h,
        }

    @admin.display(description=gettext_lazy("created"), ordering="created_at")
    def created(self, tenant: Tenant) -> SafeString:
        return moment(tenant.created_at.timestamp(), now=clock.now())

    @admin.display(description=gettext_lazy("see"))
    def links(self, tenant: Tenant) -> SafeString:
        return format_html(
            '<a class="ov-link" href="{0}?tenant__id__exact={3}">{4}</a> · '
            '<a class="ov-link" href="{1}?tenant__id__exact={3}">{5}</a> · '
            '<a class="ov-link" href="{2}?tenant__id__exact={3}">{6}</a>',
            reverse("admin:tokens_oauthcredential_changelist"),
            reverse("admin:api_apikey_changelist"),
            reverse("admin:tokens_auditevent_changelist"),
            tenant.pk,
            _("credentials"),
            _("API keys"),
            _("audit trail"),
        )
