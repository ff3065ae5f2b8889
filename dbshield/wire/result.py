"""What a server sends about results: their shape, their rows, their end.

Source: PostgreSQL 18 manual, "Message Formats". Column names and values stay bytes: nobody here needs to understand them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

from dbshield.wire import buffer
from dbshield.wire.buffer import Reader
from dbshield.wire.message import Message


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column of a result. Table and attribute are 0 where it comes from no table; `type_size` is negative if it varies."""

    name: bytes
    table: int = 0
    attribute: int = 0
    type: int
    type_size: int = -1
    type_modifier: int = -1
    format: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RowDescription(Message):
    """The columns of the rows that follow."""

    code: ClassVar[bytes] = b"T"
    columns: tuple[Column, ...]

    def encode(self) -> bytes:
        parts = [buffer.uint16(len(self.columns))]
        for column in self.columns:
            parts += (
                buffer.string(column.name),
                buffer.uint32(column.table),
                buffer.int16(column.attribute),
                buffer.uint32(column.type),
                buffer.int16(column.type_size),
                buffer.int32(column.type_modifier),
                buffer.int16(column.format),
            )
        return buffer.message(self.code, *parts)

    @classmethod
    def decode(cls, payload: bytes) -> Self:
        reader = Reader(payload, cls.__name__)
        columns = tuple(
            Column(
                name=reader.string(),
                table=reader.uint32(),
                attribute=reader.int16(),
                type=reader.uint32(),
                type_size=reader.int16(),
                type_modifier=reader.int32(),
                format=reader.int16(),
            )
            for _ in range(reader.uint16())
        )
        reader.end()
        return cls(columns=columns)


@dataclass(frozen=True, slots=True, kw_only=True)
class ParameterDescription(Message):
    """The types of a statement's parameters."""

    code: ClassVar[bytes] = b"t"
    types: tuple[int, ...]

    def encode(self) -> bytes:
        return buffer.message(self.code, buffer.oids(self.types))

    @classmethod
    def decode(cls, payload: bytes) -> Self:
        reader = Reader(payload, cls.__name__)
        types = reader.oids()
        reader.end()
        return cls(types=types)


@dataclass(frozen=True, slots=True, kw_only=True)
class DataRow(Message):
    """One row, None for NULL."""

    code: ClassVar[bytes] = b"D"
    values: tuple[bytes | None, ...]

    def encode(self) -> bytes:
        return buffer.message(self.code, buffer.values(self.values))

    @classmethod
    def decode(cls, payload: bytes) -> Self:
        reader = Reader(payload, cls.__name__)
        values = reader.values()
        reader.end()
        return cls(values=values)


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandComplete(Message):
    """A statement ended; the tag is its name and, for some, the number of rows."""

    code: ClassVar[bytes] = b"C"
    tag: str

    @property
    def rows(self) -> int | None:
        """The rows that the tag counts, None where it counts none: 5 for `DELETE 5` and for `INSERT 0 5`."""
        last = self.tag.rpartition(" ")[2]
        # A row count is an unsigned 64-bit number, 20 digits at most.
        return int(last) if last.isascii() and last.isdigit() and len(last) <= 20 else None

    def encode(self) -> bytes:
        return buffer.message(self.code, buffer.string(self.tag))

    @classmethod
    def decode(cls, payload: bytes) -> Self:
        reader = Reader(payload, cls.__name__)
        tag = reader.text()
        reader.end()
        return cls(tag=tag)


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionCallResponse(Message):
    """What a FunctionCall returned, None for NULL."""

    code: ClassVar[bytes] = b"V"
    value: bytes | None

    def encode(self) -> bytes:
        return buffer.message(self.code, buffer.value(self.value))

    @classmethod
    def decode(cls, payload: bytes) -> Self:
        reader = Reader(payload, cls.__name__)
        value = reader.value()
        reader.end()
        return cls(value=value)


@dataclass(frozen=True, slots=True, kw_only=True)
class _CopyResponse(Message):
    """COPY begins: 0 for text, 1 for binary, in all and for each column."""

    format: int
    column_formats: tuple[int, ...]

    def encode(self) -> bytes:
        return buffer.message(self.code, buffer.byte(self.format), buffer.formats(self.column_formats))

    @classmethod
    def decode(cls, payload: bytes) -> Self:
        reader = Reader(payload, cls.__name__)
        message = cls(format=reader.byte(), column_formats=reader.formats())
        reader.end()
        return message


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyInResponse(_CopyResponse):
    """The client may send CopyData."""

    code: ClassVar[bytes] = b"G"


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyOutResponse(_CopyResponse):
    """The server sends CopyData."""

    code: ClassVar[bytes] = b"H"


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyBothResponse(_CopyResponse):
    """Both do, in replication only; named so that it is stopped by name."""

    code: ClassVar[bytes] = b"W"
