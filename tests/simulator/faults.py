"""What can go wrong, as data. `NAMED` is the vocabulary; README.md explains each word."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from email.utils import formatdate
from typing import Any, Literal, get_args

from .wire import EDGE_BLOCK, Reply, api_error_body

Kind = Literal["answer", "pass", "close", "close_before_reading", "trickle", "cut_short", "no_end"]
On = Literal["token", "revoke", "messages", "any"]


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One way to misbehave, for `times` requests (None: until cleared).

    kind      answer: answer with status, headers and body in place of the real answer
              pass: the real answer, less `omit`, plus `amend`
              close: close the connection without an answer
              close_before_reading: reset the connection with the request still unread
              trickle: the real answer after `seconds` of one blank byte every 50 ms
              cut_short: the real headers, half of the real body, then close
              no_end: the real headers and all of the body, of which more was promised
    rotates   answer, close: whether the server does the work all the same
    delay     seconds to wait before the work is done; delay_after: after it
    """

    kind: Kind = "answer"
    on: On = "token"
    user: str | None = None
    times: int | None = 1
    status: int = 500
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Any = None  # str as it stands, anything else as JSON, None: what suits the status
    pad_to: int = 0
    retry_after: int | str | None = None
    retry_after_as_date: bool = False
    rotates: bool = False
    keep_refresh_token: bool = False
    omit: tuple[str, ...] = ()
    amend: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    delay: float = 0.0
    delay_after: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "omit", tuple(self.omit))
        if self.kind not in get_args(Kind):
            raise ValueError(f"unknown kind of fault {self.kind!r}: one of {get_args(Kind)}")
        if self.on not in get_args(On):
            raise ValueError(f"a fault is on one of {get_args(On)}, not {self.on!r}")
        if self.times is not None and self.times < 1:
            raise ValueError("times is at least 1, or None for a standing fault")
        if self.kind == "close_before_reading" and self.user is not None:
            raise ValueError("before reading, the server cannot know the user")
        if self.retry_after_as_date and not isinstance(self.retry_after, int):
            raise ValueError("retry_after_as_date wants retry_after in whole seconds")

    @property
    def does_the_work(self) -> bool:
        return self.rotates or self.kind in ("pass", "trickle", "cut_short", "no_end")

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def reply(self, real: Reply | None, *, now: float) -> Reply:
        """The answer as this fault bends it; `real` is None where no work was done."""
        if self.kind == "answer":
            return self._own_answer(now)
        if self.kind in ("close", "close_before_reading") or real is None:
            return Reply(0, delivery="none")
        if self.kind == "trickle":
            return replace(real, delivery="trickle", seconds=self.seconds)
        if self.kind == "cut_short":
            return replace(real, delivery="cut_short")
        if self.kind == "no_end":
            return replace(real, delivery="no_end")
        return self._amended(real)

    def _own_answer(self, now: float) -> Reply:
        body, kind = self.body, "application/json"
        if body is None:
            body = api_error_body(*ERROR_TYPES.get(self.status, ("api_error", "Simulated fault")))
        if isinstance(body, str):
            kind = "text/html; charset=UTF-8" if body.startswith("<") else "text/plain"
        data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        headers = {"Content-Type": kind, **self.headers}
        if self.retry_after is not None:
            headers["Retry-After"] = (
                formatdate(now + int(self.retry_after), usegmt=True)
                if self.retry_after_as_date
                else str(self.retry_after)
            )
        return Reply(self.status, data + b" " * (self.pad_to - len(data)), headers)

    def _amended(self, real: Reply) -> Reply:
        if not (self.omit or self.amend) or real.chunks or real.status != 200:
            return real
        kept = {k: v for k, v in json.loads(real.body).items() if k not in self.omit}
        return replace(real, body=json.dumps({**kept, **self.amend}).encode())


