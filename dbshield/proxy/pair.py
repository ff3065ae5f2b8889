"""The two ends of a session that stands: what one peer sends goes through the Relay to the other. The hot path.

A slow peer stops the reading from the other one, so neither can make memory grow. Nothing here awaits.

Law: bytes with a statement in them that may write reach the server only when the audit has it for good. Until then they are
withheld, and the client is not read from, so what it sends behind them comes behind them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from time import time
from typing import Protocol

from dbshield.errors import DbshieldError, Refused
from dbshield.model import Allow, Judgement, Limit
from dbshield.proxy.fatal import INTERNAL, SERVER_CLOSED, SERVER_GONE, SHUTTING_DOWN, fatal, server_gone, shutting_down
from dbshield.session import held
from dbshield.session.handlers import IDLE
from dbshield.session.held import HeldStatement, Phase
from dbshield.session.relay import Relay

LINGER = 10.0
"""Seconds that a peer gets to take what was still on its way to it when the session ended; then its connection is cut, since
one that never reads would keep the buffer and the descriptor for ever."""

Record = Callable[[float, Judgement], None]
"""Where judgements go, with seconds since 1970; one is made for each session, knowing who it is."""

Changed = Callable[[float, Mapping[str, int]], None]
"""Where the rows go that a transaction has changed, by table."""

Durable = Callable[["DbshieldError | None"], None]
WhenDurable = Callable[[Durable], None]
"""Calls back, perhaps at once, when all that was recorded is in the audit for good; with an error where it cannot be."""

SERVER_IS_SLOW, WITHHELD, MUCH_KEPT = 1, 2, 4
"""Why the client is not read from; bits."""
PASSES = (Allow, Limit)


class HumanWaiter(Protocol):
    """Who asks a human for a held statement and calls `Pair.answer` in the end; `dbshield.proxy.waiting.Waiting` is one."""

    active: bool

    def begin(self, statement: HeldStatement) -> None: ...

    def drain(self) -> None: ...

    def flood(self) -> None: ...


class Answered(Protocol):
    """Who is told that a human's answer has gone out; `dbshield.proxy.tracing.TracedSession` is one."""

    def answered(self) -> None: ...


