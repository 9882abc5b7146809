"""Tenants: made, set, suspended. A name is for ever, since keys and scripts use it."""

from collections.abc import Sequence
from typing import Any

from django import forms
from django.conf import settings
from django.contrib import admin, messages
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext
from kombu.exceptions import KombuError
from unfold.widgets import UnfoldAdminTextareaWidget, UnfoldAdminTextInputWidget

from tokens import clock, deletion, statistics
from tokens.admin import facts
from tokens.admin.acts import Act, ActingModelAdmin, Result, one_by_one, pages
from tokens.admin.bars import LIVE, bar
from tokens.admin.base import operator, told_once
from tokens.admin.times import moment
from tokens.models import AuditEvent, Backoff, Tenant
from tokens.rotation.data_keys import begin_rotation, present_key, under_older_keys
from tokens.tasks import rotate_data_key
from tokens.tenants import (
    SETTINGS,
    BadTenantRequest,
    change_tenant,
    checked_setting,
    create_tenant,
    resume_tenant,
    suspend_tenant,
)

# Seconds that the page of a deletion works at it; the scheduler goes on with what is left.
_DELETING = 5.0
_LIMITS = (("max_retries", "retry_backoff"), "key_networks")
# How many credentials are sealed again in this very request when no worker can be told.
_HERE_AT_MOST = 200


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


def _why_not_resumed(tenant: Tenant) -> str | None:
    if tenant.deletion_began_at is not None:
        return _("It is being deleted, and stays suspended to the end.")
    return None if tenant.suspended_at else _("It is not suspended.")


def _request_rotation(tenants: Sequence[Tenant], actor: str, now: float) -> list[Result]:
    """Each has its new key at once; what is there is sealed again by a worker, and of a small
    tenant here, if none can be told. The sweep finishes whatever is left."""
    results, here = [], 0
    for tenant in tenants:
        key = present_key(tenant)
        if key is None:
            results.append(Result(text=f"{tenant.slug}: {_NOTHING_SEALED}"))
            continue
        begin_rotation(tenant=tenant, actor=actor, now=now, replacing=key.key_id)
        arguments, name = (tenant.pk, key.key_id, actor), {"name": tenant.slug}
        text = _("%(name)s: a new data key seals; its page shows how far the rest is.")
        level = messages.SUCCESS
        try:
            rotate_data_key.apply_async(args=arguments, retry=False)
        except (KombuError, OSError):
            here += tenant.credentials.count()
            if here <= _HERE_AT_MOST:
                rotate_data_key(*arguments)
                text = _("%(name)s: the data key is a new one.")
            else:
                level = messages.WARNING
                text = _(
                    "%(name)s: a new data key seals. The message broker cannot be reached: what is "
                    "there is sealed again when the scheduler and a worker are there, or by "
                    "“oauthvault rotate_keys --tenant %(name)s”."
                )
        results.append(Result(text=text % name, level=level))
    return results


def _rotation_effect(tenant: Tenant, now: float) -> str:
    waiting = under_older_keys(tenant).count()
    if waiting:
        return ngettext(
            "An earlier rotation goes on: %(n)d credential is sealed again.",
            "An earlier rotation goes on: %(n)d credentials are sealed again.",
            waiting,
        ) % {"n": waiting}
    sealed = tenant.credentials.exclude(data_key=None).count()
    return ngettext(
        "A new data key is made, and %(n)d credential is sealed again.",
        "A new data key is made, and %(n)d credentials are sealed again.",
        sealed,
    ) % {"n": sealed}


_NOTHING_SEALED = gettext_lazy("Nothing was ever sealed for it: there is no data key yet.")

ROTATE_DATA_KEY = Act(
    name="rotate_data_key",
    permission="change",
    title=gettext_lazy("Rotate data key"),
    icon="autorenew",
    button=lambda n: ngettext("Rotate %(n)d data key", "Rotate %(n)d data keys", n) % {"n": n},
    question=lambda n: (
        ngettext("Give this tenant a new data key?", "Give these %(n)d tenants new data keys?", n)
        % {"n": n}
    ),
    means=gettext_lazy(
        "The tenant's tokens are sealed again under a new key, in the background, while they go "
        "on being handed out and refreshed. The tokens stay what they are: nobody has to sign in "
        "again. The old data key is destroyed some minutes later, when nothing needs it any more; "
        "a backup that was made before still has it."
    ),
    effect=_rotation_effect,
    refusal=lambda tenant, now: None if present_key(tenant) is not None else str(_NOTHING_SEALED),
    perform=_request_rotation,
)
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
    refusal=lambda tenant, now: _why_not_resumed(tenant),
    perform=one_by_one(_resume),
)


