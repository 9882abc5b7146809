"""Anthropic, simulated: the token endpoint and the Messages API as a real HTTP server.

`Simulator` runs in this process, `RemoteSimulator` steers one that runs in another; both
offer the methods of `Controls`. README.md is the vocabulary.
"""

from .client import RemoteSimulator, simulator_process
from .controls import Controls
from .faults import NAMED, Fault
from .logins import Login
from .record import Counts, Received
from .server import Simulator
from .state import ControlError, Settings

__all__ = [
    "NAMED",
    "ControlError",
    "Controls",
    "Counts",
    "Fault",
    "Login",
    "Received",
    "RemoteSimulator",
    "Settings",
    "Simulator",
    "simulator_process",
]
