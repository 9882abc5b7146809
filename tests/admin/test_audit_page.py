"""The audit trail's page: how the chain stands, and what is exported from it."""

import ast
import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from django.db import connection
from django.test import Client

from tests.admin.canaries import Canaries
from tests.admin.conftest import Cast
from tests.source import tree_of
from tests.vault.test_audit_chain import poisoned
from tokens import audit, isolation
from tokens.admin.base import in_words
from tokens.admin.operators import GroupAdmin, UserAdmin
from tokens.admin.trail_filters import ActionFilter
from tokens.models import AuditChain, AuditEvent, OAuthCredential, Tenant
from tokens.trail import export, seal

PAGE = "/admin/tokens/auditevent/"
Staff = Callable[..., Client]


def lines(client: Client, question: str = "") -> list[dict[str, object]]:
    answer = client.post(f"{PAGE}export/{question}")
    assert answer.status_code == 200
    assert "no-store" in answer["Cache-Control"]
    text = answer.getvalue().decode()
    return [json.loads(line) for line in text.splitlines()]


def test_the_page_says_how_the_chain_stands(cast: Cast, root: Client) -> None:
    assert "Nothing is sealed yet" in root.get(PAGE).content.decode()
    seal.seal_due(now=time.time() + 3600)
    page = root.get(PAGE).content.decode()
    assert "Sealed last" in page
    assert "2 chains were never verified" in page
    AuditChain.objects.update(verified_at=time.time())
    assert "ov-edge-good" in root.get(PAGE).content.decode()
    AuditChain.objects.filter(pk=cast.acme.pk).update(broken="batch 1, record 5: was edited")
    page = root.get(PAGE).content.decode()
    assert "not proven whole" in page
    assert "batch 1, record 5: was edited" in page


def test_a_broken_chain_is_said_on_the_first_page_to_whom_may_see_the_trail(
    cast: Cast, root: Client, staff: Staff
) -> None:
    said = "1 chain of the audit trail was not proven whole"
    assert said not in root.get("/admin/").content.decode()
    AuditChain.objects.create(pk=cast.acme.pk, tenant=cast.acme, broken="record 5: was edited")
    assert said in root.get("/admin/").content.decode()
    assert said in staff("tokens.view_auditevent").get("/admin/").content.decode()
    assert said not in staff("tokens.view_oauthcredential").get("/admin/").content.decode()


def test_what_is_listed_is_what_is_exported(
    cast: Cast, root: Client, canaries: Canaries, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "_PAGE", 3)
    everything = lines(root)
    assert len(everything) == len({line["id"] for line in everything}) > 30
    assert [line["at"] for line in everything] == sorted(line["at"] for line in everything)
    assert canaries.found_in(json.dumps(everything)) == []
    of_globex = lines(root, f"?tenant__id__exact={cast.globex.pk}")
    assert {line["tenant"] for line in of_globex} == {"globex"}
    assert len(of_globex) == sum(line["tenant"] == "globex" for line in everything)
    assert {line["subject"] for line in lines(root, "?q=alice")} == {"alice"}
    link = root.get(f"{PAGE}?q=alice").context["export_link"]
    assert link == f"{PAGE}export/?q=alice"


@pytest.mark.parametrize(
    "question",
    ["tenant__id__exact=abc", "tenant__id__exact=%00", "q=%00", "q=alice%00", "since=5m",
     "since=%00", "action=%00", "action=import%00", "actor=alice", "subject__startswith=a", "e=1",
     "q=alice&since=x", "since=1h&since=x"],
)  # fmt: skip
def test_a_question_that_cannot_be_answered_exports_nothing(
    cast: Cast, root: Client, question: str
) -> None:
    """Least of all everything; and the list does not fail over it."""
    answer = root.post(f"{PAGE}export/?{question}")
    assert answer.status_code == 400
    assert not answer.streaming
    assert "alice" not in answer.content.decode()
    assert root.get(f"{PAGE}?{question}").status_code in (200, 302, 400)


