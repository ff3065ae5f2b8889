"""The login to the protected server as a machine without I/O: as the agent's own database role, with a password no agent knows.

Laws:
- A password leaves in clear only where nobody can listen: over TLS or a Unix socket.
- The server that asked for SCRAM must prove that it knows the verifier before it is believed.
- The session stands only when the server reported the settings that the readers rely on (`parameters.FORCED`).
- Every failure is one Failed with a SQLSTATE, whatever the server sent.

Source: PostgreSQL 18 manual, "Start-up" and "SASL Authentication". Protocol 3.0 is asked for, which every server since 7.4
speaks: what 3.2 adds, longer cancel keys, an upstream need not have.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from enum import Enum, auto, unique
from typing import Final

from scramp import ScramClient, ScramException

from dbshield.errors import ProtocolError, Refused
from dbshield.model import Upstream
from dbshield.session.actions import Failed, Ready, Send, UpstreamAction
from dbshield.session.parameters import FORCED, printable
from dbshield.wire.authentication import (
    AnyAuthentication,
    Authentication,
    AuthenticationCleartextPassword,
    AuthenticationMD5Password,
    AuthenticationOk,
    AuthenticationSASL,
    AuthenticationSASLContinue,
    AuthenticationSASLFinal,
    PasswordMessage,
    SASLInitialResponse,
    SASLResponse,
)
from dbshield.wire.backend import (
    BackendKeyData,
    NegotiateProtocolVersion,
    ParameterStatus,
    ReadyForQuery,
    TransactionStatus,
    decode_backend,
)
from dbshield.wire.framing import MAX_STARTUP, Frame, FrameReader
from dbshield.wire.message import Message
from dbshield.wire.report import ErrorResponse, NoticeResponse
from dbshield.wire.startup import PROTOCOL_3_0, StartupMessage

__all__ = ["Failed", "Ready", "Send", "UpstreamAction", "UpstreamLogin"]

INVALID_AUTHORIZATION: Final = "28000"
FEATURE_NOT_SUPPORTED: Final = "0A000"
PROGRAM_LIMIT_EXCEEDED: Final = "54000"

MAX_MESSAGE: Final = 30_000
"""The length word of a server's message during login: MAX_ERRLEN in libpq's fe-connect.c."""

MAX_LOGIN: Final = 1 << 20
"""Bytes of a server's whole login, notices and settings included; PostgreSQL sends about 500. Ours, so that it ends."""

MAX_ITERATIONS: Final = 1_000_000
"""SCRAM iterations, about 0.3 s of computing. PostgreSQL's default is 4096. Ours: the login must not stall its worker."""

MECHANISMS: Final = ("SCRAM-SHA-256", "SCRAM-SHA-256-PLUS")

_OWN_NAMES: Final = frozenset({"user", "database", "options", "replication"})
"""Parameters of the packet that no setting may stand for."""


@unique
class _State(Enum):
    WAITING = auto()
    """Nothing asked yet: the server may want a password, or nothing."""
    PASSWORD_SENT = auto()
    SASL_STARTED = auto()
    SASL_ANSWERED = auto()
    SASL_PROVEN = auto()
    IN = auto()
    """Authenticated; the server sends its settings."""
    OVER = auto()


