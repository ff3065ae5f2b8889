"""A client's login as a machine without I/O: from the start-up packet to an agent that proved who it is, or to a refusal.

Laws:
- Nothing is said of an agent before the proof: unknown agent, no live token, wrong token have the same conversation and end.
- Every failure is exactly one FATAL ErrorResponse with a SQLSTATE, whatever the client sent.
- Nothing that a client brings is acted upon; what it may bring is data for the server's start-up packet (`parameters.py`).

Source: PostgreSQL 18 manual, "Start-up"; ProcessStartupPacket in backend_startup.c, CheckSASLAuth in auth-sasl.c.
"""

from __future__ import annotations

from enum import Enum, auto, unique
from typing import Final

from dbshield.errors import ProtocolError, Refused
from dbshield.model import AgentLogin, TokenVerifier
from dbshield.session import scram
from dbshield.session.actions import Authenticated, Cancel, ClientAction, Fail, Lookup, Send
from dbshield.session.parameters import printable, startup_settings
from dbshield.wire.authentication import (
    AuthenticationSASL,
    AuthenticationSASLContinue,
    AuthenticationSASLFinal,
    SASLInitialResponse,
    SASLResponse,
)
from dbshield.wire.backend import NegotiateProtocolVersion
from dbshield.wire.framing import MAX_SASL_MESSAGE, MAX_STARTUP, Frame, FrameReader
from dbshield.wire.report import ErrorResponse
from dbshield.wire.startup import (
    CANCEL_REQUEST_CODE,
    PROTOCOL_3_2,
    CancelRequest,
    StartupMessage,
    version_pair,
)

__all__ = ["Authenticated", "Cancel", "ClientAction", "ClientLogin", "Fail", "Lookup", "Send"]

FEATURE_NOT_SUPPORTED: Final = "0A000"
INVALID_AUTHORIZATION: Final = "28000"
INVALID_PASSWORD: Final = "28P01"  # noqa: S105 - a SQLSTATE
INVALID_CATALOG_NAME: Final = "3D000"

NEWEST: Final = PROTOCOL_3_2


@unique
class _State(Enum):
    STARTUP = auto()
    LOOKUP = auto()
    SASL_INITIAL = auto()
    SASL_FINAL = auto()
    AUTHENTICATED = auto()
    FAILED = auto()