class Pair:
    """One session: its relay, its two transports, and how it ends.

    `on_end` is called once, with the reason in words for the log. `waiting` is given by whoever lets the relay hold statements.
    """

    __slots__ = (
        "_client_end",
        "_cuts",
        "_max_kept",
        "_on_end",
        "active",
        "changed",
        "client",
        "draining",
        "paused",
        "record",
        "relay",
        "server",
        "traced",
        "waiting",
        "when_durable",
    )

    def __init__(
        self, relay: Relay, record: Record, changed: Changed, on_end: Callable[[str], None], when_durable: WhenDurable
    ) -> None:
        self.relay = relay
        self.record = record
        self.changed = changed
        self.when_durable = when_durable
        self.paused = 0
        self._on_end: Callable[[str], None] | None = on_end
        self.client: asyncio.Transport | None = None
        self.server: asyncio.Transport | None = None
        self.active = True
        self.draining = False
        self.waiting: HumanWaiter | None = None
        self.traced: Answered | None = None
        self._client_end: ClientEnd | None = None
        self._cuts: dict[asyncio.Transport, asyncio.TimerHandle] = {}
        self._max_kept = 0

    def join(self, client: asyncio.Transport, server: asyncio.Transport, *, max_pending: int) -> None:
        """Let the bytes flow. What came before is fed by the caller, in order."""
        self.client, self.server = client, server
        client.set_write_buffer_limits(high=max_pending)
        server.set_write_buffer_limits(high=max_pending)
        self._max_kept = max_pending
        self._client_end = ClientEnd(self, server)
        client.set_protocol(self._client_end)
        server.set_protocol(ServerEnd(self, client))
        if opening := self.relay.opening():
            server.write(opening)

    def end(self, reason: str, error: DbshieldError | None = None, *, sqlstate: str = INTERNAL) -> None:
        """Close both ends; the client reads `error` as FATAL before, unless the server has told it a FATAL of its own, or is in
        the middle of a message, whose rest the error would be taken for."""
        if self._on_end is None:
            return
        on_end, self._on_end = self._on_end, None
        # Before anything is closed, so that it can be told whether the server has gone already.
        on_end(reason)
        if self.client and not self.client.is_closing():
            if error is not None and not self.relay.fatal and not self.relay.in_answer:
                self.client.write(fatal(error, sqlstate=sqlstate))
            self._close(self.client)
        if self.server:
            self.server.abort() if error is not None else self._close(self.server)

    def _close(self, transport: asyncio.Transport) -> None:
        """Close, and cut what has not gone out in time, or a TLS peer that does not answer the good-bye."""
        transport.close()
        self._cuts[transport] = asyncio.get_running_loop().call_later(LINGER, transport.abort)

    def client_closed(self) -> None:
        """Its connection is over, and is forgotten at once: with TLS it has buffers of a quarter of a megabyte."""
        self._closed(self.client)
        self.client = self._client_end = None

    def server_closed(self) -> None:
        """As the client's."""
        self._closed(self.server)
        self.server = None

    def _closed(self, transport: asyncio.Transport | None) -> None:
        if transport is not None and transport in self._cuts:
            self._cuts.pop(transport).cancel()

    def drain(self) -> None:
        """End as soon as nothing runs and no transaction is open."""
        self.draining = True
        if self.waits and self.waiting:
            self.waiting.drain()
        self.end_if_drained()

    def end_if_drained(self) -> None:
        if self.relay.idle:
            self.end("drained", shutting_down(), sqlstate=SHUTTING_DOWN)

    def tell_outcomes(self) -> None:
        """Pass on what came of counted statements."""
        now = time()
        for outcome in self.relay.outcomes:
            if isinstance(outcome, Judgement):
                self.record(now, outcome)
            elif isinstance(outcome, HeldStatement):
                # When what the server said before it has gone out.
                asyncio.get_running_loop().call_soon(self._hold, outcome)
            else:
                self.changed(now, outcome)
        self.relay.outcomes.clear()

    # A statement that waits for a human

    @property
    def waits(self) -> bool:
        return self.waiting is not None and self.waiting.active

    def say(self, notice: bytes) -> None:
        """A word to the client while its statement waits."""
        if self.waits and not self.over and self.client and not self.client.is_closing():
            self.client.write(notice)

    def answer(self, answer: bytes) -> None:
        """The statement that waited has this answer; what the client has sent behind it is read now."""
        holding = self.relay.holding
        if self.over or holding is None or self.client is None:
            return
        self.client.write(answer + holding.ready)
        if self.traced is not None:
            self.traced.answered()
        self._go_on()

    def _hold(self, statement: HeldStatement) -> None:
        """The server has come to the place of a held statement, has told on what terms, or has passed it by for an error before
        it."""
        holding = self.relay.holding
        if self.over or holding is None:
            return
        if holding.phase is Phase.SKIPPED:
            self._go_on()
        elif self.relay.terminated:
            self.end("the client said good-bye")
        elif holding.phase is Phase.LOOKING:
            if self.server and not self.server.is_closing():
                self.server.write(held.look(self.relay))
        elif self.waiting is None:
            self.end("a held statement that nobody waits for", Refused("dbshield cannot ask a human here"), sqlstate=INTERNAL)
        else:
            self.active = True
            self.waiting.begin(statement)
            if self.draining:
                self.waiting.drain()
            self.look_at_kept()

    def _go_on(self) -> None:
        kept = held.release(self.relay)
        self.active = True
        if kept and self._client_end:
            self._client_end.data_received(kept)
        if not self.over:
            self.resume_client(MUCH_KEPT)
        if self.draining:
            self.end_if_drained()

    def look_at_kept(self) -> None:
        """What the client sent while its statement is held: a good-bye ends the session, and too much ends the waiting."""
        if self.relay.terminated:
            self.end("the client said good-bye")
        elif held.kept(self.relay) > self._max_kept:
            if self.waits and self.waiting:
                self.waiting.flood()
            self.pause_client(MUCH_KEPT)

    # Reading from the client

    def pause_client(self, why: int) -> None:
        """Read nothing from the client until `resume_client` was called for each reason."""
        if not self.paused and self.client and not self.client.is_closing():
            self.client.pause_reading()
        self.paused |= why

    def resume_client(self, why: int) -> None:
        before, self.paused = self.paused, self.paused & ~why
        if before and not self.paused and self.client and not self.client.is_closing():
            self.client.resume_reading()

    @property
    def over(self) -> bool:
        return self._on_end is None

    @property
    def in_transaction(self) -> bool:
        return self.relay.status != IDLE


