"""Is the audit trail what was written? Every chain is read, and what does not fit is named.

What is found: whatever was done to records and batches by somebody who has not the key, and
an end that was cut off, as far as a head of it is kept outside. What is not: a record that
was taken away before it was sealed; and whatever somebody did who holds the KEK and could
write everywhere.
"""

import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

from django.db.models import Exists, OuterRef, Q

from tokens import isolation
from tokens.models import AuditBatch, AuditChain, AuditEvent
from tokens.trail import anchor, census, seal
from tokens.trail.anchor import Found, Head
from tokens.trail.chains import UNREADABLE, read, records_of
from tokens.trail.check import check_batch, not_ours
from tokens.trail.finding import MOST_FINDINGS, Finding, Kind, Report

logger = logging.getLogger(__name__)

# Batches, and unsealed records, that are read at once.
_PAGE, _UNSEALED = 20, 500
# Seconds after which a record that is not sealed yet is no matter of waiting any more.
LONGEST_WAIT = 600


def batches_of(chains: Sequence[int]) -> int:
    """How much there is to verify, for a progress bar."""
    with isolation.every_tenant():
        return AuditBatch.objects.filter(chain_id__in=chains).count()


def verify(
    chains: Sequence[int],
    *,
    now: float,
    unsealable: Collection[int] = (),
    each: Callable[[], None] = lambda: None,
) -> list[Report]:
    """A report on each of these chains; what it says first is kept for the dashboard.

    ``unsealable``: chains of which a sealing has just failed. ``each`` is called for every
    batch. Others may write, seal and drop meanwhile.
    """
    reports = []
    # Read before the batches: what was anchored is in the database by then.
    found = anchor.find()
    with isolation.every_tenant():
        for chain_id in chains:
            report = _report(chain_id, found, each, now=now)
            if chain_id in unsealable:
                report.findings.append(
                    Finding(Kind.UNSEALED, "what waits could not be sealed: the log says why")
                )
            if report.is_whole:
                _catch_up(report)
            first = str(report.findings[0])[:300] if report.findings else ""
            AuditChain.objects.filter(pk=chain_id).update(verified_at=float(now), broken=first)
            reports.append(report)
    return reports


def _report(chain_id: int, found: Found, each: Callable[[], None], *, now: float) -> Report:
    """One chain that was made unreadable must not keep the others from being verified; nor does
    what was found in it before that get lost."""
    report = Report(chain_id, f"id:{chain_id}")
    try:
        report.tenant = census.name_of(chain_id)
        _verify_chain(report, found, each, now=now)
    except Exception as error:
        logger.exception("audit chain %s could not be verified", chain_id)
        sentence = f"the chain could not be read to its end ({type(error).__name__})"
        report.findings.append(Finding(Kind.UNREADABLE, sentence))
    return report


def _verify_chain(report: Report, found: Found, each: Callable[[], None], *, now: float) -> None:
    chain_id = report.chain_id
    heads: dict[int, list[str]] = {head.number: [] for head in found.heads.get(chain_id, [])}
    before: AuditBatch | None = None
    for batch, events in _batches(chain_id):
        report.batches += 1
        findings = _check_link(batch, before) + _settled(batch, events)
        report.findings += findings[: MOST_FINDINGS - len(report.findings)]
        if batch.dropped_at is None:
            report.sealed += len(events)
            report.adopted += sum(entry[2:] == [seal.ADOPTED] for entry in seal.listed(batch))
        else:
            report.dropped += batch.count
        if batch.number in heads:
            heads[batch.number].append(batch.digest)
        if batch.number > 0:
            before = batch
            report.head = Head(batch.number, str(batch.digest))
        each()
    loose = [*_unsealed(report, before, now=now), *_astray(chain_id)]
    if not chain_id:
        loose += census.of_no_chain()
    report.findings += loose[: MOST_FINDINGS - len(report.findings)]
    report.findings += _check_anchor(report, found, heads)


def _check_link(batch: AuditBatch, before: AuditBatch | None) -> list[Finding]:
    expected = before.number + 1 if before is not None else 1
    if batch.number < 1:
        return [Finding(Kind.INSERTED, "no batch of the vault's has this number", batch.number)]
    if batch.number > expected:
        missing = f"batch {expected} is"
        if batch.number > expected + 1:
            missing = f"batches {expected} to {batch.number - 1} are"
        return [Finding(Kind.CHAIN_CUT, f"the chain is cut: {missing} missing", batch.number)]
    if batch.number < expected:
        return [Finding(Kind.CHAIN_CUT, "there are two batches of this number", batch.number)]
    if batch.previous != (before.digest if before is not None else ""):
        return [
            Finding(Kind.CHAIN_CUT, "it does not follow the batch that is before", batch.number)
        ]
    return []


def _settled(batch: AuditBatch, events: Sequence[AuditEvent]) -> list[Finding]:
    """`check_batch`, looked at again where the batch was dropped between two readings."""
    findings = check_batch(batch, events)
    if findings and batch.dropped_at is None:
        again = AuditBatch.objects.filter(pk=batch.pk).first()
        if again is not None and again.dropped_at is not None:
            return check_batch(again, read(AuditEvent.objects.filter(batch=again).order_by("id")))
    return findings


