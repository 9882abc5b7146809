"""Whatever happens, in whatever order: no token is spent twice, given to another, or lost.

A Hypothesis state machine drives the vault against the simulated authorization server:
imports, hand-outs, refreshes, reported 401s, sweeps, revocations, suspensions; every fault
that the simulator knows; a database that fails during the save, Redis away, processes that
die or stall in the middle of a refresh, and clocks that jump. After each step it compares
what the vault holds with what the server saw. Nothing sleeps: time is moved.

The ordinary suite plays a few dozen games. A long run:

    REFRESH_MACHINE_GAMES=2000 python -m tests --only sqlite tests/vault/test_refresh_machine.py
"""

import logging
import os
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import hypothesis
import pytest
from django.conf import settings
from django.db import DatabaseError, connection
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from pytest_django import Settings

from oauthvault.celery import app
from tests.simulator import Login, Simulator
from tests.simulator.logins import Family
from tests.vault.machine_books import Books, Presentation, Said
from tests.vault.machine_trouble import FAULTS, Trouble, redis_away, troubles
from tokens import clock, epoch, flight, handouts, keyring, outside, sealing, vault
from tokens.credential_file import parse_credentials
from tokens.diagnosis import describe_problem
from tokens.errors import (
    AlreadyStored,
    EncryptionError,
    ExpiredLogin,
    NoToken,
    Quarantined,
    RefreshInProgress,
    StaleCredential,
    StoreUnavailable,
    TenantSuspended,
    VaultError,
)
from tokens.importing import import_credential
from tokens.models import (
    Cause,
    OAuthCredential,
    Outcome,
    Problem,
    RefreshAttempt,
    Standing,
    Tenant,
    Upstream,
)
from tokens.oauth_client import Granted, Refused
from tokens.refresh import refresh, spool
from tokens.refresh.ask import present
from tokens.refresh.claim import Claim, claim_credential
from tokens.refresh.replay import replay, replay_for
from tokens.refresh.save import save_answer
from tokens.tasks import sweep
from tokens.tenants import create_tenant, resume_tenant, suspend_tenant

pytestmark = pytest.mark.django_db(transaction=True)

GAMES = int(os.environ.get("REFRESH_MACHINE_GAMES", "20"))
STEPS = int(os.environ.get("REFRESH_MACHINE_STEPS", "30"))

# Of 45 seconds: what passes between the claim and the arrival of its request is no wait.
LEASE = 45 - 1

# The first one has most of it: what befalls one login many times over is what is new.
PEOPLE = st.sampled_from([0, 0, 0, 0, 1, 1, 2, 3])
CAUSES = st.sampled_from(Cause)
# What the next request of somebody meets, if anything.
MEETS = st.none() | st.sampled_from(FAULTS)
# How long after what came before, in seconds: within its lease, or after it.
LATER = st.sampled_from([0, 0, 46, 46, 170])
Met = tuple[str, dict[str, Any]] | None


@dataclass
class Person:
    """A user of the vault, and which login of theirs it was given last."""

    place: int
    tenant_id: int
    user_id: str
    name: str  # at the authorization server
    login: Family | None = None
    revoked: bool = False
    suspended: bool = False


@dataclass(frozen=True)
class Row:
    """What is stored for a person, opened."""

    credential: OAuthCredential
    access_token: str | None
    refresh_token: str | None

    @property
    def pair(self) -> set[str]:
        return {token for token in (self.access_token, self.refresh_token) if token is not None}


@dataclass(frozen=True)
class File:
    """A login as somebody outside of the vault has it."""

    owner: int
    login: Login
    family: Family


@dataclass
class Holder:
    """A process that has its answer, and has stalled before saving it."""

    claim: Claim
    answer: Granted | Refused
    tries: int
    presentations: list[Presentation]


