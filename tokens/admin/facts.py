"""What a page says of a credential, without a sealed column ever being read.

Each condition is here twice, as `OAuthCredential.status` has it and in SQL, because a
list of a hundred thousand is filtered and counted by the database. A test holds the two
against each other.
"""

import re
from dataclasses import dataclass

from django.db.models import (
    BooleanField,
    Case,
    ExpressionWrapper,
    F,
    IntegerField,
    Q,
    QuerySet,
    Value,
    When,
)
from django.utils.functional import Promise
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _

from tokens import endings
from tokens.diagnosis import describe_end, describe_obstacle
from tokens.listing import renewable
from tokens.models import OAuthCredential, Problem, Standing, Status
from tokens.models.credential import leased

_SEALED = ("access_token_encrypted", "refresh_token_encrypted")
_KNOWN_ONLY_TO_EXIST = ""

# What an operator reads, and how loudly it is said.
STATUS: dict[Status, tuple[str | Promise, str]] = {
    Status.ACTIVE: (_("active"), "good"),
    Status.REFRESHING: (_("refreshing"), "plain"),
    Status.OUTCOME_UNKNOWN: (_("outcome unknown"), "uneasy"),
    Status.REAUTHORIZATION_REQUIRED: (_("new login needed"), "bad"),
    Status.EXPIRED: (_("expired"), "bad"),
    Status.SUSPENDED: (_("suspended"), "uneasy"),
    Status.QUARANTINED: (_("quarantined"), "bad"),
    Status.REVOKED: (_("revoked"), "plain"),
}


@dataclass(frozen=True, kw_only=True)
class Facts:
    """One credential as it is at ``now``. ``problem``: what is wrong. ``warning``: that the
    login is about to end, which is no problem yet."""

    now: float
    status: Status
    usable: bool
    stopped: bool
    problem: str | None
    warning: str | None
    since: float | None

    @property
    def badge(self) -> SafeString:
        """The status, and what it leaves unsaid: the tenant's suspension, a token past its end."""
        text, tone = STATUS[self.status]
        if self.stopped and self.status != Status.REVOKED:
            return badge(_("tenant suspended"), "uneasy")
        if self.status == Status.ACTIVE and not self.usable:
            return badge(_("active, token ended"), "uneasy")
        return badge(text, tone)


def without_tokens(queryset: QuerySet[OAuthCredential]) -> QuerySet[OAuthCredential]:
    """The same rows without the sealed columns; `attach` each of them before asking it."""
    held = ExpressionWrapper(Q(refresh_token_encrypted__isnull=False), output_field=BooleanField())
    return queryset.select_related("tenant").defer(*_SEALED).annotate(holds_refresh_token=held)


def attach(credential: OAuthCredential, *, now: float) -> OAuthCredential:
    """Fill in what `without_tokens` left out: that a refresh token is there, not which."""
    held = getattr(credential, "holds_refresh_token", False)
    credential.access_token_encrypted = None
    credential.refresh_token_encrypted = _KNOWN_ONLY_TO_EXIST if held else None
    credential.facts = Facts(  # type: ignore[attr-defined]
        now=now,
        status=credential.status(now=now),
        usable=credential.is_usable(now=now) and credential.tenant.suspended_at is None,
        stopped=credential.tenant.suspended_at is not None,
        problem=problem_of(credential, now=now),
        warning=describe_end(credential, now=now),
        since=since(credential, now=now),
    )
    return credential


def name(credential: OAuthCredential) -> str:
    return f"{credential.user_id} ({credential.tenant.slug})"


def of(credential: OAuthCredential) -> Facts:
    facts: Facts = credential.facts  # type: ignore[attr-defined]
    return facts


def problem_of(credential: OAuthCredential, *, now: float) -> str | None:
    if credential.tenant.suspended_at is not None and credential.standing != Standing.REVOKED:
        return str(_("The whole tenant is suspended. Resume it on the tenant's page."))
    return describe_obstacle(credential, now=now)


def since(credential: OAuthCredential, *, now: float) -> float | None:
    """Since when something is wrong, as far as is known."""
    if credential.tenant.suspended_at is not None:
        return credential.tenant.suspended_at.timestamp()
    if credential.suspended_at is not None:
        return credential.suspended_at
    if credential.problem_at is not None:
        return credential.problem_at
    return credential.expires_at if credential.expires_at <= now else None


