"""Both sides of authentication.

Source: PostgreSQL 18 manual, "Message Formats" (Authentication*, PasswordMessage, SASL*, GSSResponse). Everything that the
client sends here shares the type byte `p`; which message it is, follows from what the server asked last. Whatever helps to
guess a password stands in fields with `repr=False`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import ClassVar, Final, Self

from dbshield.errors import ProtocolError
from dbshield.wire import buffer
from dbshield.wire.buffer import Reader
from dbshield.wire.message import Message


class Authentication(Message):
    """What the server says about authentication: type byte `R`, then `kind`, an Int32."""

    __slots__ = ()
    code: ClassVar[bytes] = b"R"
    kind: ClassVar[int]

    def _encode(self, *parts: bytes) -> bytes:
        return buffer.message(self.code, buffer.int32(self.kind), *parts)

    @classmethod
    def _reader(cls, payload: bytes) -> Reader:
        reader = Reader(payload, cls.__name__)
        if (kind := reader.int32()) != cls.kind:
            raise reader.fail(f"its kind is {kind}")
        return reader


class _BareAuthentication(Authentication):
    """One whose kind says all."""

    __slots__ = ()

    def encode(self) -> bytes:
        return self._encode()

    @classmethod
    def decode(cls, payload: bytes) -> Self:
        cls._reader(payload).end()
        return cls()


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthenticationOk(_BareAuthentication):
    """The client is who it says."""

    kind: ClassVar[int] = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthenticationKerberosV5(_BareAuthentication):
    """Long dead; named so that it is refused by name."""

    kind: ClassVar[int] = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthenticationCleartextPassword(_BareAuthentication):
    """Send the password as it is."""

    kind: ClassVar[int] = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthenticationMD5Password(Authentication):
    """Send the password hashed with `salt`, 4 bytes."""

    kind: ClassVar[int] = 5
    salt: bytes = field(repr=False)

    def encode(self) -> bytes:
        if len(self.salt) != 4:
            raise ProtocolError(f"an MD5 salt of {len(self.salt)} bytes is not 4 bytes long")
        return self._encode(self.salt)

    @classmethod
    def decode(cls, payload: bytes) -> Self:
        reader = cls._reader(payload)
        salt = reader.take(4)
        reader.end()
        return cls(salt=salt)


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthenticationGSS(_BareAuthentication):
    """Begin GSSAPI."""

    kind: ClassVar[int] = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthenticationSSPI(_BareAuthentication):
    """Begin SSPI."""

    kind: ClassVar[int] = 9


@dataclass(frozen=True, slots=True, kw_only=True)
class _DataAuthentication(Authentication):
    """One that carries bytes of the mechanism."""

    data: bytes = field(repr=False)

    def encode(self) -> bytes:
        return self._encode(self.data)

    @classmethod
    def decode(cls, payload: bytes) -> Self:
        return cls(data=cls._reader(payload).rest())


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthenticationGSSContinue(_DataAuthentication):
    """The next step of GSSAPI or SSPI."""

    kind: ClassVar[int] = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthenticationSASL(Authentication):
    """Choose one of these mechanisms; the server's favourite stands first."""

    kind: ClassVar[int] = 10
    mechanisms: tuple[str, ...]

    def encode(self) -> bytes:
        if not all(self.mechanisms):
            raise ProtocolError("a SASL mechanism has no name")
        return self._encode(*map(buffer.string, self.mechanisms), b"\0")

    @classmethod
    def decode(cls, payload: bytes) -> Self:
        reader = cls._reader(payload)
        mechanisms = []
        while name := reader.text():
            mechanisms.append(name)
        reader.end()
        return cls(mechanisms=tuple(mechanisms))


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthenticationSASLContinue(_DataAuthentication):
    """The next step of the mechanism."""

    kind: ClassVar[int] = 11


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthenticationSASLFinal(_DataAuthentication):
    """The mechanism's last word: in SCRAM the proof that the server knows the verifier."""

    kind: ClassVar[int] = 12


AnyAuthentication = (
    AuthenticationOk
    | AuthenticationKerberosV5
    | AuthenticationCleartextPassword
    | AuthenticationMD5Password
    | AuthenticationGSS
    | AuthenticationGSSContinue
    | AuthenticationSSPI
    | AuthenticationSASL
    | AuthenticationSASLContinue
    | AuthenticationSASLFinal
)

AUTHENTICATION: Final[Mapping[int, type[AnyAuthentication]]] = MappingProxyType(
    {
        0: AuthenticationOk,
        2: AuthenticationKerberosV5,
        3: AuthenticationCleartextPassword,
        5: AuthenticationMD5Password,
        7: AuthenticationGSS,
        8: AuthenticationGSSContinue,
        9: AuthenticationSSPI,
        10: AuthenticationSASL,
        11: AuthenticationSASLContinue,
        12: AuthenticationSASLFinal,
    }
)


def decode_authentication(payload: bytes) -> AnyAuthentication:
    """The payload of any `R` message. A kind that the manual does not name raises ProtocolError."""
    kind = Reader(payload, "Authentication").int32()
    if kind not in AUTHENTICATION:
        raise ProtocolError(f"the server asked for an unknown authentication method, {kind}")
    return AUTHENTICATION[kind].decode(payload)


@dataclass(frozen=True, slots=True, kw_only=True)
class _ClientData(Message):
    """A `p` message that is nothing but bytes."""

    code: ClassVar[bytes] = b"p"
    data: bytes = field(repr=False)

    def encode(self) -> bytes:
        return buffer.message(self.code, self.data)

    @classmethod
    def decode(cls, payload: bytes) -> Self:
        return cls(data=payload)


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthenticationData(_ClientData):
    """Any `p` message of a client, before it is known which one was asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PasswordMessage(Message):
    """The password, or its MD5 hash."""

    code: ClassVar[bytes] = b"p"
    password: bytes = field(repr=False)

    def encode(self) -> bytes:
        return buffer.message(self.code, buffer.string(self.password))

    @classmethod
    def decode(cls, payload: bytes) -> Self:
        reader = Reader(payload, cls.__name__)
        password = reader.string()
        reader.end()
        return cls(password=password)


@dataclass(frozen=True, slots=True, kw_only=True)
class SASLInitialResponse(Message):
    """The mechanism that the client chose and its first data; None where the client has nothing to say first."""

    code: ClassVar[bytes] = b"p"
    mechanism: str
    data: bytes | None = field(repr=False)

    def encode(self) -> bytes:
        return buffer.message(self.code, buffer.string(self.mechanism), buffer.value(self.data))

    @classmethod
    def decode(cls, payload: bytes) -> Self:
        reader = Reader(payload, cls.__name__)
        mechanism = reader.text()
        data = reader.value()
        reader.end()
        return cls(mechanism=mechanism, data=data)


@dataclass(frozen=True, slots=True, kw_only=True)
class SASLResponse(_ClientData):
    """The client's next step of the mechanism."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GSSResponse(_ClientData):
    """The client's next step of GSSAPI or SSPI."""