class ClientLogin:
    """One login. Give `receive` what arrives, do what it says, and answer a Lookup with `found`.

    `nonce` is printable, unguessable and used for this login only; `mock_secret` is the same for all logins of an
    installation. After Authenticated nothing is consumed: what came behind stands in `trailing`, and the caller sends
    AuthenticationOk when the server is reached. After Fail or Cancel the connection is over.
    """

    def __init__(
        self,
        *,
        nonce: str,
        mock_secret: bytes,
        encrypted: bool,
        tls_required: bool,
        max_startup: int = MAX_STARTUP,
        mock_iterations: int = scram.MOCK_ITERATIONS,
    ) -> None:
        self._nonce = nonce
        self._mock_secret = mock_secret
        self._plain_refused = tls_required and not encrypted
        self._mock_iterations = mock_iterations
        self._reader = FrameReader(max_length=MAX_SASL_MESSAGE, max_startup=max_startup, startup=True)
        self._state = _State.STARTUP
        self._startup = StartupMessage(parameters=())
        self._login: AgentLogin | None = None
        self._exchange: scram.Exchange | None = None

    @property
    def user(self) -> str:
        """The user name of the start-up packet; empty before it came."""
        return self._startup.get("user") or ""

    @property
    def trailing(self) -> bytes:
        """Bytes that came behind the login."""
        return self._reader.pending

    def receive(self, data: bytes, *, now: float) -> list[ClientAction]:
        """What to do now that `data` arrived, in order. `now` is in seconds since 1970. Raises nothing."""
        if self._state is _State.FAILED:
            return []
        self._reader.add(data)
        return self._run(now)

    def found(self, login: AgentLogin | None, *, now: float) -> list[ClientAction]:
        """The answer to Lookup; None for an agent that there is not."""
        if self._state is not _State.LOOKUP:
            return []
        self._login = login
        self._state = _State.SASL_INITIAL
        hello = AuthenticationSASL(mechanisms=(scram.MECHANISM,)).encode()
        return [Send(data=self._negotiated() + hello), *self._run(now)]

    def _run(self, now: float) -> list[ClientAction]:
        """Take frames as long as this state wants one."""
        actions: list[ClientAction] = []
        try:
            while self._state in {_State.STARTUP, _State.SASL_INITIAL, _State.SASL_FINAL}:
                frame = self._reader.next_frame()
                if frame is None:
                    return actions
                actions += self._take(frame, now)
        except (ProtocolError, Refused) as error:
            return [*actions, self._fail(error)]
        if self._state is _State.LOOKUP and self._reader.size > MAX_SASL_MESSAGE:
            return [*actions, self._fail(ProtocolError("the client sent more than a login before it was asked"))]
        return actions

    def _take(self, frame: Frame, now: float) -> list[ClientAction]:
        if self._state is _State.STARTUP:
            return self._take_startup(frame.payload)
        if frame.code != b"p":
            raise ProtocolError(f"expected a SASL response, got message type {frame.code!r}")
        if self._state is _State.SASL_INITIAL:
            return self._take_initial(SASLInitialResponse.decode(frame.payload))
        return self._take_final(SASLResponse.decode(frame.payload), now)

    def _fail(
        self, error: ProtocolError | Refused, reason: str = "", *, guessed: bool = False, token: TokenVerifier | None = None
    ) -> Fail:
        self._state = _State.FAILED
        return Fail(
            data=ErrorResponse.fatal(error).encode(),
            reason=reason or error.message,
            guessed=guessed,
            token_id=token.token_id if token is not None else "",
        )

    # The start-up packet

    def _take_startup(self, payload: bytes) -> list[ClientAction]:
        number = int.from_bytes(payload[:4], "big")
        if number == CANCEL_REQUEST_CODE:
            cancel = CancelRequest.decode(payload)
            self._state = _State.FAILED
            return [Cancel(process_id=cancel.process_id, secret_key=cancel.secret_key)]
        major, minor = version_pair(number)
        if major != NEWEST[0]:
            raise Refused(
                f"unsupported frontend protocol {major}.{minor}: server supports 3.0 to {NEWEST[0]}.{NEWEST[1]}",
                sqlstate=FEATURE_NOT_SUPPORTED,
            )
        self._startup = StartupMessage.decode(payload)
        if self._plain_refused:
            raise Refused(
                "dbshield takes no logins without TLS", sqlstate=INVALID_AUTHORIZATION, hint="Connect with sslmode=require."
            )
        # Judged before the proof: a driver that brings the wrong thing learns it at once, and of the agent nothing is said.
        startup_settings(self._startup.parameters, agent="")
        if not self.user:
            raise Refused("no PostgreSQL user name specified in startup packet", sqlstate=INVALID_AUTHORIZATION)
        self._state = _State.LOOKUP
        return [Lookup(user=self.user)]

    @property
    def _served(self) -> tuple[int, int]:
        return min(self._startup.protocol, NEWEST)

    def _negotiated(self) -> bytes:
        """As PostgreSQL 18: only to a client that asked for more than there is. 3.1 is served as asked."""
        options = self._startup.protocol_options
        if self._startup.protocol <= NEWEST and not options:
            return b""
        return NegotiateProtocolVersion(protocol=self._served, options=options).encode()

    # The proof

    def _take_initial(self, message: SASLInitialResponse) -> list[ClientAction]:
        if message.mechanism != scram.MECHANISM:
            raise ProtocolError(
                "the client chose a SASL mechanism that was not offered", hint=f"Only {scram.MECHANISM} is offered."
            )
        first = scram.read_client_first(message.data or b"")
        if self._login is None:
            salt, iterations = scram.mock(self._mock_secret, self.user).salt, self._mock_iterations
        else:
            salt, iterations = self._login.salt, self._login.iterations
        self._exchange = scram.Exchange(first, nonce=self._nonce, salt=salt, iterations=iterations)
        self._state = _State.SASL_FINAL
        return [Send(data=AuthenticationSASLContinue(data=self._exchange.server_first).encode())]

    def _take_final(self, message: SASLResponse, now: float) -> list[ClientAction]:
        assert self._exchange is not None
        final = self._exchange.read_final(message.data)
        token = self._proven(self._exchange, final, now)
        if self._login is None or token is None:
            return [self._fail_password("wrong token" if self._login else "unknown agent")]
        if token.expires_at <= now:
            return [self._fail_password(f"token {token.token_id} expired", expired=token)]
        proof = AuthenticationSASLFinal(data=self._exchange.server_final(final, token.server_key))
        return [Send(data=proof.encode()), self._admit(self._login, token)]

    def _proven(self, exchange: scram.Exchange, final: scram.ClientFinal, now: float) -> TokenVerifier | None:
        """The token behind the proof, a live one if there is one. Tries each, and one mock at least, whatever matches."""
        tokens = self._login.tokens if self._login else ()
        proven = [token for token in tokens if exchange.proves(final, token.stored_key)]
        if not tokens:
            exchange.proves(final, scram.mock(self._mock_secret, self.user).stored_key)
        return max(proven, key=lambda token: token.expires_at, default=None)

    def _fail_password(self, reason: str, *, expired: TokenVerifier | None = None) -> Fail:
        if expired is not None:
            # Whoever proves an expired token held it, and learns nothing new.
            error = Refused("the token has expired", sqlstate=INVALID_PASSWORD, hint="Ask for a new one: dbshield token issue.")
        else:
            error = Refused(
                f'password authentication failed for user "{printable(self.user)}"',
                sqlstate=INVALID_PASSWORD,
                hint="The user is <agent>.<environment>, the password is the agent's token; it may have been revoked.",
            )
        return self._fail(error, reason, guessed=expired is None, token=expired)

    def _admit(self, login: AgentLogin, token: TokenVerifier) -> Authenticated | Fail:
        database = self._startup.get("database") or self.user
        if database not in login.databases:
            return self._fail(
                Refused(
                    f'agent "{login.agent}" has no database "{printable(database)}" in environment "{login.environment}"',
                    sqlstate=INVALID_CATALOG_NAME,
                    hint=f"It may use: {', '.join(login.databases) or 'none'}.",
                ),
                token=token,
            )
        self._state = _State.AUTHENTICATED
        return Authenticated(
            login=login,
            token_id=token.token_id,
            database=database,
            settings=startup_settings(self._startup.parameters, agent=login.agent),
            protocol=self._served,
        )
