"""A look at the line of all tenants: ids and counts, whoever looks, and nobody sees more by it."""

import re
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from django.db import connection, transaction
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as examples
from hypothesis import strategies as st
from pytest_django import Settings

from tests.simulator import Simulator
from tests.vault.test_isolation import on_postgresql, raw
from tokens import clock, due, isolation, line
from tokens.keyring import sealing_key
from tokens.line import LONGEST_MARK, Kind
from tokens.models import Cause, OAuthCredential, RefreshAttempt, Tenant, Upstream
from tokens.models.credential import longest_lease
from tokens.tenants import create_tenant, suspend_tenant

LEASE = "00000000-0000-4000-8000-000000000000"
LOOK = f"SELECT * FROM line_due(%s, {LONGEST_MARK}, {longest_lease()}, 0, 'any', %s)"  # noqa: S608


def in_line(tenant: Tenant, user_id: str, **columns: Any) -> OAuthCredential:
    data_key, _ = sealing_key(tenant)
    values = {
        "access_token_encrypted": "sealed",
        "refresh_token_encrypted": "sealed",
        "expires_at": int(time.time()),
        "refresh_due_at": int(time.time()) - 100,
    } | columns
    return OAuthCredential(tenant=tenant, user_id=user_id, data_key=data_key, **values)


def put_in_line(tenant: Tenant, *user_ids: str, **columns: Any) -> list[OAuthCredential]:
    return OAuthCredential.objects.bulk_create(
        in_line(tenant, user_id, **columns) for user_id in user_ids
    )


# --- The database and the models say the same ----------------------------------------------

# Seconds from now. Leases are judged by a clock that goes on meanwhile, the others to the point.
_DUE_IN = [-100, -50, -1, 0, 0, 1, 100, None]
_TAKEN_FOR = [None, None, None, -1.0, 0.0, 0.5, 60.0, LONGEST_MARK, LONGEST_MARK + 0.5]
_LEASED_FOR = [None, None, None, -60.0, 60.0, longest_lease() - 60, longest_lease() + 60]
_ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "whose": st.integers(0, 5),
            "due_in": st.sampled_from(_DUE_IN),
            "taken_for": st.sampled_from(_TAKEN_FOR),
            "leased_for": st.sampled_from(_LEASED_FOR),
            "columns": st.fixed_dictionaries(
                {
                    "suspended_at": st.sampled_from([None, None, None, 1]),
                    "unanswered_presentations": st.sampled_from([0, 0, 1, 2]),
                    "refresh_count": st.sampled_from([0, 1, 1]),
                    "consecutive_failures": st.sampled_from([0, 0, 1]),
                }
            ),
        }
    ),
    min_size=10,
    max_size=25,
)


@pytest.fixture
def six_tenants(db: None) -> list[Tenant]:
    """One of them suspended, and one that asks for no refreshes ahead."""
    tenants = [create_tenant(slug=f"t{n}", actor="test", now=time.time()) for n in range(6)]
    for tenant, wants in zip(tenants, (None, True, None, True, False, True), strict=True):
        tenant.auto_refresh = wants
        tenant.save()
    suspend_tenant(tenant=tenants[-1], actor="test", now=time.time())
    return tenants


