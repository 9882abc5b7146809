"""What an operator does to credentials: new tokens now, an end to them, a pause.

Automatic refresh, a new data key, another owner and the export have rooms of their own.
"""

from collections.abc import Sequence

from django.contrib import messages
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext
from kombu.exceptions import KombuError

from tokens import obstacles, vault
from tokens.admin.acts import HERE, Act, Result, one_by_one
from tokens.admin.facts import name as _name
from tokens.admin.times import distance, exact
from tokens.models import Cause, JobAct, OAuthCredential
from tokens.tasks import refresh_credentials

# How many are refreshed in this very request when no worker can be told.
_HERE_AT_MOST = 3


def _request_refresh(
    credentials: Sequence[OAuthCredential], actor: str, now: float
) -> list[Result]:
    """Hand each to a worker. If none can be told, do a few here, and say so of the rest."""
    results, here = [], 0
    for credential in credentials:
        due = (credential.tenant_id, credential.pk, credential.generation)
        name = _name(credential)
        try:
            refresh_credentials.apply_async(args=([due], Cause.DEMAND.value, actor), retry=False)
        except (KombuError, OSError):
            if here >= _HERE_AT_MOST:
                text = _("%(name)s: not asked for; the message broker cannot be reached.")
                results.append(Result(text=text % {"name": name}, level=messages.ERROR))
                continue
            here += 1
            refresh_credentials([due], Cause.DEMAND.value, actor)
            results.append(_after_refresh_here(credential, name))
        else:
            text = _("%(name)s: the refresh is on its way; the timeline will show how it ends.")
            results.append(Result(text=text % {"name": name}))
    return results


def _after_refresh_here(credential: OAuthCredential, name: str) -> Result:
    generation = (
        OAuthCredential.objects.filter(pk=credential.pk).values_list("generation", flat=True).get()
    )
    if generation > credential.generation:
        return Result(text=_("%(name)s: refreshed.") % {"name": name})
    text = _("%(name)s: tried, without a new token; its page says why.")
    return Result(text=text % {"name": name}, level=messages.WARNING)


def _refresh_effect(credential: OAuthCredential, now: float) -> str:
    return _("A new token pair is asked for; until it is there, the present token serves.")


def _revoke(credential: OAuthCredential, actor: str, now: float) -> Result:
    done = vault.revoke(tenant=credential.tenant, user_id=credential.user_id, actor=actor, now=now)
    upstream = {
        "revoked": _("The authorization server has revoked it as well."),
        "not_configured": _(
            "The authorization server was not told: no revocation address is configured."
        ),
        "failed": _("The authorization server was told, and did not agree."),
    }[done.upstream]
    lives = (
        _("A token handed out before may work until %(exact)s (%(distance)s).")
        % {"exact": exact(done.lives_until), "distance": distance(done.lives_until, now=now)}
        if done.lives_until > now
        else _("No token handed out before is alive.")
    )
    return Result(
        text=f"{_('%(name)s: revoked.') % {'name': _name(credential)}} {upstream} {lives}",
        level=messages.WARNING if done.upstream == "failed" else messages.SUCCESS,
    )


def _revoke_effect(credential: OAuthCredential, now: float) -> str:
    if credential.expires_at > now:
        return _(
            "Nothing more is handed out; tokens handed out before may live until %(exact)s."
        ) % {"exact": exact(credential.expires_at)}
    return _("Nothing more is handed out.")


def _suspend(credential: OAuthCredential, actor: str, now: float) -> Result:
    vault.suspend(tenant=credential.tenant, user_id=credential.user_id, actor=actor, now=now)
    return Result(text=_("%(name)s: suspended.") % {"name": _name(credential)})


def _resume(credential: OAuthCredential, actor: str, now: float) -> Result:
    vault.resume(tenant=credential.tenant, user_id=credential.user_id, actor=actor, now=now)
    return Result(text=_("%(name)s: resumed.") % {"name": _name(credential)})


