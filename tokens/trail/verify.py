"""Is the audit trail what was written? Every chain is read, and what does not fit is named.

What is found: whatever was done to records and batches by somebody who has not the key, and
an end that was cut off, as far as a head of it is kept outside. What is not: a record that
was taken away before it was sealed; and whatever somebody did who holds the KEK and could
write everywhere.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from django.db.models import Exists, OuterRef, Q

from tokens import isolation
from tokens.models import AuditBatch, AuditChain, AuditEvent, Tenant
from tokens.tenants import find_tenant
from tokens.trail import anchor, digests, seal
from tokens.trail.anchor import Found, Head
from tokens.trail.chains import read, records_of, slug_in
from tokens.trail.seal import Entry

logger = logging.getLogger(__name__)

# Batches, and unsealed records, that are read at once.
_PAGE, _UNSEALED = 20, 500
# Of one chain. Whoever has so many needs no more.
_MOST_FINDINGS = 100


class Kind(StrEnum):
    """What is wrong."""

    EDITED = "edited"
    DELETED = "deleted"
    INSERTED = "inserted"
    REORDERED = "reordered"
    CHAIN_CUT = "chain_cut"
    ANCHOR_AHEAD = "anchor_ahead"
    ANCHOR_DIFFERS = "anchor_differs"
    NO_ANCHOR = "no_anchor"
    UNREADABLE = "unreadable"


# Wrong with what is kept outside, or with the whole chain beside it: an operator who knows
# why (a restored database, a lost data directory) may have the anchors made anew.
ABOUT_THE_ANCHOR = frozenset({Kind.ANCHOR_AHEAD, Kind.ANCHOR_DIFFERS, Kind.NO_ANCHOR})


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong: where, and what. ``batch``: its number."""

    kind: Kind
    sentence: str
    batch: int | None = None
    record: int | None = None

    def __str__(self) -> str:
        place = [f"batch {self.batch}"] if self.batch is not None else []
        place += [f"record {self.record}"] if self.record is not None else []
        return f"{', '.join(place)}: {self.sentence}" if place else self.sentence


@dataclass
class Report:
    """What a chain holds, and what is wrong with it."""

    chain_id: int
    tenant: str
    batches: int = 0
    sealed: int = 0
    dropped: int = 0
    adopted: int = 0
    unsealed: int = 0
    head: Head = anchor.EMPTY
    findings: list[Finding] = field(default_factory=list)

    @property
    def is_whole(self) -> bool:
        return not self.findings

    @property
    def only_the_anchor(self) -> bool:
        """Whether the chain is whole in itself, and does not fit what is kept outside."""
        return bool(self.findings) and all(
            finding.kind in ABOUT_THE_ANCHOR for finding in self.findings
        )


def chains_of(slug: str) -> list[int]:
    """The chains of a tenant by its slug: the living one's, else those of deleted ones; or by
    ``id:17``, whoever has it. NoTenant if there is none."""
    name, _, number = slug.partition(":")
    if name == "id" and number.isdigit():
        return [int(number)]
    with isolation.every_tenant():
        living = Tenant.objects.filter(slug=slug).first()
        if living is not None:
            return [living.pk]
        gone = AuditEvent.objects.filter(tenant_slug=slug, tenant_id__isnull=False).order_by()
        found = set(gone.values_list("tenant_id", flat=True).distinct())
        found |= set(AuditChain.objects.filter(tenant_slug=slug).values_list("pk", flat=True))
    return sorted(chain_id for chain_id in found if chain_id) or [find_tenant(slug).pk]


def all_chains() -> list[int]:
    """Every chain that the database, or what is kept outside of it, knows of."""
    with isolation.every_tenant():
        of_events = AuditEvent.objects.order_by().values_list("tenant_id", flat=True).distinct()
        found = {tenant_id or 0 for tenant_id in of_events}
        found |= set(AuditBatch.objects.order_by().values_list("chain_id", flat=True).distinct())
    outside = anchor.find()
    return sorted(found | set(outside.heads) | outside.garbled)


