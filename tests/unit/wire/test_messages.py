"""Every message against its bytes as the manual lays them out: whole, byte by byte, with more bytes behind it."""

from __future__ import annotations

from collections.abc import Callable
from typing import get_args

import pytest

from dbshield.errors import ProtocolError
from dbshield.wire.authentication import (
    AuthenticationCleartextPassword,
    AuthenticationData,
    AuthenticationGSS,
    AuthenticationGSSContinue,
    AuthenticationKerberosV5,
    AuthenticationMD5Password,
    AuthenticationOk,
    AuthenticationSASL,
    AuthenticationSASLContinue,
    AuthenticationSASLFinal,
    AuthenticationSSPI,
    GSSResponse,
    PasswordMessage,
    SASLInitialResponse,
    SASLResponse,
)
from dbshield.wire.backend import (
    BACKEND,
    BackendKeyData,
    BackendMessage,
    BindComplete,
    CloseComplete,
    EmptyQueryResponse,
    NegotiateProtocolVersion,
    NoData,
    NotificationResponse,
    ParameterStatus,
    ParseComplete,
    PortalSuspended,
    ReadyForQuery,
    TransactionStatus,
    decode_backend,
)
from dbshield.wire.copying import CopyData, CopyDone
from dbshield.wire.framing import Frame, FrameReader
from dbshield.wire.frontend import (
    FRONTEND,
    Bind,
    Close,
    CopyFail,
    Describe,
    Execute,
    Flush,
    FrontendMessage,
    FunctionCall,
    Parse,
    Query,
    Sync,
    Target,
    Terminate,
    decode_frontend,
)
from dbshield.wire.message import Message
from dbshield.wire.report import ErrorResponse, NoticeResponse
from dbshield.wire.result import (
    Column,
    CommandComplete,
    CopyBothResponse,
    CopyInResponse,
    CopyOutResponse,
    DataRow,
    FunctionCallResponse,
    ParameterDescription,
    RowDescription,
)
from dbshield.wire.startup import (
    CancelRequest,
    GSSENCRequest,
    SSLRequest,
    StartupMessage,
    StartupPacket,
    decode_startup,
)


def typed(code: bytes, payload: bytes) -> bytes:
    return code + (len(payload) + 4).to_bytes(4, "big") + payload


def packet(payload: bytes) -> bytes:
    return typed(b"", payload)


STARTUP: list[tuple[Message, bytes]] = [
    (SSLRequest(), packet(b"\x04\xd2\x16\x2f")),
    (GSSENCRequest(), packet(b"\x04\xd2\x16\x30")),
    (CancelRequest(process_id=-2, secret_key=b"key4"), packet(b"\x04\xd2\x16\x2e\xff\xff\xff\xfekey4")),
    (CancelRequest(process_id=7, secret_key=b"k" * 256), packet(b"\x04\xd2\x16\x2e\0\0\0\x07" + b"k" * 256)),
    (StartupMessage(parameters=()), packet(b"\0\x03\0\0\0")),
    (
        StartupMessage(protocol=(3, 2), parameters=(("user", "é"), ("_pq_.x", ""), ("user", "b"))),
        packet(b"\0\x03\0\x02user\0\xc3\xa9\0_pq_.x\0\0user\0b\0\0"),
    ),
]

CLIENT: list[tuple[Message, bytes]] = [
    (AuthenticationData(data=b"any\0thing"), typed(b"p", b"any\0thing")),
    (Query(query=b"select 1"), typed(b"Q", b"select 1\0")),
    (Parse(query=b"select $1"), typed(b"P", b"\0select $1\0\0\0")),
    (
        Parse(name=b"s", query=b"select 1", parameter_types=(23, 0, 2**32 - 1)),
        typed(b"P", b"s\0select 1\0\0\x03\0\0\0\x17\0\0\0\0\xff\xff\xff\xff"),
    ),
    (Bind(), typed(b"B", b"\0\0\0\0\0\0\0\0")),
    (
        Bind(portal=b"p", statement=b"s", parameter_formats=(1,), parameters=(None, b"", b"a\0"), result_formats=(0, 1)),
        typed(b"B", b"p\0s\0\0\x01\0\x01\0\x03\xff\xff\xff\xff\0\0\0\0\0\0\0\x02a\0\0\x02\0\0\0\x01"),
    ),
    (Describe(target=Target.STATEMENT, name=b"s"), typed(b"D", b"Ss\0")),
    (Describe(target=Target.PORTAL), typed(b"D", b"P\0")),
    (Close(target=Target.PORTAL, name=b"p"), typed(b"C", b"Pp\0")),
    (Execute(portal=b"p", max_rows=10), typed(b"E", b"p\0\0\0\0\x0a")),
    (Flush(), typed(b"H", b"")),
    (Sync(), typed(b"S", b"")),
    (CopyData(data=b"\\.\n"), typed(b"d", b"\\.\n")),
    (CopyDone(), typed(b"c", b"")),
    (CopyFail(reason=b"no"), typed(b"f", b"no\0")),
    (
        FunctionCall(function=952, argument_formats=(1,), arguments=(b"\0\0\0\x01", None), result_format=1),
        typed(b"F", b"\0\0\x03\xb8\0\x01\0\x01\0\x02\0\0\0\x04\0\0\0\x01\xff\xff\xff\xff\0\x01"),
    ),
    (Terminate(), typed(b"X", b"")),
]

