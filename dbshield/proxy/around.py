"""What stands around an end of a session and sees its bytes come, for those who measure or trace."""

from __future__ import annotations

import asyncio


class Around(asyncio.Protocol):
    """Passes everything on to the protocol that it stands around."""

    def __init__(self, inner: asyncio.Protocol) -> None:
        self._inner = inner
        self._receive = inner.data_received

    def data_received(self, data: bytes) -> None:
        self._receive(data)

    def eof_received(self) -> bool | None:
        return self._inner.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._inner.connection_lost(exc)

    def pause_writing(self) -> None:
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._inner.resume_writing()


def end_of(transport: asyncio.Transport) -> asyncio.Protocol:
    """The protocol that a transport has now."""
    inner = transport.get_protocol()
    assert isinstance(inner, asyncio.Protocol)
    return inner
