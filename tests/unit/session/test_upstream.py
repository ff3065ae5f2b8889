"""Logins to servers as conversations: the server's side is played, with scramp's server where it is SCRAM."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import assert_never

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scramp import ScramMechanism
from scramp.core import ScramServer

from dbshield.errors import Refused
from dbshield.model import Upstream
from dbshield.session.parameters import FORCED
from dbshield.session.upstream import Failed, Ready, Send, UpstreamLogin
from dbshield.wire.authentication import (
    AuthenticationCleartextPassword,
    AuthenticationGSS,
    AuthenticationKerberosV5,
    AuthenticationMD5Password,
    AuthenticationOk,
    AuthenticationSASL,
    AuthenticationSASLContinue,
    AuthenticationSASLFinal,
    AuthenticationSSPI,
    PasswordMessage,
    SASLInitialResponse,
    SASLResponse,
)
from dbshield.wire.backend import (
    BackendKeyData,
    CommandComplete,
    DataRow,
    NegotiateProtocolVersion,
    ParameterStatus,
    ReadyForQuery,
    TransactionStatus,
)
from dbshield.wire.framing import FrameReader
from dbshield.wire.message import Message
from dbshield.wire.report import ErrorResponse, NoticeResponse
from dbshield.wire.startup import StartupMessage

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


def test_the_startup_packet() -> None:
    frames = FrameReader(startup=True).feed(Play().machine.start())
    assert [StartupMessage.decode(frame.payload) for frame in frames] == [
        StartupMessage(protocol=(3, 0), parameters=(("user", "role"), ("database", "shop"), *SETTINGS.items()))
    ]


@pytest.mark.parametrize("name", ["user", "database", "options", "replication"])
def test_no_setting_stands_for_a_part_of_the_packet(name: str) -> None:
    play = Play()
    play.machine = UpstreamLogin(
        upstream=Upstream(host="db", port=1, user="role"),
        database="shop",
        settings={name: "x"},
        nonce="n",
        encrypted=True,
        channel_binding=None,
    )
    with pytest.raises(Refused, match=name):
        play.machine.start()


def test_trap_8_settings_that_make_too_large_a_packet() -> None:
    machine = UpstreamLogin(
        upstream=Upstream(host="db", port=1, user="role"),
        database="shop",
        settings={"search_path": "x" * 10_000},
        nonce="n",
        encrypted=True,
        channel_binding=None,
    )
    with pytest.raises(Refused) as caught:
        machine.start()
    assert caught.value.sqlstate == "54000"


class TestMethods:
    def test_trust(self) -> None:
        play = Play(password=None)
        play.server(AuthenticationOk(), *REPORTED, KEY, IDLE)
        assert play.sent == []
        assert play.ready == Ready(
            process_id=42,
            secret_key=b"1234",
            parameters={"client_encoding": "UTF8", "standard_conforming_strings": "on", "server_version": "18.1"},
            status=b"I",
            notices=(),
            trailing=b"",
        )

    def test_clear_text_over_tls(self) -> None:
        play = Play(encrypted=True)
        play.server(AuthenticationCleartextPassword())
        assert PasswordMessage.decode(play.sent[0]).password == PASSWORD.encode()
        play.server(AuthenticationOk(), *REPORTED, KEY, IDLE)
        assert play.ready.process_id == 42

    def test_clear_text_over_a_unix_socket(self) -> None:
        play = Play(encrypted=False, host="/run/postgresql")
        play.server(AuthenticationCleartextPassword())
        assert len(play.sent) == 1

    def test_clear_text_in_the_open_is_refused(self) -> None:
        play = Play(encrypted=False)
        play.server(AuthenticationCleartextPassword())
        assert play.sent == []
        assert play.error.sqlstate == "28000"
        assert "sslmode" in play.error.hint

    def test_md5(self) -> None:
        play = Play(encrypted=False)
        play.server(AuthenticationMD5Password(salt=b"salt"))
        inner = hashlib.md5(PASSWORD.encode() + b"role").hexdigest().encode()
        assert PasswordMessage.decode(play.sent[0]).password == b"md5" + hashlib.md5(inner + b"salt").hexdigest().encode()

    def test_scram(self) -> None:
        play = Play(encrypted=False)
        scram(play, scram_server(), ("SCRAM-SHA-256",))
        play.server(AuthenticationOk(), *REPORTED, KEY, IDLE)
        assert play.ready.process_id == 42

    def test_scram_plus_where_both_can(self) -> None:
        play = Play(binding=BINDING)
        scram(play, scram_server("SCRAM-SHA-256-PLUS", offers_binding=True), ("SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"))
        assert SASLInitialResponse.decode(play.sent[0]).mechanism == "SCRAM-SHA-256-PLUS"
        play.server(AuthenticationOk(), *REPORTED, IDLE)
        assert isinstance(play.end, Ready)

    @pytest.mark.parametrize(
        "binding, mechanisms, chosen, flag",
        [
            (None, ("SCRAM-SHA-256",), "SCRAM-SHA-256", b"n,,"),
            (None, ("SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"), "SCRAM-SHA-256", b"n,,"),
            (BINDING, ("SCRAM-SHA-256",), "SCRAM-SHA-256", b"y,,"),
            (BINDING, ("SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"), "SCRAM-SHA-256-PLUS", b"p=tls-server-end-point,,"),
            (BINDING, ("OAUTHBEARER", "SCRAM-SHA-256"), "SCRAM-SHA-256", b"y,,"),
            (BINDING, ("SCRAM-SHA-512", "SCRAM-SHA-256"), "SCRAM-SHA-256", b"y,,"),
        ],
    )
    def test_the_flag_says_what_was_possible(
        self, binding: tuple[str, bytes] | None, mechanisms: tuple[str, ...], chosen: str, flag: bytes
    ) -> None:
        play = Play(binding=binding)
        play.server(AuthenticationSASL(mechanisms=mechanisms))
        first = SASLInitialResponse.decode(play.sent[0])
        assert first.mechanism == chosen
        assert first.data is not None
        assert first.data.startswith(flag)

    @pytest.mark.parametrize(
        "request_",
        [
            AuthenticationCleartextPassword(),
            AuthenticationMD5Password(salt=b"salt"),
            AuthenticationSASL(mechanisms=("SCRAM-SHA-256",)),
        ],
    )
    @pytest.mark.parametrize("password", [None, ""])
    def test_a_missing_password_is_refused_by_name(self, request_: Message, password: str | None) -> None:
        play = Play(password=password)
        play.server(request_)
        assert play.sent == []
        assert play.error.sqlstate == "28000"
        assert '"role"' in play.error.message

    @pytest.mark.parametrize(
        "request_, name",
        [
            (AuthenticationGSS(), "GSS"),
            (AuthenticationSSPI(), "SSPI"),
            (AuthenticationKerberosV5(), "KerberosV5"),
            (AuthenticationSASL(mechanisms=("OAUTHBEARER",)), "OAUTHBEARER"),
            (AuthenticationSASL(mechanisms=()), "no mechanism"),
            (AuthenticationSASL(mechanisms=("SCRAM-SHA-256-PLUS",)), "channel binding"),
            (b"R\0\0\0\x08\0\0\0\x63", "99"),
        ],
    )
    def test_other_methods_are_refused_by_name(self, request_: Message | bytes, name: str) -> None:
        play = Play()
        play.server(request_)
        assert play.sent == []
        assert name in play.error.message


class TestScramServers:
    def test_a_server_that_does_not_know_the_password_is_not_believed(self) -> None:
        play = Play()
        server = scram_server()
        play.server(AuthenticationSASL(mechanisms=("SCRAM-SHA-256",)))
        first = SASLInitialResponse.decode(play.sent[-1])
        assert first.data is not None
        server.set_client_first(first.data.decode())
        play.server(AuthenticationSASLContinue(data=server.get_server_first().encode()))
        play.server(AuthenticationSASLFinal(data=b"v=" + b"A" * 43 + b"="), AuthenticationOk(), *REPORTED, IDLE)
        assert play.error.sqlstate == "28000"

    @pytest.mark.parametrize("steps", [1, 2])
    def test_a_server_that_skips_its_proof_is_not_believed(self, steps: int) -> None:
        play = Play()
        server = scram_server()
        play.server(AuthenticationSASL(mechanisms=("SCRAM-SHA-256",)))
        if steps == 2:
            first = SASLInitialResponse.decode(play.sent[-1])
            assert first.data is not None
            server.set_client_first(first.data.decode())
            play.server(AuthenticationSASLContinue(data=server.get_server_first().encode()))
        play.server(AuthenticationOk(), *REPORTED, KEY, IDLE)
        assert "AuthenticationOk" in play.error.message

    def test_another_method_after_scram_began_is_refused(self) -> None:
        """A server in between could else have the password in clear after all."""
        play = Play()
        play.server(AuthenticationSASL(mechanisms=("SCRAM-SHA-256",)), AuthenticationCleartextPassword())
        assert len(play.sent) == 1
        assert "CleartextPassword" in play.error.message

    @pytest.mark.parametrize("request_", [AuthenticationCleartextPassword(), AuthenticationMD5Password(salt=b"abcd")])
    def test_the_password_is_sent_once(self, request_: Message) -> None:
        play = Play()
        play.server(request_, request_)
        assert len(play.sent) == 1
        assert play.error.sqlstate == "08P01"

    @pytest.mark.parametrize(
        "challenge",
        [
            b"",
            b"\xff",
            b"e=other-error",
            b"r=client-nonce,s=MDEyMzQ1Njc4OWFiY2RlZg==,i=4096",
            b"r=other,s=MDEyMzQ1Njc4OWFiY2RlZg==,i=4096",
            b"r=client-nonceX,s=!,i=4096",
            b"r=client-nonceX,s=MDEyMzQ1Njc4OWFiY2RlZg==,i=1",
            b"r=client-nonceX,s=MDEyMzQ1Njc4OWFiY2RlZg==,i=1000001",
            b"r=client-nonceX,s=MDEyMzQ1Njc4OWFiY2RlZg==,i=" + b"9" * 5000,
            b"r=client-nonceX,s=MDEyMzQ1Njc4OWFiY2RlZg==,i=-1",
        ],
    )
    def test_malformed_challenges(self, challenge: bytes) -> None:
        play = Play()
        play.server(AuthenticationSASL(mechanisms=("SCRAM-SHA-256",)), AuthenticationSASLContinue(data=challenge))
        assert len(play.sent) == 1
        assert play.error.sqlstate in {"28000", "08P01"}


class TestAfterwards:
    def test_no_key_at_all(self) -> None:
        """Trap 2: an upstream may send none."""
        play = Play()
        play.server(AuthenticationOk(), *REPORTED, IDLE)
        assert (play.ready.process_id, play.ready.secret_key) == (0, b"")

    def test_notices_and_what_comes_behind_are_kept(self) -> None:
        play = Play()
        notice = NoticeResponse.of("WARNING", "01000", "collation mismatch")
        more = NoticeResponse.of("NOTICE", "00000", "later").encode() + b"N\0"
        play.server(notice, AuthenticationOk(), notice, *REPORTED, KEY, IDLE, more)
        assert play.ready.notices == (notice.encode(), notice.encode())
        assert play.ready.trailing == more

    @pytest.mark.parametrize("sqlstate", ["28P01", "3D000", "53300", "57P03"])
    @pytest.mark.parametrize("before", [(), (AuthenticationOk(),), (AuthenticationOk(), *REPORTED)])
    def test_the_servers_own_error(self, sqlstate: str, before: tuple[Message, ...]) -> None:
        play = Play()
        error = ErrorResponse.of("FATAL", sqlstate, "no")
        play.server(*before, error, IDLE)
        assert play.end == Failed(error=error)

    @pytest.mark.parametrize("name, value", [("client_encoding", "SQL_ASCII"), ("standard_conforming_strings", "off")])
    def test_a_server_that_did_not_take_the_forced_settings(self, name: str, value: str) -> None:
        play = Play()
        play.server(AuthenticationOk(), *REPORTED, ParameterStatus(name=name, value=value), KEY, IDLE)
        assert f"{name}={FORCED[name]}" in play.error.message

    def test_a_server_that_does_not_report_them(self) -> None:
        play = Play()
        play.server(AuthenticationOk(), KEY, IDLE)
        assert "reports nothing" in play.error.message

    def test_the_last_report_counts(self) -> None:
        play = Play()
        play.server(AuthenticationOk(), ParameterStatus(name="client_encoding", value="LATIN1"), *REPORTED, IDLE)
        assert play.ready.parameters["client_encoding"] == "UTF8"

    @pytest.mark.parametrize("protocol", [(3, 0), (0, 0)])
    def test_an_old_server_that_negotiates_all_the_same(self, protocol: tuple[int, int]) -> None:
        play = Play()
        play.server(NegotiateProtocolVersion(protocol=protocol), AuthenticationOk(), *REPORTED, IDLE)
        assert isinstance(play.end, Ready)

    @pytest.mark.parametrize(
        "message",
        [
            NegotiateProtocolVersion(protocol=(3, 2)),
            NegotiateProtocolVersion(protocol=(2, 0)),
            NegotiateProtocolVersion(protocol=(3, 0), options=("_pq_.x",)),
        ],
    )
    def test_a_negotiation_that_nobody_asked_for(self, message: Message) -> None:
        play = Play()
        play.server(message)
        assert play.error.sqlstate == "08P01"

    @pytest.mark.parametrize("message", [DataRow(values=()), CommandComplete(tag="SELECT 1"), KEY, IDLE, *REPORTED[:1]])
    def test_messages_before_their_time(self, message: Message) -> None:
        play = Play()
        play.server(message)
        assert type(message).__name__ in play.error.message

    @pytest.mark.parametrize("status", [TransactionStatus.IN_TRANSACTION, TransactionStatus.FAILED])
    def test_a_session_begins_idle(self, status: TransactionStatus) -> None:
        play = Play()
        play.server(AuthenticationOk(), *REPORTED, ReadyForQuery(status=status))
        assert play.error.sqlstate == "08P01"

    def test_authentication_is_not_asked_for_again(self) -> None:
        play = Play()
        play.server(AuthenticationOk(), AuthenticationCleartextPassword())
        assert play.sent == []
        assert play.error.sqlstate == "08P01"

    def test_trap_8_absurd_lengths(self) -> None:
        for length in (-1, 0, 3, 30_001, 2**31 - 1):
            play = Play()
            play.server(b"S" + length.to_bytes(4, "big", signed=True))
            assert play.error.sqlstate == "08P01"

    def test_a_login_that_never_ends(self) -> None:
        play = Play()
        notice = NoticeResponse.of("NOTICE", "00000", "x" * 20_000).encode()
        for _ in range(60):
            play.feed(notice)
        assert "more than" in play.error.message

    def test_bytes_of_another_protocol(self) -> None:
        play = Play()
        play.feed(b"HTTP/1.1 400 Bad Request\r\n")
        assert play.error.sqlstate == "08P01"

    def test_an_error_in_another_locale_is_passed_on(self) -> None:
        play = Play()
        body = b"SFATAL\0C28P01\0M\xc9chec\0\0"
        play.feed(b"E" + (len(body) + 4).to_bytes(4, "big") + body)
        assert play.end == Failed(error=ErrorResponse(fields=(("S", "FATAL"), ("C", "28P01"), ("M", "\ufffdchec"))))


class TestStream:
    def conversation(self) -> bytes:
        return b"".join(m.encode() for m in (AuthenticationOk(), *REPORTED, KEY, IDLE))

    def test_byte_by_byte(self) -> None:
        play = Play()
        for byte in self.conversation():
            play.feed(bytes((byte,)))
        assert play.ready.process_id == 42

    @given(st.lists(st.binary(max_size=80), max_size=6))
    def test_property_fuzz_any_bytes_end_in_one_failure_or_none(self, pieces: list[bytes]) -> None:
        play = Play()
        for piece in pieces:
            play.feed(piece)
        assert not isinstance(play.end, Ready)

    @given(st.binary(max_size=80), st.binary(max_size=80))
    def test_property_fuzz_scram_of_any_bytes(self, challenge: bytes, final: bytes) -> None:
        play = Play()
        play.server(AuthenticationSASL(mechanisms=("SCRAM-SHA-256",)), AuthenticationSASLContinue(data=challenge))
        play.feed(AuthenticationSASLFinal(data=final).encode())
        assert isinstance(play.end, Failed)
        assert len(play.end.error.sqlstate) == 5


def test_the_password_is_not_shown() -> None:
    play = Play()
    play.server(AuthenticationCleartextPassword())
    assert PASSWORD not in repr(play.machine._upstream)
    assert PASSWORD not in repr(play.machine.receive(ErrorResponse.of("FATAL", "28P01", "no").encode()))