ANSWERS: list[tuple[Message, bytes, Callable[[bytes], Message]]] = [
    (PasswordMessage(password=b"secret"), typed(b"p", b"secret\0"), PasswordMessage.decode),
    (SASLResponse(data=b"c=biws"), typed(b"p", b"c=biws"), SASLResponse.decode),
    (GSSResponse(data=b"\x60"), typed(b"p", b"\x60"), GSSResponse.decode),
    (
        SASLInitialResponse(mechanism="SCRAM-SHA-256", data=b"n,,"),
        typed(b"p", b"SCRAM-SHA-256\0\0\0\0\x03n,,"),
        SASLInitialResponse.decode,
    ),
    (SASLInitialResponse(mechanism="X", data=None), typed(b"p", b"X\0\xff\xff\xff\xff"), SASLInitialResponse.decode),
]

SERVER: list[tuple[Message, bytes]] = [
    (AuthenticationOk(), typed(b"R", b"\0\0\0\0")),
    (AuthenticationKerberosV5(), typed(b"R", b"\0\0\0\x02")),
    (AuthenticationCleartextPassword(), typed(b"R", b"\0\0\0\x03")),
    (AuthenticationMD5Password(salt=b"salt"), typed(b"R", b"\0\0\0\x05salt")),
    (AuthenticationGSS(), typed(b"R", b"\0\0\0\x07")),
    (AuthenticationGSSContinue(data=b"g"), typed(b"R", b"\0\0\0\x08g")),
    (AuthenticationSSPI(), typed(b"R", b"\0\0\0\x09")),
    (AuthenticationSASL(mechanisms=("A", "B")), typed(b"R", b"\0\0\0\x0aA\0B\0\0")),
    (AuthenticationSASLContinue(data=b"r=x"), typed(b"R", b"\0\0\0\x0br=x")),
    (AuthenticationSASLFinal(data=b"v=x"), typed(b"R", b"\0\0\0\x0cv=x")),
    (BackendKeyData(process_id=1, secret_key=b"1234"), typed(b"K", b"\0\0\0\x011234")),
    (BackendKeyData(process_id=-1, secret_key=b"s" * 256), typed(b"K", b"\xff\xff\xff\xff" + b"s" * 256)),
    (BindComplete(), typed(b"2", b"")),
    (CloseComplete(), typed(b"3", b"")),
    (CommandComplete(tag="INSERT 0 5"), typed(b"C", b"INSERT 0 5\0")),
    (CopyBothResponse(format=0, column_formats=()), typed(b"W", b"\0\0\0")),
    (CopyInResponse(format=1, column_formats=(1, 1)), typed(b"G", b"\x01\0\x02\0\x01\0\x01")),
    (CopyOutResponse(format=0, column_formats=(0,)), typed(b"H", b"\0\0\x01\0\0")),
    (CopyData(data=b"1\t2\n"), typed(b"d", b"1\t2\n")),
    (CopyDone(), typed(b"c", b"")),
    (DataRow(values=(b"1", None)), typed(b"D", b"\0\x02\0\0\0\x011\xff\xff\xff\xff")),
    (EmptyQueryResponse(), typed(b"I", b"")),
    (
        ErrorResponse(fields=(("S", "ERROR"), ("C", "42501"), ("M", "no"), ("x", "?"))),
        typed(b"E", b"SERROR\0C42501\0Mno\0x?\0\0"),
    ),
    (NoticeResponse(fields=(("C", "00000"), ("M", "hé"))), typed(b"N", b"C00000\0Mh\xc3\xa9\0\0")),
    (FunctionCallResponse(value=None), typed(b"V", b"\xff\xff\xff\xff")),
    (FunctionCallResponse(value=b""), typed(b"V", b"\0\0\0\0")),
    (NegotiateProtocolVersion(protocol=(3, 2), options=("_pq_.a",)), typed(b"v", b"\0\x03\0\x02\0\0\0\x01_pq_.a\0")),
    (NoData(), typed(b"n", b"")),
    (NotificationResponse(process_id=3, channel=b"c", payload=b"p"), typed(b"A", b"\0\0\0\x03c\0p\0")),
    (ParameterDescription(types=(25,)), typed(b"t", b"\0\x01\0\0\0\x19")),
    (ParameterStatus(name="TimeZone", value="UTC"), typed(b"S", b"TimeZone\0UTC\0")),
    (ParseComplete(), typed(b"1", b"")),
    (PortalSuspended(), typed(b"s", b"")),
    (ReadyForQuery(status=TransactionStatus.IDLE), typed(b"Z", b"I")),
    (ReadyForQuery(status=TransactionStatus.IN_TRANSACTION), typed(b"Z", b"T")),
    (ReadyForQuery(status=TransactionStatus.FAILED), typed(b"Z", b"E")),
    (
        RowDescription(columns=(Column(name=b"a", table=2**32 - 1, attribute=-1, type=25, type_size=-1, format=1),)),
        typed(b"T", b"\0\x01a\0\xff\xff\xff\xff\xff\xff\0\0\0\x19\xff\xff\xff\xff\xff\xff\0\x01"),
    ),
]

