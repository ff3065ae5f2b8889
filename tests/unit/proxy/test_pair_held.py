"""A pair whose statement is held, over real sockets: the order of what goes out, and what ends the waiting."""

from __future__ import annotations

import asyncio
import functools
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import uvloop
from support.conversation import IDLE, MARKER, SELECTED, TOLD, other_error, syntax_error

from dbshield.model import AccessLevel
from dbshield.policy.functions import FunctionCatalogue
from dbshield.policy.judge import Judge
from dbshield.policy.policy import Policy
from dbshield.proxy.inbox import Inbox
from dbshield.proxy.pair import Pair
from dbshield.session.held import HeldStatement
from dbshield.session.held_answers import notice, ran
from dbshield.session.relay import Relay
from dbshield.session.terms import question
from dbshield.wire.backend import CommandComplete
from dbshield.wire.framing import FrameReader
from dbshield.wire.frontend import Bind, Execute, Parse, Query, Sync, Terminate, decode_frontend
from dbshield.wire.message import Message

MAX_PENDING = 1 << 16
DELETE = Query(query=b"delete from shop.orders")
SELECT = Query(query=b"select 1")
STAND_IN = Query(query=f"{MARKER}_1".encode())


@dataclass
class Waiter:
    """Waits until the test answers, and writes down what it is told."""

    active: bool = False
    told: list[HeldStatement | str] = field(default_factory=list)

    def begin(self, statement: HeldStatement) -> None:
        self.active = True
        self.told.append(statement)

    def drain(self) -> None:
        self.told.append("drain")

    def flood(self) -> None:
        self.told.append("flood")


@dataclass
class Held:
    """A pair in which a human can be asked, and the far ends of its two connections."""

    pair: Pair
    client: socket.socket
    server: socket.socket
    waiter: Waiter
    reasons: list[str]

    async def say(self, sock: socket.socket, *messages: Message) -> None:
        await asyncio.get_running_loop().sock_sendall(sock, b"".join(message.encode() for message in messages))

    async def hears(self, sock: socket.socket, *messages: Message) -> None:
        """The next bytes are these messages."""
        wanted = b"".join(message.encode() for message in messages)
        heard = b""
        while len(heard) < len(wanted):
            heard += await asyncio.wait_for(asyncio.get_running_loop().sock_recv(sock, len(wanted) - len(heard)), 10)
        assert heard == wanted

    async def reach(self) -> HeldStatement:
        await self.say(self.client, DELETE)
        await self.hears(self.server, STAND_IN)
        await self.say(self.server, syntax_error(), IDLE)
        await self.tell_terms()
        await until(lambda: self.waiter.told)
        [statement] = self.waiter.told
        assert isinstance(statement, HeldStatement)
        return statement

    async def tell_terms(self) -> None:
        """What the server is asked before a human is, and its answer."""
        await self.hears(self.server, *decoded(question(f"{MARKER}_terms".encode())))
        await self.say(self.server, *TOLD)

    def answer(self, answer: bytes) -> None:
        self.waiter.active = False
        self.pair.answer(answer)


def decoded(data: bytes) -> list[Message]:
    return [decode_frontend(frame.code, frame.payload) for frame in FrameReader().feed(data)]


