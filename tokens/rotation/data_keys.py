"""A new data key for a tenant, and its credentials sealed again under it.

The new key seals from the moment it is there; the old ones open what they sealed until their
rows have moved, a batch at a time. A row that changes meanwhile is left to who changed it,
and looked at again.
"""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from django.db import transaction
from django.db.models import QuerySet

from tokens import audit, isolation, sealing
from tokens.errors import EncryptionError, NoToken, RefreshInProgress
from tokens.keyring import data_key_opens, new_data_key, sealing_key
from tokens.models import DataKey, OAuthCredential, Tenant
from tokens.rotation.old_keys import OldKey, destroy_unneeded

logger = logging.getLogger(__name__)

# Rows of one transaction: a refresh that wants one of them waits that long.
_PAGE = 50
# Looks at all of a tenant's rows. What others seal under an old key meanwhile, and what does
# not open, is left to the next call.
_PASSES = 5
# Seconds after which a row that does not open is spoken of again: the sweep meets it each time.
_SAY_AGAIN = 86_400.0

_said: dict[int, float] = {}


@dataclass(frozen=True, kw_only=True)
class Rotation:
    """What one call did. ``key_id``: of the key that seals now, empty where there is none yet;
    ``is_new``: made by this call, and not by an unfinished one before. ``left``: credentials
    that are still sealed under an older key. Of these ``damaged`` do not open; the others were
    saved a moment ago, by refreshes that began before it was replaced."""

    key_id: str
    is_new: bool
    resealed: int
    left: int
    damaged: int
    old_keys: list[OldKey]


@isolation.of_its_tenant
def rotate_data_key(
    *,
    tenant: Tenant,
    actor: str,
    now: float,
    replacing: str | None = None,
    each: Callable[[], None] = lambda: None,
) -> Rotation:
    """Give the tenant a new data key, and seal its credentials again under it.

    Where an earlier rotation is unfinished it is finished, and no further key is made. Nor
    is one if the key that seals is not ``replacing`` any more: the message that asks for a
    rotation may come twice. ``each`` is called for every credential (a progress bar).
    """
    is_new = _make_new_key(tenant, actor, now, replacing)
    return _finish(tenant, actor=actor, now=now, is_new=is_new, most=None, each=each)


@isolation.of_its_tenant
def begin_rotation(*, tenant: Tenant, actor: str, now: float, replacing: str) -> bool:
    """The first step of `rotate_data_key` alone: a new key seals from now on. Whoever finishes it
    (that, or the sweep) seals again what is there. False: no key was made, for the reasons there.
    """
    return _make_new_key(tenant, actor, now, replacing)


@isolation.of_its_tenant
def finish_rotation(*, tenant: Tenant, actor: str, now: float, most: int) -> Rotation:
    """Go on with what an earlier call has left: ``most`` credentials, and the old keys. Part
    of every sweep."""
    return _finish(tenant, actor=actor, now=now, is_new=False, most=most, each=lambda: None)


@isolation.of_its_tenant
def reseal(*, tenant: Tenant, user_id: str, replacing: str, actor: str, now: float) -> bool:
    """Seal one credential again, under a data key that is not ``replacing``.

    A data key is its tenant's: where ``replacing`` seals still, a new one is made for the whole
    tenant, and the sweep sees to its other credentials. Of a rotation that is unfinished the
    key is taken, and no further one is made. False: it is under the key that seals already.
    NoToken if nothing is stored, EncryptionError if it does not open.
    """
    _make_new_key(tenant, actor, now, replacing)
    for _ in range(_PASSES):
        credential = (
            OAuthCredential.objects.for_tenant(tenant)
            .filter(user_id=user_id)
            .exclude(data_key=None)
            .select_related("tenant", "data_key")
            .first()
        )
        if credential is None or credential.data_key is None:
            raise NoToken("No OAuth token found")
        if credential.data_key.retired_at is None:
            return False
        moved, damaged = _reseal([credential], tenant)
        if damaged:
            raise EncryptionError("What is sealed in it does not open.")
        if moved:
            audit.record(
                tenant=tenant, actor=actor, action="reseal", subject=user_id, now=now,
                replaces=credential.data_key.key_id,
            )  # fmt: skip
            return True
    raise RefreshInProgress("It has changed again and again meanwhile.", retry_after=2)


def unfinished() -> "QuerySet[Tenant]":
    """Tenants that have a data key beside the one that seals."""
    return Tenant.objects.filter(
        pk__in=DataKey.objects.filter(retired_at__isnull=False).values("tenant_id")
    )


