"""The lists: who is found, in which order, and what a list costs however long it is."""

import re
import time
from collections.abc import Callable

import pytest
from django.contrib.auth.models import Group, User
from django.contrib.messages import get_messages
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from api.keys import create_key
from tests.admin.conftest import Cast, Plant
from tokens import audit, isolation
from tokens.admin.credentials import CredentialAdmin
from tokens.admin.lists import InfinitePaginator, is_secret
from tokens.endings import DAY
from tokens.models import AuditEvent, OAuthCredential, Standing, Tenant
from tokens.models.prefix import after_all_that_begin_with
from tokens.tenants import create_tenant

Staff = Callable[..., Client]
LIST = "/admin/tokens/oauthcredential/"
TRAIL = "/admin/tokens/auditevent/"
SEE = ("tokens.view_oauthcredential", "tokens.view_tenant", "tokens.view_auditevent",
       "tokens.export_auditevent", "api.view_apikey", "api.add_apikey", "api.delete_apikey",
       "tokens.revoke_oauthcredential")  # fmt: skip


def found(client: Client, question: str, page: str = LIST) -> list[str]:
    answer = client.get(f"{page}?{question}")
    assert answer.status_code == 200, answer
    return [
        row.user_id if page == LIST else f"{row.action} {row.subject}"
        for row in answer.context["cl"].result_list
    ]


# --- Who is found ----------------------------------------------------------------------------


@pytest.mark.parametrize("typed", ["ali", "alice", "ALICE", " alice ", "alice.s", "Alice.Smith@Ex"])
def test_the_beginning_of_a_user_id_or_of_the_accounts_address_finds_a_person(
    plant: Plant, acme: Tenant, root: Client, typed: str
) -> None:
    for user in ("alice", "bob"):
        plant(acme, user, account_email=f"{user}.smith@example.com")
    assert found(root, f"q={typed}") == ["alice"]


def test_after_a_star_it_may_stand_anywhere(plant: Plant, acme: Tenant, root: Client) -> None:
    plant(acme, "alice", account_email="alice.smith@example.com")
    plant(acme, "team-SMITH")
    plant(acme, "bob")
    assert found(root, "q=smith") == []
    assert found(root, "q=*Smith") == ["alice", "team-SMITH"]


def test_a_name_is_found_as_it_is_written_whatever_signs_are_in_it(
    plant: Plant, acme: Tenant, root: Client
) -> None:
    for user in ("100%", "1000", "a_b", "axb", "Anna Müller"):
        plant(acme, user)
    for typed, only in (("100%25", "100%"), ("a_", "a_b"), ("Anna+M", "Anna Müller")):  # fmt: skip
        assert found(root, f"q={typed}") == [only]


@pytest.mark.parametrize(
    ("text", "end"),
    [("ab", "ac"), ("a\ud7ff", "a\ue000"), ("a\U0010ffff", "b"), ("\U0010ffff", None), ("", None)],
)
def test_what_is_behind_all_that_begin_so(text: str, end: str | None) -> None:
    assert after_all_that_begin_with(text) == end


def test_a_search_ends_at_the_operators_tenants(
    plant: Plant, acme: Tenant, globex: Tenant, staff: Staff
) -> None:
    plant(acme, "alice", account_email="same@example.com")
    plant(globex, "hedda", account_email="same@example.com")
    assert found(staff(*SEE, tenants=[globex]), "q=same") == ["hedda"]


SECRETS = ("sk-ant-oat01-abcdefghijklmnop", "look: ovs_abcdefghijklmnop", "Bearer abcdefghijkl",
           "v1.0123456789abcdef.abcdefghijklmnopqrst")  # fmt: skip


@pytest.mark.parametrize(
    "page", [LIST, TRAIL, "/admin/tokens/tenant/", "/admin/api/apikey/", "/admin/auth/user/",
             "/admin/auth/group/"],
)  # fmt: skip
def test_a_search_for_what_looks_like_a_secret_is_refused_and_kept_nowhere(
    root: Client, page: str
) -> None:
    for secret in SECRETS:
        with CaptureQueriesContext(connection) as asked:
            answer = root.get(page, {"q": secret, "p": "2", "tenant__id__exact": "1"})
        assert answer.status_code == 302
        assert answer["Location"] == f"{page}?tenant__id__exact=1"
        said = [str(each) for each in get_messages(answer.wsgi_request)]
        assert "looks like a token or a key" in said[-1]
        told = f"{said} {answer.headers} {[query['sql'] for query in asked]}"
        told += f"{dict(root.session)} {root.cookies}"
        assert secret[-10:] not in told


