"""What operators do: the right thing happens, to the right ones, and is written down."""

import time
from collections.abc import Callable

import pytest
from django.contrib.messages import get_messages
from django.test import Client
from kombu.exceptions import OperationalError

from api.keys import create_key
from tests.admin.conftest import PASSWORD, Cast
from tests.admin.test_permissions import LIST, page_of
from tests.simulator import Simulator
from tokens import clock, jobs
from tokens.credential_file import parse_credentials
from tokens.importing import import_credential
from tokens.models import (
    AuditEvent,
    DataKey,
    OAuthCredential,
    Outcome,
    RefreshAttempt,
    Standing,
    Tenant,
)
from tokens.rotation.data_keys import present_key, under_older_keys
from tokens.tasks import refresh_credentials, rotate_data_key


def said(answer: object) -> list[str]:
    return [str(message) for message in get_messages(answer.wsgi_request)]  # type: ignore[attr-defined]


def test_a_revocation_is_asked_for_done_and_recorded(cast: Cast, root: Client) -> None:
    """And says what became of it upstream, and until when a token may live."""
    question = root.get(page_of(cast["alice"], "revoke")).content.decode()
    assert "Cut this person off?" in question
    assert "Revoke 1 credential" in question
    answer = root.post(page_of(cast["alice"], "revoke"), {"confirmed": "yes"})
    assert answer["Location"] == page_of(cast["alice"])
    alice = OAuthCredential.objects.get(user_id="alice")
    assert alice.standing == Standing.REVOKED
    assert alice.access_token_encrypted is None
    (sentence,) = said(answer)
    assert "no revocation address is configured" in sentence
    assert "may work until" in sentence
    event = AuditEvent.objects.get(action="revoke")
    assert (event.actor, event.subject) == ("operator operator-0", "alice")


def test_many_are_named_before_many_are_revoked(cast: Cast, root: Client) -> None:
    chosen = [cast[name].pk for name in ("alice", "bob", "user-17")]
    form = {"action": "revoke_many", "_selected_action": chosen}
    page = root.post(LIST, form).content.decode()
    assert "Cut these 2 people off?" in page
    for name in ("alice (acme)", "bob (acme)", "user-17"):
        assert name in page
    assert "It is revoked already." in page
    answer = root.post(LIST, {**form, "confirmed": "yes", "proof-password": PASSWORD})
    assert answer.status_code == 302
    assert len(said(answer)) == 3
    revoked = OAuthCredential.objects.filter(standing=Standing.REVOKED)
    assert set(revoked.values_list("user_id", flat=True)) == {"alice", "bob", "user-17"}