class UpstreamLogin:
    """One login. Send what `start` gives, give `receive` what arrives, do what it says.

    `nonce` is printable and unguessable; `channel_binding` is libpq's pair, for instance ("tls-server-end-point", hash of the
    server's certificate), or None without TLS.
    """

    def __init__(
        self,
        *,
        upstream: Upstream,
        database: str,
        settings: Mapping[str, str],
        nonce: str,
        encrypted: bool,
        channel_binding: tuple[str, bytes] | None,
    ) -> None:
        self._upstream = upstream
        self._database = database
        self._settings = dict(settings)
        self._nonce = nonce
        self._private = encrypted or upstream.is_socket
        self._binding = channel_binding
        self._reader = FrameReader(max_length=MAX_MESSAGE)
        self._state = _State.WAITING
        self._scram: ScramClient | None = None
        self._received = 0
        self._key: BackendKeyData | None = None
        self._parameters: dict[str, str] = {}
        self._notices: list[bytes] = []

    def start(self) -> bytes:
        """The start-up packet. Raises Refused when the settings do not fit into one."""
        if bad := sorted(_OWN_NAMES & set(self._settings)):
            raise Refused(f"{bad[0]} is no setting to send to the server")
        packet = StartupMessage(
            protocol=PROTOCOL_3_0,
            parameters=(("user", self._upstream.user), ("database", self._database), *self._settings.items()),
        ).encode()
        if len(packet) > MAX_STARTUP + 4:
            raise Refused(
                f"the startup parameters take {len(packet)} bytes and the server reads {MAX_STARTUP}",
                sqlstate=PROGRAM_LIMIT_EXCEEDED,
                hint="Bring fewer or shorter settings in the connection string.",
            )
        return packet

    def receive(self, data: bytes) -> list[UpstreamAction]:
        """What to do now that `data` arrived, in order. Raises nothing."""
        if self._is_over():
            return []
        self._reader.add(data)
        actions: list[UpstreamAction] = []
        try:
            while not self._is_over() and (frame := self._reader.next_frame()) is not None:
                self._count(frame)
                actions += self._take(frame)
        except (ProtocolError, Refused) as error:
            self._state = _State.OVER
            actions.append(Failed(error=ErrorResponse.fatal(error), ours=True))
        return actions

    def _is_over(self) -> bool:
        return self._state is _State.OVER

    def _count(self, frame: Frame) -> None:
        self._received += len(frame.payload) + 5
        if self._received > MAX_LOGIN:
            raise ProtocolError(f"the server's login takes more than {MAX_LOGIN} bytes")

    def _take(self, frame: Frame) -> list[UpstreamAction]:
        message = decode_backend(frame.code, frame.payload)
        match message:
            case ErrorResponse():
                self._state = _State.OVER
                return [Failed(error=message)]
            case NoticeResponse():
                # Whole, for the client: it may know more of its fields.
                self._notices.append(message.encode())
            case NegotiateProtocolVersion():
                self._accept_version(message)
            case ParameterStatus() if self._state is _State.IN:
                self._parameters[message.name] = message.value
            case BackendKeyData() if self._state is _State.IN:
                self._key = message
            case ReadyForQuery() if self._state is _State.IN:
                return [self._ready(message.status)]
            case Authentication() if self._state is not _State.IN:
                return self._answer(message)
            case _:
                raise _unexpected(message)
        return []

    def _accept_version(self, message: NegotiateProtocolVersion) -> None:
        """A server has nothing to negotiate with who asked for 3.0 and no options. Some say so all the same; (0, 0) is what
        one sends that reads the manual to the letter."""
        if self._state is _State.IN or message.protocol not in {PROTOCOL_3_0, (0, 0)} or message.options:
            major, minor = message.protocol
            raise ProtocolError(f"the server negotiates protocol {major}.{minor}, where 3.0 was asked for")

    # Authentication

    def _answer(self, message: AnyAuthentication) -> list[UpstreamAction]:
        match message, self._state:
            case AuthenticationOk(), _State.WAITING | _State.PASSWORD_SENT | _State.SASL_PROVEN:
                self._state = _State.IN
                return []
            case AuthenticationCleartextPassword(), _State.WAITING:
                self._state = _State.PASSWORD_SENT
                return [_send(PasswordMessage(password=self._clear_password().encode()))]
            case AuthenticationMD5Password(salt=salt), _State.WAITING:
                self._state = _State.PASSWORD_SENT
                return [_send(PasswordMessage(password=_md5(self._password(), self._upstream.user, salt)))]
            case AuthenticationSASL(mechanisms=mechanisms), _State.WAITING:
                self._state = _State.SASL_STARTED
                return [self._start_scram(mechanisms)]
            case AuthenticationSASLContinue(data=data), _State.SASL_STARTED:
                self._state = _State.SASL_ANSWERED
                return [self._continue_scram(data)]
            case AuthenticationSASLFinal(data=data), _State.SASL_ANSWERED:
                self._state = _State.SASL_PROVEN
                self._finish_scram(data)
                return []
            case _, _State.WAITING:
                raise _not_spoken(type(message).__name__.removeprefix("Authentication"))
            case _:
                raise _unexpected(message)

    def _password(self) -> str:
        if not self._upstream.password:
            raise Refused(
                f'the server asks for a password of role "{printable(self._upstream.user)}", and dbshield has none',
                sqlstate=INVALID_AUTHORIZATION,
                hint="Give the agent's database role a password in dbshield's configuration.",
            )
        return self._upstream.password

    def _clear_password(self) -> str:
        if not self._private:
            raise Refused(
                "the server asks for a password in clear text over a connection without TLS",
                sqlstate=INVALID_AUTHORIZATION,
                hint="Set sslmode to require or more, or let the server ask for scram-sha-256 (pg_hba.conf).",
            )
        return self._password()

    def _start_scram(self, offered: tuple[str, ...]) -> Send:
        known = [name for name in offered if name in MECHANISMS]
        if not known:
            raise _not_spoken(f"SASL with {printable(' '.join(offered)) or 'no mechanism'}")
        try:
            # The server takes the user name from the start-up packet; in here it stands for nothing.
            self._scram = ScramClient(known, "*", self._password(), channel_binding=self._binding, c_nonce=self._nonce)
            first = self._scram.get_client_first()
        except ScramException as error:
            raise _scram_failed(error) from error
        mechanism: str = self._scram.mechanism_name
        return _send(SASLInitialResponse(mechanism=mechanism, data=first.encode()))

    def _continue_scram(self, data: bytes) -> Send:
        assert self._scram is not None
        try:
            self._scram.set_server_first(_ascii(data))
            if int(self._scram.iterations) > MAX_ITERATIONS:
                raise ProtocolError(f"the server asks for more than {MAX_ITERATIONS} SCRAM iterations")
            return _send(SASLResponse(data=self._scram.get_client_final().encode()))
        except ScramException as error:
            raise _scram_failed(error) from error

    def _finish_scram(self, data: bytes) -> None:
        assert self._scram is not None
        try:
            self._scram.set_server_final(_ascii(data))
        except ScramException as error:
            raise _scram_failed(error) from error

    # What follows it

    def _ready(self, status: TransactionStatus) -> Ready:
        if status is not TransactionStatus.IDLE:
            raise ProtocolError(f"the server begins a session with transaction status {status!r}")
        for name, wanted in FORCED.items():
            if (found := self._parameters.get(name)) != wanted:
                raise Refused(
                    f"the server did not take {name}={wanted} and reports {printable(found or 'nothing')}",
                    sqlstate=FEATURE_NOT_SUPPORTED,
                    hint="What stands between dbshield and the server must pass startup parameters on.",
                )
        self._state = _State.OVER
        return Ready(
            process_id=self._key.process_id if self._key else 0,
            secret_key=self._key.secret_key if self._key else b"",
            parameters=self._parameters,
            status=status.value,
            notices=tuple(self._notices),
            trailing=self._reader.pending,
        )


