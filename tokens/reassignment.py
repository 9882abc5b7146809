"""A credential is given to another user of its tenant: somebody's id has changed, or a login was
stored under the wrong one.

Nothing is sealed again: a token is sealed for its tenant and its row (`tokens.sealing`), and both
stay what they are, with the ledger, the refreshes and the hand-outs of the row. Only whose it is
changes. Whoever asks under the old id finds nothing from then on; keys of that user too.
"""

from django.conf import settings
from django.db import IntegrityError, transaction

from tokens import audit, isolation, user_ids
from tokens.errors import AlreadyStored, NoToken, Quarantined, RefreshInProgress, TenantSuspended
from tokens.models import UNSETTLED, OAuthCredential, RefreshAttempt, Standing, Tenant

_HELD = (
    "something is stored for that user already: revoked or not, its record and its history stay "
    "under their id"
)


@isolation.of_its_tenant
def reassign(*, tenant: Tenant, user_id: str, to: str, actor: str, now: float) -> OAuthCredential:
    """Give the credential of ``user_id`` to the user ``to``, who has none.

    ``generation`` rises, although the tokens stay the same: a refresh that was about to be
    claimed for the old user finds another one and claims nothing. One that is claimed already, or
    whose answer is not known, has to end first, or its new pair would have no home. Its own
    refresh settings and a suspension go with the credential.

    Raises BadUserId, NoToken, AlreadyStored, RefreshInProgress, Quarantined or TenantSuspended,
    and then nothing has changed.
    """
    user_ids.check_new(to, tenant=tenant)
    if tenant.suspended_at is not None:
        raise TenantSuspended("This tenant is suspended.")
    try:
        with transaction.atomic():
            return _give(tenant, user_id, to, actor=actor, now=now)
    except IntegrityError:
        # Something was stored for them in the same moment.
        raise AlreadyStored(_HELD) from None


def _give(tenant: Tenant, user_id: str, to: str, *, actor: str, now: float) -> OAuthCredential:
    rows = OAuthCredential.objects.for_tenant(tenant)
    credential = (
        rows.select_for_update(of=("self",))
        .filter(user_id=user_id)
        .exclude(standing=Standing.REVOKED)
        .first()
    )
    if credential is None:
        raise NoToken("No OAuth token found")
    if rows.filter(user_id=to).exists():
        raise AlreadyStored(_HELD)
    if credential.standing == Standing.QUARANTINED:
        raise Quarantined("It is quarantined: release it first.")
    _refuse_while_unanswered(credential, now=now)
    credential.user_id = to
    credential.generation += 1
    credential.save(update_fields=["user_id", "generation", "updated_at"])
    # Under both names: whoever looks for either finds what became of it.
    audit.record(
        tenant=tenant, actor=actor, action="reassign", subject=user_id, now=now, given_to=to
    )
    audit.record(
        tenant=tenant, actor=actor, action="reassign", subject=to, now=now, taken_from=user_id
    )
    return credential


def _refuse_while_unanswered(credential: OAuthCredential, *, now: float) -> None:
    if credential.lease_in_force(now=now):
        raise RefreshInProgress(
            "A refresh of it is under way; try again in a moment.",
            retry_after=settings.REFRESH_LEASE,
        )
    unsettled = RefreshAttempt.objects.filter(
        UNSETTLED, tenant_id=credential.tenant_id, credential=credential
    )
    if credential.unanswered_presentations or unsettled.exists():
        raise RefreshInProgress(
            "The answer to its last refresh is not known yet, and may still come home. Wait for "
            "the next refresh, or for a new login."
        )
