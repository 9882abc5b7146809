"""Acts on many, from the list to the page of the job; and what is known of many, as a file."""

import csv
import io
import json
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from kombu.exceptions import OperationalError

from tests.admin.canaries import Canaries
from tests.admin.conftest import PASSWORD, Cast, stored
from tests.admin.test_acts import said
from tests.admin.test_every_page import read
from tests.admin.test_permissions import LIST, job_of, page_of
from tokens import clock, isolation, jobs
from tokens.admin.credentials import CredentialAdmin
from tokens.admin.export import FIELDS, cell
from tokens.models import (
    AuditEvent,
    Job,
    JobAct,
    JobRow,
    OAuthCredential,
    RowState,
    Standing,
    Tenant,
)
from tokens.rotation.data_keys import present_key, under_older_keys
from tokens.tasks import work_off_job

Staff = Callable[..., Client]
JOBS = "/admin/tokens/job/"
PROOF = {"proof-password": PASSWORD}
SEE = ("tokens.view_oauthcredential", "tokens.view_job")


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What workers are told of."""
    told: list[Any] = []
    monkeypatch.setattr(work_off_job, "apply_async", lambda args, **options: told.append(args))
    return told


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as threads:
        yield threads


def across(act: str, some: OAuthCredential, **more: object) -> dict[str, object]:
    """The form of a list whose "all that match" was ticked, with one row of the page."""
    return {
        "action": f"{act}_many", "_selected_action": [some.pk], "select_across": "1", **more,
    }  # fmt: skip


# --- From the list ---------------------------------------------------------------------------


def test_all_that_match_the_filter_are_named_with_their_number_and_done_by_a_job(
    cast: Cast, root: Client, sent: list[Any], pool: ThreadPoolExecutor
) -> None:
    of_acme = f"{LIST}?tenant__id__exact={cast.acme.pk}"
    number = OAuthCredential.objects.filter(tenant=cast.acme).count()
    page = root.post(of_acme, across("suspend", cast["alice"])).content.decode()
    assert f"Suspend these {number} credentials?" in page
    assert "in the background" in page
    assert f"… and {number - 10} more." in page
    assert f'name="named" value="{number}"' in page
    assert not Job.objects.exists()
    answer = root.post(of_acme, across("suspend", cast["alice"], confirmed="yes", named=number))
    job = Job.objects.get()
    assert answer["Location"] == f"{JOBS}{job.pk}/change/"
    assert sent == [(cast.acme.pk, job.pk)]
    assert (job.tenant, job.act, job.total) == (cast.acme, "suspend", number)
    jobs.work(tenant_id=cast.acme.pk, job_id=job.pk, seconds=60, pool=pool)
    shown = root.get(answer["Location"]).content.decode()
    assert f'<progress max="{number}" value="{number}"' in shown
    assert f"{number} of {number} are done with." in shown
    assert "It is suspended already." in shown
    assert 'data-live="yes"' not in shown, "it has ended"
    assert not OAuthCredential.objects.filter(tenant=cast.globex, suspended_at__gt=0).exists()


def test_more_than_were_named_are_not_done(cast: Cast, root: Client, sent: list[Any]) -> None:
    """Others may match by the time the question is answered: then it is asked again."""
    number = OAuthCredential.objects.count()
    for named in (number - 1, "", "x", -5, "0" * 5000):
        form = across("revoke", cast["alice"], confirmed="yes", named=named)
        page = root.post(LIST, form).content.decode()
        assert f"Cut these {number} people off?" in page
    assert not Job.objects.exists()
    few = f"{LIST}?q=alice"
    assert root.post(few, across("revoke", cast["alice"], confirmed="yes")).status_code == 200
    assert OAuthCredential.objects.get(user_id="alice").standing == Standing.ACTIVE
    root.post(few, across("revoke", cast["alice"], confirmed="yes", named=1) | PROOF)
    assert OAuthCredential.objects.get(user_id="alice").standing == Standing.REVOKED
    assert OAuthCredential.objects.get(user_id="frida").standing != Standing.REVOKED


def test_of_several_tenants_there_is_a_job_each(cast: Cast, root: Client, sent: list[Any]) -> None:
    chosen = [each.pk for each in cast.people[:20]]
    form = {"action": "suspend_many", "_selected_action": chosen}
    page = root.post(LIST, form).content.decode()
    assert "Suspend these 20 credentials?" in page
    assert page.count('name="_selected_action"') == 21, "and once where all are offered"
    answer = root.post(LIST, form | {"confirmed": "yes"})
    assert answer["Location"] == JOBS
    assert "one for each tenant" in said(answer)[0]
    assert set(Job.objects.values_list("tenant__slug", flat=True)) == {"acme", "globex"}
    assert len(sent) == 2
    listed = root.get(JOBS).content.decode()
    assert "Suspend" in listed
    assert "0 of " in listed


def test_a_few_are_done_at_once_as_ever(cast: Cast, root: Client, sent: list[Any]) -> None:
    chosen = [cast[name].pk for name in ("alice", "gustav")]
    form = {"action": "suspend_many", "_selected_action": chosen, "confirmed": "yes"}
    assert len(said(root.post(LIST, form))) == 2
    assert not Job.objects.exists()


def test_without_a_broker_it_is_said_that_it_waits(
    cast: Cast, root: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_broker(*args: object, **options: object) -> None:
        raise OperationalError("no broker")

    monkeypatch.setattr(work_off_job, "apply_async", no_broker)
    form = across("suspend", cast["alice"], confirmed="yes", named=1000)
    answer = root.post(f"{LIST}?tenant__id__exact={cast.acme.pk}", form)
    assert "It begins when the scheduler and a worker are there again." in said(answer)[0]
    Job.objects.update(asked_at=clock.now() - 300)
    shown = root.get(answer["Location"]).content.decode()
    assert "No worker is at it." in shown
    assert 'data-live="yes"' in shown


# --- The page of a job -----------------------------------------------------------------------


def test_a_job_is_stopped_after_a_question(cast: Cast, root: Client) -> None:
    job = job_of(cast)
    page = root.get(f"{JOBS}{job.pk}/stop/").content.decode()
    assert "What is done stays done" in page
    assert f"0 of {job.total} are done with, and stay so; {job.total} are not begun." in page
    job.refresh_from_db()
    assert job.ended_at is None
    root.post(f"{JOBS}{job.pk}/stop/", {"confirmed": "yes"})
    job.refresh_from_db()
    assert job.stopped_by == "operator operator-0"
    shown = root.get(f"{JOBS}{job.pk}/change/").content.decode()
    assert "Stopped by operator operator-0." in shown
    assert "/stop/" not in shown
    assert "stop job" in root.get(f"{JOBS}{job.pk}/history/").content.decode()


def test_failures_are_shown_alone(cast: Cast, root: Client) -> None:
    job = job_of(cast)
    JobRow.objects.filter(user_id="alice").update(state=RowState.FAILED, said="It was full.")
    JobRow.objects.filter(user_id="bob").update(state=RowState.UNKNOWN)
    JobRow.objects.filter(user_id="dora").update(state=RowState.DONE)

    def named(question: str) -> set[str]:
        return {line["row"].user_id for line in root.get(address + question).context["lines"]}

    address = f"{JOBS}{job.pk}/change/"
    assert named("?show=problems") == {"alice", "bob"}
    assert named("?show=done") == {"dora"}
    assert len(named("")) == job.total
    assert named("?show=nonsense&page=99") == named("")
    assert "It was full." in root.get(f"{address}?show=problems").content.decode()


def test_operators_see_the_jobs_of_their_own_tenants_and_stop_them_by_a_right_of_its_own(
    cast: Cast, staff: Staff
) -> None:
    job = job_of(cast)
    address = f"{JOBS}{job.pk}/"
    for client in (
        staff(*SEE, "tokens.stop_job", tenants=[cast.globex]),
        staff("tokens.view_oauthcredential", "tokens.stop_job"),
    ):
        for page in ("change/", "stop/", "history/"):
            assert client.get(address + page).status_code in (302, 403), page
        client.post(f"{address}stop/", {"confirmed": "yes"})
        client.post(JOBS, {"action": "stop_many", "_selected_action": [job.pk], "confirmed": "yes"})
        assert "operator olga" not in client.get(JOBS).content.decode()
    reader = staff(*SEE, tenants=[cast.acme])
    assert "operator olga" in reader.get(JOBS).content.decode()
    assert reader.get(f"{address}change/").status_code == 200
    assert "/stop/" not in reader.get(f"{address}change/").content.decode()
    assert reader.post(f"{address}stop/", {"confirmed": "yes"}).status_code == 403
    with isolation.every_tenant():
        job.refresh_from_db()
    assert job.ended_at is None


def test_an_operators_job_ends_at_their_tenants(cast: Cast, staff: Staff, sent: list[Any]) -> None:
    client = staff(*SEE, "tokens.suspend_oauthcredential", tenants=[cast.globex])
    client.post(LIST, across("suspend", cast["hedda"], confirmed="yes", named=1000))
    assert {job.tenant for job in Job.objects.all()} == {cast.globex}
    rows = JobRow.objects.select_related("credential")
    assert {row.credential.tenant_id for row in rows} == {cast.globex.pk}


def test_a_list_of_jobs_costs_no_more_with_more_of_them(
    cast: Cast, root: Client, django_assert_max_num_queries: Callable[..., Any]
) -> None:
    for _ in range(jobs.MOST_UNFINISHED):
        job = job_of(cast)
    for page, ceiling in ((JOBS, 8), (f"{JOBS}{job.pk}/change/", 9)):
        root.get(page)
        with django_assert_max_num_queries(ceiling):
            assert root.get(page).status_code == 200


# --- One credential --------------------------------------------------------------------------


def test_automatic_refresh_is_suspended_and_resumed(cast: Cast, root: Client) -> None:
    alice = cast["alice"]
    question = root.get(page_of(alice, "suspend_auto_refresh")).content.decode()
    assert "No longer refresh this credential ahead?" in question
    root.post(page_of(alice, "suspend_auto_refresh"), {"confirmed": "yes"})
    alice.refresh_from_db()
    assert (alice.auto_refresh, alice.refresh_due_at) == (False, None)
    shown = root.get(page_of(alice)).content.decode()
    assert "automatic refresh is off" in shown
    assert "/resume_auto_refresh/" in shown
    assert "/suspend_auto_refresh/" not in shown
    root.post(page_of(alice, "resume_auto_refresh"), {"confirmed": "yes"})
    alice.refresh_from_db()
    assert alice.auto_refresh is None
    assert alice.refresh_due_at is not None
    events = AuditEvent.objects.filter(action="refresh_settings", subject="alice")
    assert {event.actor for event in events} == {"operator operator-0"}
    assert events.count() == 2


def test_what_was_set_beside_the_switch_stays(cast: Cast, root: Client) -> None:
    OAuthCredential.objects.filter(user_id="alice").update(refresh_threshold=77)
    for act in ("suspend_auto_refresh", "resume_auto_refresh"):
        root.post(page_of(cast["alice"], act), {"confirmed": "yes"})
    assert OAuthCredential.objects.get(user_id="alice").refresh_threshold == 77


def test_a_credential_is_given_to_another_user(cast: Cast, root: Client) -> None:
    alice = cast["alice"]
    question = root.get(page_of(alice, "reassign")).content.decode()
    assert "Give this credential to another user?" in question
    assert 'name="to"' in question
    unnamed = root.post(page_of(alice, "reassign"), {"confirmed": "yes"}).content.decode()
    assert "This field is required." in unnamed
    taken = root.post(page_of(alice, "reassign"), {"confirmed": "yes", "to": "bob"})
    assert "something is stored for that user already" in said(taken)[0]
    answer = root.post(page_of(alice, "reassign"), {"confirmed": "yes", "to": "alice@example.com"})
    assert answer["Location"] == page_of(alice)
    alice.refresh_from_db()
    assert alice.user_id == "alice@example.com"
    shown = root.get(page_of(alice)).content.decode()
    assert "Reassign by operator operator-0" in shown
    assert "taken from: alice" in shown
    assert "412 ms" in shown, "its refreshes are its own still"


def test_what_was_confirmed_for_one_person_is_not_done_to_another(cast: Cast, root: Client) -> None:
    """Two operators look at alice's page; one gives her login to somebody else."""
    alice = cast["alice"]

    def shown(page: str) -> list[str]:
        return re.findall(r'name="shown_as" value="([^"]+)"', page)

    one = shown(root.get(page_of(alice, "revoke")).content.decode())
    many = {"action": "suspend_many", "_selected_action": [alice.pk, cast["bob"].pk]}
    several = shown(root.post(LIST, many).content.decode())
    assert (len(one), len(several)) == (1, 2)
    root.post(page_of(alice, "reassign"), {"confirmed": "yes", "to": "alicia"})
    for page, form in (
        (page_of(alice, "revoke"), {"shown_as": one}),
        (page_of(alice, "reassign"), {"shown_as": one, "to": "carol"}),
        (LIST, many | {"shown_as": several}),
    ):
        answer = root.post(page, form | {"confirmed": "yes"})
        assert answer.status_code == 200
        assert "another user&#x27;s by now" in answer.content.decode()
    alice.refresh_from_db()
    assert (alice.user_id, alice.standing) == ("alicia", Standing.ACTIVE)
    assert alice.suspended_at is None
    again = shown(root.get(page_of(alice, "revoke")).content.decode())
    root.post(page_of(alice, "revoke"), {"confirmed": "yes", "shown_as": again})
    alice.refresh_from_db()
    assert alice.standing == Standing.REVOKED


