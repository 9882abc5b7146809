"""One person's OAuth credential, sealed, and what state it is in."""

from typing import ClassVar, Self

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.db.models.expressions import Combinable

from tokens.models.keys import DataKey
from tokens.models.scoped import OfTenant, ScopedManager, ScopedQuerySet, Unscoped
from tokens.models.tenant import Backoff, Tenant


class Standing(models.TextChoices):
    """What the vault has decided about a credential. What follows from times and leases
    is not stored: see `OAuthCredential.status`."""

    ACTIVE = "active"
    REAUTHORIZATION_REQUIRED = "reauthorization_required"
    QUARANTINED = "quarantined"
    REVOKED = "revoked"


class Status(models.TextChoices):
    """What the contract shows of a credential."""

    ACTIVE = "active"
    REFRESHING = "refreshing"
    OUTCOME_UNKNOWN = "outcome_unknown"
    REAUTHORIZATION_REQUIRED = "reauthorization_required"
    EXPIRED = "expired"
    SUSPENDED = "suspended"
    QUARANTINED = "quarantined"
    REVOKED = "revoked"


class Problem(models.TextChoices):
    """Why the last refresh did not work. The sentences are in `tokens.diagnosis`."""

    NONE = ""
    ROTATED_ELSEWHERE = "rotated_elsewhere"
    ANSWER_LOST = "answer_lost"
    LOGIN_ENDED = "login_ended"
    MISDIRECTED = "misdirected"
    INVALID_SCOPE = "invalid_scope"
    ACCOUNT_ON_HOLD = "account_on_hold"
    RATE_LIMITED = "upstream_rate_limited"
    UPSTREAM_ERROR = "upstream_error"
    UPSTREAM_UNAVAILABLE = "upstream_unavailable"
    NO_ANSWER = "no_answer"


def longest_lease() -> float:
    """Seconds that a lease may have left. What has more is of a clock that was set back."""
    return float(settings.REFRESH_LEASE + settings.CLOCK_SLACK)


def leased(now: float | Combinable) -> Q:
    """`OAuthCredential.lease_in_force`, for the database to judge. ``now``: Unix seconds, or
    the clock of the statement itself."""
    return Q(lease_until__gt=now, lease_until__lte=now + longest_lease())


class CredentialQuerySet(ScopedQuerySet["OAuthCredential"]):
    def for_tenant(self, tenant: Tenant) -> Self:
        return self.filter(tenant=tenant)

    def due(self, *, now: float) -> Self:
        """What the sweep wants, oldest first. Served by the index `credential_due`."""
        return self.filter(refresh_due_at__isnull=False, refresh_due_at__lte=int(now)).order_by(
            "refresh_due_at"
        )


_CredentialManager = ScopedManager.from_queryset(CredentialQuerySet)