def batches_of(chains: Sequence[int]) -> int:
    """How much there is to verify, for a progress bar."""
    with isolation.every_tenant():
        return AuditBatch.objects.filter(chain_id__in=chains).count()


def verify(
    chains: Sequence[int], *, now: float, each: Callable[[], None] = lambda: None
) -> list[Report]:
    """A report on each of these chains; what it says first is kept for the dashboard.

    ``each`` is called for every batch. Others may write, seal and drop meanwhile.
    """
    reports = []
    # Read before the batches: what was anchored is in the database by then.
    found = anchor.find()
    with isolation.every_tenant():
        for chain_id in chains:
            report = _verify_or_say_why_not(chain_id, found, each)
            first = str(report.findings[0])[:300] if report.findings else ""
            AuditChain.objects.filter(pk=chain_id).update(verified_at=float(now), broken=first)
            reports.append(report)
    return reports


def check_batch(batch: AuditBatch, events: Sequence[AuditEvent]) -> list[Finding]:
    """What is wrong inside of one batch, whose records these are said to be."""
    if digests.of_batch(batch) != batch.digest:
        return [Finding(Kind.EDITED, "the batch itself was edited", batch.number)]
    if batch.dropped_at is not None:
        if digests.of_dropping(batch) != batch.drop_digest:
            return [
                Finding(
                    Kind.DELETED,
                    "its records are marked as dropped for their age, and not by the vault",
                    batch.number,
                )
            ]
        # Its own left with it, in one transaction.
        return [
            Finding(
                Kind.INSERTED, "was inserted into a batch that was dropped", batch.number, event.pk
            )
            for event in events
        ]
    if batch.drop_digest or _hash_or_none(batch.records) != batch.content:
        return [Finding(Kind.EDITED, "the batch's list of records was edited", batch.number)]
    return list(_compare(batch, {event.pk: event for event in events}))


def _verify_or_say_why_not(chain_id: int, found: Found, each: Callable[[], None]) -> Report:
    """One chain that was made unreadable must not keep the others from being verified."""
    try:
        return _verify_chain(chain_id, found, each)
    except Exception as error:
        logger.exception("audit chain %s could not be verified", chain_id)
        sentence = f"the chain could not be read to its end ({type(error).__name__})"
        return Report(chain_id, f"id:{chain_id}", findings=[Finding(Kind.UNREADABLE, sentence)])


def _verify_chain(chain_id: int, found: Found, each: Callable[[], None]) -> Report:
    report = Report(chain_id, tenant=_name(chain_id))
    heads: dict[int, list[str]] = {head.number: [] for head in found.heads.get(chain_id, [])}
    before: AuditBatch | None = None
    for batch, events in _batches(chain_id):
        report.batches += 1
        findings = _check_link(batch, before) + _settled(batch, events)
        report.findings += findings[: _MOST_FINDINGS - len(report.findings)]
        if batch.dropped_at is None:
            report.sealed += len(events)
            report.adopted += sum(entry[2:] == [seal.ADOPTED] for entry in _listed(batch))
        else:
            report.dropped += batch.count
        if batch.number in heads:
            heads[batch.number].append(batch.digest)
        before = batch
        each()
    if before is not None:
        report.head = Head(before.number, before.digest)
    loose = [*_unsealed(chain_id, before, report), *_astray(chain_id)]
    report.findings += loose[: _MOST_FINDINGS - len(report.findings)]
    report.findings += _check_anchor(report, found, heads)
    return report


def _check_link(batch: AuditBatch, before: AuditBatch | None) -> list[Finding]:
    expected = before.number + 1 if before is not None else 1
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


