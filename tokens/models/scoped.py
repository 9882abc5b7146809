"""The managers of everything that belongs to a tenant: they show the current tenants' rows."""

from typing import Any, TypeVar

from django.db import models

from tokens import isolation

M = TypeVar("M", bound=models.Model)


class ScopedManager(models.Manager[M]):
    """Rows of the tenants for whom the code is at work (`tokens.isolation`), and no others.

    IsolationError where nobody has said for whom: a forgotten scope is found by the first
    query, and on every database. PostgreSQL's row-level security stands behind it.
    """

    # The column of the tenant; that of a Tenant is its own id.
    tenant_column = "tenant_id"

    def get_queryset(self) -> models.QuerySet[M]:
        rows: models.QuerySet[M] = super().get_queryset()
        scope = isolation.current()
        if scope.tenant_ids is None:
            return rows
        if not scope.tenant_ids:
            raise isolation.IsolationError(
                f"rows of {self.model.__name__} were asked for by code that is at work for nobody"
            )
        if len(scope.tenant_ids) == 1:
            (only,) = scope.tenant_ids
            return rows.filter(**{self.tenant_column: only})
        wanted: Any = sorted(scope.tenant_ids)
        return rows.filter(**{f"{self.tenant_column}__in": wanted})


class TenantManager(ScopedManager[M]):
    tenant_column = "pk"


class OfTenant(models.Model):
    """A row that belongs to a tenant, and is written by code at work for that one only.

    So says row-level security too; this says it on every database. What Django itself reads by
    a key it holds (`refresh_from_db`, a foreign key) is held back by PostgreSQL alone.
    """

    tenant_attribute = "tenant_id"

    class Meta:
        abstract = True

    def save(self, *args: Any, **kwargs: Any) -> None:
        self._refuse_others()
        super().save(*args, **kwargs)

    def delete(self, *args: Any, **kwargs: Any) -> tuple[int, dict[str, int]]:
        self._refuse_others()
        return super().delete(*args, **kwargs)

    def _refuse_others(self) -> None:
        if not isolation.covers(getattr(self, self.tenant_attribute)):
            raise isolation.IsolationError(
                f"a {type(self).__name__} of a tenant for whom nobody is at work is not written"
            )


class Unscoped(models.Manager[M]):
    """All rows, whoever asks. For statements that are compiled once and name their tenant as
    a value (`tokens.prepared`); a test has the list of everybody who may use it."""
