"""What the commands do, and how they refuse."""

import json
import logging
from argparse import SUPPRESS
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import pytest
from django.core.management import CommandError, call_command, load_command_class
from pytest_django import Settings

from api.keys import find_key
from api.models import ApiKey
from oauthvault.cli import _ours
from tests.conftest import Store
from tests.simulator import Simulator
from tokens import clock
from tokens.management.command import VaultCommand, utc
from tokens.models import (
    AuditChain,
    AuditEvent,
    Deployment,
    Heartbeat,
    OAuthCredential,
    Standing,
    Tenant,
    Upstream,
)
from tokens.refresh import gate

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


def _texts_of_our_commands() -> Iterator[tuple[str, str, list[str]]]:
    """Every option and argument of ours that takes a text: with a blank in its place."""
    for command, package in sorted(_ours().items()):
        made = load_command_class(package, command)
        if not isinstance(made, VaultCommand):
            continue
        actions = [
            action
            for action in made.create_parser("oauthvault", command)._actions
            if action.help != SUPPRESS
            and action.nargs != 0
            and action.type is None
            and action.choices is None
        ]
        positional = [action for action in actions if not action.option_strings]
        required = [action for action in actions if action.option_strings and action.required]
        for action in actions:
            words = [command]
            for other in positional:
                words.append("%s" if other is action else "x")
            for other in required:
                words += [other.option_strings[0], "%s" if other is action else "x"]
            if action.option_strings and not action.required:
                words += [action.option_strings[0], "%s"]
            name = action.option_strings[0] if action.option_strings else action.metavar
            yield command, str(name), words


@pytest.mark.parametrize("blank", ["", " \t"], ids=["empty", "blank"])
@pytest.mark.parametrize(
    ("name", "words"),
    [pytest.param(name, words, id=f"{command} {name}")
     for command, name, words in _texts_of_our_commands() if name not in ("--name", "--label")],
)  # fmt: skip
def test_an_empty_value_is_refused_and_never_means_everybody(
    acme: Tenant, name: str, words: list[str], blank: str
) -> None:
    with pytest.raises(CommandError) as refusal:
        call_command(*(blank if word == "%s" else word for word in words))
    assert f"{name} is empty" in str(refusal.value)
    assert refusal.value.returncode == 2


@pytest.mark.parametrize(
    ("name", "words"),
    [pytest.param(name, words, id=f"{command} {name}")
     for command, name, words in _texts_of_our_commands() if name != "FILE"],
)  # fmt: skip
def test_what_is_no_text_is_refused_in_one_line(acme: Tenant, name: str, words: list[str]) -> None:
    r"""As Python hands on the byte \xff of a command line."""
    with pytest.raises(CommandError) as refusal:
        call_command(*("a\udcff" if word == "%s" else word for word in words))
    assert str(refusal.value) == f"{name} is not UTF-8. Nothing was done"
    assert refusal.value.returncode == 2


def test_a_file_may_be_called_by_any_bytes(acme: Tenant, tmp_path: Path) -> None:
    file = tmp_path / "team\udcff.jsonl"
    file.write_text(json.dumps(login(1, user_id="alice")))
    run("import_credentials", str(file), "--tenant", "acme")
    assert OAuthCredential.objects.get().user_id == "alice"


def test_whoever_names_a_tenant_that_is_not_there_is_told_where_the_names_are() -> None:
    """And not, in the middle of deleting one, how to make it."""
    refusal = run("delete_tenant", "nosuch", refused=True)
    assert refusal == "there is no tenant 'nosuch': `oauthvault list_tenants` names those there are"


def test_every_way_to_name_a_tenant_or_a_user_is_among_the_values_tried() -> None:
    tried = {(command, name) for command, name, _ in _texts_of_our_commands()}
    assert {
        ("suspend", "--user"),
        ("create_key", "TENANT"),
        ("create_key", "--user"),
        ("refresh", "--user"),
        ("release_quarantine", "--tenant"),
        ("credentials", "--tenant"),
        ("rotate_keys", "--tenant"),
        ("verify_audit", "--tenant"),
        ("export_audit", "--tenant"),
        ("delete_tenant", "SLUG"),
        ("change_tenant", "SLUG"),
        ("revoke_key", "PREFIX"),
    } <= tried


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


