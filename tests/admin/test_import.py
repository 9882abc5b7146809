"""Logins come in by the dashboard: looked at, confirmed, stored; never shown, never in between."""

import io
import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from django.conf import settings
from django.contrib.auth.models import User
from django.contrib.sessions.models import Session
from django.core.files.uploadedfile import SimpleUploadedFile
from django.db.models import F
from django.test import Client
from django.urls import reverse
from hypothesis import given
from hypothesis import settings as how_often
from hypothesis import strategies as st
from pytest_django import Settings

from api import bodies
from tests.admin.canaries import Canaries
from tests.admin.test_permissions import LIST, Staff
from tokens import history, import_drafts, importing, isolation, sealing, vault
from tokens.import_drafts import LIFETIME
from tokens.models import AuditEvent, Heartbeat, ImportDraft, OAuthCredential, Tenant
from tokens.tenants import suspend_tenant

PAGE = f"{LIST}import/"
RIGHTS = ("tokens.view_oauthcredential", "tokens.import_oauthcredential")

pytestmark = pytest.mark.django_db


@pytest.fixture
def login(canaries: Canaries) -> Callable[..., dict[str, Any]]:
    """A login of canary tokens, as a row has it."""

    def _login(**changes: Any) -> dict[str, Any]:
        fields = {
            "accessToken": canaries.token("oat01"),
            "refreshToken": canaries.token("ort01"),
            "expiresAt": int(time.time()) + 3600,
        } | changes
        return {name: value for name, value in fields.items() if value is not None}

    return _login


Login = Callable[..., dict[str, Any]]


def lines(*rows: dict[str, Any]) -> str:
    return "\n".join(json.dumps(row) for row in rows)


def look(client: Client, tenant: Tenant, content: str | bytes, user: str = "") -> Any:
    """Upload bytes, paste a text."""
    form: dict[str, Any] = {"tenant": tenant.pk, "user_id": user}
    if isinstance(content, bytes):
        form["file"] = SimpleUploadedFile("team.jsonl", content)
    else:
        form["pasted"] = content
    return client.post(PAGE, form)


def confirmation(answer: Any) -> dict[str, str]:
    """The form of a page that asks."""
    return {
        "draft": str(answer.context["draft_id"]), "position": str(answer.context["position"]),
    }  # fmt: skip


def confirm(client: Client, answer: Any) -> Any:
    return client.post(PAGE, confirmation(answer))


def verdicts(answer: Any) -> list[tuple[int, str]]:
    """Of each row the line, and the word on its badge."""
    return [
        (line["line"], str(line["badge"]).split(">")[1].split("<")[0])
        for line in answer.context["lines"]
    ]


def stored() -> list[Any]:
    return list(OAuthCredential.objects.order_by("pk").values())


# --- A look, and then the import ---------------------------------------------------------------


@pytest.mark.parametrize("how", ["pasted", "uploaded"])
def test_a_login_is_looked_at_confirmed_and_then_stored(
    acme: Tenant, staff: Staff, login: Login, how: str
) -> None:
    file, client = login(), staff(*RIGHTS)
    text = json.dumps({"claudeAiOauth": file, "mcpOAuth": {"x": 1}})
    looked = look(client, acme, text if how == "pasted" else text.encode(), "alice")
    assert verdicts(looked) == [(1, "new")]
    assert "Store 1 login" in looked.content.decode()
    assert not OAuthCredential.objects.exists()
    done = confirm(client, looked)
    assert "1 login was stored." in done.content.decode()
    credential = OAuthCredential.objects.select_related("data_key").get()
    assert (credential.tenant, credential.user_id) == (acme, "alice")
    assert sealing.open_access_token(credential).reveal() == file["accessToken"]
    event = AuditEvent.objects.get(action="import")
    assert event.actor == f"operator {User.objects.get().get_username()}"
    assert event.subject == "alice"
    assert not ImportDraft.objects.exists()


