"""To have credentials sealed again under a new data key of their tenants."""

from collections.abc import Sequence

from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from tokens import obstacles
from tokens.admin import facts
from tokens.admin.acts import HERE, Act, Result, one_by_one
from tokens.models import JobAct, OAuthCredential
from tokens.rotation.data_keys import present_key, reseal


def _reseal(credentials: Sequence[OAuthCredential], actor: str, now: float) -> list[Result]:
    """One new data key for each of the tenants concerned, whatever the number of rows."""
    replacing = {
        credential.tenant_id: key.key_id
        for credential in credentials
        if (key := present_key(credential.tenant)) is not None
    }

    def one(credential: OAuthCredential, actor: str, now: float) -> Result:
        reseal(
            tenant=credential.tenant, user_id=credential.user_id,
            replacing=replacing.get(credential.tenant_id, ""), actor=actor, now=now,
        )  # fmt: skip
        return Result(
            text=_("%(name)s: sealed under its tenant's new data key.")
            % {"name": facts.name(credential)}
        )

    return one_by_one(one)(credentials, actor, now)


def _reseal_effect(credential: OAuthCredential, now: float) -> str:
    return _("Sealed again, with all others of %(tenant)s behind it; its tokens stay.") % {
        "tenant": credential.tenant.slug
    }


RESEAL = Act(
    name="reseal",
    permission="reseal",
    title=gettext_lazy("Re-seal under a new data key"),
    icon="enhanced_encryption",
    further=True,
    button=lambda n: (
        ngettext("Re-seal %(n)d credential", "Re-seal %(n)d credentials", n) % {"n": n}
    ),
    question=lambda n: (
        ngettext(
            "Seal this credential under a new data key?",
            "Seal these %(n)d credentials under a new data key?",
            n,
        )
        % {"n": n}
    ),
    means=gettext_lazy(
        "A data key is its tenant's: a new one is made for each tenant concerned. These "
        "credentials are sealed under it first, and within minutes all others of the tenant; then "
        "the old key is destroyed. A tenant whose earlier rotation is unfinished is given no "
        "further key before its end. The tokens stay what they are, and nobody has to sign in "
        "again: to replace the tokens, rotate them. A backup that was made before still has the "
        "old key."
    ),
    effect=_reseal_effect,
    refusal=obstacles.to_reseal,
    perform=_reseal,
    most=HERE,
    job=JobAct.RESEAL,
)
