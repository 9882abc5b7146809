"""python -m tests.simulator: print the address, serve until SIGINT or SIGTERM."""

import argparse
import signal
import threading
from collections.abc import Sequence

from .server import Simulator


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.simulator",
        description="Anthropic, simulated: token endpoint and Messages API. See README.md.",
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8400, help="0: any free port")
    parser.add_argument("--latency-ms", type=float, default=0, help="of the token endpoint")
    parser.add_argument("--jitter-ms", type=float, default=0, help="up to so much more")
    parser.add_argument("--messages-latency-ms", type=float, default=0)
    parser.add_argument(
        "--access-token-lifetime", type=int, default=28_800, help="seconds, as expires_in"
    )
    options = parser.parse_args(argv)

    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    with Simulator(
        host=options.host,
        port=options.port,
        latency_ms=options.latency_ms,
        latency_jitter_ms=options.jitter_ms,
        messages_latency_ms=options.messages_latency_ms,
        access_token_lifetime=options.access_token_lifetime,
    ) as simulator:
        print(simulator.url, flush=True)
        ended.wait()


if __name__ == "__main__":
    main()
