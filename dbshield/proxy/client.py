"""Who is at the other end of an accepted socket, before anything that it says is believed."""

from __future__ import annotations

from dataclasses import dataclass

from dbshield.control import scopes


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """Where a client comes from: `name` is for people, `source` is without what differs from one connection to the next."""

    name: str
    source: str
    local: bool

    @property
    def address(self) -> str:
        """What a token's networks are compared with."""
        return scopes.SOCKET if self.local else self.source
