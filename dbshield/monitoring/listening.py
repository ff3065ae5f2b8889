"""The socket of the metrics, bound before anything is forked: whoever starts the proxy is told that an address cannot be had."""

from __future__ import annotations

import errno
import socket
import time
from typing import Final

from dbshield.config import ListenAddress
from dbshield.errors import ConfigError

BACKLOG: Final = 64
PATIENCE: Final = 3.0
"""Seconds for the monitor of a proxy that was killed: it holds the address until it has noticed."""
POLL: Final = 0.05


def bound(address: ListenAddress) -> socket.socket:
    """A bound socket. Raises ConfigError when the address cannot be had."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return _bound(address)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or time.monotonic() > deadline:
                raise ConfigError(
                    f"metrics.listen: cannot listen on {address}: {error.strerror or error}",
                    hint="Stop what listens there, or choose another address.",
                ) from error
        time.sleep(POLL)


def _bound(address: ListenAddress) -> socket.socket:
    family, kind, proto, _, where = socket.getaddrinfo(
        address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    sock = socket.socket(family, kind, proto)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(where)
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock
