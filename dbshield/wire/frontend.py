"""Messages of a client after start-up.

Source: PostgreSQL 18 manual, "Message Formats". Names, query texts and values stay bytes: they are passed on, compared and
read by PostgreSQL's grammar, never printed. Counts are read unsigned, as the server does, so 65,535 parameters can be bound.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum, unique
from types import MappingProxyType
from typing import ClassVar, Final, Self

from dbshield.errors import ProtocolError
from dbshield.wire import buffer
from dbshield.wire.authentication import AuthenticationData, GSSResponse, PasswordMessage, SASLInitialResponse, SASLResponse
from dbshield.wire.buffer import Reader
from dbshield.wire.copying import CopyData, CopyDone
from dbshield.wire.message import EmptyMessage, Message

__all__ = [
    "FRONTEND",
    "AuthenticationData",
    "Bind",
    "Close",
    "CopyData",
    "CopyDone",
    "CopyFail",
    "Describe",
    "Execute",
    "Flush",
    "FrontendMessage",
    "FunctionCall",
    "GSSResponse",
    "Parse",
    "PasswordMessage",
    "Query",
    "SASLInitialResponse",
    "SASLResponse",
    "Sync",
    "Target",
    "Terminate",
    "decode_frontend",
]


@unique
class Target(Enum):
    """What Describe and Close speak of."""

    STATEMENT = b"S"
    PORTAL = b"P"

    def __repr__(self) -> str:
        return self.name.lower()


def _target(reader: Reader) -> Target:
    letter = reader.take(1)
    try:
        return Target(letter)
    except ValueError as error:
        raise reader.fail(f"{letter!r} is neither a statement nor a portal") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Query(Message):
    """A simple query: any number of statements in one text."""

    code: ClassVar[bytes] = b"Q"
    query: bytes

    def encode(self) -> bytes:
        return buffer.message(self.code, buffer.string(self.query))

    @classmethod
    def decode(cls, payload: bytes) -> Self:
        reader = Reader(payload, cls.__name__)
        query = reader.string()
        reader.end()
        return cls(query=query)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parse(Message):
    """Prepare one statement. The empty name is the unnamed statement; a type of 0 is left to the server."""

    code: ClassVar[bytes] = b"P"
    name: bytes = b""
    query: bytes
    parameter_types: tuple[int, ...] = ()

    def encode(self) -> bytes:
        return buffer.message(self.code, buffer.string(self.name), buffer.string(self.query), buffer.oids(self.parameter_types))

    @classmethod
    def decode(cls, payload: bytes) -> Self:
        reader = Reader(payload, cls.__name__)
        name, query, types = reader.string(), reader.string(), reader.oids()
        reader.end()
        return cls(name=name, query=query, parameter_types=types)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bind(Message):
    """Give a statement its values, None for NULL. Format codes: 0 text, 1 binary; none means text, one is for all."""

    code: ClassVar[bytes] = b"B"
    portal: bytes = b""
    statement: bytes = b""
    parameter_formats: tuple[int, ...] = ()
    parameters: tuple[bytes | None, ...] = ()
    result_formats: tuple[int, ...] = ()

    def encode(self) -> bytes:
        return buffer.message(
            self.code,
            buffer.string(self.portal),
            buffer.string(self.statement),
            buffer.formats(self.parameter_formats),
            buffer.values(self.parameters),
            buffer.formats(self.result_formats),
        )

    @classmethod
    def decode(cls, payload: bytes) -> Self:
        reader = Reader(payload, cls.__name__)
        message = cls(
            portal=reader.string(),
            statement=reader.string(),
            parameter_formats=reader.formats(),
            parameters=reader.values(),
            result_formats=reader.formats(),
        )
        reader.end()
        return message


@dataclass(frozen=True, slots=True, kw_only=True)
class Describe(Message):
    """Ask for the parameters of a statement and the columns of its result."""

    code: ClassVar[bytes] = b"D"
    target: Target
    name: bytes = b""

    def encode(self) -> bytes:
        return buffer.message(self.code, self.target.value, buffer.string(self.name))

    @classmethod
    def decode(cls, payload: bytes) -> Self:
        reader = Reader(payload, cls.__name__)
        target, name = _target(reader), reader.string()
        reader.end()
        return cls(target=target, name=name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Close(Message):
    """Forget a statement or a portal; to close what is not there is no error."""

    code: ClassVar[bytes] = b"C"
    target: Target
    name: bytes = b""

    def encode(self) -> bytes:
        return buffer.message(self.code, self.target.value, buffer.string(self.name))

    @classmethod
    def decode(cls, payload: bytes) -> Self:
        reader = Reader(payload, cls.__name__)
        target, name = _target(reader), reader.string()
        reader.end()
        return cls(target=target, name=name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Execute(Message):
    """Run a portal for at most `max_rows` rows; 0 is all of them."""

    code: ClassVar[bytes] = b"E"
    portal: bytes = b""
    max_rows: int = 0

    def encode(self) -> bytes:
        return buffer.message(self.code, buffer.string(self.portal), buffer.int32(self.max_rows))

    @classmethod
    def decode(cls, payload: bytes) -> Self:
        reader = Reader(payload, cls.__name__)
        portal, max_rows = reader.string(), reader.int32()
        reader.end()
        return cls(portal=portal, max_rows=max_rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class Flush(EmptyMessage):
    """Send the answers that are ready."""

    code: ClassVar[bytes] = b"H"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sync(EmptyMessage):
    """End of a pipeline: commits outside a transaction block, ends the discarding after an error."""

    code: ClassVar[bytes] = b"S"


@dataclass(frozen=True, slots=True, kw_only=True)
class Terminate(EmptyMessage):
    """Good-bye."""

    code: ClassVar[bytes] = b"X"


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyFail(Message):
    """The client gives up its COPY; `reason` ends up in the server's error."""

    code: ClassVar[bytes] = b"f"
    reason: bytes = b""

    def encode(self) -> bytes:
        return buffer.message(self.code, buffer.string(self.reason))

    @classmethod
    def decode(cls, payload: bytes) -> Self:
        reader = Reader(payload, cls.__name__)
        reason = reader.string()
        reader.end()
        return cls(reason=reason)


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionCall(Message):
    """Call a function by its OID, without any SQL text."""

    code: ClassVar[bytes] = b"F"
    function: int
    argument_formats: tuple[int, ...] = ()
    arguments: tuple[bytes | None, ...] = ()
    result_format: int = 0

    def encode(self) -> bytes:
        return buffer.message(
            self.code,
            buffer.uint32(self.function),
            buffer.formats(self.argument_formats),
            buffer.values(self.arguments),
            buffer.int16(self.result_format),
        )

    @classmethod
    def decode(cls, payload: bytes) -> Self:
        reader = Reader(payload, cls.__name__)
        message = cls(
            function=reader.uint32(),
            argument_formats=reader.formats(),
            arguments=reader.values(),
            result_format=reader.int16(),
        )
        reader.end()
        return message