@pytest.mark.parametrize("kind", ["JSON Lines", "CSV"])
def test_many_logins_come_in_with_a_verdict_for_each(
    acme: Tenant, staff: Staff, login: Login, kind: str
) -> None:
    rows = [{"user_id": f"user-{n}"} | login() for n in range(3)]
    rows[1]["expiresAt"] *= 1000
    rows[2] |= {"expiresAt": int(time.time()) - 60}
    text = lines(*rows)
    if kind == "CSV":
        text = "\r\n".join([",".join(rows[0]), *(",".join(map(str, r.values())) for r in rows)])
    client = staff(*RIGHTS)
    looked = look(client, acme, b"\xef\xbb\xbf" + text.encode())
    first = 2 if kind == "CSV" else 1
    assert verdicts(looked) == [(first + n, "new") for n in range(3)]
    assert [line["unit"] for line in looked.context["lines"]] == [
        "told in seconds", "told in milliseconds", "told in seconds",
    ]  # fmt: skip
    assert [line["ended"] is not None for line in looked.context["lines"]] == [False, False, True]
    notes = str(looked.context["notes"])
    assert "expired already" in notes
    assert "user-2" in notes
    confirm(client, looked)
    assert {row["user_id"] for row in stored()} == {"user-0", "user-1", "user-2"}
    assert abs(OAuthCredential.objects.get(user_id="user-1").expires_at - time.time()) < 7200


def test_each_verdict_is_told_before_anything_is_stored_and_kept_to(
    acme: Tenant, globex: Tenant, staff: Staff, login: Login, canaries: Canaries
) -> None:
    client, now = staff(*RIGHTS), int(time.time())
    shared, held, spent, elsewhere = (login() for _ in range(4))
    before = {"alice": held, "bob": spent, "dora": login(), "erik": login()}
    look_and_store(client, acme, *({"user_id": user} | file for user, file in before.items()))
    look_and_store(client, acme, {"user_id": "bob"} | login())
    look_and_store(client, globex, {"user_id": "gunnar"} | elsewhere)
    vault.revoke(tenant=acme, user_id="erik", actor="test", now=now)
    kept = stored()
    rows: list[tuple[str, dict[str, Any]]] = [
        ("new", {"user_id": "carol"} | shared),
        ("already stored", {"user_id": "alice"} | held),
        ("spent", {"user_id": "bob"} | spent),
        ("stored elsewhere", {"user_id": "frida"} | elsewhere),
        ("replaces another", {"user_id": "dora"} | login()),
        ("was revoked", {"user_id": "erik"} | login()),
        ("twice in the file", {"user_id": "carol"} | login()),
        ("twice in the file", {"user_id": "hedda"} | shared),
        ("expired", {"user_id": "ivar"} | login(refreshToken=None, expiresAt=now - 5)),
        ("expired", {"user_id": "ivar-2"} | login(refreshTokenExpiresAt=now - 5)),
        ("wrong field", {"user_id": "judith"} | login(refreshToken=" ")),
        ("wrong field", {"user_id": "kalle", canaries.token("oat01"): 1} | login()),
        ("wrong field", {"user_id": 5} | login()),
        ("wrong field", login()),
        ("no user id", {"user_id": "default"} | login()),
        ("no user id", {"user_id": canaries.token("oat01")} | login()),
        ("unknown tenant", {"user_id": "lena", "tenant": "initech"} | login()),
        ("unknown tenant", {"user_id": "lena", "tenant": canaries.token("ort01")} | login()),
        ("new", {"user_id": "gustav", "tenant": "globex"} | login()),
    ]
    looked = look(client, acme, lines(*(row for _, row in rows)))
    assert verdicts(looked) == [(n, word) for n, (word, _) in enumerate(rows, start=1)]
    text = looked.content.decode()
    assert canaries.found_in(text) == []
    assert "Store 4 logins" in text
    assert "generation 1" in text
    assert "gunnar" not in text
    assert "refreshToken: is blank" in text
    assert stored() == kept
    done = confirm(client, looked)
    after = {(row["tenant_id"], row["user_id"]): row["generation"] for row in stored()}
    old = {(row["tenant_id"], row["user_id"]): row["generation"] for row in kept}
    assert {key for key in after if after[key] != old.get(key)} == {
        (acme.pk, "carol"), (acme.pk, "dora"), (acme.pk, "erik"), (globex.pk, "gustav"),
    }  # fmt: skip
    assert verdicts(done) == verdicts(looked)
    assert "4 logins were stored." in done.content.decode()
    assert canaries.found_in(done.content.decode()) == []


