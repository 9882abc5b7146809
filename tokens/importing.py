"""How a login comes into the vault, and which ones may not.

The ledger of fingerprints decides: a login that another user holds is refused, and one
that the vault has rotated or revoked since never comes back by an old file or variable.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from django.db import IntegrityError, transaction

from tokens import audit, endings, isolation, sealing, user_ids
from tokens.credential_file import MINTS_API_KEYS, ImportedCredential
from tokens.errors import (
    AlreadyStored,
    PreconditionFailed,
    RefreshInProgress,
    StaleCredential,
    TenantSuspended,
    VaultError,
)
from tokens.keyring import fingerprint
from tokens.models import (
    OAuthCredential,
    Problem,
    Standing,
    Tenant,
    TokenFingerprint,
)
from tokens.refresh.schedule import next_due
from tokens.secret import Secret

# Where the file does not say when the login ends: what the public sources report.
_USUAL_LOGIN_LIFE = 27 * 86_400
_ACCESS_TOKEN_PREFIX = "sk-ant-oat"  # noqa: S105  what all of them begin with
# Said of every login that can be refreshed.
KEEP_IT_HERE = (
    "A refresh token is single use. If Claude Code goes on using this login elsewhere, "
    "one of the two will be signed out: keep it here only."
)
# Offers that are looked up with one query each for their users and for the ledger.
_LOOKED_UP = 500


class Effect(StrEnum):
    """What becomes of a user's credential by an import."""

    NEW = "new"
    AFTER_REVOCATION = "after_revocation"
    REPLACED = "replaced"
    # Exactly this login is stored, and the file says something else of it: an end, scopes.
    CORRECTED = "corrected"
    UNCHANGED = "unchanged"


@dataclass(frozen=True, kw_only=True)
class Preview:
    """What an import would do now. ``replaces``: the generation that would end, of a login that
    is here since ``since``."""

    effect: Effect
    replaces: int | None
    since: float | None = None
    warnings: list[str]


@dataclass(frozen=True, kw_only=True)
class ImportResult:
    """What an import did. ``replaced``: the generation that it ended."""

    credential: OAuthCredential
    effect: Effect
    replaced: int | None
    warnings: list[str]

    @property
    def created(self) -> bool:
        """Whether this user had no row before."""
        return self.effect is Effect.NEW

    @property
    def changed(self) -> bool:
        """False: exactly this login was stored already."""
        return self.effect is not Effect.UNCHANGED


@isolation.of_its_tenant
def import_credential(
    *,
    tenant: Tenant,
    user_id: str,
    offered: ImportedCredential,
    actor: str,
    only_if_absent: bool = False,
    expected: Effect | None = None,
    expected_since: float | None = None,
    now: float,
) -> ImportResult:
    """Store ``offered`` as the credential of ``user_id``, in place of what is there.

    ``expected``: the effect that a `preview` has shown to whoever asks for this; where it
    would be another by now, beyond that all of it is stored already, PreconditionFailed. So it is
    where another login would be replaced than the one since ``expected_since``.

    A refresh under way loses: its save finds another generation. Raises StaleCredential,
    AlreadyStored, PreconditionFailed, RefreshInProgress, TenantSuspended or BadUserId, and
    then nothing was stored.
    """
    user_ids.check_named(user_id, tenant=tenant)
    try:
        with transaction.atomic():
            return _store(
                tenant, user_id, offered, actor, only_if_absent, expected, expected_since, now
            )
    except IntegrityError:
        # Somebody stored the same login, or this user's first one, in the same moment.
        raise AlreadyStored(
            "this login was stored by another request at the same time; look before you try again"
        ) from None


@isolation.of_its_tenant
def preview(
    *, tenant: Tenant, offers: Sequence[tuple[str, ImportedCredential]], now: float
) -> list[Preview | VaultError]:
    """What `import_credential` would do with each (user id, login), or why it would refuse it.
    Nothing is written, and of the others in ``offers`` nothing is known to one of them."""
    return [
        each
        for first in range(0, len(offers), _LOOKED_UP)
        for each in _previews(tenant, offers[first : first + _LOOKED_UP], now)
    ]


