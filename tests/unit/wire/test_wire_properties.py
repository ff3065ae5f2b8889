"""Properties of the codec: what is written is read again at every split, and no bytes raise anything but ProtocolError."""

from __future__ import annotations

from collections.abc import Callable
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dbshield.errors import ProtocolError
from dbshield.wire import authentication as auth
from dbshield.wire import backend, copying, frontend, report, result, startup
from dbshield.wire.framing import Frame, FrameReader
from dbshield.wire.message import Message

octets = st.binary(max_size=40)
string = octets.map(lambda data: data.replace(b"\0", b""))
text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
name = text.filter(bool)
int16 = st.integers(-(2**15), 2**15 - 1)
int32 = st.integers(-(2**31), 2**31 - 1)
oid = st.integers(0, 2**32 - 1)
key = st.binary(min_size=4, max_size=256)
protocol = st.tuples(st.integers(0, 0x7FFF), st.integers(0, 0xFFFF))


def many(items: st.SearchStrategy[object]) -> st.SearchStrategy[tuple[object, ...]]:
    return st.lists(items, max_size=4).map(tuple)


values = many(st.none() | octets)
formats = many(int16)
target = st.sampled_from(frontend.Target)
status = st.sampled_from(backend.TransactionStatus)
letter = st.characters(min_codepoint=1, max_codepoint=127)
column = st.builds(
    result.Column, name=string, table=oid, attribute=int16, type=oid, type_size=int16, type_modifier=int32, format=int16
)

# A protocol number that is one of the request codes would be that request.
plain_protocol = protocol.filter(lambda pair: pair[0] != 1234)

STRATEGIES: dict[type[Message], st.SearchStrategy[Message]] = {
    startup.StartupMessage: st.builds(startup.StartupMessage, protocol=plain_protocol, parameters=many(st.tuples(name, text))),
    startup.SSLRequest: st.builds(startup.SSLRequest),
    startup.GSSENCRequest: st.builds(startup.GSSENCRequest),
    startup.CancelRequest: st.builds(startup.CancelRequest, process_id=int32, secret_key=key),
    auth.AuthenticationData: st.builds(auth.AuthenticationData, data=octets),
    auth.PasswordMessage: st.builds(auth.PasswordMessage, password=string),
    auth.SASLInitialResponse: st.builds(auth.SASLInitialResponse, mechanism=text, data=st.none() | octets),
    auth.SASLResponse: st.builds(auth.SASLResponse, data=octets),
    auth.GSSResponse: st.builds(auth.GSSResponse, data=octets),
    frontend.Query: st.builds(frontend.Query, query=string),
    frontend.Parse: st.builds(frontend.Parse, name=string, query=string, parameter_types=many(oid)),
    frontend.Bind: st.builds(
        frontend.Bind,
        portal=string,
        statement=string,
        parameter_formats=formats,
        parameters=values,
        result_formats=formats,
    ),
    frontend.Describe: st.builds(frontend.Describe, target=target, name=string),
    frontend.Close: st.builds(frontend.Close, target=target, name=string),
    frontend.Execute: st.builds(frontend.Execute, portal=string, max_rows=int32),
    frontend.Flush: st.builds(frontend.Flush),
    frontend.Sync: st.builds(frontend.Sync),
    frontend.Terminate: st.builds(frontend.Terminate),
    frontend.CopyFail: st.builds(frontend.CopyFail, reason=string),
    frontend.FunctionCall: st.builds(
        frontend.FunctionCall, function=oid, argument_formats=formats, arguments=values, result_format=int16
    ),
    copying.CopyData: st.builds(copying.CopyData, data=octets),
    copying.CopyDone: st.builds(copying.CopyDone),
    auth.AuthenticationOk: st.builds(auth.AuthenticationOk),
    auth.AuthenticationKerberosV5: st.builds(auth.AuthenticationKerberosV5),
    auth.AuthenticationCleartextPassword: st.builds(auth.AuthenticationCleartextPassword),
    auth.AuthenticationMD5Password: st.builds(auth.AuthenticationMD5Password, salt=st.binary(min_size=4, max_size=4)),
    auth.AuthenticationGSS: st.builds(auth.AuthenticationGSS),
    auth.AuthenticationSSPI: st.builds(auth.AuthenticationSSPI),
    auth.AuthenticationGSSContinue: st.builds(auth.AuthenticationGSSContinue, data=octets),
    auth.AuthenticationSASL: st.builds(auth.AuthenticationSASL, mechanisms=many(name)),
    auth.AuthenticationSASLContinue: st.builds(auth.AuthenticationSASLContinue, data=octets),
    auth.AuthenticationSASLFinal: st.builds(auth.AuthenticationSASLFinal, data=octets),
    backend.BackendKeyData: st.builds(backend.BackendKeyData, process_id=int32, secret_key=key),
    backend.BindComplete: st.builds(backend.BindComplete),
    backend.CloseComplete: st.builds(backend.CloseComplete),
    backend.EmptyQueryResponse: st.builds(backend.EmptyQueryResponse),
    backend.NoData: st.builds(backend.NoData),
    backend.ParseComplete: st.builds(backend.ParseComplete),
    backend.PortalSuspended: st.builds(backend.PortalSuspended),
    backend.ReadyForQuery: st.builds(backend.ReadyForQuery, status=status),
    backend.ParameterStatus: st.builds(backend.ParameterStatus, name=text, value=text),
    backend.NegotiateProtocolVersion: st.builds(backend.NegotiateProtocolVersion, protocol=protocol, options=many(text)),
    backend.NotificationResponse: st.builds(backend.NotificationResponse, process_id=int32, channel=string, payload=string),
    report.ErrorResponse: st.builds(report.ErrorResponse, fields=many(st.tuples(letter, text))),
    report.NoticeResponse: st.builds(report.NoticeResponse, fields=many(st.tuples(letter, text))),
    result.CommandComplete: st.builds(result.CommandComplete, tag=text),
    result.CopyInResponse: st.builds(result.CopyInResponse, format=st.integers(0, 255), column_formats=formats),
    result.CopyOutResponse: st.builds(result.CopyOutResponse, format=st.integers(0, 255), column_formats=formats),
    result.CopyBothResponse: st.builds(result.CopyBothResponse, format=st.integers(0, 255), column_formats=formats),
    result.DataRow: st.builds(result.DataRow, values=values),
    result.FunctionCallResponse: st.builds(result.FunctionCallResponse, value=st.none() | octets),
    result.ParameterDescription: st.builds(result.ParameterDescription, types=many(oid)),
    result.RowDescription: st.builds(result.RowDescription, columns=many(column)),
}
messages = st.sampled_from(sorted(STRATEGIES, key=lambda kind: kind.__name__)).flatmap(STRATEGIES.__getitem__)

