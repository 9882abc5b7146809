"""What the commands do, and how they refuse."""

import json
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from api.keys import find_key
from tests.conftest import Store
from tests.simulator import Simulator
from tokens.models import AuditEvent, Deployment, OAuthCredential, Standing, Tenant

pytestmark = pytest.mark.django_db

LATER = 4_000_000_000 - 2_000_000_000


def run(*arguments: str, refused: bool = False) -> str:
    """What the command printed. ``refused``: it must also end with a CommandError."""
    out, err = StringIO(), StringIO()
    if refused:
        with pytest.raises(CommandError) as error:
            call_command(*arguments, stdout=out, stderr=err)
        return f"{out.getvalue()}{error.value}"
    call_command(*arguments, stdout=out, stderr=err)
    return out.getvalue()


def login(number: int, **more: Any) -> dict[str, Any]:
    return {
        "accessToken": f"sk-ant-oat01-canary{number}",
        "refreshToken": f"sk-ant-ort01-canary{number}",
        "expiresAt": LATER,
    } | more


def test_many_users_come_in_by_json_lines_with_a_result_for_each(
    acme: Tenant, tmp_path: Path
) -> None:
    file = tmp_path / "team.jsonl"
    rows = [
        login(1, user_id="alice"),
        login(2, user_id="bob", expiresAt=LATER * 1000),
        login(1, user_id="mallory"),
        login(3, user_id="carol", refreshToken=""),
        login(4),
        login(5, user_id="default"),
    ]
    file.write_text("\n".join(json.dumps(row) for row in rows) + "\nnot json\n")
    printed = run("import_credentials", str(file), "--tenant", "acme", "--json", refused=True)
    results = json.loads(printed[: printed.rindex("]") + 1])
    assert [result["result"] for result in results] == ["created"] * 2 + ["refused"] * 5
    assert [result["line"] for result in results] == [1, 2, 3, 4, 5, 6, 7]
    assert set(OAuthCredential.objects.values_list("user_id", "expires_at")) == {
        ("alice", LATER),
        ("bob", LATER),
    }
    assert "canary" not in printed


def test_many_users_come_in_by_csv(acme: Tenant, tmp_path: Path) -> None:
    file = tmp_path / "team.csv"
    file.write_text(
        "user_id,accessToken,refreshToken,expiresAt,isMax\n"
        f"alice,sk-ant-oat01-a,sk-ant-ort01-a,{LATER},false\n"
        f'"bob, the second",sk-ant-oat01-b,,{LATER},\n'
    )
    run("import_credentials", str(file), "--tenant", "acme")
    stored = OAuthCredential.objects.order_by("user_id")
    assert [row.user_id for row in stored] == ["alice", "bob, the second"]
    assert [row.is_max for row in stored] == [False, True]
    assert [row.has_refresh_token for row in stored] == [True, False]


def test_a_dry_run_says_everything_and_stores_nothing(acme: Tenant, tmp_path: Path) -> None:
    file = tmp_path / "one.json"
    file.write_text(json.dumps({"claudeAiOauth": login(1)}))
    arguments = ("import_credentials", str(file), "--tenant", "acme", "--user", "alice")
    assert "nothing was stored" in run(*arguments, "--dry-run")
    assert not OAuthCredential.objects.exists()
    run(*arguments)
    assert "unchanged" in run(*arguments)


@pytest.mark.parametrize(
    "content", ["", "{", "a,b\n1,2\n", "[]", "\x00", '"text"', "sk-ant-canary"]
)
def test_a_file_of_another_shape_is_refused_with_a_sentence(
    acme: Tenant, tmp_path: Path, content: str
) -> None:
    file = tmp_path / "x"
    file.write_text(content)
    printed = run("import_credentials", str(file), "--tenant", "acme", refused=True)
    assert "canary" not in printed
    assert not OAuthCredential.objects.exists()


def test_one_persons_file_needs_a_user_where_there_are_many(acme: Tenant, tmp_path: Path) -> None:
    file = tmp_path / "one.json"
    file.write_text(json.dumps({"claudeAiOauth": login(1)}))
    assert "--user" in run("import_credentials", str(file), "--tenant", "acme", refused=True)


def test_a_key_is_shown_once_and_found_by_its_hash(acme: Tenant) -> None:
    made = json.loads(run("create_key", "acme", "--expires-in", "90d", "--json"))
    key = find_key(made["key"])
    assert key is not None
    assert key.tenant == acme
    assert made["key"] not in run("list_keys", "--json")
    assert made["key"][4:] not in json.dumps(list(AuditEvent.objects.values()), default=str)
    assert "revoked." in run("revoke_key", made["prefix"])
    assert "already" in run("revoke_key", made["prefix"])


