"""Where the proxy listens: `host:port`, `[::1]:port` or `unix:/folder:port`.

The forms are those of PostgreSQL's own tools; a Unix socket is named by its folder and port because libpq builds the
socket's name from both (`/folder/.s.PGSQL.6432`, PostgreSQL manual, "Connection Settings", `unix_socket_directories`).
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

SOCKET_PATH_MAX = 107
"""Bytes in a Unix socket's name: `sun_path` is 108 with its NUL (unix(7))."""

IPV4_IN_IPV6 = ipaddress.IPv6Network("::ffff:0:0/96")
"""Every IPv4 address in IPv6's clothes (RFC 4291, section 2.5.5.2)."""


def is_somebody(text: str) -> bool:
    """Whether a text is an address or a network, and not the one of everybody: for those whose word about others is believed."""
    try:
        network = ipaddress.ip_network(text)
    except ValueError:
        return False
    return network.prefixlen > 0 and network != IPV4_IN_IPV6


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenAddress:
    """One place to listen. `folder` is set for a Unix socket and `host` is empty then; otherwise the other way round."""

    host: str = ""
    folder: str = ""
    port: int

    @classmethod
    def parse(cls, text: str) -> ListenAddress:
        """Raises ValueError with a sentence that names the text and the forms that are understood."""
        front, colon, port_text = text.strip().rpartition(":")
        if not colon or not front or not (port_text.isascii() and port_text.isdigit()):
            raise ValueError(f'"{text}" is not an address; write host:port, [::1]:port or unix:/folder:port')
        port = int(port_text)
        if not 1 <= port <= 65535:
            raise ValueError(f'"{text}" has the port {port}; ports go from 1 to 65535')
        if front.startswith("unix:"):
            return cls._socket(text, front.removeprefix("unix:"), port)
        host = front
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        elif ":" in host:
            raise ValueError(f'"{text}" has an IPv6 address without brackets; write [{host}]:{port}')
        if host in {"*", ""} or any(sign in host for sign in " /[]"):
            raise ValueError(f'"{text}" names no host; every IPv4 address of this machine is 0.0.0.0, every IPv6 address is [::]')
        return cls(host=host, port=port)

    @classmethod
    def _socket(cls, text: str, folder: str, port: int) -> ListenAddress:
        address = cls(folder=folder.rstrip("/") or "/", port=port)
        if not folder.startswith("/"):
            raise ValueError(f'"{text}" needs an absolute folder, as in unix:/run/dbshield:{port}')
        if len(address.socket_path.encode()) > SOCKET_PATH_MAX:
            raise ValueError(f'"{text}" makes a socket name beyond {SOCKET_PATH_MAX} bytes; choose a shorter folder')
        return address

    @property
    def is_socket(self) -> bool:
        return bool(self.folder)

    @property
    def socket_path(self) -> str:
        """The name that libpq connects to for this folder and port."""
        return f"{self.folder}/.s.PGSQL.{self.port}"

    @property
    def is_wildcard(self) -> bool:
        """True for 0.0.0.0 and ::, which are addresses to listen on but not to connect to."""
        return self.host in {"0.0.0.0", "::"}  # noqa: S104  (compared, not bound)

    @property
    def is_local(self) -> bool:
        """True where only this machine can connect. A host name is local only if it is `localhost`: nothing is resolved."""
        if self.is_socket or self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        if self.is_socket:
            return f"unix:{self.folder}:{self.port}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"
