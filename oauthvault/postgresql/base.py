"""Django's PostgreSQL backend, with the current tenants told to the database.

Row-level security shows the rows of the tenants named in `oauthvault.tenants`. That setting
is made LOCAL and sent in one message with the statement it is for, every time: nothing is
left behind on a connection, so that no pool, no error and no other thread can inherit it.
"""

import functools
import re
from typing import Any

from django.db import NotSupportedError
from django_prometheus.db.backends.postgresql import base
from psycopg import sql

from tokens import isolation

# What must be sent alone, and shows nobody a row: what ends a transaction's trouble, since in a
# failed one nothing else goes; and what PostgreSQL takes outside of a transaction only, which
# two statements in one message are. Of the latter what we know a use for: the rest is refused.
_ALONE = re.compile(
    r"\s*(SAVEPOINT|ROLLBACK|RELEASE|BEGIN|COMMIT|VACUUM|(CREATE|DROP) DATABASE"
    r"|(CREATE( UNIQUE)?|DROP) INDEX CONCURRENTLY)\b[^;]*;?\s*",
    re.IGNORECASE,
)
_EVERYBODY = "*"


class DatabaseWrapper(base.DatabaseWrapper):  # type: ignore[misc]  # it has no types
    def get_connection_params(self) -> dict[str, Any]:
        params: dict[str, Any] = super().get_connection_params()
        params["cursor_factory"] = _telling(params["cursor_factory"])
        return params

    def create_cursor(self, name: str | None = None) -> Any:
        """Never one of the server's, which is made of another class and is told nothing."""
        return super().create_cursor()


@functools.cache
def _telling(cursor_class: type[Any]) -> type[Any]:
    """The cursor class, with every statement told for whom it is."""

    class TellingCursor(cursor_class):  # type: ignore[misc]  # Django's, made at run time
        def execute(self, query: Any, params: Any = None, **options: Any) -> Any:
            text = _text(query, self.connection)
            if _ALONE.fullmatch(text):
                return super().execute(text, params, **options)
            super().execute(_told(isolation.current()) + text, params, **options)
            self.nextset()
            return self

        def executemany(self, query: Any, params_seq: Any, **options: Any) -> None:
            changed = 0
            for params in params_seq:
                self.execute(query, params, **options)
                changed += max(0, self.rowcount)
            self._rowcount = changed

        def copy(self, *_: Any, **__: Any) -> Any:
            raise NotSupportedError("COPY is not told for whom it is")

        def stream(self, *_: Any, **__: Any) -> Any:
            raise NotSupportedError("a stream is not told for whom it is")

    return TellingCursor


def _told(scope: isolation.Scope) -> str:
    """Both settings, each time, and empty ones for nobody: what an earlier statement of the
    transaction was told is over, and so is what another client left on the session (a pool).
    Numbers and hexadecimal digits only: nothing in it needs to be quoted."""
    if scope.tenant_ids is None:
        tenants = _EVERYBODY
    else:
        tenants = ",".join(str(int(tenant_id)) for tenant_id in sorted(scope.tenant_ids))
    return (
        f"SELECT set_config('oauthvault.tenants', '{tenants}', true), "
        f"set_config('oauthvault.key', '{scope.key_digest}', true);\n"
    )


def _text(query: Any, connection: Any) -> str:
    if isinstance(query, sql.Composable):
        return query.as_string(connection)
    if isinstance(query, bytes):
        return query.decode("utf-8")
    return str(query)