def test_the_database_finds_in_the_line_what_the_models_find(
    six_tenants: list[Tenant], settings: Settings
) -> None:
    settings.CLOCK_OFFSET = 7200.0
    found: Counter[object] = Counter()

    @examples(
        max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), database=None,
        phases=[Phase.generate],
    )  # fmt: skip
    @given(rows=_ROWS, most=st.integers(1, 4))
    def compare(rows: list[dict[str, Any]], most: int) -> None:
        OAuthCredential.objects.all().delete()
        now = clock.now()
        OAuthCredential.objects.bulk_create(
            in_line(
                six_tenants[row["whose"]],
                f"user{number}",
                refresh_due_at=_after(int(now), row["due_in"]),
                taken_until=_after(now, row["taken_for"]),
                lease_until=_after(now, row["leased_for"]),
                lease_id=row["leased_for"] and LEASE,
                **row["columns"],
            )
            for number, row in enumerate(rows)
        )
        due_at = dict(OAuthCredential.objects.values_list("pk", "refresh_due_at"))

        for kind in Kind:
            wait = list(line.waiting(now=now, kind=kind).values_list("tenant_id", "pk"))
            with isolation.nobody():
                everything = line.oldest(now=now, most=1000, kind=kind)
                first = line.oldest(now=now, most=most, kind=kind)
            assert sorted(everything) == sorted(wait)
            assert [due_at[pk] for _, pk in everything] == [due_at[pk] for _, pk in wait]
            assert [due_at[pk] for _, pk in first] == [due_at[pk] for _, pk in wait[:most]]
            found[kind] += len(wait)

        wait_for = set(line.waiting(now=now).values_list("tenant_id", flat=True))
        taken = OAuthCredential.objects.filter(line.is_taken(now=now))
        busy = Counter(taken.values_list("tenant_id", flat=True))
        anything = OAuthCredential.objects.due(now=now).exists()
        for beside in ([], [six_tenants[0].pk], [tenant.pk for tenant in six_tenants[1:]]):
            with isolation.nobody():
                others = line.tenants(now=now, beside=beside, most=100)
                some = line.tenants(now=now, beside=beside, most=1)
            assert sorted(others) == sorted(wait_for - set(beside))
            assert len(some) == min(1, len(others))
        with isolation.nobody():
            assert line.under_way(now=now) == busy
            assert line.is_anything_due(now=now) == anything
        found["tenants"] += len(wait_for)
        found["busy"] += len(busy)

    compare()
    assert set(found) > set(Kind)
    assert all(found.values()), found


def _after(moment: float, seconds: float | None) -> float | None:
    return None if seconds is None else moment + seconds


# --- For whom the sweep is at work ----------------------------------------------------------


