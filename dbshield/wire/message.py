"""What every message has: a type byte, `encode` to whole bytes, `decode` from a payload.

Laws, each tested for every class: `decode(payload of encode(m)) == m`; `decode` raises nothing but ProtocolError, whatever
the bytes; a field that holds a secret is declared with `repr=False`, so that neither a log nor a trace can show it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Self

from dbshield.errors import ProtocolError
from dbshield.wire import buffer


class Message(ABC):
    """One message of the protocol. `code` is its type byte, empty in the start-up phase."""

    __slots__ = ()
    code: ClassVar[bytes] = b""

    @abstractmethod
    def encode(self) -> bytes:
        """The whole message: type byte, length, payload. A value that does not fit raises ProtocolError."""

    @classmethod
    @abstractmethod
    def decode(cls, payload: bytes) -> Self:
        """From the bytes behind the length word. Anything unexpected raises ProtocolError."""


class EmptyMessage(Message):
    """A message whose type byte says all."""

    __slots__ = ()

    def encode(self) -> bytes:
        return buffer.message(self.code)

    @classmethod
    def decode(cls, payload: bytes) -> Self:
        if payload:
            raise ProtocolError(f"malformed {cls.__name__}: {len(payload)} bytes too many")
        return cls()
