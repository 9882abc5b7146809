"""The question who is at the keyboard, where it is asked again: before what is dangerous.

proof = second_factor.proof(request, sent=confirmed)   # a form, for the page that asks
if not confirmed or not proof.is_valid():              # `is_valid` spends the code
    ...                                                # the page again, with the form's errors
"""

import math
from typing import Any, cast

from django import forms
from django.contrib.auth.models import User
from django.http import HttpRequest
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from unfold.forms import AdminOwnPasswordChangeForm
from unfold.widgets import INPUT_CLASSES

from tokens import accounts, clock, second_factor
from tokens.accounts import Verdict
from tokens.admin.times import exact

_CLASSES = {"class": " ".join(INPUT_CLASSES)}
# It is no word of anybody's language, and a keyboard that corrects it makes it wrong.
_AS_TYPED = {"autocapitalize": "off", "autocorrect": "off", "spellcheck": "false"}


def proof(request: HttpRequest, *, sent: bool) -> "ProofForm":
    """Asks for a code, or for the password of an operator who has no second factor. ``sent``: the
    answer is in this request."""
    operator = cast(User, request.user)
    kind = CodeForm if second_factor.is_enrolled(operator) else PasswordForm
    return kind(operator, data=request.POST if sent else None)


class ProofForm(forms.Form):
    """Valid if the operator has proved themselves. ``verdict`` is what became of it."""

    verdict: Verdict | None = None

    def __init__(self, operator: User, data: Any = None) -> None:
        # Of another name than the fields of the page it stands in.
        super().__init__(data, prefix="proof")
        self.operator = operator


class CodeForm(ProofForm):
    code = forms.CharField(
        label=gettext_lazy("Code"),
        help_text=gettext_lazy(
            "The six digits that your authenticator shows now, or one of your recovery codes."
        ),
        max_length=64,
        widget=forms.TextInput(
            attrs={**_CLASSES, **_AS_TYPED, "autocomplete": "one-time-code"}
        ),
    )  # fmt: skip

    def clean_code(self) -> None:
        self.verdict = second_factor.verify(
            operator=self.operator, code=self.cleaned_data["code"], now=clock.now()
        )
        if not self.verdict.good:
            raise forms.ValidationError(why_not(self.verdict) or _(
                "This code is not right, or was used already. Wait for the next one."
            ))  # fmt: skip


class PasswordForm(ProofForm):
    password = forms.CharField(
        label=gettext_lazy("Your password"),
        help_text=gettext_lazy("The one that you sign in with."),
        strip=False,
        max_length=4096,
        widget=forms.PasswordInput(attrs={**_CLASSES, "autocomplete": "current-password"}),
    )

    def clean_password(self) -> None:
        self.verdict = _password(self.operator, self.cleaned_data["password"])
        if not self.verdict.good:
            raise forms.ValidationError(why_not(self.verdict) or _("This is not your password."))


class PasswordOnly:
    """Of Django's forms for a password: they write the account as it was when it was read, and
    would give back what somebody has taken from it meanwhile."""

    def set_password_and_save(
        self, user: User, *args: Any, commit: bool = True, **how: Any
    ) -> User:
        user = super().set_password_and_save(  # type: ignore[misc]
            user, *args, commit=False, **how
        )
        if commit:
            user.save(update_fields=["password"])
        return user


class OwnPasswordForm(PasswordOnly, AdminOwnPasswordChangeForm):
    """Django's, where the old password is not guessed at leisure, and the new one is another."""

    verdict: Verdict | None = None

    def clean_old_password(self) -> str:
        old: str = self.cleaned_data["old_password"]
        self.verdict = _password(self.user, old)
        if not self.verdict.good:
            raise forms.ValidationError(why_not(self.verdict) or _("This is not your password."))
        return old

    def clean_new_password1(self) -> str:
        new: str = self.cleaned_data["new_password1"]
        if new == self.data.get("old_password"):
            raise forms.ValidationError(_("This is the old password. Choose another one."))
        return new


def why_not(verdict: Verdict) -> str | None:
    """Until when no proof is looked at. None: it was."""
    if not verdict.wait:
        return None
    seconds = math.ceil(verdict.wait)
    return _("Too many wrong answers. Try again in %(n)d seconds, at %(at)s.") % {
        "n": seconds, "at": exact(clock.now() + seconds),
    }  # fmt: skip


def _password(operator: User, password: str) -> Verdict:
    return accounts.prove_password(operator=operator, password=password, now=clock.now())
