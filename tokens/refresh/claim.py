"""Claim: the right to present a refresh token, given to one at a time, and marked durably."""

import functools
import logging
import time
import uuid
from collections import Counter
from dataclasses import dataclass

from django.conf import settings
from django.db import DatabaseError, InterfaceError, connection, transaction
from django.db.models import Exists, F, FloatField, OuterRef, Q, Value
from django.db.models.functions import Cast

from tokens import clock, epoch, isolation, sealing
from tokens.encryption import Key
from tokens.errors import EncryptionError, RateLimited
from tokens.keyring import sealing_key, still_seals
from tokens.models import (
    Cause,
    DataKey,
    OAuthCredential,
    Outcome,
    RefreshAttempt,
    Standing,
    Tenant,
)
from tokens.refresh import gate, spool
from tokens.refresh.schedule import second_look, unless_switched_off
from tokens.refresh.set_back import cut_short
from tokens.secret import RefreshToken

logger = logging.getLogger(__name__)

# Seconds in which a credential is refreshed once at most because a 401 was reported.
REJECTION_FLOOR = 10.0
# New logins of one tenant, and presentations of one user, that may be refused upstream within
# so many seconds before no further new one is presented; and how many rows that is read from.
_FLOOD, _FLOOD_OF_ONE, _FLOOD_WINDOW = 50, 10, 600.0
_LOOKED_AT = 1000
_REFUSED_LOGINS = (Outcome.INVALID_GRANT, Outcome.INVALID_SCOPE, Outcome.UPSTREAM_ERROR)


@dataclass(frozen=True, kw_only=True)
class Claim:
    """The right to present one refresh token once, until the lease ends.

    ``generation`` is the one presented. ``claimed_at``: Unix seconds by the database's
    clock, and ``claimed_monotonic`` the same moment by this process's. ``unanswered_since``:
    when the presentation was that has no answer yet, if there is one.
    """

    credential: OAuthCredential
    generation: int
    refresh_token: RefreshToken
    seals_with: tuple[DataKey, Key]
    lease_id: uuid.UUID
    vault_id: uuid.UUID
    cause: Cause
    actor: str
    claimed_at: float
    claimed_monotonic: float
    is_probe: bool = False
    unanswered_since: float | None = None

    @property
    def is_last_chance(self) -> bool:
        """Whether the refresh token was presented once without an answer."""
        return self.unanswered_since is not None

    def moment(self) -> float:
        """Unix seconds by the database's clock, without asking a database that may be away."""
        return self.claimed_at + (time.monotonic() - self.claimed_monotonic)


