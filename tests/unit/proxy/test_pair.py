"""The end of a session, over real sockets: what the client still reads, and that nothing lingers."""

from __future__ import annotations

import asyncio
import functools
import socket
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import uvloop

from dbshield.errors import DbshieldError, Refused
from dbshield.model import AccessLevel, Judgement
from dbshield.policy.functions import FunctionCatalogue
from dbshield.policy.judge import Judge
from dbshield.policy.policy import Policy
from dbshield.proxy import pair as pair_module
from dbshield.proxy.inbox import Inbox
from dbshield.proxy.pair import Pair, WhenDurable
from dbshield.session.relay import Relay
from dbshield.wire.backend import DataRow, ErrorResponse
from dbshield.wire.frontend import Query, Terminate


@dataclass
class Ends:
    """A pair, and the far ends of its two connections."""

    pair: Pair
    client: socket.socket
    server: socket.socket
    reasons: list[str]
    judged: list[Judgement] = field(default_factory=list)

    async def client_reads(self, count: int = 1 << 16) -> bytes:
        return await asyncio.wait_for(asyncio.get_running_loop().sock_recv(self.client, count), 10)

    async def client_reads_all(self) -> bytes:
        data = b""
        while more := await self.client_reads():
            data += more
        return data


def on_uvloop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Runs the test on the loop that the proxy runs on."""

    @functools.wraps(test)
    def run(**fixtures: Any) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(test(**fixtures))

    return run


@asynccontextmanager
async def ends(when_durable: WhenDurable = lambda told: told(None)) -> AsyncIterator[Ends]:
    loop = asyncio.get_running_loop()
    judge = Judge(policy=Policy(access=AccessLevel.WRITE), functions=FunctionCatalogue.builtin())
    client, client_near = socket.socketpair()
    server, server_near = socket.socketpair()
    for sock in (client, server, client_near, server_near):
        sock.setblocking(False)
    reasons: list[str] = []
    judged: list[Judgement] = []
    relay = Relay(judge=judge, marker="dbshield_test")
    pair = Pair(relay, lambda _, judgement: judged.append(judgement), lambda _, rows: None, reasons.append, when_durable)
    near = [(await loop.connect_accepted_socket(Inbox, sock))[0] for sock in (client_near, server_near)]
    pair.join(near[0], near[1], max_pending=1 << 16)
    try:
        yield Ends(pair, client, server, reasons, judged)
    finally:
        for transport in near:
            transport.abort()
        client.close()
        server.close()


async def until(what: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not what():  # noqa: ASYNC110 - polls what has no event
            await asyncio.sleep(0)


@on_uvloop
async def test_regression_an_error_is_never_taken_for_the_rest_of_a_row() -> None:
    """The server dies in the middle of a row: what the client has of it stays a part, and no value is made up."""
    async with ends() as both:
        row = DataRow(values=(b"x" * 1_000,)).encode()
        both.server.send(row[:900])
        assert await both.client_reads(900) == row[:900]
        both.server.close()
        assert await both.client_reads_all() == b""
        assert both.reasons == ["the server closed the connection"]


@on_uvloop
async def test_between_messages_the_client_reads_why() -> None:
    async with ends() as both:
        both.server.close()
        told = await both.client_reads_all()
        error = ErrorResponse.decode(told[5:])
        assert (error.sqlstate, int.from_bytes(told[1:5], "big") + 1) == ("08006", len(told))


def client_goes(both: Ends) -> None:
    both.client.close()


def client_says_so(both: Ends) -> None:
    both.client.send(Terminate().encode())
    both.client.close()


def server_goes(both: Ends) -> None:
    both.server.close()


def server_goes_as_it_was_told(both: Ends) -> None:
    both.client.send(Terminate().encode())
    both.server.close()


def proxy_goes(both: Ends) -> None:
    both.pair.drain()


@pytest.mark.parametrize("go", [client_goes, client_says_so, server_goes, server_goes_as_it_was_told, proxy_goes])
@on_uvloop
async def test_regression_a_closed_connection_is_not_kept(monkeypatch: pytest.MonkeyPatch, go: Callable[[Ends], None]) -> None:
    """What cuts a peer that lingers kept each connection that was over, and with TLS its buffers of a quarter of a megabyte."""
    monkeypatch.setattr(pair_module, "LINGER", 3600.0)
    async with ends() as both:
        kept = [weakref.ref(transport) for transport in (both.pair.client, both.pair.server) if transport is not None]
        go(both)
        await until(functools.partial(getattr, both, "reasons"))
        both.client.close()
        both.server.close()
    assert len(kept) == 2
    # No garbage has to be collected for it.
    await until(lambda: not any(reference() for reference in kept))


@asynccontextmanager
async def unread() -> AsyncIterator[tuple[Ends, asyncio.Transport]]:
    """A pair whose server sends more than its client reads, and the transport at which it waits."""
    async with ends() as both:
        transport = both.pair.client
        assert transport is not None
        row = DataRow(values=(b"x" * 100_000,)).encode()
        sending = asyncio.ensure_future(asyncio.get_running_loop().sock_sendall(both.server, row * 50))
        await until(transport.get_write_buffer_size)
        yield both, transport
        sending.cancel()
        await asyncio.wait([sending])


@on_uvloop
async def test_regression_a_client_that_reads_nothing_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its session is over and its place free, so its buffer and descriptor must not stay for as long as it likes."""
    monkeypatch.setattr(pair_module, "LINGER", 0.05)
    async with unread() as (both, transport):
        both.client.send(b"?\0\0\0\4")
        await until(lambda: both.reasons)
        await until(lambda: transport.get_write_buffer_size() == 0)
        assert "invalid frontend message type" in both.reasons[0]