def test_the_choice_of_all_in_a_filter_exports_all(cast: Cast, root: Client) -> None:
    # But for the record of the first of the two.
    assert lines(root, "?tenant__id__exact=&action=&since=&q=") == lines(root)[:-1]


def test_to_see_the_trail_is_not_to_export_it(cast: Cast, staff: Staff) -> None:
    reader = staff("tokens.view_auditevent")
    assert "Export what is listed" not in reader.get(PAGE).content.decode()
    for client in (reader, staff("tokens.export_auditevent")):
        assert client.post(f"{PAGE}export/").status_code == 403
    assert Client().post(f"{PAGE}export/").status_code == 302
    exporter = staff("tokens.view_auditevent", "tokens.export_auditevent")
    assert "Export what is listed" in exporter.get(PAGE).content.decode()
    assert lines(exporter)


def test_an_export_is_written_down_and_an_address_alone_exports_nothing(
    cast: Cast, root: Client
) -> None:
    assert root.get(f"{PAGE}export/").status_code == 405
    assert not AuditEvent.objects.filter(action="export_audit").exists()
    exported = lines(root, "?q=alice&action=&outcome=done")
    event = AuditEvent.objects.get(action="export_audit")
    assert event.actor.startswith("operator ")
    assert (event.tenant_id, event.detail) == (None, {"asked": {"outcome": "done", "q": "alice"}})
    assert event.pk not in [line["id"] for line in exported]


def test_who_looks_after_some_tenants_exports_theirs_and_it_is_written_down_there(
    cast: Cast, staff: Staff
) -> None:
    rights = ("tokens.view_auditevent", "tokens.export_auditevent")
    exported = lines(staff(*rights, tenants=[cast.globex]))
    assert {line["tenant"] for line in exported} == {"globex"}
    assert [each.tenant for each in AuditEvent.objects.filter(action="export_audit")] == [
        cast.globex
    ]


def test_one_export_is_sent_at_a_time_whoever_does_not_read(cast: Cast, root: Client) -> None:
    """The server sends from the thread that answers: as many slow readers as threads, and nobody
    is handed a token."""
    slow = root.post(f"{PAGE}export/")
    assert root.post(f"{PAGE}export/").status_code == 503
    assert root.get(PAGE).status_code == 200
    assert slow.getvalue()
    assert lines(root)
    assert lines(root)


@pytest.mark.parametrize("question", ["?q=hedda", "?q=globex", "?tenant__id__exact={globex}"])
def test_what_was_asked_of_one_tenant_is_not_written_down_for_another(
    cast: Cast, staff: Staff, question: str
) -> None:
    """Who reads the trail of acme would learn there whom globex has, and that it is there."""
    rights = ("tokens.view_auditevent", "tokens.export_auditevent")
    client = staff(*rights, tenants=[cast.acme, cast.globex])
    exported = lines(client, question.format(globex=cast.globex.pk))
    assert {line["tenant"] for line in exported} == {"globex"}
    assert [each.tenant for each in AuditEvent.objects.filter(action="export_audit")] == [
        cast.globex
    ]


def test_the_trail_is_read_newest_first_whatever_the_address_says(cast: Cast, root: Client) -> None:
    newest = [event.pk for event in root.get(PAGE).context["cl"].result_list]
    for order in ("2", "-2", "4", "-4"):
        page = root.get(f"{PAGE}?o={order}")
        assert [event.pk for event in page.context["cl"].result_list] == newest


def test_a_page_of_the_export_is_asked_for_whomever_the_request_was_for(
    acme: Tenant, root: Client
) -> None:
    """The answer is read when the request, and its scope, are over."""
    seen = []
    real = export.page

    def page(*arguments: object, **named: object) -> object:
        seen.append(isolation.current())
        return real(*arguments, **named)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch, isolation.every_tenant():
        patch.setattr(export, "page", page)
        answer = root.post(f"{PAGE}export/")
        with isolation.nobody():
            assert b"create_tenant" in answer.getvalue()
    assert all(scope.is_everybody for scope in seen)
    assert len(seen) == 2


