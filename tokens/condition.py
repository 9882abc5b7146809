"""How the vault itself is, as far as its records say: what does the work, what stands in its way,
and how old each of these signs is. Times are Unix seconds.

`api.health` asks the parts themselves; nothing is asked or verified here.
"""

from dataclasses import dataclass

from django.conf import settings
from django.db import connection
from django.db.models import Count, Min, Q

from tokens import epoch, isolation, workers
from tokens.models import AuditChain, AuditEvent, Deployment, Heartbeat
from tokens.refresh import gate, spool
from tokens.refresh.gate import Door
from tokens.trail import triggers
from tokens.trail.verify import LONGEST_WAIT
from tokens.workers import Workers

SCHEDULER = "scheduler"
# Sweeps that may be missed before the scheduler counts as away: one or two may be chance.
_MISSED_SWEEPS = 3


@dataclass(frozen=True, kw_only=True)
class Spooled:
    """Answers that wait to be saved, of the tenants for whom the code is at work; ``since``: when
    the first of those that can be read came."""

    count: int = 0
    since: float | None = None


@dataclass(frozen=True, kw_only=True)
class Condition:
    """``last_sweep``: None before the first."""

    now: float
    last_sweep: float | None
    workers: Workers
    door: Door
    spooled: Spooled
    deployment: Deployment

    @property
    def scheduler_is_away(self) -> bool:
        return (
            self.last_sweep is None
            or self.now - self.last_sweep > _MISSED_SWEEPS * settings.SWEEP_INTERVAL
        )


@dataclass(frozen=True, kw_only=True)
class TrailCondition:
    """The chains of the tenants for whom the code is at work. ``broken``: not proven whole when
    they were verified last; ``unverified``: never verified; ``verified_at``: the oldest of the
    last verifications. ``unsealed_since``: a record of then waits for longer than any should."""

    chains: int
    broken: int
    unverified: int
    verified_at: float | None
    unsealed_since: float | None
    missing_triggers: int


def look(*, now: float) -> Condition:
    deployment = epoch.deployment()
    return Condition(
        now=now,
        last_sweep=(Heartbeat.objects.filter(part=SCHEDULER).values_list("at", flat=True).first()),
        workers=workers.look(now=now),
        door=gate.look(now=now),
        spooled=_spooled(deployment),
        deployment=deployment,
    )


def look_at_trail(*, now: float) -> TrailCondition:
    chains = AuditChain.objects.aggregate(
        number=Count("pk"),
        broken=Count("pk", filter=~Q(broken="")),
        unverified=Count("pk", filter=Q(verified_at=None)),
        verified_at=Min("verified_at"),
    )
    unsealed = AuditEvent.objects.filter(batch=None, at__lte=now - LONGEST_WAIT)
    return TrailCondition(
        chains=chains["number"],
        broken=chains["broken"],
        unverified=chains["unverified"],
        verified_at=chains["verified_at"],
        unsealed_since=unsealed.aggregate(oldest=Min("at"))["oldest"],
        missing_triggers=len(triggers.missing(connection)),
    )


def _spooled(deployment: Deployment) -> Spooled:
    count = spool.depth(deployment.vault_id)
    if not count:
        return Spooled()
    entries = [
        entry for entry in spool.entries(deployment.vault_id) if isolation.covers(entry.tenant_id)
    ]
    return Spooled(
        # Whose an entry is that cannot be read, nobody knows.
        count=count if isolation.current().is_everybody else len(entries),
        since=min((entry.answered_at for entry in entries), default=None),
    )
