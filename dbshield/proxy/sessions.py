"""The sessions of one worker: who is connected, how many may be, which have been idle too long, and how they are ended."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from dbshield.errors import Refused
from dbshield.model import AgentLogin
from dbshield.proxy.fatal import SHUTTING_DOWN, shutting_down
from dbshield.proxy.pair import Pair

TOO_MANY_CONNECTIONS: Final = "53300"
IDLE_SESSION_TIMEOUT: Final = "57P05"


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """One client that is connected, as its token makes it: `login` has the token's level where that is below the agent's."""

    number: int
    login: AgentLogin
    database: str
    client: str
    pair: Pair
    token_id: str = ""


class Place:
    """A place among the connections that are allowed; given back once."""

    def __init__(self, release: Callable[[], None]) -> None:
        self._release: Callable[[], None] | None = release

    def release(self) -> None:
        if self._release:
            release, self._release = self._release, None
            release()


class Sessions:
    """`limit` and `limit_per_agent` are this worker's share of what the configuration allows."""

    def __init__(self, *, limit: int, limit_per_agent: int) -> None:
        self.limit = limit
        self.limit_per_agent = limit_per_agent
        self._places = Counter[str]()
        self._total = 0
        self._open: dict[int, Session] = {}
        self.ended = 0
        """Sessions that are over, since the start."""
        self._empty = asyncio.Event()
        self._empty.set()

    def __len__(self) -> int:
        return len(self._open)

    def __iter__(self) -> Iterator[Session]:
        return iter(self._open.values())

    def admit(self, login: AgentLogin) -> Place:
        """A place for one more connection of the agent. Raises Refused when there is none."""
        user = login.user
        if self._total >= self.limit:
            raise Refused(
                f"dbshield has all of its {self.limit} connections in use",
                sqlstate=TOO_MANY_CONNECTIONS,
                hint="Close connections that are not used, or raise proxy.max_connections.",
            )
        if self._places[user] >= self.limit_per_agent:
            raise Refused(
                f"the agent {user} has all of its {self.limit_per_agent} connections in use",
                sqlstate=TOO_MANY_CONNECTIONS,
                hint="Close connections that are not used, or raise proxy.max_connections_per_agent.",
            )
        self._total += 1
        self._places[user] += 1

        def release() -> None:
            self._total -= 1
            self._places[user] -= 1
            if not self._places[user]:
                del self._places[user]

        return Place(release)

    def add(self, session: Session) -> None:
        self._open[session.number] = session
        self._empty.clear()

    def remove(self, number: int) -> None:
        self._open.pop(number, None)
        self.ended += 1
        if not self._open:
            self._empty.set()

    def end_idle(self) -> None:
        """End every session that was silent since the last call, unless the server is still at work for it."""
        for session in list(self._open.values()):
            pair = session.pair
            if not (pair.active or pair.relay.busy or pair.relay.keeps):
                pair.end(
                    "idle too long",
                    Refused("the connection was idle too long", sqlstate=IDLE_SESSION_TIMEOUT, hint="Reconnect."),
                )
            pair.active = False

    async def drain(self, timeout: float) -> None:  # noqa: ASYNC109 - the limit is a setting, not the caller's patience
        """Let each session end when its transaction does; after `timeout` seconds end what is left."""
        for session in list(self._open.values()):
            session.pair.drain()
        try:
            await asyncio.wait_for(self._empty.wait(), timeout)
        except TimeoutError:
            for session in list(self._open.values()):
                session.pair.end("drain timed out", shutting_down(), sqlstate=SHUTTING_DOWN)
