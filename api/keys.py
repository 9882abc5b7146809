"""Making, finding, retiring API keys. The key itself is shown once, by whoever made it."""

import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from django.db import IntegrityError, transaction

from api.models import ApiKey, KeyKind
from oauthvault.logging import redact
from tokens import audit, isolation, user_ids
from tokens.errors import VaultError
from tokens.keyring import api_key_digest
from tokens.labels import checked_label
from tokens.models import Tenant
from tokens.networks import checked_networks
from tokens.prepared import Prepared
from tokens.secret import Secret

_PREFIX = {KeyKind.SERVICE: "ovs_", KeyKind.USER: "ovu_"}
_SHAPE = re.compile(r"ov[su]_[A-Za-z0-9_-]{43,200}")
# Seconds. What is meant to be for ever has no end.
LONGEST_LIFE = 3660 * 86_400
# Characters of a key that are stored as they are, and that operators see.
SHOWN = 12


class Scope(StrEnum):
    TOKEN_READ = "token:read"  # noqa: S105  a name
    TOKEN_WRITE = "token:write"  # noqa: S105  a name
    TOKEN_REFRESH = "token:refresh"  # noqa: S105  a name
    TOKEN_REVOKE = "token:revoke"  # noqa: S105  a name
    TOKEN_IDENTIFY = "token:identify"  # noqa: S105  a name
    STATUS_READ = "status:read"
    STATS_READ = "stats:read"


_ALL = [scope.value for scope in Scope]
# A user key may not read the token itself unless that was granted.
_USER_DEFAULT = [
    Scope.STATUS_READ.value,
    Scope.TOKEN_REFRESH.value,
    Scope.TOKEN_REVOKE.value,
    Scope.TOKEN_WRITE.value,
]


class ApiKeyText(Secret):
    """A key as its holder shows it."""

    __slots__ = ()


class BadKeyRequest(VaultError):
    """A key that cannot be made as asked."""

    code = "invalid_request"


@dataclass(frozen=True)
class NewKey:
    row: ApiKey
    text: ApiKeyText


@isolation.of_its_tenant
def create_key(
    *,
    tenant: Tenant,
    user_id: str = "",
    scopes: Iterable[str] = (),
    networks: Iterable[str] = (),
    expires_at: int | None = None,
    label: str = "",
    actor: str,
    now: float,
) -> NewKey:
    """A new key: of the tenant's service, or of one user if ``user_id`` is given. BadKeyRequest
    or BadUserId for what cannot be."""
    if user_id:
        user_ids.check_new(user_id, tenant=tenant)
    if tenant.deletion_began_at is not None:
        raise BadKeyRequest(f"tenant {tenant.slug} is being deleted")
    if expires_at is not None and expires_at > now + LONGEST_LIFE:
        raise BadKeyRequest(f"a key lives for at most {LONGEST_LIFE // 86_400} days")
    with transaction.atomic():
        new = _make(
            tenant=tenant,
            kind=KeyKind.USER if user_id else KeyKind.SERVICE,
            user_id=user_id,
            label=_checked_label(label),
            scopes=_checked_scopes(scopes) or (_USER_DEFAULT if user_id else _ALL),
            networks=_checked_networks(networks),
            expires_at=expires_at,
        )
        audit.record(
            tenant=tenant, actor=actor, action="create_key", subject=user_id, now=now,
            key=new.row.prefix, scopes=new.row.scopes, networks=new.row.networks,
            expires_at=new.row.expires_at,
        )  # fmt: skip
    return new


def rotate_key(*, key: ApiKey, overlap: int, actor: str, now: float) -> NewKey:
    """A new key in place of this one, which ends ``overlap`` seconds from now: until then both
    are good. The new one is of the same kind, user, scopes, networks and label, and lives as
    long as the old one was made for. BadKeyRequest for a key that is not good any more, was
    rotated before, or is given by the environment."""
    if overlap > LONGEST_LIFE:
        raise BadKeyRequest(f"the overlap lasts at most {LONGEST_LIFE // 86_400} days")
    with isolation.of(key.tenant_id), transaction.atomic():
        old = ApiKey.objects.select_for_update(of=("self",)).select_related("tenant").get(
            tenant_id=key.tenant_id, pk=key.pk
        )  # fmt: skip
        if (reason := why_not_rotated(old, now=now)) is not None:
            raise BadKeyRequest(reason)
        lifetime = None
        if old.expires_at is not None:
            lifetime = max(1, old.expires_at - int(old.created_at.timestamp()))
        new = _make(
            tenant=old.tenant,
            kind=old.kind,
            user_id=old.user_id,
            label=old.label,
            scopes=old.scopes,
            networks=old.networks,
            expires_at=None if lifetime is None else int(now) + lifetime,
        )
        ends = int(now) + overlap
        if old.expires_at is None or old.expires_at > ends:
            old.expires_at = ends
        old.rotated_at = int(now)
        old.save(update_fields=["expires_at", "rotated_at"])
        audit.record(
            tenant=old.tenant, actor=actor, action="rotate_key", subject=old.user_id, now=now,
            key=old.prefix, ends=old.expires_at, by=new.row.prefix,
        )  # fmt: skip
        audit.record(
            tenant=old.tenant, actor=actor, action="create_key", subject=old.user_id, now=now,
            key=new.row.prefix, scopes=new.row.scopes, in_place_of=old.prefix,
        )  # fmt: skip
    return new