TABLE: list[tuple[Message, bytes, Callable[[Frame], Message]]] = [
    *((m, data, lambda frame: decode_startup(frame.payload)) for m, data in STARTUP),
    *((m, data, lambda frame: decode_frontend(frame.code, frame.payload)) for m, data in CLIENT),
    *((m, data, lambda frame: decode_backend(frame.code, frame.payload)) for m, data in SERVER),
    *((m, data, lambda frame, decode=decode: decode(frame.payload)) for m, data, decode in ANSWERS),
]
IDS = [f"{type(message).__name__}-{number}" for number, (message, _, _) in enumerate(TABLE)]


LOOSE = (
    CopyData
    | AuthenticationData
    | SASLResponse
    | GSSResponse
    | AuthenticationGSSContinue
    | AuthenticationSASLContinue
    | AuthenticationSASLFinal
)
"""Bytes without any structure, whose every cut is such a message again."""


@pytest.mark.parametrize("message, data, decode", TABLE, ids=IDS)
class TestTable:
    def test_written(self, message: Message, data: bytes, decode: Callable[[Frame], Message]) -> None:
        assert message.encode() == data

    def test_read_whole(self, message: Message, data: bytes, decode: Callable[[Frame], Message]) -> None:
        frames = FrameReader(startup=not message.code).feed(data)
        assert [decode(frame) for frame in frames] == [message]

    def test_read_byte_by_byte(self, message: Message, data: bytes, decode: Callable[[Frame], Message]) -> None:
        reader = FrameReader(startup=not message.code)
        for number in range(len(data) - 1):
            assert reader.feed(data[number : number + 1]) == []
        assert [decode(frame) for frame in reader.feed(data[-1:])] == [message]
        assert reader.pending == b""

    def test_read_with_trailing_bytes(self, message: Message, data: bytes, decode: Callable[[Frame], Message]) -> None:
        reader = FrameReader(startup=not message.code)
        reader.add(data + b"S\0\0")
        frame = reader.next_frame()
        assert frame is not None
        assert decode(frame) == message
        assert reader.pending == b"S\0\0"

    def test_every_cut_is_an_error(self, message: Message, data: bytes, decode: Callable[[Frame], Message]) -> None:
        """A payload that ends early is refused, unless the message has no structure."""
        if isinstance(message, LOOSE):
            assert decode(Frame(code=message.code, payload=data[len(message.code) + 4 :])) == message
            return
        shortest_key = 12 if isinstance(message, CancelRequest) else 8
        for size in range(len(data) - len(message.code) - 4):
            cut = Frame(code=message.code, payload=data[len(message.code) + 4 :][:size])
            if isinstance(message, CancelRequest | BackendKeyData) and size >= shortest_key:
                continue  # A shorter key is a key.
            with pytest.raises(ProtocolError):
                decode(cut)


def test_the_table_holds_every_message() -> None:
    named = {*get_args(StartupPacket), *get_args(FrontendMessage), *get_args(BackendMessage)}
    assert named == {type(message) for message, _, _ in TABLE}


def test_the_registries_hold_every_type_byte() -> None:
    assert {member.code for member in get_args(FrontendMessage)} == set(FRONTEND)
    assert {member.code for member in get_args(BackendMessage)} == set(BACKEND)


BYTES = [bytes([number]) for number in range(256)]


@pytest.mark.parametrize("code", [code for code in BYTES if code not in FRONTEND])
def test_an_unknown_client_message_is_refused_by_its_byte(code: bytes) -> None:
    with pytest.raises(ProtocolError, match="invalid frontend message type") as caught:
        decode_frontend(code, b"")
    assert repr(code) in caught.value.message


@pytest.mark.parametrize("code", [code for code in BYTES if code not in BACKEND])
def test_an_unknown_server_message_is_refused_by_its_byte(code: bytes) -> None:
    with pytest.raises(ProtocolError, match="invalid backend message type") as caught:
        decode_backend(code, b"")
    assert repr(code) in caught.value.message


@pytest.mark.parametrize(
    "tag, rows",
    [
        ("DELETE 1000", 1000),
        ("INSERT 0 5", 5),
        ("SELECT 0", 0),
        ("MERGE 3", 3),
        ("COPY 18446744073709551615", 2**64 - 1),
        ("CREATE TABLE", None),
        ("BEGIN", None),
        ("", None),
        ("DELETE -1", None),
        ("DELETE ١", None),
        ("DELETE " + "9" * 5000, None),
    ],
)
def test_rows_of_a_tag(tag: str, rows: int | None) -> None:
    assert CommandComplete(tag=tag).rows == rows
