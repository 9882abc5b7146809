"""Acts on many: each row at most once, whoever dies in between, and never past its tenant."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from django.contrib.auth.models import Permission, User
from kombu.exceptions import OperationalError
from pytest_django import Settings

from tests.conftest import Store
from tests.simulator import Simulator
from tests.vault.conftest import Reread
from tokens import clock, history, isolation, jobs, roles, tasks, vault
from tokens.credential_file import parse_credentials
from tokens.importing import import_credential
from tokens.models import (
    AuditEvent,
    DataKey,
    Heartbeat,
    Job,
    JobAct,
    JobRow,
    OAuthCredential,
    RefreshAttempt,
    RowState,
    Standing,
    Tenant,
)
from tokens.rotation.data_keys import present_key, under_older_keys

pytestmark = pytest.mark.django_db
committed = pytest.mark.django_db(transaction=True)
DAY = 86_400


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as threads:
        yield threads


@pytest.fixture
def olga(db: None, acme: Tenant) -> User:
    """An operator of acme with all of the rights to act."""
    user = User.objects.create_user("olga", is_staff=True)
    for right in set(jobs.RIGHTS.values()):
        app, codename = right.split(".")
        user.user_permissions.add(
            Permission.objects.get(content_type__app_label=app, codename=codename)
        )
    roles.assign(operator=user, tenant=acme, actor="test", now=time.time())
    return user


@pytest.fixture
def people(acme: Tenant, upstream: Simulator, store: Store) -> list[OAuthCredential]:
    return [store(acme, f"user-{n:02}", upstream.new_login(f"user-{n:02}")) for n in range(10)]


Ask = Callable[..., Job]


@pytest.fixture
def ask(olga: User) -> Ask:
    def _ask(act: JobAct, tenant: Tenant) -> Job:
        (job,) = jobs.ask(
            act=act, credentials=OAuthCredential.objects.for_tenant(tenant),
            actor="operator olga", operator=olga, now=clock.now(),
        )  # fmt: skip
        return job

    return _ask


def work(job: Job, pool: ThreadPoolExecutor, **how: object) -> bool:
    with isolation.nobody():
        return jobs.work(
            tenant_id=job.tenant_id, job_id=job.pk, pool=pool, **({"seconds": 60.0} | how)
        )  # type: ignore[arg-type]


def states(job: Job) -> list[str]:
    return list(job.rows.order_by("user_id").values_list("state", flat=True))


def test_each_row_is_done_and_says_so(
    acme: Tenant, people: list[OAuthCredential], ask: Ask, pool: ThreadPoolExecutor
) -> None:
    vault.suspend(tenant=acme, user_id="user-03", actor="test", now=clock.now())
    vault.revoke(tenant=acme, user_id="user-04", actor="test", now=clock.now())
    job = ask(JobAct.SUSPEND, acme)
    assert work(job, pool) is False
    job.refresh_from_db()
    assert job.ended_at is not None
    assert not job.stopped
    expected = ["done"] * 10
    expected[3] = expected[4] = "left_out"
    assert states(job) == expected
    assert jobs.counts(job) == jobs.Counts(done=8, left_out=2)
    assert job.rows.get(user_id="user-03").said == "It is suspended already."
    assert job.rows.get(user_id="user-04").said == "It is revoked already."
    suspended = AuditEvent.objects.filter(action="suspend", actor="operator olga")
    assert suspended.count() == 8
    asked = AuditEvent.objects.get(action="ask_for_job")
    assert asked.detail == {"job": job.pk, "act": "suspend", "credentials": 10}


@pytest.mark.parametrize(
    ("act", "before", "after"),
    [
        (JobAct.REVOKE, {}, {"standing": Standing.REVOKED}),
        (JobAct.RESUME, {"suspended_at": 5}, {"suspended_at": None}),
        (JobAct.SUSPEND_AUTO_REFRESH, {}, {"auto_refresh": False, "refresh_due_at": None}),
        (
            JobAct.RESUME_AUTO_REFRESH,
            {"auto_refresh": False, "refresh_due_at": None},
            {"auto_refresh": None},
        ),
    ],
)
def test_what_each_act_does(
    acme: Tenant, people: list[OAuthCredential], ask: Ask, pool: ThreadPoolExecutor,
    act: JobAct, before: dict[str, object], after: dict[str, object],
) -> None:  # fmt: skip
    OAuthCredential.objects.update(**before)
    job = ask(act, acme)
    work(job, pool)
    assert states(job) == ["done"] * 10
    assert OAuthCredential.objects.filter(**after).count() == 10
    assert work(job, pool) is False, "it has ended"


def test_to_reseal_is_one_new_data_key_for_the_tenant(
    acme: Tenant, people: list[OAuthCredential], ask: Ask, pool: ThreadPoolExecutor
) -> None:
    """However many rows ask for it; and nothing is left under the old one."""
    old = present_key(acme)
    assert old is not None
    job = ask(JobAct.RESEAL, acme)
    work(job, pool)
    assert states(job) == ["done"] * 10
    assert present_key(acme) != old
    assert DataKey.objects.filter(tenant=acme).count() == 2
    assert not under_older_keys(acme).exists()
    for each in people:
        handed = vault.issue_access_token(
            tenant=acme, user_id=each.user_id, actor="test", now=clock.now()
        )
        assert handed.access_token.reveal()
    assert AuditEvent.objects.filter(action="rotate_data_key").count() == 1


def test_many_refreshes_are_presented_once_each(
    committed_people: list[OAuthCredential], acme: Tenant, ask: Ask, pool: ThreadPoolExecutor,
    upstream: Simulator,
) -> None:  # fmt: skip
    job = ask(JobAct.REFRESH, acme)
    assert work(job, pool) is False
    assert states(job) == ["done"] * 10
    assert [upstream.refreshes_of(each.user_id) for each in committed_people] == [1] * 10
    assert {attempt.actor for attempt in RefreshAttempt.objects.all()} == {"operator olga"}


@pytest.fixture
def committed_people(
    transactional_db: None, people: list[OAuthCredential]
) -> list[OAuthCredential]:
    return people


def test_what_was_begun_by_a_worker_that_died_is_not_begun_again(
    committed_people: list[OAuthCredential], acme: Tenant, ask: Ask, pool: ThreadPoolExecutor,
    upstream: Simulator,
) -> None:  # fmt: skip
    """Not even presented a second time: nobody knows whether it was. The rest goes on."""
    job = ask(JobAct.REFRESH, acme)
    dead = jobs._take(acme.pk, job.pk, now=clock.now())
    assert dead is not None
    begun = jobs._begin(dead, now=clock.now())
    assert len(begun) == 8
    assert work(job, pool) is False, "the dead one's lease is in force"
    assert states(job).count("begun") == 8
    Job.objects.update(lease_until=clock.now() - 1)
    assert work(job, pool) is False
    assert states(job) == ["unknown"] * 8 + ["done"] * 2
    assert sum(upstream.refreshes_of(each.user_id) for each in committed_people) == 2
    job.refresh_from_db()
    assert job.ended_at is not None
    assert "not tried again" in job.rows.filter(state=RowState.UNKNOWN)[0].said
    assert jobs._begin(dead, now=clock.now()) == [], "the dead one comes back to nothing"


def test_a_refresh_that_was_done_since_is_not_done_for_the_job(
    committed_people: list[OAuthCredential], acme: Tenant, ask: Ask, pool: ThreadPoolExecutor,
    upstream: Simulator,
) -> None:  # fmt: skip
    job = ask(JobAct.ROTATE, acme)
    vault.refresh_now(tenant=acme, user_id="user-05", actor="test", now=clock.now())
    work(job, pool)
    assert upstream.refreshes_of("user-05") == 1
    row = job.rows.get(user_id="user-05")
    assert (row.state, row.said) == ("left_out", "It has a newer token pair already.")


def test_a_closed_door_pauses_the_job_and_costs_no_row_its_turn(
    committed_people: list[OAuthCredential], acme: Tenant, ask: Ask, pool: ThreadPoolExecutor,
    upstream: Simulator,
) -> None:  # fmt: skip
    upstream.fail_next(status=429, headers={"Retry-After": "300"}, user="user-00")
    job = ask(JobAct.REFRESH, acme)
    OAuthCredential.objects.exclude(user_id="user-00").update(suspended_at=1)
    work(job, pool)
    OAuthCredential.objects.update(suspended_at=None)
    assert job.rows.get(user_id="user-00").state == "failed"
    again = ask(JobAct.REFRESH, acme)
    assert work(again, pool) is False
    again.refresh_from_db()
    assert again.ended_at is None
    assert again.resumes_at is not None
    assert again.resumes_at > clock.now()
    assert again.pause
    assert states(again) == ["waiting"] * 10
    assert jobs.to_publish(now=clock.now()) == []
    assert jobs.to_publish(now=again.resumes_at + 1) == [(acme.pk, again.pk)]


def test_one_that_fails_keeps_no_other_from_being_done(
    committed_people: list[OAuthCredential], acme: Tenant, ask: Ask, pool: ThreadPoolExecutor,
    upstream: Simulator,
) -> None:  # fmt: skip
    upstream.kill_login("user-02")
    job = ask(JobAct.REFRESH, acme)
    work(job, pool)
    assert jobs.counts(job) == jobs.Counts(done=9, failed=1)
    said = job.rows.get(user_id="user-02").said
    assert "Sign in to Claude again" in said


def test_what_is_stopped_stays_as_far_as_it_is(
    acme: Tenant, people: list[OAuthCredential], ask: Ask, pool: ThreadPoolExecutor
) -> None:
    job = ask(JobAct.SUSPEND, acme)
    turns = iter([False, True, True])
    assert work(job, pool, stopping=lambda: next(turns)) is False
    assert jobs.counts(job) == jobs.Counts(done=8, waiting=2)
    assert jobs.stop_job(tenant=acme, job=job, actor="operator hugo", now=clock.now())
    assert not jobs.stop_job(tenant=acme, job=job, actor="operator hugo", now=clock.now())
    assert work(job, pool) is False
    assert jobs.counts(job) == jobs.Counts(done=8, waiting=2)
    assert OAuthCredential.objects.filter(suspended_at=None).count() == 2
    job.refresh_from_db()
    assert job.stopped_by == "operator hugo"
    event = AuditEvent.objects.get(action="stop_job")
    assert event.detail == {"job": job.pk, "act": "suspend", "done": 8, "not_begun": 2}


def test_a_turn_ends_and_leaves_the_rest_to_the_next(
    acme: Tenant, people: list[OAuthCredential], ask: Ask, pool: ThreadPoolExecutor
) -> None:
    job = ask(JobAct.SUSPEND, acme)
    assert work(job, pool, seconds=0.0) is True
    job.refresh_from_db()
    assert job.lease_until is None
    assert work(job, pool) is False
    assert states(job) == ["done"] * 10


def send_away(operator: User, tenant: Tenant, how: str) -> None:
    if how == "dismissed":
        User.objects.filter(pk=operator.pk).update(is_active=False)
    elif how == "deprived":
        operator.user_permissions.remove(Permission.objects.get(codename="revoke_oauthcredential"))
    elif how == "withdrawn":
        roles.withdraw(operator=operator, tenant=tenant, actor="test", now=clock.now())
    else:
        User.objects.filter(pk=operator.pk).delete()


in_every_way = pytest.mark.parametrize("how", ["dismissed", "deprived", "withdrawn", "gone"])


@in_every_way
def test_who_may_no_longer_act_does_not_go_on_acting_by_a_job(
    acme: Tenant, people: list[OAuthCredential], ask: Ask, pool: ThreadPoolExecutor, olga: User,
    how: str,
) -> None:  # fmt: skip
    job = ask(JobAct.REVOKE, acme)
    send_away(olga, acme, how)
    assert work(job, pool) is False
    job.refresh_from_db()
    assert "may do so no longer" in job.stopped_by
    assert states(job) == ["waiting"] * 10
    assert not OAuthCredential.objects.filter(standing=Standing.REVOKED).exists()


@in_every_way
def test_who_is_sent_away_in_the_middle_of_a_turn_goes_on_no_further(
    acme: Tenant, people: list[OAuthCredential], ask: Ask, pool: ThreadPoolExecutor, olga: User,
    how: str,
) -> None:  # fmt: skip
    job = ask(JobAct.REVOKE, acme)
    turns = iter([False, True])

    def sent_away_after_the_first() -> bool:
        if next(turns, False):
            send_away(olga, acme, how)
        return False

    assert work(job, pool, stopping=sent_away_after_the_first) is False
    job.refresh_from_db()
    assert "may do so no longer" in job.stopped_by
    assert jobs.counts(job) == jobs.Counts(done=8, waiting=2)


def test_a_job_is_of_one_tenant_and_no_other_works_at_it_or_sees_it(
    acme: Tenant, globex: Tenant, people: list[OAuthCredential], olga: User, store: Store,
    upstream: Simulator, pool: ThreadPoolExecutor,
) -> None:  # fmt: skip
    """Asked for in the scope of both it is two; in the scope of one it is that one's."""
    store(globex, "carol", upstream.new_login("carol"))
    asked = {
        "act": JobAct.SUSPEND, "actor": "operator olga", "operator": olga, "now": clock.now(),
    }  # fmt: skip
    with isolation.of(acme.pk):
        (mine,) = jobs.ask(credentials=OAuthCredential.objects.all(), **asked)  # type: ignore[arg-type]
    assert mine.total == 10
    with isolation.of(acme.pk, globex.pk):
        both = jobs.ask(credentials=OAuthCredential.objects.all(), **asked)  # type: ignore[arg-type]
    assert [(job.tenant_id, job.total) for job in both] == [(acme.pk, 10), (globex.pk, 1)]
    with isolation.of(globex.pk):
        assert list(Job.objects.all()) == [both[1]]
        assert JobRow.objects.count() == 1
    with isolation.nobody():
        assert jobs.work(tenant_id=globex.pk, job_id=mine.pk, seconds=1, pool=pool) is False
    assert states(mine) == ["waiting"] * 10


