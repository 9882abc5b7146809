"""What an operator fills in to make a key, or to rotate one."""

from typing import Any, cast

from django import forms
from django.utils.translation import gettext_lazy
from unfold.widgets import (
    UnfoldAdminCheckboxSelectMultipleWidget,
    UnfoldAdminIntegerFieldWidget,
    UnfoldAdminTextareaWidget,
    UnfoldAdminTextInputWidget,
)

from api.keys import LONGEST_LIFE, BadKeyRequest, NewKey, Scope, create_key
from tokens.admin.tenant_choice import offer_tenants, tenant_choice
from tokens.user_ids import BadUserId

_DAY = 86_400
_WITHOUT_TOKEN_READ = gettext_lazy(
    "None: all of these for a service key; for a user key all that concern its own credential. "
    "A key that reads tokens (token:read, as LiteLLM's must) is made by an operator with the "
    "permission “Can make keys that read tokens”."
)


class NewKeyForm(forms.Form):
    """What `oauthvault create_key` asks, on a page."""

    tenant = tenant_choice()
    user_id = forms.CharField(
        label=gettext_lazy("User"),
        required=False,
        strip=False,
        max_length=256,
        help_text=gettext_lazy(
            "Empty: a service key, for the tenant's LiteLLM. Else a key of this one user."
        ),
        widget=UnfoldAdminTextInputWidget(attrs={"autocomplete": "off"}),
    )
    label = forms.CharField(
        label=gettext_lazy("Label"),
        required=False,
        max_length=200,
        help_text=gettext_lazy("For people: where this key is used."),
        widget=UnfoldAdminTextInputWidget(attrs={"autocomplete": "off"}),
    )
    scopes = forms.MultipleChoiceField(
        label=gettext_lazy("Scopes"),
        required=False,
        choices=(),  # of the operator who asks
        help_text=gettext_lazy(
            "None: all of them for a service key; for a user key all that concern its own "
            "credential, without reading the token."
        ),
        widget=UnfoldAdminCheckboxSelectMultipleWidget(),
    )
    networks = forms.CharField(
        label=gettext_lazy("Networks"),
        required=False,
        max_length=2000,
        help_text=gettext_lazy(
            "Where it may come from, like 10.1.2.0/24, one on each line. Empty: anywhere."
        ),
        widget=UnfoldAdminTextareaWidget(attrs={"rows": 2}),
    )
    days = forms.IntegerField(
        label=gettext_lazy("Valid for"),
        required=False,
        min_value=1,
        max_value=LONGEST_LIFE // _DAY,
        help_text=gettext_lazy("Days. Empty: until it is revoked."),
        widget=UnfoldAdminIntegerFieldWidget(),
    )
    # Sending a form a second time, by reloading the page, makes no second key.
    once = forms.CharField(widget=forms.HiddenInput, max_length=64)

    def __init__(self, *args: Any, grants_token_read: bool, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        offer_tenants(self)
        self._offered = [
            scope.value for scope in Scope if grants_token_read or scope != Scope.TOKEN_READ
        ]
        scopes = cast("forms.MultipleChoiceField", self.fields["scopes"])
        scopes.choices = [(scope, scope) for scope in self._offered]
        if not grants_token_read:
            scopes.help_text = _WITHOUT_TOKEN_READ

    def make(self, *, actor: str, now: float) -> NewKey | None:
        """The key, or None and an error in the form."""
        chosen = self.cleaned_data
        # Without any, a service key would have all there are; a user key reads no token then.
        all_offered = [] if chosen["user_id"] else self._offered
        try:
            return create_key(
                tenant=chosen["tenant"],
                user_id=chosen["user_id"],
                scopes=chosen["scopes"] or all_offered,
                networks=chosen["networks"].replace(",", " ").split(),
                expires_at=int(now) + chosen["days"] * _DAY if chosen["days"] else None,
                label=chosen["label"],
                actor=actor,
                now=now,
            )
        except BadUserId as refusal:
            self.add_error("user_id", refusal.detail)
        except BadKeyRequest as refusal:
            self.add_error(None, refusal.detail)
        return None


class RotationForm(forms.Form):
    """What `oauthvault rotate_key` asks, on a page."""

    overlap = forms.IntegerField(
        label=gettext_lazy("Overlap"),
        min_value=1,
        max_value=90 * 24,
        help_text=gettext_lazy("Hours for which the old key still works beside the new one."),
        widget=UnfoldAdminIntegerFieldWidget(),
    )
    # Sending a form a second time, by reloading the page, makes no second key.
    once = forms.CharField(widget=forms.HiddenInput, max_length=64)
