"""Whose rows code may see: said by nobody, seen by nobody; and once more by PostgreSQL."""

import ast
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from celery import shared_task
from django.apps import apps
from django.db import (
    DatabaseError,
    NotSupportedError,
    ProgrammingError,
    connection,
    models,
    transaction,
)

from tests.conftest import Store
from tests.simulator import Simulator
from tests.source import tree_of
from tests.vault.conftest import Fill
from tokens import endings, isolation, vault
from tokens.isolation import IsolationError
from tokens.keyring import api_key_digest
from tokens.models import DataKey, OAuthCredential, Standing, Tenant, TokenFingerprint
from tokens.models.scoped import ScopedManager, ScopedQuerySet
from tokens.refresh.abandoned import settle_abandoned
from tokens.trail import seal

pytestmark = pytest.mark.django_db(transaction=True)
on_postgresql = pytest.mark.skipif(
    "connection.vendor != 'postgresql'", reason="row-level security is PostgreSQL's"
)
HOUSE = Path(__file__).resolve().parent.parent.parent


def of_tenants() -> list[type[models.Model]]:
    """Every model of ours whose rows belong to a tenant, and the tenant itself."""
    ours = [model for model in apps.get_models() if model._meta.app_label in ("tokens", "api")]
    return [
        model
        for model in ours
        if model is Tenant or any(field.name == "tenant" for field in model._meta.fields)
    ]


def everything() -> dict[str, list[object]]:
    return {
        model.__name__: list(model._default_manager.order_by("pk").values())
        for model in of_tenants()
    }


@pytest.fixture
def alone() -> Iterator[None]:
    with isolation.nobody():
        yield


@pytest.fixture
def people(
    acme: Tenant, globex: Tenant, upstream: Simulator, store: Store
) -> dict[str, OAuthCredential]:
    return {
        "alice": store(acme, "alice", upstream.new_login("alice")),
        "bob": store(acme, "bob", upstream.new_login("bob")),
        "carol": store(globex, "carol", upstream.new_login("carol")),
    }


@pytest.fixture
def two_whole(acme: Tenant, globex: Tenant, fill: Fill, data_dir: Path) -> tuple[Tenant, Tenant]:
    """Two tenants, each with a row in every table that has a tenant."""
    for tenant in (acme, globex):
        fill(tenant)
    seal.seal_due(now=time.time() + 2 * seal.AGE)
    for model in of_tenants():
        for tenant in (acme, globex):
            mine = {"pk" if model is Tenant else "tenant": tenant.pk}
            assert model._default_manager.filter(**mine).exists(), model
    return acme, globex


# --- In Python -----------------------------------------------------------------------------


@pytest.mark.parametrize("model", of_tenants(), ids=lambda model: model.__name__)
def test_every_model_of_a_tenant_shows_the_current_tenants_rows_and_refuses_nobodys(
    model: type[models.Model], acme: Tenant
) -> None:
    # The second is Django's own, by which it reads and writes single rows.
    for manager in (model._default_manager, model._base_manager):
        assert isinstance(manager, ScopedManager)
        assert isinstance(manager.all(), ScopedQuerySet)
        with isolation.nobody(), pytest.raises(IsolationError, match=model.__name__):
            manager.count()
        with isolation.of(acme.pk):
            assert str(acme.pk) in str(manager.all().query)


def test_a_forgotten_filter_finds_the_current_tenants_rows_only(
    people: dict[str, OAuthCredential], acme: Tenant, globex: Tenant
) -> None:
    def seen() -> set[str]:
        return set(OAuthCredential.objects.values_list("user_id", flat=True))

    with isolation.of(acme.pk):
        assert seen() == {"alice", "bob"}
        assert OAuthCredential.objects.filter(user_id="carol").update(is_max=False) == 0
        assert set(Tenant.objects.all()) == {acme}
    with isolation.of(acme.pk, globex.pk):
        assert seen() == {"alice", "bob", "carol"}


def test_a_scope_is_narrowed_and_never_moved_to_another_tenant(
    acme: Tenant, globex: Tenant
) -> None:
    with isolation.of(acme.pk, globex.pk), isolation.of(globex.pk):
        with pytest.raises(IsolationError), isolation.of(acme.pk):
            pass
        assert isolation.current().tenant_ids == {globex.pk}


def test_a_compiled_query_is_refused_for_another_tenant(
    people: dict[str, OAuthCredential], acme: Tenant, globex: Tenant
) -> None:
    with isolation.of(globex.pk), pytest.raises(IsolationError):
        vault._BY_USER.first(tenant_id=acme.pk, user_id="alice")


