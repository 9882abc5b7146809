"""What a user id may be is decided once, whichever way it comes in, and compared exactly."""

import json
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.keys import create_key
from api.models import ApiKey
from tests.api.conftest import Caller
from tests.conftest import Store
from tests.simulator import Simulator
from tests.vault.test_commands import run
from tokens import user_ids
from tokens.models import OAuthCredential, Tenant
from tokens.user_ids import BadUserId, check_named, check_new

NEVER = {
    "a line break": "al\nice",
    "a C1 control": "al\x85ice",
    "too long": "x" * 257,
    "default": "default",
}
NOT_NEW = {
    "an access token": "sk-ant-oat01-canary-0123456789",
    "an API key": "ovs_canary0123456789",
    "a zero-width joiner": "al\u200dice",
    "a zero-width space": "alice\u200b",
    "a byte order mark": "\ufeffalice",
    "a right-to-left override": "al\u202eice",
    "an isolate": "al\u2066ice",
    "a line separator": "al\u2028ice",
    "an unassigned character": "al\u0378ice",
    "a noncharacter": "al\uffffice",
}
each = pytest.mark.parametrize("user_id", [*NEVER.values(), *NOT_NEW.values()],
                               ids=[*NEVER, *NOT_NEW])  # fmt: skip


@each
def test_what_may_be_no_id_is_refused_however_it_comes_in(
    ask: Caller, acme: Tenant, acme_key: str, upstream: Simulator, tmp_path: Path, user_id: str
) -> None:
    file = upstream.new_login("alice").credentials_file()
    answer = ask("PUT", "token", key=acme_key, user=user_id, json=file)
    assert (answer.status, answer.code) == (400, "invalid_request")
    with pytest.raises(BadUserId) as refused:
        create_key(tenant=acme, user_id=user_id, actor="test", now=time.time())
    said = [answer.text, refused.value.detail]
    one, many = tmp_path / "one.json", tmp_path / "many.jsonl"
    one.write_text(json.dumps(file))
    many.write_text(json.dumps({"user_id": user_id} | file["claudeAiOauth"]))
    of_acme = ("--tenant", "acme")
    said += [
        run("import_credentials", str(one), *of_acme, "--user", user_id, refused=True),
        run("import_credentials", str(many), *of_acme, refused=True),
        run("import_credentials", str(many), *of_acme, "--dry-run", "--json", refused=True),
        run("create_key", "acme", "--user", user_id, refused=True),
    ]
    assert all("user id" in sentence or "may be called default" in sentence for sentence in said)
    assert "canary" not in "".join(said)
    assert not OAuthCredential.objects.exists()
    assert ApiKey.objects.count() == 1


def test_two_users_in_one_request_are_no_third_one(ask: Caller, acme_key: str) -> None:
    """A server joins a header that is given twice, with a comma."""
    for named in ("alice,bob", "alice, bob", ",alice"):
        answer = ask("GET", "status", key=acme_key, headers={"X-OAuthVault-User": named})
        assert (answer.status, answer.code) == (400, "invalid_request")
        assert "must name one user" in answer.text
    answer = ask("GET", "status", key=acme_key, user="alice,bob")
    assert answer.json["user_id"] == "alice,bob"


@each
def test_an_id_is_not_written_to_a_terminal_as_it_is_where_it_was_refused(
    acme: Tenant, tmp_path: Path, user_id: str
) -> None:
    file = tmp_path / "many.jsonl"
    file.write_text(json.dumps({"user_id": user_id, "accessToken": "a", "expiresAt": 1}))
    printed = run("import_credentials", str(file), "--tenant", "acme", refused=True)
    assert all(character.isprintable() for character in printed.replace("\n", ""))


def test_half_a_character_is_no_id_and_breaks_nothing(acme: Tenant, tmp_path: Path) -> None:
    """JSON can say it (RFC 8259 section 8.2), and a terminal that is not UTF-8."""
    file = tmp_path / "many.jsonl"
    file.write_text('{"user_id": "al\\ud800ice", "accessToken": "a-token", "expiresAt": 2e9}')
    of_acme = ("--tenant", "acme")
    for form in ((), ("--json",)):
        printed = run("import_credentials", str(file), *of_acme, *form, refused=True)
        assert "a user id has no" in printed
    for command in ("status", "refresh", "revoke", "suspend", "resume"):
        assert "UTF-8" in run(command, *of_acme, "--user", "al\udcffice", refused=True)
    assert "UTF-8" in run("create_key", "acme", "--user", "al\udcffice", refused=True)
    assert "UTF-8" in run("create_key", "acme", "--label", "al\udcffice", refused=True)