def test_resealing_makes_one_new_data_key_for_the_tenant(cast: Cast, root: Client) -> None:
    """And what was not chosen follows behind."""
    before = present_key(cast.acme)
    assert before is not None
    chosen = [cast[name].pk for name in ("alice", "gustav")]
    form = {"action": "reseal_many", "_selected_action": chosen}
    assert "a new one is made for each tenant" in root.post(LIST, form).content.decode()
    answer = root.post(LIST, form | {"confirmed": "yes"})
    assert all("new data key" in sentence for sentence in said(answer))
    after = present_key(cast.acme)
    assert after is not None
    assert after != before
    under = dict(OAuthCredential.objects.values_list("user_id", "data_key_id"))
    assert under["alice"] == under["gustav"] == after.pk
    assert under["bob"] == before.pk
    assert under_older_keys(cast.acme).count() == 11
    shown = root.get(f"/admin/tokens/tenant/{cast.acme.pk}/change/").content.decode()
    assert "11 credentials are still sealed under an older one" in shown
    assert '<progress max="13" value="2"' in shown
    assert present_key(cast.globex) is not None
    assert not under_older_keys(cast.globex).exists()


# --- As a file -------------------------------------------------------------------------------


def exported(client: Client, where: str, form: dict[str, object]) -> str:
    answer = client.post(where, form)
    assert answer.status_code == 200
    assert "attachment" in answer["Content-Disposition"]
    return read(answer)