@contextmanager
def told() -> Iterator[list[tuple[str, str]]]:
    """For whom each statement within is sent, as it is sent, and what it is."""
    statements: list[tuple[str, str]] = []
    execute = psycopg.Cursor.execute

    def noting(self: Any, query: Any, *args: Any, **kwargs: Any) -> Any:
        said = re.match(r"SELECT set_config\('oauthvault.tenants', '([^']*)'.*?;\n", str(query))
        statements.append((said[1], str(query)[said.end() :]) if said else ("", str(query)))
        return execute(self, query, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(psycopg.Cursor, "execute", noting)
        yield statements


def for_whom(statements: list[tuple[str, str]], *tables: str) -> set[str]:
    return {whom for whom, text in statements if any(f'"{table}"' in text for table in tables)}


@on_postgresql
@pytest.mark.django_db(transaction=True)
def test_a_take_is_at_work_for_the_tenants_of_what_it_takes_and_for_nobody_else(
    acme: Tenant, globex: Tenant, upstream: Simulator
) -> None:
    now = clock.now()
    put_in_line(acme, "alice", "bob")
    put_in_line(globex, "carol", refresh_due_at=int(now) - 1)
    with isolation.nobody(), told() as statements:
        taken = due.take(now=now, most=1)
        assert [tenant_id for tenant_id, _, _ in taken] == [acme.pk]
        assert for_whom(statements, "claude_oauth_tokens") == {str(acme.pk)}
        rest = due.take(now=now, most=9)
        due.put_back(taken)
        assert due.take_asked_for(taken, now=now) == taken
        due.postpone(taken[0], now=now)
    both = ",".join(str(pk) for pk in sorted((acme.pk, globex.pk)))
    assert {tenant_id for tenant_id, _, _ in rest} == {acme.pk, globex.pk}
    assert for_whom(statements, "claude_oauth_tokens", "tokens_tenant") == {str(acme.pk), both}
    assert {whom for whom, _ in statements} == {"", str(acme.pk), both}


@on_postgresql
@pytest.mark.django_db(transaction=True)
def test_no_branch_of_a_take_is_at_work_for_every_tenant(
    acme: Tenant, globex: Tenant, default_tenant: Tenant, upstream: Simulator,
    settings: Settings, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """A long line of one tenant, refreshes that requests have begun, an open circuit."""
    settings.OAUTHVAULT_REFRESHES_AT_ONCE = 8
    monkeypatch.setattr(due, "_PAGE", 3)
    now = clock.now()
    put_in_line(acme, *(f"user{number}" for number in range(9)), refresh_due_at=int(now) - 1000)
    put_in_line(globex, "carol")
    for asking in put_in_line(default_tenant, *"abcdefgh", taken_until=now + 45):
        RefreshAttempt.objects.create(
            tenant=default_tenant, credential=asking, cause=Cause.HAND_OUT, generation=1,
            started_at=now, lease_id=f"00000000-0000-4000-8000-{asking.pk:012}",
        )  # fmt: skip
    with isolation.nobody(), told() as statements:
        first = due.take(now=now, most=9)
        assert {tenant_id for tenant_id, _, _ in first} == {acme.pk, globex.pk}
        assert for_whom(statements, "tokens_refreshattempt") == {str(default_tenant.pk)}
    OAuthCredential.objects.update(taken_until=None)
    Upstream.objects.create(token_url=settings.CLAUDE_OAUTH_TOKEN_URL, circuit_open_until=now - 1)
    with isolation.nobody(), told() as probing:
        assert len(due.take(now=now, most=9)) == 1
    everybody = {whom for whom, _ in statements + probing}
    assert "*" not in everybody
    assert {str(tenant.pk) for tenant in (acme, globex, default_tenant)} < everybody


def test_a_take_of_nothing_asks_nothing_of_anybodys_rows(db: None) -> None:
    with isolation.nobody():
        assert due.take(now=time.time(), most=9) == []
        assert due.take_asked_for([], now=time.time()) == []
        due.put_back([])


# --- The functions of the database ----------------------------------------------------------


@on_postgresql
@pytest.mark.django_db(transaction=True)
def test_whoever_looks_across_tenants_sees_afterwards_what_they_saw_before(
    acme: Tenant, globex: Tenant
) -> None:
    """In the same transaction, in the same statement, and after an error within the look."""
    put_in_line(acme, "alice", "bob")
    put_in_line(globex, "carol")
    count = "(SELECT count(*) FROM claude_oauth_tokens)"
    for whom, seen in ((str(acme.pk), 2), ("", 0)):
        # A cursor that tells the database nothing for whom it is.
        with transaction.atomic(), psycopg.ClientCursor(connection.connection) as session:

            def ask(statement: str, *values: object) -> list[Any]:
                return session.execute(statement, values).fetchall()

            ask("SELECT set_config('oauthvault.tenants', %s, true)", whom)
            within = "SELECT current_setting('oauthvault.tenants'), " + count
            assert ask(within) == [(whom, seen)]
            assert len(ask(LOOK, time.time(), 9)) == 3
            assert ask(within) == [(whom, seen)]
            looked = f"SELECT {count}, count(*), {count} FROM ({LOOK}) AS looked"  # noqa: S608
            assert ask(looked, time.time(), 9) == [(seen, 3, seen)]
            session.execute("SAVEPOINT before")
            with pytest.raises(psycopg.errors.InvalidRowCountInLimitClause):
                ask(LOOK, time.time(), -1)
            session.execute("ROLLBACK TO SAVEPOINT before")
            assert ask(within) == [(whom, seen)]
    with isolation.nobody():
        assert len(raw(LOOK, time.time(), 9)) == 3
        assert raw("SELECT count(*) FROM claude_oauth_tokens") == [(0,)]
        assert raw("SELECT current_setting('oauthvault.tenants', true)")[0][0] in (None, "")


@on_postgresql
@pytest.mark.django_db
def test_what_looks_across_tenants_gives_ids_and_counts_and_can_write_nothing() -> None:
    """Every function with its owner's rights, so that a new one is looked at too."""
    functions = raw(
        "SELECT proname, pg_get_function_result(oid), provolatile, proconfig, "
        "has_function_privilege('public', oid, 'EXECUTE'), proowner = current_user::regrole "
        "FROM pg_proc WHERE prosecdef AND pronamespace = 'oauthvault'::regnamespace"
    )
    gives = {
        "anything_due": "TABLE(found boolean)",
        "line_due": "TABLE(tenant_id bigint, credential_id bigint)",
        "refreshes_under_way": "TABLE(tenant_id bigint, refreshes bigint)",
        "tenants_due": "TABLE(tenant_id bigint)",
    }
    assert {name: result for name, result, *_ in functions} == gives
    for name, _, volatility, settings_of_it, everybody, own in functions:
        assert (volatility, everybody, own) == ("s", False, False), name
        assert "search_path=oauthvault, pg_temp" in settings_of_it, name  # type: ignore[operator]