def why_not_rotated(key: ApiKey, *, now: float) -> str | None:
    """Why this key cannot have a successor; None: it can."""
    if key.revoked_at is not None:
        return "this key is revoked; make a new one"
    if key.expires_at is not None and key.expires_at <= now:
        return "this key has ended; make a new one"
    if key.rotated_at is not None:
        return "this key was rotated before; rotate the one that was made in place of it"
    if key.from_environment:
        return (
            "this key is the one that OAUTHVAULT_SERVICE_KEY gives; put another value there, and "
            "the next start takes it in place of this one"
        )
    if key.tenant.deletion_began_at is not None:
        return f"tenant {key.tenant.slug} is being deleted"
    return None


def _make(*, kind: str, **columns: Any) -> NewKey:
    text = ApiKeyText(_PREFIX[KeyKind(kind)] + secrets.token_urlsafe(32))
    row = ApiKey.objects.create(
        kind=kind,
        prefix=text.reveal()[:SHOWN],
        digest=api_key_digest(text.reveal()),
        **columns,
    )
    return NewKey(row=row, text=text)


@isolation.of_its_tenant
def adopt_environment_key(*, tenant: Tenant, text: Secret, now: float) -> ApiKey | None:
    """Make OAUTHVAULT_SERVICE_KEY a service key, once. Another value retires the one
    before; one that was revoked stays revoked (None). BadKeyRequest for what is no key, or is
    another tenant's, and then nothing is retired."""
    if not _SHAPE.fullmatch(text.reveal()) or not text.reveal().startswith("ovs_"):
        raise BadKeyRequest(
            "OAUTHVAULT_SERVICE_KEY must be ovs_ and at least 43 characters of base64url"
        )
    digest = api_key_digest(text.reveal())
    with transaction.atomic():
        for old in ApiKey.objects.filter(
            tenant=tenant, from_environment=True, revoked_at=None
        ).exclude(digest=digest):
            revoke_key(key=old, actor="environment", now=now)
        row = ApiKey.objects.filter(digest=digest).first()
        if row is None:
            try:
                with transaction.atomic():
                    row = ApiKey.objects.create(
                        tenant=tenant,
                        kind=KeyKind.SERVICE,
                        label="OAUTHVAULT_SERVICE_KEY",
                        prefix=text.reveal()[:SHOWN],
                        digest=digest,
                        scopes=_ALL,
                        from_environment=True,
                    )
            except IntegrityError:
                # Another process has made it in the same moment; or it is a key of a tenant
                # whose rows are not to be seen from here.
                row = ApiKey.objects.filter(digest=digest).first()
                if row is None:
                    raise BadKeyRequest(
                        "OAUTHVAULT_SERVICE_KEY is a key of another tenant already; give one "
                        "that was made for this variable only"
                    ) from None
            else:
                audit.record(
                    tenant=tenant, actor="environment", action="create_key", now=now,
                    key=row.prefix,
                )  # fmt: skip
    return row if row.revoked_at is None else None


def find_key(text: str) -> ApiKey | None:
    """The key with this text, with its tenant, whatever its state; None if there is none.

    Looked up by keyed hash: how long it takes says nothing about keys that exist.
    """
    digest = digest_of(text)
    return None if digest is None else key_with(digest)


def digest_of(text: str) -> str | None:
    """What would be stored of this key; None for a text in whose shape no key is."""
    return api_key_digest(text) if _SHAPE.fullmatch(text) else None


def key_with(digest: str) -> ApiKey | None:
    """The key of this `digest_of`, with its tenant, whatever its state."""
    with isolation.key_shown(digest):
        return _BY_DIGEST.first(digest=digest)


_BY_DIGEST = Prepared(
    lambda digest: ApiKey.unscoped.filter(digest=digest).order_by().select_related("tenant"),
    stand_ins={"digest": "a digest"},
)


def revoke_key(*, key: ApiKey, actor: str, now: float) -> bool:
    """Revoke, with effect on the next request. False: it was revoked already."""
    with isolation.of(key.tenant_id), transaction.atomic():
        changed = ApiKey.objects.filter(tenant_id=key.tenant_id, pk=key.pk, revoked_at=None).update(
            revoked_at=int(now)
        )
        if changed:
            audit.record(
                tenant=key.tenant, actor=actor, action="revoke_key", subject=key.user_id, now=now,
                key=key.prefix,
            )  # fmt: skip
    return bool(changed)


def _checked_scopes(scopes: Iterable[str]) -> list[str]:
    wanted = list(dict.fromkeys(scopes))
    unknown = [scope for scope in wanted if scope not in _ALL]
    if unknown:
        raise BadKeyRequest(f"{redact(unknown[0])!r} is no scope; the scopes are {', '.join(_ALL)}")
    return wanted


def _checked_label(label: str) -> str:
    try:
        return checked_label(label)
    except ValueError as error:
        raise BadKeyRequest(f"a label {error}") from None


def _checked_networks(networks: Iterable[str]) -> list[str]:
    try:
        return checked_networks(networks)
    except ValueError as error:
        raise BadKeyRequest(redact(str(error))) from None