def test_a_scope_names_somebody_and_is_entered_for_good_where_a_request_begins(
    acme: Tenant, globex: Tenant
) -> None:
    with pytest.raises(IsolationError), isolation.of():
        pass
    with isolation.of(acme.pk), pytest.raises(IsolationError):
        isolation.enter(globex.pk)
    with isolation.nobody():
        isolation.enter(acme.pk)
        with pytest.raises(IsolationError):
            isolation.enter(globex.pk)
    assert isolation.current().is_everybody, "as before the request"


def test_a_row_is_written_and_deleted_by_code_that_is_at_work_for_its_tenant(
    people: dict[str, OAuthCredential], acme: Tenant, globex: Tenant
) -> None:
    with isolation.of(globex.pk):
        with pytest.raises(IsolationError):
            people["bob"].save()
        with pytest.raises(IsolationError):
            people["bob"].delete()
        with pytest.raises(IsolationError):
            Tenant.objects.create(slug="mine")
        people["carol"].save()
    assert OAuthCredential.objects.count() == 3


def test_an_own_object_with_a_foreign_key_takes_over_and_destroys_nothing(
    people: dict[str, OAuthCredential], globex: Tenant
) -> None:
    before = everything()
    mine = people["carol"]
    mine.pk, mine.user_id = people["alice"].pk, "mine"
    with isolation.of(globex.pk):
        for save in (mine.save, lambda: mine.save(update_fields=["user_id"])):
            with pytest.raises(DatabaseError), transaction.atomic():
                save()
        assert mine.delete() == (0, {})
    assert everything() == before


def test_many_rows_at_once_are_written_for_the_current_tenants_only(
    people: dict[str, OAuthCredential], acme: Tenant, globex: Tenant
) -> None:
    before = everything()
    alice, carol = people["alice"], people["carol"]
    given_away = OAuthCredential.objects.get(pk=carol.pk)
    given_away.tenant = acme
    taken_over = OAuthCredential.objects.get(pk=carol.pk)
    taken_over.pk = alice.pk
    forged = DataKey(tenant=acme, key_id="forged", wrapped="-", kek_id="-")
    rows = OAuthCredential.objects
    writes: dict[str, Callable[[], object]] = {
        "made": lambda: DataKey.objects.bulk_create(key for key in [forged]),
        "overwritten": lambda: rows.bulk_create(
            [taken_over], update_conflicts=True, unique_fields=["id"], update_fields=["tenant"]
        ),
        "changed": lambda: rows.bulk_update([alice], ["user_id"]),
        "given away": lambda: rows.bulk_update([given_away], ["tenant"]),
        "given away by key": lambda: rows.filter(user_id="carol").update(tenant_id=acme.pk),
        "given away whole": lambda: globex.credentials.update(tenant=acme),
        "given away unsaid": lambda: rows.update(tenant_id=models.F("tenant_id") - 1),
        "renamed": lambda: Tenant.objects.update(id=acme.pk),
    }
    with isolation.of(globex.pk):
        for write in writes.values():
            with pytest.raises(IsolationError), transaction.atomic():
                write()
        globex.credentials.add(alice)
    assert everything() == before


def test_what_django_reads_by_a_key_that_it_holds_is_the_current_tenants(
    people: dict[str, OAuthCredential], globex: Tenant
) -> None:
    alice = people["alice"]
    pointing = TokenFingerprint(tenant=globex, credential_id=alice.pk)
    with isolation.of(globex.pk):
        for read in (alice.refresh_from_db, lambda: pointing.credential):
            with pytest.raises(OAuthCredential.DoesNotExist):
                read()
    with isolation.nobody(), pytest.raises(IsolationError):
        alice.refresh_from_db()


def test_a_task_begins_at_work_for_nobody_however_it_is_called() -> None:
    found: list[isolation.Scope] = []

    @shared_task(name="tests.whose")
    def whose() -> None:
        found.append(isolation.current())

    with isolation.every_tenant():
        whose()
        whose.apply()
    assert found == [isolation.NOBODY] * 2


def test_rows_that_are_read_one_by_one_are_the_current_tenants(
    people: dict[str, OAuthCredential], acme: Tenant, globex: Tenant, alone: None
) -> None:
    with isolation.of(acme.pk):
        assert {row.user_id for row in OAuthCredential.objects.iterator()} == {"alice", "bob"}
    with transaction.atomic():
        with isolation.every_tenant():
            OAuthCredential.objects.count()
        with isolation.of(globex.pk):
            assert [row.user_id for row in OAuthCredential.objects.iterator()] == ["carol"]


