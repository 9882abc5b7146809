"""Everything the simulated server knows, under one lock."""

import random
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from .faults import FaultQueue
from .logins import Logins
from .record import Record

CLIENT_ID = "9d1c250a-e61b-44d9-88ed-5944d1962f5e"
SANE_LIFETIME = 28_800


class ControlError(ValueError):
    """The simulator was asked for something it cannot do."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    client_id: str = CLIENT_ID
    latency_ms: float = 0  # token endpoint, before the rotation
    latency_after_ms: float = 0  # token endpoint, after it
    latency_jitter_ms: float = 0  # up to so much more, on each latency that is not 0
    messages_latency_ms: float = 0
    stream_pause_ms: float = 0  # between the events of a stream
    access_token_lifetime: Any = SANE_LIFETIME  # handed out as expires_in, however absurd
    access_token_real_lifetime: float | None = None  # None: what was handed out, if sane
    reuse_kills_family: bool = True
    rotates_refresh_tokens: bool = True
    rotation_kills_access_token: bool = False
    api_keys: Sequence[str] = ()

    @property
    def real_lifetime(self) -> float:
        """Seconds for which this server honours a refreshed access token."""
        if self.access_token_real_lifetime is not None:
            return self.access_token_real_lifetime
        handed_out = self.access_token_lifetime
        if isinstance(handed_out, int | float) and 0 <= handed_out <= 10 * 365 * 86_400:
            return handed_out
        return SANE_LIFETIME


class State:
    """`lock` guards every attribute but the events; nobody waits or writes while holding it."""

    def __init__(self, settings: Settings) -> None:
        self.lock = threading.RLock()
        self.closing = threading.Event()
        self._may_answer = threading.Event()
        self.record = Record()
        self._first_settings = settings
        self.reset()

    def reset(self) -> None:
        """As at the start: no logins, no faults, nothing counted, the first settings."""
        with self.lock:
            self.settings = self._first_settings
            self.logins = Logins()
            self.faults = FaultQueue()
            self.clock_offset = 0.0
            self.record.forget()
            self.let_go()

    def configure(self, **changes: Any) -> None:
        with self.lock:
            self.settings = replace(self.settings, **changes)

    def hold(self) -> None:
        self._may_answer.clear()

    def let_go(self) -> None:
        self._may_answer.set()

    def wait_while_held(self) -> None:
        self._may_answer.wait()

    def now(self) -> float:
        return time.time() + self.clock_offset

    def pause(self, seconds: float) -> None:
        """Sleep, but never past the end of the simulator."""
        if seconds > 0:
            self.closing.wait(seconds)

    def pause_ms(self, milliseconds: float) -> None:
        if milliseconds > 0:
            jitter = random.uniform(0, self.settings.latency_jitter_ms)
            self.pause((milliseconds + jitter) / 1000)