def _previews(
    tenant: Tenant, offers: Sequence[tuple[str, ImportedCredential]], now: float
) -> Iterator[Preview | VaultError]:
    suspended = _suspension(tenant)
    stored = {
        credential.user_id: credential
        for credential in OAuthCredential.objects.for_tenant(tenant)
        .select_related("tenant")
        .filter(user_id__in=[_findable(user_id) for user_id, _ in offers])
    }
    known = _known(offered for _, offered in offers)
    for user_id, offered in offers:
        try:
            user_ids.check_named(user_id, tenant=tenant)
            if suspended is not None:
                raise suspended
            yield _judge(tenant, user_id, offered, stored.get(user_id), known, now)
        except VaultError as refusal:
            yield refusal


def _findable(user_id: str) -> str:
    """The id; nobody's, if it is one that no database takes."""
    unheard_of = "\0" in user_id or any("\ud800" <= half <= "\udfff" for half in user_id)
    return "" if unheard_of else user_id


def _suspension(tenant: Tenant) -> TenantSuspended | None:
    # Read again: it may have been suspended, for its deletion even, since the caller was let in.
    if Tenant.objects.filter(pk=tenant.pk, suspended_at__isnull=False).exists():
        return TenantSuspended("This tenant is suspended.")
    return None


def _store(
    tenant: Tenant,
    user_id: str,
    offered: ImportedCredential,
    actor: str,
    only_if_absent: bool,
    expected: Effect | None,
    expected_since: float | None,
    now: float,
) -> ImportResult:
    if (suspended := _suspension(tenant)) is not None:
        raise suspended
    credential = (
        OAuthCredential.objects.for_tenant(tenant)
        .select_for_update(of=("self",))
        .filter(user_id=user_id)
        .first()
    )
    if only_if_absent and credential is not None and credential.standing != Standing.REVOKED:
        raise PreconditionFailed("a credential is stored for this user already")
    judged = _judge(tenant, user_id, offered, credential, _known([offered]), now)
    # Not by its generation: a refresh in between raises that, and it is the same login still.
    is_another = judged.effect not in (expected, Effect.UNCHANGED) or (
        judged.effect is Effect.REPLACED and judged.since != expected_since
    )
    if expected is not None and is_another:
        raise PreconditionFailed("this user's credential is another one by now; look again")
    created = credential is None
    if credential is None:
        # Without tokens for the length of this transaction: what they are sealed for
        # includes the row's id, which only the insert makes known.
        credential = OAuthCredential.objects.create(
            tenant=tenant,
            user_id=user_id,
            standing=Standing.REVOKED,
            expires_at=offered.expires_at,
            generation=1,
        )
    if judged.effect in (Effect.CORRECTED, Effect.UNCHANGED):
        credential.tenant = tenant
        _correct(credential, offered, now=now)
        return _result(credential, judged)
    _fill(credential, tenant, offered, created=created, now=now)
    sealing.record_fingerprints(
        credential=credential,
        access_token=offered.access_token,
        refresh_token=offered.refresh_token,
        generation=credential.generation,
        now=now,
    )
    audit.record(
        tenant=tenant,
        actor=actor,
        action="import",
        subject=user_id,
        now=now,
        replaced=not created,
        refreshable=offered.refresh_token is not None,
    )
    return _result(credential, judged)


def _result(credential: OAuthCredential, judged: Preview) -> ImportResult:
    return ImportResult(
        credential=credential,
        effect=judged.effect,
        replaced=judged.replaces,
        warnings=judged.warnings,
    )