def test_too_many_at_once_are_refused_whole(
    cast: Cast, root: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even a job does without an end; and keys, of which there are no jobs, no hundred."""
    monkeypatch.setattr(jobs, "MOST", 20)
    form = {"action": "revoke_many", "_selected_action": [c.pk for c in cast.people],
            "select_across": "1", "confirmed": "yes", "named": "1000"}  # fmt: skip
    assert "At most 20 at once" in " ".join(said(root.post(LIST, form)))
    assert not AuditEvent.objects.filter(action="revoke").exists()
    keys = [create_key(tenant=cast.acme, actor="test", now=0).row for _ in range(101)]
    answer = root.post(
        "/admin/api/apikey/",
        {"action": "revoke_many", "_selected_action": [key.pk for key in keys], "confirmed": "yes"},
    )
    assert "At most 100 at once" in " ".join(said(answer))
    assert not AuditEvent.objects.filter(action="revoke_key").exists()


def test_suspending_and_resuming(cast: Cast, root: Client) -> None:
    root.post(page_of(cast["alice"], "suspend"), {"confirmed": "yes"})
    assert OAuthCredential.objects.get(user_id="alice").suspended_at is not None
    assert "suspended" in root.get(page_of(cast["alice"])).content.decode()
    root.post(page_of(cast["alice"], "resume"), {"confirmed": "yes"})
    assert OAuthCredential.objects.get(user_id="alice").suspended_at is None
    events = AuditEvent.objects.filter(subject="alice", actor="operator operator-0")
    assert set(events.values_list("action", flat=True)) == {"suspend", "resume"}


def test_what_came_of_an_act_is_not_told_to_a_page_that_asks_by_itself(
    cast: Cast, root: Client
) -> None:
    root.post(page_of(cast["alice"], "suspend"), {"confirmed": "yes"})
    asked_by_itself = root.get(page_of(cast["erik"]), headers={"X-Asked-By-Itself": "yes"})
    assert "alice (acme): suspended." not in asked_by_itself.content.decode()
    assert "alice (acme): suspended." in root.get(page_of(cast["erik"])).content.decode()


@pytest.mark.parametrize("act", ["refresh", "rotate"])
def test_a_refresh_is_handed_to_a_worker(
    cast: Cast, root: Client, act: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the operator's name, and only for those that can be refreshed."""
    sent: list[object] = []
    monkeypatch.setattr(
        refresh_credentials, "apply_async", lambda args, **options: sent.append(args)
    )
    chosen = [cast[name].pk for name in ("alice", "bob", "dora")]
    answer = root.post(
        LIST, {"action": f"{act}_many", "_selected_action": chosen, "confirmed": "yes"}
    )
    alice = cast["alice"]
    assert sent == [
        ([(alice.tenant_id, alice.pk, alice.generation)], "demand", "operator operator-0")
    ]
    assert len(said(answer)) == 3


@pytest.mark.django_db(transaction=True)
def test_the_page_goes_on_by_itself_until_the_refresh_that_was_asked_for_has_ended(
    cast: Cast, root: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Told to a worker that has not begun: the task itself runs below, when it is its time.
    monkeypatch.setattr(refresh_credentials, "apply_async", lambda args, **options: None)
    alice = cast["alice"]
    page = root.post(page_of(alice, "refresh"), {"confirmed": "yes"}).headers["Location"]
    asked = float(page.partition("?asked=")[2])

    def is_live(address: str) -> bool:
        text = root.get(address).content.decode()
        assert (text.count('data-live="yes"'), text.count('data-live="no"')) in ((3, 0), (0, 3))
        return 'data-live="yes"' in text

    assert is_live(page)
    assert is_live(f"{page_of(alice)}?asked={asked + 0.5}")  # by another process's reading
    refused = root.post(page_of(cast["carla"], "refresh"), {"confirmed": "yes"})
    assert "asked" not in refused.headers["Location"]
    for without in ("", "?asked=", "?asked=nan", f"?asked={asked - 100}", f"?asked={asked + 100}"):
        assert not is_live(f"{page_of(alice)}{without}"), without
    refresh_credentials([(alice.tenant_id, alice.pk, alice.generation)], "demand", "operator olga")
    assert RefreshAttempt.objects.filter(actor="operator olga").get().outcome != Outcome.IN_FLIGHT
    assert not is_live(page)


def test_rotation_says_that_it_is_a_refresh(cast: Cast, root: Client) -> None:
    page = root.get(page_of(cast["alice"], "rotate")).content.decode()
    assert "by a refresh: the old refresh token is spent" in page


@pytest.mark.django_db(transaction=True)
def test_without_a_broker_a_few_are_refreshed_here(
    acme: Tenant,
    root: Client,
    upstream: Simulator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Three in this request, for real; of the fourth it is said that it was not asked for."""
    now = time.time()
    for number in range(4):
        import_credential(
            tenant=acme, user_id=f"user-{number}", actor="test", now=now,
            offered=parse_credentials(upstream.new_login().credentials_file(), now=now),
        )  # fmt: skip

    def no_broker(*args: object, **options: object) -> None:
        raise OperationalError("no broker")

    monkeypatch.setattr(refresh_credentials, "apply_async", no_broker)
    chosen = list(OAuthCredential.objects.values_list("pk", flat=True))
    answer = root.post(
        LIST, {"action": "refresh_many", "_selected_action": chosen, "confirmed": "yes"}
    )
    sentences = said(answer)
    assert sum("refreshed." in sentence for sentence in sentences) == 3
    assert sum("broker cannot be reached" in sentence for sentence in sentences) == 1
    assert OAuthCredential.objects.filter(refresh_count=1).count() == 3
    assert {attempt.actor for attempt in RefreshAttempt.objects.all()} == {"operator operator-0"}


def test_the_page_of_a_credential_tells_its_life(cast: Cast, root: Client) -> None:
    page = root.get(page_of(cast["alice"])).content.decode()
    assert "Works. There is nothing to do." in page
    assert "412 ms" in page
    assert "Import by test" in page
    assert "key ovs_Ab12Cd34" in page
    assert "hand-outs in the last hour" in page


def test_filters_and_search_find_the_right_ones(cast: Cast, root: Client) -> None:
    def found(question: str) -> set[str]:
        context = root.get(LIST + question).context
        return {credential.user_id for credential in context["cl"].result_list}

    assert found("?status=cannot_work") == {"bob", "carla", "dora", "erik", "kalle"}
    assert found("?status=reauthorization_required") == {"bob", "frida"}
    assert found("?status=revoked") == {"user-17"}
    assert found("?q=ali") == {"alice"}
    assert found("?q=acme") == set()
    assert "alice" not in found("?expires=1h")
    assert "hedda" in found("?expires=1h")
    assert found(f"?tenant__id__exact={cast.globex.pk}&status=quarantined") == {"kalle"}


def test_lists_do_not_ask_the_database_once_per_row(
    cast: Cast, root: Client, django_assert_max_num_queries: Callable[..., object]
) -> None:
    """Nor count the table: a page of thirty costs what a page of three does."""
    for page, ceiling in (
        ("/admin/", 25),
        (LIST, 8),
        (page_of(cast["alice"]), 11),
        ("/admin/tokens/auditevent/", 8),
        ("/admin/api/apikey/", 8),
        ("/admin/tokens/tenant/", 7),
    ):
        root.get(page)
        with django_assert_max_num_queries(ceiling) as captured:  # type: ignore[attr-defined]
            assert root.get(page).status_code == 200
        if page != "/admin/":
            counts = [q["sql"] for q in captured.captured_queries if "COUNT(*)" in q["sql"]]
            assert counts == [], page


def test_the_trail_is_searched_by_word_and_by_day(cast: Cast, root: Client) -> None:
    def found(question: str) -> int:
        return len(root.get(f"/admin/tokens/auditevent/?q={question}").context["cl"].result_list)

    today = time.strftime("%Y-%m-%d", time.gmtime(clock.now()))
    assert found("alice") == 1
    assert found(f"acme+import+alice+{today}") == 1
    assert found("alice+2001-01-31") == 0
    assert found("alice+2001-99-99") == 0


def test_a_tenant_is_made_set_and_suspended(root: Client) -> None:
    """Each with an event that names the operator; the slug stays what it was."""
    answer = root.post(
        "/admin/tokens/tenant/add/",
        {"slug": "initech", "name": "Initech", "auto_refresh": "true", "refresh_threshold": "120"},
    )
    assert answer.status_code == 302
    tenant = Tenant.objects.get(slug="initech")
    assert (tenant.name, tenant.auto_refresh, tenant.refresh_threshold) == ("Initech", True, 120)
    page = f"/admin/tokens/tenant/{tenant.pk}"
    root.post(
        f"{page}/change/",
        {"slug": "other", "name": "Initech AG", "auto_refresh": "unknown",
         "refresh_threshold": ""},
    )  # fmt: skip
    tenant.refresh_from_db()
    assert (tenant.slug, tenant.name, tenant.auto_refresh) == ("initech", "Initech AG", None)
    assert "Suspend this whole tenant?" in root.get(f"{page}/suspend/").content.decode()
    root.post(f"{page}/suspend/", {"confirmed": "yes"})
    tenant.refresh_from_db()
    assert tenant.suspended_at is not None
    root.post(f"{page}/resume/", {"confirmed": "yes"})
    actions = AuditEvent.objects.filter(tenant=tenant).values_list("action", "actor")
    assert {action for action, _ in actions} == {
        "create_tenant", "change_tenant", "suspend_tenant", "resume_tenant",
    }  # fmt: skip
    assert {actor for _, actor in actions} == {"operator operator-0"}
    assert "suspend tenant" in root.get(f"{page}/history/").content.decode()


def test_a_data_key_is_rotated_by_a_worker_after_a_question(
    cast: Cast, root: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[tuple[int, str, str]] = []
    monkeypatch.setattr(rotate_data_key, "apply_async", lambda args, **options: sent.append(args))
    page, key = f"/admin/tokens/tenant/{cast.acme.pk}", present_key(cast.acme)
    assert key is not None
    shown = root.get(f"{page}/change/").content.decode()
    assert key.key_id in shown
    assert "every credential is sealed under it" in shown
    question = root.get(f"{page}/rotate_data_key/").content.decode()
    assert "Give this tenant a new data key?" in question
    assert "A new data key is made, and 13 credentials are sealed again." in question
    assert sent == []
    answer = root.post(f"{page}/rotate_data_key/", {"confirmed": "yes"})
    assert sent == [(cast.acme.pk, key.key_id, "operator operator-0")]
    assert "a new data key seals" in said(answer)[0]
    assert present_key(cast.acme) != key
    shown = root.get(f"{page}/change/").content.decode()
    assert "13 credentials are still sealed under an older one" in shown
    assert '<progress max="13" value="0"' in shown
    rotate_data_key(*sent[0])
    assert not under_older_keys(cast.acme).exists()
    assert "<progress" not in root.get(f"{page}/change/").content.decode()
    assert AuditEvent.objects.filter(action="rotate_data_key").count() == 1


def test_without_a_broker_a_small_tenants_data_key_is_rotated_here(
    cast: Cast, root: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_broker(*args: object, **options: object) -> None:
        raise OperationalError("no broker")

    monkeypatch.setattr(rotate_data_key, "apply_async", no_broker)
    before = present_key(cast.acme)
    page = f"/admin/tokens/tenant/{cast.acme.pk}"
    answer = root.post(f"{page}/rotate_data_key/", {"confirmed": "yes"})
    assert "the data key is a new one" in said(answer)[0]
    assert present_key(cast.acme) != before
    assert not under_older_keys(cast.acme).exists()
    event = AuditEvent.objects.get(action="rotate_data_key")
    assert (event.tenant, event.actor) == (cast.acme, "operator operator-0")
    assert "rotate data key" in root.get(f"{page}/history/").content.decode()
    monkeypatch.setattr("tokens.admin.tenants._HERE_AT_MOST", 0)
    left = root.post(f"{page}/rotate_data_key/", {"confirmed": "yes"})
    assert "oauthvault rotate_keys --tenant acme" in said(left)[0]
    assert under_older_keys(cast.acme).count() == 13, "the sweep sees to them"
    assert AuditEvent.objects.filter(action="rotate_data_key").count() == 2


def test_a_tenant_for_which_nothing_was_sealed_has_no_data_key_to_rotate(
    acme: Tenant, root: Client
) -> None:
    page = f"/admin/tokens/tenant/{acme.pk}"
    assert "none yet" in root.get(f"{page}/change/").content.decode()
    assert "/rotate_data_key/" not in root.get(f"{page}/change/").content.decode()
    root.post(f"{page}/rotate_data_key/", {"confirmed": "yes"})
    assert not DataKey.objects.exists()


def test_a_tenants_name_that_cannot_be_is_refused_in_the_form(root: Client, acme: Tenant) -> None:
    for slug in ("Acme Corp", "acme", ""):
        answer = root.post("/admin/tokens/tenant/add/", {"slug": slug, "auto_refresh": "unknown"})
        assert answer.status_code == 200
        assert Tenant.objects.count() == 1
