"""The audit trail as lines of JSON, oldest first, a page at a time."""

import math
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime

from django.db import transaction
from django.db.models import Q, QuerySet, Value

from tokens import audit, isolation
from tokens.models import AuditEvent, Tenant
from tokens.printable import printable_json
from tokens.trail.chains import Unreadable, read, records_of, scope_of

_PAGE = 500


def lines(
    chains: Sequence[int], *, since: float | None = None, until: float | None = None
) -> Iterator[str]:
    """Every record of these chains from ``since`` to before ``until`` (Unix seconds), each as
    one line that ends; one chain after the other."""
    for chain_id in chains:
        with scope_of(chain_id):
            events = records_of(chain_id)
        if since is not None:
            events = events.filter(at__gte=since)
        if until is not None:
            events = events.filter(at__lt=until)
        after: AuditEvent | None = None
        while True:
            # Around each page, not around the whole: whoever reads has a scope of their own.
            with scope_of(chain_id):
                rows = page(events, after=after)
            if not rows:
                break
            after = rows[-1]
            for event in rows:
                yield line(event)


def page(events: QuerySet[AuditEvent], *, after: AuditEvent | None) -> list[AuditEvent]:
    """The next of these events, oldest first. Served by the index `audit_recent`."""
    events = events.select_related("batch").defer("batch__records").order_by("at", "pk")
    following = events
    if after is not None:
        # SQLite sorts a text, or bytes, behind all numbers; Django would not ask for it.
        at = after.at if isinstance(after.at, float | int) else Value(after.at)
        # By the time alone first: an index goes on from there, where an OR has it begin anew.
        following = events.filter(at__gte=at).filter(Q(at__gt=at) | Q(pk__gt=after.pk))
    return read(following[:_PAGE], each_of=events)


def note(events: QuerySet[AuditEvent], *, asked: Mapping[str, str], actor: str, now: float) -> None:
    """Write down that somebody takes away these ``events``, which ``asked`` has found: for each
    tenant whose records are among them, or once for the deployment where they may be everybody's.

    For no other tenant: what was asked for names people of those whose records it finds.
    """
    tenant_ids = isolation.current().tenant_ids
    told = {name: value[:200] for name, value in sorted(asked.items())}
    tenants: list[Tenant | None] = [None]
    if tenant_ids is not None:
        tenants = [
            tenant
            for tenant in Tenant.objects.filter(pk__in=tenant_ids).order_by("pk")
            if events.filter(tenant_id=tenant.pk).exists()
        ]
    with transaction.atomic():
        for tenant in tenants:
            audit.record(tenant=tenant, actor=actor, action="export_audit", now=now, asked=told)


def line(event: AuditEvent) -> str:
    """One record, with what ties it to its chain; and of one that cannot be read where it is."""
    told: dict[str, object] = {"id": event.pk}
    if isinstance(event.detail, Unreadable):
        return _in_json(told | {"time": _time(event.at), "unreadable": True})
    batch = event.batch
    return _in_json(
        told
        | {
            "tenant": event.tenant_slug or None,
            "tenant_id": event.tenant_id,
            "at": event.at if math.isfinite(event.at) else None,
            "time": _time(event.at),
            "actor": event.actor,
            "action": event.action,
            "subject": event.subject,
            "outcome": event.outcome,
            "address": event.address,
            "request_id": event.request_id,
            "detail": event.detail,
            "digest": event.digest or None,
            "batch": batch.number if batch is not None else None,
        }
    )


def _in_json(told: dict[str, object]) -> str:
    return printable_json(told) + "\n"


def _time(at: float) -> str | None:
    """None for what is no time: only a forged record says it."""
    try:
        return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")
    except (ValueError, TypeError, OverflowError, OSError):
        return None