def test_the_first_characters_of_a_key_are_no_secret(acme: Tenant, root: Client) -> None:
    key = create_key(tenant=acme, actor="test", now=time.time()).row
    assert not is_secret(key.prefix)
    listed = root.get("/admin/api/apikey/", {"q": key.prefix}).context["cl"].result_list
    assert [row.pk for row in listed] == [key.pk]


# --- Filters ---------------------------------------------------------------------------------


def test_who_fails_is_found_and_who_fails_again_and_again(
    plant: Plant, acme: Tenant, root: Client
) -> None:
    plant(acme, "fine")
    plant(acme, "once", consecutive_failures=1)
    plant(acme, "often", consecutive_failures=5)
    plant(acme, "gone", consecutive_failures=5, standing=Standing.REVOKED, data_key=None,
          access_token_encrypted=None, refresh_token_encrypted=None)  # fmt: skip
    assert found(root, "failing=1") == ["often", "once"]
    assert found(root, "failing=3") == ["often"]
    assert len(found(root, "failing=x")) == 4


def test_who_does_not_use_it_is_found_and_no_newcomer_among_them(
    plant: Plant, acme: Tenant, root: Client
) -> None:
    now = int(time.time())
    plant(acme, "today", last_used=now - 60)
    plant(acme, "newcomer")
    for days in (8, 40, 100):
        plant(acme, f"{days:03} days", last_used=now - days * DAY)
    plant(acme, "revoked", last_used=now - 100 * DAY, standing=Standing.REVOKED, data_key=None,
          access_token_encrypted=None, refresh_token_encrypted=None)  # fmt: skip
    plant(acme, "never, for long")
    long_ago = OAuthCredential.objects.filter(user_id="never, for long")
    long_ago.update(created_at="2020-01-01T00:00:00Z")
    assert found(root, "unused=7") == ["008 days", "040 days", "100 days", "never, for long"]
    assert found(root, "unused=30") == ["040 days", "100 days", "never, for long"]
    assert found(root, "unused=90") == ["100 days", "never, for long"]
    assert found(root, "unused=never") == ["never, for long", "newcomer"]


def test_a_list_says_what_is_wrong_and_leaves_the_command_to_the_page_of_each(
    cast: Cast, root: Client
) -> None:
    """A cell that holds a whole command is taller than five rows."""
    shown = root.get(LIST).content.decode()
    assert "claude setup-token" in shown
    assert "and store it." in shown
    assert "An operator has suspended this credential." in shown
    for command in ("oauthvault resume", "oauthvault import_credentials"):
        assert command not in shown


def test_of_those_who_cannot_work_come_first_whom_only_a_person_can_help(
    cast: Cast, root: Client
) -> None:
    assert found(root, "status=cannot_work") == ["bob", "dora", "erik", "kalle", "carla"]
    assert found(root, "status=cannot_work&o=4")[0] == "bob"


def test_one_click_leads_to_each_who_may_need_something(cast: Cast, root: Client) -> None:
    shortcuts = root.get(f"{LIST}?tenant__id__exact={cast.acme.pk}").context["shortcuts"]
    assert [each.chosen for each in shortcuts] == [True, False, False, False, False]
    people = {str(each.title): found(root, each.link[1:]) for each in shortcuts}
    assert people["Cannot work"] == ["bob", "dora", "erik", "carla"]
    assert people["Last refresh failed"] == ["erik"]
    assert "hedda" not in people["All"]
    chosen = root.get(f"{LIST}{shortcuts[1].link}")
    assert [each.chosen for each in chosen.context["shortcuts"]][:2] == [False, True]
    assert chosen.content.decode().count('aria-current="page">Cannot work') == 1


def test_the_row_and_the_page_name_the_account_and_no_markup_of_it(
    plant: Plant, acme: Tenant, root: Client
) -> None:
    alice = plant(acme, "alice", account_email='"<script>alert(1)</script>"@example.com')
    plant(acme, "Bob@example.com", account_email="bob@example.com", account_is_confirmed=True)
    for page in (LIST, f"{LIST}{alice.pk}/change/"):
        text = root.get(page).content.decode()
        assert "&lt;script&gt;alert(1)" in text
        assert "<script>alert" not in text
    # Where the user id says it already, it is not said again.
    assert "bob@example.com" not in root.get(LIST).content.decode()