def test_all_that_match_are_exported_without_a_token(
    cast: Cast, root: Client, canaries: Canaries
) -> None:
    where = f"{LIST}?tenant__id__exact={cast.acme.pk}"
    number = OAuthCredential.objects.filter(tenant=cast.acme).count()
    form = across("export", cast["alice"])
    question = root.post(where, form).content.decode()
    assert f"Write what is known of these {number} credentials into a file?" in question
    assert not AuditEvent.objects.filter(action="export_credentials").exists()
    text = exported(root, where, form | {"confirmed": "yes", "named": number, "format": "csv"})
    rows = list(csv.DictReader(io.StringIO(text)))
    assert tuple(rows[0]) == FIELDS
    assert {row["tenant"] for row in rows} == {"acme"}
    assert len(rows) == number
    bob = next(row for row in rows if row["user_id"] == "bob")
    assert (bob["status"], bob["usable"]) == ("reauthorization_required", "no")
    assert "Sign in to Claude again" in bob["problem"]
    assert canaries.found_in(text) == []
    event = AuditEvent.objects.get(action="export_credentials")
    assert (event.tenant, event.actor) == (cast.acme, "operator operator-0")
    assert event.detail == {"credentials": number, "format": "csv"}


def test_what_is_selected_is_exported_as_json_lines(
    cast: Cast, root: Client, canaries: Canaries
) -> None:
    chosen = [cast[name].pk for name in ("alice", "bob", "hedda", "user-17")]
    form = {
        "action": "export_many", "_selected_action": chosen, "confirmed": "yes", "format": "jsonl",
    }  # fmt: skip
    text = exported(root, LIST, form)
    rows = {row["user_id"]: row for row in map(json.loads, text.splitlines())}
    assert set(rows) == {"alice", "bob", "hedda", "user-17"}
    assert rows["alice"]["status"] == "active"
    assert rows["alice"]["refresh_count"] == 12
    assert rows["hedda"]["status"] == "refreshing"
    # Of what has ended no end is told: user-17 is revoked, bob's login is over.
    assert {name for name, row in rows.items() if row["login_end_is_estimate"]} == {
        "alice", "hedda",
    }  # fmt: skip
    has_end = {
        name: (row["expires_at"] is not None, row["login_ends_at"] is not None)
        for name, row in rows.items()
    }
    assert has_end == {
        "alice": (True, True), "bob": (True, False), "hedda": (True, True),
        "user-17": (False, False),
    }  # fmt: skip
    assert canaries.found_in(text) == []
    tenants = AuditEvent.objects.filter(action="export_credentials")
    assert {event.tenant_slug for event in tenants} == {"acme", "globex"}