def look_and_store(client: Client, tenant: Tenant, *rows: dict[str, Any]) -> None:
    assert "stored" in confirm(client, look(client, tenant, lines(*rows))).content.decode()


def test_the_same_login_with_another_end_is_corrected(
    acme: Tenant, staff: Staff, login: Login
) -> None:
    client, file = staff(*RIGHTS), login()
    look_and_store(client, acme, {"user_id": "alice"} | file)
    file["expiresAt"] += 60
    looked = look(client, acme, json.dumps(file), "alice")
    assert verdicts(looked) == [(1, "corrected")]
    confirm(client, looked)
    assert OAuthCredential.objects.get().expires_at == file["expiresAt"]


def test_a_suspended_tenant_and_an_older_login_are_told(
    acme: Tenant, globex: Tenant, staff: Staff, login: Login
) -> None:
    client = staff(*RIGHTS)
    look_and_store(client, acme, {"user_id": "alice"} | login())
    older = look(client, acme, json.dumps(login(expiresAt=int(time.time()) + 60)), "alice")
    assert "may be an older one" in older.content.decode()
    suspend_tenant(tenant=globex, actor="test", now=time.time())
    looked = look(client, globex, json.dumps(login()), "carol")
    assert verdicts(looked) == [(1, "tenant suspended")]
    assert "There is nothing to store." in looked.content.decode()
    assert "draft_id" not in looked.context


def test_a_tenant_with_a_default_user_needs_no_name(
    default_tenant: Tenant, acme: Tenant, staff: Staff, login: Login
) -> None:
    client = staff(*RIGHTS)
    assert "say whose" in look(client, acme, json.dumps(login())).content.decode()
    confirm(client, look(client, default_tenant, json.dumps(login())))
    assert OAuthCredential.objects.get().user_id == "default"


def test_what_has_changed_since_the_look_is_not_done(
    acme: Tenant, staff: Staff, login: Login
) -> None:
    """alice was new when it was asked, and now has a login; bob has this very one by now."""
    client, alices, bobs = staff(*RIGHTS), login(), login()
    looked = look(client, acme, lines({"user_id": "alice"} | alices, {"user_id": "bob"} | bobs))
    other = staff(*RIGHTS)
    look_and_store(other, acme, {"user_id": "alice"} | login(), {"user_id": "bob"} | bobs)
    before = stored()
    done = confirm(client, looked)
    assert verdicts(done) == [(1, "changed since"), (2, "already stored")]
    assert stored() == before


def test_the_login_that_was_shown_is_replaced_and_no_later_one(
    acme: Tenant, staff: Staff, login: Login
) -> None:
    """Whose place it would take by now came after the look, and would be lost for good."""
    client = staff(*RIGHTS)
    look_and_store(client, acme, {"user_id": "alice"} | login(), {"user_id": "bob"} | login())
    looked = look(client, acme, lines({"user_id": "alice"} | login(), {"user_id": "bob"} | login()))
    assert verdicts(looked) == [(1, "replaces another"), (2, "replaces another")]
    look_and_store(staff(*RIGHTS), acme, {"user_id": "alice"} | login())
    # A refresh has brought a new generation of the same login.
    OAuthCredential.objects.filter(user_id="bob").update(generation=F("generation") + 1)
    (alice, _) = stored()
    done = confirm(client, looked)
    assert verdicts(done) == [(1, "changed since"), (2, "replaces another")]
    assert stored()[0] == alice


# --- What lies in between ----------------------------------------------------------------------


