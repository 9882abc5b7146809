"""The managers of everything that belongs to a tenant: they show the current tenants' rows."""

from collections.abc import Iterable
from typing import Any, TypeVar

from django.db import models

from tokens import isolation

M = TypeVar("M", bound="OfTenant")
Row = TypeVar("Row", bound=models.Model)


class ScopedQuerySet(models.QuerySet[M]):
    """Many rows at once are written for the current tenants only, as a single one is."""

    def bulk_create(
        self,
        objs: Iterable[M],
        batch_size: int | None = None,
        ignore_conflicts: bool = False,
        update_conflicts: bool = False,
        *fields: Any,
        **named_fields: Any,
    ) -> list[M]:
        objs = list(objs)
        for row in objs:
            row.refuse_others()
        if update_conflicts:
            # Whose rows they are that get overwritten, nobody knows before.
            _refuse(self.model, None)
        return super().bulk_create(
            objs, batch_size, ignore_conflicts, update_conflicts, *fields, **named_fields
        )

    def bulk_update(self, objs: Iterable[M], *args: Any, **kwargs: Any) -> int:
        objs = list(objs)
        for row in objs:
            row.refuse_others()
        return super().bulk_update(objs, *args, **kwargs)

    def update(self, **changes: Any) -> int:
        """A row is given to no tenant for whom nobody is at work; and to one that only the
        database works out (an expression) by code at work for everybody."""
        column = self.model.tenant_column
        for name in {column, column.removesuffix("_id")} & changes.keys():
            _refuse(self.model, getattr(changes[name], "pk", changes[name]))
        return super().update(**changes)


class ScopedManager(models.Manager[M]):
    """Rows of the tenants for whom the code is at work (`tokens.isolation`), and no others.

    IsolationError where nobody has said for whom: a forgotten scope is found by the first
    query, and on every database. PostgreSQL's row-level security stands behind it.
    """

    _queryset_class = ScopedQuerySet

    def get_queryset(self) -> models.QuerySet[M]:
        rows: models.QuerySet[M] = super().get_queryset()
        scope = isolation.current()
        if scope.tenant_ids is None:
            return rows
        if not scope.tenant_ids:
            raise isolation.IsolationError(
                f"rows of {self.model.__name__} were asked for by code that is at work for nobody"
            )
        column = self.model.tenant_column
        if len(scope.tenant_ids) == 1:
            (only,) = scope.tenant_ids
            return rows.filter(**{column: only})
        wanted: Any = sorted(scope.tenant_ids)
        return rows.filter(**{f"{column}__in": wanted})


class OfTenant(models.Model):
    """A row that belongs to a tenant, and is written by code at work for that one only.

    So says row-level security too; this says it on every database.
    """

    # That of a Tenant is its own id.
    tenant_column = "tenant_id"

    objects: ScopedManager[Any] = ScopedManager()

    class Meta:
        abstract = True
        # By it Django reads and writes what it holds the key of: `save`, a foreign key,
        # `refresh_from_db`, what is deleted with a row. A foreign row is a missing one there too.
        base_manager_name = "objects"

    def save(self, *args: Any, **kwargs: Any) -> None:
        self.refuse_others()
        super().save(*args, **kwargs)

    def delete(self, *args: Any, **kwargs: Any) -> tuple[int, dict[str, int]]:
        self.refuse_others()
        # Django deletes by the key alone, and the row that has it may be another tenant's.
        if self.pk is not None and not type(self)._default_manager.filter(pk=self.pk).exists():
            return 0, {}
        return super().delete(*args, **kwargs)

    def refuse_others(self) -> None:
        """IsolationError if nobody is at work for the tenant that the object names."""
        _refuse(type(self), getattr(self, self.tenant_column))


class Unscoped(models.Manager[Row]):
    """All rows, whoever asks. For statements that are compiled once and name their tenant as
    a value (`tokens.prepared`); a test has the list of everybody who may use it."""


def _refuse(model: type[models.Model], tenant_id: Any) -> None:
    if not isolation.covers(tenant_id):
        raise isolation.IsolationError(
            f"a {model.__name__} of a tenant for whom nobody is at work is not written"
        )
