"""Who connects and says nothing, or reads nothing, keeps nobody else from an answer. A real server, on a real socket."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Generator

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from dbshield.monitoring.prompt import prompt

GET = b"GET / HTTP/1.1\r\nHost: here\r\n\r\n"
PATIENCE = 60.0
"""Seconds for what takes a fraction of one."""
SOON = 0.2
"""Seconds that a connection may be silent here."""
AT_ONCE = 12
CHUNK = b"x" * 65_536


class Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


class Application:
    """Answers when `go` is set; to a path of "/flood" with more than anybody reads, and `flooded` is set at its end."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.go.set()
        self.flooded = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        while (message := await receive())["type"] == "http.request" and message["more_body"]:
            pass
        await self.go.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        if scope["path"] != "/flood":
            await send({"type": "http.response.body", "body": b"here"})
            return
        sending = asyncio.create_task(self._flood(send))
        await receive()
        sending.cancel()
        self.flooded.set()

    @staticmethod
    async def _flood(send: Send) -> None:
        while True:
            await send({"type": "http.response.body", "body": CHUNK, "more_body": True})


class Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def ended(self) -> bool:
        """Whether the server ends the connection, without a word."""
        with contextlib.suppress(ConnectionError):
            return await asyncio.wait_for(self.reader.read(), PATIENCE) == b""
        return True

    async def status(self) -> bytes:
        return await asyncio.wait_for(self.reader.readline(), PATIENCE)

    def is_open(self) -> bool:
        return not self.reader.at_eof() and self.reader.exception() is None


class House:
    """A server and who comes to it."""

    def __init__(self, application: Application, port: int) -> None:
        self.application = application
        self._port = port
        self._clients: list[Client] = []

    async def client(self, said: bytes = b"") -> Client:
        made = Client(*await asyncio.open_connection("127.0.0.1", self._port))
        self._clients.append(made)
        made.writer.write(said)
        return made

    async def close(self) -> None:
        for one in self._clients:
            one.writer.close()
            with contextlib.suppress(ConnectionError):
                await one.writer.wait_closed()


@contextlib.asynccontextmanager
async def opened(most: int = AT_ONCE, whole: float = PATIENCE, taken: float = PATIENCE) -> AsyncIterator[House]:
    application = Application()
    config = uvicorn.Config(
        application, http=prompt(most, whole=whole, taken=taken), log_config=None, lifespan="off", limit_concurrency=AT_ONCE
    )
    server = Server(config)
    with socket.create_server(("127.0.0.1", 0)) as sock:
        serving = asyncio.create_task(server.serve(sockets=[sock]))
        house = House(application, sock.getsockname()[1])
        try:
            yield house
        finally:
            await house.close()
            server.should_exit = True
            await asyncio.wait_for(serving, PATIENCE)


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"GET / HTTP/1.1\r\nHost: he",
        b"POST / HTTP/1.1\r\nHost: here\r\nContent-Length: 10\r\n\r\nhalf",
    ],
    ids=["nothing", "half-a-head", "half-a-body"],
)
def test_who_does_not_say_what_is_wanted_ends(said: bytes) -> None:
    async def run() -> None:
        async with opened(whole=SOON) as house:
            silent = await house.client(said)
            assert await silent.ended()

    asyncio.run(run())


def test_half_of_a_second_request_is_no_way_round() -> None:
    async def run() -> None:
        async with opened(whole=SOON) as house:
            client = await house.client(GET)
            await asyncio.wait_for(client.reader.readuntil(b"here\r\n0\r\n\r\n"), PATIENCE)
            client.writer.write(GET[:9])
            assert await client.ended()

    asyncio.run(run())


def test_an_answer_takes_as_long_as_it_takes() -> None:
    """A page that follows what happens is asked for once, and answered for hours."""

    async def run() -> None:
        async with opened(whole=SOON) as house:
            house.application.go.clear()
            waits = await house.client(GET)
            assert await (await house.client()).ended(), "who came later has said nothing for longer than one may"
            assert waits.is_open()
            house.application.go.set()
            assert b"200" in await waits.status()

    asyncio.run(run())


def test_regression_a_crowd_that_is_silent_takes_nobodys_place() -> None:
    """Everybody else was told 503: a liveness probe, and who wants to deny a DROP."""

    async def run() -> None:
        async with opened(most=AT_ONCE // 2) as house:
            crowd = [await house.client() for _ in range(3 * AT_ONCE)]
            assert await crowd[0].ended(), "the one that was silent for longest"
            asks = await house.client(GET)
            assert b"200" in await asks.status()

    asyncio.run(run())


def test_regression_who_reads_nothing_is_cut() -> None:
    """An export kept its transaction in the control database for as long as somebody left it unread."""

    async def run() -> None:
        async with opened(taken=SOON) as house:
            client = await house.client(GET.replace(b"GET /", b"GET /flood"))
            assert b"200" in await client.status()
            client.writer.transport.pause_reading()  # type: ignore[attr-defined]
            await asyncio.wait_for(house.application.flooded.wait(), PATIENCE)

    asyncio.run(run())
