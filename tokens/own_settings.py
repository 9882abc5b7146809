"""How one credential is refreshed: what it has of its own, and what governs where it has not."""

from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.db import transaction

from tokens import audit, isolation
from tokens.errors import NoToken, TenantSuspended
from tokens.models import OAuthCredential, Standing, Tenant
from tokens.refresh.schedule import planned_anew
from tokens.tenants import checked_setting

NAMES = ("auto_refresh", "refresh_threshold", "max_retries", "retry_backoff")
# What decides when the next refresh is due.
_OF_THE_PLAN = {"auto_refresh", "refresh_threshold"}


@dataclass(frozen=True, kw_only=True)
class Governing:
    """``own``: what is set for the credential; None: nothing. ``effective``: what is done.
    ``governed_by``: for each setting whose it is, ``credential``, ``tenant`` or ``deployment``.
    """

    own: dict[str, Any]
    effective: dict[str, Any]
    governed_by: dict[str, str]


def governing(credential: OAuthCredential) -> Governing:
    """Each setting is the credential's own, else its tenant's, else the deployment's. A switch
    that is off is off: it takes all three for a credential to be refreshed ahead."""
    return Governing(
        own=own_of(credential),
        effective={
            "auto_refresh": credential.refreshes_ahead,
            "refresh_threshold": credential.threshold,
            "max_retries": credential.retries,
            "retry_backoff": credential.backoff.value,
        },
        governed_by={name: _governor(credential, name) for name in NAMES},
    )


def own_of(credential: OAuthCredential) -> dict[str, Any]:
    """By name; None: as the tenant is set."""
    return {name: getattr(credential, name) for name in NAMES}


def in_words(credential: OAuthCredential) -> str:
    """``auto_refresh off, refresh_threshold 600``; empty where it has nothing of its own."""
    return ", ".join(
        f"{name} {_told(value)}" for name, value in own_of(credential).items() if value is not None
    )


@isolation.of_its_tenant
def describe_settings(*, tenant: Tenant, user_id: str) -> OAuthCredential:
    """The credential whose settings are asked for. NoToken if there is none (any more)."""
    return _found(tenant, user_id)


@isolation.of_its_tenant
def set_own_settings(
    *, tenant: Tenant, user_id: str, actor: str, now: float, **chosen: Any
) -> OAuthCredential:
    """Set all of `NAMES` for one credential; None, or not given, means: as its tenant is set.

    The next refresh is planned anew by them. One that is under way is not disturbed: neither
    lease nor generation is touched. What is set stays through refreshes and new logins of
    the user. NoToken if nothing is stored; BadTenantRequest for a value that cannot be, and
    then nothing is set. Nothing is written where nothing changes.
    """
    wanted = {name: _checked(name, chosen.pop(name, None)) for name in NAMES}
    if chosen:
        raise TypeError(f"{min(chosen)} is no setting of a credential")
    return _set(tenant, user_id, wanted, actor=actor, now=now)


@isolation.of_its_tenant
def suspend_auto_refresh(*, tenant: Tenant, user_id: str, actor: str, now: float) -> None:
    """From now on it is refreshed when somebody asks for it by name, and not ahead; its other
    settings stay. NoToken if nothing is stored."""
    _set(tenant, user_id, {"auto_refresh": False}, actor=actor, now=now)


@isolation.of_its_tenant
def resume_auto_refresh(*, tenant: Tenant, user_id: str, actor: str, now: float) -> None:
    """Refreshed ahead again, as its tenant is set. NoToken if nothing is stored."""
    _set(tenant, user_id, {"auto_refresh": None}, actor=actor, now=now)


def _set(
    tenant: Tenant, user_id: str, wanted: dict[str, Any], *, actor: str, now: float
) -> OAuthCredential:
    credential = _found(tenant, user_id)
    if not _differing(credential, wanted):
        return credential
    with transaction.atomic():
        credential = _found(tenant, user_id, for_change=True)
        changes = _differing(credential, wanted)
        for name, value in changes.items():
            setattr(credential, name, value)
        written = [*changes, "updated_at"]
        if changes.keys() & _OF_THE_PLAN:
            credential.refresh_due_at = planned_anew(credential, now=now)
            written.append("refresh_due_at")
        if changes:
            credential.save(update_fields=written)
            audit.record(
                tenant=tenant,
                actor=actor,
                action="refresh_settings",
                subject=user_id,
                now=now,
                **changes,
            )
    return credential


def _differing(credential: OAuthCredential, wanted: dict[str, Any]) -> dict[str, Any]:
    before = own_of(credential)
    return {name: value for name, value in wanted.items() if before[name] != value}


def _found(tenant: Tenant, user_id: str, *, for_change: bool = False) -> OAuthCredential:
    if tenant.suspended_at is not None:
        raise TenantSuspended("This tenant is suspended.")
    rows = OAuthCredential.objects.for_tenant(tenant)
    if for_change:
        rows = rows.select_for_update(of=("self",))
    credential = rows.filter(user_id=user_id).exclude(standing=Standing.REVOKED).first()
    if credential is None:
        raise NoToken("No OAuth token found")
    credential.tenant = tenant
    return credential


def _checked(name: str, value: Any) -> Any:
    return None if value in (None, "") else checked_setting(name, value)


def _governor(credential: OAuthCredential, name: str) -> str:
    own, of_tenant = getattr(credential, name), getattr(credential.tenant, name)
    if name == "auto_refresh" and False in (settings.CLAUDE_OAUTH_AUTO_REFRESH, of_tenant):
        return "tenant" if settings.CLAUDE_OAUTH_AUTO_REFRESH else "deployment"
    if own is not None:
        return "credential"
    # A tenant's growth of the pauses is a text, which is empty where it has none.
    return "deployment" if of_tenant in (None, "") else "tenant"


def _told(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return str(value)