# --- The trail -------------------------------------------------------------------------------


@pytest.fixture
def trail(acme: Tenant, globex: Tenant) -> None:
    now = time.time()
    for tenant, actor, action, subject, outcome in (
        (acme, "operator olga", "suspend", "alice", "done"),
        (acme, "key ovs_Ab12Cd34", "import", "bob", "done"),
        (globex, "scheduler", "refresh", "hedda", "unreachable"),
        (globex, "scheduler", "refresh", "olgas-robot", "refreshed"),
    ):
        audit.record(tenant=tenant, actor=actor, action=action, subject=subject, outcome=outcome,
                     now=now)  # fmt: skip


@pytest.mark.parametrize(
    ("question", "people"),
    [
        ("q=olga", {"suspend alice", "refresh olgas-robot"}),
        ("q=operator+olga", {"suspend alice"}),
        ("q=ovs_Ab12", {"import bob"}),
        ("q=suspend", {"suspend alice"}),
        ("q=scheduler+hedda", {"refresh hedda"}),
        ("q=globex+refresh", {"refresh hedda", "refresh olgas-robot"}),
        ("q=lga", set()),
        ("q=a+b+c+d+e+f+g+h+i+j", set()),
        ("outcome=unreachable", {"refresh hedda"}),
        ("outcome=other", {"refresh hedda"}),
        ("action=import", {"import bob"}),
        ("day_from=2020-01-01&day_until=2020-12-31", set()),
        ("day_until=2020-12-31", set()),
        ("day_from=2020-01-01&outcome=unreachable", {"refresh hedda"}),
    ],
)
def test_the_trail_is_searched_by_who_whom_what_and_when(
    trail: None, root: Client, question: str, people: set[str]
) -> None:
    assert set(found(root, question, TRAIL)) - {"create_tenant "} == people


def test_a_record_is_found_by_the_id_of_its_request(trail: None, root: Client) -> None:
    answer = root.post(f"{TRAIL}export/?q=nothing", headers={"X-Request-ID": "3f2a-of-this-test"})
    answer.getvalue()
    assert found(root, "q=3f2a-of", TRAIL) == ["export_audit "]


@pytest.mark.parametrize("question", ["day_from=tomorrow", "day_until=2020-13-01", "day_from=%00"])
def test_a_day_that_is_none_is_no_filter_and_exports_nothing(
    trail: None, root: Client, question: str
) -> None:
    assert root.get(f"{TRAIL}?{question}").status_code == 302
    assert root.post(f"{TRAIL}export/?{question}").status_code == 400


# --- What a list costs -----------------------------------------------------------------------

CEILING = 12
LISTS = (LIST, TRAIL, "/admin/tokens/tenant/", "/admin/api/apikey/", "/admin/auth/user/",
         "/admin/auth/group/")  # fmt: skip
OF_SUPERUSERS = {"/admin/auth/user/", "/admin/auth/group/"}


def rows(plant: Plant, acme: Tenant, until: int) -> None:
    """So many of everything."""
    now = time.time()
    for number in range(OAuthCredential.objects.count(), until):
        plant(acme, f"user-{number:03}", account_email=f"{number}@example.com")
        create_key(tenant=acme, actor="test", now=now)
        Group.objects.create(name=f"group {number}")
        User.objects.create_user(f"member-{number}", is_staff=True)
        with isolation.every_tenant():
            create_tenant(slug=f"tenant-{number}", actor="test", now=now)


@pytest.mark.parametrize("who", ["administrator", "operator"])
def test_a_list_of_sixty_asks_no_more_than_a_list_of_three(
    plant: Plant, acme: Tenant, staff: Staff, who: str
) -> None:
    if who == "administrator":
        client, lists = staff(superuser=True), LISTS
    else:
        client = staff(*SEE, tenants=[acme])
        lists = tuple(page for page in LISTS if page not in OF_SUPERUSERS)
    questions = [*lists, f"{LIST}?q=user", f"{LIST}?status=active", f"{TRAIL}?q=test"]
    rows(plant, acme, 3)
    few = {page: asked(client, page) for page in questions}
    rows(plant, acme, 60)
    for page, before in few.items():
        after = asked(client, page)
        assert len(after) == len(before), page
        assert len(after) <= CEILING, page


def asked(client: Client, page: str) -> list[str]:
    """But for what is asked once in a process, or once in a minute."""
    client.get(page)
    with CaptureQueriesContext(connection) as queries:
        assert client.get(page).status_code == 200
    return [query["sql"] for query in queries if "clock_timestamp()" not in query["sql"]]