def _judge(
    tenant: Tenant,
    user_id: str,
    offered: ImportedCredential,
    credential: OAuthCredential | None,
    known: "Ledger",
    now: float,
) -> Preview:
    """What storing ``offered`` does to ``credential``, the user's row. Raises as
    `import_credential` does. Asks nothing and writes nothing."""
    if credential is None:
        user_ids.check_new(user_id, tenant=tenant)
    held = _held_already(credential, offered, known)
    replaces = since = None
    if credential is None:
        effect = Effect.NEW
    elif held:
        effect = Effect.CORRECTED if _corrections(credential, offered) else Effect.UNCHANGED
    elif credential.standing == Standing.REVOKED:
        effect = Effect.AFTER_REVOCATION
    else:
        effect, replaces = Effect.REPLACED, credential.generation
        since = credential.login_since
    warnings = _warnings(offered, now=now)
    if effect is Effect.REPLACED and credential and offered.expires_at < credential.expires_at:
        warnings.append(
            "What is stored for this user ends later than this login does: the file may be an "
            "older one."
        )
    return Preview(effect=effect, replaces=replaces, since=since, warnings=warnings)


# By fingerprint: the credentials that hold or held it, and when it was spent.
Ledger = Mapping[str, Sequence[tuple[int, int | None]]]


def fingerprints(offered: ImportedCredential) -> set[str]:
    """By what the ledger knows this login."""
    return set(_digests(offered))


def _digests(offered: ImportedCredential) -> dict[str, Secret]:
    return {
        fingerprint(token.reveal()): token
        for token in (offered.access_token, offered.refresh_token)
        if token is not None
    }


def _known(offers: Iterable[ImportedCredential]) -> Ledger:
    """What the ledger knows of these logins. The one query of the vault that looks across
    tenants by purpose: what is made of it says nothing but that there is a holder."""
    digests = {digest for offered in offers for digest in _digests(offered)}
    found: dict[str, list[tuple[int, int | None]]] = {}
    with isolation.every_tenant():
        for credential_id, digest, retired_at in TokenFingerprint.objects.filter(
            digest__in=digests
        ).values_list("credential_id", "digest", "retired_at"):
            found.setdefault(digest, []).append((credential_id, retired_at))
    return found


def _held_already(
    credential: OAuthCredential | None, offered: ImportedCredential, ledger: Ledger
) -> bool:
    """Whether this user holds this login now. Raises for one that is another's, or of which
    any part is known to be spent."""
    digests = _digests(offered)
    known = [
        (credential_id, digest, retired_at)
        for digest in digests
        for credential_id, retired_at in ledger.get(digest, ())
    ]
    own_id = credential.pk if credential is not None else None
    if any(retired_at is not None for _, _, retired_at in known):
        raise StaleCredential(
            "this login is known here, and has been refreshed, replaced or revoked since this "
            "copy was made; sign in to Claude again for a new one"
        )
    if any(holder != own_id for holder, _, _ in known):
        raise AlreadyStored("this login is stored already, for another user")
    if not known or credential is None:
        return False
    if {digest for _, digest, _ in known} == set(digests):
        return True
    # One half of the pair is held, the other was never seen here: a copy from a holder
    # elsewhere, who has a pair of their own. While the held refresh token may be on its
    # way, or lost on it, nothing may take its place and be presented as if it were new.
    under_way = credential.unanswered_presentations or credential.lease_id is not None
    if under_way and credential.standing == Standing.REAUTHORIZATION_REQUIRED:
        # It was given up. With a refresh token of its own the copy is a login of its own.
        held = {digest for _, digest, _ in known}
        unseen = [token for digest, token in digests.items() if digest not in held]
        if offered.refresh_token is None or offered.refresh_token not in unseen:
            raise StaleCredential(
                "this login's refresh token was presented twice without an answer; sign in to "
                "Claude again for a new one"
            )
        return False
    if under_way:
        raise RefreshInProgress(
            "a refresh of this very login is under way; import it again in a moment",
            retry_after=2,
        )
    return False


