"""What somebody with the database can do beside a chain: its name outside, its beginning, the
rows that no chain looks at, and what keeps it from being read or sealed."""

import errno
import json
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO

import pytest
from django.core.management import call_command
from django.db import IntegrityError, connection, transaction
from pytest_django import Settings

from oauthvault.env import ConfigurationError, child_environment
from tests.emptying import triggers
from tests.vault.test_audit_chain import (
    DAY,
    NOW,
    act,
    edit,
    forget_what_is_outside,
    only_finding,
    poisoned,
    reports,
    seal_all,
    sql,
    told,
    upgraded,
    whole,
)
from tokens import epoch, keyring, metrics, outside
from tokens.models import AuditBatch, AuditChain, AuditEvent, Tenant, TokenFingerprint, VaultKey
from tokens.tenants import create_tenant
from tokens.trail import anchor, drop, seal, verify
from tokens.trail import triggers as guards
from tokens.trail.finding import Kind

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("data_dir")]


def call_the_vault_something_else() -> None:
    name: object = uuid.uuid4()
    if connection.vendor == "sqlite":
        name = uuid.uuid4().hex
    sql("UPDATE tokens_deployment SET vault_id = %s, epoch = 0", name)
    forget_the_process()


def forget_the_process() -> None:
    for memory in (keyring, epoch, outside):
        memory.forget()


def unsealed_anew() -> None:
    """As if nothing had ever been sealed."""
    sql("UPDATE tokens_auditevent SET batch_id = NULL")
    sql("DELETE FROM tokens_auditbatch")


@contextmanager
def constraints_dropped() -> Iterator[None]:
    """As an owner of the tables can."""
    if connection.vendor != "sqlite":
        pytest.skip("the role of the tests owns no table, and drops no constraint")
    with triggers.switched_off(connection):
        sql("PRAGMA ignore_check_constraints = ON")
        sql("PRAGMA defer_foreign_keys = ON")
        yield
        sql("PRAGMA ignore_check_constraints = OFF")


def made_up_batch(tenant: Tenant, number: int, *, newest_at: float = 1) -> AuditBatch:
    previous = AuditBatch.objects.filter(tenant=tenant, number=number - 1).first()
    return AuditBatch.objects.create(
        chain_id=tenant.pk, tenant=tenant, number=number, first_id=1, last_id=1, count=1,
        newest_at=newest_at, content="0" * 64, digest="0" * 64, sealed_at=NOW,
        previous=previous.digest if previous is not None else "",
    )  # fmt: skip


# --- The name under which heads are kept -----------------------------------------------------


def test_heads_are_found_whatever_the_database_calls_the_vault(acme: Tenant) -> None:
    (gone, _) = act(acme, 2)
    seal_all()
    with triggers.switched_off(connection):
        unsealed_anew()
        sql("DELETE FROM tokens_auditevent WHERE id = %s", gone)
    call_the_vault_something_else()
    for _ in range(2):
        assert only_finding().kind in {Kind.ANCHOR_AHEAD, Kind.ANCHOR_DIFFERS}
        seal_all()


def test_heads_of_a_chain_of_which_the_database_knows_nothing_are_a_finding(acme: Tenant) -> None:
    act(acme, 2)
    seal_all()
    with triggers.switched_off(connection):
        sql("DELETE FROM tokens_auditevent")
        sql("DELETE FROM tokens_auditbatch")
        sql("DELETE FROM tokens_auditchain")
    call_the_vault_something_else()
    assert only_finding(f"id:{acme.pk}").kind == Kind.ANCHOR_AHEAD


# --- What is from before there were chains -------------------------------------------------------


def test_a_trail_that_is_made_to_look_like_one_from_before_the_chains_is_found(
    acme: Tenant, globex: Tenant
) -> None:
    """No digest anywhere, no batch, another name, and a note that all of it is old."""
    for tenant in (acme, globex):
        act(tenant, 3)
    seal_all()
    with triggers.switched_off(connection):
        unsealed_anew()
        sql("UPDATE tokens_auditevent SET digest = '', uid = NULL, actor = 'operator nobody'")
        AuditChain.objects.all().delete()
    for tenant_id in (None, acme.pk, globex.pk):
        AuditChain.objects.create(pk=tenant_id or 0, tenant_id=tenant_id, adopted_to=10**9)
    call_the_vault_something_else()
    for head in (Kind.ANCHOR_AHEAD, Kind.ANCHOR_DIFFERS):
        found = reports()
        for name in ("acme", "globex"):
            assert found[name].adopted == 0
            assert {finding.kind for finding in found[name].findings} == {Kind.INSERTED, head}
        seal_all()