@pytest.mark.parametrize("dry_run", [True, False])
def test_a_login_or_a_tenant_that_does_not_belong_there_is_said_in_a_dry_run_too(
    acme: Tenant, globex: Tenant, tmp_path: Path, dry_run: bool
) -> None:
    file = tmp_path / "team.jsonl"
    rows = [login(1, user_id="alice", tenant="acme"), login(1, user_id="bob"),
            login(2, user_id="carol", tenant="globex")]  # fmt: skip
    file.write_text("\n".join(map(json.dumps, rows)))
    words = ["--dry-run"] if dry_run else []
    printed = run("import_credentials", str(file), "--tenant", "acme", *words, refused=True)
    assert "line 2, bob: refused: (login): stands on line 1 already, for another user" in printed
    assert "line 3, carol: refused: tenant: is none that this import may store" in printed
    assert [row.user_id for row in OAuthCredential.objects.all()] == ([] if dry_run else ["alice"])


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


@pytest.mark.parametrize("user", [None, "alice"])
@pytest.mark.parametrize(
    ("content", "named"),
    [('{"user_id": "alice", "accessToken": "sk-ant-oat01-canary-1", "expiresAt": 2000000000, '
      '"accessToken": "sk-ant-oat01-canary-2"}', "accessToken: is given twice"),
     ('{"claudeAiOauth": {"accessToken": "sk-ant-oat01-canary", "expiresAt": 2000000000, '
      '"expiresAt": 2100000000}}', "expiresAt: is given twice"),
     ('{"sk-ant-oat01-canary": 1, "sk-ant-oat01-canary": 2}', "(unnamed): is given twice"),
     ("user_id,accessToken,expiresAt,accessToken\na,sk-ant-oat01-canary,2000000000,x\n",
      "accessToken"),
     ("user_id,sk-ant-oat01-canary,sk-ant-oat01-canary\na,b,c\n", "(unnamed)")],
    ids=range(5),
)  # fmt: skip
def test_a_field_that_is_given_twice_is_refused_in_every_kind_of_file(
    acme: Tenant, tmp_path: Path, content: str, named: str, user: str | None
) -> None:
    file = tmp_path / "twice"
    file.write_text(content)
    of_whom = ("--user", user) if user else ()
    if user and content.startswith("user_id"):
        named = "with --user the file must be one JSON object"
    printed = run("import_credentials", str(file), "--tenant", "acme", *of_whom, refused=True)
    assert named in printed
    assert "canary" not in printed
    assert not OAuthCredential.objects.exists()


def test_of_many_lines_only_the_one_that_gives_a_field_twice_is_refused(
    acme: Tenant, tmp_path: Path
) -> None:
    file = tmp_path / "team.jsonl"
    lines = ['{"user_id": "mallory", "user_id": "bob"}', json.dumps(login(1, user_id="alice"))]
    file.write_text("\n".join(lines))
    printed = run("import_credentials", str(file), "--tenant", "acme", refused=True)
    assert "line 1, (no user): refused: user_id: is given twice" in printed
    assert OAuthCredential.objects.get().user_id == "alice"


