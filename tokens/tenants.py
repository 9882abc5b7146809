"""Tenants: made, set, suspended, resumed. `tokens.deletion` is their end."""

from datetime import UTC, datetime
from typing import Any

from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction

from oauthvault.logging import redact
from tokens import audit, isolation
from tokens.errors import VaultError
from tokens.labels import checked_label
from tokens.models import DEFAULT_TENANT, Backoff, Tenant
from tokens.models.tenant import SLUG
from tokens.networks import checked_networks

LONGEST_THRESHOLD, MOST_RETRIES = 86_400, 10
SETTINGS = (
    "name",
    "has_default_user",
    "auto_refresh",
    "refresh_threshold",
    "max_retries",
    "retry_backoff",
    "key_networks",
)


class NoTenant(VaultError):
    """There is no tenant of this name."""

    code = "no_tenant"


class BadTenantRequest(VaultError):
    """A tenant that cannot be made, or set, as asked. ``field``: which setting it is."""

    code = "invalid_request"

    def __init__(self, detail: str, *, field: str | None = None) -> None:
        super().__init__(detail)
        self.field = field


def find_tenant(slug: str) -> Tenant:
    tenant = Tenant.objects.filter(slug=slug).first()
    if tenant is None:
        raise NoTenant(
            f"there is no tenant {slug!r}: `oauthvault list_tenants` names those there are"
        )
    return tenant


def create_tenant(*, slug: str, name: str = "", actor: str, now: float) -> Tenant:
    """A tenant of many users, each named by every request that concerns them."""
    try:
        SLUG(slug)
    except ValidationError as error:
        raise BadTenantRequest(f"{slug!r} is no name for a tenant. {error.messages[0]}") from None
    checked_setting("name", name)
    try:
        with transaction.atomic():
            tenant = Tenant.objects.create(slug=slug, name=name)
            audit.record(tenant=tenant, actor=actor, action="create_tenant", now=now)
            return tenant
    except IntegrityError:
        raise BadTenantRequest(f"there is a tenant {slug!r} already") from None


@isolation.every_tenant()
def ensure_default_tenant(*, now: float) -> Tenant:
    """The tenant ``default``, with its default user, as the first start makes it."""
    tenant, created = Tenant.objects.get_or_create(
        slug=DEFAULT_TENANT, defaults={"has_default_user": True}
    )
    if created:
        audit.record(tenant=tenant, actor="first start", action="create_tenant", now=now)
    return tenant


@isolation.of_its_tenant
def change_tenant(*, tenant: Tenant, actor: str, now: float, **chosen: Any) -> bool:
    """Set those of `SETTINGS` that are given; None, or an empty text, means: as the
    deployment is set. False: nothing of it was another value before. BadTenantRequest for
    a value that cannot be, and then nothing is set."""
    if unknown := chosen.keys() - set(SETTINGS):
        raise BadTenantRequest(f"{min(unknown)!r} is no setting of a tenant")
    wanted = {name: checked_setting(name, value) for name, value in chosen.items()}
    with transaction.atomic():
        before = Tenant.objects.select_for_update().get(pk=tenant.pk)
        changes = {name: value for name, value in wanted.items() if getattr(before, name) != value}
        if changes:
            Tenant.objects.filter(pk=tenant.pk).update(**changes)
            audit.record(tenant=tenant, actor=actor, action="change_tenant", now=now, **changes)
    return bool(changes)


def checked_setting(name: str, value: Any) -> Any:
    """The value as it is stored. BadTenantRequest says what would be right."""
    if name == "name":
        try:
            return checked_label(value)
        except ValueError as error:
            raise BadTenantRequest(f"name {error}", field=name) from None
    if name == "refresh_threshold":
        return _whole_number(name, value, least=1, most=LONGEST_THRESHOLD)
    if name == "max_retries":
        return _whole_number(name, value, least=0, most=MOST_RETRIES)
    if name == "retry_backoff" and value not in {"", *Backoff.values}:
        raise BadTenantRequest(
            f"retry_backoff must be one of {', '.join(Backoff.values)}, not {value!r}", field=name
        )
    if name == "key_networks":
        try:
            return checked_networks(value)
        except ValueError as error:
            raise BadTenantRequest(f"key_networks: {redact(str(error))}", field=name) from None
    return value


def _whole_number(name: str, value: int | None, *, least: int, most: int) -> int | None:
    if value is not None and not least <= value <= most:
        raise BadTenantRequest(
            f"{name} must be a whole number from {least} to {most}, not {value}", field=name
        )
    return value


@isolation.of_its_tenant
def suspend_tenant(*, tenant: Tenant, actor: str, now: float) -> bool:
    """Stop everything of this tenant at once; nothing is lost. False: it was suspended."""
    return _set_suspended(tenant, datetime.fromtimestamp(now, UTC), actor, "suspend_tenant", now)


@isolation.of_its_tenant
def resume_tenant(*, tenant: Tenant, actor: str, now: float) -> bool:
    """End a tenant's suspension. False: it was not suspended. BadTenantRequest for one that
    is being deleted: what it had is gone, or going."""
    if Tenant.objects.filter(pk=tenant.pk, deletion_began_at__isnull=False).exists():
        raise BadTenantRequest(
            f"tenant {tenant.slug} is being deleted and cannot be resumed; "
            f"`oauthvault delete_tenant {tenant.slug}` goes on with it"
        )
    return _set_suspended(tenant, None, actor, "resume_tenant", now)


def _set_suspended(
    tenant: Tenant, at: datetime | None, actor: str, action: str, now: float
) -> bool:
    with transaction.atomic():
        changed = Tenant.objects.filter(
            pk=tenant.pk, suspended_at__isnull=at is not None, deletion_began_at=None
        ).update(suspended_at=at)
        if changed:
            audit.record(tenant=tenant, actor=actor, action=action, now=now)
    return bool(changed)
