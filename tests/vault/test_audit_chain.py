"""The audit trail cannot be edited unnoticed: by whomever has the database and not the key."""

import itertools
import json
import threading
import time
import uuid
from argparse import ArgumentTypeError
from collections.abc import Callable
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import DatabaseError, IntegrityError, connection, transaction
from django.test import Client
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st
from pytest_django import Settings

from tests.emptying import triggers
from tests.simulator import Simulator
from tests.vault.test_sweep_index import plan
from tokens import audit, history, isolation, keyring, outside
from tokens.management.commands import export_audit
from tokens.models import (
    AuditBatch,
    AuditChain,
    AuditEvent,
    Cause,
    HandOut,
    Heartbeat,
    OAuthCredential,
    Outcome,
    RefreshAttempt,
    Standing,
    Tenant,
    VaultKey,
)
from tokens.secret import Secret
from tokens.tasks import sweep
from tokens.tenants import create_tenant
from tokens.trail import anchor, census, drop, seal, verify
from tokens.trail.finding import Finding, Kind, Report

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("data_dir")]
committed = pytest.mark.django_db(transaction=True)

DAY = 86_400
NOW = 1_900_000_000.25
TOKEN = "sk-ant-oat01-abcdefghijklmnop"


def act(tenant: Tenant | None, number: int = 1, *, at: float = NOW) -> list[int]:
    """So many records of one tenant; their ids."""
    return [
        audit.record(
            tenant=tenant,
            actor="test",
            action="revoke",
            subject=f"user-{each}",
            now=at + each,
            reason="asked for",
            weight=1.5e22,
            share=-0.0,
            parts=[1, 2.5, None, {"é": True}],
        ).pk
        for each in range(number)
    ]


def seal_all(*, at: float = NOW) -> int:
    """Seal what there is; the number of batches."""
    number = 0
    while sealed := seal.seal_due(now=at + 10 * seal.AGE):
        number += sealed
    return number


def upgraded() -> None:
    """What there is now is from before there were chains: no key of theirs, and no digest."""
    VaultKey.objects.filter(purpose=keyring.AUDIT_TRAIL).delete()
    with triggers.switched_off(connection):
        sql("UPDATE tokens_auditevent SET digest = '', uid = NULL")
    keyring.forget()
    keyring.ensure_vault_keys(keyring.load_keyring())


def reports() -> dict[str, Report]:
    return {report.tenant: report for report in verify.verify(census.all_chains(), now=time.time())}


def whole() -> bool:
    found = reports()
    assert found
    return all(report.is_whole for report in found.values())


def only_finding(tenant: str = "acme") -> Finding:
    (finding,) = reports()[tenant].findings
    return finding


def sql(statement: str, *parameters: object) -> int:
    with connection.cursor() as cursor:
        cursor.execute(statement, parameters)
        return cursor.rowcount


def told(*arguments: str, refused: bool = False) -> str:
    out = StringIO()
    if refused:
        with pytest.raises(CommandError) as error:
            call_command(*arguments, stdout=out, stderr=StringIO())
        return f"{out.getvalue()}{error.value}"
    call_command(*arguments, stdout=out, stderr=StringIO())
    return out.getvalue()


# --- What is recorded ------------------------------------------------------------------------


def test_no_token_and_no_key_gets_into_a_record(acme: Tenant) -> None:
    event = audit.record(
        tenant=acme,
        actor=f"key {TOKEN}",
        action="import",
        subject=TOKEN,
        now=NOW,
        note=f"Authorization: Bearer {'x' * 20}",
        deep=[{TOKEN: ["ovs_" + "A" * 43, {"a": f"<{TOKEN}>"}]}],
    )
    kept = json.dumps(AuditEvent.objects.filter(pk=event.pk).values().get(), default=str)
    assert TOKEN[:20] not in kept
    assert "xxxxxxxx" not in kept
    assert "AAAAAAAA" not in kept
    with pytest.raises(TypeError):
        audit.record(tenant=acme, actor="test", action="import", now=NOW, pair=Secret(TOKEN))


def test_what_grows_when_secrets_are_taken_out_is_cut_and_recorded(acme: Tenant) -> None:
    """As it is stored, so it is under its digest."""
    event = audit.record(
        tenant=acme, actor="test", action="a" * 99, subject="://:b@" * 42, outcome="o" * 99, now=NOW
    )
    kept = AuditEvent.objects.get(pk=event.pk)
    assert (len(kept.action), len(kept.subject), len(kept.outcome)) == (64, 256, 64)
    assert whole()


def test_a_record_says_from_where_and_by_which_request(acme: Tenant, acme_key: str) -> None:
    """As the request says, and not as the one before it on the same thread did."""
    for address, name in (("192.0.2.7", "request-one"), ("2001:db8::7", "request-two")):
        answer = Client().put(
            "/auth/claude/token",
            data={"accessToken": TOKEN + name[-3:], "expiresAt": 2_000_000_000},
            content_type="application/json",
            headers={
                "Authorization": f"Bearer {acme_key}",
                "X-OAuthVault-User": name,
                "X-Request-ID": name,
            },
            REMOTE_ADDR=address,
        )
        assert answer.status_code == 201
        event = AuditEvent.objects.get(action="import", subject=name)
        assert (event.address, event.request_id) == (address, name)
        assert (event.tenant_id, event.tenant_slug) == (acme.pk, "acme")


# --- The chain ------------------------------------------------------------------------------------


def test_what_was_written_is_found_whole(acme: Tenant, globex: Tenant) -> None:
    """Floats, nested detail and acts of no tenant among it, as both databases give them back."""
    for tenant in (acme, globex, None):
        act(tenant, 3)
    assert seal_all() == 3
    act(acme, 2)
    assert whole()
    of_acme = reports()["acme"]
    # create_tenant is a record too.
    assert (of_acme.batches, of_acme.sealed, of_acme.unsealed) == (1, 4, 2)
    assert reports()["(no tenant)"].sealed == 3


def test_records_wait_a_minute_and_are_sealed_together(acme: Tenant) -> None:
    seal_all(at=time.time())
    act(acme, 3)
    assert seal.seal_due(now=NOW + seal.AGE - 1) == 0
    assert seal.seal_due(now=NOW + seal.AGE) == 1
    assert not AuditEvent.objects.filter(batch=None).exists()


@committed
def test_the_sweep_seals(acme: Tenant, upstream: Simulator) -> None:
    act(acme, 3, at=1)
    sweep()
    assert AuditBatch.objects.get().count == 3 + 1
    assert Heartbeat.objects.filter(part="history").exists()
    assert whole()