def test_a_new_thread_is_at_work_for_nobody(acme: Tenant) -> None:
    found: list[isolation.Scope] = []
    thread = threading.Thread(target=lambda: found.append(isolation.current()))
    with isolation.of(acme.pk):
        thread.start()
        thread.join()
    assert found == [isolation.NOBODY]


# Who may say that they are at work for every tenant, and why.
FOR_EVERYBODY = {
    "api/health.py": "whether anything is stored at all",
    "api/operators.py": "operators who look after every tenant",
    "api/sign_in.py": "writes down who failed to sign in, which concerns no tenant",
    "api/throttle.py": "eight bytes of the digest of every living key",
    "api/usage.py": "writes when keys were last used",
    "api/views/service.py": "finds the tenant of the public statistics",
    "oauthvault/management/commands/migrate.py": "changes rows of everybody",
    "tokens/deletion.py": "which tenants are being deleted",
    "tokens/endings.py": "the sweep: ids of logins that end",
    "tokens/epoch.py": "a restored database is restored for everybody",
    "tokens/handouts.py": "writes what was counted",
    "tokens/history.py": "which tenants have old rows",
    "tokens/importing.py": "whether a login is stored elsewhere: yes or no",
    "tokens/keyring.py": "whether the keys at hand open the database",
    "tokens/line.py": "the sweep: ids and counts; where PostgreSQL's functions give them, nobody",
    "tokens/management/command.py": "whoever has a terminal of the vault",
    "tokens/metrics.py": "counts by tenant",
    "tokens/notices.py": "how many users each key was handed tokens of",
    "tokens/refresh/abandoned.py": "the sweep: ids of tenants with a refresh whose process died",
    "tokens/rotation/keks.py": "wraps every data key anew",
    "tokens/roles.py": "which tenants an operator looks after",
    "tokens/sealing.py": "whether a token is another credential's: yes or no",
    "tokens/statistics.py": "counts of the whole deployment",
    "tokens/tasks.py": "the sweep: whose data keys were replaced, which jobs nobody is at",
    "tokens/tenants.py": "makes the first tenant",
    "tokens/trail/chains.py": "the chain of acts of no tenant",
    "tokens/trail/drop.py": "which chains there are",
    "tokens/trail/seal.py": "which chains wait to be sealed",
    "tokens/trail/census.py": "which chains there are, and what is in none",
    "tokens/trail/verify.py": "every chain, one after the other",
}
# Whose statements are compiled once, and name their tenant (or key) as a value.
UNSCOPED = {"api/keys.py", "tokens/flight.py", "tokens/vault.py"}


def test_who_looks_across_tenants_is_written_down() -> None:
    everybody, unscoped = set(), set()
    for package in ("api", "oauthvault", "tokens"):
        for path in (HOUSE / package).rglob("*.py"):
            name = str(path.relative_to(HOUSE))
            used = {
                node.attr
                for node in ast.walk(tree_of(path.read_text()))
                if isinstance(node, ast.Attribute)
            }
            if "every_tenant" in used and name != "tokens/isolation.py":
                everybody.add(name)
            if "unscoped" in used:
                unscoped.add(name)
            assert "_base_manager" not in used, name
    assert everybody == set(FOR_EVERYBODY)
    assert unscoped == UNSCOPED


def test_a_sweep_reads_what_is_sealed_for_one_tenant_at_a_time(
    people: dict[str, OAuthCredential], alone: None
) -> None:
    """Across tenants it looks for ids: of logins that end, of refreshes whose process died."""
    now = time.time()
    with isolation.every_tenant():
        OAuthCredential.objects.update(
            announce_at=int(now) - 1,
            login_expires_at=int(now) + 3600,
            unanswered_presentations=2,
            lease_id="00000000-0000-4000-8000-000000000001",
            lease_until=now - 7200,
        )
    read: list[isolation.Scope] = []

    def execute(ask: Callable[..., object], sql: str, *more: object) -> object:
        if "_encrypted" in sql:
            read.append(isolation.current())
        return ask(sql, *more)

    with connection.execute_wrapper(execute):
        assert endings.announce_due(now=now) == len(people)
        settle_abandoned(now=now)
    assert {scope.tenant_ids for scope in read} == {
        frozenset([person.tenant_id]) for person in people.values()
    }
    with isolation.every_tenant():
        standings = set(OAuthCredential.objects.values_list("standing", flat=True))
    assert standings == {Standing.REAUTHORIZATION_REQUIRED}


# --- In PostgreSQL, as the role that serves --------------------------------------------------