ERROR_TYPES: Mapping[int, tuple[str, str]] = {
    400: ("invalid_request_error", "Invalid request"),
    401: ("authentication_error", "Invalid authentication credentials"),
    403: ("permission_error", "Permission denied"),
    404: ("not_found_error", "Not found"),
    429: ("rate_limit_error", "Rate limited. Please try again later."),
    500: ("api_error", "Internal server error"),
    502: ("api_error", "Bad gateway"),
    503: ("api_error", "Service unavailable"),
    529: ("overloaded_error", "Overloaded"),
}

NAMED: Mapping[str, Fault] = {
    # answers that say nothing about the credential
    "server_error": Fault(status=500),
    "unavailable": Fault(status=503),
    "overloaded": Fault(status=529),
    "rate_limited": Fault(status=429, retry_after=1),
    "moved": Fault(status=404),
    "edge_block": Fault(status=403, body=EDGE_BLOCK),
    "redirect": Fault(status=307, headers={"Location": "/elsewhere"}, body=""),
    # answers that do
    "on_hold": Fault(
        status=403,
        body=api_error_body("permission_error", "This account is on hold. Contact support."),
    ),
    "unauthorized": Fault(status=401, on="messages"),
    "invalid_grant": Fault(
        status=400,
        body={
            "error": "invalid_grant",
            "error_description": "Refresh token not found or invalid",
        },
    ),
    "invalid_scope": Fault(
        status=400,
        body={"error": "invalid_scope", "error_description": "The requested scope is invalid"},
    ),
    # 200, and yet not a token
    "not_json": Fault(status=200, body="<html><body>Welcome</body></html>"),
    "empty": Fault(status=200, body=""),
    "no_access_token": Fault(status=200, body={"token_type": "Bearer", "expires_in": 28800}),
    "huge": Fault(status=200, body={"token_type": "Bearer"}, pad_to=16 * 1024 * 1024),
    # 200, and a little odd
    "keep_refresh_token": Fault(kind="pass", keep_refresh_token=True, omit=("refresh_token",)),
    "amend": Fault(kind="pass"),
    # the wire
    "close": Fault(kind="close"),
    "close_before_reading": Fault(kind="close_before_reading"),
    "lose_answer": Fault(kind="close", rotates=True),
    "cut_short": Fault(kind="cut_short"),
    "no_end": Fault(kind="no_end"),
    "slow": Fault(kind="pass", delay=1.0),
    "hang": Fault(kind="close", delay=60.0),
    "hang_after_rotation": Fault(kind="close", rotates=True, delay_after=60.0),
    "trickle": Fault(kind="trickle", seconds=60.0),
}


def named_fault(name: str, **changes: Any) -> Fault:
    """A fault of the vocabulary; `seconds` is how long, whatever the fault waits for."""
    try:
        fault = NAMED[name]
    except KeyError:
        raise ValueError(f"unknown fault {name!r}: one of {', '.join(NAMED)}") from None
    seconds = changes.get("seconds")
    if seconds is not None and fault.delay:
        changes["delay"] = changes.pop("seconds")
    elif seconds is not None and fault.delay_after:
        changes["delay_after"] = changes.pop("seconds")
    return replace(fault, **changes)


class FaultQueue:
    """Queued faults first, in order of arming; then standing ones. Under `State`'s lock."""

    def __init__(self) -> None:
        self._armed: list[Fault] = []

    def arm(self, fault: Fault) -> None:
        self._armed.append(fault)

    def clear(self) -> None:
        self._armed.clear()

    def armed(self) -> list[Fault]:
        return list(self._armed)

    def take(self, on: str, user: str | None, *, unread: bool = False) -> Fault | None:
        """Use up one fault for this endpoint and user, if any is armed for them.

        `unread` asks for the faults that strike before the request is read, and only those.
        """
        fitting = [
            fault
            for fault in self._armed
            if fault.on in (on, "any")
            and fault.user in (user, None)
            and (fault.kind == "close_before_reading") == unread
        ]
        fitting.sort(key=lambda fault: fault.times is None)
        if not fitting:
            return None
        fault = fitting[0]
        if fault.times is not None:
            at = next(i for i, armed in enumerate(self._armed) if armed is fault)
            left = fault.times - 1
            self._armed[at : at + 1] = [replace(fault, times=left)] if left else []
        return fault
