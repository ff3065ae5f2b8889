"""Reading and writing the data types of the protocol (PostgreSQL manual, "Message Data Types").

Only this module takes bytes apart. Whatever stands in them, nothing but ProtocolError comes out, and a count in a message
never reserves memory before the bytes that it counts are there.
"""

from __future__ import annotations

import struct
from typing import Final

from dbshield.errors import ProtocolError

_INT16: Final = struct.Struct("!h")
_UINT16: Final = struct.Struct("!H")
_INT32: Final = struct.Struct("!i")
_UINT32: Final = struct.Struct("!I")

MAX_LENGTH_FIELD: Final = 2**31 - 1
"""The length word of a message is a signed Int32."""


class Reader:
    """Takes one payload apart from front to back; `what` names the message in errors."""

    __slots__ = ("_at", "_data", "_what")

    def __init__(self, data: bytes, what: str) -> None:
        self._data = data
        self._at = 0
        self._what = what

    def fail(self, problem: str) -> ProtocolError:
        """The error to raise for a problem that the caller found."""
        return ProtocolError(f"malformed {self._what}: {problem}")

    def take(self, size: int) -> bytes:
        """Exactly `size` bytes."""
        end = self._at + size
        if size < 0 or end > len(self._data):
            raise self.fail("it ends too early")
        part = self._data[self._at : end]
        self._at = end
        return part

    def byte(self) -> int:
        return self.take(1)[0]

    def _number(self, layout: struct.Struct) -> int:
        number: int = layout.unpack(self.take(layout.size))[0]
        return number

    def int16(self) -> int:
        return self._number(_INT16)

    def uint16(self) -> int:
        return self._number(_UINT16)

    def int32(self) -> int:
        return self._number(_INT32)

    def uint32(self) -> int:
        return self._number(_UINT32)

    def string(self) -> bytes:
        """The bytes up to the next NUL, which is consumed."""
        end = self._data.find(b"\0", self._at)
        if end < 0:
            raise self.fail("a string has no end")
        part = self._data[self._at : end]
        self._at = end + 1
        return part

    def text(self) -> str:
        """A string that must be understood, so it must be UTF-8."""
        try:
            return self.string().decode()
        except UnicodeDecodeError as error:
            raise self.fail("a string is not UTF-8") from error

    def lenient_text(self) -> str:
        """A string for people: a server may speak another encoding before it has read ours."""
        return self.string().decode(errors="replace")

    def value(self) -> bytes | None:
        """A length and that many bytes; -1 stands for NULL."""
        size = self.int32()
        if size == -1:
            return None
        if size < -1:
            raise self.fail(f"a value has length {size}")
        return self.take(size)

    def values(self) -> tuple[bytes | None, ...]:
        return tuple(self.value() for _ in range(self.uint16()))

    def formats(self) -> tuple[int, ...]:
        return tuple(self.int16() for _ in range(self.uint16()))

    def oids(self) -> tuple[int, ...]:
        return tuple(self.uint32() for _ in range(self.uint16()))

    def rest(self) -> bytes:
        """All that is left."""
        return self.take(len(self._data) - self._at)

    @property
    def left(self) -> int:
        return len(self._data) - self._at

    def end(self) -> None:
        """Nothing may follow."""
        if self.left:
            raise self.fail(f"{self.left} bytes too many")


def _pack(layout: struct.Struct, number: int) -> bytes:
    try:
        return layout.pack(number)
    except struct.error as error:
        raise ProtocolError(f"{number} does not fit into {layout.size} bytes") from error


def int16(number: int) -> bytes:
    return _pack(_INT16, number)


def uint16(number: int) -> bytes:
    return _pack(_UINT16, number)


def int32(number: int) -> bytes:
    return _pack(_INT32, number)


def uint32(number: int) -> bytes:
    return _pack(_UINT32, number)


def byte(number: int) -> bytes:
    if not 0 <= number <= 255:
        raise ProtocolError(f"{number} does not fit into 1 byte")
    return bytes((number,))


def string(text: str | bytes) -> bytes:
    """NUL-terminated. A NUL inside would end it early and turn the rest into another field, so it raises ProtocolError."""
    if isinstance(text, str):
        try:
            text = text.encode()
        except UnicodeEncodeError as error:
            raise ProtocolError("a string cannot be written as UTF-8") from error
    if b"\0" in text:
        raise ProtocolError("a string holds a NUL byte")
    return text + b"\0"


def value(data: bytes | None) -> bytes:
    return int32(-1) if data is None else int32(len(data)) + data


def values(items: tuple[bytes | None, ...]) -> bytes:
    return uint16(len(items)) + b"".join(map(value, items))


def formats(items: tuple[int, ...]) -> bytes:
    return uint16(len(items)) + b"".join(map(int16, items))


def oids(items: tuple[int, ...]) -> bytes:
    return uint16(len(items)) + b"".join(map(uint32, items))


def message(code: bytes, *parts: bytes) -> bytes:
    """A whole message: type byte, length of all but that byte, payload."""
    return code + untyped(*parts)


def untyped(*parts: bytes) -> bytes:
    """A message of the start-up phase, which has no type byte."""
    payload = b"".join(parts)
    if len(payload) + 4 > MAX_LENGTH_FIELD:
        raise ProtocolError(f"a message of {len(payload)} bytes is too long for its length field")
    return int32(len(payload) + 4) + payload
