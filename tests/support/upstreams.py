"""A login to a server as a conversation: what the server sends, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import assert_never

from scramp import ScramMechanism
from scramp.core import ScramServer

from dbshield.model import Upstream
from dbshield.session.parameters import FORCED
from dbshield.session.upstream import Failed, Ready, Send, UpstreamLogin
from dbshield.wire.authentication import (
    AuthenticationSASL,
    AuthenticationSASLContinue,
    AuthenticationSASLFinal,
    SASLInitialResponse,
    SASLResponse,
)
from dbshield.wire.backend import (
    BackendKeyData,
    ParameterStatus,
    ReadyForQuery,
    TransactionStatus,
)
from dbshield.wire.framing import FrameReader
from dbshield.wire.message import Message
from dbshield.wire.report import ErrorResponse

PASSWORD = "päss"
SETTINGS = {"application_name": "dbshield:claude", **FORCED}
BINDING = ("tls-server-end-point", b"h" * 32)
SASL = AuthenticationSASL(mechanisms=("SCRAM-SHA-256",))
IDLE = ReadyForQuery(status=TransactionStatus.IDLE)
KEY = BackendKeyData(process_id=42, secret_key=b"1234")
REPORTED = tuple(ParameterStatus(name=name, value=value) for name, value in {**FORCED, "server_version": "18.1"}.items())


@dataclass
class Play:
    """The proxy's side of one login, and what it did."""

    password: str | None = PASSWORD
    host: str = "db"
    encrypted: bool = True
    binding: tuple[str, bytes] | None = None
    sent: list[bytes] = field(default_factory=list)
    end: Ready | Failed | None = None

    def __post_init__(self) -> None:
        self.machine = UpstreamLogin(
            upstream=Upstream(host=self.host, port=5432, user="role", password=self.password),
            database="shop",
            settings=SETTINGS,
            nonce="client-nonce",
            encrypted=self.encrypted,
            channel_binding=self.binding,
        )

    def server(self, *messages: Message | bytes) -> None:
        self.feed(b"".join(m if isinstance(m, bytes) else m.encode() for m in messages))

    def feed(self, data: bytes) -> None:
        for action in self.machine.receive(data):
            assert self.end is None, "nothing follows the end"
            match action:
                case Send(data=out):
                    [frame] = FrameReader().feed(out)
                    assert frame.code == b"p"
                    self.sent.append(frame.payload)
                case Ready() | Failed():
                    self.end = action
                case _:
                    assert_never(action)

    @property
    def ready(self) -> Ready:
        assert isinstance(self.end, Ready), self.end
        return self.end

    @property
    def error(self) -> ErrorResponse:
        """Our own refusal."""
        assert isinstance(self.end, Failed), self.end
        assert self.end.ours
        return self.end.error


def scram_server(mechanism: str = "SCRAM-SHA-256", *, password: str = PASSWORD, offers_binding: bool = False) -> ScramServer:
    kind = ScramMechanism(mechanism)
    salt, stored, key, iterations = kind.make_auth_info(password, salt=b"0123456789abcdef", iteration_count=4096)
    return kind.make_server(
        lambda _: (salt, stored, key, iterations), channel_binding=BINDING if offers_binding else None, s_nonce="server"
    )


def scram(play: Play, server: ScramServer, mechanisms: tuple[str, ...]) -> None:
    """Play the server until it accepts; scramp raises where the client did wrong."""
    play.server(AuthenticationSASL(mechanisms=mechanisms))
    first = SASLInitialResponse.decode(play.sent[-1])
    assert first.data is not None
    server.set_client_first(first.data.decode())
    play.server(AuthenticationSASLContinue(data=server.get_server_first().encode()))
    server.set_client_final(SASLResponse.decode(play.sent[-1]).data.decode())
    play.server(AuthenticationSASLFinal(data=server.get_server_final().encode()))
