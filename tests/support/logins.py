"""A client's login as a conversation: what the client sends, and what came of it."""

from __future__ import annotations

import hashlib
import hmac
from base64 import b64encode
from dataclasses import dataclass, field
from typing import assert_never

from scramp import ScramClient, ScramMechanism

from dbshield.model import AccessLevel, AgentLogin, TokenVerifier, Upstream
from dbshield.session.login import Authenticated, Cancel, ClientAction, ClientLogin, Fail, Lookup, Send
from dbshield.wire.authentication import (
    AuthenticationSASLContinue,
    AuthenticationSASLFinal,
    SASLInitialResponse,
    SASLResponse,
)
from dbshield.wire.backend import decode_backend
from dbshield.wire.framing import FrameReader
from dbshield.wire.message import Message
from dbshield.wire.report import ErrorResponse
from dbshield.wire.startup import StartupMessage

NOW = 1_800_000_000.0
SALT = b"0123456789abcdef"
SECRET = b"the installation's own"
USER = "claude.staging"


def verifier(token: str, *, expires_at: float = NOW + 60, token_id: str = "") -> TokenVerifier:
    _, stored, server, _ = ScramMechanism("SCRAM-SHA-256").make_auth_info(token, salt=SALT, iteration_count=4096)
    return TokenVerifier(token_id=token_id or token, stored_key=stored, server_key=server, expires_at=expires_at)


LIVE = verifier("dbs_live")
SECOND = verifier("dbs_second")
EXPIRED = verifier("dbs_expired", expires_at=NOW)


def agent(*tokens: TokenVerifier, databases: tuple[str, ...] = ("shop", "books")) -> AgentLogin:
    return AgentLogin(
        agent="claude",
        environment="staging",
        access=AccessLevel.READ,
        databases=databases,
        salt=SALT,
        iterations=4096,
        tokens=tokens,
        upstream=Upstream(host="db", port=5432, user="dbshield_claude"),
    )


@dataclass
class Talk:
    """A login, and what came out of it."""

    agents: dict[str, AgentLogin] = field(default_factory=lambda: {USER: agent(LIVE, SECOND, EXPIRED)})
    encrypted: bool = True
    tls_required: bool = False
    now: float = NOW
    answers: list[Message] = field(default_factory=list)
    lookups: list[str] = field(default_factory=list)
    end: Authenticated | Fail | Cancel | None = None

    def __post_init__(self) -> None:
        self.machine = ClientLogin(
            nonce="server-nonce", mock_secret=SECRET, encrypted=self.encrypted, tls_required=self.tls_required
        )

    def send(self, *messages: Message | bytes) -> None:
        data = b"".join(m if isinstance(m, bytes) else m.encode() for m in messages)
        self.take(self.machine.receive(data, now=self.now))

    def take(self, actions: list[ClientAction]) -> None:
        for action in actions:
            assert self.end is None, "nothing follows the end"
            match action:
                case Send(data=data):
                    self.answers += [decode_backend(f.code, f.payload) for f in FrameReader().feed(data)]
                case Lookup(user=user):
                    self.lookups.append(user)
                    self.take(self.machine.found(self.agents.get(user), now=self.now))
                case Authenticated() | Fail() | Cancel():
                    self.end = action
                case _:
                    assert_never(action)

    def startup(self, *pairs: tuple[str, str], user: str = USER, protocol: tuple[int, int] = (3, 0)) -> None:
        self.send(StartupMessage(protocol=protocol, parameters=(("user", user), *pairs)))

    def login(self, token: str, *pairs: tuple[str, str], user: str = USER) -> None:
        """All of it, as scramp's client does it."""
        self.startup(*(pairs or (("database", "shop"),)), user=user)
        client = ScramClient(["SCRAM-SHA-256"], "ignored", token, c_nonce="client-nonce")
        self.send(SASLInitialResponse(mechanism="SCRAM-SHA-256", data=client.get_client_first().encode()))
        assert isinstance(self.answers[-1], AuthenticationSASLContinue)
        client.set_server_first(self.answers[-1].data.decode())
        self.send(SASLResponse(data=client.get_client_final().encode()))
        if isinstance(self.answers[-1], AuthenticationSASLFinal):
            client.set_server_final(self.answers[-1].data.decode())

    @property
    def error(self) -> ErrorResponse:
        assert isinstance(self.end, Fail)
        [frame] = FrameReader().feed(self.end.data)
        error = ErrorResponse.decode(frame.payload)
        assert error.severity == "FATAL"
        return error


def by_hand(talk: Talk, token: str, *, flag: bytes = b"n", name: bytes = b"", extra: bytes = b"") -> bytes:
    """The client's final message as libpq writes it, with an empty user name."""
    bare = b"n=" + name + b",r=client" + extra
    talk.send(SASLInitialResponse(mechanism="SCRAM-SHA-256", data=flag + b",," + bare))
    challenge = talk.answers[-1]
    assert isinstance(challenge, AuthenticationSASLContinue)
    nonce = challenge.data.split(b",")[0]
    without_proof = b"c=" + b64encode(flag + b",,") + b"," + nonce + extra
    salted = hashlib.pbkdf2_hmac("sha256", token.encode(), SALT, 4096)
    client_key = hmac.digest(salted, b"Client Key", "sha256")
    stored_key = hashlib.sha256(client_key).digest()
    signature = hmac.digest(stored_key, b",".join((bare, challenge.data, without_proof)), "sha256")
    proof = bytes(a ^ b for a, b in zip(client_key, signature, strict=True))
    return without_proof + b",p=" + b64encode(proof)
