"""A simulator in another process, with the methods of the one in this process."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from .controls import Controls
from .state import ControlError

ROOT = Path(__file__).resolve().parents[2]


class RemoteSimulator(Controls):
    """Steers the simulator that answers at `url`; holds no connection open."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._address = urlsplit(self.url).netloc

    def perform(self, operation: str, /, **arguments: Any) -> Any:
        with closing(HTTPConnection(self._address, timeout=30)) as connection:
            connection.request("POST", f"/_control/{operation}", json.dumps(arguments))
            response = connection.getresponse()
            answer = json.loads(response.read())
        if response.status != 200:
            raise ControlError(answer["error"])
        return answer


@contextmanager
def simulator_process(*arguments: str) -> Iterator[RemoteSimulator]:
    """Run `python -m tests.simulator` on a free port until the end of the block."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.simulator", "--port", "0", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            if not url.startswith("http://"):
                raise ControlError(f"the simulator did not start: it said {url!r}")
            yield RemoteSimulator(url)
        finally:
            process.terminate()
