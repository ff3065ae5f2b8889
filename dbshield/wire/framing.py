"""Cutting a stream of bytes into messages, whatever pieces it comes in.

For login, tests and traces; the relay scans its own buffers. A length is judged as soon as it is there, before a byte of its
message is kept, so an incomplete message never holds more than its limit.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from dbshield.errors import ProtocolError

MAX_STARTUP: Final = 10_000
"""Bytes of a start-up packet behind its length word: MAX_STARTUP_PACKET_LENGTH in PostgreSQL's libpq/pqcomm.h."""

MAX_MESSAGE: Final = 0x3FFF_FFFF - 1
"""The length word of any message: PQ_LARGE_MESSAGE_LIMIT (MaxAllocSize - 1) in PostgreSQL's libpq/libpq.h."""

MAX_SASL_MESSAGE: Final = 1024
"""The length word of a client's SASL message: PG_MAX_SASL_MESSAGE_LENGTH in PostgreSQL's libpq/sasl.h."""

_WORD: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """One message, not yet understood. `code` is its type byte, empty for a packet of the start-up phase."""

    code: bytes
    payload: bytes = field(repr=False)


class FrameReader:
    """Bytes in, frames out.

    `max_length` bounds the length word of a typed message, `max_startup` the body of an untyped one. With `startup` the first
    frame is untyped and all others are typed. After a ProtocolError the reader gives nothing more.
    """

    __slots__ = ("_buffer", "_error", "_max_length", "_max_startup", "_startup")

    def __init__(self, *, max_length: int = MAX_MESSAGE, max_startup: int = MAX_STARTUP, startup: bool = False) -> None:
        self._buffer = bytearray()
        self._max_length = max_length
        self._max_startup = max_startup
        self._startup = startup
        self._error: ProtocolError | None = None

    def feed(self, data: bytes) -> list[Frame]:
        """Add bytes and take every frame that is whole now. Raises ProtocolError at a length out of bounds."""
        self.add(data)
        frames = []
        while (frame := self.next_frame()) is not None:
            frames.append(frame)
        return frames

    def add(self, data: bytes) -> None:
        """Add bytes without taking frames; for a caller that may stop between two of them."""
        self._buffer += data

    def next_frame(self) -> Frame | None:
        """The next whole frame, or None until more bytes are there. Raises ProtocolError at a length out of bounds."""
        if self._error is not None:
            raise self._error
        head = 0 if self._startup else 1
        if len(self._buffer) < head + _WORD:
            return None
        length = int.from_bytes(self._buffer[head : head + _WORD], "big", signed=True)
        self._judge(length)
        end = head + length
        if len(self._buffer) < end:
            return None
        frame = Frame(code=bytes(self._buffer[:head]), payload=bytes(self._buffer[head + _WORD : end]))
        del self._buffer[:end]
        self._startup = False
        return frame

    def _judge(self, length: int) -> None:
        if self._startup:
            # A start-up packet holds at least the protocol version.
            low, high, what = 2 * _WORD, self._max_startup + _WORD, "startup packet"
        else:
            low, high, what = _WORD, self._max_length, f"message {bytes(self._buffer[:1])!r}"
        if low <= length <= high:
            return
        self._buffer.clear()
        self._error = ProtocolError(f"invalid length of {what}: {length} is not between {low} and {high}")
        raise self._error

    @property
    def pending(self) -> bytes:
        """Bytes that were added and belong to no frame yet."""
        return bytes(self._buffer)

    @property
    def size(self) -> int:
        """How many bytes are held."""
        return len(self._buffer)
