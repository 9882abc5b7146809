"""A data key that was replaced: who still needs it, and its destruction.

It is destroyed when nothing can come any more that opens with it only: no row, no answer in
the spool, no refresh or import that began before it was retired. The foreign key of the rows
has the last word.
"""

import uuid
from dataclasses import dataclass
from datetime import UTC, datetime

from django.conf import settings
from django.db import IntegrityError, connection, transaction
from django.db.models import Q, QuerySet

from tokens import audit, epoch
from tokens.models import UNSETTLED, DataKey, OAuthCredential, RefreshAttempt, Tenant
from tokens.refresh import spool
from tokens.refresh.save import LAST_PATIENCE

# So many people are named where somebody must act.
_NAMED = 3


@dataclass(frozen=True, kw_only=True)
class OldKey:
    """``why``: who still needs it; None: it was destroyed."""

    key_id: str
    why: str | None


def grace() -> float:
    """Seconds from its retirement in which whatever began before may still seal under a key,
    and leaves no trace of it before: an import, a claim."""
    return float(settings.REFRESH_LEASE + settings.SPOOL_GRACE)


def destroy_unneeded(*, tenant: Tenant, actor: str, now: float) -> list[OldKey]:
    """Destroy the tenant's retired data keys that nothing needs; each with what became of it.

    Gone from the database, that is: a backup still has it, and a process that used it may
    remember it until it ends.
    """
    return [_destroy(key, tenant=tenant, actor=actor, now=now) for key in retired(tenant)]


def retired(tenant: Tenant) -> "QuerySet[DataKey]":
    """The tenant's data keys that were replaced, oldest first."""
    return DataKey.objects.filter(tenant=tenant, retired_at__isnull=False).order_by("pk")


def _destroy(key: DataKey, *, tenant: Tenant, actor: str, now: float) -> OldKey:
    why = why_needed(key, now=now)
    if why is None:
        try:
            with transaction.atomic():
                gone, _ = DataKey.objects.filter(
                    tenant=tenant, pk=key.pk, retired_at__isnull=False
                ).delete()
                if gone:
                    audit.record(
                        tenant=tenant, actor=actor, action="destroy_data_key", now=now,
                        data_key=key.key_id,
                    )  # fmt: skip
        except IntegrityError:
            # Its last moment, and one more row: the foreign key knows.
            why = "a credential was sealed under it a moment ago"
    return OldKey(key_id=key.key_id, why=why)


def why_needed(key: DataKey, *, now: float) -> str | None:
    """Who needs this retired data key, in words; None: nobody."""
    return _rows(key) or _spooled(key) or _fresh(key, now=now) or _unanswered(key, now=now)


def _rows(key: DataKey) -> str | None:
    rows = OAuthCredential.objects.filter(tenant_id=key.tenant_id, data_key=key).count()
    return f"{_counted(rows, 'credential is', 'credentials are')} sealed under it" if rows else None


def _spooled(key: DataKey) -> str | None:
    vault_id = epoch.vault_id()
    entries = spool.entries(vault_id)
    ours = sum(entry.data_key == key.pk for entry in entries)
    if ours:
        return f"{_counted(ours, 'answer', 'answers')} in the spool sealed under it"
    if spool.depth(vault_id) > len(entries):
        return "something lies in the spool that cannot be read"
    return None


def _fresh(key: DataKey, *, now: float) -> str | None:
    until = _retired_at(key) + grace()
    if until <= now:
        return None
    return (
        "a refresh or an import that began before it was replaced may still seal under it, until "
        f"{datetime.fromtimestamp(until, UTC):%Y-%m-%d %H:%M:%S} UTC"
    )


def _unanswered(key: DataKey, *, now: float) -> str | None:
    """Refreshes that were claimed under it, and whose answer was never saved.

    For a while any of them may be in somebody's memory. After that only one whose pair
    would still find its row may matter, and it lies in a spool: where there is one machine,
    that was seen to be empty.
    """
    attempts = RefreshAttempt.objects.filter(
        tenant_id=key.tenant_id, answer_saved=False, started_at__lt=_retired_at(key) + grace()
    )
    # So long may a process hold an answer that no place takes.
    held = Q(started_at__gt=now - settings.REFRESH_LEASE - LAST_PATIENCE)
    if not _one_spool(epoch.vault_id()):
        held |= UNSETTLED
    waiting = attempts.filter(held).order_by("credential__user_id")
    users = list(waiting.values_list("credential__user_id", flat=True).distinct()[: _NAMED + 1])
    if not users:
        return None
    named = ", ".join(users[:_NAMED]) + (", …" if len(users) > _NAMED else "")
    return (
        f"the answer to a refresh under it may still come home ({named}); "
        "a later refresh, a new login or a revocation settles that"
    )


def _one_spool(vault_id: uuid.UUID) -> bool:
    """Whether an answer of any process must have been seen, wherever it lies. With a Redis
    that did not take it for once, it may lie on another machine's disk."""
    return connection.vendor == "sqlite" and spool.sees_everything(vault_id)


def _retired_at(key: DataKey) -> float:
    return key.retired_at.timestamp() if key.retired_at is not None else float("inf")


def _counted(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"