SHAPES = {
    "a list": ('[{"user_id": "alice"}]', "the file is a JSON list"),
    "a string": ('"alice"', "the file is a JSON string"),
    "a list on a line": (
        '{"user_id": "alice"}\n[1]',
        "line 2, (no user): refused: (line): is a JSON list",
    ),
    "no JSON": (
        '{"user_id": "alice"}\n{nothing}',
        "line 2, (no user): refused: (line): is no JSON",
    ),
    "semicolons": ("user_id;accessToken;expiresAt\nalice;x;1", "are separated by semicolons"),
    "tabs": ("user_id\taccessToken\nalice\tx", "are separated by tabs"),
    "a number": ('{"user_id": 5}', "user_id: must be a text"),
    "empty": ('{"user_id": ""}', "user_id: is empty"),
    "missing": (
        '{"user_id": "alice"}\n{"isMax": true}',
        "line 2, (no user): refused: user_id: is missing",
    ),
    "an empty cell": ("user_id,accessToken\n,x", "user_id: is empty"),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_what_is_wrong_with_a_file_is_called_by_its_name(
    acme: Tenant, tmp_path: Path, shape: str
) -> None:
    content, sentence = SHAPES[shape]
    file = tmp_path / "team"
    file.write_text(content)
    assert sentence in run("import_credentials", str(file), "--tenant", "acme", refused=True)


def test_one_object_over_several_lines_is_one_row(acme: Tenant, tmp_path: Path) -> None:
    file = tmp_path / "one.json"
    file.write_text(json.dumps(login(1, user_id="alice"), indent=2))
    told = run("import_credentials", str(file), "--tenant", "acme", "--dry-run")
    assert "alice: would be stored" in told
    assert "alice: stored" in run("import_credentials", str(file), "--tenant", "acme")


def test_somebody_who_stands_twice_in_a_file_is_not_replaced(acme: Tenant, tmp_path: Path) -> None:
    file = tmp_path / "team.jsonl"
    rows = [login(1, user_id="alice"), login(2, user_id="bob"), login(3, user_id="alice")]
    file.write_text("\n".join(map(json.dumps, rows)))
    printed = run("import_credentials", str(file), "--tenant", "acme", refused=True)
    assert "line 3, alice: refused: user_id: stands on line 1 already" in printed
    assert OAuthCredential.objects.get(user_id="alice").generation == 1


def test_a_note_says_whom_it_concerns(acme: Tenant, tmp_path: Path) -> None:
    file = tmp_path / "team.jsonl"
    scopes = {"scopes": ["user:inference"]}
    rows = [login(1, user_id="alice"), login(2, user_id="bob") | scopes, login(3, user_id="carla")]
    file.write_text("\n".join(map(json.dumps, rows)))
    printed = run("import_credentials", str(file), "--tenant", "acme")
    assert "Note for alice, carla: " in printed


def test_a_setup_token_is_spoken_of_as_one(acme: Tenant, tmp_path: Path) -> None:
    """It names no scopes, and comes from no file of Claude Code's."""
    file = tmp_path / "setup.json"
    soon = int(clock.now()) + 3600
    file.write_text(json.dumps({"accessToken": "sk-ant-oat01-canary", "expiresAt": soon}))
    of_ci = ("--tenant", "acme", "--user", "ci")
    assert "names no scopes: the usual ones are assumed" in run(
        "import_credentials", str(file), *of_ci
    )
    problem = json.loads(run("status", *of_ci, "--json"))["problem"]
    assert "import_credentials FILE --tenant acme --user ci" in problem
    assert ".credentials.json" not in problem
    scopes = {"scopes": ["org:create_api_key"]}
    file.write_text(json.dumps(login(1) | scopes))
    assert "assumed" not in run(
        "import_credentials", str(file), "--tenant", "acme", "--user", "bob"
    )


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


def test_what_a_key_is_bound_to_can_be_read_back_and_was_recorded(acme: Tenant) -> None:
    run("create_key", "acme", "--allow-from", "10.0.0.0/8", "--scope", "status:read")
    printed = run("list_keys")
    assert "may status:read, from 10.0.0.0/8" in printed
    assert json.loads(run("list_keys", "--json"))[0]["networks"] == ["10.0.0.0/8"]
    assert AuditEvent.objects.get(action="create_key").detail["networks"] == ["10.0.0.0/8"]


def test_small_refusals_say_what_was_wrong(acme: Tenant) -> None:
    said = run("suspend", "--tenant", "acme", "--user", "nobody", refused=True)
    assert "No OAuth token found for user nobody of acme" in said
    said = run("create_key", "acme", "--allow-from", "10.0.0.1/8", refused=True)
    assert "it has bits of a host; the one around it is 10.0.0.0/8" in said
    said = run("change_tenant", "acme", "--max-retries", "-1", refused=True)
    assert "'-1' is no whole number from 0 up; or write deployment" in said


def test_a_key_for_a_suspended_tenant_is_said_to_be_of_no_use_yet(acme: Tenant) -> None:
    run("suspend", "--tenant", "acme")
    said = StringIO()
    call_command("create_key", "acme", stdout=StringIO(), stderr=said)
    assert "Tenant acme is suspended: its keys are refused until" in said.getvalue()


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.django_db(transaction=True)
def test_at_a_terminal_a_login_that_is_lost_is_said_once(
    acme: Tenant, upstream: Simulator, store: Store, caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    store(acme, "alice", upstream.new_login("alice"))
    upstream.kill_login("alice")
    log = logging.getLogger("tokens.refresh.refusal")
    monkeypatch.setattr("sys.stderr", Terminal())
    try:
        printed = run("refresh", "--tenant", "acme", "--user", "alice", refused=True)
    finally:
        log.setLevel(logging.NOTSET)
    assert "alice: reauthorization_required. " in printed
    assert [each for each in caplog.records if each.levelno >= logging.WARNING] == []


NO_NAMES = ["x" * 201, "two\nlines", "bell\a", "end\u2028of a line"]


@pytest.mark.parametrize("name", NO_NAMES)
def test_names_and_labels_are_a_line_of_text(acme: Tenant, name: str) -> None:
    said = (
        run("create_tenant", "new", "--name", name, refused=True),
        run("change_tenant", "acme", "--name", name, refused=True),
        run("create_key", "acme", "--label", name, refused=True),
    )
    assert all("has at most 200 characters" in each or "ends of lines" in each for each in said)
    assert not Tenant.objects.filter(slug="new").exists()
    assert not ApiKey.objects.exists()


def test_a_key_ends_within_ten_years_or_never(acme: Tenant) -> None:
    assert "at most 3660 days" in run("create_key", "acme", "--expires-in", "3661d", refused=True)
    prefix = json.loads(run("create_key", "acme", "--expires-in", "3660d", "--json"))["prefix"]
    assert "at most 3660 days" in run("rotate_key", prefix, "--overlap", "999999999d", refused=True)


def test_whoever_rotates_a_key_is_told_when_the_new_one_ends(acme: Tenant) -> None:
    prefix = json.loads(run("create_key", "acme", "--expires-in", "90d", "--json"))["prefix"]
    said = StringIO()
    call_command("rotate_key", prefix, stdout=StringIO(), stderr=said)
    new = ApiKey.objects.exclude(prefix=prefix).get()
    assert f"It works until {utc(new.expires_at or 0)}. The old key" in said.getvalue()


def test_a_status_is_for_people_to_read(acme: Tenant, upstream: Simulator, store: Store) -> None:
    of_alice = ("status", "--tenant", "acme", "--user", "alice")
    credential = store(acme, "alice", upstream.new_login("alice", expires_in=3 * 3600 + 90))
    told = dict(line.split("  ", 1) for line in run(*of_alice).splitlines())
    told = {name: text.strip() for name, text in told.items()}
    assert told["expires at"] == utc(credential.expires_at)
    assert told["expires in"].startswith("3 h ")
    assert told["authenticated"] == "yes"
    assert told["last used"] == "never"
    run("revoke", "--tenant", "acme", "--user", "alice")
    assert "expires" not in run(*of_alice)


@pytest.mark.django_db(transaction=True)
def test_the_doctor_knows_of_a_trail_that_was_not_proven_whole(acme: Tenant) -> None:
    def told() -> tuple[str, str]:
        (found,) = (
            each
            for each in json.loads(run("doctor", "--json", refused=True).partition("]\n")[0] + "]")
            if each["what"] == "audit trail"
        )
        return found["state"], found["detail"]

    AuditChain.objects.create(
        pk=acme.pk, tenant=acme, tenant_slug="acme", broken="record 3: edited"
    )
    assert told()[0] == "wrong"
    assert "record 3: edited" in told()[1]


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


def test_what_cannot_be_undone_is_not_done_where_nobody_can_be_asked(
    acme: Tenant, upstream: Simulator, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", StringIO("y\n"))
    store(acme, "alice", upstream.new_login("alice"))
    assert "--yes" in run("revoke", "--tenant", "acme", "--all", refused=True)
    OAuthCredential.objects.update(standing=Standing.QUARANTINED, refresh_due_at=None)
    assert "--yes" in run("release_quarantine", refused=True)
    Upstream.objects.create(token_url=upstream.token_url, rate_limited_until=clock.now() + 600)
    assert "--yes" in run("reset_upstream", refused=True)
    assert OAuthCredential.objects.get().standing == Standing.QUARANTINED
    assert gate.look(now=clock.now()).closed_until > 0


@pytest.mark.django_db(transaction=True)
def test_an_operator_who_knows_better_reopens_the_way_to_the_authorization_server(
    acme: Tenant, upstream: Simulator, store: Store
) -> None:
    store(acme, "alice", upstream.new_login("alice"))
    assert "Nothing keeps" in run("reset_upstream", "--yes")
    for closed in ({"rate_limited_until": clock.now() + 600}, {"circuit_open_until": 1}):
        Upstream.objects.update_or_create(token_url=upstream.token_url, defaults=closed)
        assert json.loads(run("reset_upstream", "--yes", "--json")) == {"reset": True}
        assert gate.look(now=clock.now()) == gate.Door(calm_for=ANY)
    assert "alice: refreshed" in run("refresh", "--tenant", "acme")


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


def test_everybodys_credentials_are_listed_or_one_tenants(
    acme: Tenant, globex: Tenant, upstream: Simulator, store: Store
) -> None:
    for tenant, user in ((acme, "alice"), (globex, "carol")):
        store(tenant, user, upstream.new_login(user))
    assert [row["user_id"] for row in json.loads(run("credentials", "--json"))] == [
        "alice",
        "carol",
    ]
    assert "carol" not in run("credentials", "--tenant", "acme")


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
    told = json.loads(run("status", *of_alice, "--json"))
    assert (told["status"], told["authenticated"]) == ("suspended", False)
    assert "oauthvault resume --tenant acme" in told["problem"]
    run("resume", "--tenant", "acme")
    assert '"authenticated": true' in run("status", *of_alice, "--json")


def test_what_stops_somebody_answers_scripts_in_json(
    acme: Tenant, upstream: Simulator, store: Store
) -> None:
    store(acme, "alice", upstream.new_login("alice"))
    for command, result in (("suspend", "suspended"), ("resume", "resumed")):
        for words, user in ((("--user", "alice"), "alice"), ((), None)):
            told = json.loads(run(command, "--tenant", "acme", *words, "--json"))
            assert told == {"tenant": "acme", "user_id": user, "result": result}
    prefix = json.loads(run("create_key", "acme", "--json"))["prefix"]
    for result in ("revoked", "already_revoked"):
        told = json.loads(run("revoke_key", prefix, "--json"))
        assert told == {"prefix": prefix, "tenant": "acme", "result": result}


def test_the_doctor_finds_a_whole_vault_whole(acme: Tenant) -> None:
    findings = {row["what"]: row["state"] for row in json.loads(run("doctor", "--json"))}
    assert findings["database"] == findings["migrations"] == findings["keys"] == "ok"


@pytest.mark.parametrize(("sweeps_ago", "state"), [(1, "ok"), (2.5, "note"), (3.5, "wrong")])
def test_the_doctor_knows_from_three_missed_sweeps_that_no_scheduler_runs(
    acme: Tenant, settings: Settings, sweeps_ago: float, state: str
) -> None:
    age = sweeps_ago * settings.SWEEP_INTERVAL
    Heartbeat.objects.create(part="scheduler", at=clock.now() - age)
    printed = run("doctor", "--json", refused=state == "wrong")
    found = {row["what"]: row for row in json.loads(printed[: printed.rindex("]") + 1])}
    assert found["scheduler"]["state"] == state


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


def test_what_is_known_of_another_server_is_no_all_clear_for_the_vaults_own(
    acme: Tenant, upstream: Simulator
) -> None:
    theirs = "https://elsewhere.example.org/token"
    Deployment.objects.update_or_create(pk=1, defaults={"token_url": theirs})
    Upstream.objects.create(token_url=theirs, rate_limited_until=clock.now() + 600)
    printed = run("reset_upstream", "--yes", refused=True)
    assert theirs in printed
    assert "CLAUDE_OAUTH_TOKEN_URL" in printed
    printed = run("doctor", "--json", refused=True)
    found = {row["what"]: row for row in json.loads(printed[: printed.rindex("]") + 1])}["upstream"]
    assert found["state"] == "wrong"
    assert theirs in found["detail"]


def test_a_login_that_failed_keeps_its_own_wait_and_that_is_said(
    acme: Tenant, upstream: Simulator, store: Store
) -> None:
    store(acme, "alice", upstream.new_login("alice"))
    Upstream.objects.create(token_url=upstream.token_url, circuit_open_until=clock.now() + 60)
    OAuthCredential.objects.update(
        consecutive_failures=3, refresh_due_at=int(clock.now()) + 200, problem="upstream_error"
    )
    printed = run("reset_upstream", "--yes")
    assert "at once" not in printed
    assert "1 login that failed is tried again when its own wait is over, in" in printed
    assert "oauthvault refresh --tenant T --user U" in printed
    assert OAuthCredential.objects.get().refresh_due_at is not None


@pytest.mark.django_db(transaction=True)
def test_a_success_of_a_moment_ago_is_told_from_a_refresh(
    acme: Tenant, upstream: Simulator, store: Store
) -> None:
    store(acme, "alice", upstream.new_login("alice"))
    arguments = ("refresh", "--tenant", "acme", "--user", "alice")
    (first,) = json.loads(run(*arguments, "--json"))
    (second,) = json.loads(run(*arguments, "--json"))
    assert (first["result"], second["result"]) == ("refreshed", "fresh")
    assert first["expires_at"] == second["expires_at"] == OAuthCredential.objects.get().expires_at
    assert "s ago; nothing was sent" in run(*arguments)
    assert upstream.counts.token_calls == 1


@pytest.mark.django_db(transaction=True)
def test_who_was_taken_out_of_use_is_no_failure_of_a_tenants_refresh(
    acme: Tenant, upstream: Simulator, store: Store
) -> None:
    for user in ("alice", "bob", "gus"):
        store(acme, user, upstream.new_login(user))
    run("revoke", "--tenant", "acme", "--user", "gus")
    run("suspend", "--tenant", "acme", "--user", "bob")
    printed = run("refresh", "--tenant", "acme")
    assert "acme/alice: refreshed" in printed
    assert "Left out: 1 revoked, 1 suspended." in printed
    told = json.loads(run("refresh", "--tenant", "acme", "--json"))
    assert {row["user_id"]: row["result"] for row in told} == {
        "alice": "fresh",
        "bob": "left_out",
        "gus": "left_out",
    }
    assert "suspended" in run("refresh", "--tenant", "acme", "--user", "bob", refused=True)


@pytest.mark.parametrize("whom", [("--user", "alice"), ("--all", "--yes")])
def test_a_revocation_says_in_seconds_until_when_a_token_may_live(
    acme: Tenant, upstream: Simulator, store: Store, whom: tuple[str, ...]
) -> None:
    ends = store(acme, "alice", upstream.new_login("alice")).expires_at
    (told,) = json.loads(run("revoke", "--tenant", "acme", *whom, "--json"))
    assert told["lives_until"] == ends
    assert "exclude each other" in run(
        "revoke", "--tenant", "acme", "--user", "alice", "--all", refused=True
    )


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
    printed = run("release_quarantine", "--tenant", "acme", "--user", "bob", "--yes")
    assert "epoch 3, and was 9 before" in printed
    assert "1 credential released" in printed
    assert Deployment.objects.get().quarantined_at is not None, "two are waiting still"
    assert run("release_quarantine", "--json", "--yes") == '{\n  "released": 2\n}\n'
    assert Deployment.objects.get().quarantined_at is None
    assert not OAuthCredential.objects.exclude(standing=Standing.ACTIVE).exists()
    assert not OAuthCredential.objects.filter(refresh_due_at=None).exists()
    assert "--tenant" in run("release_quarantine", "--user", "bob", refused=True)