def test_a_credential_that_is_another_users_by_now_is_left_alone(
    acme: Tenant, people: list[OAuthCredential], ask: Ask, pool: ThreadPoolExecutor
) -> None:
    job = ask(JobAct.REVOKE, acme)
    OAuthCredential.objects.filter(user_id="user-07").update(user_id="somebody-else")
    work(job, pool)
    assert job.rows.get(user_id="user-07").state == "left_out"
    assert OAuthCredential.objects.get(user_id="somebody-else").standing == Standing.ACTIVE


def test_more_than_can_be_done_at_once_is_refused_whole(
    acme: Tenant, people: list[OAuthCredential], ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "MOST", 9)
    with pytest.raises(jobs.TooMany, match="More than 9"):
        ask(JobAct.REVOKE, acme)
    assert not Job.objects.exists()


def test_a_tenant_has_a_few_jobs_under_way_and_no_more(
    acme: Tenant, people: list[OAuthCredential], ask: Ask
) -> None:
    """Or one operator could have every thread of the worker, and nobody's tokens be refreshed."""
    first, *_ = [ask(JobAct.SUSPEND, acme) for _ in range(jobs.MOST_UNFINISHED)]
    with pytest.raises(jobs.TooMany, match="have not ended yet"):
        ask(JobAct.RESUME, acme)
    assert Job.objects.count() == jobs.MOST_UNFINISHED
    jobs.stop_job(tenant=acme, job=first, actor="test", now=clock.now())
    assert ask(JobAct.RESUME, acme).total == 10


