"""An asyncio protocol for the few round trips of a login: what arrives is awaited, not called back.

The relay does not use it; once a session stands, `set_protocol` puts a faster one in its place.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

from dbshield.errors import ProtocolError

MAX_WAITING = 1 << 16
"""Bytes that a peer may send ahead of being asked during a login; a login is far shorter."""


class Inbox(asyncio.Protocol):
    """Holds what arrived until `receive` takes it. `on_lost` is called once when the peer goes away."""

    def __init__(self, head: bytes = b"", *, on_lost: Callable[[], None] | None = None) -> None:
        self.transport: asyncio.Transport | None = None
        self.lost = False
        self.on_lost = on_lost
        self._data = bytearray(head)
        self._waiter: asyncio.Future[None] | None = None
        self._paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are none of asyncio's classes, but have their methods.
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._data += data
        if len(self._data) > MAX_WAITING and self.transport and not self._paused:
            self._paused = True
            self.transport.pause_reading()
        self._wake()

    def eof_received(self) -> bool:
        self.lost = True
        self._wake()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        self._wake()
        if self.on_lost:
            self.on_lost()

    def _wake(self) -> None:
        if self._waiter and not self._waiter.done():
            self._waiter.set_result(None)

    @property
    def waiting(self) -> bool:
        """Whether bytes lie here that nobody took."""
        return bool(self._data)

    def take(self) -> bytes:
        """What lies here, perhaps nothing."""
        data, self._data = bytes(self._data), bytearray()
        if self._paused and self.transport:
            self._paused = False
            self.transport.resume_reading()
        return data

    async def receive(self) -> bytes:
        """The next bytes. Raises ConnectionError when the peer is gone."""
        while not self._data:
            if self.lost:
                raise ConnectionResetError("the peer closed the connection")
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        return self.take()

    async def receive_byte(self) -> bytes:
        """Exactly one byte, with nothing behind it: the answer to an SSLRequest.

        Raises ProtocolError when more came: bytes before the handshake could have been put there by anybody (CVE-2021-23222).
        """
        data = await self.receive()
        if len(data) != 1:
            raise ProtocolError("the server sent unencrypted data behind its answer to the SSLRequest")
        return data
