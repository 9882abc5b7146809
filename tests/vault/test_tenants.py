"""A tenant's own settings, and its suspension: everything stops, and nothing is lost."""

import json
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from django.db import connection
from pytest_django import Settings

from tests.conftest import Store
from tests.simulator import Simulator
from tests.vault.conftest import Reread
from tests.vault.test_commands import login, run
from tests.vault.test_refresh import refresh_one
from tokens import clock, due, vault
from tokens.credential_file import parse_credentials
from tokens.errors import TenantSuspended
from tokens.importing import import_credential
from tokens.models import AuditEvent, Cause, OAuthCredential, Outcome, RefreshAttempt, Tenant
from tokens.refresh.ask import present
from tokens.refresh.claim import claim_credential
from tokens.refresh.save import save_answer
from tokens.tenants import BadTenantRequest, change_tenant, resume_tenant, suspend_tenant

pytestmark = pytest.mark.django_db


def change(tenant: Tenant, **chosen: object) -> bool:
    return change_tenant(tenant=tenant, actor="test", now=time.time(), **chosen)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"refresh_threshold": 0}, "refresh_threshold must be a whole number from 1 to 86400"),
        ({"refresh_threshold": 86_401}, "from 1 to 86400"),
        ({"max_retries": 11}, "max_retries must be a whole number from 0 to 10, not 11"),
        ({"max_retries": -1}, "from 0 to 10"),
        ({"retry_backoff": "quick"}, "one of exponential, linear, fixed, not 'quick'"),
        ({"key_networks": ["10.1.2.3/24"]}, "'10.1.2.3/24' is no network: it has bits of a host"),
        ({"name": "x" * 201}, "name has at most 200 characters"),
        ({"slug": "other"}, "'slug' is no setting of a tenant"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_with_a_sentence(
    acme: Tenant, wrong: dict[str, object], said: str
) -> None:
    with pytest.raises(BadTenantRequest) as refusal:
        change(acme, auto_refresh=False, **wrong)
    assert said in refusal.value.detail
    acme.refresh_from_db()
    assert acme.auto_refresh is None, "all of it or nothing"
    assert not AuditEvent.objects.filter(action="change_tenant").exists()


def test_a_change_is_recorded_with_what_it_set(acme: Tenant) -> None:
    assert change(acme, max_retries=0, retry_backoff="fixed", key_networks=["10.1.2.0/24"])
    assert not change(acme, max_retries=0, key_networks=["10.1.2.0/24"])
    event = AuditEvent.objects.get(action="change_tenant")
    assert event.detail == {
        "max_retries": 0, "retry_backoff": "fixed", "key_networks": ["10.1.2.0/24"],
    }  # fmt: skip


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(("own", "tries"), [(0, 1), (1, 2), (None, 3)])
def test_a_refresh_is_tried_as_often_as_its_tenant_says(
    acme: Tenant, upstream: Simulator, store: Store, settings: Settings, own: int | None, tries: int
) -> None:
    settings.CLAUDE_OAUTH_MAX_RETRIES = 2
    change(acme, max_retries=own, retry_backoff="fixed")
    upstream.fault("unavailable", times=None)
    assert refresh_one(store(acme, "alice", upstream.new_login("alice"))) == Outcome.UNREACHABLE
    assert RefreshAttempt.objects.get().tries == upstream.counts.token_calls == tries


def test_the_pauses_grow_as_the_tenant_says(acme: Tenant, settings: Settings) -> None:
    settings.CLAUDE_OAUTH_RETRY_BACKOFF = "linear"
    assert acme.backoff == "linear"
    change(acme, retry_backoff="fixed")
    acme.refresh_from_db()
    assert acme.backoff == "fixed"


# --- Commands --------------------------------------------------------------------------------


def test_the_command_changes_what_is_named_and_nothing_else(acme: Tenant) -> None:
    run(
        "change_tenant", "acme", "--name", "Acme Corp", "--auto-refresh", "off",
        "--refresh-threshold", "120", "--max-retries", "0", "--retry-backoff", "linear",
        "--key-network", "10.1.2.0/24", "--key-network", "2001:db8::/48",
    )  # fmt: skip
    printed = run(
        "change_tenant", "acme", "--refresh-threshold", "deployment", "--retry-backoff",
        "deployment", "--any-network", "--default-user", "--json",
    )  # fmt: skip
    assert json.loads(printed) == {
        "tenant": "acme",
        "changed": True,
        "settings": {
            "name": "Acme Corp", "has_default_user": True, "auto_refresh": False,
            "refresh_threshold": None, "max_retries": 0, "retry_backoff": "", "key_networks": [],
        },
    }  # fmt: skip
    assert "it was so before" in run("change_tenant", "acme", "--max-retries", "0")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "name a setting"),
        (("--max-retries", "11"), "max_retries must be a whole number from 0 to 10"),
        (("--max-retries", "many"), "no whole number"),
        (("--key-network", "here"), "'here' is no network"),
        (("--key-network", "10.0.0.0/8", "--any-network"), "not both"),
    ],
)
def test_the_command_refuses_with_a_sentence(
    acme: Tenant, arguments: tuple[str, ...], said: str
) -> None:
    assert said in run("change_tenant", "acme", *arguments, refused=True)


