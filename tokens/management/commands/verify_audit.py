from argparse import ArgumentParser
from collections.abc import Sequence
from typing import Any

from django.core.management.base import CommandError

from tokens import audit, clock
from tokens.management.command import VaultCommand, actor, add_json, confirm, progress
from tokens.management.trail import add_tenant_of_the_trail, chosen_chains
from tokens.models import Tenant
from tokens.printable import printable
from tokens.trail import anchor, seal, verify
from tokens.trail.finding import Report


class Command(VaultCommand):
    help = (
        "Verify the audit trail: that no record was edited, deleted, inserted or moved, and that "
        "no chain was cut. Seals first what is old enough. Exit status 1 if anything is wrong, or "
        "cannot be told."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        add_tenant_of_the_trail(parser, otherwise="every chain")
        parser.add_argument(
            "--reanchor",
            action="store_true",
            help="keep the heads outside anew, where they are all that does not fit: after a "
            "restore, or when the data directory was lost. It is recorded. Whoever does this "
            "without knowing why they do not fit wipes the trace of a trail cut short",
        )
        parser.add_argument("--yes", action="store_true", help="do not ask before --reanchor")
        add_json(parser)

    def run(self, **options: Any) -> None:
        now, chains = clock.now(), chosen_chains(options["tenant"])
        unsealable = seal.seal_up(chains, now=now)
        total = verify.batches_of(chains)
        shown = progress(total, wanted=not options["json"])
        reports = verify.verify(chains, now=now, unsealable=unsealable, each=shown)
        if options["reanchor"] and self._reanchor(reports, yes=options["yes"], now=now):
            reports = verify.verify(chains, now=now, unsealable=unsealable)
        if options["json"]:
            self.print_json([_facts(report) for report in reports])
        else:
            self._tell(reports)
        broken = [report for report in reports if not report.is_whole]
        if broken:
            named_first = f"{printable(broken[0].tenant)}: {broken[0].findings[0]}"
            raise CommandError(
                f"{len(broken)} of {len(reports)} chain(s) of the audit trail are not proven "
                f"whole; first: {named_first}"
            )

    def _tell(self, reports: Sequence[Report]) -> None:
        if not reports:
            self.say("The audit trail is empty.")
        for report in reports:
            verdict = "whole" if report.is_whole else "NOT PROVEN WHOLE"
            dropped = f", {report.dropped} dropped for their age" if report.dropped else ""
            adopted = f", {report.adopted} of them from before the chain" if report.adopted else ""
            self.say(
                f"{printable(report.tenant)}: {verdict}; "
                f"{_count(report.sealed, 'record', 'records')} in "
                f"{_count(report.batches, 'batch', 'batches')}"
                f"{adopted}{dropped}; {report.unsealed} not sealed yet"
            )
            if report.caught_up_from is not None:
                self.say(
                    f"  the head outside was at batch {report.caught_up_from}, and is at "
                    f"{report.head.number} now: look why none was kept, here or where it is sealed"
                )
            for finding in report.findings[:1]:
                self.say(f"  {finding.kind}: {finding}")
            if len(report.findings) > 1:
                self.say(f"  and {len(report.findings) - 1} more (--json names them)")

    def _reanchor(self, reports: Sequence[Report], *, yes: bool, now: float) -> bool:
        """Whether any head was kept anew."""
        chosen = [report for report in reports if report.only_the_anchor]
        if not chosen:
            return False
        confirm(
            f"Take the {len(chosen)} chain(s) as they are in the database for the true ones? "
            "What may have been cut off before cannot be seen any more then.",
            yes=yes,
            otherwise="no head was kept anew",
        )
        for report in chosen:
            audit.record(
                # Of a deleted one it is an act of no tenant: its own trail has ended.
                tenant=Tenant.objects.filter(pk=report.chain_id).first(),
                actor=actor(),
                action="reanchor_audit",
                now=now,
                chain=report.tenant,
                chain_id=report.chain_id,
                batch=report.head.number,
                because=str(report.findings[0].kind),
            )
            if not anchor.replace(report.chain_id, report.head):
                raise CommandError("no head was kept: neither Redis nor the data directory")
        return True


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


def _facts(report: Report) -> dict[str, object]:
    return {
        "tenant": report.tenant if report.chain_id else None,
        "tenant_id": report.chain_id or None,
        "whole": report.is_whole,
        "batches": report.batches,
        "sealed": report.sealed,
        "from_before_the_chain": report.adopted,
        "dropped": report.dropped,
        "unsealed": report.unsealed,
        "head": {"batch": report.head.number, "digest": report.head.digest},
        "head_outside_was_at": report.caught_up_from,
        "findings": [
            {
                "kind": finding.kind,
                "batch": finding.batch,
                "record": finding.record,
                "sentence": finding.sentence,
            }
            for finding in report.findings
        ],
    }