class Errors(logging.Handler):
    """What the vault's threads would only log."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.seen: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        kind = record.exc_info[0] if record.exc_info else None
        expected = kind is not None and issubclass(kind, VaultError | DatabaseError)
        if record.levelno >= logging.CRITICAL or not expected:
            self.seen.append(self.format(record))


class RefreshMachine(RuleBasedStateMachine):
    """One game: two tenants with two users each, one authorization server."""

    simulator: ClassVar[Simulator]

    def __init__(self) -> None:
        super().__init__()
        self.sound = False
        self.simulator.reset()
        settings.CLOCK_OFFSET = 0.0
        Upstream.objects.all().delete()
        self.books = Books(self.simulator)
        self.people: list[Person] = []
        self.rows: dict[int, Row] = {}
        self.files: list[File] = []
        self.stored: dict[str, int] = {}  # every token that was ever stored, and by whom
        self.outside: set[str] = set()  # refresh tokens that somebody outside holds
        self.history: defaultdict[str, list[Presentation]] = defaultdict(list)
        self.ended: set[Family] = set()  # logins that may be dead, for a reason we know
        self.holders: list[Holder] = []
        self.governed_until = 0.0
        self.errors = Errors()
        logging.getLogger("tokens").addHandler(self.errors)

    @initialize(
        retries=st.integers(0, 1),
        reuse_kills=st.booleans(),
        rotation_kills=st.booleans(),
        rotates=st.sampled_from([True, True, False]),
        lifetime=st.sampled_from([28_800, 600, 30]),
        revokes_upstream=st.booleans(),
        spool_after=st.sampled_from([0.0, 3.0]),
        signed_in=st.integers(1, 4),
    )
    def begin(
        self,
        retries: int,
        reuse_kills: bool,
        rotation_kills: bool,
        rotates: bool,
        lifetime: int,
        revokes_upstream: bool,
        spool_after: float,
        signed_in: int,
    ) -> None:
        settings.CLAUDE_OAUTH_MAX_RETRIES = retries
        settings.SPOOL_AFTER = spool_after
        settings.CLAUDE_OAUTH_REVOKE_URL = self.simulator.revoke_url if revokes_upstream else None
        self.simulator.perform(
            "configure",
            reuse_kills_family=reuse_kills,
            rotation_kills_access_token=rotation_kills,
            rotates_refresh_tokens=rotates,
            access_token_lifetime=lifetime,
        )
        game = uuid.uuid4().hex[:12]
        for company in ("acme", "globex"):
            tenant = create_tenant(slug=f"{company}-{game}", actor="test", now=clock.now())
            for user in ("alice", "bob"):
                place = len(self.people)
                person = Person(place, tenant.pk, user, name=f"{user}@{tenant.slug}")
                self.people.append(person)
                if place < signed_in:
                    self.sign_in(place, 3600, refreshable=True, trouble=None)

    # ── what people do ──────────────────────────────────────────────────────────────────

    @rule(
        who=PEOPLE,
        life=st.sampled_from([-10, 60, 3600, 28_800]),
        refreshable=st.sampled_from([True, True, True, True, False]),
        trouble=st.none() | troubles(20),
    )
    def sign_in(self, who: int, life: int, refreshable: bool, trouble: Trouble | None) -> None:
        """A new login is always taken, except in a tenant that is suspended."""
        self.sound = False
        person = self.people[who]
        login, family = self.books.new_login(
            person.name, expires_in=life if refreshable else abs(life), refresh=refreshable
        )
        self.files.append(File(who, login, family))
        if login.refresh_token is not None:
            self.outside.add(login.refresh_token)
        try:
            with self.in_trouble(trouble):
                self.store(person, login)
        except TenantSuspended:
            assert self.is_stopped(person)
            return
        assert not self.is_stopped(person) or trouble is not None
        if self.take_over(person, family) is False:
            assert trouble is not None, "a new login was not stored"

    @precondition(lambda self: self.files)
    @rule(who=PEOPLE, which=st.integers(0, 99), trouble=st.none() | troubles(20))
    def import_a_file_again(self, who: int, which: int, trouble: Trouble | None) -> None:
        """Their own, another user's, an old one: each has its answer."""
        self.sound = False
        file, person = self.files[which % len(self.files)], self.people[who]
        pair = {file.login.access_token, file.login.refresh_token} - {None}
        known = [token for token in pair if token in self.stored]
        if not known and file.owner != who:
            return  # a login that the vault has never seen is its bearer's
        row = self.rows.get(who)
        held = {token for row in self.rows.values() for token in row.pair}
        expected: type[VaultError] | None = None
        if any(token not in held for token in known):
            expected = StaleCredential
        elif any(self.stored[token] != who for token in known):
            expected = AlreadyStored
        elif known and set(known) != pair:
            assert row is not None
            credential = row.credential
            if credential.unanswered_presentations or credential.lease_id is not None:
                expected = RefreshInProgress
        if self.is_stopped(person):
            expected = TenantSuspended
        if file.login.refresh_token is None and file.login.expires_at <= self.now() + 1:
            expected = ExpiredLogin  # past its end, and nothing renews it
        refused: VaultError | None = None
        with self.in_trouble(trouble):
            try:
                self.store(person, file.login)
            except VaultError as refusal:
                refused = refusal
        if trouble is None:
            assert type(refused) is (expected or type(None)), f"{refused!r}, not {expected}"
        if expected is not None or set(known) == pair:
            return
        after = self.row_of(person)
        if after is not None and after.pair == pair:
            # Nothing of it was under way: its refresh token begins anew.
            self.history.pop(file.login.refresh_token or "", None)
            self.take_over(person, file.family)

    @precondition(lambda self: any(person.login for person in self.people))
    @rule(who=PEOPLE, keep=st.booleans())
    def another_holder_rotates(self, who: int, keep: bool) -> None:
        """Claude Code goes on using a login that was given to the vault."""
        self.sound = False
        family = self.people[who].login
        if family is None or family.refresh_token not in self.outside:
            return
        if not self.books.is_alive(family):
            return
        login = self.books.rotate_elsewhere(family, keep=keep)
        assert login.refresh_token is not None
        self.outside.add(login.refresh_token)
        self.files.append(File(who, login, family))

    @rule(who=PEOPLE, wait=st.sampled_from([0.0, 2.0]), fault=MEETS, later=LATER)
    def hand_out(self, who: int, wait: float, fault: Met, later: int) -> None:
        self.comes(who, later, fault)
        person = self.people[who]
        with suppress(VaultError), self.asking():
            self.check_hand_out(
                person,
                vault.issue_access_token(
                    tenant=self.tenant(person),
                    user_id=person.user_id,
                    actor="test",
                    wait=self.patience(person, wait),
                    now=clock.now(),
                ),
            )

    @rule(
        who=PEOPLE, stale=st.booleans(), wait=st.sampled_from([0.0, 2.0]), fault=MEETS, later=LATER
    )
    def report_401(self, who: int, stale: bool, wait: float, fault: Met, later: int) -> None:
        self.comes(who, later, fault)
        person = self.people[who]
        row = self.rows.get(who)
        generation = row.credential.generation - stale if row is not None else 1
        with suppress(VaultError), self.asking():
            self.check_hand_out(
                person,
                vault.report_rejected(
                    tenant=self.tenant(person),
                    user_id=person.user_id,
                    generation=generation,
                    actor="test",
                    wait=self.patience(person, wait),
                    now=clock.now(),
                ),
            )

    @rule(who=PEOPLE, wait=st.sampled_from([0.0, 2.0]), fault=MEETS, later=LATER)
    def demand_a_refresh(self, who: int, wait: float, fault: Met, later: int) -> None:
        self.comes(who, later, fault)
        person = self.people[who]
        with suppress(VaultError), self.asking():
            vault.refresh_now(
                tenant=self.tenant(person),
                user_id=person.user_id,
                actor="test",
                wait=self.patience(person, wait),
                now=clock.now(),
            )

    @rule(who=PEOPLE, trouble=st.none() | troubles(12), status=st.sampled_from([None, 400, 503]))
    def revoke(self, who: int, trouble: Trouble | None, status: int | None) -> None:
        self.sound = False
        person = self.people[who]
        if status is not None:
            self.simulator.fail_next(status=status, on="revoke")
        with self.in_trouble(trouble), suppress(NoToken):
            vault.revoke(
                tenant=self.tenant(person), user_id=person.user_id, actor="test", now=clock.now()
            )
        row = self.row_of(person)
        if row is not None and row.credential.standing == Standing.REVOKED:
            person.revoked = True
            if person.login is not None:
                self.ended.add(person.login)
        else:
            assert row is None or trouble is not None

    @rule(who=PEOPLE, on=st.booleans(), everybody=st.booleans())
    def suspend_or_resume(self, who: int, on: bool, everybody: bool) -> None:
        self.sound = False
        person, now = self.people[who], clock.now()
        tenant = self.tenant(person)
        if everybody:
            (suspend_tenant if on else resume_tenant)(tenant=tenant, actor="test", now=now)
            return
        with suppress(NoToken):
            (vault.suspend if on else vault.resume)(
                tenant=tenant, user_id=person.user_id, actor="test", now=now
            )
            person.suspended = on

    # ── what the vault does by itself, and what may befall it ───────────────────────────

    @rule(
        who=PEOPLE,
        cause=CAUSES,
        behind=st.sampled_from([None, None, 0, 1]),
        fault=MEETS,
        later=LATER,
    )
    def refresh(self, who: int, cause: Cause, behind: int | None, fault: Met, later: int) -> None:
        self.sound = False
        row = self.rows.get(who)
        if row is None:
            return
        self.comes(who, later, fault)
        with suppress(VaultError), self.asking():
            outcome = refresh(
                tenant_id=row.credential.tenant_id,
                credential_id=row.credential.pk,
                cause=cause,
                actor="test",
                generation=None if behind is None else row.credential.generation - behind,
            )
            assert outcome is not Outcome.NOT_SAVED

    @rule(who=PEOPLE, at_once=st.integers(2, 4))
    def several_refresh_at_once(self, who: int, at_once: int) -> None:
        self.sound = False
        row = self.rows.get(who)
        if row is None:
            return
        let_go = threading.Barrier(at_once)

        def run() -> None:
            let_go.wait()
            try:
                with suppress(VaultError), self.asking():
                    self.refresh_row(row)
            finally:
                connection.close()

        with ThreadPoolExecutor(at_once) as pool:
            for each in [pool.submit(run) for _ in range(at_once)]:
                each.result()

    @rule(trouble=st.none() | troubles(30))
    def sweep(self, trouble: Trouble | None) -> None:
        self.sound = False
        with self.in_trouble(trouble):
            sweep()

    @rule(who=PEOPLE, trouble=troubles(45), without_redis=st.booleans(), fault=MEETS, later=LATER)
    def refresh_while_the_database_fails(
        self, who: int, trouble: Trouble, without_redis: bool, fault: Met, later: int
    ) -> None:
        self.comes(who, later, fault)
        row = self.rows.get(who)
        if row is None or (without_redis and self.spooled()):
            return
        asked = self.simulator.counts.token_calls
        with (
            suppress(VaultError),
            redis_away() if without_redis else nullcontext(),
            self.in_trouble(trouble),
            self.asking(),
        ):
            self.refresh_row(row)
        after = OAuthCredential.objects.get(pk=row.credential.pk)
        left = after.unanswered_presentations > row.credential.unanswered_presentations
        if left and self.simulator.counts.token_calls == asked:
            # A claim that could not even be withdrawn: to the vault, as if its process died.
            assert row.refresh_token is not None
            self.note(Presentation(row.refresh_token, Said.NOTHING, self.now(), known=False))

    @rule(who=PEOPLE)
    def refresh_meets_a_reset(self, who: int) -> None:
        """The connection is reset with the request unread: to the vault, no answer."""
        self.sound = False
        row = self.rows.get(who)
        if row is None:
            return
        unread = self.books.unread
        self.simulator.fault("close_before_reading")
        with suppress(VaultError), self.asking():
            self.refresh_row(row)
        self.simulator.state.faults.take("token", None, unread=True)
        self.read_the_books()
        # Nobody has read it: which of the vault's requests it was, a knock or what follows on
        # one, only the vault can say.
        # Not by its time: a clock that was set right since may have put one ahead of all others.
        attempts = RefreshAttempt.objects.filter(credential_id=row.credential.pk)
        attempt = attempts.order_by("-pk").first()
        if self.books.unread > unread and attempt is not None and attempt.tries:
            assert row.refresh_token is not None
            self.note(Presentation(row.refresh_token, Said.NOTHING, self.now(), known=True))

    @rule(who=PEOPLE, cause=CAUSES, ahead=st.sampled_from([0, 0, 0, 30 * 86_400]))
    def die_after_the_claim(self, who: int, cause: Cause, ahead: int) -> None:
        """``ahead``: by a clock that is set right immediately afterwards."""
        self.sound = False
        row = self.rows.get(who)
        held = row is not None and row.credential.lease_in_force(now=self.now())
        if held or self.governed_until > self.now():
            ahead = 0  # it would end a lease in use, or a 429's time, and no clock can tell
        settings.CLOCK_OFFSET += ahead
        claim = self.claim(who, cause)
        settings.CLOCK_OFFSET -= ahead
        if ahead:
            Upstream.objects.filter(circuit_open_until__gt=0).update(circuit_open_until=1)
        if claim is not None:
            token = claim.refresh_token.reveal()
            self.note(Presentation(token, Said.NOTHING, self.now(), known=False))

    @rule(who=PEOPLE, cause=CAUSES, fault=MEETS, later=LATER)
    def die_after_the_answer(self, who: int, cause: Cause, fault: Met, later: int) -> None:
        self.comes(who, later, fault)
        self.ask_without_saving(who, cause)

    @rule(who=PEOPLE, cause=CAUSES, fault=MEETS, later=LATER)
    def stall_before_the_save(self, who: int, cause: Cause, fault: Met, later: int) -> None:
        self.comes(who, later, fault)
        holder = self.ask_without_saving(who, cause)
        if holder is not None:
            self.holders.append(holder)

    @precondition(lambda self: self.holders)
    @rule(which=st.integers(0, 3), trouble=st.none() | troubles(15))
    def save_late(self, which: int, trouble: Trouble | None) -> None:
        self.sound = False
        self.wake(self.holders.pop(which % len(self.holders)), trouble)

    @rule(
        who=PEOPLE,
        faults=st.tuples(MEETS, MEETS),
        seconds=st.sampled_from([46, 46, 170, 20]),
        trouble=st.none() | troubles(15),
    )
    def stall_and_be_overtaken(
        self, who: int, faults: tuple[Met, Met], seconds: int, trouble: Trouble | None
    ) -> None:
        first, second = faults
        self.comes(who, 0, first)
        holder = self.ask_without_saving(who, Cause.SWEEP)
        self.refresh(who, Cause.DEMAND, None, second, seconds)
        # What the one that overtook made of it is judged by what could be known then.
        self.everything_holds()
        self.sound = False
        if holder is not None:
            self.wake(holder, trouble)

    @rule(
        who=PEOPLE,
        cause=CAUSES,
        trouble=troubles(15),
        without_redis=st.booleans(),
        fault=MEETS,
        later=LATER,
    )
    def save_while_the_database_fails(
        self, who: int, cause: Cause, trouble: Trouble, without_redis: bool, fault: Met, later: int
    ) -> None:
        self.comes(who, later, fault)
        holder = self.ask_without_saving(who, cause)
        if holder is not None:
            with redis_away() if without_redis else nullcontext():
                self.wake(holder, trouble)

    @rule(restarts=st.booleans(), replays=st.booleans(), trouble=st.none() | troubles(15))
    def restart_or_replay(self, restarts: bool, replays: bool, trouble: Trouble | None) -> None:
        self.sound = False
        if restarts:
            for memory in (keyring, epoch, outside, spool):
                memory.forget()
        if replays:
            with self.in_trouble(trouble):
                replay()
            assert trouble is not None or not self.spooled()

    @rule(seconds=st.sampled_from([-30, -5, 1, 15, 60, 170, 700, 4000, 30_000, 86_400]))
    def time_passes(self, seconds: int) -> None:
        """Everywhere; or the clock of the vault's database is set back."""
        self.sound = False
        if seconds > 0:
            self.simulator.advance_clock(seconds)
        settings.CLOCK_OFFSET += seconds

    # ── what the far side does ──────────────────────────────────────────────────────────

    @rule(who=PEOPLE, fault=st.sampled_from(FAULTS))
    def fail_next(self, who: int, fault: Met) -> None:
        self.comes(who, 0, fault)

    @rule(who=PEOPLE, all_of_it=st.booleans())
    def end_a_login_or_an_access_token(self, who: int, all_of_it: bool) -> None:
        self.sound = False
        person, row = self.people[who], self.rows.get(who)
        if all_of_it and person.login is not None:
            self.simulator.kill_login(person.name)
            self.ended |= {file.family for file in self.files if file.owner == who}
        elif row is not None and row.access_token is not None:
            self.simulator.kill_access_token(row.access_token)

    # ── what must hold ──────────────────────────────────────────────────────────────────

    @invariant()
    def everything_holds(self) -> None:
        self.read_the_books()
        assert self.errors.seen == []
        before, self.rows = self.rows, self.rows_of(self.people)
        for person in self.people:
            row = self.rows.get(person.place)
            if row is None:
                assert person.login is None
            else:
                self.check_row(person, row, before.get(person.place))
        for family in {file.family for file in self.files}:
            if not family.alive:
                assert family in self.ended | self.books.reused, (
                    f"a login of {family.user} was ended by nobody but the vault"
                )
        self.sound = True

    def check_row(self, person: Person, row: Row, before: Row | None) -> None:
        credential = row.credential
        assert credential.standing != Standing.QUARANTINED
        assert (credential.standing == Standing.REVOKED) == person.revoked
        assert (credential.suspended_at is not None) == person.suspended
        assert credential.unanswered_presentations <= 2
        if person.revoked:
            assert row.pair == set()
        else:
            assert self.books.family_of(row.access_token) is person.login, "not this login's"
            if row.refresh_token is not None:
                assert self.books.family_of(row.refresh_token) is person.login
        for token in row.pair:
            assert self.stored.setdefault(token, person.place) == person.place
        if before is not None:
            assert credential.generation >= before.credential.generation
            assert credential.refresh_count >= before.credential.refresh_count
            if credential.generation == before.credential.generation:
                assert row.pair == before.pair
        if credential.standing == Standing.REAUTHORIZATION_REQUIRED:
            assert self.sentence(credential)
            was_so = before is not None and before.credential.standing == credential.standing
            if not was_so:
                self.check_loss(person, row)

    def check_loss(self, person: Person, row: Row) -> None:
        """A login that is alive is given up only where nobody could have known better."""
        assert person.login is not None
        assert row.refresh_token is not None
        assert row.credential.problem in (
            Problem.ANSWER_LOST,
            Problem.LOGIN_ENDED,
            Problem.ROTATED_ELSEWHERE,
        )
        is_current = person.login.refresh_token == row.refresh_token
        if not is_current or not self.books.is_alive(person.login):
            return
        past = self.history[row.refresh_token]
        if any(presentation.lied for presentation in past):
            return
        still_open = sum(presentation.is_open for presentation in past)
        assert (row.credential.problem, still_open) == (Problem.ANSWER_LOST, 2), (
            f"{person.name}: a living login was given up as {row.credential.problem!r}"
        )

    def note(self, new: Presentation) -> None:
        """A presentation, and whether it may have been."""
        past = self.history[new.token]
        assert new.at >= self.governed_until - 2, "sent while a 429 governed"
        for one in past:
            refused = one.said is Said.REFUSED or one.disbelieved
            assert one.is_open or refused, f"presented again after {one.said}"
            if one.is_open:
                assert new.at >= one.at + LEASE, "presented again before the lease had ended"
        assert sum(one.is_open for one in past) < 2, "presented a third time"
        past.append(new)
        if new.known:
            self.learn(new)

    def learn(self, presentation: Presentation) -> None:
        """The answer has reached the vault."""
        if presentation.said is Said.GRANTED and presentation.kept:
            past = self.history[presentation.token]
            if presentation in past:
                past.clear()
        self.governed_until = max(self.governed_until, presentation.governs_until)

    def check_hand_out(self, person: Person, handed: vault.HandOut) -> None:
        assert not person.revoked
        assert not person.suspended
        assert self.tenant(person).suspended_at is None
        token = handed.access_token.reveal()
        assert self.simulator.user_of(token) == person.name
        assert self.books.family_of(token) is person.login

    def teardown(self) -> None:
        try:
            if self.sound:
                self.in_the_end_nothing_is_lost()
        finally:
            logging.getLogger("tokens").removeHandler(self.errors)
            for entry in self.spooled():
                spool.remove(entry)
            tenants = {person.tenant_id for person in self.people}
            OAuthCredential.objects.filter(tenant_id__in=tenants).delete()
            with handouts._lock:
                handouts._counts.clear()
                handouts._last_used.clear()
            for memory in (keyring, epoch, outside, spool):
                memory.forget()

    def in_the_end_nothing_is_lost(self) -> None:
        """Once all is well again, every login that could be kept is held and refreshed."""
        self.books.clear_faults()
        while self.holders:
            self.wake(self.holders.pop(0), None)
        replay()
        assert not self.spooled()
        self.everything_holds()
        for person in self.people:
            row = self.rows.get(person.place)
            if row is None or person.revoked or person.login is None:
                continue
            last = self.books.last_rotation.get(person.login)
            if last is None or last.reached_the_vault:
                assert row.refresh_token == person.login.refresh_token, (
                    f"{person.name}: the only valid refresh token is gone"
                )
        for person in self.people:
            self.suspend_or_resume(person.place, on=False, everybody=True)
            self.suspend_or_resume(person.place, on=False, everybody=False)
        then = dict(self.rows)
        for seconds in (40_000, 400, 400, 400):
            self.time_passes(seconds)
            self.sweep(None)
            self.everything_holds()
            left = OAuthCredential.objects.exclude(lease_id=None)
            if not left.exists() and not OAuthCredential.objects.due(now=self.now()).exists():
                break
        for place, row in self.rows.items():
            self.check_end(self.people[place], row, then[place])

    def check_end(self, person: Person, row: Row, then: Row) -> None:
        credential = row.credential
        if person.revoked or row.refresh_token is None:
            return
        assert person.login is not None
        alive = self.books.is_alive(person.login)
        if credential.standing == Standing.ACTIVE:
            assert alive, f"{person.name}: a lost login is not called one"
            assert credential.generation > then.credential.generation, "it is refreshed no more"
            assert credential.unanswered_presentations == 0
            assert row.refresh_token == person.login.refresh_token
        else:
            assert self.sentence(credential)

    def sentence(self, credential: OAuthCredential) -> bool:
        """Whether a lost login is said to be one, and what to do about it."""
        return "Sign in to Claude again" in (describe_problem(credential, now=self.now()) or "")

    # ── how it is done ──────────────────────────────────────────────────────────────────

    def now(self) -> float:
        return time.time() + float(settings.CLOCK_OFFSET)

    def tenant(self, person: Person) -> Tenant:
        return Tenant.objects.get(pk=person.tenant_id)

    def is_stopped(self, person: Person) -> bool:
        """Whether nothing comes in for anybody of this person's tenant."""
        return self.tenant(person).suspended_at is not None

    def store(self, person: Person, login: Login) -> None:
        file = login.credentials_file()
        if login.refresh_token is None:
            del file["claudeAiOauth"]["refreshToken"]
        now = clock.now()
        import_credential(
            tenant=self.tenant(person),
            user_id=person.user_id,
            offered=parse_credentials(file, now=now),
            actor="test",
            now=now,
        )

    def take_over(self, person: Person, family: Family) -> bool:
        """Whether this login is now the person's in the vault; the one before may end."""
        row = self.row_of(person)
        if row is None or self.books.family_of(row.access_token) is not family:
            return False
        if person.login is not None and person.login is not family:
            self.ended.add(person.login)
        person.login, person.revoked = family, False
        return True

    def row_of(self, person: Person) -> Row | None:
        return self.rows_of([person]).get(person.place)

    def rows_of(self, people: list[Person]) -> dict[int, Row]:
        places = {(person.tenant_id, person.user_id): person.place for person in people}
        found = {}
        for credential in OAuthCredential.objects.filter(
            tenant_id__in={person.tenant_id for person in people}
        ).select_related("tenant", "data_key"):
            place = places.get((credential.tenant_id, credential.user_id))
            if place is not None:
                access = refresh = None
                if credential.access_token_encrypted is not None:
                    access = sealing.open_access_token(credential).reveal()
                if credential.refresh_token_encrypted is not None:
                    refresh = sealing.open_refresh_token(credential).reveal()
                found[place] = Row(credential, access, refresh)
        return found

    def comes(self, who: int, later: int, fault: Met) -> None:
        """Some time later somebody's next request meets a fault, or none."""
        self.sound = False
        if later:
            self.time_passes(later)
        if fault is not None:
            name, changes = fault
            self.books.arm(self.people[who].name, name, **changes)

    def refresh_row(self, row: Row) -> Outcome | None:
        return refresh(
            tenant_id=row.credential.tenant_id,
            credential_id=row.credential.pk,
            cause=Cause.DEMAND,
            actor="test",
        )

    def claim(self, who: int, cause: Cause) -> Claim | None:
        """As `refresh` does it."""
        row = self.rows.get(who)
        if row is None:
            return None
        where = {"tenant_id": row.credential.tenant_id, "credential_id": row.credential.pk}
        if replay_for(**where):
            return None
        with suppress(VaultError), self.asking():
            return claim_credential(**where, cause=cause, actor="test", generation=None)
        return None

    def ask_without_saving(self, who: int, cause: Cause) -> Holder | None:
        claim = self.claim(who, cause)
        if claim is None:
            return None
        answer, tries = present(claim)
        return Holder(claim, answer, tries, self.read_the_books(known=False))

    def wake(self, holder: Holder, trouble: Trouble | None) -> None:
        """The answer is saved, or lies in the spool."""
        holds = OAuthCredential.objects.filter(lease_id=holder.claim.lease_id).exists()
        with self.in_trouble(trouble):
            outcome = save_answer(holder.claim, holder.answer, tries=holder.tries, latency_ms=1)
            assert trouble is not None or outcome is not Outcome.NOT_SAVED
        for presentation in holder.presentations:
            presentation.known = True
            presentation.disbelieved = presentation.said is Said.ENDED and not holds
            if outcome is Outcome.NOT_SAVED:
                presentation.governs_until = 0.0
            self.learn(presentation)

    def read_the_books(self, *, known: bool = True) -> list[Presentation]:
        """Those since the last look. ``known`` False: of one claim whose holder tells nobody;
        what it was answered before its last try it knew itself."""
        found = self.books.presentations(offset=settings.CLOCK_OFFSET)
        if found:
            found[-1].known = known
        for presentation in found:
            self.note(presentation)
        return found[-1:]

    def spooled(self) -> list[spool.Entry]:
        return spool.entries(epoch.vault_id())

    def patience(self, person: Person, wait: float) -> float:
        """Nobody waits for a process that has died."""
        dead = RefreshAttempt.objects.filter(
            tenant_id=person.tenant_id,
            credential__user_id=person.user_id,
            outcome=Outcome.IN_FLIGHT,
            started_at__gt=clock.now() - 60,
        ).exists()
        return 0.0 if dead else wait

    @contextmanager
    def asking(self) -> Iterator[None]:
        """A refusal is a fair answer, but for those that nothing here has given cause for."""
        try:
            yield
        except (EncryptionError, Quarantined, StoreUnavailable) as refusal:
            raise AssertionError(repr(refusal)) from refusal
        finally:
            while flight._begun:
                time.sleep(0.002)

    @contextmanager
    def in_trouble(self, trouble: Trouble | None) -> Iterator[None]:
        if trouble is None:
            yield
            return
        with suppress(DatabaseError), trouble.strikes():
            yield