class ClientEnd(asyncio.Protocol):
    """What the client sends, on its way to the server."""

    __slots__ = ("_early", "_from_client", "_judged", "_pair", "_record", "_server", "_withheld", "_write")

    def __init__(self, pair: Pair, server: asyncio.Transport) -> None:
        self._pair = pair
        self._server = server
        self._write = server.write
        self._from_client = pair.relay.from_client
        self._judged = pair.relay.judged
        self._record = pair.record
        self._withheld = b""
        self._early: list[bytes] = []

    def data_received(self, data: bytes) -> None:
        pair = self._pair
        pair.active = True
        if pair.paused & WITHHELD:
            # A transport may have had it in its hands when it was paused.
            self._early.append(data)
            return
        writes = False
        try:
            forward = self._from_client(data)
            judged = self._judged
            if judged:
                now = time()
                for judgement in judged:
                    self._record(now, judgement)
                    if judgement.writes and type(judgement.verdict) in PASSES:
                        writes = True
                judged.clear()
        except DbshieldError as error:
            # What was judged before the message that ends the session was attempted all the same.
            for judgement in self._judged:
                self._record(time(), judgement)
            self._judged.clear()
            pair.end(error.message, error, sqlstate=getattr(error, "sqlstate", INTERNAL))
            return
        except Exception as error:  # noqa: BLE001 - a bug must stop the session, not let it pass
            pair.end(f"bug in the relay: {error!r}", Refused("dbshield failed to read this message"), sqlstate=INTERNAL)
            return
        if writes and forward:
            self._withheld = forward
            pair.pause_client(WITHHELD)
            pair.when_durable(self._release)
        elif forward:
            self._write(forward)
        elif pair.relay.keeps:
            pair.look_at_kept()

    def _release(self, error: DbshieldError | None) -> None:
        """What was withheld is in the audit, or cannot be."""
        pair = self._pair
        forward, self._withheld = self._withheld, b""
        early, self._early = b"".join(self._early), []
        if pair.over:
            return
        if error is not None:
            pair.end(error.message, error, sqlstate=INTERNAL)
            return
        self._write(forward)
        pair.paused &= ~WITHHELD
        if early:
            self.data_received(early)
        if not pair.paused & WITHHELD:
            pair.paused |= WITHHELD
            pair.resume_client(WITHHELD)

    def eof_received(self) -> bool:
        # At once: a client that reads nothing more would keep the connection, and so the session, for as long as it likes.
        self._gone()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._gone()
        self._pair.client_closed()

    def _gone(self) -> None:
        self._pair.end("the client said good-bye" if self._pair.relay.terminated else "the client went away")

    def pause_writing(self) -> None:
        self._server.pause_reading()

    def resume_writing(self) -> None:
        if not self._server.is_closing():
            self._server.resume_reading()


class ServerEnd(asyncio.Protocol):
    """What the server sends, on its way to the client."""

    __slots__ = ("_from_server", "_outcomes", "_pair", "_write")

    def __init__(self, pair: Pair, client: asyncio.Transport) -> None:
        self._pair = pair
        self._write = client.write
        self._from_server = pair.relay.from_server
        self._outcomes = pair.relay.outcomes

    def data_received(self, data: bytes) -> None:
        pair = self._pair
        try:
            forward = self._from_server(data)
        except DbshieldError as error:
            pair.end(error.message, error, sqlstate=getattr(error, "sqlstate", INTERNAL))
            return
        except Exception as error:  # noqa: BLE001 - as above
            pair.end(f"bug in the relay: {error!r}", Refused("dbshield failed to read the server's answer"), sqlstate=INTERNAL)
            return
        if self._outcomes:
            pair.tell_outcomes()
        if forward:
            self._write(forward)
        if pair.draining:
            pair.end_if_drained()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        if self._pair.relay.terminated:
            self._pair.end("the client said good-bye")
        else:
            self._pair.end(SERVER_CLOSED, server_gone(), sqlstate=SERVER_GONE)
        self._pair.server_closed()

    def pause_writing(self) -> None:
        self._pair.pause_client(SERVER_IS_SLOW)

    def resume_writing(self) -> None:
        self._pair.resume_client(SERVER_IS_SLOW)