def _send(message: Message) -> Send:
    return Send(data=message.encode())


def _md5(password: str, user: str, salt: bytes) -> bytes:
    """The protocol's own, where a server stores nothing better: concat('md5', md5(concat(md5(password, user), salt)))."""
    inner = hashlib.md5(password.encode() + user.encode(), usedforsecurity=False).hexdigest()
    return b"md5" + hashlib.md5(inner.encode() + salt, usedforsecurity=False).hexdigest().encode()


def _ascii(data: bytes) -> str:
    try:
        return data.decode("ascii")
    except UnicodeDecodeError as error:
        raise ProtocolError("malformed SCRAM message from the server: it is not ASCII") from error


def _unexpected(message: Message) -> ProtocolError:
    return ProtocolError(f"the server sent {type(message).__name__}, which has no place here in a login")


def _not_spoken(method: str) -> Refused:
    return Refused(
        f"the server asks for authentication by {method}, which dbshield does not speak",
        sqlstate=INVALID_AUTHORIZATION,
        hint="Let the server ask for scram-sha-256 (pg_hba.conf).",
    )


def _scram_failed(error: ScramException) -> Refused:
    return Refused(
        f"SCRAM with the server failed: {error.args[0]}",
        sqlstate=INVALID_AUTHORIZATION,
        hint="The password in dbshield's configuration may be wrong, or this is not the server that it was made for.",
    )
