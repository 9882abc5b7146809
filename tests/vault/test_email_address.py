"""The account behind a login: kept as it is named, and trusted for nothing."""

import dataclasses
import json
import time

import pytest
from django.contrib.auth.models import User
from django.test import Client
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import MakeKey, Store
from tests.simulator import Simulator
from tests.vault.conftest import Reread
from tokens import sealing
from tokens.credential_file import parse_credentials
from tokens.email_address import LONGEST, email_of, named_in
from tokens.errors import InvalidCredentials
from tokens.importing import import_credential
from tokens.models import AuditEvent, Cause, OAuthCredential, Outcome, Tenant
from tokens.oauth_client import Granted
from tokens.refresh import refresh
from tokens.refresh.claim import claim_credential
from tokens.refresh.replay import _answer
from tokens.refresh.save import Answer, _entry

NOT_ADDRESSES = (
    None, 7, [], "", "alice", "alice@", "@example.com", "a b@example.com", "alice@example.com\n",
    "\ud800@example.com", "alice\0@example.com", "a" * LONGEST + "@example.com",
    "sk-ant-oat01-abcdefghijkl@example.com", "\u202ealice@example.com",
)  # fmt: skip


@pytest.mark.parametrize("value", NOT_ADDRESSES)
def test_what_is_no_address_is_nobodys_account(value: object) -> None:
    assert email_of(value) == ""
    assert named_in({"email_address": value}) == ""
    assert named_in(value) == ""


def test_an_address_is_kept_in_lower_case() -> None:
    assert named_in({"email_address": "Alice.O'Hara@Example.COM"}) == "alice.o'hara@example.com"


@given(st.text() | st.from_regex(r"[^@]{1,20}@[^@]{1,20}\.com", fullmatch=True))
def test_whatever_is_said_what_is_stored_fits_its_column_and_one_line(text: str) -> None:
    address = email_of(text)
    assert len(address) <= LONGEST
    assert address.isprintable()
    assert email_of(address) == address


# --- What the authorization server says ------------------------------------------------------


@pytest.fixture
def alice(transactional_db: None, acme: Tenant, upstream: Simulator, store: Store):  # type: ignore[no-untyped-def]
    return store(acme, "alice", upstream.new_login("alice"))


def refreshed(credential: OAuthCredential) -> Outcome | None:
    return refresh(
        tenant_id=credential.tenant_id, credential_id=credential.pk, cause=Cause.DEMAND,
        actor="test", generation=None,
    )  # fmt: skip


def test_a_refresh_tells_whose_login_it_is(
    alice: OAuthCredential, upstream: Simulator, reread: Reread
) -> None:
    assert alice.account_email == ""
    assert refreshed(alice) == Outcome.REFRESHED
    assert reread(alice).account_email == "alice@example.com"
    assert not AuditEvent.objects.filter(action="account_changed").exists()


def test_an_answer_that_names_nobody_leaves_what_is_known(
    alice: OAuthCredential, upstream: Simulator, reread: Reread
) -> None:
    refreshed(alice)
    for odd in ({"account": None}, {"account": {"email_address": "<b>"}}, {"account": [1]}):
        OAuthCredential.objects.update(last_refreshed_at=None)
        upstream.fault("amend", amend=odd)
        assert refreshed(alice) == Outcome.REFRESHED
    assert reread(alice).account_email == "alice@example.com"
    assert not AuditEvent.objects.filter(action="account_changed").exists()


def test_another_account_is_a_line_of_the_timeline_without_the_addresses_and_nothing_more(
    alice: OAuthCredential, upstream: Simulator, reread: Reread, client: Client
) -> None:
    OAuthCredential.objects.update(account_email="someone@example.com", account_is_confirmed=True)
    assert refreshed(alice) == Outcome.REFRESHED
    after = reread(alice)
    assert after.account_email == "alice@example.com"
    assert sealing.open_refresh_token(after).reveal() == upstream.current_login().refresh_token
    event = AuditEvent.objects.get(action="account_changed")
    assert (event.subject, event.detail) == ("alice", {})
    client.force_login(User.objects.create_superuser("olivia"))
    page = client.get(f"/admin/tokens/oauthcredential/{alice.pk}/change/").content.decode()
    assert "names another account than before" in page
    assert "alice@example.com" in page
    assert "someone@example.com" not in page


