"""KEK rotation: every wrapped key comes under the primary KEK. No token is opened by it."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from django.db import transaction
from django.db.models import Count, QuerySet

from tokens import audit, isolation
from tokens.encryption import Keyring
from tokens.errors import EncryptionError
from tokens.keyring import rewrapped, verify_keys
from tokens.models import DataKey, VaultKey

logger = logging.getLogger(__name__)

_PAGE = 100
# A key that another process makes meanwhile, or changes, is looked at again. Not for ever:
# two terminals with different primary keys would take it from each other.
_PASSES = 3

Row = TypeVar("Row", DataKey, VaultKey)


@dataclass(frozen=True, kw_only=True)
class KekUse:
    """One KEK at hand, and how many keys of the database open with it only."""

    kek_id: str
    is_primary: bool
    data_keys: int
    vault_keys: int

    @property
    def state(self) -> str:
        """primary, needed, or removable: nothing in this database needs it any more."""
        if self.is_primary:
            return "primary"
        return "needed" if self.data_keys + self.vault_keys else "removable"


def kek_uses(keyring: Keyring) -> list[KekUse]:
    """Every KEK at hand, the primary first, and whether it is still needed."""
    with isolation.every_tenant():
        data_keys = dict(DataKey.objects.order_by().values_list("kek_id").annotate(Count("pk")))
        vault_keys = dict(VaultKey.objects.order_by().values_list("kek_id").annotate(Count("pk")))
    return [
        KekUse(
            kek_id=kek_id,
            is_primary=kek_id == keyring.primary_id,
            data_keys=data_keys.get(kek_id, 0),
            vault_keys=vault_keys.get(kek_id, 0),
        )
        for kek_id in keyring.ids
    ]


def to_rewrap(keyring: Keyring) -> int:
    """How many keys are wrapped by another KEK than the primary one."""
    with isolation.every_tenant():
        return sum(
            kind.objects.exclude(kek_id=keyring.primary_id).count() for kind in (VaultKey, DataKey)
        )


def rewrap_all(
    keyring: Keyring, *, actor: str, now: float, each: Callable[[], None] = lambda: None
) -> int:
    """Wrap every key by the primary KEK; how many were wrapped anew.

    ConfigurationError, and nothing is changed, if a KEK is missing that a key needs. What
    is left then (`to_rewrap`) does not open, or is being changed by somebody else. ``each``
    is called for every key (a progress bar).
    """
    done = 0
    with isolation.every_tenant():
        verify_keys(keyring)
        for _ in range(_PASSES):
            before = done
            done += _rewrap_pages(VaultKey.objects.all(), keyring, actor, now, each)
            tenants_too = DataKey.objects.select_related("tenant")
            done += _rewrap_pages(tenants_too, keyring, actor, now, each)
            if done == before:
                break
    return done


def _rewrap_pages(
    rows: "QuerySet[Row]",
    keyring: Keyring,
    actor: str,
    now: float,
    each: Callable[[], None],
) -> int:
    done, last = 0, 0
    others = rows.exclude(kek_id=keyring.primary_id).order_by("pk")
    while page := list(others.filter(pk__gt=last)[:_PAGE]):
        last = page[-1].pk
        with transaction.atomic():
            moved = sum(_rewrap_one(row, keyring, actor, now) for row in page)
        for _ in range(moved):
            each()
        done += moved
    return done


def _rewrap_one(row: Row, keyring: Keyring, actor: str, now: float) -> bool:
    """False: it does not open, or it is wrapped otherwise by now."""
    try:
        wrapped = rewrapped(row, keyring)
    except EncryptionError as error:
        logger.error("key %s cannot be rewrapped: %s", row, error.detail)
        return False
    changed = (
        type(row)
        .objects.filter(pk=row.pk, wrapped=row.wrapped)
        .update(wrapped=wrapped, kek_id=keyring.primary_id)
    )
    if changed and isinstance(row, DataKey):
        audit.record(
            tenant=row.tenant,
            actor=actor,
            action="rewrap_data_key",
            now=now,
            data_key=row.key_id,
            **{"from": row.kek_id, "to": keyring.primary_id},
        )
    return bool(changed)