def test_between_look_and_import_no_token_is_anywhere(
    acme: Tenant, staff: Staff, login: Login, canaries: Canaries
) -> None:
    """Not in the page, the session, a cookie, a message or the database; nor does what is in the
    database open by any key that is kept there."""
    client = staff(*RIGHTS)
    looked = look(client, acme, lines({"user_id": "alice"} | login()).encode())
    draft = ImportDraft.objects.get()
    assert len(draft.sealed) > 300
    kept = [
        looked.content.decode(), str(looked.cookies), str(dict(looked.headers)), draft.sealed,
        draft.report, *(str(session.get_decoded()) for session in Session.objects.all()),
    ]  # fmt: skip
    key = looked.cookies["import_key"]
    assert key["httponly"]
    assert (key["samesite"], key["path"], key["max-age"]) == ("Strict", PAGE, "")
    assert key.value not in "".join([kept[0], *kept[3:]])
    for text in kept:
        assert canaries.found_in(text) == []
    assert draft.ends_at - time.time() < LIFETIME + 60
    done = confirm(client, looked)
    assert done.cookies["import_key"].value == ""


@pytest.mark.parametrize("what", ["browser", "session", "operator", "time", "tenant", "key"])
def test_only_who_looked_confirms_in_the_same_session_and_in_time(
    acme: Tenant, globex: Tenant, staff: Staff, login: Login, canaries: Canaries, what: str
) -> None:
    client = staff(*RIGHTS, tenants=[acme, globex])
    looked = look(client, acme, json.dumps(login()), "alice")
    key = client.cookies["import_key"].value
    user = User.objects.get(pk=client.session["_auth_user_id"])
    if what == "browser":
        del client.cookies["import_key"]
    elif what == "key":
        client.cookies["import_key"] = "A" * 44
    elif what == "session":
        client = Client()
        client.force_login(user)
        client.cookies["import_key"] = key
    elif what == "operator":
        client = staff(*RIGHTS)
        client.cookies["import_key"] = key
    elif what == "time":
        ImportDraft.objects.update(ends_at=time.time() - 1)
    else:
        user.assignments.filter(tenant=acme).delete()
    answer = confirm(client, looked)
    assert "upload the file again" in answer.content.decode()
    assert canaries.found_in(answer.content.decode()) == []
    assert not OAuthCredential.objects.exists()


def test_a_confirmation_counts_once_and_for_the_latest_file_alone(
    acme: Tenant, staff: Staff, login: Login
) -> None:
    client = staff(*RIGHTS)
    first = look(client, acme, json.dumps(login()), "alice")
    second = look(client, acme, json.dumps(login()), "bob")
    assert ImportDraft.objects.count() == 1
    assert "upload the file again" in confirm(client, first).content.decode()
    look_again = look(client, acme, json.dumps(login()), "bob")
    confirm(client, look_again)
    for answer in (look_again, second):
        assert "upload the file again" in confirm(client, answer).content.decode()
    assert [row["user_id"] for row in stored()] == ["bob"]
    for nonsense in ("", "x", "0" * 32):
        assert client.post(PAGE, {"draft": nonsense, "position": "x"}).status_code == 200


def test_what_nobody_confirms_is_forgotten(acme: Tenant, staff: Staff, login: Login) -> None:
    client, now = staff(*RIGHTS), time.time()
    look(client, acme, json.dumps(login()), "alice")
    assert history.forget_old(now=now)
    assert ImportDraft.objects.exists()
    Heartbeat.objects.all().delete()
    assert history.forget_old(now=now + LIFETIME + 60)
    assert not ImportDraft.objects.exists()


