"""Messages of a server, except for authentication (`authentication.py`), reports (`report.py`) and results (`result.py`).

Source: PostgreSQL 18 manual, "Message Formats".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum, unique
from types import MappingProxyType
from typing import ClassVar, Final, Self

from dbshield.errors import ProtocolError
from dbshield.wire import buffer
from dbshield.wire.authentication import AnyAuthentication, decode_authentication
from dbshield.wire.buffer import Reader
from dbshield.wire.copying import CopyData, CopyDone
from dbshield.wire.message import EmptyMessage, Message
from dbshield.wire.report import ErrorResponse, NoticeResponse
from dbshield.wire.result import (
    CommandComplete,
    CopyBothResponse,
    CopyInResponse,
    CopyOutResponse,
    DataRow,
    FunctionCallResponse,
    ParameterDescription,
    RowDescription,
)
from dbshield.wire.startup import check_secret_key, version_number, version_pair

__all__ = [
    "BACKEND",
    "AnyAuthentication",
    "BackendKeyData",
    "BackendMessage",
    "BindComplete",
    "CloseComplete",
    "CommandComplete",
    "CopyBothResponse",
    "CopyData",
    "CopyDone",
    "CopyInResponse",
    "CopyOutResponse",
    "DataRow",
    "EmptyQueryResponse",
    "ErrorResponse",
    "FunctionCallResponse",
    "NegotiateProtocolVersion",
    "NoData",
    "NoticeResponse",
    "NotificationResponse",
    "ParameterDescription",
    "ParameterStatus",
    "ParseComplete",
    "PortalSuspended",
    "ReadyForQuery",
    "RowDescription",
    "TransactionStatus",
    "decode_backend",
]


@unique
class TransactionStatus(Enum):
    """Where the session stands when the server is ready."""

    IDLE = b"I"
    IN_TRANSACTION = b"T"
    FAILED = b"E"

    def __repr__(self) -> str:
        return self.name.lower()


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendKeyData(Message):
    """What a CancelRequest must name. The key is 4 bytes in protocol 3.0 and 4 to 256 in 3.2; `process_id` is a signed Int32."""

    code: ClassVar[bytes] = b"K"
    process_id: int
    secret_key: bytes = field(repr=False)

    def encode(self) -> bytes:
        return buffer.message(self.code, buffer.int32(self.process_id), check_secret_key(self.secret_key))

    @classmethod
    def decode(cls, payload: bytes) -> Self:
        reader = Reader(payload, cls.__name__)
        return cls(process_id=reader.int32(), secret_key=check_secret_key(reader.rest()))


@dataclass(frozen=True, slots=True, kw_only=True)
class NegotiateProtocolVersion(Message):
    """The server speaks at most `protocol`, and none of the `options` that were asked for.

    The manual calls the first field the newest *minor* version, PostgreSQL sends the whole version number; so do we.
    """

    code: ClassVar[bytes] = b"v"
    protocol: tuple[int, int]
    options: tuple[str, ...] = ()

    def encode(self) -> bytes:
        return buffer.message(
            self.code,
            buffer.int32(version_number(self.protocol)),
            buffer.int32(len(self.options)),
            *map(buffer.string, self.options),
        )

    @classmethod
    def decode(cls, payload: bytes) -> Self:
        reader = Reader(payload, cls.__name__)
        number, count = reader.uint32(), reader.int32()
        # Each name takes at least its NUL, so a count beyond that is a lie, found before the loop that it asks for.
        if number > 0x7FFF_FFFF or not 0 <= count <= reader.left:
            raise reader.fail(f"version {number} with {count} options")
        options = tuple(reader.text() for _ in range(count))
        reader.end()
        return cls(protocol=version_pair(number), options=options)


@dataclass(frozen=True, slots=True, kw_only=True)
class NotificationResponse(Message):
    """A NOTIFY from the session `process_id`; may arrive at any time."""

    code: ClassVar[bytes] = b"A"
    process_id: int
    channel: bytes
    payload: bytes = b""

    def encode(self) -> bytes:
        return buffer.message(self.code, buffer.int32(self.process_id), buffer.string(self.channel), buffer.string(self.payload))

    @classmethod
    def decode(cls, payload: bytes) -> Self:
        reader = Reader(payload, cls.__name__)
        process_id, channel, text = reader.int32(), reader.string(), reader.string()
        reader.end()
        return cls(process_id=process_id, channel=channel, payload=text)


@dataclass(frozen=True, slots=True, kw_only=True)
class ParameterStatus(Message):
    """A setting that clients care about, now or after it changed. A value that is not UTF-8 is read with replacements."""

    code: ClassVar[bytes] = b"S"
    name: str
    value: str

    def encode(self) -> bytes:
        return buffer.message(self.code, buffer.string(self.name), buffer.string(self.value))

    @classmethod
    def decode(cls, payload: bytes) -> Self:
        reader = Reader(payload, cls.__name__)
        name, value = reader.text(), reader.lenient_text()
        reader.end()
        return cls(name=name, value=value)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadyForQuery(Message):
    """The server waits for the next query."""

    code: ClassVar[bytes] = b"Z"
    status: TransactionStatus

    def encode(self) -> bytes:
        return buffer.message(self.code, self.status.value)

    @classmethod
    def decode(cls, payload: bytes) -> Self:
        try:
            return cls(status=TransactionStatus(payload))
        except ValueError as error:
            raise ProtocolError(f"malformed {cls.__name__}: {payload[:8]!r} is no transaction status") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class ParseComplete(EmptyMessage):
    """Answers Parse."""

    code: ClassVar[bytes] = b"1"


@dataclass(frozen=True, slots=True, kw_only=True)
class BindComplete(EmptyMessage):
    """Answers Bind."""

    code: ClassVar[bytes] = b"2"


@dataclass(frozen=True, slots=True, kw_only=True)
class CloseComplete(EmptyMessage):
    """Answers Close."""

    code: ClassVar[bytes] = b"3"


@dataclass(frozen=True, slots=True, kw_only=True)
class EmptyQueryResponse(EmptyMessage):
    """Stands for CommandComplete where the text held no statement."""

    code: ClassVar[bytes] = b"I"


@dataclass(frozen=True, slots=True, kw_only=True)
class NoData(EmptyMessage):
    """Answers Describe of what returns no rows."""

    code: ClassVar[bytes] = b"n"


@dataclass(frozen=True, slots=True, kw_only=True)
class PortalSuspended(EmptyMessage):
    """Execute reached its row count; the portal has more."""

    code: ClassVar[bytes] = b"s"


BackendMessage = (
    AnyAuthentication
    | BackendKeyData
    | BindComplete
    | CloseComplete
    | CommandComplete
    | CopyBothResponse
    | CopyData
    | CopyDone
    | CopyInResponse
    | CopyOutResponse
    | DataRow
    | EmptyQueryResponse
    | ErrorResponse
    | FunctionCallResponse
    | NegotiateProtocolVersion
    | NoData
    | NoticeResponse
    | NotificationResponse
    | ParameterDescription
    | ParameterStatus
    | ParseComplete
    | PortalSuspended
    | ReadyForQuery
    | RowDescription
)

BACKEND: Final[Mapping[bytes, Callable[[bytes], BackendMessage]]] = MappingProxyType(
    {
        b"1": ParseComplete.decode,
        b"2": BindComplete.decode,
        b"3": CloseComplete.decode,
        b"A": NotificationResponse.decode,
        b"C": CommandComplete.decode,
        b"D": DataRow.decode,
        b"E": ErrorResponse.decode,
        b"G": CopyInResponse.decode,
        b"H": CopyOutResponse.decode,
        b"I": EmptyQueryResponse.decode,
        b"K": BackendKeyData.decode,
        b"N": NoticeResponse.decode,
        b"R": decode_authentication,
        b"S": ParameterStatus.decode,
        b"T": RowDescription.decode,
        b"V": FunctionCallResponse.decode,
        b"W": CopyBothResponse.decode,
        b"Z": ReadyForQuery.decode,
        b"c": CopyDone.decode,
        b"d": CopyData.decode,
        b"n": NoData.decode,
        b"s": PortalSuspended.decode,
        b"t": ParameterDescription.decode,
        b"v": NegotiateProtocolVersion.decode,
    }
)
"""Type byte to decoder, for all that a server may send."""


def decode_backend(code: bytes, payload: bytes) -> BackendMessage:
    """A server's message. A type byte that the protocol does not name raises ProtocolError."""
    if code not in BACKEND:
        raise ProtocolError(f"invalid backend message type {code!r}")
    return BACKEND[code](payload)