def cannot_work(*, now: float) -> Q:
    """Whose next request would be refused at ``now``, revoked ones aside: those are meant.

    A token that is past its end and is refreshed by the next request that needs it is no
    obstacle, unless the last refresh failed.
    """
    stopped = Q(suspended_at__isnull=False) | Q(tenant__suspended_at__isnull=False)
    unsettled = Q(unanswered_presentations__gt=0) & ~leased(now)
    ended = Q(expires_at__lte=int(now)) & (
        Q(standing=Standing.REAUTHORIZATION_REQUIRED)
        | ~renewable()
        | ~Q(problem=Problem.NONE)
        | unsettled
    )
    return ~Q(standing=Standing.REVOKED) & (Q(standing=Standing.QUARANTINED) | stopped | ended)


def failing(*, now: float) -> Q:
    """Who works now although the last refresh failed: it is tried again until the token ends."""
    return Q(
        standing=Standing.ACTIVE,
        suspended_at=None,
        tenant__suspended_at=None,
        expires_at__gt=int(now),
    ) & ~Q(problem=Problem.NONE)


def will_stop(*, now: float) -> Q:
    """Who works now, and will not in a week from now, unless somebody acts.

    Either nothing renews the access token that they have, or their login ends. A login that
    was to have ended by now may have: no lower bound.
    """
    at = int(now)
    soon = at + endings.WARNING_DAYS[0] * endings.DAY
    unrenewed = Q(expires_at__gt=at, expires_at__lte=soon) & (
        Q(standing=Standing.REAUTHORIZATION_REQUIRED) | (Q(standing=Standing.ACTIVE) & ~renewable())
    )
    login_ends = (
        Q(standing=Standing.ACTIVE) & renewable() & endings.end_between(after=None, until=soon)
    )
    working = Q(suspended_at=None, tenant__suspended_at__isnull=True)
    return working & (unrenewed | login_ends) & ~cannot_work(now=now)


def stops_at() -> Case:
    """When whoever `will_stop` does stop, to sort by: `until` for every row at once."""
    return Case(
        When(Q(standing=Standing.ACTIVE) & renewable(), then=F("login_expires_at")),
        default=F("expires_at"),
    )


def until(credential: OAuthCredential) -> int | None:
    """How long the credential works if nobody acts."""
    renewed = (
        credential.standing == Standing.ACTIVE
        and credential.has_refresh_token
        and credential.refreshes_ahead
    )
    return credential.login_expires_at if renewed else credential.expires_at


def token_ends_at(credential: OAuthCredential) -> int | None:
    """None where there is no token any more."""
    return None if credential.standing == Standing.REVOKED else credential.expires_at


def login_ends_at(credential: OAuthCredential) -> float | None:
    """None where it has ended, whatever was said of it before."""
    over = credential.standing in (Standing.REVOKED, Standing.REAUTHORIZATION_REQUIRED)
    return None if over else endings.ends_at(credential)


def login_end_is_estimate(credential: OAuthCredential) -> bool:
    return login_ends_at(credential) is not None and endings.is_estimate(credential)


def urgency() -> Case:
    """Those who can only be helped by a person first; those an operator stopped last."""
    return Case(
        When(Q(suspended_at__isnull=False) | Q(tenant__suspended_at__isnull=False), then=Value(2)),
        When(standing=Standing.REAUTHORIZATION_REQUIRED, then=Value(0)),
        default=Value(1),
        output_field=IntegerField(),
    )


def badge(text: str | Promise, tone: str) -> SafeString:
    """``tone``: good, plain, uneasy or bad. The word carries the meaning, the colour helps."""
    return format_html('<span class="ov-badge ov-{}">{}</span>', tone, text)


def with_commands(text: str) -> SafeString:
    """A sentence in which `a command` is set as one."""
    parts = re.split(r"`([^`]+)`", text)
    return format_html_join(
        "",
        "{}",
        (
            (format_html("<code>{}</code>", part) if place % 2 else part,)
            for place, part in enumerate(parts)
        ),
    )
