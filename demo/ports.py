"""Ports on the loopback that nobody listens on."""

import socket

HOST = "127.0.0.1"


class Ports:
    """Those that were taken stay ours while this process lives.

    A program listens on its port long after it was chosen, and another demonstration that
    begins meanwhile must not choose the same. So each is held by a UDP socket of the same
    number, which is in nobody's way and goes with us, whatever ends us.
    """

    def __init__(self) -> None:
        self._held: list[socket.socket] = []

    def take(self, first: int) -> int:
        """The first free port from there on. OSError if there is none far and wide."""
        for port in range(first, first + 500):
            if _somebody_listens(port) or not self._hold(port):
                continue
            if _can_be_listened_on(port):
                return port
        raise OSError(f"no port from {first} to {first + 499} is free")

    def close(self) -> None:
        """Let go of all of them."""
        for holder in self._held:
            holder.close()
        self._held.clear()

    def _hold(self, port: int) -> bool:
        holder = socket.socket(type=socket.SOCK_DGRAM)
        try:
            holder.bind((HOST, port))
        except OSError:
            holder.close()
            return False
        self._held.append(holder)
        return True


def _somebody_listens(port: int) -> bool:
    """Also on all addresses, which does not keep macOS from letting us bind one of them."""
    with socket.socket() as caller:
        return caller.connect_ex((HOST, port)) == 0


def _can_be_listened_on(port: int) -> bool:
    with socket.socket() as probe:
        # As servers do: connections of an earlier run that linger in TIME_WAIT are no hindrance.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
            probe.listen(1)
        except OSError:
            return False
    return True