def test_the_sweep_finds_what_nobody_works_at(
    acme: Tenant, people: list[OAuthCredential], ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once a minute, for as long as it takes; and only what has not ended."""
    sent: list[object] = []
    monkeypatch.setattr(tasks.work_off_job, "apply_async", lambda args, **o: sent.append(args))
    job, now = ask(JobAct.SUSPEND, acme), clock.now()
    for later in (0, 1, 30, 61):
        with isolation.nobody():
            tasks._look_after_jobs(now + later)
    assert sent == [(acme.pk, job.pk)] * 2
    jobs.stop_job(tenant=acme, job=job, actor="test", now=now)
    tasks._look_after_jobs(now + 1000)
    assert len(sent) == 2


def test_without_a_broker_a_job_waits_for_the_sweep(
    acme: Tenant, people: list[OAuthCredential], ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_broker(*args: object, **options: object) -> None:
        raise OperationalError("no broker")

    monkeypatch.setattr(tasks.work_off_job, "apply_async", no_broker)
    job = ask(JobAct.SUSPEND, acme)
    assert not tasks.publish_job(tenant_id=acme.pk, job_id=job.pk, now=clock.now())
    assert jobs.to_publish(now=clock.now()) == [(acme.pk, job.pk)]


def test_the_task_asks_for_its_next_turn(
    acme: Tenant, people: list[OAuthCredential], ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[object] = []
    monkeypatch.setattr(tasks.work_off_job, "apply_async", lambda args, **o: sent.append(args))
    monkeypatch.setattr(tasks, "_JOB_TURN", 0.0)
    job = ask(JobAct.SUSPEND, acme)
    tasks.work_off_job(acme.pk, job.pk)
    assert sent == [(acme.pk, job.pk)]
    monkeypatch.setattr(tasks, "_JOB_TURN", 60.0)
    tasks.work_off_job(acme.pk, job.pk)
    assert len(sent) == 1
    assert states(job) == ["done"] * 10


def test_what_ended_some_days_ago_is_forgotten_with_its_rows(
    acme: Tenant, people: list[OAuthCredential], ask: Ask
) -> None:
    old, young, never = (ask(JobAct.SUSPEND, acme) for _ in range(3))
    now = clock.now()
    ended = {old.pk: now - (jobs.DAYS_KEPT + 1) * DAY, young.pk: now - DAY}
    for pk, at in ended.items():
        Job.objects.filter(pk=pk).update(ended_at=at)
    Job.objects.filter(pk=never.pk).update(asked_at=now - 100 * DAY)
    Heartbeat.objects.filter(part__startswith="history").delete()
    assert history.forget_old(now=now)
    assert {job.pk for job in Job.objects.all()} == {young.pk, never.pk}
    assert JobRow.objects.count() == 20


def test_a_lease_from_a_clock_that_was_ahead_is_no_lease(
    acme: Tenant, people: list[OAuthCredential], ask: Ask, pool: ThreadPoolExecutor,
    settings: Settings,
) -> None:  # fmt: skip
    job = ask(JobAct.SUSPEND, acme)
    ahead = clock.now() + settings.CLOCK_SLACK + 10_000
    Job.objects.update(
        lease_id="6c0a6cd6-6a50-4d36-a0a9-3ac0bd9ad8a6", lease_until=ahead,
        resumes_at=ahead, published_at=ahead,
    )  # fmt: skip
    assert jobs.to_publish(now=clock.now()) == [(acme.pk, job.pk)]
    work(job, pool)
    assert states(job) == ["done"] * 10


def test_no_token_is_in_what_is_said(
    acme: Tenant, people: list[OAuthCredential], ask: Ask, pool: ThreadPoolExecutor,
    monkeypatch: pytest.MonkeyPatch, upstream: Simulator,
) -> None:  # fmt: skip
    """Whatever an error says of itself."""
    token = upstream.current_login("user-01").access_token

    def leaks(**how: object) -> None:
        raise jobs.VaultError(f"could not do it with {token}")

    monkeypatch.setitem(
        jobs._ACTS, JobAct.SUSPEND, (lambda *a: None, jobs._by(leaks, lambda: "never"))
    )
    job = ask(JobAct.SUSPEND, acme)
    work(job, pool)
    said = job.rows.values_list("said", flat=True)
    assert all("could not do it" in each and token not in each for each in said)


def test_a_new_login_of_the_user_is_cut_off_as_well(
    acme: Tenant, people: list[OAuthCredential], ask: Ask, pool: ThreadPoolExecutor,
    upstream: Simulator, reread: Reread,
) -> None:  # fmt: skip
    """A revocation is of the person, and not of the tokens that they had when it was asked for."""
    job = ask(JobAct.REVOKE, acme)
    now = time.time()
    import_credential(
        tenant=acme, user_id="user-01", actor="test", now=now,
        offered=parse_credentials(upstream.new_login("user-01").credentials_file(), now=now),
    )  # fmt: skip
    work(job, pool)
    assert reread(people[1]).standing == Standing.REVOKED
