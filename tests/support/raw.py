"""A client that says exactly what a test wants, byte by byte, over a bare socket."""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Iterator, Sequence
from typing import Any

from scramp import ScramClient

from dbshield.wire.authentication import (
    AuthenticationSASLContinue,
    AuthenticationSASLFinal,
    SASLInitialResponse,
    SASLResponse,
)
from dbshield.wire.backend import BackendKeyData, BackendMessage, ReadyForQuery, decode_backend
from dbshield.wire.framing import FrameReader
from dbshield.wire.message import Message
from dbshield.wire.report import ErrorResponse
from dbshield.wire.startup import StartupMessage
from support.shield import Shield

TIMEOUT = 20.0
"""Seconds until a silent proxy counts as hanging."""


class RawClient:
    """A connection to the proxy. `key` is what a cancel request needs, once logged in."""

    def __init__(self, sock: socket.socket) -> None:
        sock.settimeout(TIMEOUT)
        self.sock = sock
        self.key: tuple[int, bytes] = (0, b"")
        self._reader = FrameReader()
        self._came: list[BackendMessage] = []

    def send(self, *messages: Message | bytes) -> None:
        self.sock.sendall(b"".join(message if isinstance(message, bytes) else message.encode() for message in messages))

    def receive(self) -> BackendMessage | None:
        """The next message; None at the end of the connection."""
        while not self._came:
            try:
                data = self.sock.recv(1 << 16)
            except ConnectionResetError:
                data = b""
            if not data:
                return None
            self._came += [decode_backend(frame.code, frame.payload) for frame in self._reader.feed(data)]
        return self._came.pop(0)

    def until_ready(self) -> list[BackendMessage]:
        """All up to and with a ReadyForQuery, or to the end of the connection."""
        heard: list[BackendMessage] = []
        while (message := self.receive()) is not None:
            heard.append(message)
            if isinstance(message, ReadyForQuery):
                break
        return heard

    def errors(self) -> list[ErrorResponse]:
        """The errors among all that comes to the end of the connection."""
        heard: list[ErrorResponse] = []
        while (message := self.receive()) is not None:
            if isinstance(message, ErrorResponse):
                heard.append(message)
        return heard

    def log_in(self, user: str, password: str, database: str, *, protocol: tuple[int, int] = (3, 0)) -> list[BackendMessage]:
        """Up to ReadyForQuery, or to the error that ends it."""
        self.send(StartupMessage(protocol=protocol, parameters=(("user", user), ("database", database))))
        scram = ScramClient(["SCRAM-SHA-256"], "*", password)
        self.receive()
        self.send(SASLInitialResponse(mechanism="SCRAM-SHA-256", data=scram.get_client_first().encode()))
        challenge = self.receive()
        assert isinstance(challenge, AuthenticationSASLContinue), challenge
        scram.set_server_first(challenge.data.decode())
        self.send(SASLResponse(data=scram.get_client_final().encode()))
        heard = self.until_ready()
        for message in heard:
            if isinstance(message, AuthenticationSASLFinal):
                scram.set_server_final(message.data.decode())
            if isinstance(message, BackendKeyData):
                self.key = message.process_id, message.secret_key
        return heard


@contextlib.contextmanager
def raw_client(shield: Shield, *, receive_buffer: int = 0) -> Iterator[RawClient]:
    """Connected, and nothing said yet."""
    with socket.socket() as sock:
        if receive_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.settimeout(TIMEOUT)
        sock.connect(("127.0.0.1", shield.port))
        yield RawClient(sock)


@contextlib.contextmanager
def raw_session(shield: Shield, agent: str = "write", *, receive_buffer: int = 0) -> Iterator[RawClient]:
    """Connected and logged in."""
    with raw_client(shield, receive_buffer=receive_buffer) as client:
        parts: dict[str, Any] = shield.parameters(agent)
        heard = client.log_in(parts["user"], parts["password"], parts["dbname"])
        assert isinstance(heard[-1], ReadyForQuery), heard
        yield client


def client_context(shield: Shield, alpn: Sequence[str] = ()) -> ssl.SSLContext:
    """Checks the proxy's certificate against the CA of the tests."""
    context = ssl.create_default_context(cafile=str(shield.ca))
    if alpn:
        context.set_alpn_protocols([*alpn])
    return context
