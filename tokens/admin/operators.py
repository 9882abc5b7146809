"""Who may sign in here, with the dashboard's own forms.

Accounts are Django's, and so is their log of changes; the audit trail has each change too.
Superusers only: whoever could set another operator's password could sign in as them and have
what they may.
"""

from typing import Any, ClassVar, cast

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.utils import unquote
from django.contrib.auth.admin import GroupAdmin as BaseGroupAdmin
from django.contrib.auth.admin import UserAdmin as BaseUserAdmin
from django.contrib.auth.models import Group, User
from django.db import transaction
from django.db.models import Exists, OuterRef, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from unfold.admin import ModelAdmin
from unfold.decorators import action, display
from unfold.enums import ActionVariant
from unfold.forms import AdminPasswordChangeForm, UserChangeForm, UserCreationForm
from unfold.widgets import UnfoldAdminCheckboxSelectMultipleWidget

from tokens import accounts, clock, roles, second_factor
from tokens.admin import second_factor as asking
from tokens.admin.base import operator
from tokens.admin.lists import RefusesSecrets
from tokens.admin.times import moment
from tokens.models import Assignment, SecondFactor, Tenant

admin.site.unregister(User)
admin.site.unregister(Group)
# As the menu has it: users are those whose credentials are kept.
User._meta.verbose_name = gettext_lazy("operator")
User._meta.verbose_name_plural = gettext_lazy("operators")


def _superusers_only(self: Any, request: HttpRequest, obj: Any = None) -> bool:
    return bool(request.user.is_superuser)