def _correct(credential: OAuthCredential, offered: ImportedCredential, *, now: float) -> None:
    """Take over what the file says of the pair that is held already.

    Neither lease nor generation nor the count of presentations is touched: the refresh
    token is the same, and may be under way at this moment.
    """
    ended_at = endings.ends_at(credential)
    changed = _corrections(credential, offered)
    if not changed:
        return
    for name, value in changed.items():
        setattr(credential, name, value)
    credential.announce_at = endings.rescheduled(
        announce_at=credential.announce_at,
        ended_at=ended_at,
        ends_at=endings.ends_at(credential),
        now=now,
    )
    if (
        "expires_at" in changed
        and credential.refresh_due_at is not None
        and not credential.consecutive_failures
    ):
        credential.refresh_due_at = next_due(credential, now=now)
    credential.save(update_fields=[*changed, "refresh_due_at", "announce_at", "updated_at"])


def _corrections(credential: OAuthCredential, offered: ImportedCredential) -> dict[str, object]:
    """What the file says otherwise than the row of the same pair: its ends, its scopes, the
    subscription. What the file does not say stays as it is."""
    said: dict[str, object] = {}
    if not offered.scopes_assumed:
        said["scopes"] = offered.scopes
    if offered.subscription_type:
        said |= {"subscription_type": offered.subscription_type, "is_max": offered.is_max}
    if offered.account_email and not credential.account_is_confirmed:
        said["account_email"] = offered.account_email
    if offered.login_expires_at is not None and credential.has_refresh_token:
        said |= {
            "login_expires_at": offered.login_expires_at,
            "login_expiry_is_estimate": False,
        }
    if credential.lease_id is None:
        # Under a lease the next look at it is due by that.
        said["expires_at"] = offered.expires_at
    return {name: value for name, value in said.items() if getattr(credential, name) != value}


def _fill(
    credential: OAuthCredential,
    tenant: Tenant,
    offered: ImportedCredential,
    *,
    created: bool,
    now: float,
) -> None:
    pair = sealing.seal_pair(
        tenant=tenant,
        credential_id=credential.pk,
        access_token=offered.access_token,
        refresh_token=offered.refresh_token,
    )
    credential.tenant = tenant
    credential.data_key = pair.data_key
    credential.access_token_encrypted = pair.access_token_encrypted
    credential.refresh_token_encrypted = pair.refresh_token_encrypted
    credential.expires_at = offered.expires_at
    credential.scopes = offered.scopes
    credential.is_max = offered.is_max
    credential.subscription_type = offered.subscription_type
    # Not that of the login before, which may be of another account.
    credential.account_email, credential.account_is_confirmed = offered.account_email, False
    credential.standing = Standing.ACTIVE
    credential.generation += 0 if created else 1
    credential.lease_id = credential.lease_until = credential.taken_until = None
    credential.unanswered_presentations = 0
    credential.consecutive_failures = 0
    credential.problem, credential.problem_at = Problem.NONE, None
    credential.login_since = now
    credential.login_expires_at, credential.login_expiry_is_estimate = None, False
    credential.refresh_due_at = next_due(credential, now=now)
    if offered.refresh_token is not None:
        credential.login_expires_at = offered.login_expires_at or int(now) + _USUAL_LOGIN_LIFE
        credential.login_expiry_is_estimate = offered.login_expires_at is None
    credential.announce_at = endings.next_announcement(ends_at=endings.ends_at(credential), now=now)
    credential.save()


def _warnings(offered: ImportedCredential, *, now: float) -> list[str]:
    warnings = []
    if not offered.access_token.reveal().startswith(_ACCESS_TOKEN_PREFIX):
        warnings.append(
            f"The access token does not begin with {_ACCESS_TOKEN_PREFIX}: it does not look like "
            "one of Claude's, and the LiteLLM hook refuses others."
        )
    if offered.expires_at <= now:
        warnings.append("The access token has expired already; it is refreshed before its use.")
    if offered.refresh_token is None:
        warnings.append(
            "There is no refresh token: this credential works until it expires, "
            "and cannot be renewed."
        )
    else:
        warnings.append(KEEP_IT_HERE)
    if MINTS_API_KEYS in offered.scopes:
        assumed = (
            " The file names no scopes: the usual ones are assumed, and this is among them."
            if offered.scopes_assumed
            else ""
        )
        warnings.append(
            f"The scope {MINTS_API_KEYS} can create API keys that outlive a revocation here."
            f"{assumed}"
        )
    return warnings
