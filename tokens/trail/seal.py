"""Records become links of their chain: sealed in batches, behind the requests.

A record that commits after one with a higher id was sealed is in no batch yet, and goes
into the next: a batch takes what is unsealed, in the order of ids. Times are Unix seconds.
"""

import logging
import math
from collections.abc import Collection, Sequence

from django.db import transaction
from django.db.models import Min

from tokens import isolation, keyring
from tokens.models import AuditBatch, AuditChain, AuditEvent, Tenant
from tokens.trail import adoption, anchor, digests
from tokens.trail.anchor import Head
from tokens.trail.chains import RECORD_HAS_A_CHAIN, read, records_of, scope_of, slug_in

logger = logging.getLogger(__name__)

# Seconds that the oldest record of a chain waits; the others go with it.
AGE = 60.0
# Records of one batch, and chains of one sweep.
_MOST, _CHAINS = 500, 200

# When sealing failed here, by chain (Unix seconds).
_failed_at: dict[int, float] = {}

# What a batch lists of each record: id, digest, and a mark if there is something to say.
Entry = list[int | str]
# Written before there were chains; sealed as it was found.
ADOPTED = "adopted"
NOTHING_OLD = range(0)


def seal_due(*, now: float) -> int:
    """Seal a batch of each chain that has waited long enough. The number of batches."""
    return sum(seal_quietly(chain_id, now=now) for chain_id in _in_turn(due_chains(now=now)))


def due_chains(*, now: float) -> list[int]:
    """Chains with a record that is old enough to be sealed (0: the acts of no tenant), those
    first that have waited longest."""
    with isolation.every_tenant():
        waiting = AuditEvent.objects.filter(RECORD_HAS_A_CHAIN, batch=None, at__lte=now - AGE)
        by_tenant = waiting.values("tenant_id").annotate(oldest=Min("at")).order_by("oldest")
        return [each["tenant_id"] or 0 for each in by_tenant]


def seal_chain(chain_id: int, *, now: float) -> AuditBatch | None:
    """One batch of what is unsealed in this chain, or None if nothing is (or if its first
    head can be kept nowhere outside). Two at once make two batches, one after the other."""
    with scope_of(chain_id):
        if not AuditBatch.objects.filter(chain_id=chain_id).exists() and not anchor.begin(chain_id):
            return None
        with transaction.atomic():
            batch = _seal(chain_id, now=now)
        if batch is None:
            return None
        anchor.keep(chain_id, Head(batch.number, batch.digest))
    # For a log collector: a head that nobody with this database can take back.
    logger.info(
        "audit chain %s (%s): batch %s of %s record(s), digest %s",
        chain_id, batch.chain, batch.number, batch.count, batch.digest,
    )  # fmt: skip
    return batch


def entries(
    events: Sequence[AuditEvent], *, adopt: range, dropped_to: float = -math.inf
) -> list[Entry]:
    """What a batch lists of these records. Those that the vault did not write like this are
    marked, and sealed all the same: the trace of a forgery is not lost again. ``adopt``: the
    ids that records from before there were chains may have. ``dropped_to``: the time up to
    which no record of the vault's can still be unsealed."""
    copies = _copies(events)
    made: list[Entry] = []
    for event in events:
        computed = digest_or_none(event)
        # None is believed any more once one with a digest was among them.
        if event.digest or event.uid is not None or computed is None:
            adopt = NOTHING_OLD
        entry: Entry = [event.pk, (computed or "")[: digests.LISTED]]
        if event.pk in adopt:
            entry.append(ADOPTED)
        elif computed is None or event.digest != computed or event.pk in copies:
            entry.append(digests.FORGED)
        elif event.at <= dropped_to:
            entry.append(digests.REPLAYED)
        made.append(entry)
    return made


def digest_or_none(event: AuditEvent) -> str | None:
    """The digest of what the record says; None if it says what no record of ours can."""
    try:
        return digests.of_record(event)
    except (ValueError, TypeError, RecursionError):
        return None


def listed(batch: AuditBatch) -> list[Entry]:
    """Its list. Empty where something else stands in its place: `check_batch` says that."""
    return list(batch.records) if isinstance(batch.records, list) else []


def dropped_to(chain_id: int) -> float:
    """The time (Unix seconds) up to which every record of this chain was sealed before the last
    batch was dropped (`tokens.trail.drop` sees to that). What says an earlier time and is not
    sealed was put back by whoever has a copy: its digest fits, and its `uid` is free again."""
    batches = AuditBatch.objects.filter(chain_id=chain_id)
    kept = batches.filter(dropped_at=None).order_by("newest_at").values_list("number", flat=True)
    dropped = batches.exclude(dropped_at=None).order_by("-number")
    if (oldest_kept := kept.first()) is not None:
        dropped = dropped.filter(number__lt=oldest_kept)
    for batch in dropped[:_MOST]:
        # Not one that somebody made up: it would have whatever comes now called a copy.
        ours = digests.of_batch(batch) == batch.digest
        if ours and digests.of_dropping(batch) == batch.drop_digest:
            return batch.newest_at
    return -math.inf