def test_the_account_comes_home_with_an_answer_from_the_spool_and_an_older_version_had_none(
    alice: OAuthCredential,
) -> None:
    claim = claim_credential(
        tenant_id=alice.tenant_id, credential_id=alice.pk, cause=Cause.DEMAND, actor="test",
        generation=None,
    )  # fmt: skip
    access, new = sealing.open_access_token(alice), sealing.open_refresh_token(alice)
    said = Granted(
        access_token=access, refresh_token=new, expires_in=60, expires_in_was_bounded=False,
        scopes=None, login_expires_in=None, status=200, account_email="alice@example.com",
    )  # fmt: skip
    entry = _entry(claim, Answer(said=said, tries=1, latency_ms=1, answered_at=time.time()))
    assert "alice@example.com" not in json.dumps(dataclasses.asdict(entry))
    home = _answer(entry, (access, new)).said
    assert isinstance(home, Granted)
    assert home.account_email == "alice@example.com"
    older = {name: each for name, each in entry.granted.items() if name != "account_sealed"}
    home = _answer(dataclasses.replace(entry, granted=older), (access, new)).said
    assert isinstance(home, Granted)
    assert home.account_email == ""


# --- What a file says ------------------------------------------------------------------------


def offer(**changes: object) -> dict[str, object]:
    return {
        "accessToken": "sk-ant-oat01-one", "refreshToken": "sk-ant-ort01-one",
        "expiresAt": int(time.time()) + 3600,
    } | changes  # fmt: skip


def put(tenant: Tenant, content: dict[str, object]) -> OAuthCredential:
    now = time.time()
    return import_credential(
        tenant=tenant, user_id="alice", offered=parse_credentials(content, now=now), actor="test",
        now=now,
    ).credential  # fmt: skip


def test_a_file_may_name_the_account_and_a_new_login_forgets_that_of_the_old(acme: Tenant) -> None:
    assert put(acme, offer(accountEmail="Alice@Example.com")).account_email == "alice@example.com"
    # The same login, of which the file says more, or nothing.
    assert put(acme, offer(account_email="a@example.com")).account_email == "a@example.com"
    assert put(acme, offer()).account_email == "a@example.com"
    new = offer(accessToken="sk-ant-oat01-two", refreshToken="sk-ant-ort01-two")
    assert put(acme, new).account_email == ""
    assert OAuthCredential.objects.get().account_email == ""


@pytest.mark.django_db(transaction=True)
def test_what_only_a_file_says_is_shown_as_that_until_the_server_has_named_the_account(
    acme: Tenant, store: Store, upstream: Simulator, reread: Reread, client: Client
) -> None:
    login = upstream.new_login("alice")

    def from_a_file(address: str) -> OAuthCredential:
        put(acme, {"accessToken": login.access_token, "refreshToken": login.refresh_token,
                   "expiresAt": login.expires_at, "accountEmail": address})  # fmt: skip
        return OAuthCredential.objects.get()

    client.force_login(User.objects.create_superuser("olivia"))
    alice = from_a_file("ceo@example.com")
    pages = (f"/admin/tokens/oauthcredential/{alice.pk}/change/", "/admin/tokens/oauthcredential/")
    for page in pages:
        assert "as imported" in client.get(page).content.decode()
    assert refreshed(alice) == Outcome.REFRESHED
    for page in pages:
        shown = client.get(page).content.decode()
        assert "as imported" not in shown
        assert "alice@example.com" in shown
    assert "names another account than the imported file" in client.get(pages[0]).content.decode()
    assert "another account than before" not in client.get(pages[0]).content.decode()


def test_a_file_does_not_rename_an_account_that_the_server_has_named(acme: Tenant) -> None:
    put(acme, offer(accountEmail="alice@example.com"))
    OAuthCredential.objects.update(account_is_confirmed=True)
    again = put(acme, offer(accountEmail="ceo@example.com"))
    assert (again.account_email, again.account_is_confirmed) == ("alice@example.com", True)
    new = offer(accessToken="sk-ant-oat01-two", refreshToken="sk-ant-ort01-two",
                accountEmail="ceo@example.com")  # fmt: skip
    assert put(acme, new).account_is_confirmed is False
    assert OAuthCredential.objects.get().account_email == "ceo@example.com"


def test_an_account_that_is_no_address_is_refused_by_name_and_not_repeated() -> None:
    for wrong in ("not-an-address", 7, ["a@example.com"]):
        with pytest.raises(InvalidCredentials) as refusal:
            parse_credentials(offer(accountEmail=wrong), now=time.time())
        assert refusal.value.fields == {"accountEmail": "must be an e-mail address"}
    for none in (None, ""):
        assert parse_credentials(offer(accountEmail=none), now=time.time()).account_email == ""


def test_no_answer_of_the_api_names_the_account(
    acme: Tenant, make_key: MakeKey, client: Client
) -> None:
    put(acme, offer(accountEmail="private@example.com"))
    key = {"Authorization": f"Bearer {make_key(acme)}", "X-OAuthVault-User": "alice"}
    for path in ("status", "token", "credentials", "stats"):
        answer = client.get(f"/auth/claude/{path}", headers=key)
        assert answer.status_code == 200
        assert "private" not in answer.content.decode()
