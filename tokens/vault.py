"""What the world may ask of the vault. One function per question, the tenant always first.

Nothing here enqueues and nothing here knows HTTP: a view, a task or a command reads the
clock, asks once, and shapes the answer. `now` is Unix seconds.
"""

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from django.conf import settings
from django.db import transaction

from tokens import (
    audit,
    clock,
    flight,
    handouts,
    isolation,
    oauth_client,
    sealing,
    statistics,
)
from tokens.diagnosis import describe_problem
from tokens.errors import (
    EncryptionError,
    NoRefreshToken,
    NoToken,
    Quarantined,
    RateLimited,
    ReauthorizationRequired,
    RefreshInProgress,
    Revoked,
    Suspended,
    TenantSuspended,
    TokenExpired,
    UnknownGeneration,
    UpstreamError,
    UpstreamRateLimited,
    UpstreamUnavailable,
    VaultError,
)
from tokens.keyring import fingerprint
from tokens.models import (
    Cause,
    OAuthCredential,
    Problem,
    Standing,
    Tenant,
    TokenFingerprint,
    TokenKind,
)
from tokens.prepared import Prepared
from tokens.refresh import gate
from tokens.refresh.claim import refuse_second_forced_refresh
from tokens.refresh.schedule import FLOOR
from tokens.secret import AccessToken, RefreshToken

LONGEST_WAIT = 10.0
# Seconds in which one success, or one failure, answers every demand.
_DEMAND_FLOOR = 10.0
# Seconds by which those who were told to come back after a 429 come apart.
_APART = 3.0


@dataclass(frozen=True, kw_only=True)
class HandOut:
    """An access token for one request, and whether its refresh is due meanwhile."""

    credential: OAuthCredential
    access_token: AccessToken
    expires_at: int
    generation: int
    refresh_due: bool


@dataclass(frozen=True, kw_only=True)
class Revocation:
    """``upstream``: revoked, not_configured or failed. ``lives_until``: the Unix time at
    which a token that was handed out before ends at the latest."""

    upstream: str
    lives_until: int


@dataclass(frozen=True, kw_only=True)
class Identity:
    user_id: str
    generation: int
    expires_at: int


@isolation.of_its_tenant
def describe(*, tenant: Tenant, user_id: str) -> OAuthCredential | None:
    """The stored credential for a status page, without opening anything; None: nothing stored."""
    _refuse_suspended(tenant)
    return _find(tenant, user_id)


@isolation.of_its_tenant
def issue_access_token(
    *, tenant: Tenant, user_id: str, actor: str, wait: float = LONGEST_WAIT, now: float
) -> HandOut:
    """The user's living access token.

    A token near its end comes at once, and ``refresh_due`` says that a refresh should be
    begun behind it. Past its end the caller waits up to ``wait`` seconds for the one
    refresh. Raises the VaultError that says why there is none.
    """
    with _refusals_counted(tenant):
        return _issue(tenant=tenant, user_id=user_id, actor=actor, wait=wait, now=now)


@isolation.of_its_tenant
def refresh_now(
    *,
    tenant: Tenant,
    user_id: str,
    actor: str,
    wait: float = LONGEST_WAIT,
    now: float,
) -> OAuthCredential:
    """Ask upstream for a new pair. One refresh under way serves all who ask, and a success
    or a failure of the last ten seconds answers too."""
    _refuse_suspended(tenant)
    credential = _find(tenant, user_id)
    if credential is None or credential.standing == Standing.REVOKED:
        raise NoToken("No OAuth token found")
    just_now = credential.last_refreshed_at is not None and (
        abs(now - credential.last_refreshed_at) <= _DEMAND_FLOOR
    )
    if just_now and credential.is_usable(now=now):
        return credential
    _refuse_unrefreshable(credential, now=now)
    _refuse_after_a_failure(credential, now=now)
    return _await_refresh(credential, cause=Cause.DEMAND, actor=actor, wait=wait, now=now)