def claim_credential(
    tenant_id: int,
    credential_id: int,
    cause: Cause,
    actor: str,
    generation: int | None,
    *,
    only_if_due: bool = False,
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
    now = clock.now()
    if credential.lease_was_set_ahead(now=now):
        cut_short(OAuthCredential.objects.filter(tenant_id=tenant_id, pk=credential_id), now=now)
        return None
    if credential.lease_in_force(now=now) or (only_if_due and not credential.is_due(now=now)):
        return None
    last_chance = credential.unanswered_presentations > 0
    unanswered_since = _unanswered_since(credential, now) if last_chance else None
    good_probe = functools.partial(_makes_a_good_probe, credential)
    gate.refuse_while_closed(now=now, good_probe=good_probe)
    refuse_a_flood(credential, now=now)
    least_epoch = epoch.verify(now=now)
    vault_id = epoch.vault_id()
    spool.refuse_unless_writable(vault_id)
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
    grace = 0.0
    if last_chance and not spool.sees_everything(vault_id):
        # The answer to the first presentation may be on its way home from a place that
        # cannot be seen from here.
        grace = settings.SPOOL_GRACE
    # A failure leaves the generation as it was: only the row's own time tells that it was tried.
    due = Q(refresh_due_at__lte=clock.DatabaseNow()) if only_if_due else Q()
    free_since = clock.DatabaseNow() - Value(grace, output_field=FloatField())
    lease_end = Cast(
        clock.DatabaseNow() + Value(settings.REFRESH_LEASE, output_field=FloatField()),
        FloatField(),
    )
    # Before the lease can begin: whatever delays its commit is taken from the time in which
    # the token may be sent, and not added to it.
    now, claimed_monotonic = clock.now(), time.monotonic()
    try:
        with transaction.atomic():
            claimed = OAuthCredential.objects.filter(
                due,
                Q(lease_until=None) | Q(lease_until__lte=free_since),
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
                lease_until=lease_end,
                taken_until=lease_end,
                unanswered_presentations=F("unanswered_presentations") + 1,
                # If this process dies, the sweep finds the credential after the lease.
                refresh_due_at=unless_switched_off(
                    second_look(now=now, expires_at=credential.expires_at)
                ),
            )
            if not claimed:
                return None
            # Retired since it was read, it could be destroyed before the answer comes home:
            # what may still need a key is judged by the attempts of before its retirement.
            if not still_seals(seals_with[0]):
                seals_with = sealing_key(credential.tenant)
            if cause == Cause.REJECTED:
                refuse_second_forced_refresh(credential, now=now)
            RefreshAttempt.objects.create(
                tenant_id=tenant_id,
                credential=credential,
                lease_id=lease_id,
                cause=cause,
                actor=actor[:200],
                generation=credential.generation,
                started_at=now,
            )
            # After the row, as everywhere: two that lock both must not cross.
            is_probe = gate.enter(now=now, good_probe=good_probe)
            risen = epoch.rise(least=least_epoch)
    except (DatabaseError, InterfaceError):
        connection.close()
        _withdraw(credential, lease_id)
        raise
    epoch.keep_outside(risen)
    return Claim(
        credential=credential,
        generation=credential.generation,
        refresh_token=refresh_token,
        seals_with=seals_with,
        lease_id=lease_id,
        vault_id=vault_id,
        cause=cause,
        actor=actor,
        claimed_at=now,
        claimed_monotonic=claimed_monotonic,
        is_probe=is_probe,
        unanswered_since=unanswered_since,
    )


def withdraw(claim: Claim) -> bool:
    """Give a claim back of which nothing was sent, as if it had never been; whether the
    database took it. Its lease may have passed on meanwhile."""
    with isolation.of(claim.credential.tenant_id):
        return _withdraw(claim.credential, claim.lease_id)


def _withdraw(credential: OAuthCredential, lease_id: uuid.UUID) -> bool:
    """Take back a claim whose commit may have gone through although we were told that it
    failed: nothing was sent for it, and it would count as a presentation."""
    planned = credential.refresh_due_at
    # Where nothing was and something is by now, it has been switched on again since.
    as_planned = {} if planned is None else {"refresh_due_at": unless_switched_off(planned)}
    try:
        with transaction.atomic():
            withdrawn = OAuthCredential.objects.filter(
                tenant_id=credential.tenant_id, pk=credential.pk, lease_id=lease_id
            ).update(
                lease_id=credential.lease_id,
                lease_until=credential.lease_until,
                taken_until=None,
                unanswered_presentations=F("unanswered_presentations") - 1,
                **as_planned,
            )
            was_there, _ = RefreshAttempt.objects.filter(
                tenant_id=credential.tenant_id, lease_id=lease_id
            ).delete()
            if was_there and not withdrawn:
                # Another one has claimed it since, and counts on a presentation of ours.
                OAuthCredential.objects.filter(
                    tenant_id=credential.tenant_id,
                    pk=credential.pk,
                    generation=credential.generation,
                    unanswered_presentations__gt=0,
                ).update(unanswered_presentations=F("unanswered_presentations") - 1)
    except (DatabaseError, InterfaceError):
        # It stays, and looks like one whose process died. The lease ends by itself.
        connection.close()
        return False
    return True


def refuse_a_flood(credential: OAuthCredential, *, now: float) -> None:
    """RateLimited for a login that was never refreshed here, where very many like it were
    refused upstream a moment ago: of this user, or of its tenant.

    Whoever may import could else have any number of made-up logins presented, until the
    authorization server closes its door to everybody. A login that has a refresh of ours
    behind it is not made up, and passes.
    """
    refused = Counter(
        RefreshAttempt.objects.filter(
            tenant_id=credential.tenant_id,
            started_at__gt=now - _FLOOD_WINDOW,
            outcome__in=_REFUSED_LOGINS,
        )
        .order_by()
        .values_list("credential_id", flat=True)[:_LOOKED_AT]
    )
    if refused[credential.pk] < _FLOOD_OF_ONE and len(refused) <= _FLOOD:
        return
    if not is_proven(credential):
        raise RateLimited(
            "Very many new logins of this user or tenant were refused by the authorization "
            "server within ten minutes; this one is tried when they are past.",
            retry_after=60.0,
        )


def is_proven(credential: OAuthCredential) -> bool:
    """Whether a refresh of ours brought the pair that is held: then it is not made up."""
    return RefreshAttempt.objects.filter(
        tenant_id=credential.tenant_id,
        credential=credential,
        generation=credential.generation - 1,
        outcome=Outcome.REFRESHED,
    ).exists()


def _makes_a_good_probe(credential: OAuthCredential) -> bool:
    """Not one whose next presentation is its last; nor one that may be made up, and would be
    what keeps the door closed for everybody."""
    return credential.unanswered_presentations == 0 and is_proven(credential)


def _unanswered_since(credential: OAuthCredential, now: float) -> float:
    first = (
        RefreshAttempt.objects.filter(
            tenant_id=credential.tenant_id,
            credential=credential,
            generation=credential.generation,
            outcome__in=(Outcome.IN_FLIGHT, Outcome.UNKNOWN),
        )
        .order_by("started_at")
        .values_list("started_at", flat=True)
        .first()
    )
    return min(now, first) if first is not None else now


def refuse_second_forced_refresh(credential: OAuthCredential, *, now: float) -> None:
    """RateLimited if a reported 401 has had this credential refreshed a moment ago.

    A 401 may have another cause than the token, and would then be reported after every
    refresh. Under the row's lock in a claim, so that no two processes both see none.
    """
    last = (
        RefreshAttempt.objects.filter(
            tenant_id=credential.tenant_id,
            credential=credential,
            cause=Cause.REJECTED,
            started_at__gt=now - REJECTION_FLOOR,
            # Later ones are of a clock that was set back.
            started_at__lt=now + REJECTION_FLOOR,
        )
        .exclude(outcome=Outcome.IN_FLIGHT)
        .first()
    )
    if last is not None:
        raise RateLimited(
            "This credential was refreshed for a reported 401 a moment ago; another refresh "
            "so soon would not help.",
            retry_after=max(1.0, last.started_at + REJECTION_FLOOR - now),
        )
