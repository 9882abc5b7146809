"""Is one batch what was sealed, and are its records those that it lists?"""

from collections.abc import Iterator, Mapping, Sequence

from tokens.models import AuditBatch, AuditEvent
from tokens.trail import digests, seal
from tokens.trail.finding import Finding, Kind
from tokens.trail.seal import Entry


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


def not_ours(entry: Entry) -> str | None:
    """What the mark of a record says that the vault did not put there; None: it did."""
    if entry[2:] == [digests.REPLAYED]:
        return "was dropped for its age once: somebody has put a copy of it back"
    if entry[2:] == [digests.FORGED]:
        return "was not written like this by the vault: inserted, or edited before it was sealed"
    return None


def _compare(batch: AuditBatch, present: Mapping[int, AuditEvent]) -> Iterator[Finding]:
    """The records against the list that was sealed."""
    entries = {int(entry[0]): entry for entry in seal.listed(batch)}
    known = {str(entry[1]) for entry in entries.values()}
    gone = [pk for pk in entries if pk not in present]
    elsewhere = set(AuditEvent.objects.filter(pk__in=gone).values_list("pk", flat=True))
    for pk, entry in sorted(entries.items()):
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
        elif (sentence := not_ours(entry)) is not None:
            yield Finding(Kind.INSERTED, sentence, batch.number, pk)
        elif event.digest != ("" if entry[2:] == [seal.ADOPTED] else computed):
            yield Finding(Kind.EDITED, "its digest was edited", batch.number, pk)
    for pk in sorted(set(present) - set(entries)):
        yield Finding(Kind.INSERTED, "was inserted into a sealed batch", batch.number, pk)


def _hash_or_none(records: object) -> str | None:
    try:
        return digests.of_list(records)
    except (ValueError, TypeError, RecursionError):
        return None