@isolation.of_its_tenant
def report_rejected(
    *,
    tenant: Tenant,
    user_id: str,
    generation: int,
    actor: str,
    wait: float = LONGEST_WAIT,
    now: float,
) -> HandOut:
    """Upstream answered 401 to ``generation``: a newer token if there is one, else after one
    refresh. The server is the authority on a token's life. UnknownGeneration for one that
    never was."""
    with _refusals_counted(tenant):
        return _replace_rejected(
            tenant=tenant,
            user_id=user_id,
            generation=generation,
            actor=actor,
            wait=wait,
            now=now,
        )


@isolation.of_its_tenant
def revoke(*, tenant: Tenant, user_id: str, actor: str, now: float) -> Revocation:
    """Destroy the sealed tokens; the record and its history stay.

    A refresh under way cannot bring them back. Upstream is told afterwards, as far as
    that goes, and its answer is said. NoToken if there is nothing (or no longer).
    """
    with transaction.atomic():
        credential = (
            OAuthCredential.objects.for_tenant(tenant)
            .select_for_update(of=("self",))
            .filter(user_id=user_id)
            .exclude(standing=Standing.REVOKED)
            .first()
        )
        if credential is None:
            raise NoToken("No OAuth token found")
        token = _token_to_revoke(credential)
        credential.access_token_encrypted = credential.refresh_token_encrypted = None
        credential.data_key = None
        credential.standing = Standing.REVOKED
        credential.generation += 1
        credential.login_since = now
        credential.lease_id, credential.lease_until = None, None
        credential.refresh_due_at = credential.taken_until = credential.announce_at = None
        credential.unanswered_presentations = 0
        credential.problem, credential.problem_at = Problem.NONE, None
        credential.save()
        sealing.retire_fingerprints(credential, now=now)
        audit.record(tenant=tenant, actor=actor, action="revoke", subject=user_id, now=now)
    agreed = oauth_client.revoke(token) if token is not None else False
    upstream = "not_configured"
    if settings.CLAUDE_OAUTH_REVOKE_URL is not None:
        upstream = "revoked" if agreed else "failed"
    return Revocation(upstream=upstream, lives_until=max(credential.expires_at, int(now)))


@isolation.of_its_tenant
def suspend(*, tenant: Tenant, user_id: str, actor: str, now: float) -> None:
    """Hand out nothing and refresh nothing until `resume`. Nothing is lost by it."""
    _set_suspended(tenant, user_id, at=int(now), actor=actor, action="suspend", now=now)


@isolation.of_its_tenant
def resume(*, tenant: Tenant, user_id: str, actor: str, now: float) -> None:
    """End a suspension."""
    _set_suspended(tenant, user_id, at=None, actor=actor, action="resume", now=now)


@isolation.of_its_tenant
def identify(*, tenant: Tenant, access_token: AccessToken) -> Identity:
    """Whose current access token this is, within the tenant. NoToken for any other."""
    _refuse_suspended(tenant)
    entry = (
        TokenFingerprint.objects.filter(
            tenant=tenant,
            kind=TokenKind.ACCESS,
            digest=fingerprint(access_token.reveal()),
            retired_at=None,
        )
        .select_related("credential")
        .first()
    )
    if entry is None or entry.credential.standing == Standing.REVOKED:
        raise NoToken("No OAuth token found")
    return Identity(
        user_id=entry.credential.user_id,
        generation=entry.credential.generation,
        expires_at=entry.credential.expires_at,
    )


def _find(tenant: Tenant, user_id: str) -> OAuthCredential | None:
    credential = _BY_USER.first(tenant_id=tenant.pk, user_id=user_id)
    if credential is not None:
        credential.tenant = tenant
    return credential


_BY_USER = Prepared(
    lambda tenant_id, user_id: (
        OAuthCredential.unscoped.filter(tenant_id=tenant_id, user_id=user_id)
        .order_by()
        .select_related("data_key")
    ),
    stand_ins={"tenant_id": -1, "user_id": "a user"},
)