def test_an_export_of_many_pages_has_each_once_and_ends_at_the_operators_tenants(
    cast: Cast, staff: Staff, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pages are asked for when the request's own scope is over."""
    monkeypatch.setattr("tokens.admin.export._PAGE", 3)
    client = staff("tokens.view_oauthcredential", "tokens.export_oauthcredential",
                   tenants=[cast.globex])  # fmt: skip
    form = across("export", cast["hedda"], confirmed="yes", named=1000, format="jsonl")
    answer = client.post(LIST, form)
    with isolation.nobody():
        rows = [json.loads(line) for line in read(answer).splitlines()]
    expected = sorted(each.user_id for each in cast.people if each.tenant == cast.globex)
    assert sorted(row["user_id"] for row in rows) == expected


@pytest.mark.parametrize("sign", list("=+-@＝＋－＠"))
def test_no_cell_is_a_formula(acme: Tenant, root: Client, canaries: Canaries, sign: str) -> None:
    evil = f"{sign}HYPERLINK(0)"
    credential = stored(canaries, acme, evil)
    form = {"action": "export_many", "_selected_action": [credential.pk], "confirmed": "yes",
            "format": "csv"}  # fmt: skip
    (row,) = csv.DictReader(io.StringIO(exported(root, LIST, form)))
    assert row["user_id"] == f"'{evil}"
    assert cell(f"  {evil}").startswith("'")
    assert cell(f"alice; {evil};{evil}") == f"alice; '{evil};'{evil}"
    assert cell("alice") == "alice"
    assert cell("alice;bob") == "alice;bob"


def test_to_see_is_not_to_export(cast: Cast, staff: Staff) -> None:
    form = {"action": "export_many", "_selected_action": [cast["alice"].pk], "confirmed": "yes",
            "format": "csv"}  # fmt: skip
    client = staff("tokens.view_oauthcredential")
    assert "attachment" not in client.post(LIST, form).get("Content-Disposition", "")
    assert not AuditEvent.objects.filter(action="export_credentials").exists()
    unasked = {name: value for name, value in form.items() if name != "confirmed"}
    allowed = staff("tokens.view_oauthcredential", "tokens.export_oauthcredential")
    assert 'name="confirmed"' in allowed.post(LIST, unasked).content.decode()
    formless = allowed.post(LIST, form | {"format": "exe"})
    assert "attachment" not in formless.get("Content-Disposition", "")
    by_address = allowed.get(f"{LIST}?action=export_many&confirmed=yes&format=csv")
    assert "attachment" not in by_address.get("Content-Disposition", "")
    assert not AuditEvent.objects.filter(action="export_credentials").exists()


def test_who_asked_for_it_is_who_a_worker_asks_about(
    cast: Cast, staff: Staff, sent: list[Any], pool: ThreadPoolExecutor
) -> None:
    client = staff(*SEE, "tokens.revoke_oauthcredential", tenants=[cast.globex])
    form = across("revoke", cast["hedda"], confirmed="yes", named=1000)
    assert client.post(LIST, form).status_code == 200
    assert not Job.objects.exists(), "who asks for many revocations is asked who they are"
    client.post(LIST, form | PROOF)
    job = Job.objects.get()
    user = User.objects.get(pk=client.session["_auth_user_id"])
    assert (job.operator, job.actor) == (user, f"operator {user.username}")
    User.objects.filter(pk=user.pk).update(is_active=False)
    jobs.work(tenant_id=cast.globex.pk, job_id=job.pk, seconds=60, pool=pool)
    assert OAuthCredential.objects.filter(standing=Standing.REVOKED).count() == 1


def test_the_acts_that_can_be_jobs_are_those_that_a_worker_knows() -> None:
    offered = {act.job for act in CredentialAdmin.acts if act.job is not None}
    assert offered == set(JobAct) == set(jobs.RIGHTS) == set(jobs._ACTS)
    for act in CredentialAdmin.acts:
        if act.job is not None:
            assert jobs.RIGHTS[act.job] == f"tokens.{act.permission}_oauthcredential"
