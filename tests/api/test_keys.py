"""Who may ask: one answer for every key that is not good, and scopes for those that are."""

import json
import time

import pytest

from api import usage
from api.keys import (
    BadKeyRequest,
    Scope,
    adopt_environment_key,
    create_key,
    find_key,
    revoke_key,
    rotate_key,
)
from api.models import ApiKey
from tests.api.conftest import Caller
from tests.conftest import MakeKey, Store
from tests.simulator import Simulator
from tests.vault.test_commands import run
from tokens import isolation
from tokens.models import AuditEvent, OAuthCredential, Tenant
from tokens.secret import Secret
from tokens.tenants import change_tenant, resume_tenant, suspend_tenant

# Everything that wants a key, with a body that would be good.
ROUTES = [
    ("GET", "status", None, Scope.STATUS_READ),
    ("POST", "refresh", None, Scope.TOKEN_REFRESH),
    ("DELETE", "revoke", None, Scope.TOKEN_REVOKE),
    ("GET", "token", None, Scope.TOKEN_READ),
    ("PUT", "token", {}, Scope.TOKEN_WRITE),
    ("POST", "token/rejected", {"generation": 1}, Scope.TOKEN_READ),
    ("POST", "token/identify", {"access_token": "x"}, Scope.TOKEN_IDENTIFY),
    ("GET", "credentials", None, Scope.STATUS_READ),
    ("GET", "stats", None, Scope.STATS_READ),
]
each_route = pytest.mark.parametrize(
    ("method", "path", "body", "scope"), ROUTES, ids=lambda value: str(value)[:20]
)


@each_route
def test_without_a_good_key_every_address_gives_the_same_401(
    ask: Caller, acme: Tenant, acme_key: str, make_key: MakeKey, method: str, path: str,
    body: object, scope: str,
) -> None:  # fmt: skip
    revoked = make_key(acme)
    row = find_key(revoked)
    assert row is not None
    revoke_key(key=row, actor="test", now=time.time())
    keys = [
        "nonsense",
        "ovs_" + "x" * 43,
        "ovs_ünïcødé" + "x" * 43,
        acme_key + "x",
        acme_key.replace("ovs_", "ovu_"),
        acme_key.upper(),
        revoked,
        make_key(acme, expires_at=int(time.time()) - 1),
        make_key(acme, networks=["10.1.2.0/24"]),
        make_key(acme, networks=["2001:db8::/48"]),
    ]
    shown = [f"Bearer {key}".encode().decode("latin-1") for key in keys]
    answers = [
        ask(method, path, json=body, headers={"Authorization": header}, user="alice")
        for header in shown
    ]
    answers += [
        ask(method, path, json=body, headers={"Authorization": acme_key}),
        ask(method, path, json=body, headers={"Authorization": f"Basic {acme_key}"}),
        ask(method, path, json=body, headers={"Authorization": "Bearer"}),
    ]
    if path != "stats":
        answers.append(ask(method, path, json=body, user="alice"))
    assert len({str(answer.without_request_id) for answer in answers}) == 1
    assert (answers[0].status, answers[0].code) == (401, "invalid_key")
    assert answers[0].headers["WWW-Authenticate"] == "Bearer"
    assert "acme" not in answers[0].text


@each_route
def test_each_address_wants_its_scope(
    ask: Caller, acme: Tenant, make_key: MakeKey, method: str, path: str, body: object, scope: str
) -> None:
    others = [str(other) for other in Scope if other != scope]
    refused = ask(method, path, json=body, key=make_key(acme, scopes=others), user="alice")
    assert (refused.status, refused.code) == (403, "insufficient_scope")
    passed = ask(method, path, json=body, key=make_key(acme, scopes=[scope]), user="alice")
    assert passed.status in (200, 404, 422)