def _hand_out(credential: OAuthCredential, *, actor: str, now: float) -> HandOut:
    token = sealing.open_access_token(credential)
    handouts.note(credential=credential, actor=actor, now=now)
    return HandOut(
        credential=credential,
        access_token=token,
        expires_at=credential.expires_at,
        generation=credential.generation,
        refresh_due=(
            credential.refreshes_ahead
            and credential.is_due(now=now)
            and credential.can_refresh()
            and not credential.lease_in_force(now=now)
        ),
    )


def _issue(*, tenant: Tenant, user_id: str, actor: str, wait: float, now: float) -> HandOut:
    _refuse_suspended(tenant)
    credential = _find(tenant, user_id)
    if credential is None:
        raise NoToken("No OAuth token found")
    if not credential.is_usable(now=now):
        credential = _refreshed_for_request(credential, actor=actor, wait=wait, now=now)
        now = clock.now()
    return _hand_out(credential, actor=actor, now=now)


def _replace_rejected(
    *, tenant: Tenant, user_id: str, generation: int, actor: str, wait: float, now: float
) -> HandOut:
    _refuse_suspended(tenant)
    credential = _find(tenant, user_id)
    if credential is None or credential.standing == Standing.REVOKED:
        raise NoToken("No OAuth token found")
    if credential.generation > generation:
        return _issue(tenant=tenant, user_id=user_id, actor=actor, wait=wait, now=now)
    is_lost = credential.standing == Standing.REAUTHORIZATION_REQUIRED
    if is_lost and generation == credential.generation:
        _end_what_is_left(credential, actor=actor, now=now)
    _refuse_unrefreshable(credential, now=now)
    if generation > credential.generation:
        # Not an old hook's, and not news of the present token either: nothing is refreshed for it.
        raise UnknownGeneration
    if not flight.is_under_way(tenant_id=tenant.pk, credential_id=credential.pk, since=now):
        try:
            refuse_second_forced_refresh(credential, now=now)
        except RateLimited:
            # The first one may have begun since the row was read, and may even have landed.
            begun = flight.is_under_way(tenant_id=tenant.pk, credential_id=credential.pk, since=now)
            after = _find(tenant, user_id)
            if after is not None and after.generation > generation:
                return _issue(tenant=tenant, user_id=user_id, actor=actor, wait=wait, now=now)
            if not begun:
                raise
        else:
            _note_rejection(credential, actor=actor, now=now)
    credential = _await_refresh(credential, cause=Cause.REJECTED, actor=actor, wait=wait, now=now)
    return _hand_out(credential, actor=actor, now=clock.now())


def _end_what_is_left(credential: OAuthCredential, *, actor: str, now: float) -> None:
    """Of a login that is lost the access token is served until upstream refuses it, and that is
    now: else everybody who asks would be given it, and told 401, until its end."""
    with transaction.atomic():
        ended = (
            OAuthCredential.objects.for_tenant(credential.tenant)
            .filter(
                pk=credential.pk,
                generation=credential.generation,
                standing=Standing.REAUTHORIZATION_REQUIRED,
                expires_at__gt=int(now),
            )
            .update(expires_at=int(now))
        )
        if ended:
            _note_rejection(credential, actor=actor, now=now)


def _note_rejection(credential: OAuthCredential, *, actor: str, now: float) -> None:
    statistics.count_rejection(tenant=credential.tenant)
    audit.record(
        tenant=credential.tenant, actor=actor, action="rejected", subject=credential.user_id,
        now=now, generation=credential.generation,
    )  # fmt: skip


@contextmanager
def _refusals_counted(tenant: Tenant) -> Iterator[None]:
    """Every question for a token is counted once, by what came of it."""
    try:
        yield
    except VaultError as refusal:
        handouts.note_refusal(tenant_id=tenant.pk, code=refusal.code)
        raise


