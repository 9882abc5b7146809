"""One refresh for each way in which the far side misbehaves: `python -m bench.reliability.faults`,
which has Django loaded. One line of JSON goes out for each fault.

Each fault meets a fresh person, whose access token is alive, and an address of the token
endpoint that nothing is known of. After the first refresh the fault is gone, time passes, and the
vault does what its sweep does: settle, and refresh again if that is still to be done.
"""

import json
import sys
import time
from dataclasses import asdict, dataclass, field

from bench.reliability import vault_process

vault_process.load()

# What follows needs Django, and can be imported only when it is loaded: hence each E402.
from django.conf import settings  # noqa: E402

from bench.reliability.cases import CASES, KILLED, SHORT_DEADLINE, Case, Expected  # noqa: E402
from bench.reliability.forked import Forked  # noqa: E402
from bench.reliability.progress import Progress  # noqa: E402
from tests.simulator import RemoteSimulator, simulator_process  # noqa: E402
from tokens import clock, isolation, sealing  # noqa: E402
from tokens.diagnosis import describe_problem  # noqa: E402
from tokens.errors import VaultError  # noqa: E402
from tokens.models import Cause, OAuthCredential, Standing, Tenant  # noqa: E402
from tokens.refresh import refresh  # noqa: E402
from tokens.refresh.abandoned import settle_abandoned  # noqa: E402
from tokens.tenants import ensure_default_tenant  # noqa: E402

# Longer than every lease, back-off and patience, shorter than a login's life; in seconds.
TIME_PASSES = 2000.0
# Seconds by which a lifetime may have shrunk since the answer.
_SLACK = 5


@dataclass(frozen=True, kw_only=True)
class Row:
    """What came of a fault. ``again_in``: seconds until the vault tries again by itself,
    None for never. ``served``: whether the token that was alive is still handed out.
    ``lives_for``: the seconds for which the token held after the first refresh is believed."""

    name: str
    first: str
    standing: str
    status: str
    calls: int
    served: bool
    lives_for: int
    reads: str | None
    again_in: int | None
    then: str | None
    then_standing: str
    then_reads: str | None
    presentations: int
    reuse: int
    alive: bool
    wrong: list[str] = field(default_factory=list)


def run(case: Case, number: int, upstream: RemoteSimulator, tenant: Tenant) -> Row:
    user = f"person-{number}"
    # The vault knows an authorization server by its address: this one has no history.
    settings.CLAUDE_OAUTH_TOKEN_URL = f"{upstream.token_url}?{number}"
    login = upstream.new_login(user, expires_in=250)
    credential = vault_process.store(tenant, user, login, now=clock.now())
    case.arm(upstream, user)
    first = _killed(credential, upstream) if case is KILLED else _refresh(credential)
    calls = upstream.counts_of(user).token_calls

    now = clock.now()
    after = _reread(credential)
    served, reads = after.is_usable(now=now), describe_problem(after, now=now)
    again_in = None
    in_trouble = after.problem or after.unanswered_presentations
    if in_trouble and after.refresh_due_at is not None:
        again_in = max(0, round(after.refresh_due_at - now))
    upstream.clear_faults()
    upstream.perform("configure", access_token_lifetime=28_800, latency_after_ms=0)
    settings.CLOCK_OFFSET = TIME_PASSES
    upstream.advance_clock(TIME_PASSES)
    settle_abandoned(now=clock.now())
    then = _refresh(credential)
    end = _reread(credential)
    login = upstream.current_login(user)
    counts = upstream.counts_of(user)
    row = Row(
        name=case.name,
        first=first or "nothing",
        standing=after.standing,
        status=after.status(now=now),
        calls=calls,
        served=served,
        lives_for=after.expires_in(now=now),
        reads=reads,
        again_in=again_in,
        then=then,
        then_standing=end.standing,
        then_reads=describe_problem(end, now=clock.now()),
        presentations=_most_presentations(upstream, user),
        reuse=counts.reuse,
        alive=login.alive
        and end.standing == Standing.ACTIVE
        and sealing.open_refresh_token(end).reveal() == login.refresh_token,
    )
    settings.CLOCK_OFFSET = 0.0
    upstream.advance_clock(-TIME_PASSES)
    return Row(**{**asdict(row), "wrong": _wrong(row, case.expected)})


def _refresh(credential: OAuthCredential) -> str | None:
    try:
        outcome = refresh(
            tenant_id=credential.tenant_id,
            credential_id=credential.pk,
            cause=Cause.SWEEP,
            actor="scheduler",
        )
    except VaultError as refusal:
        return refusal.code
    return None if outcome is None else str(outcome)


def _killed(credential: OAuthCredential, upstream: RemoteSimulator) -> str:
    """Refresh in a child, kill it as soon as the server has rotated: what the record says."""
    before = upstream.counts.refreshed
    child = Forked(lambda say: say(_refresh(credential)))
    ends = time.monotonic() + 10
    while upstream.counts.refreshed == before and time.monotonic() < ends:
        time.sleep(0.01)
    child.kill()
    child.ended()
    last = credential.attempts.first()
    return "nothing" if last is None else str(last.outcome)


def _reread(credential: OAuthCredential) -> OAuthCredential:
    return OAuthCredential.objects.select_related("tenant", "data_key").get(pk=credential.pk)


def _most_presentations(upstream: RemoteSimulator, user: str) -> int:
    """Of one refresh token, as far as an answer did not ask for more."""
    presented = [one.token for one in upstream.requests if one.user == user and one.token]
    return max((presented.count(token) for token in presented), default=0)


def _wrong(row: Row, expected: Expected) -> list[str]:
    """What is not as it should be, in words; nothing if all is."""
    wrong = []
    for what, found, wanted in (
        ("the refresh ended", row.first, expected.first),
        ("the credential stands", row.standing, expected.standing),
        ("upstream calls", row.calls, expected.calls),
        ("the next refresh ended", row.then, expected.then),
    ):
        if found != wanted:
            wrong.append(f"{what}: {found}, expected {wanted}")
    if row.first != "refreshed" and not row.reads and row.first != "in_flight":
        wrong.append("the person reads nothing")
    if expected.lives_for is not None and abs(row.lives_for - expected.lives_for) > _SLACK:
        wrong.append(f"the token counts for {row.lives_for} s, expected {expected.lives_for}")
    if not row.served:
        wrong.append("the token that was alive is no longer handed out")
    if row.then == "refreshed" and not row.alive:
        wrong.append("the pair that is held is not the server's")
    return wrong


@isolation.every_tenant()
def main() -> None:
    # No option yet; the line says that somebody listens.
    json.loads(sys.stdin.readline())
    usual = settings.REFRESH_DEADLINE
    # First, because a fork wants a parent that has done little.
    cases = [KILLED, *CASES]
    with simulator_process() as upstream, Progress("faults", total=len(cases)) as progress:
        tenant = ensure_default_tenant(now=clock.now())
        rows = []
        for number, case in enumerate(cases):
            settings.REFRESH_DEADLINE = SHORT_DEADLINE if case.hangs else usual
            rows.append(run(case, number, upstream, tenant))
            progress.step(case.name)
        print(json.dumps({"rows": [asdict(row) for row in [*rows[1:], rows[0]]]}), flush=True)


if __name__ == "__main__":
    main()
