"""Tenants: made, suspended, resumed."""

from datetime import UTC, datetime
from typing import Any

from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction

from tokens import audit
from tokens.errors import VaultError
from tokens.models import DEFAULT_TENANT, Tenant
from tokens.models.tenant import SLUG

_SETTINGS = {"name", "has_default_user", "auto_refresh", "refresh_threshold"}


class NoTenant(VaultError):
    """There is no tenant of this name."""

    code = "no_tenant"


class BadTenantRequest(VaultError):
    """A tenant that cannot be made as asked."""

    code = "invalid_request"


def find_tenant(slug: str) -> Tenant:
    tenant = Tenant.objects.filter(slug=slug).first()
    if tenant is None:
        raise NoTenant(f"there is no tenant {slug!r}; `oauthvault create_tenant {slug}` makes one")
    return tenant


def create_tenant(*, slug: str, name: str = "", actor: str, now: float) -> Tenant:
    """A tenant of many users, each named by every request that concerns them."""
    try:
        SLUG(slug)
    except ValidationError as error:
        raise BadTenantRequest(f"{slug!r} is no name for a tenant. {error.messages[0]}") from None
    try:
        with transaction.atomic():
            tenant = Tenant.objects.create(slug=slug, name=name)
            audit.record(tenant=tenant, actor=actor, action="create_tenant", now=now)
            return tenant
    except IntegrityError:
        raise BadTenantRequest(f"there is a tenant {slug!r} already") from None


def ensure_default_tenant(*, now: float) -> Tenant:
    """The tenant ``default``, with its default user, as the first start makes it."""
    tenant, created = Tenant.objects.get_or_create(
        slug=DEFAULT_TENANT, defaults={"has_default_user": True}
    )
    if created:
        audit.record(tenant=tenant, actor="first start", action="create_tenant", now=now)
    return tenant


def change_tenant(*, tenant: Tenant, actor: str, now: float, **chosen: Any) -> bool:
    """Set ``name``, ``has_default_user``, ``auto_refresh``, ``refresh_threshold``: those that
    are given. False: nothing of it was another value before."""
    if unknown := chosen.keys() - _SETTINGS:
        raise BadTenantRequest(f"{min(unknown)!r} is no setting of a tenant")
    with transaction.atomic():
        before = Tenant.objects.select_for_update().get(pk=tenant.pk)
        changes = {name: value for name, value in chosen.items() if getattr(before, name) != value}
        if changes:
            Tenant.objects.filter(pk=tenant.pk).update(**changes)
            audit.record(tenant=tenant, actor=actor, action="change_tenant", now=now, **changes)
    return bool(changes)


def suspend_tenant(*, tenant: Tenant, actor: str, now: float) -> bool:
    """Stop everything of this tenant at once; nothing is lost. False: it was suspended."""
    return _set_suspended(tenant, datetime.fromtimestamp(now, UTC), actor, "suspend_tenant", now)


def resume_tenant(*, tenant: Tenant, actor: str, now: float) -> bool:
    """End a tenant's suspension. False: it was not suspended."""
    return _set_suspended(tenant, None, actor, "resume_tenant", now)


def _set_suspended(
    tenant: Tenant, at: datetime | None, actor: str, action: str, now: float
) -> bool:
    with transaction.atomic():
        changed = Tenant.objects.filter(pk=tenant.pk, suspended_at__isnull=at is not None).update(
            suspended_at=at
        )
        if changed:
            audit.record(tenant=tenant, actor=actor, action=action, now=now)
    return bool(changed)