def test_up_to_where_a_chain_is_old_is_said_for_each_and_holds_for_no_other(
    acme: Tenant, globex: Tenant
) -> None:
    upgraded()
    act(acme)
    mine, theirs = (AuditChain.objects.get(pk=tenant.pk) for tenant in (acme, globex))
    assert theirs.adopted_to == AuditEvent.objects.get(tenant=globex).pk
    AuditChain.objects.filter(pk=acme.pk).update(
        adopted_to=theirs.adopted_to, adopted_digest=theirs.adopted_digest
    )
    assert [finding.record for finding in reports()["acme"].findings] == [mine.adopted_to]


def test_nothing_is_taken_for_old_where_the_old_records_were_dropped(acme: Tenant) -> None:
    """Their ids are free again, and their batch lists them no more."""
    (free,) = act(acme, at=NOW - 500 * DAY)
    act(acme, at=NOW - 500 * DAY)
    upgraded()
    seal_all()
    assert whole()
    assert drop.drop_old(before=NOW, now=NOW, until=time.monotonic() + 60)
    AuditEvent.objects.create(
        pk=free, tenant=acme, tenant_slug="acme", at=NOW, actor="operator nobody", action="revoke"
    )
    for _ in range(2):
        assert (only_finding().kind, only_finding().record) == (Kind.INSERTED, free)
        seal_all()


# --- What was dropped for its age ----------------------------------------------------------------


def put_back(copy: AuditEvent) -> int:
    copy.pk, copy.batch = copy.pk + 1000, None
    copy.save(force_insert=True)
    return int(copy.pk)


@pytest.mark.parametrize("left", [0, 2], ids=["all was dropped", "some is left"])
def test_a_copy_of_a_record_that_was_dropped_is_no_record(acme: Tenant, left: int) -> None:
    """Its digest fits, and no batch knows it any more."""
    seal_all(at=time.time())
    *_, newest = act(acme, 2, at=NOW - 500 * DAY)
    seal_all()
    copy = AuditEvent.objects.get(pk=newest)
    if left:
        act(acme, left)
        seal_all()
    assert drop.drop_old(before=NOW, now=NOW, until=time.monotonic() + 60)
    replayed = put_back(copy)
    for _ in range(2):
        assert (only_finding().kind, only_finding().record) == (Kind.INSERTED, replayed)
        assert "put a copy of it back" in only_finding().sentence
        seal_all()


def test_nothing_is_dropped_while_a_record_as_old_waits_to_be_sealed(acme: Tenant) -> None:
    """It would be taken for a copy."""
    seal_all(at=time.time())
    act(acme, at=NOW)
    seal_all()
    late = act(acme, at=NOW - 1)
    assert drop.drop_old(before=NOW + DAY, now=NOW + DAY, until=time.monotonic() + 60)
    assert AuditBatch.objects.filter(chain_id=acme.pk, dropped_at=None, number=2).exists()
    seal_all()
    assert whole()
    assert drop.drop_old(before=NOW + DAY, now=NOW + DAY, until=time.monotonic() + 60)
    assert whole()
    assert not AuditEvent.objects.filter(pk__in=late).exists()


def test_a_made_up_batch_has_no_record_called_a_copy(acme: Tenant) -> None:
    seal_all(at=time.time())
    batch = made_up_batch(acme, 2, newest_at=NOW + DAY)
    AuditBatch.objects.filter(pk=batch.pk).update(dropped_at=5, drop_digest="0" * 64)
    act(acme)
    seal_all()
    assert (only_finding().kind, only_finding().batch) == (Kind.EDITED, 2)


# --- The keys of the vault's own ---------------------------------------------------------------


@pytest.mark.parametrize("purpose", [keyring.FINGERPRINTS, keyring.API_KEYS, keyring.AUDIT_TRAIL])
def test_a_key_under_which_something_was_written_is_not_made_anew(
    acme: Tenant, purpose: str
) -> None:
    act(acme)
    VaultKey.objects.filter(purpose=purpose).delete()
    forget_the_process()
    with pytest.raises(ConfigurationError, match=purpose):
        keyring.ensure_vault_keys(keyring.load_keyring())
    assert not VaultKey.objects.filter(purpose=purpose).exists()