def test_revoking_twice_is_no_error_for_a_script(
    acme: Tenant, upstream: Simulator, store: Store
) -> None:
    store(acme, "alice", upstream.new_login("alice"))
    arguments = ("revoke", "--tenant", "acme", "--user", "alice", "--json")
    assert json.loads(run(*arguments))[0]["result"] == "revoked"
    assert json.loads(run(*arguments))[0]["result"] == "nothing_stored"


def test_revoking_all_of_a_tenant_touches_no_other(
    acme: Tenant, globex: Tenant, upstream: Simulator, store: Store
) -> None:
    for tenant, user in ((acme, "alice"), (acme, "bob"), (globex, "carol")):
        store(tenant, user, upstream.new_login(user))
    run("revoke", "--tenant", "acme", "--all", "--yes")
    assert list(
        OAuthCredential.objects.exclude(standing="revoked").values_list("user_id", flat=True)
    ) == ["carol"]


@pytest.mark.django_db(transaction=True)
def test_refresh_on_demand_says_what_came_of_each(
    acme: Tenant, upstream: Simulator, store: Store
) -> None:
    for user in ("alice", "bob"):
        store(acme, user, upstream.new_login(user))
    upstream.kill_login("bob")
    printed = run("refresh", "--tenant", "acme", refused=True)
    assert "acme/alice: refreshed" in printed
    assert "acme/bob: reauthorization_required" in printed
    assert "1 of 2" in printed


def test_suspension_stops_a_user_or_a_tenant_and_loses_nothing(
    acme: Tenant, upstream: Simulator, store: Store
) -> None:
    store(acme, "alice", upstream.new_login("alice"))
    of_alice = ("--tenant", "acme", "--user", "alice")
    run("suspend", *of_alice)
    assert '"status": "suspended"' in run("status", *of_alice, "--json")
    run("resume", *of_alice)
    assert '"status": "active"' in run("status", *of_alice, "--json")
    run("suspend", "--tenant", "acme")
    assert "suspended" in run("status", *of_alice, refused=True)
    run("resume", "--tenant", "acme")
    assert '"authenticated": true' in run("status", *of_alice, "--json")


def test_the_doctor_finds_a_whole_vault_whole(acme: Tenant) -> None:
    findings = {row["what"]: row["state"] for row in json.loads(run("doctor", "--json"))}
    assert findings["database"] == findings["migrations"] == findings["keys"] == "ok"


def test_a_terminal_that_was_told_of_another_server_shows_it_no_refresh_token(
    acme: Tenant, upstream: Simulator, store: Store
) -> None:
    store(acme, "alice", upstream.new_login("alice"))
    # There may be one: a thread of a test before made it, in a transaction of its own.
    Deployment.objects.update_or_create(
        pk=1, defaults={"token_url": "https://elsewhere.example.org/token"}
    )
    printed = run("refresh", "--tenant", "acme", "--user", "alice", refused=True)
    assert "elsewhere.example.org" in printed
    assert "CLAUDE_OAUTH_TOKEN_URL" in printed
    assert upstream.counts.token_calls == 0


def test_release_quarantine_says_what_happened_and_releases(
    acme: Tenant, globex: Tenant, upstream: Simulator, store: Store
) -> None:
    for tenant, user in ((acme, "alice"), (acme, "bob"), (globex, "carol")):
        store(tenant, user, upstream.new_login(user))
    assert "Nothing is quarantined" in run("release_quarantine")
    OAuthCredential.objects.update(standing=Standing.QUARANTINED, refresh_due_at=None)
    Deployment.objects.update_or_create(
        pk=1, defaults={"quarantined_at": 1, "quarantine_reason": "epoch 3, and was 9 before"}
    )
    printed = run("release_quarantine", "--tenant", "acme", "--user", "bob")
    assert "epoch 3, and was 9 before" in printed
    assert "1 credential released" in printed
    assert Deployment.objects.get().quarantined_at is not None, "two are waiting still"
    assert run("release_quarantine", "--json") == '{\n  "released": 2\n}\n'
    assert Deployment.objects.get().quarantined_at is None
    assert not OAuthCredential.objects.exclude(standing=Standing.ACTIVE).exists()
    assert not OAuthCredential.objects.filter(refresh_due_at=None).exists()
    assert "--tenant" in run("release_quarantine", "--user", "bob", refused=True)
