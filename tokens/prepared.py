"""Queries that are asked with every request, compiled once.

Half of what a hand-out costs is the ORM's compiling of the same two statements over and
over. A `Prepared` has Django compile its queryset with stand-ins for the values, keeps the
SQL, and makes the model's objects of a row as the ORM does.
"""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from django.db import connection
from django.db.models import Model, QuerySet
from django.db.models.query import get_related_populators

from tokens import isolation

M = TypeVar("M", bound=Model)


@dataclass(frozen=True)
class _Compiled:
    """``places``: for each parameter of the SQL the name of its value, or the constant."""

    sql: str
    places: list[tuple[str | None, Any]]
    model: type[Model]
    columns: tuple[int, int]
    names: list[str]
    converters: list[tuple[int, list[Callable[..., Any]], Any]]
    populators: Any


class Prepared(Generic[M]):
    """``build`` makes the queryset, given ``stand_ins``: for each name a value that is of the
    column's type and occurs nowhere else in the query."""

    def __init__(
        self, build: Callable[..., "QuerySet[M]"], stand_ins: Mapping[str, int | str | float]
    ) -> None:
        self._build, self._stand_ins = build, stand_ins
        self._lock = threading.Lock()
        self._compiled: _Compiled | None = None

    def first(self, **values: int | str | float) -> M | None:
        """The one row, with what it is joined to; None if there is none. One statement.

        IsolationError if the ``tenant_id`` among the values is none of the current ones.
        """
        tenant_id = values.get("tenant_id")
        if tenant_id is not None and not isolation.covers(int(tenant_id)):
            raise isolation.IsolationError("at work for one tenant, and asked for another")
        compiled = self._compiled or self._compile()
        with connection.cursor() as cursor:
            cursor.execute(
                compiled.sql,
                [values[name] if name else fixed for name, fixed in compiled.places],
            )
            row = cursor.fetchone()
        if row is None:
            return None
        row = list(row)
        for place, converters, expression in compiled.converters:
            for convert in converters:
                row[place] = convert(row[place], expression, connection)
        start, end = compiled.columns
        found = compiled.model.from_db(connection.alias, compiled.names, row[start:end])
        for populator in compiled.populators:
            populator.populate(row, found)
        return found  # type: ignore[return-value]  # of the model that was built for

    def _compile(self) -> _Compiled:
        with self._lock:
            if self._compiled is None:
                queryset = self._build(**self._stand_ins)[:1]
                compiler = queryset.query.get_compiler(connection=connection)
                sql, parameters = compiler.as_sql()
                info = compiler.klass_info
                assert info is not None  # noqa: S101  rows of a model, not values
                start, *_, end = info["select_fields"]
                names = [column[0].target.attname for column in compiler.select[start : end + 1]]
                populators = get_related_populators(  # type: ignore[call-arg]  # newer stubs
                    info, compiler.select, connection.alias
                )
                by_value = {value: name for name, value in self._stand_ins.items()}
                self._compiled = _Compiled(
                    sql=sql,
                    places=[(by_value.get(each), each) for each in parameters],
                    model=info["model"],
                    columns=(start, end + 1),
                    names=names,
                    converters=[
                        (place, *found)
                        for place, found in compiler.get_converters(
                            [column[0] for column in compiler.select]
                        ).items()
                    ],
                    populators=populators,
                )
            return self._compiled
