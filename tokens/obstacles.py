"""Whether an act can be done to a credential as it stands, and why not, in words.

Asked before an operator is asked, and once more before it is done: by the dashboard, and by
what is worked off behind it (`tokens.jobs`). What is read is what is in the row already.
"""

from django.utils.translation import gettext as _

from tokens.diagnosis import describe_obstacle
from tokens.models import OAuthCredential, Standing


def to_refresh(credential: OAuthCredential, now: float) -> str | None:
    if credential.can_refresh() and credential.tenant.suspended_at is None:
        return None
    if not credential.has_refresh_token and credential.standing != Standing.REVOKED:
        return _("There is no refresh token: it works until it expires and cannot be renewed.")
    if credential.tenant.suspended_at is not None and credential.standing != Standing.REVOKED:
        return _("The whole tenant is suspended. Resume it on the tenant's page.")
    return describe_obstacle(credential, now=now) or _("It cannot be refreshed as it stands.")


def to_revoke(credential: OAuthCredential, now: float) -> str | None:
    return _("It is revoked already.") if credential.standing == Standing.REVOKED else None


def to_suspend(credential: OAuthCredential, now: float) -> str | None:
    if credential.suspended_at is not None:
        return _("It is suspended already.")
    return to_revoke(credential, now)


def to_resume(credential: OAuthCredential, now: float) -> str | None:
    revoked = to_revoke(credential, now)
    if revoked is None and credential.suspended_at is None:
        return _("It is not suspended.")
    return revoked


def to_suspend_auto_refresh(credential: OAuthCredential, now: float) -> str | None:
    if credential.auto_refresh is False:
        return _("Its automatic refresh is suspended already.")
    if not credential.has_refresh_token and credential.standing != Standing.REVOKED:
        return _("There is no refresh token: nothing is refreshed automatically.")
    return _of_its_settings(credential, now)


def to_resume_auto_refresh(credential: OAuthCredential, now: float) -> str | None:
    if credential.auto_refresh is False:
        return _of_its_settings(credential, now)
    return to_revoke(credential, now) or _("Its automatic refresh is not suspended.")


def to_reseal(credential: OAuthCredential, now: float) -> str | None:
    return to_revoke(credential, now)


def to_reassign(credential: OAuthCredential, now: float) -> str | None:
    return _of_its_settings(credential, now)


def _of_its_settings(credential: OAuthCredential, now: float) -> str | None:
    revoked = to_revoke(credential, now)
    if revoked is None and credential.tenant.suspended_at is not None:
        return _("The whole tenant is suspended. Resume it on the tenant's page.")
    return revoked