# Read with replacement characters, so other bytes may come out than went in.
LENIENT = (report.ErrorResponse, report.NoticeResponse, backend.ParameterStatus)


def test_every_message_has_a_strategy() -> None:
    unions = startup.StartupPacket, frontend.FrontendMessage, backend.BackendMessage
    assert {member for union in unions for member in get_args(union)} == set(STRATEGIES)


@given(messages)
def test_property_decoded_is_what_was_encoded_at_every_split(message: Message) -> None:
    data = message.encode()
    for cut in range(len(data) + 1):
        reader = FrameReader(startup=not message.code)
        frames = reader.feed(data[:cut]) + reader.feed(data[cut:])
        assert [type(message).decode(frame.payload) for frame in frames] == [message]
        assert reader.size == 0


@given(st.lists(messages.filter(lambda message: bool(message.code)), max_size=5), st.integers(1, 9))
def test_property_a_conversation_in_pieces_of_any_size(sent: list[Message], size: int) -> None:
    reader = FrameReader()
    data = b"".join(message.encode() for message in sent)
    frames = [frame for at in range(0, len(data), size) for frame in reader.feed(data[at : at + size])]
    assert [type(m).decode(f.payload) for m, f in zip(sent, frames, strict=True)] == sent


def _decoders() -> list[Callable[[bytes], Message]]:
    return [
        *frontend.FRONTEND.values(),
        *backend.BACKEND.values(),
        startup.decode_startup,
        *(kind.decode for kind in STRATEGIES),
    ]


@pytest.mark.parametrize("decode", _decoders(), ids=lambda decode: decode.__qualname__)
@given(data=st.binary(max_size=300))
def test_property_fuzz_any_bytes_raise_only_protocol_error(decode: Callable[[bytes], Message], data: bytes) -> None:
    try:
        message = decode(data)
    except ProtocolError:
        return
    again = message.encode()[len(message.code) + 4 :]
    assert again == data or isinstance(message, LENIENT)
    assert decode(again) == message


@given(messages, st.data())
def test_property_fuzz_a_damaged_message_raises_only_protocol_error(message: Message, data: st.DataObject) -> None:
    payload = bytearray(message.encode()[len(message.code) + 4 :])
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(payload)))
        match data.draw(st.sampled_from(["insert", "delete", "replace"])):
            case "insert":
                payload[at:at] = data.draw(st.binary(min_size=1, max_size=4))
            case "delete":
                del payload[at : at + 1]
            case _:
                payload[at : at + 1] = data.draw(st.binary(min_size=1, max_size=1))
    try:
        decoded = type(message).decode(bytes(payload))
    except ProtocolError:
        return
    assert type(decoded) is type(message)


@given(st.lists(st.binary(max_size=64), max_size=40), st.booleans())
def test_property_fuzz_a_reader_never_holds_more_than_its_limits(pieces: list[bytes], first_untyped: bool) -> None:
    reader = FrameReader(max_length=50, max_startup=30, startup=first_untyped)
    taken: list[Frame] = []
    for piece in pieces:
        try:
            taken += reader.feed(piece)
        except ProtocolError:
            assert reader.size == 0
            return
        # One incomplete message at most: its type byte and its length word's worth.
        assert reader.size <= 1 + 50
    assert all(len(frame.payload) <= 50 for frame in taken)
