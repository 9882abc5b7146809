"""Counts that are kept: of refreshes with what they count, of hand-outs behind them."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
from django.db import DatabaseError, connection, transaction

from tokens import errors, handouts, isolation, vault
from tokens.handouts import RESULTS
from tokens.models import HandOutTally, Outcome, RefreshTally, Tenant, TenantStatistics
from tokens.statistics import ENDINGS, LATENCY_BUCKETS_MS, count_refresh, count_rejection

pytestmark = pytest.mark.django_db
committed = pytest.mark.django_db(transaction=True)


def tallied() -> dict[tuple[str, int], tuple[int, int]]:
    return {
        (row.outcome, row.le_ms): (row.count, row.total_ms) for row in RefreshTally.objects.all()
    }


def results() -> dict[tuple[str, str], int]:
    return {
        (row.tenant.slug, row.result): row.count
        for row in HandOutTally.objects.select_related("tenant")
    }


# --- refreshes -------------------------------------------------------------------------------


@pytest.mark.parametrize("outcome", ENDINGS)
def test_each_outcome_is_a_success_a_failure_or_neither(acme: Tenant, outcome: Outcome) -> None:
    count_refresh(tenant=acme, outcome=outcome, latency_ms=70)
    kept = TenantStatistics.objects.filter(tenant=acme).values_list(
        "refreshes_succeeded", "refreshes_failed", "auth_failures"
    )
    expected = {
        Outcome.REFRESHED: [(1, 0, 0)],
        Outcome.SUPERSEDED: [],
        Outcome.INVALID_GRANT: [(0, 1, 1)],
    }.get(outcome, [(0, 1, 0)])
    assert list(kept) == expected
    assert tallied() == {(outcome.value, 100): (1, 70)}


@pytest.mark.parametrize(
    ("milliseconds", "bucket"),
    [(0, 50), (50, 50), (51, 100), (30_000, 30_000), (30_001, 0), (86_400_000, 0)],
)
def test_a_refresh_falls_into_the_smallest_bucket_that_holds_it(
    acme: Tenant, milliseconds: int, bucket: int
) -> None:
    count_refresh(tenant=acme, outcome=Outcome.REFRESHED, latency_ms=milliseconds)
    assert tallied() == {("refreshed", bucket): (1, milliseconds)}


def test_the_buckets_rise_and_none_is_the_one_without_a_bound() -> None:
    assert list(LATENCY_BUCKETS_MS) == sorted(set(LATENCY_BUCKETS_MS))
    assert min(LATENCY_BUCKETS_MS) > 0


def test_tenants_are_counted_apart(acme: Tenant, globex: Tenant) -> None:
    count_refresh(tenant=acme, outcome=Outcome.REFRESHED, latency_ms=1)
    count_refresh(tenant=globex, outcome=Outcome.UNREACHABLE, latency_ms=1)
    count_rejection(tenant=globex)
    assert set(RefreshTally.objects.values_list("tenant__slug", "outcome", "count")) == {
        ("acme", "refreshed", 1),
        ("globex", "unreachable", 1),
    }
    assert TenantStatistics.objects.get(tenant=globex).auth_failures == 1


def test_what_is_rolled_back_was_not_counted(acme: Tenant) -> None:
    with transaction.atomic():
        count_refresh(tenant=acme, outcome=Outcome.REFRESHED, latency_ms=1)
        transaction.set_rollback(True)
    assert tallied() == {}
    assert not TenantStatistics.objects.exists()


@committed
def test_saves_that_count_the_first_of_a_kind_at_once_all_go_through(acme: Tenant) -> None:
    """Each inserts the same rows, in a transaction with more in it, again and again."""
    together = Barrier(8)

    @isolation.every_tenant()
    def save(number: int) -> None:
        outcomes = [Outcome.REFRESHED, Outcome.SUPERSEDED, Outcome.UNKNOWN]
        try:
            together.wait(timeout=60)
            for step in range(6):
                with transaction.atomic():
                    outcome = outcomes[(number + step) % 3]
                    count_refresh(tenant=acme, outcome=outcome, latency_ms=10 + 100 * (step % 2))
        finally:
            connection.close()

    with ThreadPoolExecutor(8) as pool:
        for saved in [pool.submit(save, number) for number in range(8)]:
            saved.result()
    assert sum(count for count, _ in tallied().values()) == 48
    kept = TenantStatistics.objects.get()
    assert (kept.refreshes_succeeded, kept.refreshes_failed) == (16, 16)


# --- questions for a token -------------------------------------------------------------------


def test_refusals_are_counted_by_their_code_and_written_behind(acme: Tenant) -> None:
    for code in ("no_token", "revoked", "no_token"):
        handouts.note_refusal(tenant_id=acme.pk, code=code)
    assert results() == {}
    handouts.write()
    handouts.note_refusal(tenant_id=acme.pk, code="no_token")
    handouts.write()
    handouts.write()
    assert results() == {("acme", "no_token"): 3, ("acme", "revoked"): 1}


def test_a_code_that_nobody_knows_is_another_one(acme: Tenant) -> None:
    for code in ("x" * 500, "invented", ""):
        handouts.note_refusal(tenant_id=acme.pk, code=code)
    handouts.write()
    assert results() == {("acme", "other"): 3}


def test_every_refusal_of_the_vault_has_a_result_of_its_own() -> None:
    raised = {
        each.code
        for each in vars(vault).values()
        if isinstance(each, type) and issubclass(each, errors.VaultError)
    } - {errors.VaultError.code}
    assert raised <= set(RESULTS)
    assert len(raised) > 10


def test_a_result_fits_into_its_column() -> None:
    longest = HandOutTally._meta.get_field("result").max_length
    assert longest is not None
    assert max(map(len, RESULTS)) <= longest


def test_what_cannot_be_written_is_kept(acme: Tenant, monkeypatch: pytest.MonkeyPatch) -> None:
    handouts.note_refusal(tenant_id=acme.pk, code="revoked")

    def away(_results: object) -> None:
        raise DatabaseError("away")

    with monkeypatch.context() as patched:
        patched.setattr(handouts, "_write_results", away)
        handouts.write()
    handouts.note_refusal(tenant_id=acme.pk, code="revoked")
    handouts.write()
    assert results() == {("acme", "revoked"): 2}


def test_the_counts_of_a_tenant_that_is_gone_hold_up_nobody_elses(
    acme: Tenant, globex: Tenant
) -> None:
    handouts.note_refusal(tenant_id=acme.pk, code="revoked")
    handouts.note_refusal(tenant_id=globex.pk + 1000, code="revoked")
    handouts.write()
    assert results() == {("acme", "revoked"): 1}


@committed
def test_two_processes_that_write_at_once_lose_nothing(acme: Tenant, globex: Tenant) -> None:
    together = Barrier(4)

    @isolation.every_tenant()
    def write() -> None:
        try:
            together.wait(timeout=60)
            for _ in range(5):
                with transaction.atomic():
                    handouts._write_results(
                        {(globex.pk, "revoked"): 1, (acme.pk, "no_token"): 2, (acme.pk, "other"): 1}
                    )
        finally:
            connection.close()

    with ThreadPoolExecutor(4) as pool:
        for written in [pool.submit(write) for _ in range(4)]:
            written.result()
    assert results() == {
        ("acme", "no_token"): 40,
        ("acme", "other"): 20,
        ("globex", "revoked"): 20,
    }
