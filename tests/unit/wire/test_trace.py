"""Golden traces: conversations as text, and nothing secret in them."""

from __future__ import annotations

from dbshield.wire.authentication import (
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
    BindComplete,
    NegotiateProtocolVersion,
    NoData,
    NotificationResponse,
    ParameterStatus,
    ParseComplete,
    ReadyForQuery,
    TransactionStatus,
)
from dbshield.wire.copying import CopyData, CopyDone
from dbshield.wire.frontend import Bind, Close, CopyFail, Describe, Execute, Parse, Query, Sync, Target, Terminate
from dbshield.wire.message import Message
from dbshield.wire.report import ErrorResponse
from dbshield.wire.result import Column, CommandComplete, CopyInResponse, DataRow, RowDescription
from dbshield.wire.startup import CancelRequest, SSLRequest, StartupMessage
from dbshield.wire.trace import client_lines, server_lines


def joined(*messages: Message) -> bytes:
    return b"".join(message.encode() for message in messages)


def golden(text: str) -> list[str]:
    return [line.strip() for line in text.strip().splitlines()]


def test_a_login() -> None:
    sent = joined(
        StartupMessage(protocol=(3, 2), parameters=(("user", "claude.staging"), ("database", "shop"))),
        SASLInitialResponse(mechanism="SCRAM-SHA-256", data=b"n,,n=,r=secret-nonce"),
        SASLResponse(data=b"c=biws,r=secret-nonce,p=secret-proof"),
    )
    received = joined(
        NegotiateProtocolVersion(protocol=(3, 2), options=("_pq_.x",)),
        AuthenticationSASL(mechanisms=("SCRAM-SHA-256",)),
        AuthenticationSASLContinue(data=b"r=secret-nonce,s=secret-salt,i=4096"),
        AuthenticationSASLFinal(data=b"v=secret-signature"),
        AuthenticationOk(),
        ParameterStatus(name="client_encoding", value="UTF8"),
        BackendKeyData(process_id=4711, secret_key=b"secret-key"),
        ReadyForQuery(status=TransactionStatus.IDLE),
    )
    assert client_lines(sent, startup=True) == golden("""
        > StartupMessage protocol=(3 2) parameters=(('user' 'claude.staging') ('database' 'shop'))
        > AuthenticationData data=…
        > AuthenticationData data=…
    """)
    assert server_lines(received) == golden("""
        < NegotiateProtocolVersion protocol=(3 2) options=('_pq_.x')
        < AuthenticationSASL mechanisms=('SCRAM-SHA-256')
        < AuthenticationSASLContinue data=…
        < AuthenticationSASLFinal data=…
        < AuthenticationOk
        < ParameterStatus name='client_encoding' value='UTF8'
        < BackendKeyData process_id=4711 secret_key=…
        < ReadyForQuery status=idle
    """)


def test_a_pipeline_with_a_refusal() -> None:
    sent = joined(
        Parse(name=b"s1", query=b"select $1::int", parameter_types=(23,)),
        Bind(statement=b"s1", parameters=(b"7", None), result_formats=(1,)),
        Describe(target=Target.PORTAL),
        Execute(),
        Parse(query="drop table »t«\n".encode()),
        Close(target=Target.STATEMENT, name=b"s1"),
        Sync(),
        Terminate(),
    )
    received = joined(
        ParseComplete(),
        BindComplete(),
        RowDescription(columns=(Column(name=b"int4", type=23, type_size=4, format=1),)),
        DataRow(values=(b"\0\0\0\x07", None)),
        CommandComplete(tag="SELECT 1"),
        ErrorResponse.of("ERROR", "42501", "no", hint="ask"),
        NotificationResponse(process_id=9, channel=b"news"),
        ReadyForQuery(status=TransactionStatus.FAILED),
    )
    assert client_lines(sent) == golden(r"""
        > Parse name='s1' query='select $1::int' parameter_types=(23)
        > Bind statement='s1' parameters=('7' None) result_formats=(1)
        > Describe target=portal
        > Execute max_rows=0
        > Parse query='drop table »t«\n'
        > Close target=statement name='s1'
        > Sync
        > Terminate
    """)
    assert server_lines(received) == golden(r"""
        < ParseComplete
        < BindComplete
        < RowDescription columns=(Column(name=b'int4', table=0, attribute=0, type=23, type_size=4, type_modifier=-1, format=1))
        < DataRow values=('\x00\x00\x00\x07' None)
        < CommandComplete tag='SELECT 1'
        < ErrorResponse S='ERROR' V='ERROR' C='42501' M='no' H='ask'
        < NotificationResponse process_id=9 channel='news'
        < ReadyForQuery status=failed
    """)


def test_a_copy_that_fails() -> None:
    sent = joined(Query(query=b"copy t from stdin"), CopyData(data=b"1\t\xff\n"), CopyFail(reason=b"enough"), CopyDone())
    assert client_lines(sent) == golden(r"""
        > Query query='copy t from stdin'
        > CopyData data='1\t\\xff\n'
        > CopyFail reason='enough'
        > CopyDone
    """)
    assert server_lines(joined(CopyInResponse(format=0, column_formats=(0, 0)), NoData())) == golden("""
        < CopyInResponse format=0 column_formats=(0 0)
        < NoData
    """)


def test_startup_requests() -> None:
    assert client_lines(SSLRequest().encode(), startup=True) == ["> SSLRequest"]
    cancel = CancelRequest(process_id=4711, secret_key=b"secret-key")
    assert client_lines(cancel.encode(), startup=True) == ["> CancelRequest process_id=4711 secret_key=…"]


def test_no_secret_stands_in_a_trace_or_a_repr() -> None:
    secrets: list[Message] = [
        PasswordMessage(password=b"hushhush"),
        SASLInitialResponse(mechanism="SCRAM-SHA-256", data=b"hushhush"),
        SASLResponse(data=b"hushhush"),
        AuthenticationMD5Password(salt=b"hush"),
        AuthenticationSASLContinue(data=b"hushhush"),
        AuthenticationSASLFinal(data=b"hushhush"),
        BackendKeyData(process_id=1, secret_key=b"hushhush"),
        CancelRequest(process_id=1, secret_key=b"hushhush"),
    ]
    for message in secrets:
        assert b"hush" in message.encode()
        assert "hush" not in repr(message)
    typed = joined(*(message for message in secrets if message.code == b"p"))
    assert "hush" not in "".join(client_lines(typed))
    assert "hush" not in "".join(server_lines(joined(*(m for m in secrets if m.code in (b"R", b"K")))))