class OperatorForm(UserChangeForm):
    """Django's form of an account, and the tenants that it looks after."""

    tenants: "forms.ModelMultipleChoiceField[Tenant]" = forms.ModelMultipleChoiceField(
        label=gettext_lazy("Tenants"),
        queryset=None,  # of the operator who asks
        required=False,
        help_text=gettext_lazy(
            "Looks after these and sees nothing of others. Superusers, and whoever has the "
            "permission “Looks after every tenant”, see all of them."
        ),
        widget=UnfoldAdminCheckboxSelectMultipleWidget(),
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        cast(
            "forms.ModelMultipleChoiceField[Tenant]", self.fields["tenants"]
        ).queryset = Tenant.objects.order_by("slug")
        self.initial["tenants"] = list(
            Assignment.objects.filter(operator=self.instance).values_list("tenant_id", flat=True)
        )


class PasswordForm(asking.PasswordOnly, AdminPasswordChangeForm):
    pass


class Recorded:
    """Of Django's model admins: what its own log is told goes into the audit trail too.
    Names of fields, and never what was typed into one."""

    # Made, changed, deleted.
    acts: ClassVar[tuple[str, str, str]]

    def log_addition(self, request: HttpRequest, obj: Any, message: Any) -> Any:
        self._record(request, self.acts[0], str(obj), **self.facts(obj))
        return super().log_addition(request, obj, message)  # type: ignore[misc]

    def log_change(self, request: HttpRequest, obj: Any, message: Any) -> Any:
        fields = [name for part in message for name in part.get("changed", {}).get("fields", ())]
        if fields == ["password"]:
            self._record(request, "set_password", str(obj))
        elif fields:
            self._record(request, self.acts[1], str(obj), changed=fields, **self.facts(obj))
        return super().log_change(request, obj, message)  # type: ignore[misc]

    def log_deletions(self, request: HttpRequest, queryset: Any) -> Any:
        for obj in queryset:
            self._record(request, self.acts[2], str(obj))
        return super().log_deletions(request, queryset)  # type: ignore[misc]

    def facts(self, obj: Any) -> dict[str, Any]:
        """What the object is now, as far as a reader of the trail wants to know."""
        return {}

    def _record(self, request: HttpRequest, action: str, subject: str, **detail: Any) -> None:
        now = clock.now()
        roles.record(action=action, subject=subject, actor=operator(request), now=now, **detail)


@admin.register(User)
class UserAdmin(RefusesSecrets, Recorded, BaseUserAdmin, ModelAdmin):  # type: ignore[type-arg]
    acts = ("create_operator", "change_operator", "delete_operator")
    form = OperatorForm
    add_form = UserCreationForm
    change_password_form = PasswordForm
    list_display = (
        "username", "is_active", "is_superuser", "has_second_factor", "last_sign_in",
    )  # fmt: skip
    actions_detail = ("reset_second_factor",)

    fieldsets = (
        *(BaseUserAdmin.fieldsets or ()),
        (gettext_lazy("Looks after"), {"fields": ("tenants",)}),
    )

    has_view_permission = has_add_permission = _superusers_only
    has_change_permission = has_delete_permission = _superusers_only

    @admin.display(description=gettext_lazy("last sign-in"), ordering="last_login")
    def last_sign_in(self, account: User) -> SafeString:
        at = account.last_login.timestamp() if account.last_login else None
        return moment(at, now=clock.now(), never=_("never"))

    def facts(self, obj: User) -> dict[str, Any]:
        return {
            "active": obj.is_active, "staff": obj.is_staff, "superuser": obj.is_superuser,
            "groups": sorted(obj.groups.values_list("name", flat=True)),
        }  # fmt: skip

    def save_model(self, request: HttpRequest, obj: User, form: Any, change: bool) -> None:
        if not change:
            obj.is_staff = True  # or they could not sign in
            super().save_model(request, obj, form, change)
            accounts.require_new_password(operator=obj)
            return
        # The rest may have been changed since it was read: by somebody who deactivates them.
        names = {field.name for field in obj._meta.concrete_fields}
        obj.save(update_fields=names & set(form.changed_data))
        if not obj.is_active and "is_active" in form.changed_data:
            # Or a session would go on where it was, were the account active again.
            accounts.end_sessions(
                operator=obj, actor=operator(request), now=clock.now(), why="deactivated"
            )

    def get_queryset(self, request: HttpRequest) -> QuerySet[User]:
        factors = SecondFactor.objects.filter(user=OuterRef("pk"), confirmed=True)
        rows: QuerySet[User] = super().get_queryset(request)
        return rows.annotate(second_factor_is_there=Exists(factors))

    @display(  # type: ignore[untyped-decorator]
        description=gettext_lazy("second factor"), boolean=True
    )
    def has_second_factor(self, obj: Any) -> bool:
        return bool(obj.second_factor_is_there)

    has_reset_second_factor_permission = _superusers_only

    @action(  # type: ignore[untyped-decorator]
        description=gettext_lazy("Reset second factor"),
        permissions=["reset_second_factor"],
        url_path="reset_second_factor",
        icon="phonelink_erase",
        variant=ActionVariant.DANGER,
    )
    def reset_second_factor(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """For somebody else, who has lost the phone and the codes. Asks who is asking, and shows
        nothing of the factor."""
        account = self.get_object(request, unquote(object_id))
        if account is None:
            return self._get_obj_does_not_exist_redirect(request, self.opts, object_id)
        if account.pk == request.user.pk:
            return HttpResponseRedirect(reverse("remove_second_factor"))
        back = reverse("admin:auth_user_change", args=[account.pk])
        confirmed = request.method == "POST" and "confirmed" in request.POST
        proof = asking.proof(request, sent=confirmed)
        if proof.is_valid():
            done = second_factor.remove(operator=account, actor=operator(request), now=clock.now())
            name = {"name": account.get_username()}
            if done:
                text = _("%(name)s has no second factor any more, and was signed out everywhere.")
                self.message_user(request, text % name, messages.SUCCESS)
            else:
                text = _("%(name)s had no second factor. Nothing was changed.")
                self.message_user(request, text % name, messages.WARNING)
            return HttpResponseRedirect(back)
        context = {
            **self.admin_site.each_context(request),
            "title": _("Reset second factor"),
            "subtitle": None,
            "opts": self.opts,
            "original": account,
            "account": account,
            "is_enrolled": second_factor.is_enrolled(account),
            "proof": proof,
            "back": back,
        }
        request.current_app = self.admin_site.name
        return TemplateResponse(request, "admin/auth/user/reset_second_factor.html", context)

    def log_change(self, request: HttpRequest, obj: Any, message: Any) -> Any:
        fields = [name for part in message for name in part.get("changed", {}).get("fields", ())]
        if fields == ["password"] and obj.pk != request.user.pk:
            accounts.require_new_password(operator=obj)
        return super().log_change(request, obj, message)

    def user_change_password(
        self, request: HttpRequest, id: str, form_url: str = ""
    ) -> HttpResponse:
        """Somebody else's. One's own is changed where the old one is asked for."""
        account = self.get_object(request, unquote(id))
        # By the row: there are many ways to write a number.
        if account is not None and account.pk == request.user.pk:
            return HttpResponseRedirect(reverse("admin:password_change"))
        with transaction.atomic():
            return super().user_change_password(request, id, form_url)

    def save_related(self, request: HttpRequest, form: Any, formsets: Any, change: bool) -> None:
        super().save_related(request, form, formsets, change)
        if "tenants" not in form.cleaned_data:
            return  # the form for a new account: tenants are chosen on its page
        account, chosen = form.instance, set(form.cleaned_data["tenants"])
        before = {
            each.tenant
            for each in Assignment.objects.filter(operator=account).select_related("tenant")
        }
        acts = {"operator": account, "actor": operator(request), "now": clock.now()}
        for tenant in sorted(chosen - before, key=lambda tenant: tenant.slug):
            roles.assign(tenant=tenant, **acts)
        for tenant in sorted(before - chosen, key=lambda tenant: tenant.slug):
            roles.withdraw(tenant=tenant, **acts)


@admin.register(Group)
class GroupAdmin(RefusesSecrets, Recorded, BaseGroupAdmin, ModelAdmin):
    acts = ("create_group", "change_group", "delete_group")

    def facts(self, obj: Group) -> dict[str, Any]:
        return {"permissions": sorted(obj.permissions.values_list("codename", flat=True))}

    has_view_permission = has_add_permission = _superusers_only
    has_change_permission = has_delete_permission = _superusers_only
