"""Claim: the right to present a refresh token, given to one at a time, and marked durably."""

import logging
import uuid
from dataclasses import dataclass

from django.conf import settings
from django.db import transaction
from django.db.models import Exists, F, FloatField, OuterRef, Q, Value
from django.db.models.functions import Cast

from tokens import clock, sealing
from tokens.encryption import Key
from tokens.errors import EncryptionError
from tokens.keyring import sealing_key
from tokens.models import (
    Cause,
    DataKey,
    OAuthCredential,
    RefreshAttempt,
    Standing,
    Tenant,
)
from tokens.refresh import gate
from tokens.secret import RefreshToken

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Claim:
    """The right to present one refresh token once, until the lease ends."""

    credential: OAuthCredential
    refresh_token: RefreshToken
    seals_with: tuple[DataKey, Key]
    lease_id: uuid.UUID
    cause: Cause
    actor: str


def claim_credential(
    tenant_id: int, credential_id: int, cause: Cause, actor: str, generation: int | None
) -> Claim | None:
    """One conditional UPDATE decides. It also proves that the store can be written, and
    marks the credential as in flight, before anything is spent."""
    credential = (
        OAuthCredential.objects.filter(tenant_id=tenant_id, pk=credential_id)
        .select_related("tenant", "data_key")
        .first()
    )
    if (
        credential is None
        or not credential.can_refresh()
        or credential.tenant.suspended_at is not None
        or (generation is not None and credential.generation != generation)
    ):
        return None
    # Both before the claim: what cannot be opened is not sent, what cannot be sealed
    # afterwards is not asked for.
    try:
        refresh_token = sealing.open_refresh_token(credential)
    except EncryptionError as error:
        logger.error(
            "the refresh token of credential %s of tenant %s does not open: %s",
            credential_id, tenant_id, error.detail,
        )  # fmt: skip
        raise
    seals_with = sealing_key(credential.tenant)
    lease_id = uuid.uuid4()
    lease = Value(settings.REFRESH_LEASE, output_field=FloatField())
    with transaction.atomic():
        now = clock.now()
        gate.refuse_while_closed(now)
        claimed = OAuthCredential.objects.filter(
            Q(lease_until=None) | Q(lease_until__lte=clock.DatabaseNow()),
            # No join: it would put the conditions on the row into a subquery, which is
            # not asked again after a wait for the row's lock.
            Exists(Tenant.objects.filter(pk=OuterRef("tenant_id"), suspended_at=None)),
            tenant_id=tenant_id,
            pk=credential_id,
            generation=credential.generation,
            standing=Standing.ACTIVE,
            suspended_at=None,
            unanswered_presentations=credential.unanswered_presentations,
        ).update(
            lease_id=lease_id,
            lease_until=Cast(clock.DatabaseNow() + lease, FloatField()),
            unanswered_presentations=F("unanswered_presentations") + 1,
            # If this process dies, the sweep finds the credential after the lease.
            refresh_due_at=int(now + settings.REFRESH_LEASE + 1),
        )
        if not claimed:
            return None
        RefreshAttempt.objects.create(
            tenant_id=tenant_id,
            credential=credential,
            lease_id=lease_id,
            cause=cause,
            actor=actor[:200],
            generation=credential.generation,
            started_at=now,
        )
    return Claim(
        credential=credential,
        refresh_token=refresh_token,
        seals_with=seals_with,
        lease_id=lease_id,
        cause=cause,
        actor=actor,
    )
