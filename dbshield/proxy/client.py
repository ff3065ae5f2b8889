"""Who is at the other end of an accepted socket, before anything that it says is believed.

Behind a load balancer that is whom the balancer names, see `dbshield.wire.proxy_header`. Where it names nobody, `source` is no
address at all, so that it lies in no token's network.
"""

from __future__ import annotations

from dataclasses import dataclass

from dbshield.control import scopes
from dbshield.wire.proxy_header import Relayed, Unnamed


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """Where a client comes from: `name` is for people, `source` is without what differs from one connection to the next."""

    name: str
    source: str
    local: bool

    def relaying(self, found: Relayed | Unnamed) -> Client:
        """This balancer's client, as its header has it."""
        if isinstance(found, Unnamed):
            return Client(
                name=f"unknown behind {self.name} ({found.why})", source=f"an unknown address behind {self.source}", local=False
            )
        return Client(name=address_with_port(found.address, found.port), source=found.address, local=False)

    @property
    def address(self) -> str:
        """What a token's networks are compared with."""
        return scopes.SOCKET if self.local else self.source


def address_with_port(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
