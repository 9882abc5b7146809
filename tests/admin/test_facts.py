"""What the pages say of a credential is what the vault itself says."""

import time

import pytest
from django.conf import settings
from django.test import Client
from pytest_django import DjangoAssertNumQueries, Settings

from tests.admin.conftest import Cast, Plant
from tests.simulator import Simulator
from tokens import endings, statistics, vault
from tokens.admin import facts
from tokens.encryption import generate_kek
from tokens.endings import DAY
from tokens.errors import TokenExpired, VaultError
from tokens.listing import status_in_sql
from tokens.models import Deployment, OAuthCredential, Standing, Tenant, Upstream
from tokens.own_settings import set_own_settings
from tokens.secret import EncryptionKey
from tokens.tenants import suspend_tenant


def test_the_database_and_the_model_agree_on_every_status(cast: Cast) -> None:
    """For the whole cast, in SQL and in Python."""
    now = time.time()
    in_sql = dict(
        OAuthCredential.objects.annotate(told=status_in_sql(now=now)).values_list("user_id", "told")
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


@pytest.mark.django_db(transaction=True)
def test_what_is_switched_off_for_one_credential_counts_for_that_one(
    upstream: Simulator, cast: Cast, root: Client
) -> None:
    """judith's token has ended, and a request would have it refreshed."""
    now = time.time()
    for person in ("judith", "zoe@example.com"):
        set_own_settings(
            tenant=cast[person].tenant, user_id=person, actor="test", now=now, auto_refresh=False
        )
    test_the_database_and_the_model_agree_on_every_status(cast)
    stopped = OAuthCredential.objects.filter(facts.cannot_work(now=now))
    assert "judith" in set(stopped.values_list("user_id", flat=True))
    with pytest.raises(TokenExpired):
        vault.issue_access_token(
            tenant=cast.globex, user_id="judith", actor="test", wait=0, now=now
        )
    stopping = OAuthCredential.objects.filter(facts.will_stop(now=now))
    assert "zoe@example.com" in set(stopping.values_list("user_id", flat=True))
    page = root.get(f"/admin/tokens/oauthcredential/{cast['judith'].pk}/change/").content.decode()
    assert "auto_refresh off" in page
    assert "automatic refresh is off" in page
    assert "Refresh settings by test" in page
    other = root.get(f"/admin/tokens/oauthcredential/{cast['alice'].pk}/change/").content.decode()
    assert "none: as its tenant is set" in other


@pytest.mark.django_db(transaction=True)
def test_who_cannot_work_is_who_the_vault_refuses(upstream: Simulator, cast: Cast) -> None:
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
    assert f'<span class="ov-subtle">{len(cast.people)}</span>' in page


def test_home_says_who_cannot_work_why_and_what_to_do(cast: Cast, root: Client) -> None:
    page = root.get("/admin/").content.decode()
    assert "5 people cannot work." in page
    assert "another holder of this login has rotated it" in page
    assert "import_credentials ~/.claude/.credentials.json --tenant acme --user bob" in page
    assert f"/admin/tokens/oauthcredential/{cast['bob'].pk}/change/" in page


def test_home_says_that_the_revoked_are_not_counted(cast: Cast, root: Client) -> None:
    """Else a person who is refused with each request is nowhere on a page of good news."""
    home = root.get("/admin/").content.decode()
    assert "1 who was revoked</a>" in home
    assert "?status=revoked" in home


def test_whose_refresh_is_by_hand_is_not_said_to_need_nothing(
    plant: Plant, acme: Tenant, root: Client
) -> None:
    alice = plant(acme, "alice", auto_refresh=False, refresh_due_at=None)
    page = root.get(f"/admin/tokens/oauthcredential/{alice.pk}/change/").content.decode()
    assert "There is nothing to do" not in page
    assert "refresh it by hand before then" in page


@pytest.mark.parametrize(
    ("name", "leads"), [("bob", True), ("dora", True), ("alice", False), ("user-17", False)]
)
def test_where_a_new_login_helps_the_page_leads_to_the_import(
    cast: Cast, root: Client, name: str, leads: bool
) -> None:
    page = root.get(f"/admin/tokens/oauthcredential/{cast[name].pk}/change/").content.decode()
    assert ("Import a new login" in page) is leads


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


@pytest.mark.parametrize(
    ("row", "says", "says_not"),
    [
        ({"rate_limited_until": 300}, "has asked everybody to wait", "was found down"),
        ({"circuit_open_until": 300}, "was found down", "has asked everybody to wait"),
        (
            {"rate_limited_until": -5, "circuit_open_until": 0},
            "Everybody can work.",
            "no refresh is sent",
        ),
    ],
)
def test_home_says_why_nothing_is_sent_to_the_authorization_server(
    plant: Plant, acme: Tenant, root: Client, row: dict[str, float], says: str, says_not: str
) -> None:
    plant(acme, "alice")
    now = time.time()
    Upstream.objects.create(
        token_url=settings.CLAUDE_OAUTH_TOKEN_URL,
        **{name: now + seconds if seconds else 0 for name, seconds in row.items()},
    )
    page = root.get("/admin/").content.decode()
    assert says in page
    assert says_not not in page


# --- logins that are about to end ------------------------------------------------------------


def ending_table(page: str) -> str:
    """The part of home about those who work now and will stop."""
    _before, found, after = page.partition('id="ending"')
    return after.partition("</section>")[0] if found else ""


def test_a_login_that_ends_within_a_week_is_a_warning_and_no_failure(
    plant: Plant, acme: Tenant, root: Client
) -> None:
    now = time.time()
    alice = plant(acme, "alice", login_expires_at=int(now) + 2 * DAY + 60)
    page = root.get("/admin/").content.decode()
    assert "Everybody can work." in page
    assert "This login ends in 2 days (an estimate" in ending_table(page)
    assert "import_credentials ~/.claude/.credentials.json --tenant acme --user alice" in page
    detail = root.get(f"/admin/tokens/oauthcredential/{alice.pk}/change/").content.decode()
    assert "ov-edge-uneasy" in detail
    assert "This login ends in 2 days" in detail
    assert "Until then it works." in detail
    assert "There is nothing to do" not in detail
    assert "No token is handed out" not in detail
    listed = root.get("/admin/tokens/oauthcredential/").content.decode()
    assert "and no refresh extends it" in listed
    assert not OAuthCredential.objects.filter(facts.cannot_work(now=now)).exists()


def test_the_warning_refuses_no_refresh(plant: Plant, acme: Tenant, root: Client) -> None:
    alice = plant(acme, "alice", login_expires_at=int(time.time()) + DAY)
    asked = root.get(f"/admin/tokens/oauthcredential/{alice.pk}/refresh/").content.decode()
    assert "Refresh this credential now?" in asked


def test_home_lists_whoever_stops_within_a_week_and_the_first_one_first(
    plant: Plant, acme: Tenant, root: Client
) -> None:
    now = int(time.time())
    plant(acme, "far", login_expires_at=now + 8 * DAY)
    plant(acme, "in-six-days", login_expires_at=now + 6 * DAY)
    plant(acme, "overdue", login_expires_at=now - DAY)
    plant(acme, "setup", renewable=False, ends_in=4 * DAY)
    plant(acme, "setup-of-a-year", renewable=False, ends_in=300 * DAY)
    plant(acme, "stopped", login_expires_at=now + DAY, suspended_at=now)
    plant(acme, "lost", ends_in=1800, standing="reauthorization_required",
          problem="rotated_elsewhere", login_expires_at=now + 20 * DAY)  # fmt: skip
    ending = [each["user"] for each in root.get("/admin/").context["ending"]]
    assert ending == ["overdue", "lost", "setup", "in-six-days"]


def test_a_token_that_nothing_renews_is_said_to_end_with_it(
    plant: Plant, acme: Tenant, root: Client, settings: Settings
) -> None:
    plant(acme, "setup", renewable=False, ends_in=4 * DAY + 60)
    assert "no refresh token and ends in 4 days" in ending_table(
        root.get("/admin/").content.decode()
    )
    settings.CLAUDE_OAUTH_AUTO_REFRESH = False
    plant(acme, "alice")
    assert "Automatic refresh is off" in ending_table(root.get("/admin/").content.decode())


def test_the_filter_by_the_end_of_the_login_finds_those_without_a_refresh_token_too(
    plant: Plant, acme: Tenant, root: Client
) -> None:
    now = int(time.time())
    plant(acme, "alice", login_expires_at=now + 2 * DAY)
    plant(acme, "bob", login_expires_at=now + 5 * DAY)
    plant(acme, "setup", renewable=False, ends_in=2 * DAY)

    def found(days: int) -> set[str]:
        page = root.get(f"/admin/tokens/oauthcredential/?login_ends={days}")
        return {row.user_id for row in page.context["cl"].result_list}

    assert (found(1), found(3), found(7)) == (
        set(), {"alice", "setup"}, {"alice", "bob", "setup"},
    )  # fmt: skip


def test_the_timeline_tells_of_the_announcement(plant: Plant, acme: Tenant, root: Client) -> None:
    now = time.time()
    alice = plant(acme, "alice", login_expires_at=int(now) + 2 * DAY, announce_at=int(now))
    endings.announce_due(now=now)
    detail = root.get(f"/admin/tokens/oauthcredential/{alice.pk}/change/").content.decode()
    assert "Announced that the login ends" in detail
    assert "days: 3" in detail
    audit = root.get("/admin/tokens/auditevent/?action=login_ending").content.decode()
    assert "login ending" in audit


def test_home_says_that_the_database_was_restored_and_what_to_do(
    plant: Plant, acme: Tenant, root: Client
) -> None:
    plant(acme, "alice", standing=Standing.QUARANTINED)
    Deployment.objects.update_or_create(
        pk=1, defaults={"quarantined_at": time.time(), "quarantine_reason": "epoch 3, was 9"}
    )
    page = root.get("/admin/").content.decode()
    assert "seems to be a restored one" in page
    assert "epoch 3, was 9" in page
    assert "oauthvault release_quarantine" in page


def test_home_says_that_keys_are_wrapped_by_an_older_encryption_key(
    plant: Plant, acme: Tenant, root: Client, settings: Settings
) -> None:
    plant(acme, "alice")
    assert "older encryption key" not in root.get("/admin/").content.decode()
    settings.ENCRYPTION_KEYS = [EncryptionKey(generate_kek()), *settings.ENCRYPTION_KEYS]
    page = root.get("/admin/").content.decode()
    assert "5 keys are still wrapped by an older encryption key" in page
    assert "oauthvault rotate_keys" in page