async def until(what: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not what():  # noqa: ASYNC110 - polls what has no event
            await asyncio.sleep(0)


def on_uvloop(test: Callable[[Held], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """Runs the test on the loop that the proxy runs on, with a pair."""

    async def with_pair() -> None:
        async with pairs() as both:
            await test(both)

    @functools.wraps(test)
    def run() -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(with_pair())

    del run.__wrapped__  # pytest would look for a fixture of the parameter's name
    return run


@asynccontextmanager
async def pairs() -> AsyncIterator[Held]:
    loop = asyncio.get_running_loop()
    judge = Judge(policy=Policy(access=AccessLevel.WRITE), functions=FunctionCatalogue.builtin())
    client, client_near = socket.socketpair()
    server, server_near = socket.socketpair()
    for sock in (client, server, client_near, server_near):
        sock.setblocking(False)
    reasons: list[str] = []
    relay = Relay(judge=judge, marker=MARKER, asks=lambda: True)
    pair = Pair(relay, lambda _, judgement: None, lambda _, rows: None, reasons.append, lambda told: told(None))
    pair.waiting = waiter = Waiter()
    near = [(await loop.connect_accepted_socket(Inbox, sock))[0] for sock in (client_near, server_near)]
    pair.join(near[0], near[1], max_pending=MAX_PENDING)
    try:
        yield Held(pair, client, server, waiter, reasons)
    finally:
        for transport in near:
            transport.abort()
        client.close()
        server.close()


@on_uvloop
async def test_a_notice_then_the_answer_then_what_was_sent_meanwhile(both: Held) -> None:
    statement = await both.reach()
    await both.say(both.client, SELECT)
    both.pair.say(notice("waits", approval="apr-aaaaaaaa"))
    both.answer(ran(statement, "DELETE 3"))
    told = notice("waits", approval="apr-aaaaaaaa")
    heard = await asyncio.get_running_loop().sock_recv(both.client, len(told))
    assert heard == told
    await both.hears(both.client, CommandComplete(tag="DELETE 3"), IDLE)
    await both.hears(both.server, SELECT)


@on_uvloop
async def test_behind_an_error_what_was_kept_goes_on(both: Held) -> None:
    cycle = (Parse(query=b"select * from missing"), Parse(query=DELETE.query), Bind(), Execute(), Sync())
    stand_in = Parse(name=f"{MARKER}_1".encode(), query=f"{MARKER}_1".encode())
    await both.say(both.client, *cycle, SELECT)
    await both.hears(both.server, cycle[0], Parse(query=b""), stand_in, Sync())
    await both.say(both.server, other_error(), IDLE)
    await both.hears(both.client, other_error(), IDLE)
    await both.hears(both.server, SELECT)
    assert both.waiter.told == []


@on_uvloop
async def test_a_good_bye_ends_it(both: Held) -> None:
    await both.reach()
    await both.say(both.client, SELECT, Terminate())
    await until(lambda: both.reasons)
    assert both.reasons == ["the client said good-bye"]


@on_uvloop
async def test_a_good_bye_that_came_with_it(both: Held) -> None:
    await both.say(both.client, DELETE, Terminate())
    await both.hears(both.server, STAND_IN)
    await both.say(both.server, syntax_error(), IDLE)
    await until(lambda: both.reasons)
    assert both.waiter.told == []


@on_uvloop
async def test_too_much_is_not_read(both: Held) -> None:
    """Before the server has come to it too, when there is nobody yet who could end the waiting."""
    await both.say(both.client, SELECT, DELETE)
    await both.hears(both.server, SELECT, STAND_IN)
    long = Query(query=b"select '" + b"x" * (2 * MAX_PENDING) + b"'")
    sending = asyncio.ensure_future(both.say(both.client, *[long] * 40))
    await until(lambda: both.pair.paused)
    assert not sending.done()
    await both.say(both.server, SELECTED, IDLE, syntax_error(), IDLE)
    await both.hears(both.client, SELECTED, IDLE)
    await both.tell_terms()
    await until(lambda: "flood" in both.waiter.told)
    assert not sending.done()
    both.answer(b"")
    await both.hears(both.client, IDLE)
    await both.hears(both.server, *[long] * 40)
    await sending
    assert not both.pair.paused


@on_uvloop
async def test_a_proxy_that_drains_tells_who_waits_and_ends_behind_the_answer(both: Held) -> None:
    statement = await both.reach()
    both.pair.drain()
    assert both.waiter.told == [statement, "drain"]
    assert both.reasons == []
    both.answer(ran(statement, "DELETE 3"))
    await both.hears(both.client, CommandComplete(tag="DELETE 3"), IDLE)
    assert both.reasons == ["drained"]


@on_uvloop
async def test_an_answer_that_comes_too_late_harms_nobody(both: Held) -> None:
    statement = await both.reach()
    both.client.close()
    await until(lambda: both.reasons)
    both.answer(ran(statement, "DELETE 3"))
    assert both.reasons == ["the client went away"]