def _compare(batch: AuditBatch, present: Mapping[int, AuditEvent]) -> Iterator[Finding]:
    """The records against the list that was sealed."""
    listed = {int(entry[0]): entry for entry in _listed(batch)}
    known = {str(entry[1]) for entry in listed.values()}
    gone = [pk for pk in listed if pk not in present]
    elsewhere = set(AuditEvent.objects.filter(pk__in=gone).values_list("pk", flat=True))
    for pk, entry in sorted(listed.items()):
        event = present.get(pk)
        if event is None:
            if pk in elsewhere:
                yield Finding(Kind.REORDERED, "was moved out of its batch", batch.number, pk)
            else:
                yield Finding(Kind.DELETED, "was deleted", batch.number, pk)
            continue
        computed = seal.digest_or_none(event) or ""
        if computed[: digests.LISTED] != entry[1]:
            if computed[: digests.LISTED] in known:
                yield Finding(
                    Kind.REORDERED, "stands in the place of another record", batch.number, pk
                )
            else:
                yield Finding(Kind.EDITED, "was edited", batch.number, pk)
        elif entry[2:] == [digests.FORGED]:
            yield Finding(
                Kind.INSERTED,
                "was not written like this by the vault: inserted, or edited before it was sealed",
                batch.number,
                pk,
            )
        elif event.digest != ("" if entry[2:] == [seal.ADOPTED] else computed):
            yield Finding(Kind.EDITED, "its digest was edited", batch.number, pk)
    for pk in sorted(set(present) - set(listed)):
        yield Finding(Kind.INSERTED, "was inserted into a sealed batch", batch.number, pk)


def _unsealed(chain_id: int, last: AuditBatch | None, report: Report) -> Iterator[Finding]:
    """What waits to be sealed: only that it was the vault that wrote it can be said of it."""
    waiting = records_of(chain_id).filter(batch=None).order_by("id")
    adopt, after = seal.still_to_adopt(chain_id, last), None
    while True:
        page = read((waiting if after is None else waiting.filter(pk__gt=after))[:_UNSEALED])
        if not page:
            return
        entries = seal.entries(page, adopt=adopt)
        adopt = adopt if entries[-1][2:] == [seal.ADOPTED] else seal.NOTHING_OLD
        after = page[-1].pk
        report.unsealed += len(page)
        for entry in entries:
            if entry[2:] == [digests.FORGED]:
                yield Finding(
                    Kind.INSERTED,
                    "was not written like this by the vault: inserted, or edited (not sealed yet)",
                    record=int(entry[0]),
                )


def _astray(chain_id: int) -> Iterator[Finding]:
    """Records that name a batch which is not there, or of another chain."""
    mine = AuditBatch.objects.filter(pk=OuterRef("batch_id"), chain_id=chain_id)
    sealed = records_of(chain_id).filter(batch__isnull=False)
    astray = sealed.filter(~Exists(mine)).order_by("id").values_list("pk", flat=True)
    for pk in astray[:_MOST_FINDINGS]:
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


def _batches(chain_id: int) -> Iterator[tuple[AuditBatch, list[AuditEvent]]]:
    number, pk = -1, -1
    while True:
        page = list(
            AuditBatch.objects.filter(chain_id=chain_id)
            .filter(Q(number__gt=number) | Q(number=number, pk__gt=pk))
            .order_by("number", "pk")[:_PAGE]
        )
        if not page:
            return
        number, pk = page[-1].number, page[-1].pk
        events: dict[int, list[AuditEvent]] = {batch.pk: [] for batch in page}
        # By batch alone, whatever tenant they say they are of.
        for event in read(AuditEvent.objects.filter(batch_id__in=events).order_by("id")):
            events[event.batch_id or 0].append(event)
        for batch in page:
            yield batch, events[batch.pk]


def _listed(batch: AuditBatch) -> list[Entry]:
    return list(batch.records)


def _hash_or_none(records: object) -> str | None:
    try:
        return digests.of_list(records)
    except (ValueError, TypeError, RecursionError):
        return None


def _name(chain_id: int) -> str:
    if not chain_id:
        return "(no tenant)"
    chain = AuditChain.objects.filter(pk=chain_id).first()
    if chain is not None and chain.tenant_slug:
        return chain.tenant_slug
    return slug_in(chain_id) or f"id:{chain_id}"
