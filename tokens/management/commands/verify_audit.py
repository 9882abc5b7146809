from argparse import ArgumentParser
from collections.abc import Sequence
from typing import Any

from django.core.management.base import CommandError
from django.db import connection

from tokens import audit, clock
from tokens.management.command import VaultCommand, actor, add_json, confirm, progress
from tokens.management.trail import add_tenant_of_the_trail, chosen_chains
from tokens.models import AuditEvent, Tenant
from tokens.printable import printable
from tokens.trail import anchor, seal, triggers, verify
from tokens.trail.chains import Unreadable, read
from tokens.trail.finding import Finding, Report


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
        if options["reanchor"]:
            told = self._reanchor(reports, yes=options["yes"], now=now)
            (self.stderr.write if options["json"] else self.say)(told)
            reports = verify.verify(chains, now=now, unsealable=unsealable)
        unguarded = triggers.missing(connection)
        if options["json"]:
            self.print_json([_facts(report) for report in reports])
        else:
            self._tell(reports)
        wrong = []
        if broken := [report for report in reports if not report.is_whole]:
            wrong.append(
                f"{len(broken)} of {_count(len(reports), 'chain', 'chains')} of the audit trail "
                f"{'is' if len(broken) == 1 else 'are'} not proven whole; first: "
                f"{_called(broken[0])}: {broken[0].findings[0]}"
            )
        if unguarded:
            wrong.append(
                "the database does not refuse to change the audit trail any more: triggers are "
                f"missing ({', '.join(unguarded)}). `oauthvault migrate` makes them anew"
            )
        if wrong:
            raise CommandError(". And ".join(wrong))

    def _tell(self, reports: Sequence[Report]) -> None:
        if not reports:
            self.say("The audit trail is empty.")
        for report in reports:
            verdict = "whole" if report.is_whole else "NOT PROVEN WHOLE"
            dropped = f", {report.dropped} dropped for their age" if report.dropped else ""
            adopted = f", {report.adopted} of them from before the chain" if report.adopted else ""
            self.say(
                f"{_called(report)}: {verdict}; "
                f"{_count(report.sealed, 'record', 'records')} in "
                f"{_count(report.batches, 'batch', 'batches')}"
                f"{adopted}{dropped}; {report.unsealed} not sealed yet"
            )
            if report.caught_up_from is not None:
                self.say(
                    f"  the head outside was at batch {report.caught_up_from}, and is at "
                    f"{report.head.number} now: look why none was kept, here or where it is sealed"
                )
            # A second one takes the line that would say that there is one.
            shown = 2 if len(report.findings) == 2 else 1
            for finding in report.findings[:shown]:
                self.say(f"  {finding.kind}: {finding}{_now_says(finding)}")
            if len(report.findings) > shown:
                self.say(f"  and {len(report.findings) - 1} more (--json names them)")

    def _reanchor(self, reports: Sequence[Report], *, yes: bool, now: float) -> str:
        """What was done, in a sentence."""
        broken = [report for report in reports if not report.is_whole]
        chosen = [report for report in broken if report.only_the_anchor]
        if not broken:
            return "No head was kept anew: every chain is whole, and fits its head."
        if not chosen:
            return "No head was kept anew: it is the records themselves that do not fit."
        those = "chain as it is" if len(chosen) == 1 else "chains as they are"
        confirm(
            f"Take {_count(len(chosen), those, those)} in the database for the truth? "
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
        heads = "1 head was" if len(chosen) == 1 else f"{len(chosen)} heads were"
        whose = ", ".join(map(_called, chosen))
        rest = len(broken) - len(chosen)
        told = f"{heads} kept anew, and recorded: {whose}."
        if rest:
            told += f" Not of {_count(rest, 'chain', 'chains')} whose records do not fit."
        return told


def _called(report: Report) -> str:
    """The tenant; of a deleted one its id too, since another may have its slug by now."""
    name = printable(report.tenant)
    return f"{name} (deleted, id:{report.chain_id})" if _is_deleted(report) else name


def _is_deleted(report: Report) -> bool:
    return bool(report.chain_id) and not Tenant.objects.filter(pk=report.chain_id).exists()


def _now_says(finding: Finding) -> str:
    """What the record in question says, where there is one to be read."""
    if finding.record is None:
        return ""
    for event in read(AuditEvent.objects.filter(pk=finding.record)):
        if not isinstance(event.detail, Unreadable):
            whom = f" of {printable(event.subject)}" if event.subject else ""
            return f" (it says: {printable(event.action)}{whom}, by {printable(event.actor)})"
    return ""


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


def _facts(report: Report) -> dict[str, object]:
    return {
        "tenant": report.tenant if report.chain_id else None,
        "tenant_id": report.chain_id or None,
        "deleted": _is_deleted(report),
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