@each_route
def test_a_suspended_tenant_is_refused_everywhere_until_it_is_resumed(
    ask: Caller, acme: Tenant, acme_key: str, alice_key: str, method: str, path: str,
    body: object, scope: str,
) -> None:  # fmt: skip
    suspend_tenant(tenant=acme, actor="test", now=time.time())
    for key in (acme_key, alice_key):
        answer = ask(method, path, json=body, key=key, user="alice")
        assert (answer.status, answer.code) == (403, "tenant_suspended")
    resume_tenant(tenant=acme, actor="test", now=time.time())
    assert ask(method, path, json=body, key=acme_key, user="alice").status in (200, 404, 422)


def test_a_revoked_key_is_refused_on_the_next_request(ask: Caller, acme_key: str) -> None:
    assert ask("GET", "status", key=acme_key, user="alice").status == 200
    row = find_key(acme_key)
    assert row is not None
    revoke_key(key=row, actor="test", now=time.time())
    assert ask("GET", "status", key=acme_key, user="alice").code == "invalid_key"


@pytest.mark.parametrize(
    ("address", "status"),
    [("10.1.2.3", 200), ("::ffff:10.1.2.3", 200), ("10.1.3.3", 401), ("127.0.0.1", 401),
     ("2001:db8::7", 200), ("", 401)],
)  # fmt: skip
def test_a_key_is_good_from_its_networks_whatever_headers_say(
    ask: Caller, acme: Tenant, make_key: MakeKey, address: str, status: int
) -> None:
    key = make_key(acme, networks=["10.1.2.0/24", "2001:db8::/48"])
    forged = {"X-Forwarded-For": "10.1.2.3", "Forwarded": "for=10.1.2.3", "X-Real-IP": "10.1.2.3"}
    answer = ask("GET", "status", key=key, user="a", headers=forged, REMOTE_ADDR=address)
    assert answer.status == status


def test_the_scheme_is_read_in_any_case(ask: Caller, acme_key: str) -> None:
    answer = ask("GET", "status", user="a", headers={"Authorization": f"bearer  {acme_key} "})
    assert answer.status == 200


def test_the_last_use_of_a_key_is_written_behind_the_requests(ask: Caller, acme_key: str) -> None:
    ask("GET", "status", key=acme_key, user="alice")
    row = ApiKey.objects.get()
    assert row.last_used_at is None
    usage.write()
    row.refresh_from_db()
    assert row.last_used_at is not None
    assert abs(row.last_used_at - time.time()) < 30
    ask("GET", "status", key=acme_key, user="alice")
    assert not usage._used, "written a moment ago: not again within the minute"


# --- users -----------------------------------------------------------------------------------


def test_a_tenant_of_many_users_must_be_told_which(ask: Caller, acme_key: str) -> None:
    for method, path, body, _ in ROUTES[:6]:
        answer = ask(method, path, json=body, key=acme_key)
        assert (answer.status, answer.code) == (400, "user_required")
        answer = ask(method, path, json=body, key=acme_key, user="default")
        assert (answer.status, answer.code) == (400, "invalid_request")


def test_the_default_tenant_means_its_default_user(
    ask: Caller, default_tenant: Tenant, make_key: MakeKey, store: Store, upstream: Simulator
) -> None:
    key = make_key(default_tenant)
    store(default_tenant, "default", upstream.new_login("default"))
    assert ask("GET", "status", key=key).json["user_id"] == "default"
    assert ask("GET", "token", key=key).status == 200
    assert ask("GET", "status", key=key, user="default").json["authenticated"] is True
    assert ask("GET", "status", key=key, user="alice").json["authenticated"] is False
    # The setting that makes the tenant one of many users:
    Tenant.objects.filter(pk=default_tenant.pk).update(has_default_user=False)
    assert ask("GET", "token", key=key).code == "user_required"
    assert ask("GET", "token", key=key, user="default").code == "invalid_request"


@pytest.mark.parametrize(
    "value",
    ["%", "%zz", "100%", "%C3%28", "%ED%A0%80", "ü", "%00", "a%0Ab", "%7F", "%C2%85", "x" * 257,
     "%C3%BC" * 257, "%41" * 5000],
    ids=lambda value: str(value)[:12],
)  # fmt: skip
def test_a_user_id_that_is_none_is_refused(ask: Caller, acme_key: str, value: str) -> None:
    answer = ask("GET", "status", key=acme_key, headers={"X-OAuthVault-User": value})
    assert (answer.status, answer.code) == (400, "invalid_request")