def _unsealed(report: Report, last: AuditBatch | None, *, now: float) -> Iterator[Finding]:
    """What waits to be sealed: only that it was the vault that wrote it can be said of it, and
    that it has waited for too long."""
    waiting = records_of(report.chain_id).filter(batch=None).order_by("id")
    adopt, after = seal.still_to_adopt(report.chain_id, last), None
    dropped_to = seal.dropped_to(report.chain_id)
    late: list[int] = []
    while True:
        page = read((waiting if after is None else waiting.filter(pk__gt=after))[:_UNSEALED])
        if not page:
            break
        entries = seal.entries(page, adopt=adopt, dropped_to=dropped_to)
        adopt = adopt if entries[-1][2:] == [seal.ADOPTED] else seal.NOTHING_OLD
        after = page[-1].pk
        report.unsealed += len(page)
        for event, entry in zip(page, entries, strict=True):
            if (sentence := not_ours(entry)) is not None:
                yield Finding(Kind.INSERTED, f"{sentence} (not sealed yet)", record=event.pk)
            elif event.at <= now - LONGEST_WAIT:
                late.append(event.pk)
    if late:
        yield Finding(
            Kind.UNSEALED,
            f"waits to be sealed for more than {LONGEST_WAIT // 60} minutes, and {len(late) - 1} "
            "more after it: until then it can be deleted without a trace",
            record=late[0],
        )


def _astray(chain_id: int) -> Iterator[Finding]:
    """Records that name a batch which is not there, or of another chain."""
    mine = AuditBatch.objects.filter(pk=OuterRef("batch_id"), chain_id=chain_id)
    sealed = records_of(chain_id).filter(batch__isnull=False)
    astray = sealed.filter(~Exists(mine)).order_by("id").values_list("pk", flat=True)
    for pk in astray[:MOST_FINDINGS]:
        yield Finding(Kind.CHAIN_CUT, "names a batch that this chain has not", record=pk)


def _check_anchor(
    report: Report, found: Found, digests_at: Mapping[int, Sequence[str]]
) -> Iterator[Finding]:
    heads = found.heads.get(report.chain_id, [])
    if report.chain_id in found.garbled:
        yield Finding(Kind.ANCHOR_DIFFERS, "what is kept outside as its head is no head")
    if not heads and report.batches:
        # A chain that has just begun was anchored before its first batch was made.
        heads = anchor.find().heads.get(report.chain_id, [])
        if not heads:
            unseen = "" if found.everywhere else ", as far as can be seen from here"
            yield Finding(
                Kind.NO_ANCHOR,
                f"no head of this chain is kept outside{unseen}: whether its end was cut off "
                "cannot be told",
                report.head.number,
            )
        return
    for head in sorted(set(heads)):
        if head.number > report.head.number:
            yield Finding(
                Kind.ANCHOR_AHEAD,
                f"the chain had {head.number} batches once, and has {report.head.number}: its end "
                "was cut off, or the database was restored",
                report.head.number,
            )
        elif head.number and head.digest not in digests_at.get(head.number, ()):
            yield Finding(
                Kind.ANCHOR_DIFFERS,
                "the head that is kept outside was another batch of this number",
                head.number,
            )


def _catch_up(report: Report) -> None:
    """Heads outside that lag behind a whole chain: how long it is would be forgotten with its
    end. A sealing that was cut off leaves them one batch behind; a place that takes nothing
    for a while, more."""
    kept = anchor.highest(report.chain_id)
    if kept is None or kept >= report.head.number:
        return
    if anchor.keep(report.chain_id, report.head):
        if kept < report.head.number - 1:
            report.caught_up_from = kept
        return
    report.findings.append(
        Finding(
            Kind.ANCHOR_BEHIND,
            f"the head that is kept outside is batch {kept}, and no later one can be kept: whether "
            "more than this was cut off cannot be told",
            report.head.number,
        )
    )


def _batches(chain_id: int) -> Iterator[tuple[AuditBatch, list[AuditEvent]]]:
    """All of them, whatever number they have. What raises is the first that cannot be read."""
    batches = AuditBatch.objects.filter(chain_id=chain_id).order_by("number", "pk")
    following, size = batches, _PAGE
    while True:
        try:
            page = list(following[:size])
        except UNREADABLE:
            if size == 1:
                raise
            size = 1
            continue
        if not page:
            return
        number, pk = page[-1].number, page[-1].pk
        following = batches.filter(Q(number__gt=number) | Q(number=number, pk__gt=pk))
        events: dict[int, list[AuditEvent]] = {batch.pk: [] for batch in page}
        # By batch alone, whatever tenant they say they are of.
        for event in read(AuditEvent.objects.filter(batch_id__in=events).order_by("id")):
            events[event.batch_id or 0].append(event)
        for batch in page:
            yield batch, events[batch.pk]