def _refreshed_for_request(
    credential: OAuthCredential, *, actor: str, wait: float, now: float
) -> OAuthCredential:
    """The credential after the refresh that this request needs. Begins one only if
    refreshes ahead are wanted, and not while one that failed a moment ago backs off, nor
    where the token of a moment ago has ended already."""
    if credential.standing == Standing.REVOKED:
        raise Revoked("The credential was revoked.")
    if credential.suspended_at is not None:
        raise Suspended(describe_problem(credential, now=now) or "suspended")
    if credential.standing != Standing.ACTIVE:
        _refuse_unrefreshable(credential, now=now)
    if not credential.has_refresh_token or not credential.refreshes_ahead:
        raise TokenExpired("OAuth token expired. " + (describe_problem(credential, now=now) or ""))
    _refuse_unrefreshable(credential, now=now)
    backing_off = (
        credential.consecutive_failures > 0
        and not credential.lease_in_force(now=now)
        and credential.refresh_due_at is not None
        and credential.refresh_due_at > now
        # A failure that lies ahead was put off by a clock that has been set back.
        and (credential.problem_at or 0) <= now + settings.CLOCK_SLACK
    )
    if backing_off or _was_refreshed_just_now(credential, now=now):
        raise _refusal(credential, now=now)
    return _await_refresh(credential, cause=Cause.HAND_OUT, actor=actor, wait=wait, now=now)


def _await_refresh(
    credential: OAuthCredential, *, cause: Cause, actor: str, wait: float, now: float
) -> OAuthCredential:
    """Begin the one refresh, or join the one under way, and wait for its end.

    At most half of the process's threads wait; whoever finds no place is told to come
    back in a moment. The refresh goes on either way.
    """
    tenant, began = credential.tenant, time.monotonic()
    # Where the row says that another process is at it, nothing is begun here: a thousand who
    # ask would be a thousand claims in vain.
    announced = False
    if not credential.lease_in_force(now=now) and not flight.is_begun(credential.pk):
        # A refusal is said at once to everybody, and not only to those who find a place to wait.
        announced = flight.begin(
            tenant_id=tenant.pk,
            credential_id=credential.pk,
            generation=credential.generation,
            cause=cause,
            actor=actor,
        )
    with flight.waiting_place() as may_wait:
        landed = may_wait and flight.wait_until_landed(
            tenant_id=tenant.pk,
            credential_id=credential.pk,
            now=now,
            seconds=max(0.0, min(wait, LONGEST_WAIT)),
            announced=announced,
        )
    if not landed:
        raise _in_progress()
    # It may have been suspended while we waited.
    _refuse_suspended(Tenant.objects.filter(pk=tenant.pk).first() or tenant)
    refusal = flight.refusal_of(credential.pk, cause=cause, since=began)
    after, now = _find(tenant, credential.user_id), clock.now()
    if after is None:
        raise NoToken("No OAuth token found")
    if after.generation > credential.generation and after.is_usable(now=now):
        return after
    if refusal is not None:
        raise refusal
    raise _refusal(after, now=now)


def _refuse_after_a_failure(credential: OAuthCredential, *, now: float) -> None:
    """What failed a moment ago is not sent again for the asking: a script that goes on
    demanding would hold the door to the authorization server closed for everybody."""
    failed_at = credential.problem_at
    if (
        credential.consecutive_failures > 0
        and failed_at is not None
        and abs(now - failed_at) < _DEMAND_FLOOR
        and not credential.lease_in_force(now=now)
    ):
        refusal = _refusal(credential, now=now)
        refusal.retry_after = max(1.0, failed_at + _DEMAND_FLOOR - now)
        raise refusal


def _was_refreshed_just_now(credential: OAuthCredential, *, now: float) -> bool:
    """Whether the next refresh is put off for no other reason than that the last one, which
    worked, was within `FLOOR`."""
    last, due = credential.last_refreshed_at, credential.refresh_due_at
    if last is None or due is None or credential.problem != Problem.NONE:
        return False
    # A whole second more: both are written without their fractions.
    return abs(now - last) <= FLOOR + 1 and 0 < due - now <= FLOOR


