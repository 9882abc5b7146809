"""A sweep with nothing due costs the same with a thousand rows as with a million."""

import time
from collections.abc import Callable

import pytest
from django.conf import settings
from django.db import connection
from django.db.models import Q

from tokens import endings, line
from tokens.clock import DatabaseNow
from tokens.keyring import sealing_key
from tokens.line import Kind
from tokens.models import OAuthCredential, Outcome, RefreshAttempt, Standing, Tenant

pytestmark = pytest.mark.django_db

RowsRead = Callable[[Callable[[], object]], dict[str, int]]


def plan(queryset) -> str:  # type: ignore[no-untyped-def]
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            # What earlier tests have left in the statistics, and in the indexes, is no choice.
            cursor.execute("ANALYZE")
            # Empty tables are read whole whatever indexes they have; this asks for the choice.
            cursor.execute("SET LOCAL enable_seqscan = off")
    return str(queryset.explain())


@pytest.fixture
def many(acme: Tenant) -> None:
    """Rows that none of the partial indexes has."""
    OAuthCredential.objects.bulk_create(
        OAuthCredential(tenant=acme, user_id=f"user-{number}", expires_at=1, standing="revoked")
        for number in range(2000)
    )


@pytest.mark.usefixtures("many")
def test_what_is_due_is_found_by_its_partial_index() -> None:
    assert "credential_due" in plan(OAuthCredential.objects.due(now=time.time())[:500])


@pytest.mark.usefixtures("many")
def test_what_a_killed_process_left_is_found_by_partial_indexes() -> None:
    exhausted = OAuthCredential.objects.filter(
        standing=Standing.ACTIVE,
        unanswered_presentations__gte=settings.MOST_PRESENTATIONS,
        lease_until__lt=time.time(),
    )
    assert "credential_exhausted" in plan(exhausted)
    in_flight = RefreshAttempt.objects.filter(
        Q(started_at__lt=time.time()) | Q(started_at__gt=time.time() + 1800),
        outcome=Outcome.IN_FLIGHT,
    ).order_by()
    assert "attempt_in_flight" in plan(in_flight)
    ahead = OAuthCredential.objects.filter(
        taken_until__gt=time.time() + 1800, lease_until__gt=DatabaseNow() + 1800.0
    ).order_by()
    assert "credential_taken" in plan(ahead)


@pytest.mark.usefixtures("many")
def test_what_is_to_be_announced_is_found_by_its_partial_index() -> None:
    assert "credential_announce" in plan(endings.due(now=time.time())[:200])


@pytest.fixture
def rows_read(many: None) -> RowsRead:
    """How many rows (entries of an index) a look reads, by what it reads them from."""
    if connection.vendor != "postgresql":
        pytest.skip("what is read inside of PostgreSQL's functions")
    places = (
        "claude_oauth_tokens", "credential_due", "credential_due_by_tenant", "credential_taken",
    )  # fmt: skip

    def counted() -> dict[str, int]:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT name, pg_stat_get_xact_tuples_returned(name::regclass) "
                "FROM unnest(%s::text[]) AS name",
                [list(places)],
            )
            return dict(cursor.fetchall())

    def _read(look: Callable[[], object]) -> dict[str, int]:
        with connection.cursor() as cursor:
            cursor.execute("ANALYZE")
        # What earlier tests have left in the indexes is passed over from the second time on.
        look()
        before = counted()
        look()
        return {place: read - before[place] for place, read in counted().items()}

    return _read


@pytest.fixture
def waiting_rows(acme: Tenant, globex: Tenant) -> Callable[..., None]:
    def _fill(tenant: Tenant, count: int, **columns: float) -> None:
        data_key, _ = sealing_key(tenant)
        OAuthCredential.objects.bulk_create(
            OAuthCredential(
                tenant=tenant, user_id=f"due-{number}", expires_at=1, data_key=data_key,
                access_token_encrypted="sealed", refresh_token_encrypted="sealed", **columns,
            )
            for number in range(count)
        )  # fmt: skip

    return _fill


def test_a_look_across_tenants_reads_nothing_where_nothing_is_due(
    acme: Tenant, waiting_rows: Callable[..., None], rows_read: RowsRead
) -> None:
    now = time.time()
    waiting_rows(acme, 1000, refresh_due_at=int(now) + 1000)
    nothing = dict.fromkeys(rows_read(lambda: None), 0)
    looks: dict[str, Callable[[], object]] = {
        "the oldest": lambda: line.oldest(now=now, most=500),
        "a probe": lambda: line.oldest(now=now, most=1, kind=Kind.SOUND),
        "tenants": lambda: line.tenants(now=now, beside=[], most=200),
        "under way": lambda: line.under_way(now=now),
    }
    for name, look in looks.items():
        assert rows_read(look) == nothing, name
    # Which is the first, and not due.
    assert rows_read(lambda: line.is_anything_due(now=now)) == nothing | {"credential_due": 1}


def test_a_look_across_tenants_reads_no_further_than_a_page(
    acme: Tenant, globex: Tenant, waiting_rows: Callable[..., None], rows_read: RowsRead
) -> None:
    crowd = Tenant.objects.bulk_create(Tenant(slug=f"t{number}") for number in range(40))
    OAuthCredential.objects.bulk_create(
        OAuthCredential(tenant=tenant, user_id=str(number), expires_at=1, standing="revoked")
        for tenant in crowd
        for number in range(50)
    )
    now = time.time()
    waiting_rows(acme, 2000, refresh_due_at=int(now) - 1000)
    waiting_rows(globex, 5, refresh_due_at=int(now), taken_until=now - 1)
    nothing = dict.fromkeys(rows_read(lambda: None), 0)
    assert len(line.oldest(now=now, most=50)) == 50
    assert rows_read(lambda: line.oldest(now=now, most=50)) == nothing | {"credential_due": 50}
    assert line.is_anything_due(now=now)
    assert rows_read(lambda: line.is_anything_due(now=now)) == nothing | {"credential_due": 1}
    assert line.tenants(now=now, beside=[acme.pk], most=200) == [globex.pk]
    assert rows_read(lambda: line.tenants(now=now, beside=[acme.pk], most=200)) == nothing | {
        "credential_due_by_tenant": 1
    }
    assert line.under_way(now=now - 2) == {globex.pk: 5}
    assert rows_read(lambda: line.under_way(now=now - 2)) == nothing | {"credential_taken": 5}