def test_an_id_that_was_taken_is_in_json_as_it_is(acme: Tenant, tmp_path: Path) -> None:
    user_id = "name with\u00a0a hard blank"
    file = tmp_path / "many.jsonl"
    later = int(time.time()) + 3600
    file.write_text(json.dumps({"user_id": user_id, "accessToken": "a", "expiresAt": later}))
    (told,) = json.loads(run("import_credentials", str(file), "--tenant", "acme", "--json"))
    assert (told["result"], told["user_id"]) == ("created", user_id)


@pytest.mark.parametrize("user_id", NOT_NEW.values(), ids=NOT_NEW)
def test_an_id_from_before_is_still_read_replaced_and_revoked(
    ask: Caller, acme: Tenant, acme_key: str, store: Store, upstream: Simulator, user_id: str
) -> None:
    store(acme, "alice", upstream.new_login("alice"))
    OAuthCredential.objects.update(user_id=user_id)
    assert ask("GET", "status", key=acme_key, user=user_id).json["authenticated"] is True
    assert ask("GET", "token", key=acme_key, user=user_id).status == 200
    file = upstream.new_login("alice").credentials_file()
    assert ask("PUT", "token", key=acme_key, user=user_id, json=file).status == 200
    run("suspend", "--tenant", "acme", "--user", user_id)
    run("resume", "--tenant", "acme", "--user", user_id)
    assert ask("DELETE", "revoke", key=acme_key, user=user_id).status == 200


@pytest.mark.parametrize("user_id", NOT_NEW.values(), ids=NOT_NEW)
def test_of_an_odd_id_nobody_learns_whether_another_tenant_has_it(
    ask: Caller, acme: Tenant, globex: Tenant, acme_key: str, store: Store, upstream: Simulator,
    user_id: str,
) -> None:  # fmt: skip
    asked = (("GET", "status"), ("GET", "token"), ("POST", "refresh"), ("DELETE", "revoke"))

    def answers() -> list[tuple[int, str, dict[str, str]]]:
        return [
            ask(method, path, key=acme_key, user=user_id).without_request_id
            for method, path in asked
        ]

    missing = answers()
    store(globex, "alice", upstream.new_login("alice"))
    OAuthCredential.objects.update(user_id=user_id)
    assert answers() == missing


@pytest.mark.parametrize(
    "user_id",
    ["alice", "zoë@example.com", "zoe\u0308@example.com", "李雷", "name with blanks", "Default",
     "x" * 256, "🦊" * 256, "_", "42", "a'; DROP TABLE", "../../etc"],
)  # fmt: skip
def test_what_people_are_called_is_an_id_and_compared_exactly(
    ask: Caller, acme_key: str, upstream: Simulator, user_id: str
) -> None:
    file = upstream.new_login("alice").credentials_file()
    answer = ask("PUT", "token", key=acme_key, user=user_id, json=file)
    assert (answer.status, answer.json["user_id"]) == (201, user_id)
    for other in (user_id + " ", user_id.swapcase() + "!", "zo\u00eb@example.org"):
        if len(other) <= user_ids.LONGEST:
            assert ask("GET", "token", key=acme_key, user=other).code == "no_token"


@given(user_id=st.text(max_size=300) | st.text(st.characters(), min_size=250, max_size=260))
def test_any_text_is_an_id_or_refused_without_being_repeated(user_id: str) -> None:
    """What may be given may be asked for, and has a form in UTF-8."""
    tenant = Tenant(slug="acme")
    try:
        check_new(user_id, tenant=tenant)
    except BadUserId as refusal:
        said = refusal.detail
        assert len(user_id) < 12 or user_id not in said
    else:
        check_named(user_id, tenant=tenant)
        assert user_id.encode("utf-8").decode("utf-8") == user_id
