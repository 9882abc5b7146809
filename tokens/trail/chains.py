"""One chain for each tenant, named by the tenant's id; and chain 0, of acts of no tenant."""

from contextlib import AbstractContextManager

from django.db import DatabaseError
from django.db.models import BigIntegerField, Q, QuerySet
from django.db.models.functions import Cast

from tokens import isolation
from tokens.models import AuditEvent

# Numbers of a thousand digits, a thousand brackets, text that is none: what Python or the
# database's client makes of it.
UNREADABLE = (ValueError, TypeError, OverflowError, RecursionError, DatabaseError)

# Constraints say the same (migration 0009), and whoever owns the tables can drop them. SQLite
# stores a text or a fraction in a column of whole numbers: those are equal to no whole number.
RECORD_HAS_A_CHAIN = Q(tenant_id=None) | Q(
    tenant_id__gt=0, tenant_id=Cast("tenant_id", BigIntegerField())
)
BATCH_HAS_A_CHAIN = Q(chain_id__gte=0, chain_id=Cast("chain_id", BigIntegerField()))


def records_of(chain_id: int) -> QuerySet[AuditEvent]:
    if chain_id:
        return AuditEvent.objects.filter(tenant_id=chain_id)
    return AuditEvent.objects.filter(tenant_id__isnull=True)


class Unreadable:
    """Stands in the place of a record's detail, where the record cannot be read. No JSON says
    it: so such a record has no digest."""

    def __str__(self) -> str:
        return "(cannot be read)"


def read(
    records: QuerySet[AuditEvent], *, each_of: QuerySet[AuditEvent] | None = None
) -> list[AuditEvent]:
    """These records. One that was made so that it cannot be read stands there by its id, time
    and batch alone. ``each_of``: where it is then looked for, one after the other."""
    try:
        found = list(records)
    except UNREADABLE:
        rows = AuditEvent.objects.all() if each_of is None else each_of
        names = records.values_list("pk", "at", "batch_id")
        found = [each for name in names if (each := _read_one(rows, *name)) is not None]
    return [
        each if _can_be_shown(each) else _stand_in(each.pk, each.at, each.batch_id)
        for each in found
    ]


def slug_in(chain_id: int) -> str:
    """The tenant's slug as the last record of its chain has it, or empty."""
    try:
        named = records_of(chain_id).exclude(tenant_slug="").order_by("-id")
        slug = named.values_list("tenant_slug", flat=True).first()
    except UNREADABLE:
        return ""
    return slug if isinstance(slug, str) else ""


def scope_of(chain_id: int) -> AbstractContextManager[None]:
    """At work for this chain's tenant. The acts of no tenant are the whole deployment's."""
    return isolation.of(chain_id) if chain_id else isolation.every_tenant()


def _read_one(
    rows: QuerySet[AuditEvent], pk: int, at: float, batch_id: int | None
) -> AuditEvent | None:
    try:
        return rows.filter(pk=pk).first()
    except UNREADABLE:
        return _stand_in(pk, at, batch_id)


def _can_be_shown(event: AuditEvent) -> bool:
    """SQLite gives back bytes where a text should be, and a text where a number should be."""
    texts = (event.tenant_slug, event.actor, event.action, event.subject, event.outcome,
             event.address, event.request_id, event.digest)  # fmt: skip
    return (
        all(isinstance(text, str) for text in texts)
        and isinstance(event.at, float | int)
        and (event.tenant_id is None or isinstance(event.tenant_id, int))
    )


def _stand_in(pk: int, at: float, batch_id: int | None) -> AuditEvent:
    return AuditEvent(pk=pk, at=at, batch_id=batch_id, action="unreadable", detail=Unreadable())