FrontendMessage = (
    AuthenticationData
    | PasswordMessage
    | SASLInitialResponse
    | SASLResponse
    | GSSResponse
    | Query
    | Parse
    | Bind
    | Describe
    | Execute
    | Close
    | Flush
    | Sync
    | CopyData
    | CopyDone
    | CopyFail
    | FunctionCall
    | Terminate
)

FRONTEND: Final[Mapping[bytes, Callable[[bytes], FrontendMessage]]] = MappingProxyType(
    {
        b"B": Bind.decode,
        b"C": Close.decode,
        b"D": Describe.decode,
        b"E": Execute.decode,
        b"F": FunctionCall.decode,
        b"H": Flush.decode,
        b"P": Parse.decode,
        b"Q": Query.decode,
        b"S": Sync.decode,
        b"X": Terminate.decode,
        b"c": CopyDone.decode,
        b"d": CopyData.decode,
        b"f": CopyFail.decode,
        # Which of the four it is, only the conversation tells.
        b"p": AuthenticationData.decode,
    }
)
"""Type byte to decoder, for all that a client may send after start-up."""


def decode_frontend(code: bytes, payload: bytes) -> FrontendMessage:
    """A client's message. A type byte that the protocol does not name raises ProtocolError."""
    if code not in FRONTEND:
        raise ProtocolError(f"invalid frontend message type {code!r}")
    return FRONTEND[code](payload)
