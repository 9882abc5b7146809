"""Who in the dashboard may do what, and for whom: three roles, and the tenants of an operator.

A role is a group of Django's with permissions; a migration makes the three. For whom somebody
is at work is another question: a platform administrator for every tenant, anybody else for
those that are assigned to them, and for nobody before one is.
"""

from collections.abc import Iterable
from enum import StrEnum
from typing import Any

from django.contrib.auth.base_user import AbstractBaseUser
from django.contrib.auth.models import AnonymousUser, Group, User
from django.db import transaction

from tokens import audit, isolation
from tokens.models import Account, Assignment, Tenant

ALL_TENANTS = "tokens.all_tenants"


class Role(StrEnum):
    """The names of the groups."""

    ADMINISTRATOR = "Platform administrators"
    OPERATOR = "Tenant operators"
    AUDITOR = "Tenant auditors"


class RoleMissing(LookupError):
    """The group of a role is not there: somebody has deleted or renamed it."""


def tenants_of(user: AbstractBaseUser | AnonymousUser) -> frozenset[int] | None:
    """The ids of the tenants that this operator is at work for; None: every tenant."""
    if not isinstance(user, User) or not (user.is_active and user.is_staff):
        return frozenset()
    if user.has_perm(ALL_TENANTS):
        return None
    with isolation.every_tenant():
        return frozenset(
            Assignment.objects.filter(operator=user).values_list("tenant_id", flat=True)
        )


def create_operator(
    *,
    name: str,
    password: str,
    role: Role | None,
    tenants: Iterable[Tenant] = (),
    must_change_password: bool = False,
    actor: str,
    now: float,
) -> User:
    """Somebody who can sign in to the dashboard; ``role`` None: a superuser, who may do all of
    it and make other operators. RoleMissing if the role's group is not there.

    ``must_change_password``: they see nothing before they have chosen another one."""
    tenants = list(tenants)
    with transaction.atomic():
        if role is None:
            user = User.objects.create_superuser(username=name, email="", password=password)
        else:
            group = Group.objects.filter(name=role.value).first()
            if group is None:
                raise RoleMissing(f"there is no group {role.value!r}: `oauthvault migrate` made it")
            user = User.objects.create_user(username=name, password=password, is_staff=True)
            user.groups.add(group)
        if must_change_password:
            Account.objects.create(operator=user, must_change_password=True)
        record(
            action="create_operator", subject=user.get_username(), actor=actor, now=now,
            role=_called(role), tenants=[tenant.slug for tenant in tenants],
        )  # fmt: skip
        for tenant in tenants:
            assign(operator=user, tenant=tenant, actor=actor, now=now)
    return user


def set_password(*, operator: User, password: str, actor: str, now: float) -> None:
    """Another password, which somebody else has chosen: the operator sees nothing before they have
    changed it. Whoever is signed in with the old one is signed out."""
    with transaction.atomic():
        operator.set_password(password)
        operator.save(update_fields=["password"])
        Account.objects.update_or_create(operator=operator, defaults={"must_change_password": True})
        record(action="set_password", subject=operator.get_username(), actor=actor, now=now)


def record(*, action: str, subject: str, actor: str, now: float, **detail: Any) -> None:
    """Write down what was done to an account, or to a group of them. Those are of no tenant:
    so it is an act of the whole deployment's, whomever the request is at work for."""
    with isolation.every_tenant():
        audit.record(tenant=None, actor=actor, action=action, subject=subject, now=now, **detail)


def assign(*, operator: User, tenant: Tenant, actor: str, now: float) -> bool:
    """From their next request on the operator looks after this tenant too. False: already so."""
    with isolation.of(tenant.pk), transaction.atomic():
        _, is_new = Assignment.objects.get_or_create(operator=operator, tenant=tenant)
        if is_new:
            audit.record(
                tenant=tenant, actor=actor, action="assign_operator",
                subject=operator.get_username(), now=now,
            )  # fmt: skip
    return is_new


def withdraw(*, operator: User, tenant: Tenant, actor: str, now: float) -> bool:
    """From their next request on the operator sees nothing of this tenant. False: already so."""
    with isolation.of(tenant.pk), transaction.atomic():
        gone, _ = Assignment.objects.filter(operator=operator, tenant=tenant).delete()
        if gone:
            audit.record(
                tenant=tenant, actor=actor, action="withdraw_operator",
                subject=operator.get_username(), now=now,
            )  # fmt: skip
    return bool(gone)


def _called(role: Role | None) -> str:
    return "superuser" if role is None else role.value
