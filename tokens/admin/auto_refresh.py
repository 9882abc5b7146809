"""To suspend and to resume the automatic refresh of credentials."""

from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from tokens import obstacles, own_settings
from tokens.admin import facts
from tokens.admin.acts import HERE, Act, Result, one_by_one
from tokens.admin.times import exact
from tokens.models import JobAct, OAuthCredential


def _suspend_auto_refresh(credential: OAuthCredential, actor: str, now: float) -> Result:
    own_settings.suspend_auto_refresh(
        tenant=credential.tenant, user_id=credential.user_id, actor=actor, now=now
    )
    return Result(text=_("%(name)s: no longer refreshed ahead.") % {"name": facts.name(credential)})


def _suspend_auto_refresh_effect(credential: OAuthCredential, now: float) -> str:
    return _("Works until its access token ends, %(exact)s, unless it is refreshed by hand.") % {
        "exact": exact(credential.expires_at)
    }


def _resume_auto_refresh(credential: OAuthCredential, actor: str, now: float) -> Result:
    own_settings.resume_auto_refresh(
        tenant=credential.tenant, user_id=credential.user_id, actor=actor, now=now
    )
    return Result(text=_("%(name)s: refreshed ahead again.") % {"name": facts.name(credential)})


def _resume_auto_refresh_effect(credential: OAuthCredential, now: float) -> str:
    if not credential.tenant.refreshes_ahead:
        return _("Its own switch is on again; its tenant's, or the deployment's, stays off.")
    return _("Refreshed before its access token ends, as its tenant is set.")


SUSPEND_AUTO_REFRESH = Act(
    name="suspend_auto_refresh",
    permission="pause",
    title=gettext_lazy("Suspend automatic refresh"),
    icon="sync_disabled",
    further=True,
    button=lambda n: (
        ngettext(
            "Suspend automatic refresh of %(n)d credential",
            "Suspend automatic refresh of %(n)d credentials",
            n,
        )
        % {"n": n}
    ),
    question=lambda n: (
        ngettext(
            "No longer refresh this credential ahead?",
            "No longer refresh these %(n)d credentials ahead?",
            n,
        )
        % {"n": n}
    ),
    means=gettext_lazy(
        "The access token is handed out until its end, and after that requests are refused: only "
        "“Refresh now” brings another one. A login that nobody refreshes for weeks may reach its "
        "end. To stop the hand-outs as well, suspend the credential."
    ),
    effect=_suspend_auto_refresh_effect,
    refusal=obstacles.to_suspend_auto_refresh,
    perform=one_by_one(_suspend_auto_refresh),
    most=HERE,
    job=JobAct.SUSPEND_AUTO_REFRESH,
)
RESUME_AUTO_REFRESH = Act(
    name="resume_auto_refresh",
    permission="pause",
    title=gettext_lazy("Resume automatic refresh"),
    icon="sync",
    further=True,
    button=lambda n: (
        ngettext(
            "Resume automatic refresh of %(n)d credential",
            "Resume automatic refresh of %(n)d credentials",
            n,
        )
        % {"n": n}
    ),
    question=lambda n: (
        ngettext(
            "Refresh this credential ahead again?",
            "Refresh these %(n)d credentials ahead again?",
            n,
        )
        % {"n": n}
    ),
    means=gettext_lazy(
        "Its own switch is taken back, so that it is refreshed as its tenant is set. What is due "
        "by now is refreshed within half a minute."
    ),
    effect=_resume_auto_refresh_effect,
    refusal=obstacles.to_resume_auto_refresh,
    perform=one_by_one(_resume_auto_refresh),
    most=HERE,
    job=JobAct.RESUME_AUTO_REFRESH,
)
