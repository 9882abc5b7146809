"""Making, finding, retiring API keys. The key itself is shown once, by whoever made it."""

import ipaddress
import re
import secrets
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from django.db import IntegrityError, transaction

from api.models import ApiKey, KeyKind
from tokens import audit
from tokens.errors import VaultError
from tokens.keyring import api_key_digest
from tokens.models import Tenant
from tokens.prepared import Prepared
from tokens.secret import Secret

_PREFIX = {KeyKind.SERVICE: "ovs_", KeyKind.USER: "ovu_"}
_SHAPE = re.compile(r"ov[su]_[A-Za-z0-9_-]{43,200}")
_SHOWN = 12
LONGEST_USER_ID = 256


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
    """A new key: of the tenant's service, or of one user if ``user_id`` is given."""
    kind = KeyKind.USER if user_id else KeyKind.SERVICE
    if user_id:
        check_user_id(user_id, tenant=tenant)
    text = ApiKeyText(_PREFIX[kind] + secrets.token_urlsafe(32))
    with transaction.atomic():
        row = ApiKey.objects.create(
            tenant=tenant,
            kind=kind,
            user_id=user_id,
            label=label,
            prefix=text.reveal()[:_SHOWN],
            digest=api_key_digest(text.reveal()),
            scopes=_checked_scopes(scopes) or (_USER_DEFAULT if user_id else _ALL),
            networks=_checked_networks(networks),
            expires_at=expires_at,
        )
        audit.record(
            tenant=tenant, actor=actor, action="create_key", subject=user_id, now=now,
            key=row.prefix, scopes=row.scopes,
        )  # fmt: skip
    return NewKey(row=row, text=text)


def adopt_environment_key(*, tenant: Tenant, text: Secret, now: float) -> ApiKey | None:
    """Make OAUTHVAULT_SERVICE_KEY a service key, once. Another value retires the one
    before; one that was revoked stays revoked (None)."""
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
                        prefix=text.reveal()[:_SHOWN],
                        digest=digest,
                        scopes=_ALL,
                        from_environment=True,
                    )
            except IntegrityError:
                row = ApiKey.objects.get(digest=digest)
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
    if not _SHAPE.fullmatch(text):
        return None
    return _BY_DIGEST.first(digest=api_key_digest(text))


_BY_DIGEST = Prepared(
    lambda digest: ApiKey.objects.filter(digest=digest).order_by().select_related("tenant"),
    stand_ins={"digest": "a digest"},
)


def revoke_key(*, key: ApiKey, actor: str, now: float) -> bool:
    """Revoke, with effect on the next request. False: it was revoked already."""
    with transaction.atomic():
        changed = ApiKey.objects.filter(tenant_id=key.tenant_id, pk=key.pk, revoked_at=None).update(
            revoked_at=int(now)
        )
        if changed:
            audit.record(
                tenant=key.tenant, actor=actor, action="revoke_key", subject=key.user_id, now=now,
                key=key.prefix,
            )  # fmt: skip
    return bool(changed)


def check_user_id(user_id: str, *, tenant: Tenant) -> None:
    """BadKeyRequest unless this can be the id of a user of this tenant."""
    if not 0 < len(user_id) <= LONGEST_USER_ID:
        raise BadKeyRequest(f"a user id has 1 to {LONGEST_USER_ID} characters")
    if any(unicodedata.category(character) == "Cc" for character in user_id):
        raise BadKeyRequest("a user id has no control characters")
    if user_id == "default" and not tenant.has_default_user:
        raise BadKeyRequest("this tenant has many users, and none may be called default")


def _checked_scopes(scopes: Iterable[str]) -> list[str]:
    wanted = list(dict.fromkeys(scopes))
    unknown = [scope for scope in wanted if scope not in _ALL]
    if unknown:
        raise BadKeyRequest(f"{unknown[0]!r} is no scope; the scopes are {', '.join(_ALL)}")
    return wanted


def _checked_networks(networks: Iterable[str]) -> list[str]:
    checked = []
    for network in networks:
        try:
            checked.append(str(ipaddress.ip_network(network, strict=True)))
        except ValueError:
            raise BadKeyRequest(
                f"{network!r} is no network; write it like 10.1.2.0/24 or 2001:db8::/48"
            ) from None
    return checked
