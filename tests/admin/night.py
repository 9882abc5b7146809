"""A night on which somebody calls: two teams at seven past two, UTC, most of whom can work.

For the pictures of docs/operations.md (screenshots.py): who and what is the same each time.
"""

import random
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime

from api.keys import create_key
from tests.admin.canaries import Canaries
from tokens import vault, workers
from tokens.credential_file import parse_credentials
from tokens.importing import import_credential
from tokens.models import (
    Cause,
    HandOut,
    Heartbeat,
    OAuthCredential,
    Outcome,
    Problem,
    RefreshAttempt,
    Standing,
    Tenant,
    TenantStatistics,
)
from tokens.tenants import create_tenant
from tokens.trail.seal import seal_due

NOW = datetime(2026, 12, 1, 2, 7, tzinfo=UTC).timestamp()
_HOUR, _DAY = 3600, 86_400
_OUTCOMES = {
    Problem.ROTATED_ELSEWHERE: Outcome.INVALID_GRANT,
    Problem.LOGIN_ENDED: Outcome.INVALID_GRANT,
    Problem.UPSTREAM_UNAVAILABLE: Outcome.UNREACHABLE,
}
_IMPORT = "command import_credentials by root"


@dataclass(frozen=True, kw_only=True)
class Night:
    acme: Tenant
    globex: Tenant
    bob: OAuthCredential


def fall() -> Night:
    """Nothing may be there yet; everything is as of `NOW`."""
    # The same each time, and nothing secret.
    dice = random.Random(7)
    acme = create_tenant(slug="acme", name="Acme", actor=_IMPORT, now=NOW - 40 * _DAY)
    globex = create_tenant(slug="globex", name="Globex", actor=_IMPORT, now=NOW - 38 * _DAY)
    Tenant.objects.update(created_at=datetime.fromtimestamp(NOW - 40 * _DAY, UTC))
    keys = {
        tenant: create_key(
            tenant=tenant, label=f"LiteLLM of {tenant.slug}", actor="operator olivia",
            now=NOW - 20 * _DAY,
        ).row.prefix
        for tenant in (acme, globex)
    }  # fmt: skip
    people = [_person(tenant, name, **how) for tenant, name, how in _people(acme, globex)]
    vault.suspend(
        tenant=acme, user_id="carla", actor="operator gunnar", now=NOW - 2 * _DAY - 5 * _HOUR
    )
    vault.revoke(tenant=globex, user_id="nils", actor="operator olivia", now=NOW - 3 * _DAY)
    for person in people:
        _live(person, f"key {keys[person.tenant]}", dice)
    for tenant, succeeded, failed in ((acme, 1840, 31), (globex, 911, 9)):
        TenantStatistics.objects.update_or_create(
            tenant=tenant,
            defaults={"refreshes_succeeded": succeeded, "refreshes_failed": failed,
                      "auth_failures": 3},
        )  # fmt: skip
    Heartbeat.objects.update_or_create(part="scheduler", defaults={"at": NOW - 7})
    workers.beat("worker here", now=NOW - 4)
    seal_due(now=NOW - 60)
    return Night(acme=acme, globex=globex, bob=next(p for p in people if p.user_id == "bob"))


def _people(acme: Tenant, globex: Tenant) -> list[tuple[Tenant, str, dict[str, object]]]:
    now = int(NOW)
    lost = {"standing": Standing.REAUTHORIZATION_REQUIRED, "refresh_due_at": None}
    return [
        (acme, "alice", {"ends": 5 * _HOUR, "last_used": now - 40}),
        (acme, "bob", {"ends": -66 * 60, "last_used": now - 85 * 60, **lost,
                       "problem": Problem.ROTATED_ELSEWHERE, "problem_at": now - 83 * 60}),
        (acme, "carla", {"ends": 2 * _HOUR, "last_used": now - 3 * _DAY}),
        (acme, "dora", {"ends": -600, "renewable": False, "last_used": now - 700}),
        (acme, "erik", {"ends": -30, "problem": Problem.UPSTREAM_UNAVAILABLE,
                        "problem_at": now - 70, "consecutive_failures": 3,
                        "refresh_due_at": now + 50, "last_used": now - 35}),
        (acme, "frida", {"ends": 1800, **lost, "problem": Problem.LOGIN_ENDED,
                         "problem_at": now - 300, "last_used": now - 12}),
        (acme, "gustav", {"ends": 5 * _DAY, "renewable": False, "last_used": now - 2 * _HOUR}),
        (acme, "henrik", {"ends": 3 * _HOUR, "last_used": now - 9}),
        (globex, "ida", {"ends": 900, "last_used": now - 4,
                         "login_expires_at": now + 2 * _DAY}),
        (globex, "judith", {"ends": 4 * _HOUR, "last_used": now - 60}),
        (globex, "kalle", {"ends": 6 * _HOUR, "last_used": now - 6 * _HOUR}),
        (globex, "lotta", {"ends": 7 * _HOUR, "last_used": now - 15}),
        (globex, "mats", {"ends": 2 * _HOUR, "last_used": now - 31}),
        (globex, "nils", {"ends": 2 * _HOUR}),
    ]  # fmt: skip


def _person(
    tenant: Tenant, name: str, *, ends: int, renewable: bool = True, **row: object
) -> OAuthCredential:
    imported, canaries = NOW - 9 * _DAY, Canaries()
    file = {"accessToken": canaries.token("oat01"), "expiresAt": int(NOW) + ends}
    if renewable:
        file["refreshToken"] = canaries.token("ort01")
    credential = import_credential(
        tenant=tenant, user_id=name, offered=parse_credentials(file, now=imported),
        actor=_IMPORT, now=imported,
    ).credential  # fmt: skip
    at = datetime.fromtimestamp(imported, UTC)
    row.setdefault("refresh_due_at", int(NOW) + max(ends - 300, 60) if renewable else None)
    OAuthCredential.objects.filter(pk=credential.pk).update(
        created_at=at, updated_at=at, expires_at=int(NOW) + ends, refresh_count=27, generation=28,
        last_refreshed_at=int(NOW) + ends - 8 * _HOUR, **row,
    )  # fmt: skip
    credential.refresh_from_db()
    return credential


def _live(person: OAuthCredential, key: str, dice: random.Random) -> None:
    """The refreshes of three days, and the hand-outs of the last hours."""
    last = person.last_refreshed_at or NOW
    attempts = [(27 - back, last - 8 * _HOUR * back, Outcome.REFRESHED) for back in range(9)]
    if person.problem:
        attempts.append((28, person.problem_at or NOW, _OUTCOMES[Problem(person.problem)]))
    RefreshAttempt.objects.bulk_create(
        RefreshAttempt(
            tenant=person.tenant, credential=person, cause=Cause.SWEEP, actor="scheduler",
            lease_id=uuid.UUID(int=dice.getrandbits(128)), generation=generation,
            started_at=at, ended_at=at + 0.5, outcome=outcome, tries=1,
            upstream_status={Outcome.REFRESHED: 200, Outcome.INVALID_GRANT: 400}.get(outcome),
            latency_ms=dice.randint(280, 900),
        )
        for generation, at, outcome in attempts
        if at <= NOW
    )  # fmt: skip
    if person.last_used is None:
        return
    last_minute = person.last_used // 60
    minutes = {last_minute, *(last_minute - dice.randint(0, 150) for _ in range(40))}
    HandOut.objects.bulk_create(
        HandOut(
            tenant=person.tenant, credential=person, actor=key, minute=minute,
            count=dice.randint(1, 9),
        )
        for minute in sorted(minutes)
    )  # fmt: skip