def test_tenants_are_listed_with_what_is_set_for_each(acme: Tenant, globex: Tenant) -> None:
    change(acme, auto_refresh=False, max_retries=0)
    suspend_tenant(tenant=globex, actor="test", now=time.time())
    first, second = run("list_tenants").splitlines()
    assert "acme" in first
    assert "auto_refresh off, max_retries 0" in first
    assert "suspended" in second
    assert "as the deployment is set" in second
    listed = {row["tenant"]: row for row in json.loads(run("list_tenants", "--json"))}
    assert listed["globex"]["state"] == "suspended"
    assert listed["acme"]["settings"]["max_retries"] == 0


# --- Suspension ------------------------------------------------------------------------------


def test_a_suspended_tenant_is_not_swept_claimed_or_imported_into(
    acme: Tenant, globex: Tenant, upstream: Simulator, store: Store
) -> None:
    alice = store(acme, "alice", upstream.new_login("alice"))
    carol = store(globex, "carol", upstream.new_login("carol"))
    OAuthCredential.objects.update(refresh_due_at=1)
    before = OAuthCredential.objects.values().get(pk=alice.pk)
    suspend_tenant(tenant=acme, actor="test", now=time.time())
    taken = due.take(now=clock.now(), most=10)
    assert [credential_id for _, credential_id, _ in taken] == [carol.pk]
    assert claim_credential(acme.pk, alice.pk, Cause.DEMAND, "test", None) is None
    # As the request has it whose key was read before the suspension.
    for user_id in ("alice", "bob"):
        with pytest.raises(TenantSuspended):
            import_credential(
                tenant=acme, user_id=user_id, actor="test", now=time.time(),
                offered=parse_credentials(login(7), now=time.time()),
            )  # fmt: skip
    assert OAuthCredential.objects.values().get(pk=alice.pk) == before, "nothing is lost"
    resume_tenant(tenant=acme, actor="test", now=time.time())
    taken = due.take(now=clock.now(), most=10)
    assert [credential_id for _, credential_id, _ in taken] == [alice.pk]


@pytest.mark.django_db(transaction=True)
def test_whoever_waits_for_a_refresh_gets_nothing_of_a_tenant_suspended_meanwhile(
    acme: Tenant, upstream: Simulator, store: Store, reread: Reread
) -> None:
    """The pair of the refresh under way comes home all the same: the one before is spent."""
    alice = store(acme, "alice", upstream.new_login("alice", expires_in=-60))
    claim = claim_credential(acme.pk, alice.pk, Cause.HAND_OUT, "another process", None)
    assert claim is not None

    def wait() -> object:
        try:
            return vault.issue_access_token(
                tenant=acme, user_id="alice", actor="test", now=time.time()
            )
        except TenantSuspended as refusal:
            return refusal.code
        finally:
            connection.close()

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(wait)
        suspend_tenant(tenant=Tenant.objects.get(), actor="test", now=time.time())
        said, tries = present(claim)
        assert save_answer(claim, said, tries=tries, latency_ms=0) == Outcome.REFRESHED
        assert waiting.result() == "tenant_suspended"
    assert reread(alice).generation == 2
