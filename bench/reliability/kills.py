"""kill -9 in the middle of refreshes: `python -m bench.reliability.kills`, which has Django loaded
and no thread, so that it can fork. Options come in as a line of JSON, results go out as one.

A round has a person of its own. A child refreshes that person's credential again and
again, through the one `refresh()` that the sweep calls; it is killed at a moment that is
spread evenly over three refreshes, so that every stage is hit. Then time passes, and another
child settles what was abandoned and refreshes again, as a sweep does. In one round of four
that child is killed as well.
"""

import json
import random
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from bench.reliability import figures, vault_process

vault_process.load()

# What follows needs Django, and can be imported only when it is loaded: hence each E402.
from django.conf import settings  # noqa: E402

from bench.reliability.far_side import Moment, moments_of, timed_simulator  # noqa: E402
from bench.reliability.forked import Forked, Say  # noqa: E402
from bench.reliability.progress import Progress  # noqa: E402
from tests.simulator import RemoteSimulator  # noqa: E402
from tokens import clock, isolation, sealing  # noqa: E402
from tokens.diagnosis import describe_problem  # noqa: E402
from tokens.models import Cause, OAuthCredential, Outcome, Standing, Tenant  # noqa: E402
from tokens.refresh import refresh  # noqa: E402
from tokens.refresh.abandoned import settle_abandoned  # noqa: E402
from tokens.tenants import ensure_default_tenant  # noqa: E402

# Longer than a lease and all the patience after it, in seconds of both clocks.
TIME_PASSES = 240.0
MOST_LATENCY_MS = 40
STAGES = ("idle", "claimed", "sent", "rotated", "saved")
_KILLED_TWICE = 0.25
_CALIBRATION = 12
# The server adds its jitter only to a latency that is not zero.
_SOME = 0.01
# Seconds in which the server has finished whatever it was asked.
_AFTERMATH = 0.02 + 2 * MOST_LATENCY_MS / 1000


@dataclass(frozen=True, kw_only=True)
class Killed:
    """Counts over all rounds, and times in milliseconds.

    ``stages``: where the first kill of each round hit. idle: nothing was claimed yet.
    claimed: nothing of the refresh had reached the server. sent: the server had the request,
    and rotated a moment after the kill. rotated: it had rotated, and the new pair was not
    saved. saved: the refresh was complete.

    ``lost``: logins whose living refresh token the vault does not have; ``given_up``: logins
    that it has and no longer uses. ``lost_by_stage``: the logins lost, by the stage of the
    kill that cost the pair. ``window``: from the rotation to the return of `refresh`;
    ``own``: the part of it after the answer left the server.
    """

    rounds: int
    killed_twice: int
    stages: dict[str, int]
    lost: int
    lost_by_stage: dict[str, int]
    lost_outside: int
    diagnosed: int
    silent: int
    given_up: int
    most_presentations: int
    reuse: int
    refreshes: int
    window_p50_ms: float
    window_p99_ms: float
    own_p50_ms: float
    own_p99_ms: float
    problems: dict[str, int] = field(default_factory=dict)


