"""A child process that cannot outlive the process that started it.

`Tethered` runs a program under a small watcher, this same file run as a script. The
two are joined by a socket pair whose one end only the owner holds and whose other end
only the watcher holds, so each sees the other's death as end-of-file, `kill -9`
included, on Linux and on macOS alike:

    owner ── socket ── watcher ── process group of the program
                         (a session of its own, out of reach of the terminal's Ctrl-C)

- The owner dies: the watcher sends SIGTERM to the program's group, waits `grace`
  seconds, then sends SIGKILL.
- The watcher dies: the owner's `Tethered` becomes readable, and `orphaned()` names the
  group that the owner has to end.
- Both are killed at once: nobody is left to notice. Nothing portable closes that gap.

The watcher also passes the program's output on, line by line and with a prefix, so
that a program which is told to end never trips over a closed pipe while it saves.

Standard library only, and no import of ours: it starts with `python -I -S`.
"""

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from types import FrameType
from typing import IO

_POLL = 0.05
_LONGEST_LINE = 65536


class Tethered:
    """A program in a process group of its own, tied to this process.

    `grace` is how long the program may take to end once this process is gone. Files in
    `inherit` stay open in the watcher (not in the program) for as long as anything of
    the program lives, which is what a lock wants.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        prefix: str = "",
        grace: float = 60.0,
        env: Mapping[str, str] | None = None,
        stdout: int | IO[bytes] | None = None,
        inherit: Sequence[int] = (),
    ) -> None:
        ours, theirs = socket.socketpair()
        # Neither end is inheritable. Only `theirs` is handed on, and only to this one
        # watcher: a sibling that held `ours` as well would keep this program alive.
        with theirs:
            self._watcher = subprocess.Popen(
                [
                    *(sys.executable, "-I", "-S", __file__),
                    *(str(theirs.fileno()), prefix, str(grace)),
                    *argv,
                ],
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                env=env,
                pass_fds=(theirs.fileno(), *inherit),
                start_new_session=True,
            )
        ours.setblocking(False)
        self._socket = ours
        self._group: int | None = None
        self.stdout = self._watcher.stdout

    def fileno(self) -> int:
        """Readable when there is something for `returncode` to find out."""
        return self._socket.fileno()

    @property
    def pid(self) -> int:
        """The watcher's process id. A SIGTERM sent there is handed on to the program."""
        return self._watcher.pid

    @property
    def group(self) -> int | None:
        """The program's process group and process id; None until the watcher has told it."""
        if self._group is None:
            self._read()
        return self._group

    def returncode(self) -> int | None:
        """None while the watcher lives, else the program's exit status (128 + n for signal n).

        A negative number means that the watcher itself was killed: see `orphaned`.
        """
        self._read()
        return self._watcher.poll()

    def terminate(self) -> None:
        """Ask the program (not its group) to end. Asking again does no harm."""
        self._watcher.terminate()

    def kill(self) -> None:
        """End the program's whole group at once; the watcher follows."""
        if self.group is None:
            self._watcher.kill()
        elif self._watcher.poll() is None or group_lives(self.group):
            signal_group(self.group, signal.SIGKILL)

    def orphaned(self) -> int | None:
        """The process group left behind by a watcher that was killed, while it has members."""
        returncode = self._watcher.poll()
        if returncode is None or returncode >= 0 or self.group is None:
            return None
        return self.group if group_lives(self.group) else None

    def close(self) -> None:
        """Let go: a program that still runs is ended by its watcher, as if we had died."""
        self._socket.close()
        if self.stdout is not None:
            self.stdout.close()

    def _read(self) -> None:
        try:
            message = self._socket.recv(64)
        except BlockingIOError:
            return
        except OSError:
            message = b""
        if message:
            self._group = int(message)
        else:
            self._watcher.wait()


def group_lives(group: int) -> bool:
    """Whether the process group has a member that is not merely waiting to be reaped."""
    # As process 1 of a container we inherit orphans, and an unreaped one would look alive.
    with contextlib.suppress(ChildProcessError):
        os.waitpid(group, os.WNOHANG)
    return signal_group(group, 0)


def signal_group(group: int, number: int) -> bool:
    """Send the signal; False when there is nobody (left) to receive it."""
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    except PermissionError:
        # macOS says so of a group in which only zombies are left.
        return sys.platform != "darwin"
    return True


def _watch(lifeline: socket.socket, prefix: str, grace: float, argv: Sequence[str]) -> int:
    """Run the program until it or the owner ends, leave nothing of its group behind."""
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(number, _nothing)

    spoken, output = os.pipe()
    try:
        program = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, process_group=0
        )
    except OSError as error:
        print(f"{prefix}{argv[0]} cannot be started: {error.strerror}", flush=True)
        return 127
    finally:
        os.close(output)
    with contextlib.suppress(OSError):
        lifeline.send(str(program.pid).encode())
    relay = threading.Thread(target=_pass_on, args=(spoken, prefix.encode()), daemon=True)
    relay.start()

    watched = [lifeline.fileno(), woken]
    deadline = float("inf")
    while program.poll() is None:
        timeout = None if deadline == float("inf") else max(0.0, deadline - time.monotonic())
        ready, _, _ = select.select(watched, [], [], timeout)
        if woken in ready and signal.SIGTERM in os.read(woken, 512) and program.poll() is None:
            program.terminate()
        if lifeline.fileno() in ready and _ended(lifeline):
            watched.remove(lifeline.fileno())
            deadline = time.monotonic() + grace
            signal_group(program.pid, signal.SIGTERM)
        if time.monotonic() >= deadline:
            signal_group(program.pid, signal.SIGKILL)
            deadline = float("inf")

    _end_group(program.pid, min(deadline, time.monotonic() + grace))
    relay.join(timeout=2)
    status = program.returncode
    return status if status >= 0 else 128 - status


def _end_group(group: int, deadline: float) -> None:
    """SIGTERM to whoever is left in the group, SIGKILL to whoever still is at the deadline."""
    signal_group(group, signal.SIGTERM)
    while group_lives(group) and time.monotonic() < deadline:
        time.sleep(_POLL)
    # Nothing to wait for afterwards: at worst a zombie that nobody reaps.
    signal_group(group, signal.SIGKILL)


def _nothing(number: int, frame: FrameType | None) -> None:
    """A handler, so that the signal only wakes us. Unlike SIG_IGN it is not inherited."""


def _ended(lifeline: socket.socket) -> bool:
    try:
        return not lifeline.recv(64)
    except OSError:
        return True


def _pass_on(source: int, prefix: bytes) -> None:
    """Copy whole lines to standard output, each with the prefix; drop what cannot be written."""
    rest = b""
    while chunk := os.read(source, _LONGEST_LINE):
        *lines, rest = (rest + chunk).split(b"\n")
        if len(rest) >= _LONGEST_LINE:
            lines, rest = [*lines, rest], b""
        _write(prefix, lines)
    _write(prefix, [rest])


def _write(prefix: bytes, lines: Sequence[bytes]) -> None:
    block = b"".join(prefix + line + b"\n" for line in lines if line.strip())
    with contextlib.suppress(OSError):
        while block:
            block = block[os.write(sys.stdout.fileno(), block) :]


if __name__ == "__main__":
    # The lifeline is never closed here: its end-of-file is to mean that this process is gone.
    _lifeline = socket.socket(fileno=int(sys.argv[1]))
    sys.exit(_watch(_lifeline, sys.argv[2], float(sys.argv[3]), sys.argv[4:]))
