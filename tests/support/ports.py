"""Ports for what the tests start.

A port that the kernel gives away and that nobody holds yet may be given away again, and a proxy that is stopped for a moment
loses its own to another worker's tests, whose logins then fail at the wrong proxy. So each worker has a range of its own, below
that of the kernel.
"""

from __future__ import annotations

import os
import random
import socket

FIRST, LAST = 12000, 32000
"""Below `net.ipv4.ip_local_port_range` as Linux has it, above what servers are known by."""
WORKERS = 8
"""Ranges; the worker behind the last shares the first one's."""

_next: list[int] = []


def free_port() -> int:
    """A port of this worker's that nothing listens on, and that is not given again before all the others were."""
    size = (LAST - FIRST) // WORKERS
    number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % WORKERS
    if not _next:
        _next.append(random.randrange(size))
    for _ in range(size):
        _next[0] = (_next[0] + 1) % size
        port = FIRST + number * size + _next[0]
        with socket.socket() as probe:
            # As whoever will listen: connections that ended lately are in nobody's way.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError(f"no port between {FIRST} and {LAST} is free for worker {number}")