def still_to_adopt(chain_id: int, last: AuditBatch | None) -> range:
    """The ids that records from before there were chains may have in the batch after ``last``.
    They come first in a chain, in the order of their ids; so what follows the last batch is all
    that is left of them, however long ago that batch was dropped."""
    highest = adoption.adopted_to(chain_id, digest=keyring.audit_digest)
    if last is None:
        return range(1, highest + 1)
    if last.dropped_at is None and [each[2:] for each in listed(last)[-1:]] != [[ADOPTED]]:
        return NOTHING_OLD
    return range(max(1, last.last_id + 1), highest + 1)


def last_batch(chain_id: int) -> AuditBatch | None:
    return AuditBatch.objects.filter(chain_id=chain_id).order_by("-number").first()


def seal_up(chains: Collection[int], *, now: float) -> set[int]:
    """Seal all that has waited long enough in these chains. Those that could not be sealed."""
    failed = set()
    for chain_id in due_chains(now=now):
        if chain_id in chains:
            while seal_quietly(chain_id, now=now):
                pass
            if chain_id in _failed_at:
                failed.add(chain_id)
    return failed


def seal_quietly(chain_id: int, *, now: float) -> bool:
    """Whether a batch was sealed. One chain that cannot be must not keep the others from it."""
    try:
        sealed = seal_chain(chain_id, now=now) is not None
    except Exception:
        logger.exception("audit chain %s could not be sealed", chain_id)
        _failed_at[chain_id] = now
        return False
    _failed_at.pop(chain_id, None)
    return sealed


def _in_turn(chains: Sequence[int]) -> list[int]:
    """The chains of this sweep. Those that failed in this process come after all others, the
    last to fail last; and chains of no living tenant after those of living ones: whoever can
    insert records can invent as many tenants as there are places."""
    for chain_id in _failed_at.keys() - set(chains):
        del _failed_at[chain_id]
    with isolation.every_tenant():
        living = set(Tenant.objects.values_list("pk", flat=True)) | {0}
    turns = sorted(chains, key=lambda each: (_failed_at.get(each, -math.inf), each not in living))
    return turns[:_CHAINS]


def _seal(chain_id: int, *, now: float) -> AuditBatch | None:
    chain = _locked(chain_id)
    events = read(records_of(chain_id).filter(batch=None).order_by("id")[:_MOST])
    if not events:
        return None
    last = last_batch(chain_id)
    records = entries(events, adopt=still_to_adopt(chain_id, last), dropped_to=dropped_to(chain_id))
    batch = AuditBatch(
        tenant_id=chain_id or None,
        chain=chain,
        number=last.number + 1 if last is not None else 1,
        first_id=events[0].pk,
        last_id=events[-1].pk,
        count=len(events),
        newest_at=_newest(events, now=now),
        records=records,
        content=digests.of_list(records),
        previous=last.digest if last is not None else "",
        sealed_at=float(now),
    )
    batch.digest = digests.of_batch(batch)
    batch.save(force_insert=True)
    sealed = (
        records_of(chain_id)
        .filter(pk__in=[event.pk for event in events], batch=None)
        .update(batch=batch)
    )
    if sealed != len(events):
        # Nobody of ours takes a record away. The next sweep seals what is there then.
        raise RuntimeError("records of the audit trail vanished while they were being sealed")
    AuditChain.objects.filter(pk=chain_id).update(sealed_at=float(now))
    forged = [entry[0] for entry in records if entry[2:] not in ([], [ADOPTED])]
    if forged:
        logger.critical("records %s of the audit trail were not put there by the vault", forged)
    return batch


def _locked(chain_id: int) -> AuditChain:
    """The chain's row, made where there is none. Whose it is follows from its id: one that says
    another tenant is seen by nobody who seals, and is set right."""
    tenant_id = chain_id or None
    with isolation.every_tenant():
        row = AuditChain.objects.filter(pk=chain_id)
        chain = row.first()
        if chain is None:
            AuditChain.objects.get_or_create(
                pk=chain_id, defaults={"tenant_id": tenant_id, "tenant_slug": _slug(tenant_id)}
            )
        elif chain.tenant_id != tenant_id:
            logger.critical("audit chain %s was said to be of another tenant", chain_id)
            row.update(tenant_id=tenant_id)
    return AuditChain.objects.select_for_update().get(pk=chain_id)


def _slug(tenant_id: int | None) -> str:
    if tenant_id is None:
        return ""
    tenant = Tenant.objects.filter(pk=tenant_id).first()
    if tenant is not None:
        return tenant.slug
    return slug_in(tenant_id)[:63]


def _newest(events: Sequence[AuditEvent], *, now: float) -> float:
    """Of the times that are times: a forged record may say that it was never, or always."""
    times = [event.at for event in events if isinstance(event.at, float | int)]
    return max(filter(math.isfinite, times), default=float(now))


def _copies(events: Sequence[AuditEvent]) -> set[int]:
    """Those that say who they are with a name that another record has."""
    by_uid: dict[object, int] = {}
    copies: set[int] = set()
    for event in events:
        if event.uid is not None and by_uid.setdefault(event.uid, event.pk) != event.pk:
            copies.add(event.pk)
    elsewhere = (
        AuditEvent.objects.filter(uid__in=list(by_uid))
        .exclude(pk__in=[event.pk for event in events])
        .exclude(batch=None)
        .values_list("uid", flat=True)
    )
    return copies | {by_uid[uid] for uid in elsewhere}