def test_all_of_them_are_not_made_anew_beside_what_was_written_under_them(acme: Tenant) -> None:
    VaultKey.objects.all().delete()
    forget_the_process()
    with pytest.raises(ConfigurationError, match="fingerprints, api keys, audit trail"):
        keyring.ensure_vault_keys(keyring.load_keyring())
    assert not TokenFingerprint.objects.exists()
    with triggers.switched_off(connection):
        AuditEvent.objects.all().delete()
    keyring.ensure_vault_keys(keyring.load_keyring())
    assert VaultKey.objects.count() == 4


def test_a_trail_whose_heads_are_outside_does_not_begin_a_second_time(acme: Tenant) -> None:
    """Or whoever deletes its key, and every digest, would have all that is there called old."""
    act(acme)
    seal_all()
    VaultKey.objects.filter(purpose=keyring.AUDIT_TRAIL).delete()
    with triggers.switched_off(connection):
        unsealed_anew()
        sql("UPDATE tokens_auditevent SET digest = '', uid = NULL")
    forget_the_process()
    assert not AuditBatch.objects.exists()
    with pytest.raises(ConfigurationError, match="heads of its chains are kept outside"):
        anchor.refuse_a_second_beginning()
    forget_what_is_outside()
    anchor.refuse_a_second_beginning()


# --- Rows that no chain looks at -----------------------------------------------------------------


@pytest.mark.parametrize("number", [0, -5])
def test_no_batch_lies_before_the_first_one(acme: Tenant, number: int) -> None:
    """What was put in there, or deleted through it, nobody would ever look for."""
    act(acme)
    seal_all()
    with pytest.raises(IntegrityError), transaction.atomic():
        made_up_batch(acme, number)
    with constraints_dropped():
        batch = made_up_batch(acme, number)
        pk = poisoned(acme.pk)
        sql("UPDATE tokens_auditevent SET batch_id = %s WHERE id = %s", batch.pk, pk)
    first, second = reports()["acme"].findings
    assert (first.kind, first.batch) == (Kind.INSERTED, number)
    assert (second.kind, second.batch) == (Kind.EDITED, number)
    assert drop.drop_old(before=NOW, now=NOW, until=time.monotonic() + 60)
    assert AuditEvent.objects.filter(pk=pk).exists()


@pytest.mark.parametrize("tenant_id", [0, -1])
def test_a_record_of_a_tenant_that_cannot_be_is_not_stored(acme: Tenant, tenant_id: int) -> None:
    with pytest.raises(IntegrityError), transaction.atomic():
        poisoned(tenant_id)


STRANGE = {"none": 0, "negative": -1, "a text": "abc", "bytes": b"\xff", "a fraction": 1.5}


@pytest.mark.parametrize("tenant_id", STRANGE.values(), ids=STRANGE)
def test_a_record_of_no_chain_is_found_and_keeps_no_other_from_being_read(
    acme: Tenant, tenant_id: object
) -> None:
    act(acme)
    seal_all()
    with constraints_dropped():
        pk = poisoned(acme.pk)
        sql("UPDATE tokens_auditevent SET tenant_id = %s WHERE id = %s", tenant_id, pk)
    for _ in range(2):
        finding = only_finding("(no tenant)")
        assert (finding.kind, finding.record) == (Kind.INSERTED, pk)
        assert reports()["acme"].is_whole
        seal_all()
    printed = told("verify_audit", "--json", refused=True)
    assert json.loads(printed[: printed.rindex("]") + 1])[0]["findings"][0]["record"] == pk
    assert len(told("export_audit", "--tenant", "acme").splitlines()) == 2


@pytest.mark.parametrize("chain_id", [-5, "abc", 1.5], ids=str)
def test_a_batch_of_no_chain_is_found(acme: Tenant, chain_id: object) -> None:
    act(acme)
    seal_all()
    with constraints_dropped():
        batch = made_up_batch(acme, 2)
        sql("UPDATE tokens_auditbatch SET chain_id = %s WHERE id = %s", chain_id, batch.pk)
        assert f"(its row has id {batch.pk})" in str(only_finding("(no tenant)"))
        sql("DELETE FROM tokens_auditbatch WHERE id = %s", batch.pk)


# --- What cannot be read -------------------------------------------------------------------------

UNREADABLE: dict[str, object] = {
    "number": "abc", "chain_id": "abc", "records": "not json", "newest_at": "abc",
    "dropped_at": "abc", "digest": b"\xff", "count": "abc", "previous": b"\xff",
}  # fmt: skip