def test_of_many_chains_those_go_first_that_have_waited_longest(
    acme: Tenant, globex: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    seal_all(at=time.time())
    monkeypatch.setattr(seal, "_CHAINS", 1)
    act(acme, at=NOW + 30)
    act(globex, at=NOW)
    for tenant in (globex, acme):
        assert seal.seal_due(now=NOW + 1000) == 1
        assert AuditBatch.objects.latest("pk").tenant == tenant


def test_a_chain_that_cannot_be_sealed_keeps_no_other_from_it(
    acme: Tenant, globex: Tenant, caplog: pytest.LogCaptureFixture
) -> None:
    """The next number of acme's is none that the database could take."""
    chain = AuditChain.objects.create(pk=acme.pk, tenant=acme, tenant_slug="acme")
    AuditBatch.objects.create(
        chain=chain,
        tenant=acme,
        number=2**63 - 1,
        first_id=1,
        last_id=1,
        count=1,
        newest_at=1,
        sealed_at=1,
    )
    act(acme)
    act(globex, at=NOW + 5)
    assert seal.seal_due(now=NOW + 1000) == 1
    assert AuditBatch.objects.latest("pk").tenant == globex
    assert "could not be sealed" in caplog.text


def test_a_batch_is_bounded_and_the_next_one_follows_it(
    acme: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seal, "_MOST", 3)
    monkeypatch.setattr(verify, "_PAGE", 2)
    monkeypatch.setattr(verify, "_UNSEALED", 2)
    act(acme, 13)
    assert seal_all() == 5
    act(acme, 5)
    assert whole()
    batches = list(AuditBatch.objects.order_by("number"))
    assert [batch.count for batch in batches] == [3, 3, 3, 3, 2]
    assert [batch.previous for batch in batches] == ["", *(each.digest for each in batches[:-1])]


def test_the_trail_of_a_deleted_tenant_stays_readable_and_whole(acme: Tenant) -> None:
    act(acme, 3)
    seal_all()
    act(acme, 2)
    Tenant.objects.filter(pk=acme.pk).delete()
    seal_all()
    assert whole()
    exported = told("export_audit", "--tenant", "acme").splitlines()
    assert len(exported) == 6
    assert {json.loads(line)["tenant"] for line in exported} == {"acme"}
    told_of_it = told("verify_audit", "--tenant", "acme")
    assert f"acme (deleted, id:{acme.pk}): whole; 6 records" in told_of_it


def test_records_from_before_the_chain_are_sealed_as_they_are_and_said(acme: Tenant) -> None:
    """And none of that kind is believed once the chain has begun."""
    old = {"tenant_id": acme.pk, "tenant_slug": "acme", "at": 1, "actor": "before", "action": "x"}
    with triggers.switched_off(connection):
        AuditEvent.objects.filter(tenant=acme).delete()
    AuditEvent.objects.create(**old)
    AuditEvent.objects.create(**old)
    upgraded()
    act(acme, 1)
    seal_all()
    assert whole()
    assert reports()["acme"].adopted == 2
    late = AuditEvent.objects.create(**old)
    assert (only_finding().kind, only_finding().record) == (Kind.INSERTED, late.pk)
    seal_all()
    assert (only_finding().kind, only_finding().record) == (Kind.INSERTED, late.pk)


def test_what_was_inserted_since_the_upgrade_is_never_taken_for_older(
    acme: Tenant, globex: Tenant
) -> None:
    """Not in a chain without a batch, and not by whoever moves the mark."""
    upgraded()
    act(globex)
    seal_all()
    assert whole()
    forged = poisoned(acme.pk)
    assert (only_finding().kind, only_finding().record) == (Kind.INSERTED, forged)
    highest = AuditEvent.objects.latest("pk").pk
    for digest in ("", "0" * 64, AuditChain.objects.get(pk=acme.pk).adopted_digest):
        AuditChain.objects.filter(pk=acme.pk).update(adopted_to=highest, adopted_digest=digest)
        assert forged in {finding.record for finding in reports()["acme"].findings}
    seal_all()
    assert forged in {finding.record for finding in reports()["acme"].findings}


def test_where_there_was_nothing_before_the_chains_nothing_is_taken_for_older(
    acme: Tenant,
) -> None:
    poisoned(acme.pk, id=-7)
    seal_all()
    assert reports()["acme"].adopted == 0
    assert (only_finding().kind, only_finding().record) == (Kind.INSERTED, -7)


@committed
def test_a_record_that_commits_late_goes_into_the_next_batch(acme: Tenant) -> None:
    if connection.vendor != "postgresql":
        pytest.skip("SQLite has one writer: a later record waits for the earlier one's commit")
    written, may_commit = threading.Event(), threading.Event()
    late: list[int] = []

    @isolation.of(acme.pk)
    def slow() -> None:
        try:
            with transaction.atomic():
                late.extend(act(acme))
                written.set()
                may_commit.wait(60)
        finally:
            written.set()
            connection.close()

    thread = threading.Thread(target=slow)
    thread.start()
    written.wait(60)
    early = act(acme)
    seal_all()
    assert AuditEvent.objects.get(pk=early[0]).batch is not None
    assert whole()
    may_commit.set()
    thread.join()
    assert late[0] < early[0]
    assert seal_all() == 1
    assert whole()
    assert AuditBatch.objects.get(number=2).records[0][0] == late[0]


@committed
def test_writers_sealers_droppers_and_a_verifier_at_once_raise_no_alarm(
    acme: Tenant, globex: Tenant
) -> None:
    keyring.audit_digest("known before the threads begin")
    old = NOW - 500 * DAY
    for day in range(20):
        for tenant in (acme, globex):
            act(tenant, at=old + day * DAY)
        seal_all()
    anchor.find()
    done = threading.Event()
    failures: list[BaseException] = []
    alarms: list[Finding] = []

    @isolation.of(acme.pk, globex.pk)
    def write() -> None:
        for _ in range(12):
            with transaction.atomic():
                act(acme, 2)
                act(globex, 1)

    def keep_sealing() -> None:
        while not done.is_set():
            seal.seal_due(now=NOW + 10 * seal.AGE)

    def keep_dropping() -> None:
        for day in itertools.count(1):
            drop.drop_old(before=old + day * DAY, now=NOW, until=time.monotonic() + 60)
            if done.is_set() and day > 20:
                return

    def keep_verifying() -> None:
        while not done.is_set():
            for report in verify.verify(census.all_chains(), now=time.time()):
                alarms.extend(report.findings)

    def run(work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            failures.append(error)
        finally:
            connection.close()

    writers = [threading.Thread(target=run, args=(write,)) for _ in range(3)]
    others = [
        threading.Thread(target=run, args=(work,))
        for work in (keep_sealing, keep_sealing, keep_dropping, keep_verifying)
    ]
    for thread in (*writers, *others):
        thread.start()
    for thread in writers:
        thread.join()
    done.set()
    for thread in others:
        thread.join()
    assert failures == []
    assert alarms == []
    assert not AuditEvent.objects.filter(at__lt=NOW, at__gte=old).exists()
    seal_all()
    assert whole()
    for tenant, written in ((acme, 93), (globex, 57)):
        batches = AuditBatch.objects.filter(tenant=tenant).order_by("number")
        assert [batch.number for batch in batches] == list(range(1, len(batches) + 1))
        assert sum(batch.count for batch in batches) == written


# --- Whoever can write the database, and has not the key ------------------------------------------

EVENT_VALUES: dict[str, st.SearchStrategy[Any]] = {
    "tenant_slug": st.just("forged"),
    "at": st.floats(1, 2e9),
    "actor": st.just("operator nobody"),
    "action": st.just("resume"),
    "subject": st.just("mallory"),
    "outcome": st.just("refused"),
    "address": st.just("198.51.100.9"),
    "request_id": st.just("forged"),
    "detail": st.just('{"reason": "forged"}'),
    "digest": st.just("0" * 64),
    "uid": st.uuids().map(lambda value: value if connection.vendor == "postgresql" else value.hex),
}
BATCH_VALUES: dict[str, st.SearchStrategy[Any]] = {
    "number": st.integers(100, 200),
    "first_id": st.integers(-9, -1),
    "last_id": st.integers(-9, -1),
    "count": st.integers(1000, 2000),
    "newest_at": st.floats(1, 1000),
    "records": st.just("[]"),
    "content": st.just("0" * 64),
    "previous": st.just("0" * 64),
    "digest": st.just("0" * 64),
    "sealed_at": st.floats(1, 1000),
    "dropped_at": st.floats(1, 1000),
    "drop_digest": st.just("0" * 64),
}
_JSON = {"detail", "records"}


class Trail:
    """A trail of three tenants, and whoever does with it as they like."""

    def __init__(self) -> None:
        forget_what_is_outside()
        self.acme, self.globex = (
            create_tenant(slug=f"{name}-{uuid.uuid4().hex[:8]}", actor="test", now=NOW)
            for name in ("acme", "globex")
        )
        for number in (3, 2, 4):
            act(self.acme, number)
            act(self.globex, 2)
            act(None, 1)
            seal_all()
        act(self.acme, 2)
        assert whole()
        mine = AuditEvent.objects.filter(tenant=self.acme).order_by("pk")
        self.sealed = list(mine.exclude(batch=None).values_list("pk", flat=True))
        self.unsealed = list(mine.filter(batch=None).values_list("pk", flat=True))
        self.batches = list(AuditBatch.objects.filter(tenant=self.acme).order_by("number"))
        triggers.switch_off(connection)
        with connection.cursor() as cursor:
            if connection.vendor == "sqlite":
                cursor.execute("PRAGMA defer_foreign_keys = ON")

    def findings(self) -> list[Finding]:
        """What is found in acme's chain, and nothing in the others'."""
        found = reports()
        mine = found.pop(self.acme.slug)
        assert all(report.is_whole for report in found.values())
        return mine.findings


def edit(table: str, pk: int, column: str, value: object) -> None:
    cast = "::jsonb" if column in _JSON and connection.vendor == "postgresql" else ""
    assert sql(f'UPDATE {table} SET "{column}" = %s{cast} WHERE id = %s', value, pk) == 1  # noqa: S608


def edit_record(trail: Trail, data: st.DataObject) -> None:
    pk = data.draw(st.sampled_from(trail.sealed + trail.unsealed), "record")
    column = data.draw(st.sampled_from(sorted(EVENT_VALUES)), "column")
    edit("tokens_auditevent", pk, column, data.draw(EVENT_VALUES[column], "value"))
    (finding,) = trail.findings()
    assert finding.kind == (Kind.EDITED if pk in trail.sealed else Kind.INSERTED)
    assert finding.record == pk


def delete_record(trail: Trail, data: st.DataObject) -> None:
    pk = data.draw(st.sampled_from(trail.sealed), "record")
    sql("DELETE FROM tokens_auditevent WHERE id = %s", pk)
    (finding,) = trail.findings()
    assert (finding.kind, finding.record) == (Kind.DELETED, pk)


def renumber_record(trail: Trail, data: st.DataObject) -> None:
    pk = data.draw(st.sampled_from(trail.sealed), "record")
    other = data.draw(st.sampled_from([-5, 10**12]), "new id")
    edit("tokens_auditevent", pk, "id", other)
    assert {(finding.kind, finding.record) for finding in trail.findings()} == {
        (Kind.DELETED, pk),
        (Kind.INSERTED, other),
    }


def insert_record(trail: Trail, data: st.DataObject) -> None:
    """Made up, or copied; into a sealed batch, or among those that wait."""
    model = AuditEvent.objects.get(pk=data.draw(st.sampled_from(trail.sealed), "copied from"))
    batch = data.draw(st.sampled_from([None, *trail.batches]), "batch")
    forged = AuditEvent(
        **{
            field.attname: getattr(model, field.attname)
            for field in AuditEvent._meta.concrete_fields
            if field.name not in {"id", "batch", "uid"}
        },
        id=data.draw(st.sampled_from([-5, 10**12]), "id"),
        batch=batch,
        uid=uuid.uuid4(),
    )
    if data.draw(st.booleans(), "made up"):
        forged.digest = data.draw(st.sampled_from(["", "0" * 64]), "digest")
        forged.uid = None
    forged.save(force_insert=True)
    for _ in range(2):
        (finding,) = trail.findings()
        assert (finding.kind, finding.record) == (Kind.INSERTED, forged.pk)
        seal_all()  # Sealing it makes it no better.


def swap_records(trail: Trail, data: st.DataObject) -> None:
    """Two records change places, whole; within their batch or between two."""
    pair = data.draw(
        st.lists(st.sampled_from(trail.sealed), min_size=2, max_size=2, unique=True), "records"
    )
    batches = dict(AuditEvent.objects.filter(pk__in=pair).values_list("pk", "batch_id"))
    for now, then in ((pair[0], -1), (pair[1], pair[0]), (-1, pair[1])):
        edit("tokens_auditevent", now, "id", then)
    if batches[pair[0]] != batches[pair[1]] and data.draw(st.booleans(), "batches too"):
        for pk in pair:
            edit("tokens_auditevent", pk, "batch_id", batches[pk])
    findings = trail.findings()
    assert set(pair) <= {finding.record for finding in findings}
    assert {finding.kind for finding in findings} <= {
        Kind.REORDERED,
        Kind.EDITED,
        Kind.INSERTED,
    }


def move_record(trail: Trail, data: st.DataObject) -> None:
    pk = data.draw(st.sampled_from(trail.sealed), "record")
    was = AuditEvent.objects.get(pk=pk).batch_id
    other = data.draw(
        st.sampled_from([None, *(each.pk for each in trail.batches if each.pk != was)]), "to"
    )
    edit("tokens_auditevent", pk, "batch_id", other)
    assert (Kind.REORDERED, pk) in {(finding.kind, finding.record) for finding in trail.findings()}


def edit_batch(trail: Trail, data: st.DataObject) -> None:
    batch = data.draw(st.sampled_from(trail.batches), "batch")
    column = data.draw(st.sampled_from(sorted(BATCH_VALUES)), "column")
    edit("tokens_auditbatch", batch.pk, column, data.draw(BATCH_VALUES[column], "value"))
    findings = trail.findings()
    assert findings
    if column != "number":
        assert batch.number in {finding.batch for finding in findings}


def delete_batch(trail: Trail, data: st.DataObject) -> None:
    """One link out of the middle, or from the beginning, with its records or without."""
    batch = data.draw(st.sampled_from(trail.batches[:-1]), "batch")
    if data.draw(st.booleans(), "with records"):
        sql("DELETE FROM tokens_auditevent WHERE batch_id = %s", batch.pk)
    sql("DELETE FROM tokens_auditbatch WHERE id = %s", batch.pk)
    first = trail.findings()[0]
    assert (first.kind, first.batch) == (Kind.CHAIN_CUT, batch.number + 1)
    assert f"batch {batch.number} is missing" in first.sentence


def swap_batches(trail: Trail, data: st.DataObject) -> None:
    one, two = data.draw(st.permutations(trail.batches), "batches")[:2]
    for pk, number in ((one.pk, 10**12), (two.pk, one.number), (one.pk, two.number)):
        edit("tokens_auditbatch", pk, "number", number)
    assert min(one.number, two.number) in {finding.batch for finding in trail.findings()}


def truncate(trail: Trail, data: st.DataObject) -> None:
    """The last batches, their records, and what was not sealed yet. Then the vault goes on."""
    left = data.draw(st.integers(0, len(trail.batches) - 1), "batches left")
    for batch in trail.batches[left:]:
        sql("DELETE FROM tokens_auditevent WHERE batch_id = %s", batch.pk)
        sql("DELETE FROM tokens_auditbatch WHERE id = %s", batch.pk)
    sql("DELETE FROM tokens_auditevent WHERE batch_id IS NULL AND tenant_id = %s", trail.acme.pk)
    (finding,) = trail.findings()
    assert finding.kind == Kind.ANCHOR_AHEAD
    assert "had 3 batches once" in finding.sentence
    for _ in range(data.draw(st.integers(0, 5), "batches sealed since")):
        act(trail.acme)
        seal_all()
        assert {finding.kind for finding in trail.findings()} <= {
            Kind.ANCHOR_AHEAD,
            Kind.ANCHOR_DIFFERS,
        }
    assert trail.findings()


def give_away(trail: Trail, data: st.DataObject) -> None:
    """A record said to be another tenant's, or nobody's. The other chain may show it too."""
    pk = data.draw(st.sampled_from(trail.sealed + trail.unsealed), "record")
    edit("tokens_auditevent", pk, "tenant_id", data.draw(st.sampled_from([trail.globex.pk, None])))
    found = {finding.record for report in reports().values() for finding in report.findings}
    assert found == {pk}


def pretend_retention(trail: Trail, data: st.DataObject) -> None:
    """What the triggers would let through: a batch said to be dropped, and its records gone."""
    batch = data.draw(st.sampled_from(trail.batches), "batch")
    proof = data.draw(st.sampled_from(["", "0" * 64, batch.digest]), "proof")
    sql(
        "UPDATE tokens_auditbatch SET dropped_at = 5, drop_digest = %s, records = '[]' "
        "WHERE id = %s",
        proof,
        batch.pk,
    )
    sql("DELETE FROM tokens_auditevent WHERE batch_id = %s", batch.pk)
    (finding,) = trail.findings()
    assert (finding.kind, finding.batch) == (Kind.DELETED, batch.number)


def hide_in_a_dropped_batch(trail: Trail, data: st.DataObject) -> None:
    """A record put where the vault itself has dropped what was there."""
    seal_all()
    assert drop.drop_old(before=NOW + 2 * DAY, now=NOW + DAY, until=time.monotonic() + 60)
    assert not AuditBatch.objects.filter(tenant=trail.acme, dropped_at=None).exists()
    batch = data.draw(st.sampled_from(trail.batches), "batch")
    (pk,) = act(trail.acme, at=NOW + DAY)
    edit("tokens_auditevent", pk, "batch_id", batch.pk)
    (finding,) = trail.findings()
    assert (finding.kind, finding.batch, finding.record) == (Kind.INSERTED, batch.number, pk)


ATTACKS = [
    edit_record, delete_record, renumber_record, insert_record, swap_records, move_record,
    edit_batch, delete_batch, swap_batches, truncate, give_away, pretend_retention,
    hide_in_a_dropped_batch,
]  # fmt: skip


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
def test_whoever_has_the_database_and_not_the_key_is_found_and_named(
    attack: Callable[[Trail, st.DataObject], None],
) -> None:
    @examples(
        max_examples=12, deadline=None, suppress_health_check=list(HealthCheck), database=None
    )
    @given(data=st.data())
    def try_it(data: st.DataObject) -> None:
        with transaction.atomic():
            try:
                attack(Trail(), data)
            finally:
                transaction.set_rollback(True)

    try_it()


def test_a_copied_record_is_found_even_where_the_unique_index_was_dropped(acme: Tenant) -> None:
    """The index is no part of the proof."""
    (pk,) = act(acme)
    seal_all()
    event = AuditEvent.objects.get(pk=pk)
    copy = AuditEvent.objects.get(pk=pk)
    copy.pk, copy.batch = pk + 1000, None
    assert seal.entries([event, copy], adopt=seal.NOTHING_OLD)[1][2:] == ["forged"]


def poisoned(tenant_id: int, **columns: object) -> int:
    """A record that somebody made with SQL alone."""
    values = {
        "tenant_id": tenant_id, "tenant_slug": "", "at": 1.5, "actor": "eve", "action": "x",
        "subject": "", "outcome": "done", "address": "", "request_id": "", "detail": "{}",
        "digest": "", **columns,
    }  # fmt: skip
    names, places = ", ".join(values), ", ".join("%s" for _ in values)
    sql(f"INSERT INTO tokens_auditevent ({names}) VALUES ({places})", *values.values())  # noqa: S608
    return AuditEvent.objects.order_by("-pk").values_list("pk", flat=True)[0]


POISON: dict[str, dict[str, object]] = {
    "before all time": {"at": float("-inf")},
    "after all time": {"at": float("inf")},
    "no time": {"at": float("nan")},
    "a number without end": {"detail": '{"n": ' + "9" * 5000 + "}"},
    "a name that is none": {"uid": "nonsense"},
}


def possible(columns: dict[str, object]) -> bool:
    """PostgreSQL's column of uuids takes nothing else, and SQLite takes NaN for NULL."""
    if connection.vendor == "postgresql":
        return "uid" not in columns
    return str(columns.get("at")) != "nan"


@pytest.mark.parametrize("columns", POISON.values(), ids=POISON)
def test_a_record_that_no_vault_could_write_is_sealed_as_forged_and_stops_nothing(
    acme: Tenant, globex: Tenant, columns: dict[str, object]
) -> None:
    if not possible(columns):
        pytest.skip(f"{connection.vendor} does not take it")
    act(acme)
    pk = poisoned(acme.pk, **columns)
    act(globex)
    assert (only_finding().kind, only_finding().record) == (Kind.INSERTED, pk)
    assert seal_all() == 2
    assert not AuditEvent.objects.filter(batch=None).exists()
    assert (only_finding().kind, only_finding().record) == (Kind.INSERTED, pk)
    assert f"record {pk}: was not written like this" in told("verify_audit", refused=True)
    assert AuditBatch.objects.get(tenant=acme).newest_at == NOW


@pytest.mark.parametrize("columns", POISON.values(), ids=POISON)
def test_a_record_that_cannot_be_read_is_a_line_of_an_export_and_the_others_follow(
    acme: Tenant, globex: Tenant, columns: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    if not possible(columns):
        pytest.skip(f"{connection.vendor} does not take it")
    monkeypatch.setattr("tokens.trail.export._PAGE", 2)
    pk = poisoned(acme.pk, **columns)
    act(acme, 3)
    act(globex)
    lines = [json.loads(line) for line in told("export_audit").splitlines()]
    assert len({line["id"] for line in lines}) == len(lines) == 1 + 4 + 2
    (poison,) = (line for line in lines if line["id"] == pk)
    assert poison.get("unreadable", False) == ("at" not in columns)


def test_a_forged_time_does_not_stop_an_export(acme: Tenant) -> None:
    poisoned(acme.pk, at=float("-inf"))
    lines = [json.loads(each) for each in told("export_audit", "--tenant", "acme").splitlines()]
    assert {"at": None, "time": None}.items() <= lines[0].items()


def test_a_chain_that_cannot_be_read_is_a_finding_and_the_others_are_verified(
    acme: Tenant, globex: Tenant
) -> None:
    act(acme)
    act(globex)
    seal_all()
    batch = AuditBatch.objects.get(tenant=acme)
    with triggers.switched_off(connection):
        edit("tokens_auditbatch", batch.pk, "records", "[" + "9" * 5000 + "]")
    printed = told("verify_audit", refused=True)
    assert "unreadable: the chain could not be read to its end" in printed
    assert "globex: whole" in printed


def test_invented_tenants_and_chains_that_fail_do_not_take_the_turns_of_others(
    acme: Tenant, globex: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    seal_all(at=time.time())
    monkeypatch.setattr(seal, "_CHAINS", 1)
    for number in range(3):
        poisoned(10_000_000 + number, at=float("-inf"))
    with triggers.switched_off(connection):
        edit("tokens_auditbatch", AuditBatch.objects.get(tenant=acme).pk, "number", 2**63 - 1)
    act(acme)
    act(globex, at=NOW + 5)
    assert seal.seal_due(now=NOW + 1000) == 0
    assert seal.seal_due(now=NOW + 1020) == 1
    assert AuditBatch.objects.latest("pk").tenant == globex
    assert [seal.seal_due(now=NOW + 1040 + each) for each in range(4)] == [1, 1, 1, 0]


# --- The head outside -----------------------------------------------------------------------------


def forget_what_is_outside() -> None:
    for file in outside.folder("audit").iterdir():
        file.unlink()
    if outside.has_redis():
        outside.in_redis("DEL", anchor._hash(keyring.vault_name()))


def test_a_missing_anchor_is_said_and_not_put_in_its_place(
    acme: Tenant, caplog: pytest.LogCaptureFixture
) -> None:
    act(acme)
    seal_all()
    forget_what_is_outside()
    assert only_finding().kind == Kind.NO_ANCHOR
    act(acme)
    seal_all()
    assert only_finding().kind == Kind.NO_ANCHOR
    assert "missing outside" in caplog.text
    printed = told("verify_audit", refused=True)
    assert "NOT PROVEN WHOLE" in printed
    assert "cannot be told" in printed


def test_an_operator_who_knows_why_has_the_heads_kept_anew(acme: Tenant) -> None:
    act(acme)
    seal_all()
    forget_what_is_outside()
    assert "acme: whole" in told("verify_audit", "--reanchor", "--yes")
    event = AuditEvent.objects.get(action="reanchor_audit")
    assert event.detail == {
        "chain": "acme", "chain_id": acme.pk, "batch": 1, "because": "no_anchor",
    }  # fmt: skip
    seal_all()
    assert whole()


def test_the_heads_of_a_deleted_tenant_are_kept_anew_too(acme: Tenant, globex: Tenant) -> None:
    """That is an act of no tenant: the trail of the deleted one has ended."""
    for tenant in (acme, globex):
        act(tenant)
    seal_all()
    Tenant.objects.filter(pk=acme.pk).delete()
    forget_what_is_outside()
    assert "globex: whole" in told("verify_audit", "--reanchor", "--yes")
    acts = AuditEvent.objects.filter(action="reanchor_audit").order_by("pk")
    assert [(event.tenant_id, event.detail["chain"]) for event in acts] == [
        (None, "acme"),
        (globex.pk, "globex"),
    ]
    seal_all()
    assert whole()


def test_heads_are_not_kept_anew_over_a_chain_that_was_edited(acme: Tenant) -> None:
    (pk,) = act(acme)
    seal_all()
    forget_what_is_outside()
    with triggers.switched_off(connection):
        sql("UPDATE tokens_auditevent SET actor = 'nobody' WHERE id = %s", pk)
    told("verify_audit", "--reanchor", "--yes", refused=True)
    assert not AuditEvent.objects.filter(action="reanchor_audit").exists()
    assert anchor.find().heads == {}


def test_the_head_of_each_batch_is_a_line_for_a_log_collector(
    acme: Tenant, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    act(acme)
    seal_all()
    batch = AuditBatch.objects.get()
    assert f"audit chain {acme.pk} (acme): batch 1 of 2 record(s), digest {batch.digest}" in (
        caplog.text
    )


def test_a_database_that_is_ahead_of_its_anchor_is_whole(acme: Tenant) -> None:
    """A process was killed between the commit and the anchor; the next batch makes up for it."""
    act(acme)
    seal_all()
    kept = anchor.find().heads[acme.pk][0]
    act(acme)
    seal_all()
    assert anchor.replace(acme.pk, kept)
    assert whole()
    act(acme)
    seal_all()
    assert {head.number for head in anchor.find().heads[acme.pk]} == {3}


def test_a_sealer_that_comes_late_with_its_head_takes_the_newer_one_for_no_cut(
    acme: Tenant, caplog: pytest.LogCaptureFixture
) -> None:
    act(acme)
    seal_all()
    first = AuditBatch.objects.get()
    act(acme)
    seal_all()
    anchor.keep(acme.pk, anchor.Head(first.number, first.digest))
    assert {head.number for head in anchor.find().heads[acme.pk]} == {2}
    assert "does not fit" not in caplog.text


def test_a_chain_whose_first_head_can_be_kept_nowhere_is_not_begun(
    acme: Tenant, settings: Settings, tmp_path: Path
) -> None:
    settings.REDIS_URL = None
    settings.OAUTHVAULT_DATA_DIR = tmp_path / "not" / "there"
    assert seal_all() == 0
    settings.OAUTHVAULT_DATA_DIR = tmp_path
    assert seal_all() == 1
    assert whole()


def test_what_is_kept_outside_and_is_no_head_is_said(acme: Tenant) -> None:
    act(acme)
    seal_all()
    (outside.folder("audit") / f"{keyring.vault_name()}.{acme.pk}").write_text("nonsense")
    assert reports()["acme"].findings[0].kind == Kind.ANCHOR_DIFFERS


# --- The database refuses -------------------------------------------------------------------------

REFUSED = {
    "edit a sealed record": "UPDATE tokens_auditevent SET actor = 'x' WHERE batch_id IS NOT NULL",
    "edit an unsealed one": "UPDATE tokens_auditevent SET actor = 'x' WHERE batch_id IS NULL",
    "edit while sealing": "UPDATE tokens_auditevent SET actor = 'x', batch_id = "
    "(SELECT min(id) FROM tokens_auditbatch) WHERE batch_id IS NULL",
    "unseal": "UPDATE tokens_auditevent SET batch_id = NULL WHERE batch_id IS NOT NULL",
    "delete a sealed record": "DELETE FROM tokens_auditevent WHERE batch_id IS NOT NULL",
    "delete one that is not sealed": "DELETE FROM tokens_auditevent WHERE batch_id IS NULL",
    "delete all": "DELETE FROM tokens_auditevent",
    "edit a batch": "UPDATE tokens_auditbatch SET count = 7",
    "edit a batch while dropping": "UPDATE tokens_auditbatch SET count = 7, dropped_at = 5, "
    "records = '[]', drop_digest = digest",
    "drop without a proof": "UPDATE tokens_auditbatch SET dropped_at = 5, records = '[]'",
    "delete a batch": "DELETE FROM tokens_auditbatch",
}  # fmt: skip


@pytest.mark.parametrize("statement", REFUSED.values(), ids=REFUSED)
def test_the_database_itself_refuses_to(acme: Tenant, statement: str) -> None:
    act(acme)
    seal_all()
    act(acme)
    before = list(AuditEvent.objects.values()), list(AuditBatch.objects.values())
    with pytest.raises(DatabaseError, match="the audit trail is not changed"), transaction.atomic():
        sql(statement)
    assert (list(AuditEvent.objects.values()), list(AuditBatch.objects.values())) == before


def test_the_database_refuses_a_record_that_is_born_sealed(acme: Tenant) -> None:
    act(acme)
    seal_all()
    batch = AuditBatch.objects.get()
    event = AuditEvent(tenant=acme, at=NOW, actor="x", action="x", batch=batch)
    with pytest.raises(DatabaseError, match="not changed"), transaction.atomic():
        event.save()


def test_no_record_is_put_into_a_dropped_batch_or_one_of_another_chain(
    acme: Tenant, globex: Tenant
) -> None:
    """It could be deleted there without a trace."""
    act(acme)
    seal_all()
    assert drop.drop_old(before=NOW + DAY, now=NOW + DAY, until=time.monotonic() + 60)
    act(globex)
    seal_all(at=NOW + DAY)
    (pk,) = act(acme, at=NOW + DAY)
    for batch in AuditBatch.objects.all():
        with pytest.raises(DatabaseError, match="not changed"), transaction.atomic():
            sql("UPDATE tokens_auditevent SET batch_id = %s WHERE id = %s", batch.pk, pk)
    assert AuditEvent.objects.get(pk=pk).batch is None
    assert AuditBatch.objects.filter(dropped_at=None).exists()
    assert whole()


def test_a_batch_that_the_vault_did_not_seal_is_found_with_what_was_deleted_through_it(
    acme: Tenant,
) -> None:
    """The triggers hold no key: they let a made-up batch pass. It stays, and is none of ours."""
    act(acme)
    seal_all()
    last = AuditBatch.objects.get()
    (pk,) = act(acme)
    made_up = AuditBatch.objects.create(
        chain_id=acme.pk, tenant=acme, number=2, first_id=pk, last_id=pk, count=1, newest_at=1,
        content="0" * 64, previous=last.digest, digest="0" * 64, sealed_at=NOW,
    )  # fmt: skip
    sql("UPDATE tokens_auditevent SET batch_id = %s WHERE id = %s", made_up.pk, pk)
    AuditBatch.objects.filter(pk=made_up.pk).update(dropped_at=5, drop_digest="0" * 64)
    sql("DELETE FROM tokens_auditevent WHERE id = %s", pk)
    with pytest.raises(DatabaseError, match="not changed"), transaction.atomic():
        sql("DELETE FROM tokens_auditbatch WHERE id = %s", made_up.pk)
    assert (only_finding().kind, only_finding().batch) == (Kind.EDITED, 2)


def test_no_tenant_begins_the_chain_of_another_or_goes_on_with_it(
    acme: Tenant, globex: Tenant
) -> None:
    """What it put there could not be deleted, and that chain not be sealed any more."""
    others = (acme.pk, 0)
    with isolation.of(globex.pk):
        for chain_id in others:
            with pytest.raises(IntegrityError, match="a_chain_is_"), transaction.atomic():
                AuditChain.objects.create(pk=chain_id, tenant=globex)
    for number in (2, 3):
        act(acme)
        act(None)
        seal_all()
        with isolation.of(globex.pk):
            for chain_id in others:
                with pytest.raises(IntegrityError, match="a_batch_is_"), transaction.atomic():
                    AuditBatch.objects.create(
                        chain_id=chain_id, tenant=globex, number=number, first_id=1, last_id=1,
                        count=1, newest_at=1, sealed_at=NOW,
                    )  # fmt: skip
    assert set(AuditBatch.objects.filter(number=2).values_list("chain_id", flat=True)) == {*others}
    assert whole()


def test_what_django_would_do_is_refused_too(acme: Tenant) -> None:
    act(acme)
    for forbidden in (
        lambda: AuditEvent.objects.filter(tenant=acme).delete(),
        lambda: AuditEvent.objects.update(outcome="done!"),
        lambda: AuditEvent.objects.filter(tenant=acme)[0].save(),
    ):
        with pytest.raises(DatabaseError, match="not changed"), transaction.atomic():
            forbidden()


def test_truncate_is_refused(acme: Tenant) -> None:
    if connection.vendor != "postgresql":
        pytest.skip("SQLite has no TRUNCATE")
    sql("SET CONSTRAINTS ALL IMMEDIATE")  # Or it would be refused for another reason.
    for table in triggers.TABLES:
        with pytest.raises(DatabaseError, match="not changed"), transaction.atomic():
            sql(f"TRUNCATE {table} CASCADE")


# --- What is old ----------------------------------------------------------------------------------


def test_whole_batches_are_dropped_for_their_age_and_the_chain_stays_whole(
    acme: Tenant, globex: Tenant, settings: Settings
) -> None:
    old = NOW + DAY
    act(acme, 3, at=old)
    act(globex, 1, at=old)
    seal_all(at=old)
    young = act(acme, 2, at=old + 10 * DAY)
    seal_all(at=old + 10 * DAY)
    waits = act(acme, 1, at=old + 10 * DAY)
    then = old + settings.OAUTHVAULT_AUDIT_DAYS * DAY
    assert history.forget_old(now=then + 100)
    left = AuditEvent.objects.filter(tenant=acme).order_by("pk")
    assert list(left.values_list("pk", flat=True)) == young + waits
    assert whole()
    assert (reports()["acme"].dropped, reports()["acme"].sealed) == (4, 2)
    assert "4 dropped for their age" in told("verify_audit", "--tenant", "acme")
    assert AuditBatch.objects.filter(tenant=acme).count() == 2
    assert not AuditEvent.objects.filter(tenant=globex).exists()


def test_a_batch_in_which_something_is_wrong_is_not_dropped(
    acme: Tenant, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    (pk,) = act(acme)
    seal_all()
    with triggers.switched_off(connection):
        sql("UPDATE tokens_auditevent SET actor = 'nobody' WHERE id = %s", pk)
    history.forget_old(now=NOW + DAY + settings.OAUTHVAULT_AUDIT_DAYS * DAY)
    assert AuditEvent.objects.filter(pk=pk).exists()
    assert (only_finding().kind, only_finding().record) == (Kind.EDITED, pk)
    assert f"record {pk}: was edited" in caplog.text


def a_credential(tenant: Tenant) -> OAuthCredential:
    key, _ = keyring.sealing_key(tenant)
    return OAuthCredential.objects.create(
        tenant=tenant, user_id="alice", expires_at=1, access_token_encrypted="x", data_key=key
    )


def test_old_refreshes_and_hand_outs_are_forgotten_and_young_or_open_ones_are_not(
    acme: Tenant, globex: Tenant, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "_PAGE", 2)
    horizon = NOW - settings.OAUTHVAULT_HISTORY_DAYS * DAY
    for tenant in (acme, globex):
        credential = a_credential(tenant)
        for started, outcome in (
            *[(horizon - each, Outcome.REFRESHED) for each in range(1, 6)],
            (horizon - 9, Outcome.IN_FLIGHT),
            (horizon + 9, Outcome.REFRESHED),
        ):
            RefreshAttempt.objects.create(
                tenant=tenant, credential=credential, lease_id=uuid.uuid4(), cause=Cause.SWEEP,
                generation=1, started_at=started, outcome=outcome,
            )  # fmt: skip
        for minute in (-3, -2, -1, 0, 1):
            HandOut.objects.create(
                tenant=tenant, credential=credential, actor="x", minute=horizon // 60 + minute
            )
    assert history.forget_old(now=NOW)
    for tenant in (acme, globex):
        left = RefreshAttempt.objects.filter(tenant=tenant).order_by("started_at")
        assert [each.outcome for each in left] == [Outcome.IN_FLIGHT, Outcome.REFRESHED]
        assert HandOut.objects.filter(tenant=tenant).count() == 2


def test_a_refresh_whose_answer_may_still_come_home_is_not_forgotten(
    acme: Tenant, settings: Settings
) -> None:
    """Nor is the data key that this answer was sealed under destroyed meanwhile."""
    credential = a_credential(acme)
    began = NOW - settings.OAUTHVAULT_HISTORY_DAYS * DAY - 9
    for generation, outcome, saved in (
        (credential.generation, Outcome.UNKNOWN, False),
        (credential.generation, Outcome.NOT_SAVED, False),
        (credential.generation, Outcome.UNKNOWN, True),  # its process said that none had come
        (credential.generation - 1, Outcome.UNKNOWN, False),
    ):
        RefreshAttempt.objects.create(
            tenant=acme, credential=credential, lease_id=uuid.uuid4(), cause=Cause.SWEEP,
            generation=generation, started_at=began, outcome=outcome, answer_saved=saved,
        )  # fmt: skip
    assert history.forget_old(now=NOW)
    left = RefreshAttempt.objects.order_by("pk").values_list("generation", "answer_saved")
    assert list(left) == [(credential.generation, False)] * 2
    OAuthCredential.objects.filter(pk=credential.pk).update(generation=credential.generation + 1)
    assert history.forget_old(now=NOW + 3600)
    assert not RefreshAttempt.objects.exists()


def test_the_old_is_looked_after_once_an_hour_or_at_once_where_time_was_up(
    acme: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert history.forget_old(now=NOW)
    assert not history.forget_old(now=NOW + 3599)
    monkeypatch.setattr(history, "_LONGEST", -1.0)
    assert history.forget_old(now=NOW + 3600)
    assert history.forget_old(now=NOW + 3620)


def test_a_clock_that_was_ahead_keeps_nothing_from_being_looked_after(acme: Tenant) -> None:
    assert history.forget_old(now=NOW)
    assert history.forget_old(now=NOW + 366 * DAY)
    assert history.forget_old(now=NOW + DAY)
    assert not history.forget_old(now=NOW + DAY + 3599)


def test_a_clock_that_is_far_ahead_takes_a_day_of_the_trail_and_not_all_of_it(
    acme: Tenant, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    seal_all(at=time.time())
    horizon = NOW - settings.OAUTHVAULT_AUDIT_DAYS * DAY
    days = []
    for day in range(5):
        days += act(acme, 1, at=horizon + day * DAY)
        seal_all()

    def left() -> list[int]:
        rows = AuditEvent.objects.filter(pk__in=days).order_by("pk")
        return list(rows.values_list("pk", flat=True))

    assert history.forget_old(now=NOW)
    assert left() == days
    far = NOW + 366 * DAY
    for number, hours in enumerate((0, 1), start=1):
        assert history.forget_old(now=far + hours * 3600)
        assert left() == days[number:]
    assert "the vault was away, or the clock is wrong" in caplog.text
    caplog.clear()
    # Set right: what was judged too early is not judged again.
    assert history.forget_old(now=NOW + 3600)
    assert left() == days[2:]
    assert history.forget_old(now=NOW + 2.5 * DAY)
    assert left() == days[2:], "from now on by the clock, a day at a time"
    assert history.forget_old(now=NOW + 2.6 * DAY)
    assert left() == days[3:]


def test_what_is_old_or_unsealed_is_found_by_its_index(acme: Tenant, globex: Tenant) -> None:
    chain = AuditChain.objects.create(pk=acme.pk, tenant=acme)
    AuditBatch.objects.bulk_create(
        AuditBatch(tenant=acme, chain=chain, number=each, first_id=1, last_id=1, count=1,
                   newest_at=NOW + each, sealed_at=NOW)
        for each in range(1, 300)
    )  # fmt: skip
    # What there is is another tenant's, so that its own index is the cheapest by far.
    for tenant, at in ((acme, NOW), (globex, NOW - DAY)):
        person = OAuthCredential.objects.create(
            tenant=tenant, user_id="alice", standing=Standing.REVOKED, expires_at=0
        )
        HandOut.objects.bulk_create(
            HandOut(tenant=tenant, credential=person, actor="key", minute=int(at) // 60 + each)
            for each in range(1000)
        )
        RefreshAttempt.objects.bulk_create(
            RefreshAttempt(
                tenant=tenant, credential=person, lease_id=uuid.uuid4(), generation=1,
                started_at=at + each, outcome=Outcome.REFRESHED,
            )
            for each in range(1000)
        )  # fmt: skip
    AuditEvent.objects.bulk_create(
        AuditEvent(tenant=globex, tenant_slug="globex", at=NOW, actor="test", action="revoke")
        for _ in range(2000)
    )
    if connection.vendor == "postgresql":
        # To sort one row costs nothing. What is unsealed should come in its order.
        sql("SET LOCAL enable_sort = off")
    plans = {
        "attempt_recent": history.attempts(tenant_id=acme.pk, before=NOW),
        "hand_out_minute": history.hand_outs(tenant_id=acme.pk, before=NOW),
        "audit_unsealed": AuditEvent.objects.filter(tenant=acme, batch=None).order_by("id"),
        "audit_batch_kept": AuditBatch.objects.filter(
            chain_id=acme.pk, dropped_at=None, newest_at__lt=NOW
        ),
    }
    for index, rows in plans.items():
        assert index in plan(rows), index


# --- Commands -------------------------------------------------------------------------------------


def test_verify_names_the_first_broken_link_and_exits_with_1(acme: Tenant, globex: Tenant) -> None:
    (pk,) = act(acme)
    seal_all()
    assert "acme: whole; 2 records in 1 batch; 0 not sealed yet" in told("verify_audit")
    with triggers.switched_off(connection):
        sql("DELETE FROM tokens_auditevent WHERE id = %s", pk)
    printed = told("verify_audit", refused=True)
    assert f"acme: batch 1, record {pk}: was deleted" in printed
    assert "globex: whole" in printed
    assert "globex: whole" in told("verify_audit", "--tenant", "globex")
    printed = told("verify_audit", "--json", refused=True)
    facts = {each["tenant"]: each for each in json.loads(printed[: printed.rindex("]") + 1])}
    assert facts["globex"]["whole"]
    assert facts["acme"]["findings"] == [
        {"kind": "deleted", "batch": 1, "record": pk, "sentence": "was deleted"}
    ]
    chain = AuditChain.objects.get(pk=acme.pk)
    assert chain.broken == f"batch 1, record {pk}: was deleted"


def test_verify_seals_first_what_is_old_enough(acme: Tenant) -> None:
    act(acme, 2, at=1)
    AuditEvent.objects.get(action="create_tenant")
    told("verify_audit")
    assert not AuditEvent.objects.filter(batch=None).exists()
    act(acme, 1, at=time.time() + 1000)
    assert "1 not sealed yet" in told("verify_audit")


def test_an_export_of_one_tenant_holds_nothing_of_another(acme: Tenant, globex: Tenant) -> None:
    act(acme, 3)
    act(globex, 3)
    act(None, 1)
    seal_all()
    lines = [json.loads(line) for line in told("export_audit", "--tenant", "acme").splitlines()]
    assert {(line["tenant"], line["tenant_id"]) for line in lines} == {("acme", acme.pk)}
    assert len(lines) == 4
    assert {line["batch"] for line in lines} == {1}
    assert [line["at"] for line in lines] == sorted(line["at"] for line in lines)
    assert len(told("export_audit").splitlines()) == 9


def test_a_new_tenant_of_an_old_name_is_not_given_the_old_ones_trail(acme: Tenant) -> None:
    gone = acme.pk
    act(acme, 2)
    Tenant.objects.filter(pk=acme.pk).delete()
    create_tenant(slug="acme", actor="test", now=NOW)
    assert len(told("export_audit", "--tenant", "acme").splitlines()) == 1
    assert len(told("export_audit", "--tenant", f"id:{gone}").splitlines()) == 3
    assert "no tenant" in told("export_audit", "--tenant", "nobody", refused=True)


def test_an_export_is_bounded_by_days_and_goes_page_by_page(
    acme: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tokens.trail.export._PAGE", 2)
    day = datetime(2031, 5, 5, tzinfo=UTC).timestamp()
    for at in (day - 1, day, day + DAY - 1, day + DAY - 1, day + DAY):
        act(acme, at=at)
    arguments = ("export_audit", "--tenant", "acme")
    assert len(told(*arguments).splitlines()) == 6
    of_day = told(*arguments, "--since=2031-05-05", "--until=2031-05-05").splitlines()
    assert [json.loads(line)["at"] for line in of_day] == [day, day + DAY - 1, day + DAY - 1]
    assert len({json.loads(line)["id"] for line in of_day}) == 3
    with pytest.raises(ArgumentTypeError, match="no date"):
        export_audit._end("yesterday")


NOT_SAID_LIKE_THAT = {
    "an id in other digits": ("--tenant", "id:²"),
    "an id that is none": ("--tenant", "id:acme"),
    "an id that no tenant could have": ("--tenant", "id:99999999999999999999"),
}
NO_DATES = {
    "the end of all dates": ("--until", "9999-12-31"),
    "a date without its lines": ("--until", "20260131"),
    "a week": ("--since", "2026-W05-1"),
    "the end before the beginning": ("--since=2026-02-02", "--until=2026-02-01"),
}


@pytest.mark.parametrize(
    "arguments",
    [
        *[(command, *said) for command in ("verify_audit", "export_audit")
          for said in NOT_SAID_LIKE_THAT.values()],
        *[("export_audit", *said) for said in NO_DATES.values()],
    ],
    ids=" ".join,
)  # fmt: skip
def test_what_is_asked_in_a_wrong_way_is_refused_in_a_sentence(
    acme: Tenant, arguments: tuple[str, ...]
) -> None:
    with pytest.raises(CommandError) as refusal:
        call_command(*arguments, stdout=StringIO(), stderr=StringIO())
    assert refusal.value.returncode == 2 or "Error: argument --" in str(refusal.value)
    assert len(str(refusal.value).splitlines()) == 1


def test_nothing_is_said_of_a_tenant_that_never_was(acme: Tenant) -> None:
    for command in ("verify_audit", "export_audit"):
        assert "nothing is known of a tenant with id 999" in told(
            command, "--tenant", "id:999", refused=True
        )
    assert "acme: whole" in told("verify_audit", "--tenant", f"id:{acme.pk}")
    assert "(no tenant): whole" in told("verify_audit", "--tenant", "id:0")


def test_an_export_ends_with_the_day_or_before_the_moment(acme: Tenant) -> None:
    day = datetime(2031, 5, 5, tzinfo=UTC).timestamp()
    act(acme, at=day + 100)
    for until, lines in (
        ("2031-05-05", 1), ("2031-05-05T00:01:40", 0), ("2031-05-05 00:01:41", 1),
        ("2031-05-05T02:01:41+02:00", 1),
    ):  # fmt: skip
        exported = told(
            "export_audit", "--tenant", "acme", "--since=2031-05-05", f"--until={until}"
        )
        assert len(exported.splitlines()) == lines, until
