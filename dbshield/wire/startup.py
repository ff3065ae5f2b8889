"""Packets of the start-up phase: they have no type byte, and their first word says what they are.

Source: PostgreSQL 18 manual, "Message Formats" (StartupMessage, SSLRequest, GSSENCRequest, CancelRequest), and
ProcessStartupPacket in PostgreSQL's backend_startup.c for what the manual leaves open.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Self

from dbshield.errors import ProtocolError
from dbshield.wire import buffer
from dbshield.wire.buffer import Reader
from dbshield.wire.message import Message

CANCEL_REQUEST_CODE: Final = 80877102
SSL_REQUEST_CODE: Final = 80877103
GSSENC_REQUEST_CODE: Final = 80877104

PROTOCOL_3_0: Final = (3, 0)
PROTOCOL_3_2: Final = (3, 2)
"""PostgreSQL 18; the newest one there is. 3.1 was left out on purpose, because a pooler answered to it by mistake."""

PROTOCOL_OPTION_PREFIX: Final = "_pq_."
"""Names of protocol extensions among the start-up parameters; PostgreSQL 18 knows none."""

MIN_SECRET_KEY: Final = 4
"""Bytes of a cancel key in protocol 3.0, where it is always this long."""
MAX_SECRET_KEY: Final = 256
"""Bytes of a cancel key in protocol 3.2 at most (manual, BackendKeyData)."""


def version_number(protocol: tuple[int, int]) -> int:
    """(3, 2) as the Int32 of the wire."""
    major, minor = protocol
    if not (0 <= major <= 0x7FFF and 0 <= minor <= 0xFFFF):
        raise ProtocolError(f"{major}.{minor} is no protocol version")
    return major << 16 | minor


def version_pair(number: int) -> tuple[int, int]:
    """The Int32 of the wire as (major, minor); `number` is taken as unsigned."""
    return number >> 16 & 0xFFFF, number & 0xFFFF


def check_secret_key(key: bytes) -> bytes:
    """`key`, if its length is one that the protocol allows."""
    if not MIN_SECRET_KEY <= len(key) <= MAX_SECRET_KEY:
        raise ProtocolError(f"a cancel key of {len(key)} bytes is not between {MIN_SECRET_KEY} and {MAX_SECRET_KEY}")
    return key


@dataclass(frozen=True, slots=True, kw_only=True)
class StartupMessage(Message):
    """The client's first message proper. `parameters` stand in the order sent, doubles included: PostgreSQL lets the last win."""

    protocol: tuple[int, int] = PROTOCOL_3_0
    parameters: tuple[tuple[str, str], ...]

    def get(self, name: str) -> str | None:
        """The value that PostgreSQL would use for `name`."""
        return dict(self.parameters).get(name)

    @property
    def protocol_options(self) -> tuple[str, ...]:
        """The names that start with `_pq_.`, in order."""
        return tuple(name for name, _ in self.parameters if name.startswith(PROTOCOL_OPTION_PREFIX))

    def encode(self) -> bytes:
        parts = [buffer.int32(version_number(self.protocol))]
        for name, text in self.parameters:
            if not name:
                raise ProtocolError("a startup parameter has no name")
            parts += (buffer.string(name), buffer.string(text))
        return buffer.untyped(*parts, b"\0")

    @classmethod
    def decode(cls, payload: bytes) -> Self:
        reader = Reader(payload, cls.__name__)
        number = reader.uint32()
        if number > 0x7FFF_FFFF:
            raise reader.fail(f"{number} is no protocol version")
        parameters = []
        while name := reader.text():
            parameters.append((name, reader.text()))
        # PostgreSQL, too, insists that the terminator is the last byte.
        reader.end()
        return cls(protocol=version_pair(number), parameters=tuple(parameters))


def _decode_bare(payload: bytes, code: int, what: str) -> None:
    reader = Reader(payload, what)
    if (found := reader.uint32()) != code:
        raise reader.fail(f"its code is {found}")
    reader.end()


@dataclass(frozen=True, slots=True, kw_only=True)
class SSLRequest(Message):
    """May we speak TLS? Answered with one byte, `S` or `N`."""

    def encode(self) -> bytes:
        return buffer.untyped(buffer.int32(SSL_REQUEST_CODE))

    @classmethod
    def decode(cls, payload: bytes) -> Self:
        _decode_bare(payload, SSL_REQUEST_CODE, cls.__name__)
        return cls()


@dataclass(frozen=True, slots=True, kw_only=True)
class GSSENCRequest(Message):
    """May we speak GSSAPI encryption? Answered with one byte, `G` or `N`."""

    def encode(self) -> bytes:
        return buffer.untyped(buffer.int32(GSSENC_REQUEST_CODE))

    @classmethod
    def decode(cls, payload: bytes) -> Self:
        _decode_bare(payload, GSSENC_REQUEST_CODE, cls.__name__)
        return cls()


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelRequest(Message):
    """On a connection of its own: stop what that session runs. Nothing is answered. The key is 4 to 256 bytes."""

    process_id: int
    secret_key: bytes = field(repr=False)

    def encode(self) -> bytes:
        return buffer.untyped(buffer.int32(CANCEL_REQUEST_CODE), buffer.int32(self.process_id), check_secret_key(self.secret_key))

    @classmethod
    def decode(cls, payload: bytes) -> Self:
        reader = Reader(payload, cls.__name__)
        if (found := reader.uint32()) != CANCEL_REQUEST_CODE:
            raise reader.fail(f"its code is {found}")
        return cls(process_id=reader.int32(), secret_key=check_secret_key(reader.rest()))


StartupPacket = StartupMessage | SSLRequest | GSSENCRequest | CancelRequest


def decode_startup(payload: bytes) -> StartupPacket:
    """Any packet of the start-up phase; a code that is none of the requests is taken for a protocol version."""
    match int.from_bytes(payload[:4], "big"):
        case 80877102:
            return CancelRequest.decode(payload)
        case 80877103:
            return SSLRequest.decode(payload)
        case 80877104:
            return GSSENCRequest.decode(payload)
        case _:
            return StartupMessage.decode(payload)