class _Rounds:
    def __init__(self, upstream: RemoteSimulator, tenant: Tenant) -> None:
        self._upstream = upstream
        self._tenant = tenant
        self._span = 0.0
        self.stages = Counter[str]()
        self.lost_by_stage = Counter[str]()
        self.problems = Counter[str]()
        self.done = self.killed_twice = self.lost = self.outside = 0
        self.diagnosed = self.silent = self.given_up = self.most_presentations = self.reuse = 0
        self.windows: list[float] = []
        self.own: list[float] = []

    def calibrate(self) -> None:
        """How long a refresh takes here, so that the kills can be spread over three of them.

        Taken in the parent, so that its children begin as warm as a worker that has run
        for a while: with everything imported, and the keys at hand.
        """
        _, credential = self._new_person("calibration")
        taken = []
        for _ in range(_CALIBRATION):
            began = time.monotonic()
            refresh(
                tenant_id=self._tenant.pk,
                credential_id=credential.pk,
                cause=Cause.SWEEP,
                actor="scheduler",
            )
            taken.append(time.monotonic() - began)
        self._span = 3 * figures.percentile(taken, 0.5)

    def round(self) -> None:
        self.done += 1
        user, credential = self._new_person(f"person-{self.done}")
        stage, cost_the_pair = self._kill(user, credential)
        self.stages[stage] += 1
        lost_in = stage if cost_the_pair else None
        self._let_time_pass()
        if random.random() < _KILLED_TWICE:
            self.killed_twice += 1
            stage, cost_the_pair = self._kill(user, credential)
            lost_in = lost_in or (stage if cost_the_pair else None)
            self._let_time_pass()
        end = Forked(_finish(credential.pk)).ended()
        if not end:
            raise AssertionError("the child that was not killed said nothing")
        self._judge(user, end[0], lost_in)

    def result(self) -> Killed:
        return Killed(
            rounds=self.done,
            killed_twice=self.killed_twice,
            stages={stage: self.stages[stage] for stage in STAGES},
            lost=self.lost,
            lost_by_stage={stage: self.lost_by_stage[stage] for stage in STAGES},
            lost_outside=self.outside,
            diagnosed=self.diagnosed,
            silent=self.silent,
            given_up=self.given_up,
            most_presentations=self.most_presentations,
            reuse=self.reuse,
            refreshes=len(self.windows),
            window_p50_ms=figures.milliseconds(self.windows, 0.5),
            window_p99_ms=figures.milliseconds(self.windows, 0.99),
            own_p50_ms=figures.milliseconds(self.own, 0.5),
            own_p99_ms=figures.milliseconds(self.own, 0.99),
            problems=dict(self.problems),
        )

    def _new_person(self, user: str) -> tuple[str, OAuthCredential]:
        login = self._upstream.new_login(user, expires_in=60)
        return user, vault_process.store(self._tenant, user, login, now=clock.now())

    def _let_time_pass(self) -> None:
        settings.CLOCK_OFFSET += TIME_PASSES
        self._upstream.advance_clock(TIME_PASSES)

    def _kill(self, user: str, credential: OAuthCredential) -> tuple[str, bool]:
        """Kill a child that refreshes. The stage that was hit, and whether the server rotated
        for a refresh whose answer was never saved."""
        seen_before = len(moments_of(self._upstream, user))
        attempts_before = credential.attempts.count()
        child = Forked(_refresh_for_ever(self._tenant.pk, credential.pk))
        child.hear()
        time.sleep(random.uniform(0, self._span))
        killed_at = time.monotonic()
        child.kill()
        said = child.ended()
        # The server finishes what it was asked, the database what it was told.
        time.sleep(_AFTERMATH)
        moments = moments_of(self._upstream, user)[seen_before:]
        self._time_windows(said, moments)

        attempts = credential.attempts.count() - attempts_before
        last = credential.attempts.first()
        if not attempts or last is None or last.outcome != Outcome.IN_FLIGHT:
            return ("saved" if attempts else "idle"), False
        arrived = [one for one in moments if one.what == "token_calls"]
        if len(arrived) < attempts:
            return "claimed", False
        done = [one for one in moments if one.what in ("refreshed", "reuse", "invalid")][-1]
        return ("rotated" if done.at <= killed_at else "sent"), done.what == "refreshed"

    def _time_windows(self, said: list[dict[str, Any]], moments: list[Moment]) -> None:
        """From the rotation, and from the answer, to the return of `refresh`."""
        rotated = [one.at for one in moments if one.what == "refreshed"]
        answered = [one.at for one in moments if one.what == "answered"]
        saved = [one["at"] for one in said if one["outcome"] == Outcome.REFRESHED]
        if len(rotated) == len(answered):  # all of them granted: they pair up
            self.windows += [end - at for at, end in zip(rotated, saved, strict=False)]
            self.own += [end - at for at, end in zip(answered, saved, strict=False)]

    def _judge(self, user: str, end: dict[str, Any], lost_in: str | None) -> None:
        login = self._upstream.current_login(user)
        if login.alive and end["refresh_token"] == login.refresh_token:
            self.given_up += end["standing"] != Standing.ACTIVE
        else:
            self.lost += 1
            self.lost_by_stage[lost_in or "none"] += 1
            self.outside += lost_in is None
            told = end["standing"] == Standing.REAUTHORIZATION_REQUIRED and end["problem"]
            self.diagnosed += bool(told)
            self.silent += not told
            if told:
                self.problems[end["problem_kind"]] += 1
        presented = Counter(
            one.token for one in moments_of(self._upstream, user) if one.what == "answered"
        )
        self.most_presentations = max(self.most_presentations, *presented.values(), 0)
        self.reuse += self._upstream.counts_of(user).reuse


def _refresh_for_ever(tenant_id: int, credential_id: int) -> Callable[[Say], None]:
    """As tokens.tasks does for one that is due, and at once again."""

    def work(say: Say) -> None:
        _generation(credential_id)  # connected, before the clock runs
        say("ready")
        while True:
            outcome = refresh(
                tenant_id=tenant_id,
                credential_id=credential_id,
                generation=_generation(credential_id),
                cause=Cause.SWEEP,
                actor="scheduler",
            )
            say({"outcome": outcome, "at": time.monotonic()})
            if outcome is None:
                time.sleep(0.005)

    return work


def _finish(credential_id: int) -> Callable[[Say], None]:
    """As a sweep does after the lease: settle, refresh what is left; then the end of it."""

    def work(say: Say) -> None:
        settle_abandoned(now=clock.now())
        credential = OAuthCredential.objects.get(pk=credential_id)
        refresh(
            tenant_id=credential.tenant_id,
            credential_id=credential_id,
            generation=credential.generation,
            cause=Cause.SWEEP,
            actor="scheduler",
        )
        credential = OAuthCredential.objects.select_related("tenant", "data_key").get(
            pk=credential_id
        )
        say(
            {
                "standing": credential.standing,
                "problem_kind": credential.problem,
                "problem": describe_problem(credential, now=clock.now()),
                "refresh_token": sealing.open_refresh_token(credential).reveal(),
            }
        )

    return work


def _generation(credential_id: int) -> int:
    return OAuthCredential.objects.values_list("generation", flat=True).get(pk=credential_id)


@isolation.every_tenant()
def main() -> None:
    rounds = int(json.loads(sys.stdin.readline())["rounds"])
    with (
        timed_simulator() as upstream,
        Progress("kill -9", total=rounds) as progress,
    ):
        settings.CLAUDE_OAUTH_TOKEN_URL = upstream.token_url
        upstream.perform(
            "configure",
            latency_ms=_SOME,
            latency_after_ms=_SOME,
            latency_jitter_ms=MOST_LATENCY_MS,
        )
        killing = _Rounds(upstream, ensure_default_tenant(now=clock.now()))
        killing.calibrate()
        for _ in range(rounds):
            killing.round()
            progress.step(f"{killing.lost} logins lost")
        print(json.dumps(asdict(killing.result())), flush=True)


if __name__ == "__main__":
    main()