class OAuthCredential(OfTenant):
    """Times are Unix seconds. The sealed columns are written and read in `tokens.sealing`.

    ``generation`` rises with every change of the tokens: import, refresh, revocation. A
    save that presents an older one is refused, so nothing that was taken away comes back.
    A suspension does not touch it: a refresh that is under way then still brings its new
    pair home (the old one is spent), and the credential stays suspended all the same.
    """

    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="credentials")
    user_id = models.CharField(max_length=256)
    access_token_encrypted = models.TextField(null=True, editable=False)  # noqa: DJ001
    refresh_token_encrypted = models.TextField(null=True, editable=False)  # noqa: DJ001
    data_key = models.ForeignKey(DataKey, on_delete=models.PROTECT, null=True, editable=False)
    expires_at = models.BigIntegerField()
    scopes = models.JSONField(default=list)
    is_max = models.BooleanField(default=True)
    subscription_type = models.CharField(max_length=64, blank=True)
    # Of the account behind the login (tokens.email_address); empty: nobody has named it.
    account_email = models.CharField(max_length=254, blank=True, default="", db_default="")
    # Named by the authorization server; else by a file, which anybody may have written.
    account_is_confirmed = models.BooleanField(default=False, db_default=False)
    refresh_count = models.PositiveIntegerField(default=0)
    last_used = models.BigIntegerField(null=True)
    last_refreshed_at = models.BigIntegerField(null=True)
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    standing = models.CharField(max_length=32, choices=Standing, default=Standing.ACTIVE)
    suspended_at = models.BigIntegerField(null=True)
    generation = models.BigIntegerField(default=1)

    lease_id = models.UUIDField(null=True, editable=False)
    lease_until = models.FloatField(null=True, editable=False)
    # How often the refresh token of this generation was sent without a definite answer.
    # Raised by the claim, before anything is sent, so that a killed process leaves it.
    unanswered_presentations = models.PositiveSmallIntegerField(default=0)

    refresh_due_at = models.BigIntegerField(null=True)
    # Until when a refresh of it counts as published or under way: no other sweep publishes
    # it, and it takes one of the places for refreshes at once (tokens.due).
    taken_until = models.FloatField(null=True, editable=False)
    consecutive_failures = models.PositiveIntegerField(default=0)
    problem = models.CharField(max_length=32, choices=Problem, default=Problem.NONE, blank=True)
    problem_at = models.BigIntegerField(null=True)

    # When this login was imported, or taken away; and when an operator released it from a
    # quarantine. In a restored database generations have lost their meaning: what the spool
    # still holds from before these moments is of no use here (`tokens.refresh.stray`).
    login_since = models.FloatField(null=True, editable=False)
    released_at = models.FloatField(null=True, editable=False)

    login_expires_at = models.BigIntegerField(null=True)
    login_expiry_is_estimate = models.BooleanField(default=False)
    # When to say next that the login ends for good (`tokens.endings`); null: said, or far off.
    announce_at = models.BigIntegerField(null=True, editable=False)

    # What this credential has of its own; null: as its tenant is set. `tokens.own_settings`.
    auto_refresh = models.BooleanField(null=True, editable=False)
    refresh_threshold = models.PositiveIntegerField(null=True, editable=False)
    max_retries = models.PositiveSmallIntegerField(null=True, editable=False)
    retry_backoff = models.CharField(  # noqa: DJ001  null says what it says in the others
        max_length=16, choices=Backoff, null=True, editable=False
    )

    objects = _CredentialManager()
    unscoped = Unscoped()

    class Meta:
        # The document's name. On PostgreSQL it lies in the schema `oauthvault`.
        db_table = "claude_oauth_tokens"
        ordering = ("tenant", "user_id")
        verbose_name = "credential"
        # What an operator may do to a credential, each granted by itself.
        permissions: ClassVar = [
            ("refresh_oauthcredential", "Can have a credential refreshed now"),
            ("rotate_oauthcredential", "Can have a credential's token pair replaced now"),
            ("revoke_oauthcredential", "Can revoke a credential"),
            ("suspend_oauthcredential", "Can suspend and resume a credential"),
            ("pause_oauthcredential", "Can suspend and resume a credential's automatic refresh"),
            ("reassign_oauthcredential", "Can give a credential to another user of its tenant"),
            ("reseal_oauthcredential", "Can have credentials sealed under a new data key"),
            ("export_oauthcredential", "Can export what is known of credentials"),
        ]
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["tenant", "user_id"], name="one_credential_per_user"),
            models.CheckConstraint(
                condition=Q(
                    standing=Standing.REVOKED,
                    access_token_encrypted=None,
                    refresh_token_encrypted=None,
                    data_key=None,
                )
                | (
                    ~Q(standing=Standing.REVOKED)
                    & Q(access_token_encrypted__isnull=False, data_key__isnull=False)
                ),
                name="sealed_tokens_present_unless_revoked",
            ),
            models.CheckConstraint(
                condition=Q(standing__in=Standing.values), name="standing_is_known"
            ),
            models.CheckConstraint(
                condition=Q(lease_id=None, lease_until=None)
                | Q(lease_id__isnull=False, lease_until__isnull=False),
                name="lease_is_whole",
            ),
            models.CheckConstraint(condition=Q(generation__gte=1), name="generation_is_positive"),
            models.CheckConstraint(
                condition=Q(unanswered_presentations__lte=2),
                name="a_refresh_token_is_presented_twice_at_most",
            ),
            models.CheckConstraint(
                condition=Q(refresh_due_at=None)
                | Q(refresh_token_encrypted__isnull=False, standing=Standing.ACTIVE),
                name="only_what_can_be_refreshed_is_due",
            ),
            models.CheckConstraint(
                condition=Q(refresh_due_at=None) | Q(auto_refresh=None) | Q(auto_refresh=True),
                name="only_what_is_refreshed_ahead_is_due",
            ),
        ]
        indexes: ClassVar = [
            # The sweep's query (CredentialQuerySet.due):
            #   WHERE refresh_due_at IS NOT NULL AND refresh_due_at <= $now
            #   ORDER BY refresh_due_at LIMIT $page
            models.Index(
                fields=["refresh_due_at"],
                condition=Q(refresh_due_at__isnull=False),
                name="credential_due",
            ),
            # The first due of each tenant, where there is a long line of them (tokens.due).
            models.Index(
                fields=["tenant", "refresh_due_at"],
                condition=Q(refresh_due_at__isnull=False),
                name="credential_due_by_tenant",
            ),
            # What tokens.refresh.abandoned asks with every sweep:
            #   WHERE unanswered_presentations >= 2 AND lease_until < $then AND standing = 'active'
            models.Index(
                fields=["lease_until"],
                condition=Q(unanswered_presentations__gte=2),
                name="credential_exhausted",
            ),
            # How many refreshes are published or under way, by tenant (tokens.due).
            models.Index(
                fields=["taken_until", "tenant"],
                condition=Q(taken_until__isnull=False),
                name="credential_taken",
            ),
            # Whose end is to be announced (tokens.endings).
            models.Index(
                fields=["announce_at"],
                condition=Q(announce_at__isnull=False),
                name="credential_announce",
            ),
            models.Index(fields=["tenant", "expires_at"], name="credential_expiry"),
            # The next to expire of all tenants (tokens.admin.dashboard).
            models.Index(
                fields=["expires_at"],
                condition=Q(standing=Standing.ACTIVE, suspended_at=None),
                name="credential_next_expiry",
            ),
            # The dashboard's list: by the beginning of a name (tokens.listing), in the order of a
            # column, and those whose last refreshes failed. None on `last_used`: it is written
            # every few seconds, in the row's own page as long as no index has it.
            models.Index(
                fields=["user_id"], opclasses=["varchar_pattern_ops"], name="credential_by_user"
            ),
            models.Index(
                fields=["account_email"],
                opclasses=["varchar_pattern_ops"],
                name="credential_by_account",
            ),
            models.Index(fields=["expires_at"], name="credential_ends"),
            models.Index(fields=["login_expires_at"], name="credential_login_ends"),
            models.Index(
                fields=["tenant", "user_id"],
                condition=Q(consecutive_failures__gt=0),
                name="credential_failing",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.user_id} of {self.tenant.slug}"

    @property
    def has_refresh_token(self) -> bool:
        return self.refresh_token_encrypted is not None

    @property
    def refreshes_ahead(self) -> bool:
        """Whether it is refreshed without being asked for: deployment, tenant and its own
        switch must all want it."""
        return self.tenant.refreshes_ahead and self.auto_refresh is not False

    @property
    def threshold(self) -> int:
        """Seconds before expiry at which its token is due for a refresh."""
        own = self.refresh_threshold
        return self.tenant.threshold if own is None else own

    @property
    def retries(self) -> int:
        """Quick retries inside one refresh, after the first try."""
        return self.tenant.retries if self.max_retries is None else self.max_retries

    @property
    def backoff(self) -> Backoff:
        """How the pauses between them grow."""
        return Backoff(self.retry_backoff) if self.retry_backoff else self.tenant.backoff

    def lease_in_force(self, *, now: float) -> bool:
        return self.lease_until is not None and (now < self.lease_until <= now + longest_lease())

    def lease_was_set_ahead(self, *, now: float) -> bool:
        """Whether its lease was given by a clock that has been set back since: not in force,
        and not free before `tokens.refresh.set_back` has cut it short."""
        return self.lease_until is not None and self.lease_until > now + longest_lease()

    def is_due(self, *, now: float) -> bool:
        """Whether the sweep wants it: `CredentialQuerySet.due`."""
        return self.refresh_due_at is not None and self.refresh_due_at <= now

    def expires_in(self, *, now: float) -> int:
        """Whole seconds of life left to the access token, never below zero."""
        return max(0, self.expires_at - int(now))

    def is_usable(self, *, now: float) -> bool:
        """Whether the access token may be handed out at this moment.

        A login that has ended upstream keeps its access token to its end, like one whose
        refresh had no answer: the server is the authority on it, and says 401. Once it has, that
        was the end (`tokens.vault.report_rejected`).
        """
        return (
            self.standing in (Standing.ACTIVE, Standing.REAUTHORIZATION_REQUIRED)
            and self.suspended_at is None
            and self.expires_in(now=now) > 0
        )

    def can_refresh(self) -> bool:
        """Whether a refresh could succeed, now or later."""
        return (
            self.standing == Standing.ACTIVE
            and self.suspended_at is None
            and self.has_refresh_token
            and self.unanswered_presentations < settings.MOST_PRESENTATIONS
        )

    def status(self, *, now: float) -> Status:
        if self.standing != Standing.ACTIVE:
            return Status(self.standing)
        if self.suspended_at is not None:
            return Status.SUSPENDED
        if self.lease_in_force(now=now):
            return Status.REFRESHING
        if self.unanswered_presentations:
            return Status.OUTCOME_UNKNOWN
        renewable = self.has_refresh_token and self.refreshes_ahead
        if self.expires_in(now=now) == 0 and not renewable:
            return Status.EXPIRED
        return Status.ACTIVE

    def needs_refresh(self, *, now: float) -> bool:
        """Whether the token is within its threshold, and something can be done about it."""
        return self.can_refresh() and self.expires_in(now=now) <= self.threshold
