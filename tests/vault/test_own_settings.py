"""A credential's own refresh settings: they govern its refreshes, and switch on nothing that its
tenant or the deployment has switched off."""

import time
from typing import Any

import pytest
from django.db import IntegrityError, connection, transaction
from pytest_django import DjangoAssertNumQueries, Settings

from tests.conftest import Store
from tests.simulator import Simulator
from tests.vault.conftest import Reread
from tests.vault.test_commands import run
from tests.vault.test_refresh import refresh_one
from tokens import clock, due, epoch, vault
from tokens.errors import (
    NoToken,
    TenantSuspended,
    TokenExpired,
    UpstreamError,
    UpstreamRateLimited,
)
from tokens.listing import status_in_sql
from tokens.models import (
    AuditEvent,
    Cause,
    OAuthCredential,
    Outcome,
    RefreshAttempt,
    Standing,
    Status,
    Tenant,
)
from tokens.own_settings import NAMES, governing, in_words, own_of, set_own_settings
from tokens.refresh import claim_refresh, withdraw
from tokens.refresh.ask import present
from tokens.refresh.claim import Claim, claim_credential
from tokens.refresh.save import save_answer
from tokens.tenants import BadTenantRequest, change_tenant, suspend_tenant

pytestmark = pytest.mark.django_db
committed = pytest.mark.django_db(transaction=True)


def set_for(tenant: Tenant, user_id: str = "alice", **own: Any) -> OAuthCredential:
    return set_own_settings(tenant=tenant, user_id=user_id, actor="test", now=clock.now(), **own)


def claimed(credential: OAuthCredential) -> Claim:
    claim = claim_credential(
        credential.tenant_id, credential.pk, Cause.DEMAND, "another process", None
    )
    assert claim is not None
    return claim


def brought_home(claim: Claim) -> Outcome:
    presented = present(claim)
    assert presented is not None
    said, tries = presented
    return save_answer(claim, said, tries=tries, latency_ms=0)


def records() -> list[dict[str, Any]]:
    found = AuditEvent.objects.filter(action="refresh_settings").order_by("pk")
    return [event.detail for event in found]


# --- What governs ----------------------------------------------------------------------------


def test_each_setting_is_the_credentials_else_the_tenants_else_the_deployments(
    acme: Tenant, upstream: Simulator, store: Store
) -> None:
    change_tenant(
        tenant=acme, actor="test", now=time.time(), max_retries=1, refresh_threshold=120,
        retry_backoff="linear",
    )  # fmt: skip
    acme.refresh_from_db()
    store(acme, "alice", upstream.new_login("alice"))
    found = governing(set_for(acme, refresh_threshold=600))
    assert found.own == {
        "auto_refresh": None, "refresh_threshold": 600, "max_retries": None, "retry_backoff": None,
    }  # fmt: skip
    assert found.effective == {
        "auto_refresh": True, "refresh_threshold": 600, "max_retries": 1, "retry_backoff": "linear",
    }  # fmt: skip
    assert found.governed_by == {
        "auto_refresh": "deployment", "refresh_threshold": "credential", "max_retries": "tenant",
        "retry_backoff": "tenant",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("deployment", "tenant", "own", "effective", "governor"),
    [
        (True, None, None, True, "deployment"),
        (True, True, None, True, "tenant"),
        (True, None, True, True, "credential"),
        (True, None, False, False, "credential"),
        (True, True, False, False, "credential"),
        (True, False, True, False, "tenant"),
        (False, None, True, False, "deployment"),
        (False, True, True, False, "deployment"),
    ],
)
def test_a_switch_that_is_off_is_not_switched_on_from_below(
    acme: Tenant, upstream: Simulator, store: Store, settings: Settings, deployment: bool,
    tenant: bool | None, own: bool | None, effective: bool, governor: str,
) -> None:  # fmt: skip
    settings.CLAUDE_OAUTH_AUTO_REFRESH = deployment
    acme.auto_refresh = tenant
    acme.save()
    store(acme, "alice", upstream.new_login("alice"))
    found = governing(set_for(acme, auto_refresh=own))
    assert (found.effective["auto_refresh"], found.governed_by["auto_refresh"]) == (
        effective, governor,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"refresh_threshold": 0}, "from 1 to 86400"),
        ({"refresh_threshold": 86_401}, "from 1 to 86400"),
        ({"max_retries": 11}, "from 0 to 10"),
        ({"retry_backoff": "quick"}, "one of exponential, linear, fixed"),
    ],
)
def test_what_no_tenant_may_have_no_credential_may(
    acme: Tenant, upstream: Simulator, store: Store, wrong: dict[str, Any], said: str
) -> None:
    alice = store(acme, "alice", upstream.new_login("alice"))
    with pytest.raises(BadTenantRequest, match=said):
        set_for(acme, auto_refresh=False, **wrong)
    alice.refresh_from_db()
    assert set(own_of(alice).values()) == {None}
    assert records() == []