def test_an_empty_user_id_names_nobody(
    ask: Caller, acme_key: str, default_tenant: Tenant, make_key: MakeKey
) -> None:
    for key in (acme_key, make_key(default_tenant)):
        answer = ask("GET", "token", key=key, headers={"X-OAuthVault-User": ""})
        assert (answer.status, answer.code) == (400, "user_required")


def test_a_user_key_is_good_for_its_own_user_only(
    ask: Caller, acme: Tenant, alice_key: str, make_key: MakeKey, store: Store, upstream: Simulator
) -> None:
    store(acme, "alice", upstream.new_login("alice"))
    store(acme, "bob", upstream.new_login("bob"))
    assert ask("GET", "status", key=alice_key).json["user_id"] == "alice"
    assert ask("GET", "status", key=alice_key, user="alice").json["user_id"] == "alice"
    reader = make_key(acme, user_id="alice", scopes=[str(scope) for scope in Scope])
    for method, path, body, _ in ROUTES:
        for other in ("bob", "nobody", "Alice", "alice "):
            answer = ask(method, path, json=body, key=reader, user=other)
            assert (answer.status, answer.code) == (403, "insufficient_scope")
    assert OAuthCredential.objects.filter(standing="active").count() == 2


def test_a_user_key_reads_the_token_only_if_that_was_granted(
    ask: Caller, acme: Tenant, alice_key: str, make_key: MakeKey, store: Store, upstream: Simulator
) -> None:
    login = upstream.new_login("alice")
    store(acme, "alice", login)
    assert ask("GET", "token", key=alice_key).code == "insufficient_scope"
    rejected = ask("POST", "token/rejected", json={"generation": 1}, key=alice_key)
    assert rejected.code == "insufficient_scope"
    granted = make_key(acme, user_id="alice", scopes=["token:read"])
    assert ask("GET", "token", key=granted).json["access_token"] == login.access_token


def test_a_user_key_sees_nothing_of_the_tenant(
    ask: Caller, acme: Tenant, make_key: MakeKey
) -> None:
    key = make_key(acme, user_id="alice", scopes=[str(scope) for scope in Scope])
    for method, path, body, _ in ROUTES[6:]:
        assert ask(method, path, json=body, key=key).code == "insufficient_scope"


def test_a_user_key_imports_and_revokes_its_own(
    ask: Caller, alice_key: str, upstream: Simulator
) -> None:
    file = upstream.new_login("alice").credentials_file()
    assert ask("PUT", "token", key=alice_key, json=file).status == 201
    assert ask("DELETE", "revoke", key=alice_key).status == 200
    assert ask("DELETE", "revoke", key=alice_key).code == "no_token"


# --- Networks of the tenant, rotation ----------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "status"),
    [("10.1.2.3", 200), ("10.1.9.9", 401), ("10.2.2.3", 401), ("", 401)],
)
def test_a_key_must_come_from_its_own_networks_and_from_its_tenants(
    ask: Caller, acme: Tenant, make_key: MakeKey, address: str, status: int
) -> None:
    change_tenant(tenant=acme, actor="test", now=time.time(), key_networks=["10.1.0.0/16"])
    bound = make_key(acme, networks=["10.1.2.0/24", "10.2.0.0/16"])
    assert ask("GET", "status", key=bound, user="a", REMOTE_ADDR=address).status == status
    free = ask("GET", "status", key=make_key(acme), user="a", REMOTE_ADDR=address)
    assert free.status == (200 if address.startswith("10.1.") else 401)


