"""Logins to servers: the packet, what follows the proof, and streams of any bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.upstreams import IDLE, KEY, PASSWORD, REPORTED, SETTINGS, Play

from dbshield.errors import Refused
from dbshield.model import Upstream
from dbshield.session.parameters import FORCED
from dbshield.session.upstream import Failed, Ready, UpstreamLogin
from dbshield.wire.authentication import (
    AuthenticationCleartextPassword,
    AuthenticationOk,
    AuthenticationSASL,
    AuthenticationSASLContinue,
    AuthenticationSASLFinal,
)
from dbshield.wire.backend import (
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