def test_settings_are_of_what_is_stored(acme: Tenant, upstream: Simulator, store: Store) -> None:
    for user in ("alice", "bob"):
        with pytest.raises(NoToken):
            set_for(acme, user, refresh_threshold=600)
        store(acme, user, upstream.new_login(user))
    set_for(acme, "bob", refresh_threshold=600)
    assert own_of(OAuthCredential.objects.get(user_id="alice"))["refresh_threshold"] is None
    vault.revoke(tenant=acme, user_id="alice", actor="test", now=time.time())
    with pytest.raises(NoToken):
        set_for(acme, "alice", refresh_threshold=600)
    suspend_tenant(tenant=acme, actor="test", now=time.time())
    acme.refresh_from_db()
    with pytest.raises(TenantSuspended):
        set_for(acme, "bob", refresh_threshold=60)


def test_what_changes_is_recorded_and_what_does_not_writes_nothing(
    acme: Tenant,
    upstream: Simulator,
    store: Store,
    django_assert_num_queries: DjangoAssertNumQueries,
) -> None:
    alice = store(acme, "alice", upstream.new_login("alice"))
    set_for(acme, refresh_threshold=600, retry_backoff="fixed")
    set_for(acme, refresh_threshold=600)
    assert records() == [
        {"refresh_threshold": 600, "retry_backoff": "fixed"},
        {"retry_backoff": None},
    ]
    before = OAuthCredential.objects.values().get(pk=alice.pk)
    clock.now()
    with django_assert_num_queries(1):
        set_own_settings(
            tenant=acme, user_id="alice", actor="test", now=time.time(), refresh_threshold=600
        )
    assert OAuthCredential.objects.values().get(pk=alice.pk) == before
    assert len(records()) == 2


@committed
def test_they_stay_through_refreshes_new_logins_and_a_revocation(
    acme: Tenant, upstream: Simulator, store: Store, reread: Reread
) -> None:
    alice = store(acme, "alice", upstream.new_login("alice"))
    chosen = {
        "auto_refresh": True, "refresh_threshold": 600, "max_retries": 0, "retry_backoff": "fixed",
    }  # fmt: skip
    set_for(acme, **chosen)
    assert refresh_one(alice) == Outcome.REFRESHED
    assert own_of(reread(alice)) == chosen
    store(acme, "alice", upstream.new_login("alice"))
    vault.revoke(tenant=acme, user_id="alice", actor="test", now=time.time())
    store(acme, "alice", upstream.new_login("alice"))
    assert own_of(reread(alice)) == chosen


# --- When the next refresh is due ------------------------------------------------------------


def test_a_threshold_plans_the_next_refresh_anew(
    acme: Tenant, upstream: Simulator, store: Store
) -> None:
    """And so does giving it back."""
    ends = store(acme, "alice", upstream.new_login("alice", expires_in=7200)).expires_at
    for own, threshold in ((3600, 3600), (60, 60), (None, 300)):
        planned = set_for(acme, refresh_threshold=own).refresh_due_at
        assert planned is not None
        assert ends - 1.5 * threshold - 1 <= planned <= ends - threshold
        assert OAuthCredential.objects.get().refresh_due_at == planned


