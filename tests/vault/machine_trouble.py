"""What the state machine does to the vault's own stores: the database, and Redis."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from django.conf import settings
from django.db import OperationalError, connections
from hypothesis import strategies as st

from tests.simulator import faults
from tests.vault.machine_books import LIE
from tokens import outside
from tokens.secret import Secret

Kind = Literal["statement", "commit refused", "commit unacknowledged"]

_NOBODY = "redis://127.0.0.1:1/0"


@dataclass(frozen=True)
class Trouble:
    """The database fails this thread: from the ``first`` statement (or commit) on, ``times``
    times; None: until the end of the step."""

    kind: Kind
    first: int
    times: int | None

    @contextmanager
    def strikes(self) -> Iterator[None]:
        database = connections["default"]
        seen = 0

        def due() -> bool:
            nonlocal seen
            seen += 1
            return seen > self.first and (self.times is None or seen <= self.first + self.times)

        def execute(run: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
            if due():
                raise OperationalError("the database is away")
            return run(sql, params, many, context)

        commit = database._commit

        def committed() -> None:
            if not due():
                commit()
                return
            if self.kind == "commit unacknowledged":
                commit()
            raise OperationalError("the database went away")

        try:
            if self.kind == "statement":
                with database.execute_wrapper(execute):
                    yield
            else:
                database._commit = committed  # type: ignore[method-assign]
                try:
                    yield
                finally:
                    del database._commit
        finally:
            database.close()


def troubles(most: int) -> st.SearchStrategy[Trouble]:
    """Trouble within the first ``most`` statements."""
    times = st.sampled_from([1, 2, None])
    return st.one_of(
        st.builds(Trouble, st.just("statement"), st.integers(0, most), times),
        st.builds(
            Trouble,
            st.sampled_from(["commit refused", "commit unacknowledged"]),
            st.integers(0, 4),
            times,
        ),
    )


@contextmanager
def redis_away() -> Iterator[None]:
    """Redis is configured and does not answer. Where there is none, nothing changes."""
    given = settings.REDIS_URL
    if given is not None:
        settings.REDIS_URL = Secret(_NOBODY)
    outside.forget()
    try:
        yield
    finally:
        settings.REDIS_URL = given
        outside.forget()


# name, changes: every answer that the simulator can give, with the work done or not.
FAULTS: list[tuple[str, dict[str, Any]]] = [
    *(
        (name, {"rotates": rotates})
        for name in (
            *("server_error", "unavailable", "overloaded", "moved", "edge_block", "redirect"),
            *("on_hold", "invalid_scope", "not_json", "empty", "no_access_token", "close"),
        )
        for rotates in (False, True)
    ),
    *(
        ("server_error", {"status": status, "rotates": rotates})
        for status in (201, 204, 502, 504, 520, 524)
        for rotates in (False, True)
    ),
    *(("rate_limited", {"retry_after": seconds}) for seconds in (1, 30, 4000)),
    ("rate_limited", {"retry_after": 30, "retry_after_as_date": True}),
    ("rate_limited", {"retry_after": 30, "rotates": True}),
    ("invalid_grant", {"status": LIE}),
    ("huge", {"pad_to": 100_000}),
    ("huge", {"pad_to": 100_000, "rotates": True}),
    ("keep_refresh_token", {}),
    ("amend", {"amend": {"access_token": "a b"}}),
    ("amend", {"amend": {"refresh_token": 7}}),
    ("amend", {"omit": ["expires_in", "scope"]}),
    ("lose_answer", {}),
    ("cut_short", {}),
    ("no_end", {}),
    ("slow", {"delay": 0.01}),
    ("trickle", {"seconds": 0.05}),
]
assert {name for name, _ in FAULTS} >= set(faults.NAMED) - {
    "unauthorized",  # of another endpoint
    "close_before_reading",  # strikes before anybody knows whose request it is
    "hang",  # to the vault, at its deadline, what `close` and `lose_answer` are
    "hang_after_rotation",
}
