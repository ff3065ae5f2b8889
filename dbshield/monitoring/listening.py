"""The socket of the metrics, bound before anything is forked: whoever starts the proxy is told that an address cannot be had."""

from __future__ import annotations

import socket

from dbshield.config import ListenAddress
from dbshield.errors import ConfigError

BACKLOG = 64


def bound(address: ListenAddress) -> socket.socket:
    """A bound socket. Raises ConfigError when the address cannot be had."""
    try:
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
    except OSError as error:
        raise ConfigError(
            f"metrics.listen: cannot listen on {address}: {error.strerror or error}",
            hint="Stop what listens there, or choose another address.",
        ) from error
    return sock