@pytest.mark.parametrize("column", UNREADABLE)
def test_a_batch_that_cannot_be_read_is_a_finding_and_stops_nothing(
    acme: Tenant, globex: Tenant, column: str
) -> None:
    for tenant in (acme, globex):
        act(tenant)
    seal_all()
    batch = AuditBatch.objects.get(tenant=acme)
    with constraints_dropped():
        edit("tokens_auditbatch", batch.pk, column, UNREADABLE[column])
        for more in ((), ("--json",)):
            assert "not proven whole" in told("verify_audit", *more, refused=True)
        assert reports()["globex"].is_whole
        assert drop.drop_old(before=NOW + DAY, now=NOW + DAY, until=time.monotonic() + 60)
        assert not AuditEvent.objects.filter(tenant=globex).exists()
        assert AuditEvent.objects.filter(tenant=acme).exists()
        told("export_audit")
        edit("tokens_auditbatch", batch.pk, "chain_id", acme.pk)


def test_what_was_found_before_a_chain_breaks_is_said_first(acme: Tenant) -> None:
    for _ in range(3):
        act(acme)
        seal_all()
    pk = AuditEvent.objects.filter(batch__number=1).latest("pk").pk
    last = AuditBatch.objects.get(number=3).pk
    with triggers.switched_off(connection):
        sql("DELETE FROM tokens_auditevent WHERE id = %s", pk)
        edit("tokens_auditbatch", last, "records", "[" + "9" * 5000 + "]")
    deleted, unreadable = reports()["acme"].findings
    assert (deleted.kind, deleted.batch, deleted.record) == (Kind.DELETED, 1, pk)
    assert unreadable.kind == Kind.UNREADABLE
    with triggers.switched_off(connection):
        edit("tokens_auditbatch", last, "records", "5")
    assert [(each.kind, each.batch) for each in reports()["acme"].findings] == [
        (Kind.DELETED, 1),
        (Kind.EDITED, 3),
    ]


# --- What keeps a chain from being sealed --------------------------------------------------------


def test_a_chain_that_is_said_to_be_of_another_tenant_is_sealed_all_the_same(
    acme: Tenant, globex: Tenant
) -> None:
    """Whose a chain is follows from its id."""
    seal_all(at=time.time())
    act(acme, 3, at=1000)
    with constraints_dropped():
        sql("UPDATE tokens_auditchain SET tenant_id = %s WHERE id = %s", globex.pk, acme.pk)
        assert "acme: whole; 4 records in 2 batches; 0 not sealed yet" in told(
            "verify_audit",
            refused=True,  # for want of the triggers
        )
    assert {batch.tenant_id for batch in AuditBatch.objects.filter(chain_id=acme.pk)} == {acme.pk}


def test_a_sealing_that_fails_is_a_finding_of_its_chain(acme: Tenant, globex: Tenant) -> None:
    if connection.vendor != "sqlite":
        pytest.skip("the role of the tests owns no table, and makes no trigger")
    seal_all(at=time.time())
    act(acme, at=time.time() - 2 * seal.AGE)
    sql(
        "CREATE TRIGGER nothing_is_sealed BEFORE INSERT ON tokens_auditbatch "
        "BEGIN SELECT RAISE(ABORT, 'by mallory'); END"
    )
    printed = told("verify_audit", refused=True)
    assert "unsealed: what waits could not be sealed" in printed
    assert "globex: whole" in printed


def test_a_record_that_nobody_seals_is_a_finding_after_ten_minutes(acme: Tenant) -> None:
    seal_all(at=time.time())
    pk, _ = act(acme, 2, at=NOW)
    (before,) = verify.verify([acme.pk], now=NOW + verify.LONGEST_WAIT - 1)
    assert (before.findings, before.unsealed) == ([], 2)
    (after,) = verify.verify([acme.pk], now=NOW + verify.LONGEST_WAIT + 1)
    assert [(each.kind, each.record) for each in after.findings] == [(Kind.UNSEALED, pk)]


# --- A head that lags behind ---------------------------------------------------------------------


def a_head_that_lags(tenant: Tenant) -> None:
    act(tenant)
    seal_all()
    (kept,) = set(anchor.find().heads[tenant.pk])
    for _ in range(4):
        act(tenant)
        seal_all()
    assert anchor.replace(tenant.pk, kept)


def test_a_head_that_lags_behind_a_whole_chain_is_said_and_brought_forward(acme: Tenant) -> None:
    a_head_that_lags(acme)
    printed = told("verify_audit")
    assert "acme: whole" in printed
    assert "the head outside was at batch 1, and is at 5 now" in printed
    assert {head.number for head in anchor.find().heads[acme.pk]} == {5}
    assert "was at batch" not in told("verify_audit")


def test_a_head_that_lags_behind_a_broken_chain_stays_where_it_is(acme: Tenant) -> None:
    a_head_that_lags(acme)
    pk = AuditEvent.objects.filter(batch__number=4).latest("pk").pk
    with triggers.switched_off(connection):
        sql("DELETE FROM tokens_auditevent WHERE id = %s", pk)
    told("verify_audit", refused=True)
    assert {head.number for head in anchor.find().heads[acme.pk]} == {1}


def test_a_head_that_cannot_be_brought_forward_is_a_finding(
    acme: Tenant, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """How much was cut off since, nobody would know."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "the disk is full")

    if settings.REDIS_URL is not None:
        pytest.skip("Redis takes it here")
    a_head_that_lags(acme)
    monkeypatch.setattr(os, "replace", full)
    assert only_finding().kind == Kind.ANCHOR_BEHIND


# --- The triggers ------------------------------------------------------------------------------


def test_a_fresh_database_has_every_trigger() -> None:
    assert guards.missing(connection) == []


@pytest.mark.skipif("DATABASE_URL" in child_environment(), reason="SQLite: drops its own")
def test_triggers_that_were_taken_away_are_missed_and_made_anew(acme: Tenant) -> None:
    act(acme)
    seal_all(at=time.time())
    names = ["tokens_auditbatch_delete", "tokens_auditevent_update"]
    for name in names:
        sql(f"DROP TRIGGER {name}")
    # One that refuses nothing is none.
    sql(f"CREATE TRIGGER {names[1]} BEFORE UPDATE ON tokens_auditevent WHEN 0 BEGIN SELECT 1; END")
    assert [name.partition(": ")[2] for name in guards.missing(connection)] == names
    assert "`oauthvault migrate` makes them anew" in told("verify_audit", refused=True)
    findings = told("doctor", "--json", refused=True)
    (trail,) = (
        each
        for each in json.loads(findings[: findings.rindex("]") + 1])
        if each["what"] == "audit trail"
    )
    assert trail["state"] == "wrong"
    assert names[0] in trail["detail"]
    assert b"oauthvault_audit_triggers_missing 2.0" in metrics.exposition()
    assert "made anew: tokens_auditbatch: tokens_auditbatch_delete" in told("migrate")
    assert guards.missing(connection) == []
    assert told("migrate", "-v", "0") == ""


def test_a_broken_chain_is_counted_in_the_metrics(acme: Tenant) -> None:
    AuditChain.objects.create(pk=acme.pk, tenant=acme, tenant_slug="acme", broken="record 3: …")
    assert b"oauthvault_audit_chains_broken 1.0" in metrics.exposition()


def test_what_is_said_of_a_chain_tells_the_dead_tenant_from_its_heir(
    acme: Tenant,
) -> None:
    (edited,) = act(acme)
    seal_all()
    with triggers.switched_off(connection):
        sql("UPDATE tokens_auditevent SET actor = 'operator nobody' WHERE id = %s", edited)
    call_command("delete_tenant", "acme", yes=True, stdout=StringIO())
    create_tenant(slug="acme", actor="test", now=NOW)
    printed = told("verify_audit", refused=True)
    assert f"acme (deleted, id:{acme.pk}): NOT PROVEN WHOLE" in printed
    assert f"record {edited}: was edited (it says: revoke of user-0, by operator nobody)" in printed
    assert "acme: whole" in printed
    assert "1 of 2 chains of the audit trail is not proven whole" in printed


def test_reanchoring_says_what_it_did(acme: Tenant) -> None:
    act(acme)
    seal_all()
    assert "every chain is whole" in told("verify_audit", "--reanchor", "--yes")
    forget_what_is_outside()
    printed = told("verify_audit", "--reanchor", "--yes")
    assert "1 head was kept anew, and recorded: acme." in printed
    with triggers.switched_off(connection):
        sql("UPDATE tokens_auditevent SET actor = 'operator nobody' WHERE subject = 'user-0'")
    printed = told("verify_audit", "--reanchor", "--yes", refused=True)
    assert "No head was kept anew: it is the records themselves" in printed
