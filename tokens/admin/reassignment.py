"""To give a credential to another user of its tenant."""

from django import forms
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext
from unfold.widgets import UnfoldAdminTextInputWidget

from tokens import obstacles
from tokens.admin import facts
from tokens.admin.acts import Act, Result, one_by_one
from tokens.models import OAuthCredential
from tokens.reassignment import reassign


class NewOwnerForm(forms.Form):
    """To whom a credential is given."""

    to = forms.CharField(
        label=gettext_lazy("New user id"),
        strip=False,
        max_length=256,
        help_text=gettext_lazy("Of the same tenant, exactly as LiteLLM names the user."),
        widget=UnfoldAdminTextInputWidget(attrs={"autocomplete": "off", "spellcheck": "false"}),
    )


def _reassign(credential: OAuthCredential, actor: str, now: float, *, to: str) -> Result:
    reassign(tenant=credential.tenant, user_id=credential.user_id, to=to, actor=actor, now=now)
    return Result(
        text=_("%(name)s: it is the credential of %(to)s now.")
        % {"name": facts.name(credential), "to": to}
    )


REASSIGN = Act(
    name="reassign",
    permission="reassign",
    title=gettext_lazy("Reassign owner"),
    icon="person_edit",
    further=True,
    dangerous=True,
    button=lambda n: (
        ngettext("Give away %(n)d credential", "Give away %(n)d credentials", n) % {"n": n}
    ),
    question=lambda n: _("Give this credential to another user?"),
    means=gettext_lazy(
        "From the next request on the new user works with this person's Claude login, and whoever "
        "asks under the old id is refused: for a login that is stored under the wrong id. The new "
        "user must have no credential, not even a revoked one. The tokens stay: one that was "
        "handed out before lives to its own end, and counts as the new user's where it is "
        "presented directly; to be sure of it, rotate afterwards. History, hand-outs and settings "
        "of its own go along. The audit trail has it under both names."
    ),
    effect=lambda credential, now: _("Nothing is handed out under this id any more."),
    refusal=obstacles.to_reassign,
    perform=one_by_one(_reassign),
    form=NewOwnerForm,
)
