"""Records of the audit trail that are old enough are dropped, in whole batches.

The batch stays, without its list, so the chain goes on through it; and it says under the
vault's own key that it was the vault that dropped it. The database lets records go for no
other reason (migration 0005).
"""

import logging
import time

from django.db import transaction

from tokens import isolation
from tokens.models import AuditBatch, AuditChain
from tokens.trail import digests
from tokens.trail.chains import read, records_of, scope_of
from tokens.trail.check import check_batch

logger = logging.getLogger(__name__)

_PAGE = 20


def drop_old(*, before: float, now: float, until: float) -> bool:
    """Drop the batches whose newest record is older than ``before`` (Unix seconds), chain by
    chain. False if time was up first: ``until``, of the monotonic clock."""
    with isolation.every_tenant():
        chains = list(AuditChain.objects.order_by("pk").values_list("pk", flat=True))
    return all(_drop_quietly(chain_id, before=before, now=now, until=until) for chain_id in chains)


def _drop_quietly(chain_id: int, *, before: float, now: float, until: float) -> bool:
    """One chain that cannot be read keeps its records, and no other chain its own."""
    try:
        with scope_of(chain_id):
            return _drop_in(chain_id, before=before, now=now, until=until)
    except Exception:
        logger.exception("audit chain %s: what is old could not be dropped", chain_id)
        return True


def _drop_in(chain_id: int, *, before: float, now: float, until: float) -> bool:
    old = AuditBatch.objects.filter(chain_id=chain_id, dropped_at=None, newest_at__lt=before)
    following = old = old.order_by("number")
    while time.monotonic() < until:
        page = list(following[:_PAGE])
        if not page:
            return True
        for batch in page:
            _drop(batch, now=now)
        following = old.filter(number__gt=page[-1].number)
    return False


def _drop(batch: AuditBatch, *, now: float) -> None:
    """Not one in which something is wrong: that would be the end of the trace. Nor while
    something as old as it still waits to be sealed: what shows up after it is a copy then."""
    with transaction.atomic():
        # Held from here on: the database lets no record into a batch that is being dropped.
        held = AuditBatch.objects.select_for_update().filter(pk=batch.pk, dropped_at=None).first()
        if held is None:
            return  # Another process has dropped it.
        batch = held
        if records_of(batch.chain_id).filter(batch=None, at__lte=batch.newest_at).exists():
            return  # The next sweep seals it.
        events = records_of(batch.chain_id).filter(batch=batch)
        if findings := check_batch(batch, read(events)):
            logger.error(
                "batch %s of audit chain %s is old enough to be dropped, and is kept: %s",
                batch.number, batch.chain_id, findings[0],
            )  # fmt: skip
            return
        batch.dropped_at = float(now)
        AuditBatch.objects.filter(pk=batch.pk, dropped_at=None).update(
            dropped_at=batch.dropped_at, drop_digest=digests.of_dropping(batch), records=[]
        )
        events.delete()
