"""Texts by their beginning, by an index.

LIKE would not do: behind row-level security PostgreSQL asks an index only by operators that
tell nothing of the rows they turn down (LEAKPROOF), which LIKE, `upper()` and the like are not,
and the order of the database's collation has nothing to do with beginnings. What is asked here is
the order of the bytes: on PostgreSQL by an index with ``varchar_pattern_ops``.
"""

from typing import Any

from django.db.models import CharField, Lookup

_LAST = 0x10FFFF
_SURROGATES = range(0xD800, 0xE000)


@CharField.register_lookup
class Begins(Lookup):
    """``user_id__begins="ali"``: exactly so, upper case and lower case told apart."""

    lookup_name = "begins"

    def as_sql(self, compiler: Any, connection: Any) -> tuple[str, tuple[str | int, ...]]:
        return self._between(compiler, connection, ">=", "<")

    def as_postgresql(self, compiler: Any, connection: Any) -> tuple[str, tuple[str | int, ...]]:
        return self._between(compiler, connection, "~>=~", "~<~")

    def _between(
        self, compiler: Any, connection: Any, from_here: str, before: str
    ) -> tuple[str, tuple[str | int, ...]]:
        column, parameters = self.process_lhs(compiler, connection)
        sql, values = f"{column} {from_here} %s", (*parameters, str(self.rhs))
        end = after_all_that_begin_with(str(self.rhs))
        if end is not None:
            return f"({sql} AND {column} {before} %s)", (*values, *parameters, end)
        return sql, values


def after_all_that_begin_with(text: str) -> str | None:
    """The first text, in the order of code points, that is behind all of them; None: none is."""
    while text:
        text, last = text[:-1], ord(text[-1]) + 1
        if last <= _LAST:
            return text + chr(_SURROGATES.stop if last in _SURROGATES else last)
    return None
