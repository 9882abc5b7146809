"""Who may sign in here, with the dashboard's own forms.

Accounts are Django's, and so is their log of changes. Superusers only: whoever could set
another operator's password could sign in as them and have what they may.
"""

from typing import Any

from django.contrib import admin
from django.contrib.auth.admin import GroupAdmin as BaseGroupAdmin
from django.contrib.auth.admin import UserAdmin as BaseUserAdmin
from django.contrib.auth.models import Group, User
from django.http import HttpRequest
from unfold.admin import ModelAdmin
from unfold.forms import AdminPasswordChangeForm, UserChangeForm, UserCreationForm

admin.site.unregister(User)
admin.site.unregister(Group)


def _superusers_only(self: Any, request: HttpRequest, obj: Any = None) -> bool:
    return bool(request.user.is_superuser)


@admin.register(User)
class UserAdmin(BaseUserAdmin, ModelAdmin):  # type: ignore[type-arg]
    form = UserChangeForm
    add_form = UserCreationForm
    change_password_form = AdminPasswordChangeForm
    list_display = ("username", "is_active", "is_superuser", "last_login")

    has_view_permission = has_add_permission = _superusers_only
    has_change_permission = has_delete_permission = _superusers_only


@admin.register(Group)
class GroupAdmin(BaseGroupAdmin, ModelAdmin):
    has_view_permission = has_add_permission = _superusers_only
    has_change_permission = has_delete_permission = _superusers_only