@on_uvloop
async def test_regression_a_client_that_has_said_its_last_and_reads_nothing_ends_its_session() -> None:
    async with unread() as (both, _):
        both.client.shutdown(socket.SHUT_WR)
        await until(lambda: both.reasons == ["the client went away"])


@on_uvloop
async def test_regression_what_was_tried_before_a_broken_message_is_recorded() -> None:
    async with ends() as both:
        both.client.send(Query(query=b"drop table shop.orders").encode() + b"?\0\0\0\4")
        await until(lambda: both.reasons)
        assert [judgement.verdict.word for judgement in both.judged] != ["allow"]
        assert len(both.judged) == 1


class Audit:
    """Says that it has everything when the test lets it."""

    def __init__(self) -> None:
        self.waiting: list[Callable[[DbshieldError | None], None]] = []

    def when_durable(self, told: Callable[[DbshieldError | None], None]) -> None:
        self.waiting.append(told)

    def tell(self, error: DbshieldError | None = None) -> None:
        waiting, self.waiting = self.waiting, []
        for told in waiting:
            told(error)


async def reads(sock: socket.socket, count: int = 1 << 16) -> bytes:
    return await asyncio.wait_for(asyncio.get_running_loop().sock_recv(sock, count), 10)


def nothing_there(sock: socket.socket) -> bool:
    try:
        return not sock.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return True


@on_uvloop
async def test_a_write_waits_for_the_audit_and_what_comes_behind_it_waits_too() -> None:
    audit = Audit()
    insert, select = Query(query=b"insert into orders values (1)").encode(), Query(query=b"select 1").encode()
    async with ends(audit.when_durable) as both:
        both.client.send(select)
        assert await reads(both.server) == select
        for _ in range(2):
            both.client.send(insert)
            await until(lambda: audit.waiting)
            both.client.send(select)
            for _ in range(20):
                await asyncio.sleep(0)
            assert nothing_there(both.server)
            assert len(audit.waiting) == 1
            audit.tell()
            assert await reads(both.server, len(insert)) == insert
            assert await reads(both.server, len(select)) == select
        assert len(both.judged) == 5
        assert not both.reasons


@on_uvloop
async def test_writes_in_one_segment_wait_once_and_each_further_segment_again() -> None:
    audit = Audit()
    insert = Query(query=b"insert into orders values (1)").encode()
    async with ends(audit.when_durable) as both:
        both.client.send(insert * 3)
        await until(lambda: audit.waiting)
        # What a transport had in its hands when it was paused.
        end = both.pair.client.get_protocol()  # type: ignore[union-attr]
        assert isinstance(end, asyncio.Protocol)
        end.data_received(insert)
        audit.tell()
        assert await reads(both.server) == insert * 3
        assert len(audit.waiting) == 1
        assert nothing_there(both.server)
        audit.tell()
        assert await reads(both.server) == insert


@on_uvloop
async def test_a_write_that_the_audit_does_not_take_ends_the_session_and_never_reaches_the_server() -> None:
    audit = Audit()
    async with ends(audit.when_durable) as both:
        both.client.send(Query(query=b"insert into orders values (1)").encode())
        await until(lambda: audit.waiting)
        audit.tell(Refused("the audit is away", sqlstate="57P03", hint="Later."))
        told = await both.client_reads_all()
        error = ErrorResponse.decode(told[5:])
        assert (error.severity, error.sqlstate, error.message) == ("FATAL", "57P03", "dbshield: the audit is away")
        assert await reads(both.server) == b""
        assert both.reasons == ["the audit is away"]


@on_uvloop
async def test_a_session_that_ended_meanwhile_sends_nothing() -> None:
    audit = Audit()
    async with ends(audit.when_durable) as both:
        both.client.send(Query(query=b"insert into orders values (1)").encode())
        await until(lambda: audit.waiting)
        both.server.close()
        await until(lambda: both.reasons)
        audit.tell()
        assert both.reasons == ["the server closed the connection"]


@on_uvloop
async def test_what_is_refused_and_what_reads_does_not_wait() -> None:
    audit = Audit()
    async with ends(audit.when_durable) as both:
        for text in (b"drop table shop.orders", b"delete from orders", b"select * from orders", b"begin", b"commit", b"no sql"):
            both.client.send(Query(query=text).encode())
            assert await reads(both.server)
        assert audit.waiting == []


@on_uvloop
async def test_a_slow_server_does_not_release_what_is_withheld() -> None:
    audit = Audit()
    select = Query(query=b"select 1").encode()
    async with ends(audit.when_durable) as both:
        both.client.send(Query(query=b"insert into orders values (1)").encode())
        await until(lambda: audit.waiting)
        end = both.pair.server.get_protocol()  # type: ignore[union-attr]
        end.pause_writing()
        end.resume_writing()
        both.client.send(select)
        for _ in range(20):
            await asyncio.sleep(0)
        assert nothing_there(both.server)
        end.pause_writing()
        audit.tell()
        assert await reads(both.server)
        for _ in range(20):
            await asyncio.sleep(0)
        assert nothing_there(both.server)
        end.resume_writing()
        assert await reads(both.server) == select