@pytest.fixture
def _its_own_settings(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Pauses of milliseconds, Celery without a broker, and settings that end with the test."""
    for name in ("CLOCK_OFFSET", "SPOOL_AFTER", "REDIS_URL", "CLAUDE_OAUTH_MAX_RETRIES"):
        # Changed from here on without the fixture, which keeps every change in a layer of
        # its own.
        setattr(settings, name, getattr(settings, name))
    monkeypatch.setattr("tokens.refresh.ask._RETRY_UNIT", 0.002)
    monkeypatch.setattr("tokens.refresh.save.PATIENCE", 0.02)
    monkeypatch.setattr(
        "tokens.refresh.save.random", SimpleNamespace(uniform=lambda least, most: 0.004)
    )
    app.conf.task_always_eager = True
    yield
    app.conf.task_always_eager = False


@pytest.mark.timeout(120 + GAMES * STEPS // 10)
@pytest.mark.usefixtures("_its_own_settings")
def test_no_token_is_spent_twice_misplaced_or_lost(upstream: Simulator) -> None:
    RefreshMachine.simulator = upstream
    run_state_machine_as_test(
        RefreshMachine,
        settings=hypothesis.settings(
            max_examples=GAMES,
            stateful_step_count=STEPS,
            deadline=None,
            # Without shrinking, which takes minutes: the steps are printed as they were.
            phases=[
                hypothesis.Phase.explicit,
                hypothesis.Phase.reuse,
                hypothesis.Phase.generate,
            ],
            suppress_health_check=list(hypothesis.HealthCheck),
        ),
    )
