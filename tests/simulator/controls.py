"""The methods by which a test steers a simulator, near or far."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

from .faults import Fault, On
from .logins import DEFAULT_SCOPES, Login
from .record import Counts, Received
from .state import ControlError

T = TypeVar("T")


class Setting(Generic[T]):
    """An attribute that is a field of the server's `Settings`."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, controls: "Controls", owner: type) -> T:
        value: T = controls.perform("settings")[self._name]
        return value

    def __set__(self, controls: "Controls", value: T) -> None:
        controls.perform("configure", **{self._name: value})


class Controls(ABC):
    """Everything but `perform` and `url` is the same near and far."""

    url: str

    latency_ms = Setting[float]()
    latency_after_ms = Setting[float]()
    latency_jitter_ms = Setting[float]()
    messages_latency_ms = Setting[float]()
    stream_pause_ms = Setting[float]()
    access_token_lifetime = Setting[Any]()
    access_token_real_lifetime = Setting[float | None]()
    reuse_kills_family = Setting[bool]()
    rotates_refresh_tokens = Setting[bool]()
    rotation_kills_access_token = Setting[bool]()
    api_keys = Setting[Sequence[str]]()
    client_id = Setting[str]()

    @abstractmethod
    def perform(self, operation: str, /, **arguments: Any) -> Any:
        """Do one operation of operations.py; raises ControlError if it cannot be done."""

    # addresses

    @property
    def token_url(self) -> str:
        return f"{self.url}/v1/oauth/token"

    @property
    def revoke_url(self) -> str:
        return f"{self.url}/v1/oauth/token/revoke"

    @property
    def messages_url(self) -> str:
        return f"{self.url}/v1/messages"

    # logins

    def new_login(
        self,
        user: str = "alice",
        expires_in: float = 3600,
        refresh: bool = True,
        scopes: Sequence[str] = DEFAULT_SCOPES,
    ) -> Login:
        """Log a user in, as `claude login` would; the earlier logins of the user live on."""
        return Login.from_json(
            self.perform(
                "new_login",
                user=user,
                expires_in=expires_in,
                refresh=refresh,
                scopes=list(scopes),
            )
        )

    def current_login(self, user: str = "alice") -> Login:
        """The user's last login with the tokens that the server holds good now."""
        return Login.from_json(self.perform("current_login", user=user))

    def user_of(self, token: str) -> str | None:
        value: str | None = self.perform("user_of", token=token)
        return value

    def expire_access_token(self, token: str) -> None:
        self.perform("expire_access_token", token=token)

    def kill_access_token(self, token: str) -> None:
        """From now on 401, whatever its expiry said; its refresh token lives on."""
        self.perform("kill_access_token", token=token)

    def kill_login(self, user: str) -> None:
        """End every login of the user: 401, and invalid_grant."""
        self.perform("kill_login", user=user)

    def advance_clock(self, seconds: float) -> float:
        """Move the server's clock on; returns what it shows, in Unix seconds."""
        shown: float = self.perform("advance_clock", seconds=seconds)
        return shown

    # faults

    def fault(self, fault: str | Fault, **changes: Any) -> Fault:
        """Arm a fault, by name with changes to its fields or as it stands; returns it.

        `times=None` is standing. Faults are used up in the order in which they were armed,
        standing ones after the queued.
        """
        if isinstance(fault, str):
            return Fault(**self.perform("fault", name=fault, **changes))
        if changes:
            raise ControlError("change a Fault with dataclasses.replace")
        return Fault(**self.perform("arm", **fault.to_json()))

    def fail_next(
        self,
        times: int | None = 1,
        status: int = 500,
        *,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        retry_after: int | str | None = None,
        user: str | None = None,
        on: On = "token",
        rotates: bool = False,
    ) -> Fault:
        """Answer the next requests with this status in place of doing the work."""
        return self.fault(
            Fault(
                times=times,
                status=status,
                body=body,
                headers=headers or {},
                retry_after=retry_after,
                user=user,
                on=on,
                rotates=rotates,
            )
        )

    @property
    def faults(self) -> list[Fault]:
        """What is still armed."""
        return [Fault(**fault) for fault in self.perform("faults")]

    def clear_faults(self) -> None:
        self.perform("clear_faults")

    # answers kept back

    @contextmanager
    def holding(self) -> Iterator[None]:
        """In the block the token endpoint does its work, and keeps every answer back until the
        end of the block, or `let_go`."""
        self.perform("hold")
        try:
            yield
        finally:
            self.let_go()

    def let_go(self) -> None:
        self.perform("let_go")

    # what was seen

    @property
    def counts(self) -> Counts:
        return Counts(**self.perform("counts"))

    def counts_of(self, user: str) -> Counts:
        return Counts(**self.perform("counts", user=user))

    def refreshes_of(self, user: str) -> int:
        return self.counts_of(user).refreshed

    @property
    def requests(self) -> list[Received]:
        """The last requests, oldest first, without those to `/_control/`."""
        return [Received(**received) for received in self.perform("requests")]

    def reset_counts(self) -> None:
        """Forget counters and requests; logins, faults and settings stay."""
        self.perform("reset_counts")

    def reset(self) -> None:
        """Forget everything; the settings are those of the start again."""
        self.perform("reset")
