"""Messages that both sides send while COPY runs (PostgreSQL manual, "COPY Operations")."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

from dbshield.wire import buffer
from dbshield.wire.message import EmptyMessage, Message


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyData(Message):
    """Some bytes of the stream; from a client they may end anywhere, from a server they are a whole row."""

    code: ClassVar[bytes] = b"d"
    data: bytes

    def encode(self) -> bytes:
        return buffer.message(self.code, self.data)

    @classmethod
    def decode(cls, payload: bytes) -> Self:
        return cls(data=payload)


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyDone(EmptyMessage):
    """The stream is complete."""

    code: ClassVar[bytes] = b"c"
