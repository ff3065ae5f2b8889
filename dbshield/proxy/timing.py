"""Where the times go that bytes spent in the proxy. Only sessions that are measured pay: a call and a subtraction a chunk."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter

from dbshield.errors import DbshieldError
from dbshield.proxy.around import Around, end_of
from dbshield.proxy.pair import Pair, WhenDurable


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """`to_server` and `to_client` get the seconds from a chunk's arrival to its forwarding, of one chunk in `every`; `durable`
    gets those that each write waited for the audit."""

    every: int
    to_server: Callable[[float], None]
    to_client: Callable[[float], None]
    durable: Callable[[float], None]


class TimedSession:
    """One session that is measured. `when_durable` goes around that of the audit, `attach` around the ends of the pair."""

    def __init__(self, timing: Timing) -> None:
        self.timing = timing
        self.withheld = False
        self.began = 0.0
        """When the chunk arrived that is timed and withheld; 0 where none is."""

    def when_durable(self, when_durable: WhenDurable) -> WhenDurable:
        """`when_durable`, and count how long it took."""

        def timed(told: Callable[[DbshieldError | None], None]) -> None:
            since = perf_counter()
            self.withheld = True

            def release(error: DbshieldError | None) -> None:
                self.withheld = False
                told(error)
                now = perf_counter()
                self.timing.durable(now - since)
                if self.began:
                    self.timing.to_server(now - self.began)
                    self.began = 0.0

            when_durable(release)

        return timed

    def attach(self, pair: Pair) -> None:
        """Time what comes, from now on."""
        assert pair.client is not None
        assert pair.server is not None
        pair.client.set_protocol(_Timed(self, end_of(pair.client), self.timing.to_server))
        pair.server.set_protocol(_Timed(self, end_of(pair.server), self.timing.to_client))


class _Timed(Around):
    def __init__(self, session: TimedSession, inner: asyncio.Protocol, took: Callable[[float], None]) -> None:
        super().__init__(inner)
        self._session = session
        self._took = took
        self._every = self._turn = session.timing.every

    def data_received(self, data: bytes) -> None:
        self._turn -= 1
        if self._turn:
            self._receive(data)
            return
        self._turn = self._every
        began = perf_counter()
        self._receive(data)
        if self._session.withheld and self._took is self._session.timing.to_server:
            # Not over yet: `release` tells.
            self._session.began = began
        else:
            self._took(perf_counter() - began)
