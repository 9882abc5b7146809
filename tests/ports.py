"""A port for a program that a test starts, which no other test of the machine is given."""

import atexit
import random

from demo.ports import Ports

# Held until this process ends: a program listens on its port half a minute after it was chosen.
_ours = Ports()
atexit.register(_ours.close)


def free_port() -> int:
    """Below the range from which the kernel gives ports to clients."""
    return _ours.take(random.randrange(10_000, 32_000))
