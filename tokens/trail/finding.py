"""What verification says: of each chain what it holds, and one finding for each thing wrong."""

from dataclasses import dataclass, field
from enum import StrEnum

from tokens.trail.anchor import EMPTY, Head


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
    UNSEALED = "unsealed"
    ANCHOR_BEHIND = "anchor_behind"


# Wrong with what is kept outside, or with the whole chain beside it: an operator who knows
# why (a restored database, a lost data directory) may have the anchors made anew.
ABOUT_THE_ANCHOR = frozenset(
    {Kind.ANCHOR_AHEAD, Kind.ANCHOR_BEHIND, Kind.ANCHOR_DIFFERS, Kind.NO_ANCHOR}
)

# Of one chain. Whoever has so many needs no more.
MOST_FINDINGS = 100


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
    head: Head = EMPTY
    findings: list[Finding] = field(default_factory=list)
    # Where the head outside was, if it lagged behind by more than the one batch that a process
    # that was killed leaves, before verification has brought it up.
    caught_up_from: int | None = None

    @property
    def is_whole(self) -> bool:
        return not self.findings

    @property
    def only_the_anchor(self) -> bool:
        """Whether the chain is whole in itself, and does not fit what is kept outside."""
        return bool(self.findings) and all(
            finding.kind in ABOUT_THE_ANCHOR for finding in self.findings
        )
