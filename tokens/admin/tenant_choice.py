"""The field of a form that says which tenant something is for."""

from typing import TYPE_CHECKING, cast

from django import forms
from django.utils.translation import gettext_lazy
from unfold.widgets import UnfoldAdminSelectWidget

from tokens.models import Tenant

if TYPE_CHECKING:
    from django_stubs_ext import StrOrPromise


def tenant_choice(help_text: "StrOrPromise" = "") -> "forms.ModelChoiceField[Tenant]":
    """A field called ``tenant``, without any until `offer_tenants`."""
    return forms.ModelChoiceField(
        label=gettext_lazy("Tenant"),
        queryset=None,
        help_text=help_text,
        widget=UnfoldAdminSelectWidget(),
    )


def offer_tenants(form: forms.Form) -> None:
    """Those of the operator who asks, which is known in a request only. One alone is chosen
    already."""
    field = cast("forms.ModelChoiceField[Tenant]", form.fields["tenant"])
    field.queryset = Tenant.objects.order_by("slug")
    few = field.queryset[:2]
    if len(few) == 1:
        field.initial, field.empty_label = few[0].pk, None