REFRESH = Act(
    name="refresh",
    permission="refresh",
    title=gettext_lazy("Refresh now"),
    icon="sync",
    button=lambda n: (
        ngettext("Refresh %(n)d credential", "Refresh %(n)d credentials", n) % {"n": n}
    ),
    question=lambda n: (
        ngettext("Refresh this credential now?", "Refresh these %(n)d credentials now?", n)
        % {"n": n}
    ),
    means=gettext_lazy(
        "The vault asks the authorization server for new tokens before they are due. It takes "
        "a few seconds, in the background; one refresh under way serves all who ask."
    ),
    effect=_refresh_effect,
    refusal=obstacles.to_refresh,
    perform=_request_refresh,
    goes_on=True,
    most=HERE,
    job=JobAct.REFRESH,
)
ROTATE = Act(
    name="rotate",
    permission="rotate",
    title=gettext_lazy("Rotate tokens"),
    icon="autorenew",
    button=lambda n: ngettext("Rotate %(n)d token pair", "Rotate %(n)d token pairs", n) % {"n": n},
    question=lambda n: (
        ngettext(
            "Replace the token pair of this credential?",
            "Replace the token pairs of these %(n)d credentials?",
            n,
        )
        % {"n": n}
    ),
    means=gettext_lazy(
        "Rotation obtains a new pair of access and refresh token now, by a refresh: the old "
        "refresh token is spent by it and opens nothing any more. An access token that was "
        "handed out before keeps working until its own end; to stop it sooner, revoke."
    ),
    effect=lambda credential, now: (
        _("A new pair replaces generation %(generation)d; the old refresh token is spent.")
        % {"generation": credential.generation}
    ),
    refusal=obstacles.to_refresh,
    perform=_request_refresh,
    goes_on=True,
    most=HERE,
    job=JobAct.ROTATE,
)
REVOKE = Act(
    name="revoke",
    permission="revoke",
    title=gettext_lazy("Revoke"),
    icon="block",
    dangerous=True,
    many_need_proof=True,
    button=lambda n: ngettext("Revoke %(n)d credential", "Revoke %(n)d credentials", n) % {"n": n},
    question=lambda n: (
        ngettext("Cut this person off?", "Cut these %(n)d people off?", n) % {"n": n}
    ),
    means=gettext_lazy(
        "The sealed tokens are destroyed, and nothing brings them back: afterwards the person "
        "works again only with a new login. The record and its history stay. A token that was "
        "handed out before cannot be called back from here and may live until its own end."
    ),
    effect=_revoke_effect,
    refusal=obstacles.to_revoke,
    perform=one_by_one(_revoke),
    most=HERE,
    job=JobAct.REVOKE,
)
SUSPEND = Act(
    name="suspend",
    permission="suspend",
    title=gettext_lazy("Suspend"),
    icon="pause",
    button=lambda n: (
        ngettext("Suspend %(n)d credential", "Suspend %(n)d credentials", n) % {"n": n}
    ),
    question=lambda n: (
        ngettext("Suspend this credential?", "Suspend these %(n)d credentials?", n) % {"n": n}
    ),
    means=gettext_lazy(
        "While suspended, nothing is handed out and nothing is refreshed. Nothing is lost by "
        "it, and resuming ends it; but a login that is left for weeks may reach its end."
    ),
    effect=lambda credential, now: _("Nothing is handed out or refreshed until it is resumed."),
    refusal=obstacles.to_suspend,
    perform=one_by_one(_suspend),
    most=HERE,
    job=JobAct.SUSPEND,
)
RESUME = Act(
    name="resume",
    permission="suspend",
    title=gettext_lazy("Resume"),
    icon="play_arrow",
    button=lambda n: ngettext("Resume %(n)d credential", "Resume %(n)d credentials", n) % {"n": n},
    question=lambda n: (
        ngettext("Resume this credential?", "Resume these %(n)d credentials?", n) % {"n": n}
    ),
    means=gettext_lazy("Tokens are handed out and refreshed again, at once."),
    effect=lambda credential, now: _("Works again, if its login is still alive."),
    refusal=obstacles.to_resume,
    perform=one_by_one(_resume),
    most=HERE,
    job=JobAct.RESUME,
)