def test_a_long_import_goes_on_from_page_to_page(
    acme: Tenant, staff: Staff, login: Login, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each POST stores some rows; a page from before stores none a second time; and where a
    process has died the same rows are gone through again."""
    monkeypatch.setattr(import_drafts, "STEP", 2)
    client = staff(*RIGHTS)
    rows = [{"user_id": f"user-{n}"} | login() for n in range(5)]
    rows.insert(1, {"user_id": "user-0"} | login())
    looked = look(client, acme, lines(*rows))
    first = confirm(client, looked)
    assert "2 of 5 are done" in first.content.decode()
    assert 'src="/static/tokens/import.js"' in first.content.decode()
    assert OAuthCredential.objects.count() == 2
    again = confirm(client, looked)
    assert "2 of 5 are done" in again.content.decode()
    assert OAuthCredential.objects.count() == 2
    ImportDraft.objects.update(busy_until=time.time() + 100)
    busy = confirm(client, first)
    assert "storing them at this moment" in busy.content.decode()
    assert OAuthCredential.objects.count() == 2
    ImportDraft.objects.update(busy_until=time.time() - 1, position=0)
    looked_again = confirm(client, looked)
    assert "2 of 5 are done" in looked_again.content.decode()
    last = confirm(client, confirm(client, looked_again))
    assert "5 logins" in last.content.decode() or "3 logins" in last.content.decode()
    assert OAuthCredential.objects.count() == 5
    assert (2, "twice in the file") in verdicts(last)
    assert not ImportDraft.objects.exists()


def test_an_empty_vault_says_where_to_begin(acme: Tenant, staff: Staff) -> None:
    for rights, shown in ((RIGHTS, True), (RIGHTS[:1], False)):
        home = staff(*rights).get("/admin/").content.decode()
        assert (f'href="{PAGE}"' in home) is shown
        assert "oauthvault import_credentials" in home


# --- Who may, and for whom ---------------------------------------------------------------------


@pytest.mark.parametrize("rights", [(), RIGHTS[:1], RIGHTS[1:]])
def test_to_import_one_needs_the_permission_and_must_be_allowed_to_see(
    acme: Tenant, staff: Staff, login: Login, rights: tuple[str, ...]
) -> None:
    client = staff(*rights)
    assert client.get(PAGE).status_code == 403
    assert look(client, acme, json.dumps(login()), "alice").status_code == 403
    assert client.post(PAGE, {"draft": "x"}).status_code == 403
    assert not ImportDraft.objects.exists()


def test_an_operator_of_a_tenant_imports_for_that_one_and_learns_of_no_other(
    acme: Tenant, globex: Tenant, staff: Staff, login: Login
) -> None:
    """A foreign tenant, and one that is not there, are answered alike, in the form and in a row."""
    mine, root = staff(*RIGHTS, tenants=[globex]), staff(*RIGHTS)
    held = login()
    look_and_store(root, acme, {"user_id": "alice"} | held)
    assert ">acme<" not in mine.get(PAGE).content.decode()
    said = []
    for pk in (acme.pk, 987_654):
        answer = mine.post(PAGE, {"tenant": pk, "user_id": "x", "pasted": json.dumps(login())})
        said.append(answer.context["form"].errors["tenant"])
    assert said[0] == said[1]
    rows = [{"user_id": "x", "tenant": slug} | login() for slug in ("acme", "nosuch")]
    looked = look(mine, globex, lines(*rows, {"user_id": "thief"} | held))
    told = [(line["badge"], line["sentence"]) for line in looked.context["lines"]]
    assert told[0] == told[1]
    assert "stored elsewhere" in told[2][0]
    assert "alice" not in looked.content.decode()
    assert "acme" not in str(told[2])
    with isolation.every_tenant():
        before = stored()
    confirm_nothing = mine.post(PAGE, {"draft": "x"})
    assert confirm_nothing.status_code == 200
    look_and_store(mine, globex, {"user_id": "carol"} | login())
    with isolation.every_tenant():
        assert [row["user_id"] for row in stored()] == [*(r["user_id"] for r in before), "carol"]


def test_without_the_csrf_token_no_file_is_taken(acme: Tenant, staff: Staff, login: Login) -> None:
    signed_in = staff(*RIGHTS)
    client = Client(enforce_csrf_checks=True)
    client.cookies = signed_in.cookies
    assert look(client, acme, json.dumps(login()), "alice").status_code == 403
    assert not ImportDraft.objects.exists()


# --- What is refused, and how it is said -------------------------------------------------------


def test_a_secret_is_in_no_field_again_and_no_answer_is_kept(
    acme: Tenant, staff: Staff, login: Login, canaries: Canaries
) -> None:
    client, file = staff(*RIGHTS), login()
    form = client.get(PAGE)
    text = form.content.decode()
    assert text.count('autocomplete="off"') >= 4
    assert 'spellcheck="false"' in text
    both = {"file": SimpleUploadedFile("x", json.dumps(file).encode())}
    answers = [
        form,
        look(client, acme, json.dumps(file)),
        look(client, acme, f"user_id;accessToken\nalice;{file['accessToken']}"),
        look(client, acme, file["accessToken"]),
        look(client, acme, "[" + json.dumps(file) + "]"),
        client.post(PAGE, {"tenant": "", "pasted": json.dumps(file)}),
        client.post(PAGE, {"tenant": acme.pk, "pasted": json.dumps(file), **both}),
        client.post(PAGE, {"tenant": acme.pk, "user_id": "x" * 300, "pasted": json.dumps(file)}),
        client.post(PAGE, {"tenant": acme.pk, "pasted": json.dumps(file) + "\0"}),
        client.post(PAGE, {"tenant": acme.pk, "user_id": json.dumps(file)}),
        look(client, acme, json.dumps(file), "alice"),
    ]
    for answer in answers:
        assert answer.status_code == 200
        assert "no-store" in answer["Cache-Control"]
        assert answer["Referrer-Policy"] == "same-origin"
        assert canaries.found_in(answer.content.decode()) == []
    assert not OAuthCredential.objects.exists()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"PK\x03\x04\x14\x00", "an Excel sheet"),
        ("user_id,accessToken".encode("utf-16"), "UTF-16 text; save it as UTF-8"),
        (b"\x80\x81\x82", "not UTF-8 text"),
        (b"{}\0", "null characters"),
        (b"   \n", "The file is empty"),
        (b"a,b\n1,2", "neither JSON nor a CSV"),
        (b"user_id;accessToken\na;b", "separated by semicolons"),
        (b'[{"user_id": "a"}]', "is a JSON list"),
        (b"user_id" + b"".join(b",c%d" % n for n in range(64)) + b"\na", "more than 64 columns"),
    ],
)
def test_a_file_of_another_kind_is_called_by_its_name(
    acme: Tenant, staff: Staff, content: bytes, sentence: str
) -> None:
    answer = look(staff(*RIGHTS), acme, content)
    assert answer.status_code == 200
    assert sentence in answer.content.decode()


def test_of_a_row_with_any_number_of_wrong_fields_not_all_is_said(
    acme: Tenant, staff: Staff
) -> None:
    """The verdicts of a list are sealed and shown again with every step of its import."""
    wrong = {"user_id": "alice"} | {f"no{'x' * n}": 1 for n in range(38)}
    (line,) = look(staff(*RIGHTS), acme, lines(wrong)).context["lines"]
    assert "no: is not a field of a credential" in line["sentence"]
    assert len(line["sentence"]) <= 1001


def test_a_list_is_no_single_login(acme: Tenant, staff: Staff, login: Login) -> None:
    rows = lines({"user_id": "a"} | login(), {"user_id": "b"} | login())
    answer = look(staff(*RIGHTS), acme, rows, "alice")
    assert "For a list, leave the user empty" in answer.content.decode()


def test_what_is_too_large_is_refused_with_the_limit(
    acme: Tenant, staff: Staff, login: Login
) -> None:
    client = staff(*RIGHTS)
    one = json.dumps(login()).encode()
    for content, user, status, sentence in (
        ("{" + " " * 65 * 1024, "alice", 413, "What is pasted has at most 64 KiB."),
        (one + b" " * 64 * 1024, "alice", 200, "login has at most 64 KiB"),
        (b"\n" * (settings.IMPORT_FILE_MOST + 1), "", 200, "A file has at most 5 MiB here."),
        (b"\n" * (settings.IMPORT_FILE_MOST + 200_000), "", 413, "A file has at most 5 MiB here"),
        (b'{"user_id": ""}\n' * 10_001, "", 200, "A list has at most 10,000 rows"),
    ):
        answer = look(client, acme, content, user)
        assert answer.status_code == status, sentence
        assert sentence in answer.content.decode().replace("&#x27;", "'")
    assert not ImportDraft.objects.exists()


def test_a_large_file_is_read_in_memory_and_never_put_on_a_disk(
    acme: Tenant, staff: Staff, login: Login, settings: Settings
) -> None:
    settings.FILE_UPLOAD_TEMP_DIR = "/nowhere/at/all"
    row = lines({"user_id": "alice"} | login()).encode()
    looked = look(staff(*RIGHTS), acme, row + b"\n" * 4 * 1024 * 1024)
    assert verdicts(looked) == [(1, "new")]
    (file,) = looked.wsgi_request.FILES.values()
    assert isinstance(file.file, io.BytesIO)


@pytest.mark.parametrize("who", ["a stranger", "who may not import", "another page"])
def test_nobody_else_and_no_other_page_takes_more_than_64_kib(
    acme: Tenant, staff: Staff, who: str
) -> None:
    client = {
        "a stranger": Client(), "who may not import": staff(RIGHTS[0]),
        "another page": staff(*RIGHTS),
    }[who]  # fmt: skip
    page = LIST if who == "another page" else PAGE
    answer = client.post(page, {"file": SimpleUploadedFile("x", b"x" * 65 * 1024)})
    assert answer.status_code == 413
    assert "64 KiB" in answer.content.decode()


def test_one_upload_is_read_at_a_time(acme: Tenant, staff: Staff, login: Login) -> None:
    client = staff(*RIGHTS)
    with bodies._upload:
        answer = look(client, acme, json.dumps(login()), "alice")
    assert answer.status_code == 503
    assert "on its way" in answer.content.decode()
    assert look(client, acme, json.dumps(login()), "alice").status_code == 200


def test_the_page_that_takes_files_is_where_the_bound_of_bodies_expects_it(db: None) -> None:
    assert reverse("admin:tokens_oauthcredential_import_page") == bodies.IMPORT_PAGE == PAGE


def test_a_failure_says_nothing_of_what_was_sent(
    acme: Tenant,
    staff: Staff,
    login: Login,
    canaries: Canaries,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A page of plain words, and a traceback in the log that repeats no value."""

    def broken(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("broken on purpose")

    client = staff(*RIGHTS)
    client.raise_request_exception = False
    monkeypatch.setattr(importing, "preview", broken)
    answer = look(client, acme, json.dumps(login()), "alice")
    assert answer.status_code == 500
    assert "broken on purpose" in caplog.text
    assert canaries.found_in(answer.content.decode() + caplog.text) == []
    assert answer.wsgi_request.sensitive_post_parameters == "__ALL__"


SECRET = "sk-ant-ort01-CANARY-0123456789abcdef"
_fragments = st.one_of(
    st.text(max_size=20), st.just(SECRET), st.just(f'"{SECRET}"'),
    st.sampled_from(["{", "}", "[", ",", ":", "\n", "\r\n", '"', '{"user_id": "a", ', "user_id,",
                     '"accessToken": ', '"refreshToken": ', '"expiresAt": 99', '"tenant": ',
                     "claudeAiOauth", "\0", "\ufeff"]),
)  # fmt: skip
_pastes = st.lists(_fragments, max_size=12).map("".join)
_uploads = _pastes.map(lambda text: text.encode("utf-8", "replace")) | st.binary(max_size=80).map(
    lambda data: data + SECRET.encode()
)


def test_whatever_comes_in_is_answered_without_a_token_and_stores_nothing(
    acme: Tenant, staff: Staff
) -> None:
    client = staff(*RIGHTS)

    @given(content=_pastes | _uploads, user=st.sampled_from(["", "alice", SECRET]))
    @how_often(max_examples=60, deadline=None)
    def holds(content: str | bytes, user: str) -> None:
        if isinstance(content, str):
            content = content.encode("utf-8", "replace").decode("utf-8")
        answer = look(client, acme, content, user)
        assert answer.status_code in (200, 400)
        assert "CANARY" not in answer.content.decode()
        assert not OAuthCredential.objects.exists()

    holds()
