"""What the pages say of a credential is what the vault itself says."""

import time

import pytest
from django.test import Client
from pytest_django import DjangoAssertNumQueries, Settings

from tests.admin.conftest import Cast, Plant
from tokens import statistics, vault
from tokens.admin import dashboard, facts
from tokens.errors import VaultError
from tokens.models import OAuthCredential, Tenant
from tokens.tenants import suspend_tenant


def test_the_database_and_the_model_agree_on_every_status(cast: Cast) -> None:
    """For the whole cast, in SQL and in Python."""
    now = time.time()
    in_sql = dict(
        OAuthCredential.objects.annotate(told=facts.status_in_sql(now=now)).values_list(
            "user_id", "told"
        )
    )
    for credential in OAuthCredential.objects.select_related("tenant"):
        assert in_sql[credential.user_id] == credential.status(now=now), credential.user_id


@pytest.mark.parametrize("refreshes_ahead", [True, False])
def test_they_agree_whether_or_not_tokens_are_refreshed_ahead(
    cast: Cast, settings: Settings, refreshes_ahead: bool
) -> None:
    settings.CLAUDE_OAUTH_AUTO_REFRESH = refreshes_ahead
    Tenant.objects.filter(pk=cast.globex.pk).update(auto_refresh=False)
    test_the_database_and_the_model_agree_on_every_status(cast)


def test_who_cannot_work_is_who_the_vault_refuses(cast: Cast) -> None:
    """Each person who is said to be unable to work is refused, and nobody else, but for
    those whose token a refresh brings and those who were revoked."""
    now = time.time()
    told = set(
        OAuthCredential.objects.filter(facts.cannot_work(now=now)).values_list("user_id", flat=True)
    )
    assert told == {"bob", "carla", "dora", "erik", "kalle"}
    for person in told:
        with pytest.raises(VaultError):
            vault.issue_access_token(
                tenant=cast[person].tenant, user_id=person, actor="test", wait=0, now=now
            )
    for person in {each.user_id for each in cast.people} - told - {"judith", "user-17"}:
        vault.issue_access_token(
            tenant=cast[person].tenant, user_id=person, actor="test", wait=0, now=now
        )


def test_in_a_suspended_tenant_nobody_works(cast: Cast) -> None:
    now = time.time()
    suspend_tenant(tenant=cast.acme, actor="test", now=now)
    stopped = OAuthCredential.objects.filter(facts.cannot_work(now=now), tenant=cast.acme)
    assert stopped.count() == OAuthCredential.objects.filter(tenant=cast.acme).count()


def test_no_page_query_reads_a_sealed_column(
    cast: Cast, root: Client, django_assert_max_num_queries: DjangoAssertNumQueries
) -> None:
    """Neither ciphertext is in the select list of any query of home, list or detail."""
    with django_assert_max_num_queries(60) as captured:
        root.get("/admin/")
        root.get("/admin/tokens/oauthcredential/")
        root.get(f"/admin/tokens/oauthcredential/{cast['alice'].pk}/change/")
    for query in captured.captured_queries:
        selected = query["sql"].split(" FROM ")[0]
        for column in ("access_token_encrypted", "refresh_token_encrypted"):
            assert (
                f'"{column}"' not in selected
                or f'"{column}" IS NOT NULL' in selected
                or f'"{column}" IS NULL' in selected
            ), query["sql"][:500]


def test_home_counts_what_statistics_count(cast: Cast, root: Client) -> None:
    now = time.time()
    page = root.get("/admin/").content.decode()
    each = [statistics.statistics_for(tenant=tenant, now=now) for tenant in Tenant.objects.all()]
    assert f'id="active-tokens">{sum(s.active_tokens for s in each)}<' in page
    assert f'id="expiring-soon">{sum(s.expiring_soon for s in each)}<' in page
    assert f'id="succeeded-24h">{sum(s.succeeded_last_24h for s in each)}<' in page
    assert f'id="failed-24h">{sum(s.failed_last_24h for s in each)}<' in page
    assert sum(entry["count"] for entry in dashboard._by_status(now)) == len(cast.people)


def test_home_says_who_cannot_work_why_and_what_to_do(cast: Cast, root: Client) -> None:
    page = root.get("/admin/").content.decode()
    assert "5 people cannot work." in page
    assert "another holder of this login has rotated it" in page
    assert "import_credentials ~/.claude/.credentials.json --tenant acme --user bob" in page
    assert f"/admin/tokens/oauthcredential/{cast['bob'].pk}/change/" in page


def test_home_says_that_everybody_can_work(plant: Plant, acme: Tenant, root: Client) -> None:
    plant(acme, "alice")
    assert "Everybody can work." in root.get("/admin/").content.decode()


def test_an_empty_vault_says_what_to_do_first(root: Client) -> None:
    page = root.get("/admin/").content.decode()
    assert "Nobody has a credential here yet." in page
    assert "oauthvault import_credentials" in page


def test_a_scheduler_that_is_away_is_said(plant: Plant, acme: Tenant, root: Client) -> None:
    plant(acme, "alice")
    assert "the scheduler has never been seen" in root.get("/admin/").content.decode()


def test_a_user_id_is_text_and_never_markup(plant: Plant, acme: Tenant, root: Client) -> None:
    hostile = "<script>alert(1)</script>`x`"
    credential = plant(acme, hostile, ends_in=-10, renewable=False)
    for page in (
        "/admin/",
        "/admin/tokens/oauthcredential/",
        f"/admin/tokens/oauthcredential/{credential.pk}/change/",
        f"/admin/tokens/oauthcredential/{credential.pk}/revoke/",
        "/admin/tokens/auditevent/",
    ):
        assert "<script>alert" not in root.get(page).content.decode(), page
