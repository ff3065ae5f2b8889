"""What is never written, what is never read, and reports that always have a SQLSTATE."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from dbshield.errors import ProtocolError, Refused
from dbshield.wire.authentication import (
    AuthenticationMD5Password,
    AuthenticationOk,
    AuthenticationSASL,
)
from dbshield.wire.backend import (
    BackendKeyData,
    NegotiateProtocolVersion,
    ReadyForQuery,
    decode_backend,
)
from dbshield.wire.framing import FrameReader
from dbshield.wire.frontend import (
    Bind,
    Describe,
    Execute,
    Parse,
    Query,
    Sync,
)
from dbshield.wire.message import Message
from dbshield.wire.report import ErrorResponse, NoticeResponse
from dbshield.wire.result import (
    CopyInResponse,
)
from dbshield.wire.startup import (
    CancelRequest,
    GSSENCRequest,
    SSLRequest,
    StartupMessage,
)


class TestReport:
    def test_of(self) -> None:
        report = ErrorResponse.of("ERROR", "42501", "no", detail="why", hint="do this")
        assert (report.severity, report.sqlstate, report.message) == ("ERROR", "42501", "no")
        assert (report.detail, report.hint) == ("why", "do this")

    @pytest.mark.parametrize("sqlstate", ["", "4250", "425011", "42a01", "4250é", "42 01", "4250\0"])
    def test_a_report_always_has_a_sqlstate(self, sqlstate: str) -> None:
        """CVE-2026-6666: an ErrorResponse without a SQLSTATE crashed the poolers that passed it on."""
        assert ErrorResponse.of("ERROR", sqlstate, "no").sqlstate == "XX000"
        assert NoticeResponse.of("NOTICE", sqlstate, "no").sqlstate == "00000"
        assert b"CXX000\0" in ErrorResponse.of("ERROR", sqlstate, "no").encode()

    def test_a_received_report_without_sqlstate_gets_one(self) -> None:
        report = ErrorResponse.decode(b"SERROR\0Mno\0\0")
        assert report.sqlstate == "XX000"
        assert ErrorResponse.decode(report.encode()[5:]) == report

    def test_what_cannot_be_written_is_left_out(self) -> None:
        report = ErrorResponse.of("ERROR", "42501", "a\0b\udc80c")
        assert report.message == "ab?c"
        assert ErrorResponse.decode(report.encode()[5:]) == report

    def test_another_encoding_is_readable(self) -> None:
        """A server speaks its own locale until it has read our client_encoding."""
        assert ErrorResponse.decode(b"C28P01\0MR\xf4le\0\0").message == "R\ufffdle"

    def test_fatal_tells_all_that_the_error_knows(self) -> None:
        report = ErrorResponse.fatal(Refused("no", sqlstate="42704", detail="why", hint="do this"))
        assert (report.severity, report.sqlstate, report.detail, report.hint) == ("FATAL", "42704", "why", "do this")
        assert ErrorResponse.fatal(ProtocolError("what?")).sqlstate == "08P01"


@pytest.mark.parametrize(
    "message",
    [
        Query(query=b"select 1\0; drop table t"),
        Parse(query=b"", name=b"a\0b"),
        Parse(query=b"", parameter_types=(-1,)),
        Bind(parameters=(b"",) * 65_536),
        Bind(parameter_formats=(2**15,)),
        Execute(max_rows=2**31),
        StartupMessage(parameters=(("", "x"),)),
        StartupMessage(parameters=(("user", "a\0database\0other"),)),
        StartupMessage(parameters=(("user", "\udc80"),)),
        StartupMessage(protocol=(3, 65_536), parameters=()),
        StartupMessage(protocol=(32_768, 0), parameters=()),
        CancelRequest(process_id=1, secret_key=b"123"),
        BackendKeyData(process_id=1, secret_key=b"k" * 257),
        BackendKeyData(process_id=2**31, secret_key=b"1234"),
        AuthenticationMD5Password(salt=b"12345"),
        AuthenticationSASL(mechanisms=("",)),
        CopyInResponse(format=256, column_formats=()),
        ErrorResponse(fields=(("CC", "x"),)),
        ErrorResponse(fields=(("\0", "x"),)),
    ],
    ids=lambda message: repr(message)[:40],
)
def test_what_does_not_fit_is_never_written(message: Message) -> None:
    with pytest.raises(ProtocolError):
        message.encode()


def test_65535_parameters_can_be_bound() -> None:
    message = Bind(parameters=(None,) * 65_535)
    assert Bind.decode(message.encode()[5:]) == message


def test_a_bind_over_64_kib_is_read() -> None:
    """Trap 8: a value that does not fit into one read of a socket."""
    message = Bind(parameters=(b"x" * 200_000,))
    reader = FrameReader()
    data = message.encode()
    frames = [frame for at in range(0, len(data), 65_536) for frame in reader.feed(data[at : at + 65_536])]
    assert [Bind.decode(frame.payload) for frame in frames] == [message]


@pytest.mark.parametrize(
    "decode, payload",
    [
        (StartupMessage.decode, b"\0\x03\0\0user\0x\0"),
        (StartupMessage.decode, b"\0\x03\0\0user\0x\0\0y"),
        (StartupMessage.decode, b"\0\x03\0\0user\0\0\0\0"),
        (StartupMessage.decode, b"\0\x03\0\0user\0\xff\0\0"),
        (StartupMessage.decode, b"\xff\xff\0\0\0"),
        (CancelRequest.decode, b"\x04\xd2\x16\x2e\0\0\0\x01123"),
        (CancelRequest.decode, b"\x04\xd2\x16\x2e\0\0\0\x01" + b"k" * 257),
        (CancelRequest.decode, b"\0\x03\0\0\0\0\0\x011234"),
        (SSLRequest.decode, b"\x04\xd2\x16\x30"),
        (SSLRequest.decode, b"\x04\xd2\x16\x2f\0"),
        (GSSENCRequest.decode, b"\x04\xd2\x16\x2f"),
        (BackendKeyData.decode, b"\0\0\0\x01"),
        (Bind.decode, b"\0\0\0\0\0\x01\xff\xff\xff\xfe\0\0"),
        (Bind.decode, b"\0\0\0\0\xff\xff\x7f\xff\xff\xff"),
        (Describe.decode, b"X\0"),
        (Query.decode, b"select 1\0select 2\0"),
        (ReadyForQuery.decode, b"X"),
        (ReadyForQuery.decode, b""),
        (Sync.decode, b"x"),
        (NegotiateProtocolVersion.decode, b"\0\x03\0\0\x7f\xff\xff\xff"),
        (NegotiateProtocolVersion.decode, b"\0\x03\0\0\xff\xff\xff\xff"),
        (NegotiateProtocolVersion.decode, b"\x80\x03\0\0\0\0\0\0"),
        (ErrorResponse.decode, b""),
        (ErrorResponse.decode, b"\xffx\0\0"),
        (AuthenticationOk.decode, b"\0\0\0\x03"),
    ],
)
def test_malformed(decode: Callable[[bytes], Message], payload: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode(payload)


def test_an_unknown_authentication_is_refused_by_its_number() -> None:
    with pytest.raises(ProtocolError, match="unknown authentication method, 99"):
        decode_backend(b"R", b"\0\0\0\x63")


def test_the_last_of_a_double_parameter_counts() -> None:
    message = StartupMessage(parameters=(("user", "a"), ("_pq_.x", "1"), ("user", "b")))
    assert message.get("user") == "b"
    assert message.get("database") is None
    assert message.protocol_options == ("_pq_.x",)