def test_a_token_needs_its_refresh_by_its_own_threshold(
    acme: Tenant, upstream: Simulator, store: Store
) -> None:
    alice = store(acme, "alice", upstream.new_login("alice", expires_in=500))
    assert not alice.needs_refresh(now=time.time())
    assert set_for(acme, refresh_threshold=600).needs_refresh(now=time.time())


@committed
def test_a_refresh_and_a_new_login_are_planned_by_the_own_threshold(
    acme: Tenant, upstream: Simulator, store: Store, reread: Reread
) -> None:
    alice = store(acme, "alice", upstream.new_login("alice", expires_in=7200))
    set_for(acme, refresh_threshold=1200)
    for change in (
        lambda: refresh_one(alice),
        lambda: store(acme, "alice", upstream.new_login("alice", expires_in=7200)),
    ):
        change()
        after = reread(alice)
        assert after.refresh_due_at is not None
        assert after.expires_at - 1801 <= after.refresh_due_at <= after.expires_at - 1200


@committed
def test_no_threshold_has_a_token_of_a_moment_ago_replaced(
    acme: Tenant, upstream: Simulator, store: Store
) -> None:
    """As after a refresh by that threshold: half of its life, and ten seconds at least."""
    alice = store(acme, "alice", upstream.new_login("alice"))
    assert refresh_one(alice) == Outcome.REFRESHED
    now = int(time.time())
    for life in (8, 3600):
        OAuthCredential.objects.update(expires_at=now + life, last_refreshed_at=now)
        planned = set_for(acme, refresh_threshold=80_000 + life).refresh_due_at
        assert planned == now + max(10, life // 2)


def test_what_is_switched_off_is_never_due_and_what_is_switched_on_again_is(
    acme: Tenant, upstream: Simulator, store: Store, reread: Reread
) -> None:
    alice = store(acme, "alice", upstream.new_login("alice", expires_in=100))
    bob = store(acme, "bob", upstream.new_login("bob", expires_in=100))
    assert set_for(acme, auto_refresh=False).refresh_due_at is None
    taken = due.take(now=clock.now(), most=10)
    assert [credential_id for _, credential_id, _ in taken] == [bob.pk]
    assert set_for(acme, auto_refresh=None).refresh_due_at is not None
    taken = due.take(now=clock.now(), most=10)
    assert [credential_id for _, credential_id, _ in taken] == [alice.pk]
    set_for(acme, auto_refresh=False)
    store(acme, "alice", upstream.new_login("alice", expires_in=100))
    assert reread(alice).refresh_due_at is None, "a new login is not due either"


def test_the_database_knows_nothing_due_that_is_switched_off(
    acme: Tenant, upstream: Simulator, store: Store
) -> None:
    store(acme, "alice", upstream.new_login("alice"))
    set_for(acme, auto_refresh=False)
    with pytest.raises(IntegrityError), transaction.atomic():
        OAuthCredential.objects.update(refresh_due_at=1)


def test_a_release_from_quarantine_leaves_it_switched_off(
    acme: Tenant, upstream: Simulator, store: Store
) -> None:
    """Switched off while the operator releases it, too."""
    for user in ("alice", "bob"):
        store(acme, user, upstream.new_login(user))
    set_for(acme, "alice", auto_refresh=False)
    OAuthCredential.objects.update(standing=Standing.QUARANTINED, refresh_due_at=None)

    def switched_off_meanwhile(run: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        if sql.startswith("UPDATE") and "released_at" in sql:
            with connection.cursor() as cursor:
                cursor.execute("UPDATE claude_oauth_tokens SET auto_refresh = false")
        return run(sql, params, many, context)

    with connection.execute_wrapper(switched_off_meanwhile):
        assert epoch.release(tenant=acme, user_id=None, actor="test", now=time.time()) == 2
    assert set(OAuthCredential.objects.values_list("standing", "refresh_due_at")) == {
        ("active", None)
    }


# --- What a request finds --------------------------------------------------------------------


@committed
def test_past_its_end_what_is_switched_off_is_expired_until_somebody_asks(
    acme: Tenant, upstream: Simulator, store: Store, reread: Reread
) -> None:
    alice = store(acme, "alice", upstream.new_login("alice", expires_in=-5))
    set_for(acme, auto_refresh=False)
    now = clock.now()
    assert reread(alice).status(now=now) == Status.EXPIRED
    told = OAuthCredential.objects.annotate(told=status_in_sql(now=now)).get()
    assert told.told == Status.EXPIRED
    with pytest.raises(TokenExpired, match="oauthvault refresh --tenant acme --user alice"):
        vault.issue_access_token(tenant=acme, user_id="alice", actor="test", now=now)
    assert upstream.counts.token_calls == 0
    after = vault.refresh_now(tenant=acme, user_id="alice", actor="test", now=now)
    assert (after.generation, after.refresh_due_at) == (2, None)
    assert vault.issue_access_token(tenant=acme, user_id="alice", actor="test", now=clock.now())


def test_near_its_end_it_is_handed_out_and_no_refresh_begins_behind_it(
    acme: Tenant, upstream: Simulator, store: Store
) -> None:
    store(acme, "alice", upstream.new_login("alice", expires_in=20))
    ask = {"tenant": acme, "user_id": "alice", "actor": "test"}
    assert vault.issue_access_token(**ask, now=clock.now()).refresh_due
    set_for(acme, auto_refresh=False)
    assert not vault.issue_access_token(**ask, now=clock.now()).refresh_due


@committed
@pytest.mark.parametrize(
    ("fault", "refused", "wait"),
    [
        ({"status": 429, "retry_after": 90}, UpstreamRateLimited, (85, 95)),
        ({"status": 400}, UpstreamError, (5, 11)),
    ],
)
def test_a_demand_that_fails_says_when_to_come_back_though_nothing_is_planned(
    acme: Tenant, upstream: Simulator, store: Store, reread: Reread, fault: dict[str, Any],
    refused: type[UpstreamError], wait: tuple[int, int],
) -> None:  # fmt: skip
    alice = store(acme, "alice", upstream.new_login("alice"))
    set_for(acme, auto_refresh=False)
    upstream.fail_next(**fault)
    with pytest.raises(refused) as refusal:
        vault.refresh_now(tenant=acme, user_id="alice", actor="test", now=clock.now())
    assert refusal.value.retry_after is not None
    assert wait[0] <= refusal.value.retry_after <= wait[1]
    after = reread(alice)
    assert (after.refresh_due_at, after.consecutive_failures) == (None, 1)


@committed
@pytest.mark.parametrize(("own", "tries"), [(0, 1), (2, 3), (None, 2)])
def test_a_refresh_is_tried_as_often_as_its_credential_says(
    acme: Tenant, upstream: Simulator, store: Store, settings: Settings, own: int | None, tries: int
) -> None:
    settings.CLAUDE_OAUTH_MAX_RETRIES = 1
    alice = store(acme, "alice", upstream.new_login("alice"))
    set_for(acme, max_retries=own, retry_backoff="fixed")
    upstream.fault("unavailable", times=None)
    assert refresh_one(alice) == Outcome.UNREACHABLE
    assert RefreshAttempt.objects.get().tries == upstream.counts.token_calls == tries


def test_the_pauses_grow_as_the_credential_says(
    acme: Tenant, upstream: Simulator, store: Store, settings: Settings
) -> None:
    settings.CLAUDE_OAUTH_RETRY_BACKOFF = "linear"
    assert store(acme, "alice", upstream.new_login("alice")).backoff == "linear"
    assert set_for(acme, retry_backoff="fixed").backoff == "fixed"


# --- A refresh under way ---------------------------------------------------------------------


@committed
@pytest.mark.parametrize(
    "own", [{"auto_refresh": False}, {"refresh_threshold": 1200}, {"max_retries": 0}]
)
def test_a_refresh_under_way_is_not_disturbed_and_its_pair_is_planned_by_what_is_new(
    acme: Tenant, upstream: Simulator, store: Store, reread: Reread, own: dict[str, Any]
) -> None:
    alice = store(acme, "alice", upstream.new_login("alice", expires_in=60))
    claim = claimed(alice)
    untouched = ("generation", "lease_id", "lease_until", "taken_until", "unanswered_presentations")
    before = OAuthCredential.objects.values(*untouched, "refresh_due_at").get()
    set_for(acme, **own)
    after = OAuthCredential.objects.values(*untouched, "refresh_due_at").get()
    if own.get("auto_refresh") is False:
        assert after.pop("refresh_due_at") is None
        before.pop("refresh_due_at")
    assert after == before
    assert brought_home(claim) == Outcome.REFRESHED
    row = reread(alice)
    assert (row.generation, row.lease_id) == (2, None)
    if own.get("auto_refresh") is False:
        assert row.refresh_due_at is None
    else:
        assert row.refresh_due_at is not None
        assert row.refresh_due_at <= row.expires_at - own.get("refresh_threshold", 300)


@committed
def test_what_is_switched_on_while_a_refresh_is_under_way_is_looked_at_again(
    acme: Tenant, upstream: Simulator, store: Store, reread: Reread
) -> None:
    """Should its process die: after its lease. And a claim that is given back leaves it so."""
    alice = store(acme, "alice", upstream.new_login("alice", expires_in=60))
    set_for(acme, auto_refresh=False)
    claim = claim_refresh(
        tenant_id=acme.pk, credential_id=alice.pk, cause=Cause.DEMAND, actor="test", generation=None
    )
    assert claim is not None
    assert reread(alice).refresh_due_at is None
    planned = set_for(acme, auto_refresh=True).refresh_due_at
    lease_end = reread(alice).lease_until
    assert planned is not None
    assert lease_end is not None
    assert planned > lease_end
    assert withdraw(claim)
    after = reread(alice)
    assert (after.lease_id, after.refresh_due_at) == (None, planned)


@committed
def test_what_is_switched_off_between_a_claims_two_looks_is_not_due(
    acme: Tenant, upstream: Simulator, store: Store, reread: Reread
) -> None:
    """Nor when the claim is given back."""
    alice = store(acme, "alice", upstream.new_login("alice", expires_in=60))
    once = []

    def switched_off_meanwhile(run: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        if sql.startswith("UPDATE") and "lease_id" in sql and not once:
            once.append(sql)
            set_for(acme, auto_refresh=False)
        return run(sql, params, many, context)

    with connection.execute_wrapper(switched_off_meanwhile):
        claim = claimed(alice)
    assert once
    assert claim.credential.refresh_due_at is not None, "as it was read"
    assert reread(alice).refresh_due_at is None
    assert withdraw(claim)
    assert reread(alice).refresh_due_at is None


@committed
def test_a_failure_goes_on_backing_off_whatever_the_threshold(
    acme: Tenant, upstream: Simulator, store: Store, reread: Reread
) -> None:
    alice = store(acme, "alice", upstream.new_login("alice", expires_in=60))
    upstream.fail_next(status=400)
    assert refresh_one(alice) == Outcome.UPSTREAM_ERROR
    backing_off_until = reread(alice).refresh_due_at
    assert set_for(acme, refresh_threshold=1200).refresh_due_at == backing_off_until
    set_for(acme, auto_refresh=False)
    planned = set_for(acme, auto_refresh=True).refresh_due_at
    assert planned is not None
    assert planned > time.time() + 15


# --- What operators see ----------------------------------------------------------------------


def test_the_status_command_names_what_the_credential_has_of_its_own(
    acme: Tenant, upstream: Simulator, store: Store
) -> None:
    alice = store(acme, "alice", upstream.new_login("alice"))
    of_alice = ("status", "--tenant", "acme", "--user", "alice")
    assert in_words(alice) == ""
    assert "refresh settings" not in run(*of_alice)
    set_for(acme, auto_refresh=False, refresh_threshold=600)
    said = " ".join(run(*of_alice).split())
    assert "refresh settings auto_refresh off, refresh_threshold 600" in said
    assert '"refresh_threshold": 600' in run(*of_alice, "--json")


def test_every_setting_is_a_column_of_the_credential_and_of_the_tenant() -> None:
    for name in NAMES:
        for model in (OAuthCredential, Tenant):
            assert model._meta.get_field(name).column == name