def under_older_keys(tenant: Tenant) -> "QuerySet[OAuthCredential]":
    """The tenant's credentials that are not sealed under its present data key."""
    return OAuthCredential.objects.for_tenant(tenant).filter(data_key__retired_at__isnull=False)


def present_key(tenant: Tenant) -> DataKey | None:
    """The data key that seals for the tenant; None: nothing was ever sealed for it."""
    return DataKey.objects.filter(tenant=tenant, retired_at=None).first()


def _make_new_key(tenant: Tenant, actor: str, now: float, replacing: str | None) -> bool:
    with transaction.atomic():
        # One at a time: of two who begin at once, the second finds the first one's rotation.
        Tenant.objects.select_for_update(no_key=True).get(pk=tenant.pk)
        before = present_key(tenant)
        # One that does not open seals nothing, not even the rest of an earlier rotation.
        if before is None or (data_key_opens(before) and _is_unfinished(tenant)):
            return False
        if replacing is not None and before.key_id != replacing:
            return False
        DataKey.objects.filter(tenant=tenant, pk=before.pk).update(
            retired_at=datetime.fromtimestamp(now, UTC)
        )
        made = new_data_key(tenant)
        audit.record(
            tenant=tenant, actor=actor, action="rotate_data_key", now=now,
            data_key=made.key_id, replaces=before.key_id,
        )  # fmt: skip
    return True


def _is_unfinished(tenant: Tenant) -> bool:
    """Whether there is anything to seal again. What does not open stays where it is for ever,
    and must not keep its tenant from a new key."""
    return any(sealing.opens(credential) for page in _pages(tenant) for credential in page)


def _finish(
    tenant: Tenant,
    *,
    actor: str,
    now: float,
    is_new: bool,
    most: int | None,
    each: Callable[[], None],
) -> Rotation:
    resealed, damaged = 0, 0
    before = present_key(tenant)
    # Under one that does not open nothing can be sealed; `rotate_data_key` puts another in its
    # place.
    opens = before is None or data_key_opens(before)
    for _ in range(_PASSES if opens else 0):
        room = None if most is None else most - resealed
        moved, damaged = _reseal_all(tenant, most=room, each=each)
        resealed += moved
        if not moved:
            break
    if resealed:
        audit.record(
            tenant=tenant, actor=actor, action="reseal", now=now, credentials=resealed
        )  # fmt: skip
    key = present_key(tenant)
    return Rotation(
        key_id=key.key_id if key is not None else "",
        is_new=is_new,
        resealed=resealed,
        left=under_older_keys(tenant).count(),
        damaged=damaged,
        old_keys=destroy_unneeded(tenant=tenant, actor=actor, now=now),
    )


def _reseal_all(tenant: Tenant, *, most: int | None, each: Callable[[], None]) -> tuple[int, int]:
    """One look at every row under an older key, ``most`` of them at the most: how many moved,
    and how many do not open."""
    done = damaged = seen = 0
    for page in _pages(tenant):
        if most is not None and seen >= most:
            break
        seen += len(page)
        moved, shut = _reseal(page, tenant)
        for _ in range(moved):
            each()
        done, damaged = done + moved, damaged + shut
    return done, damaged


def _pages(tenant: Tenant) -> Iterator[list[OAuthCredential]]:
    """The rows under older keys in batches, each read when it is asked for."""
    last = 0
    rows = under_older_keys(tenant).select_related("tenant", "data_key").order_by("pk")
    while page := list(rows.filter(pk__gt=last)[:_PAGE]):
        yield page
        last = page[-1].pk


def _reseal(page: Sequence[OAuthCredential], tenant: Tenant) -> tuple[int, int]:
    """Seal a batch again under the key that seals now: how many of it, and how many do not open."""
    # The key is read for each batch: another rotation may have made a newer one.
    under = sealing_key(tenant)
    pairs = []
    for credential in page:
        try:
            pairs.append((credential, sealing.seal_again(credential, under=under)))
        except EncryptionError as error:
            # It keeps its key, and stays what it is: an error, and no value.
            if _is_news(credential.pk):
                logger.error(
                    "credential %s of tenant %s cannot be sealed again: %s",
                    credential.pk, tenant.slug, error.detail,
                )  # fmt: skip
    with transaction.atomic():
        moved = sum(sealing.exchange(credential, pair) for credential, pair in pairs)
    return moved, len(page) - len(pairs)


def _is_news(credential_id: int) -> bool:
    now = time.monotonic()
    if now - _said.get(credential_id, -_SAY_AGAIN) < _SAY_AGAIN:
        return False
    _said[credential_id] = now
    return True
