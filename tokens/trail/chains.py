"""One chain for each tenant, named by the tenant's id; and chain 0, of acts of no tenant."""

import math
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


def read(records: QuerySet[AuditEvent]) -> list[AuditEvent]:
    """These records. One that was made so that it cannot even be read stands there by its id
    and batch alone, with a time that no record of ours has: so it has no digest."""
    try:
        return list(records)
    except UNREADABLE:
        read = [_read_one(*names) for names in records.values_list("pk", "batch_id")]
        return [event for event in read if event is not None]


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


def _read_one(pk: int, batch_id: int | None) -> AuditEvent | None:
    try:
        return AuditEvent.objects.filter(pk=pk).first()
    except UNREADABLE:
        return AuditEvent(pk=pk, batch_id=batch_id, at=math.nan)