def raw(statement: str, *values: object) -> list[tuple[object, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(statement, values)
        return cursor.fetchall() if cursor.description else [(cursor.rowcount,)]


def tables_of_tenants() -> list[str]:
    return sorted(model._meta.db_table for model in of_tenants())


# By the wall, or by the triggers of the audit trail, which come before it.
REFUSED = r"row-level security|audit trail is not changed"


@on_postgresql
def test_every_table_with_a_tenant_is_behind_the_wall_and_the_service_owns_none() -> None:
    found = raw(
        "SELECT relname, relrowsecurity, relforcerowsecurity, "
        "pg_get_userbyid(relowner) = current_user FROM pg_class "
        "WHERE relnamespace = 'oauthvault'::regnamespace AND relkind = 'r'"
    )
    walled = {name for name, enabled, forced, _ in found if enabled and forced}
    with_tenant = {
        name
        for (name,) in raw(
            "SELECT DISTINCT table_name FROM information_schema.columns "
            "WHERE table_schema = 'oauthvault' AND column_name = 'tenant_id'"
        )
    }
    assert walled == with_tenant | {"tokens_tenant"}
    assert set(tables_of_tenants()) <= walled
    assert not any(own for _, _, _, own in found)
    assert raw("SELECT rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = current_user") == [
        (False,)
    ]


@on_postgresql
def test_raw_sql_that_names_no_tenant_sees_nothing(
    people: dict[str, OAuthCredential], alone: None
) -> None:
    for table in tables_of_tenants():
        assert raw(f"SELECT count(*) FROM {table}") == [(0,)], table  # noqa: S608  ours
    assert raw("UPDATE claude_oauth_tokens SET user_id = 'mine'") == [(0,)]
    assert raw("DELETE FROM claude_oauth_tokens") == [(0,)]


@on_postgresql
def test_raw_sql_of_one_tenant_sees_and_changes_nothing_of_another(
    two_whole: tuple[Tenant, Tenant],
) -> None:
    """Of no table that has a tenant: the models say which those are."""
    acme, globex = two_whole
    before = everything()
    with isolation.of(globex.pk):
        for model in of_tenants():
            table, column = model._meta.db_table, "id" if model is Tenant else "tenant_id"
            of_acme = f"WHERE {column} = {acme.pk}"
            assert raw(f"SELECT DISTINCT {column} FROM {table}") == [(globex.pk,)], table  # noqa: S608
            assert raw(f"UPDATE {table} SET {column} = {column} {of_acme}") == [(0,)], table  # noqa: S608
            assert raw(f"DELETE FROM {table} {of_acme}") == [(0,)], table  # noqa: S608
            with pytest.raises(DatabaseError, match=REFUSED):
                raw(f"UPDATE {table} SET {column} = {acme.pk}")  # noqa: S608
            with pytest.raises(DatabaseError, match=REFUSED):
                raw(f"INSERT INTO {table} ({column}) VALUES ({acme.pk})")  # noqa: S608
    assert everything() == before


@on_postgresql
def test_nothing_of_a_scope_is_left_behind_on_the_connection(
    people: dict[str, OAuthCredential], acme: Tenant, alone: None
) -> None:
    """Neither after a statement, nor inside a transaction, nor after an error in one."""

    def left() -> object:
        (row,) = raw("SELECT current_setting('oauthvault.tenants', true)")
        return row[0] or ""

    def count() -> object:
        return raw("SELECT count(*) FROM claude_oauth_tokens")[0][0]

    with isolation.of(acme.pk):
        assert count() == 2
    assert (left(), count()) == ("", 0)
    with transaction.atomic():
        with isolation.of(acme.pk):
            assert count() == 2
        assert (left(), count()) == ("", 0)
        with pytest.raises(ProgrammingError), isolation.of(acme.pk), transaction.atomic():
            raw("SELECT no_such_column FROM claude_oauth_tokens")
        assert (left(), count()) == ("", 0)
        with isolation.every_tenant():
            assert count() == 3
        assert (left(), count()) == ("", 0)
    assert (left(), count()) == ("", 0)


@on_postgresql
def test_a_setting_that_somebody_left_on_the_session_shows_nothing(
    people: dict[str, OAuthCredential], acme: Tenant, acme_key: str, alone: None
) -> None:
    """A session of a pool in front of PostgreSQL had other clients before."""
    raw("SET oauthvault.tenants = '*'")
    raw(f"SET oauthvault.key = '{api_key_digest(acme_key)}'")
    try:
        for table in tables_of_tenants():
            assert raw(f"SELECT count(*) FROM {table}") == [(0,)], table  # noqa: S608  ours
        with isolation.of(acme.pk):
            assert raw("SELECT count(*) FROM claude_oauth_tokens") == [(2,)]
    finally:
        raw("RESET oauthvault.tenants")
        raw("RESET oauthvault.key")


@on_postgresql
def test_what_postgresql_takes_only_by_itself_is_sent_by_itself(acme: Tenant) -> None:
    """It is refused for other reasons than that it came with what tells for whom it is."""
    with isolation.of(acme.pk):
        raw("VACUUM tokens_heartbeat")
        for act in (
            "DROP DATABASE ours",
            "CREATE INDEX CONCURRENTLY ours ON tokens_heartbeat (at)",
            "DROP INDEX CONCURRENTLY ours",
        ):
            with pytest.raises(ProgrammingError, match=r"permission|owner|does not exist"):
                raw(act)


@on_postgresql
def test_whatever_is_sent_is_told_for_whom_it_is_or_not_sent(
    people: dict[str, OAuthCredential], acme: Tenant, alone: None
) -> None:
    """After a statement of everybody's in the same transaction, by each other way to send one."""
    count = "SELECT count(*) FROM claude_oauth_tokens"
    with connection.cursor() as cursor:
        cursor.execute("BEGIN")
        try:
            with isolation.every_tenant():
                assert raw(count) == [(3,)]
            assert raw(count) == [(0,)], "a transaction that Django knows nothing of"
            cursor.execute(f"SAVEPOINT a; {count}")
            cursor.nextset()
            assert cursor.fetchone() == (0,)
        finally:
            cursor.execute("ROLLBACK")
        with isolation.of(acme.pk):
            cursor.executemany(
                "UPDATE claude_oauth_tokens SET is_max = true WHERE user_id = %s",
                [["alice"], ["bob"], ["carol"]],
            )
        assert cursor.rowcount == 2
        for send in (cursor.cursor.copy, cursor.cursor.stream):
            with pytest.raises(NotSupportedError):
                send("COPY claude_oauth_tokens TO STDOUT")


@on_postgresql
def test_a_row_points_to_nothing_of_another_tenant(two_whole: tuple[Tenant, Tenant]) -> None:
    acme, globex = two_whole
    pointers = [
        field
        for model in of_tenants()
        for field in model._meta.fields
        if isinstance(field, models.ForeignKey) and field.related_model in of_tenants()
    ]
    assert {field.column for field in pointers} > {"credential_id", "data_key_id", "chain_id"}
    for field in pointers:
        parent = field.related_model
        theirs = acme if parent is Tenant else parent._default_manager.filter(tenant=acme)[0]
        act = f"UPDATE {field.model._meta.db_table} SET {field.column} = %s"  # noqa: S608  ours
        with pytest.raises(DatabaseError), isolation.of(globex.pk), transaction.atomic():
            raw(act, theirs.pk)


@on_postgresql
def test_a_setting_that_is_empty_or_no_list_shows_nothing(
    people: dict[str, OAuthCredential], alone: None
) -> None:
    for setting in ("", "0", "999999,1000000"):
        with connection.cursor() as cursor:
            cursor.execute(
                "BEGIN; SELECT set_config('oauthvault.tenants', %s, true); "
                "SELECT count(*) FROM claude_oauth_tokens; COMMIT",
                [setting],
            )
            cursor.nextset()
            cursor.nextset()
            assert cursor.fetchone() == (0,)


@on_postgresql
def test_a_key_shows_its_own_row_and_tenant_before_the_tenant_is_known(
    acme: Tenant, acme_key: str, globex_key: str, alone: None
) -> None:
    digest = api_key_digest(acme_key)
    with isolation.key_shown(digest):
        assert raw("SELECT tenant_id FROM api_apikey") == [(acme.pk,)]
        assert raw("SELECT slug FROM tokens_tenant") == [("acme",)]
        assert raw("SELECT count(*) FROM claude_oauth_tokens") == [(0,)]
        assert raw("UPDATE api_apikey SET label = 'mine'") == [(0,)]


@on_postgresql
def test_what_is_deleted_with_a_row_is_of_its_tenant(
    people: dict[str, OAuthCredential], acme: Tenant, globex: Tenant
) -> None:
    with isolation.of(acme.pk):
        OAuthCredential.objects.get(user_id="alice").delete()
    assert set(OAuthCredential.objects.values_list("user_id", flat=True)) == {"bob", "carol"}
    left = set(TokenFingerprint.objects.values_list("credential__user_id", flat=True))
    assert left == {"bob", "carol"}