def test_the_page_of_a_record_says_from_where_and_in_which_batch(
    acme: Tenant, root: Client
) -> None:
    event = audit.record(tenant=acme, actor="test", action="revoke", now=5)
    assert "not sealed yet" in root.get(f"{PAGE}{event.pk}/change/").content.decode()
    seal.seal_due(now=time.time() + 3600)
    assert "batch 1" in root.get(f"{PAGE}{event.pk}/change/").content.decode()


UNREADABLE: dict[str, dict[str, object]] = {
    "a number without end": {"detail": '{"n": ' + "9" * 5000 + "}"},
    "before all time": {"at": float("-inf")},
    "an actor of bytes": {"actor": b"\xff"},
    "a text for a time": {"at": "yesterday"},
}
ONLY_SQLITE_TAKES = {"an actor of bytes", "a text for a time"}


@pytest.mark.parametrize("kind", UNREADABLE)
def test_a_record_that_cannot_be_read_hides_no_other(
    cast: Cast, root: Client, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if connection.vendor == "postgresql" and kind in ONLY_SQLITE_TAKES:
        pytest.skip("PostgreSQL's columns take nothing else than they are of")
    monkeypatch.setattr(export, "_PAGE", 3)
    before = len(lines(root))
    alice = OAuthCredential.objects.get(tenant=cast.acme, user_id="alice")
    pk = poisoned(cast.acme.pk, **{"at": time.time(), "subject": "alice", **UNREADABLE[kind]})
    answer = root.get(PAGE)
    assert answer.status_code == 200
    assert "import" in answer.content.decode()
    exported = lines(root)
    # With the record of the first export.
    assert len({line["id"] for line in exported}) == before + 2
    assert pk in {line["id"] for line in exported}
    for view in ("change", "history"):
        page = root.get(f"/admin/tokens/oauthcredential/{alice.pk}/{view}/")
        assert page.status_code == 200
        assert "import" in page.content.decode().lower()


def recorded_in(source: str) -> set[str]:
    """Every act that this module records: `audit.record` is told it by name, or by a function of
    the module that is itself told it."""
    tree = tree_of(source)
    takes_it = {
        function.name: [argument.arg for argument in function.args.args].index("action")
        if "action" in [argument.arg for argument in function.args.args]
        else None
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef)
        and "action" in {each.arg for each in (*function.args.args, *function.args.kwonlyargs)}
    }
    acts: set[str] = set()
    for call in ast.walk(tree):
        if not isinstance(call, ast.Call):
            continue
        name = ast.unparse(call.func)
        if name not in {"audit.record", "roles.record", *takes_it}:
            continue
        told = [keyword.value for keyword in call.keywords if keyword.arg == "action"]
        place = takes_it.get(name)
        if place is not None:
            told += call.args[place : place + 1]
        (action,) = told
        if isinstance(action, ast.Constant):
            acts.add(str(action.value))
        else:
            assert ast.unparse(action) == "action", f"which act is this? {ast.unparse(call)}"
    return acts


def test_every_act_that_is_recorded_can_be_asked_for() -> None:
    house = Path(__file__).resolve().parents[2]
    recorded: set[str] = set()
    for package in ("api", "oauthvault", "tokens"):
        for path in (house / package).rglob("*.py"):
            source = path.read_text()
            if "audit.record(" in source or "roles.record(" in source:
                recorded |= recorded_in(source)
    recorded |= {act for admin in (UserAdmin, GroupAdmin) for act in admin.acts}
    listed = [action for action, _ in ActionFilter.lookups(ActionFilter, None, None)]  # type: ignore[arg-type]
    assert sorted(recorded) == sorted(listed)


def test_a_time_in_a_record_is_shown_as_one() -> None:
    said = in_words({"expires_at": 1_798_212_696, "replaced": False, "lives_at": 10**30})
    assert said == f"expires at: 2026-12-25 15:31:36 UTC; replaced: no; lives at: {10**30}"
