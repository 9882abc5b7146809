"""Whose rows the code at work may see: the current tenants, in one place.

A scope is entered for a stretch of code, and ends with it. The managers of every model that
belongs to a tenant read it (`tokens.models.scoped`), and on PostgreSQL the database does too,
by row-level security. Without a scope there is nothing to see: whoever forgets to say for
whom asks for nobody.
"""

import functools
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

_DIGEST = re.compile(r"[0-9a-f]{64}")


class IsolationError(RuntimeError):
    """Code asked for rows of a tenant for whom it is not at work. A mistake of ours."""


@dataclass(frozen=True)
class Scope:
    """``tenant_ids``: whose rows are to be seen; None: everybody's. ``key_digest``: of the API
    key that is shown, whose own row (and tenant) may be seen before its tenant is known."""

    tenant_ids: frozenset[int] | None = frozenset()
    key_digest: str = ""

    @property
    def is_everybody(self) -> bool:
        return self.tenant_ids is None


NOBODY = Scope()
_EVERYBODY = Scope(tenant_ids=None)
_current: ContextVar[Scope] = ContextVar("current_tenants", default=NOBODY)
_may_enter: ContextVar[bool] = ContextVar("a_request_has_begun", default=False)


def current() -> Scope:
    return _current.get()


@contextmanager
def of(*tenant_ids: int) -> Iterator[None]:
    """At work for these tenants. IsolationError inside the scope of others: a scope is
    narrowed by another one, and never moved to somebody else."""
    around = _current.get()
    wanted = frozenset(tenant_ids)
    if not wanted:
        raise IsolationError("at work for tenants, and none is named")
    if around.tenant_ids and not wanted <= around.tenant_ids:
        raise IsolationError("at work for one tenant, and asked for another")
    with _entered(Scope(tenant_ids=wanted)):
        yield


@contextmanager
def every_tenant() -> Iterator[None]:
    """At work for the whole deployment (the sweep, an operator of all tenants). A test has
    the list of everybody who may say so."""
    with _entered(_EVERYBODY):
        yield


@contextmanager
def key_shown(digest: str) -> Iterator[None]:
    """Looking for the key with this digest: its row, and its tenant's, are to be seen."""
    if not _DIGEST.fullmatch(digest):
        raise IsolationError("not the digest of a key")
    with _entered(Scope(key_digest=digest)):
        yield


@contextmanager
def nobody() -> Iterator[None]:
    """At work for nobody, whatever is around: where a request or a task begins."""
    token = _may_enter.set(True)
    try:
        with _entered(NOBODY):
            yield
    finally:
        _may_enter.reset(token)


def of_its_tenant(function: Callable[P, R]) -> Callable[P, R]:
    """Decorates what is asked with ``tenant=`` by name: it is at work for that one."""

    @functools.wraps(function)
    def at_work(*args: P.args, **kwargs: P.kwargs) -> R:
        tenant: Any = kwargs["tenant"]
        with of(tenant.pk):
            return function(*args, **kwargs)

    return at_work


def covers(tenant_id: int | None) -> bool:
    """Whether the code at work may see rows of this tenant; None: of no tenant, or of one that
    is not there yet, which is for who sees everybody's."""
    tenant_ids = _current.get().tenant_ids
    return tenant_ids is None or tenant_id in tenant_ids


def enter(tenant_id: int) -> None:
    """From here on, to the end of the `nobody` around it, at work for this tenant: where a
    request has shown its key. IsolationError anywhere else: nothing would end it."""
    if not _may_enter.get() or _current.get() != NOBODY:
        raise IsolationError("a scope is entered for good once, where a request begins")
    _current.set(Scope(tenant_ids=frozenset({tenant_id})))


@contextmanager
def _entered(scope: Scope) -> Iterator[None]:
    token = _current.set(scope)
    try:
        yield
    finally:
        _current.reset(token)