class TenantForm(forms.ModelForm):  # type: ignore[type-arg]
    """What may be set. The slug only when the tenant is made."""

    class Meta:
        model = Tenant
        fields = ("slug", *SETTINGS)
        labels = {
            "auto_refresh": gettext_lazy("Automatic refresh"),
            "has_default_user": gettext_lazy("Default user"),
            "max_retries": gettext_lazy("Quick retries"),
            "retry_backoff": gettext_lazy("Pauses between them"),
        }
        help_texts = {
            "slug": gettext_lazy(
                "Its name in commands, keys and addresses: lower-case letters, digits, hyphens. "
                "It cannot be changed later."
            ),
        }

    key_networks = forms.CharField(
        label=gettext_lazy("Networks of its keys"),
        required=False,
        max_length=2000,
        help_text=gettext_lazy(
            "Where every key of the tenant must come from, like 10.1.2.0/24, one on each line, in "
            "addition to what is set for the key itself. Empty: anywhere."
        ),
        widget=UnfoldAdminTextareaWidget(attrs={"rows": 2}),
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.instance.pk is not None:
            self.initial["key_networks"] = "\n".join(self.instance.key_networks)
        if "retry_backoff" in self.fields:
            self.fields["retry_backoff"].widget.choices = [
                ("", gettext_lazy("as the deployment is set")),
                *Backoff.choices,
            ]
        if "auto_refresh" in self.fields:  # Not there for those who may only look.
            self.fields["auto_refresh"].widget.choices = [
                ("unknown", gettext_lazy("as the deployment is set")),
                ("true", gettext_lazy("on")),
                ("false", gettext_lazy("off")),
            ]

    def clean(self) -> dict[str, Any]:
        """Each setting as the domain has it; its sentence beside the field where it has none."""
        cleaned: dict[str, Any] = super().clean() or self.cleaned_data
        if "key_networks" in cleaned:
            cleaned["key_networks"] = cleaned["key_networks"].replace(",", " ").split()
        for name in SETTINGS:
            if name in cleaned:
                try:
                    cleaned[name] = checked_setting(name, cleaned[name])
                except BadTenantRequest as refusal:
                    reason = refusal.detail.removeprefix(name)
                    self.add_error(name, f"{self.fields[name].label or name}{reason}")
        return cleaned


class DeletionForm(forms.Form):
    """The name, typed by hand, as the word that it is meant."""

    slug = forms.CharField(
        strip=True,
        max_length=63,
        widget=UnfoldAdminTextInputWidget(attrs={"autocomplete": "off", "spellcheck": "false"}),
    )

    def __init__(self, *args: Any, tenant: Tenant, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._tenant = tenant
        self.fields["slug"].label = _("Type its name, %(name)s, to go on") % {"name": tenant.slug}

    def clean_slug(self) -> str:
        if self.cleaned_data["slug"] != self._tenant.slug:
            raise forms.ValidationError(_("That is not its name. Nothing was deleted."))
        return self._tenant.slug


@admin.register(Tenant)
class TenantAdmin(ActingModelAdmin):
    class Media:
        js = (LIVE,)

    form = TenantForm
    list_display = ("slug", "name", "state", "refreshing", "users", "created")
    list_filter = ()
    search_fields = ("slug", "name")
    search_help_text = gettext_lazy("Name")
    empty_title = gettext_lazy("There is no tenant yet.")
    empty_says = gettext_lazy(
        "A tenant is a team with a LiteLLM of its own, and sees nothing of others. Make one, then "
        "import the logins of its people, then make the key with which its LiteLLM asks."
    )
    ordering = ("slug",)
    acts = (ROTATE_DATA_KEY, SUSPEND, RESUME)
    actions = ("rotate_data_key_many", "suspend_many", "resume_many")
    actions_detail = ("rotate_data_key_one", "suspend_one", "resume_one")

    rotate_data_key_one, rotate_data_key_many = pages(ROTATE_DATA_KEY)
    suspend_one, suspend_many = pages(SUSPEND)
    resume_one, resume_many = pages(RESUME)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("tokens.add_tenant")

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.has_perm("tokens.change_tenant")

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.has_perm("tokens.delete_tenant")

    def delete_view(
        self, request: HttpRequest, object_id: str, extra_context: Any = None
    ) -> HttpResponse:
        """A page that says what it means and has the name typed; only its own POST begins."""
        tenant = self.get_object(request, unquote(object_id))
        if tenant is None:
            return self._get_obj_does_not_exist_redirect(request, self.opts, object_id)
        if not (self.has_view_permission(request) and self.has_delete_permission(request)):
            raise PermissionDenied
        form = DeletionForm(request.POST or None, tenant=tenant)
        if form.is_valid():
            return self._delete(request, tenant)
        return self._ask_to_delete(request, tenant, form)

    def _ask_to_delete(
        self, request: HttpRequest, tenant: Tenant, form: DeletionForm
    ) -> HttpResponse:
        why_not = None
        try:
            deletion.refuse_deletion(tenant)
        except BadTenantRequest as refusal:
            why_not = refusal.detail
        request.current_app = self.admin_site.name
        context = {
            **self.admin_site.each_context(request),
            "title": _("Delete tenant"),
            "opts": self.opts,
            "original": tenant,
            "tenant": tenant,
            "state": self.state(tenant),
            "people": self.people(tenant),
            "keys": tenant.api_keys.count(),
            "why_not": why_not,
            "form": form,
            "back": reverse("admin:tokens_tenant_change", args=[tenant.pk]),
        }
        return TemplateResponse(request, "admin/tokens/tenant/delete.html", context)

    def _delete(self, request: HttpRequest, tenant: Tenant) -> HttpResponse:
        actor, now = operator(request), clock.now()
        try:
            deletion.begin(tenant=tenant, actor=actor, now=now)
        except BadTenantRequest as refusal:
            self.message_user(request, refusal.detail, messages.ERROR)
            return HttpResponseRedirect(reverse("admin:tokens_tenant_change", args=[tenant.pk]))
        told = deletion.go_on(tenant=tenant, actor=actor, seconds=_DELETING)
        if told.finished:
            self.message_user(
                request,
                _("%(name)s is deleted.") % {"name": tenant.slug}
                + f" {deletion.of_upstream(told)}",
                messages.SUCCESS,
            )
        else:
            self.message_user(
                request,
                _("%(name)s is being deleted. The scheduler goes on with it.")
                % {"name": tenant.slug},
                messages.WARNING,
            )
        return HttpResponseRedirect(reverse("admin:tokens_tenant_changelist"))

    def get_fieldsets(self, request: HttpRequest, obj: Tenant | None = None) -> Any:
        if obj is None:
            return (
                (None, {"fields": ("slug", "name", "auto_refresh", "refresh_threshold")}),
                (gettext_lazy("Limits"), {"fields": _LIMITS}),
            )
        return (
            (None, {"fields": (("slug", "state"), "name")}),
            (
                gettext_lazy("Settings"),
                {"fields": (("auto_refresh", "refresh_threshold"), *_LIMITS, "has_default_user")},
            ),
            (
                gettext_lazy("Now"),
                {"fields": (("people", "refreshes"), ("data_key", "links"), "created")},
            ),
        )

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Sequence[str]:
        if obj is None:
            return ()
        return ("slug", "state", "people", "refreshes", "data_key", "links", "created")

    def save_model(self, request: HttpRequest, obj: Tenant, form: Any, change: bool) -> None:
        """By the domain functions, which also write the audit trail."""
        actor, now = operator(request), clock.now()
        chosen = {name: form.cleaned_data[name] for name in form.changed_data if name in SETTINGS}
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
        if tenant.deletion_began_at is not None:
            return facts.badge(gettext_lazy("being deleted"), "bad")
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

    @told_once
    def figures(self, tenant: Tenant) -> statistics.Statistics:
        return statistics.statistics_for(tenant=tenant, now=clock.now())

    @admin.display(description=gettext_lazy("credentials"))
    @told_once
    def people(self, tenant: Tenant) -> str:
        now = self.figures(tenant)
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
    @told_once
    def refreshes(self, tenant: Tenant) -> str:
        now = self.figures(tenant)
        return _("%(ok)d succeeded, %(failed)d failed") % {
            "ok": now.succeeded_last_24h,
            "failed": now.failed_last_24h,
        }

    @admin.display(description=gettext_lazy("data key"))
    @told_once
    def data_key(self, tenant: Tenant) -> SafeString:
        """Which one seals, since when, and how many credentials it does not open yet."""
        key = present_key(tenant)
        if key is None:
            return format_html("{}", _("none yet"))
        older = under_older_keys(tenant).count()
        said = (
            ngettext(
                "%(n)d credential is still sealed under an older one",
                "%(n)d credentials are still sealed under an older one",
                older,
            )
            % {"n": older}
            if older
            else _("every credential is sealed under it")
        )
        sealed = tenant.credentials.exclude(data_key=None).count()
        progress = bar(sealed - older, sealed, of=_("Sealed under it")) if older else ""
        return format_html(
            '<span id="data-key" class="ov-sentence" data-live="{}">'
            "<code>{}</code> {} {} {}</span>",
            "yes" if older else "no",
            key.key_id,
            moment(key.created_at.timestamp(), now=clock.now()),
            said,
            progress,
        )

    @admin.display(description=gettext_lazy("created"), ordering="created_at")
    def created(self, tenant: Tenant) -> SafeString:
        return moment(tenant.created_at.timestamp(), now=clock.now())

    @admin.display(description=gettext_lazy("see"))
    def links(self, tenant: Tenant) -> SafeString:
        return format_html(
            '<a class="ov-link" href="{0}?tenant__id__exact={3}">{4}</a> · '
            '<a class="ov-link" href="{1}?tenant__id__exact={3}">{5}</a> · '
            '<a class="ov-link" href="{2}?tenant__id__exact={3}">{6}</a> · '
            '<a class="ov-link" href="{7}?tenant__id__exact={3}">{8}</a> · '
            '<a class="ov-link" href="{9}?tenant={3}">{10}</a>',
            reverse("admin:tokens_oauthcredential_changelist"),
            reverse("admin:api_apikey_changelist"),
            reverse("admin:tokens_auditevent_changelist"),
            tenant.pk,
            _("credentials"),
            _("API keys"),
            _("audit trail"),
            reverse("admin:tokens_job_changelist"),
            _("jobs"),
            reverse("admin:api_apikey_add"),
            _("new API key"),
        )