@pytest.mark.parametrize(
    "page",
    [LIST, f"{LIST}?q=a", f"{LIST}?q=*a", f"{LIST}?p=2", f"{LIST}?failing=1", f"{LIST}?o=4", TRAIL,
     f"{TRAIL}?q=a", f"{TRAIL}?p=2", f"{TRAIL}?outcome=other", "/admin/api/apikey/",
     "/admin/tokens/tenant/"],
)  # fmt: skip
def test_no_list_counts_what_it_lists(cast: Cast, root: Client, page: str) -> None:
    tables = ("claude_oauth_tokens", "tokens_auditevent", "api_apikey", '"tokens_tenant"')
    for query in asked(root, page):
        if "COUNT(" in query:
            assert not any(f"FROM {table}" in query.replace('"', "") for table in tables), query


def test_the_last_page_says_that_there_may_be_more_and_behind_it_there_is_none(
    plant: Plant, acme: Tenant, root: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CredentialAdmin, "list_per_page", 2)
    monkeypatch.setattr(InfinitePaginator, "most_pages", 2)
    for number in range(5):
        plant(acme, f"user-{number}")
    first, last = (root.get(f"{LIST}?p={page}").content.decode() for page in (1, 2))
    assert 'rel="next"' in first
    assert not re.search(r"\d+ results", first)
    assert 'rel="next"' not in last
    assert "There may be more" in last
    assert 'rel="prev"' in last
    assert root.get(f"{LIST}?p=3").status_code == 302


def test_only_columns_with_an_index_can_be_sorted_by(cast: Cast, root: Client) -> None:
    page = root.get(LIST)
    assert set(CredentialAdmin.sortable_by) == {"expiry", "login_deadline"}
    ordered = [row.user_id for row in root.get(f"{LIST}?o=2").context["cl"].result_list]
    assert ordered == [row.user_id for row in page.context["cl"].result_list]


# --- Indexes ---------------------------------------------------------------------------------


@pytest.fixture
def many(acme: Tenant, globex: Tenant) -> None:
    OAuthCredential.objects.bulk_create(
        OAuthCredential(
            tenant=acme if number % 3 else globex, user_id=f"user-{number}", expires_at=number,
            account_email=f"{number}@example.com", login_expires_at=number, standing="revoked",
            consecutive_failures=number % 97 == 0,
        )
        for number in range(2000)
    )  # fmt: skip
    AuditEvent.objects.bulk_create(
        AuditEvent(
            tenant=acme, at=float(number), actor=f"operator {number}", action=f"act-{number % 50}",
            subject=f"user-{number}", request_id=f"{number}-of-a-request",
            outcome="refused" if number % 97 == 0 else "done",
        )
        for number in range(2000)
    )  # fmt: skip
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("ANALYZE")


ANSWERED_BY = [
    (LIST, ["one_credential_per_user"]),
    (f"{LIST}?q=user-1999", ["credential_by_user", "credential_by_account"]),
    (f"{LIST}?q=1999@ex", ["credential_by_user", "credential_by_account"]),
    (f"{LIST}?o=4", ["credential_ends"]),
    (f"{LIST}?o=-4", ["credential_ends"]),
    (f"{LIST}?o=5", ["credential_login_ends"]),
    (f"{LIST}?failing=1", ["credential_failing"]),
    (TRAIL, ["audit_newest"]),
    (f"{TRAIL}?q=user-1999", ["audit_by_subject", "audit_request", "audit_actor"]),
    (f"{TRAIL}?action=act-7", ["audit_action"]),
    (f"{TRAIL}?outcome=refused", ["audit_went_wrong"]),
    (f"{TRAIL}?day_from=2020-01-01", ["audit_newest"]),
]
# There the index of a constraint has a name of the database's own, and a condition is not seen
# to be met by a parameter.
NOT_ON_SQLITE = {"one_credential_per_user", "audit_went_wrong"}


@pytest.mark.usefixtures("many")
def test_what_a_list_asks_of_everybodys_rows_is_answered_by_an_index(root: Client) -> None:
    """As row-level security has it: what may leak asks no index there."""
    for page, indexes in ANSWERED_BY:
        plan = root.get(page).context["cl"].queryset[:51].explain()
        for name in indexes:
            if connection.vendor == "postgresql" or name not in NOT_ON_SQLITE:
                assert name in plan, f"{page}: {plan}"