def test_a_rotated_key_and_its_successor_both_live_until_the_overlap_is_over(
    ask: Caller, acme: Tenant, make_key: MakeKey
) -> None:
    now = time.time()
    text = make_key(
        acme, user_id="alice", scopes=["status:read"], networks=["127.0.0.0/8"], label="laptop",
        expires_at=int(now) + 90 * 86_400,
    )  # fmt: skip
    old = find_key(text)
    assert old is not None
    new = rotate_key(key=old, overlap=3600, actor="test", now=now)
    for key in (text, new.text.reveal()):
        assert ask("GET", "status", key=key).json["user_id"] == "alice"
    old.refresh_from_db()
    assert old.expires_at == int(now) + 3600
    same = ("tenant_id", "kind", "user_id", "scopes", "networks", "label")
    assert [getattr(new.row, name) for name in same] == [getattr(old, name) for name in same]
    assert new.row.expires_at is not None
    assert abs(new.row.expires_at - (now + 90 * 86_400)) < 5, "as long as the old one was made for"
    ApiKey.objects.filter(pk=old.pk).update(expires_at=int(now) - 1)
    assert ask("GET", "status", key=text).code == "invalid_key"
    assert ask("GET", "status", key=new.text.reveal()).status == 200
    event = AuditEvent.objects.get(action="rotate_key")
    assert event.detail == {"key": old.prefix, "ends": int(now) + 3600, "by": new.row.prefix}


def test_an_environment_key_that_another_tenant_has_stops_the_start_with_a_sentence(
    default_tenant: Tenant, acme_key: str
) -> None:
    """And the one that was good before stays so."""
    first = adopt_environment_key(
        tenant=default_tenant, text=Secret("ovs_" + "e" * 43), now=time.time()
    )
    assert first is not None
    with isolation.of(default_tenant.pk), pytest.raises(BadKeyRequest) as refused:
        adopt_environment_key(tenant=default_tenant, text=Secret(acme_key), now=time.time())
    assert "OAUTHVAULT_SERVICE_KEY is a key of another tenant" in refused.value.detail
    assert "acme" not in refused.value.detail
    first.refresh_from_db()
    assert first.revoked_at is None


def test_a_rotation_makes_no_key_live_longer(acme: Tenant, make_key: MakeKey) -> None:
    now = time.time()
    old = find_key(make_key(acme, expires_at=int(now) + 60))
    assert old is not None
    rotate_key(key=old, overlap=3600, actor="test", now=now)
    old.refresh_from_db()
    assert old.expires_at == int(now) + 60


def test_what_is_over_has_no_successor(acme: Tenant, default_tenant: Tenant) -> None:
    now = time.time()
    revoked = create_key(tenant=acme, actor="test", now=now).row
    revoke_key(key=revoked, actor="test", now=now)
    ended = create_key(tenant=acme, actor="test", now=now, expires_at=int(now) - 1).row
    rotated = create_key(tenant=acme, actor="test", now=now).row
    rotate_key(key=rotated, overlap=60, actor="test", now=now)
    given = adopt_environment_key(tenant=default_tenant, text=Secret("ovs_" + "e" * 43), now=now)
    assert given is not None
    before = ApiKey.objects.count()
    for key, said in (
        (revoked, "revoked"), (ended, "ended"), (rotated, "rotated before"),
        (given, "OAUTHVAULT_SERVICE_KEY"),
    ):  # fmt: skip
        with pytest.raises(BadKeyRequest, match=said):
            rotate_key(key=key, overlap=60, actor="test", now=now)
    assert ApiKey.objects.count() == before


def test_the_command_prints_the_new_key_once(acme: Tenant, make_key: MakeKey) -> None:
    text = make_key(acme)
    made = json.loads(run("rotate_key", text[:12], "--overlap", "30m", "--json"))
    assert made["in_place_of"]["prefix"] == text[:12]
    assert abs(made["in_place_of"]["expires_at"] - (time.time() + 1800)) < 60
    new = find_key(made["key"])
    assert new is not None
    assert made["key"][4:] not in run("list_keys", "--json")
    states = {row["prefix"]: row["state"] for row in json.loads(run("list_keys", "--json"))}
    assert states == {text[:12]: "rotated", made["prefix"]: "active"}
    run("revoke_key", text[:12])
    assert "revoked" in run("rotate_key", text[:12], refused=True)
    assert "no key that begins" in run("rotate_key", "ovs_nobody00", refused=True)
