"""What a test may ask of the simulator: the one code path behind Python and `/_control/`.

Every operation takes JSON values by name and returns a JSON value.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from .faults import Fault, named_fault
from .logins import DEFAULT_SCOPES
from .record import Counts, counts_to_json, received_to_json
from .state import ControlError, State


def perform(state: State, name: str, arguments: Mapping[str, Any]) -> Any:
    """Do one operation under the lock; raises ControlError for whatever cannot be done."""
    try:
        operation = OPERATIONS[name]
    except KeyError:
        raise ControlError(f"no operation {name!r}: one of {', '.join(OPERATIONS)}") from None
    try:
        with state.lock:
            return operation(state, **arguments)
    except (TypeError, ValueError, LookupError) as error:
        raise ControlError(f"{name}: {error}") from error


def _new_login(
    state: State,
    *,
    user: str = "alice",
    expires_in: float = 3600,
    refresh: bool = True,
    scopes: Sequence[str] = DEFAULT_SCOPES,
) -> Any:
    family = state.logins.open(
        user=user, lifetime=expires_in, refresh=refresh, scopes=scopes, now=state.now()
    )
    return family.login.to_json()


def _current_login(state: State, *, user: str) -> Any:
    return state.logins.latest(user).login.to_json()


def _user_of(state: State, *, token: str) -> str | None:
    return state.logins.owner(token)


def _expire_access_token(state: State, *, token: str) -> None:
    state.logins.expire_access_token(token, now=state.now())


def _kill_access_token(state: State, *, token: str) -> None:
    state.logins.kill_access_token(token)


def _kill_login(state: State, *, user: str) -> None:
    state.logins.kill_user(user)


def _advance_clock(state: State, *, seconds: float) -> float:
    state.clock_offset += seconds
    return state.now()


def _fault(state: State, *, name: str, **changes: Any) -> Any:
    fault = named_fault(name, **changes)
    state.faults.arm(fault)
    return fault.to_json()


def _arm(state: State, **fault: Any) -> Any:
    armed = Fault(**fault)
    state.faults.arm(armed)
    return armed.to_json()


def _hold(state: State) -> None:
    state.hold()


def _let_go(state: State) -> None:
    state.let_go()


def _faults(state: State) -> Any:
    return [fault.to_json() for fault in state.faults.armed()]


def _clear_faults(state: State) -> None:
    state.faults.clear()


def _configure(state: State, **changes: Any) -> Any:
    state.configure(**changes)
    return _settings(state)


def _settings(state: State) -> Any:
    return asdict(state.settings)


def _counts(state: State, *, user: str | None = None) -> Any:
    if user is None:
        return counts_to_json(state.record.total)
    return counts_to_json(state.record.by_user.get(user, Counts()))


def _requests(state: State, *, last: int | None = None) -> Any:
    received = [received_to_json(one) for one in state.record.requests]
    return received if last is None else received[-last:] if last else []


def _reset_counts(state: State) -> None:
    state.record.forget()


def _reset(state: State) -> None:
    state.reset()


OPERATIONS: Mapping[str, Callable[..., Any]] = {
    "new_login": _new_login,
    "current_login": _current_login,
    "user_of": _user_of,
    "expire_access_token": _expire_access_token,
    "kill_access_token": _kill_access_token,
    "kill_login": _kill_login,
    "advance_clock": _advance_clock,
    "fault": _fault,
    "arm": _arm,
    "faults": _faults,
    "clear_faults": _clear_faults,
    "hold": _hold,
    "let_go": _let_go,
    "configure": _configure,
    "settings": _settings,
    "counts": _counts,
    "requests": _requests,
    "reset_counts": _reset_counts,
    "reset": _reset,
}
