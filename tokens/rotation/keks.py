"""KEK rotation: every wrapped key comes under the primary KEK. No token is opened by it."""

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from django.db import transaction
from django.db.models import QuerySet

from tokens import audit, isolation
from tokens.encryption import Keyring
from tokens.errors import EncryptionError
from tokens.keyring import data_key_opens, keks_named, load_keyring, rewrapped, verify_keys
from tokens.models import DataKey, VaultKey
from tokens.wrapping import take_part, while_nobody_wraps

logger = logging.getLogger(__name__)

_PAGE = 100
# A key that another process makes meanwhile, or changes, is looked at again. Not for ever:
# two terminals with different primary keys would take it from each other.
_PASSES = 3

Row = TypeVar("Row", DataKey, VaultKey)


@dataclass(frozen=True, kw_only=True)
class KekUse:
    """One KEK at hand, and how many keys of the database open with it only. ``may_be_more``:
    somebody wraps a key at this moment that is not to be seen yet, and it may be by this one."""

    kek_id: str
    is_primary: bool
    data_keys: int
    vault_keys: int
    may_be_more: bool

    @property
    def state(self) -> str:
        """primary, needed, or removable: nothing in this database needs it any more."""
        if self.is_primary:
            return "primary"
        return "needed" if self.data_keys + self.vault_keys or self.may_be_more else "removable"


def kek_uses(keyring: Keyring) -> list[KekUse]:
    """Every KEK at hand, the primary first, and whether it is still needed."""
    with isolation.every_tenant(), while_nobody_wraps() as alone:
        data_keys, vault_keys = keks_named(DataKey), keks_named(VaultKey)
    return [
        KekUse(
            kek_id=kek_id,
            is_primary=kek_id == keyring.primary_id,
            data_keys=_naming(kek_id, data_keys),
            vault_keys=_naming(kek_id, vault_keys),
            may_be_more=not alone,
        )
        for kek_id in keyring.ids
    ]


def to_rewrap(keyring: Keyring) -> int:
    """How many keys are wrapped by another KEK than the primary one."""
    with isolation.every_tenant():
        of_the_vault = _others(VaultKey.objects.all(), keyring).count()
        return of_the_vault + _others(DataKey.objects.all(), keyring).count()


def is_unfinished(keyring: Keyring) -> bool:
    """Whether there is anything to rewrap. A data key that does not open stays under its KEK
    for as long as it is there, and must not keep the others from a new one."""
    with isolation.every_tenant():
        data_keys = _others(DataKey.objects.all(), keyring)
        return _others(VaultKey.objects.all(), keyring).exists() or any(
            data_key_opens(row) for row in data_keys.iterator()
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
    others = _others(rows, keyring).order_by("pk")
    while page := list(others.filter(pk__gt=last)[:_PAGE]):
        last = page[-1].pk
        with transaction.atomic():
            take_part()
            # Another process has put a newer one before it, and ours may be gone already.
            if load_keyring().primary_id != keyring.primary_id:
                return done
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
        whose = f" of tenant {row.tenant.slug}" if isinstance(row, DataKey) else ""
        logger.error("key %s%s cannot be rewrapped: %s", row, whose, error.detail)
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


def _others(rows: "QuerySet[Row]", keyring: Keyring) -> "QuerySet[Row]":
    """Those that are not wrapped by the primary KEK, or name another one in either place."""
    primary = keyring.primary_id
    return rows.exclude(kek_id=primary, wrapped__startswith=f"v1.{primary}.")


def _naming(kek_id: str, named: "Counter[tuple[str, str]]") -> int:
    """Keys that name this KEK in either place. Where the two differ nobody can tell which is
    right, and both are needed."""
    return sum(count for names, count in named.items() if kek_id in names)
