"""Ports on the loopback that nobody listens on."""

import socket
from collections.abc import Collection

HOST = "127.0.0.1"


def free_port(first: int, *, but: Collection[int] = ()) -> int:
    """The first free port from there on that is none of ``but``."""
    for port in range(first, first + 500):
        if port not in but and _is_free(port):
            return port
    raise OSError(f"no port from {first} to {first + 499} is free")


def _is_free(port: int) -> bool:
    with socket.socket() as caller:
        # Whoever listens on all addresses is in the way too, though macOS lets both of us bind.
        if caller.connect_ex((HOST, port)) == 0:
            return False
    with socket.socket() as probe:
        # As servers do: connections of an earlier run that linger in TIME_WAIT are no hindrance.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
            probe.listen(1)
        except OSError:
            return False
    return True
