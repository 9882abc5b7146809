"""Who may sign in here, with the dashboard's own forms.

Accounts are Django's, and so is their log of changes. Superusers only: whoever could set
another operator's password could sign in as them and have what they may.
"""

from typing import Any, cast

from django import forms
from django.contrib import admin
from django.contrib.auth.admin import GroupAdmin as BaseGroupAdmin
from django.contrib.auth.admin import UserAdmin as BaseUserAdmin
from django.contrib.auth.models import Group, User
from django.http import HttpRequest
from django.utils.translation import gettext_lazy
from unfold.admin import ModelAdmin
from unfold.forms import AdminPasswordChangeForm, UserChangeForm, UserCreationForm
from unfold.widgets import UnfoldAdminCheckboxSelectMultipleWidget

from tokens import clock, roles
from tokens.admin.base import operator
from tokens.models import Assignment, Tenant

admin.site.unregister(User)
admin.site.unregister(Group)


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


@admin.register(User)
class UserAdmin(BaseUserAdmin, ModelAdmin):  # type: ignore[type-arg]
    form = OperatorForm
    add_form = UserCreationForm
    change_password_form = AdminPasswordChangeForm
    list_display = ("username", "is_active", "is_superuser", "last_login")

    fieldsets = (
        *(BaseUserAdmin.fieldsets or ()),
        (gettext_lazy("Looks after"), {"fields": ("tenants",)}),
    )

    has_view_permission = has_add_permission = _superusers_only
    has_change_permission = has_delete_permission = _superusers_only

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
class GroupAdmin(BaseGroupAdmin, ModelAdmin):
    has_view_permission = has_add_permission = _superusers_only
    has_change_permission = has_delete_permission = _superusers_only