def _in_progress() -> RefreshInProgress:
    # One second or two: a thousand who are told the same would come back in one moment.
    return RefreshInProgress(
        "A refresh of this token is under way.",
        retry_after=random.choice((1, 2)),  # noqa: S311  spreads load
    )


def _refusal(credential: OAuthCredential, *, now: float) -> VaultError:
    """Why there is no usable token after a refresh that did not bring one."""
    try:
        _refuse_unrefreshable(credential, now=now)
    except VaultError as refusal:
        return refusal
    sentence = describe_problem(credential, now=now)
    detail = f"Failed to refresh token. {sentence or ''}".strip()
    due = _heard_again_at(credential, now=now)
    later = max(1.0, due - now) if due is not None else None
    if credential.problem == Problem.RATE_LIMITED:
        if later is not None:
            # All who were told the same moment would come back in it, and earn the next 429.
            later += random.uniform(0, _APART)  # noqa: S311  spreads load
        return UpstreamRateLimited(detail, retry_after=later)
    if credential.problem in (
        Problem.UPSTREAM_UNAVAILABLE,
        Problem.NO_ANSWER,
        Problem.NONE,
    ):
        # Without a problem: the refresh was claimed by another process a moment ago.
        if _was_refreshed_just_now(credential, now=now):
            return UpstreamUnavailable(
                "Failed to refresh token. The authorization server gives tokens that end within "
                "seconds; it is asked for the next one in a moment.",
                retry_after=later,
            )
        if credential.problem == Problem.NONE:
            return _in_progress()
        return UpstreamUnavailable(detail, retry_after=later)
    return UpstreamError(detail, retry_after=later)


def _heard_again_at(credential: OAuthCredential, *, now: float) -> float | None:
    """When a request for its refresh may have another answer; None: nobody knows."""
    if credential.refresh_due_at is not None or credential.problem_at is None:
        return credential.refresh_due_at
    # Its own switch is off: nothing is planned, and the next demand is what tries it again.
    return max(credential.problem_at + _DEMAND_FLOOR, gate.look(now=now).closed_until)


def _refuse_unrefreshable(credential: OAuthCredential, *, now: float) -> None:
    detail = describe_problem(credential, now=now) or ""
    if credential.standing == Standing.REVOKED:
        raise Revoked(detail)
    if credential.standing == Standing.QUARANTINED:
        raise Quarantined(detail)
    if credential.suspended_at is not None:
        raise Suspended(detail)
    if credential.standing == Standing.REAUTHORIZATION_REQUIRED:
        raise ReauthorizationRequired(detail)
    if not credential.has_refresh_token:
        raise NoRefreshToken("This credential has no refresh token: it works until it expires.")
    exhausted = credential.unanswered_presentations >= settings.MOST_PRESENTATIONS
    if exhausted and not credential.lease_in_force(now=now):
        raise ReauthorizationRequired(
            "The refresh token was presented twice without an answer and is not presented "
            "again. Sign in to Claude again."
        )


def _refuse_suspended(tenant: Tenant) -> None:
    if tenant.suspended_at is not None:
        raise TenantSuspended("This tenant is suspended.")


def _token_to_revoke(credential: OAuthCredential) -> RefreshToken | AccessToken | None:
    """What to name upstream; None when it no longer opens, which must not keep a
    revocation from happening here."""
    if settings.CLAUDE_OAUTH_REVOKE_URL is None:
        return None
    try:
        if credential.has_refresh_token:
            return sealing.open_refresh_token(credential)
        return sealing.open_access_token(credential)
    except EncryptionError:
        return None


def _set_suspended(
    tenant: Tenant, user_id: str, *, at: int | None, actor: str, action: str, now: float
) -> None:
    with transaction.atomic():
        changed = (
            OAuthCredential.objects.for_tenant(tenant)
            .filter(user_id=user_id)
            .exclude(standing=Standing.REVOKED)
            .update(suspended_at=at)
        )
        if not changed:
            raise NoToken("No OAuth token found")
        audit.record(tenant=tenant, actor=actor, action=action, subject=user_id, now=now)
