"""Long messages, violations of the protocol and streams cut anywhere, played against both peers of the relay."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.conversation import (
    DELETED,
    FAILED,
    IDLE,
    MARKER,
    SELECTED,
    Conversation,
    other_error,
    refused,
    syntax_error,
)

from dbshield.errors import ProtocolError, Refused
from dbshield.session.unfinished import SMALL_MESSAGE
from dbshield.wire.backend import (
    DataRow,
    ErrorResponse,
    ParameterStatus,
)
from dbshield.wire.copying import CopyData
from dbshield.wire.frontend import (
    Bind,
    Describe,
    Execute,
    Parse,
    Query,
    Sync,
    Target,
    Terminate,
)
from dbshield.wire.message import Message

SELECT = b"select 1"
DROP = b"drop table shop.orders"
PREPARED_SELECT = (Parse(query=SELECT), Bind(), Describe(target=Target.PORTAL), Execute())
STAND_IN = Query(query=f"{MARKER}_1".encode())
STAND_IN_PARSE = Parse(name=f"{MARKER}_1".encode(), query=f"{MARKER}_1".encode())


@pytest.mark.parametrize("described", [(), (Describe(target=Target.PORTAL),)])
@pytest.mark.parametrize("before", [(), (Parse(query=SELECT),)])
def test_a_whole_execution_in_one_chunk(before: tuple[Parse, ...], described: tuple[Describe, ...]) -> None:
    """Known by its bytes, it leaves the session as it does message by message."""
    messages = [*before, Bind(), *described, Execute(), Sync()]
    whole, single = Conversation(), Conversation()
    for talk in (whole, single):
        talk.client(Parse(query=SELECT), Sync())
        talk.server(IDLE)
    data = b"".join(message.encode() for message in messages)
    assert whole.relay.from_client(data) is data
    assert b"".join(single.relay.from_client(message.encode()) for message in messages) == data
    for talk in (whole, single):
        assert [judgement.normal for judgement in talk.relay.judged] == ["select $1"]
        assert talk.relay.busy
        talk.server(SELECTED, IDLE)
        assert talk.relay.idle


UPDATE = b"update t set a = 1 where id = 2"
LONG = Bind(parameters=(b"x" * 100_000,)).encode()
BEFORE: dict[str, tuple[Message | bytes, ...]] = {
    "nothing": (),
    "a name": (Parse(name=b"s", query=SELECT),),
    "a cycle": (Parse(name=b"s", query=SELECT), Sync()),
    "a doubtful name": (Parse(name=b"s", query=UPDATE), Parse(name=b"s", query=SELECT), Sync()),
    "a name that SQL gave": (Parse(name=b"s", query=SELECT), Query(query=b"prepare s as " + UPDATE), Sync()),
    "a name for a PREPARE": (Parse(name=b"s", query=b"prepare other as select 1"), Sync()),
    "a name for a reset": (Parse(name=b"s", query=b"reset all"), Sync()),
    "a name for a limited statement": (Parse(name=b"s", query=UPDATE), Sync()),
    "a counted portal": (Parse(name=b"s", query=UPDATE), Bind(statement=b"s"), Execute(), Sync()),
    "a bound portal": (Parse(name=b"s", query=SELECT), Bind(statement=b"s")),
    "a refusal": (Parse(name=b"s", query=SELECT), Parse(name=b"d", query=DROP)),
    "a part of a Bind": (Parse(name=b"s", query=SELECT), LONG[:-200]),
    "a part of a head": (Parse(name=b"s", query=SELECT), Sync().encode()[:3]),
}
"""What a client may have sent before, some of it refused, making a name doubtful, or leaving something open."""
EXECUTIONS = (
    Bind().encode() + Execute().encode() + Sync().encode(),
    Bind(statement=b"s", parameters=(b"1", None)).encode()
    + Describe(target=Target.PORTAL).encode()
    + Execute().encode()
    + Sync().encode(),
    Bind(statement=b"s", portal=b"p").encode() + Execute().encode() + Sync().encode(),
    Bind(statement=b"s").encode() + Execute(max_rows=1).encode() + Sync().encode(),
    Bind(statement=b"s").encode() + Execute().encode() + Sync().encode() + Sync().encode(),
)


def taken(pieces: list[bytes], before: tuple[Message | bytes, ...], *, counts: bool) -> tuple[object, ...]:
    """What became of them: what the server hears, or the error that ends the session, and what the session knows then."""
    talk = Conversation(counts=counts)
    sent: list[bytes] | str = []
    try:
        for message in (Parse(query=SELECT), *before):
            talk.relay.from_client(message if isinstance(message, bytes) else message.encode())
        talk.relay.judged.clear()
        sent = [b"".join([talk.relay.from_client(piece) for piece in pieces])]
    except (ProtocolError, Refused) as error:
        sent = error.message
    relay = talk.relay
    return (
        sent,
        [*relay.judged],
        [*relay._cycles],
        relay._unsynced,
        relay._discarding,
        relay._client_rest,
        relay._statements.bound,
    )


@pytest.mark.parametrize("counts", [False, True])
@pytest.mark.parametrize("before", BEFORE.values(), ids=BEFORE)
def test_a_chunk_is_read_as_its_pieces_are(before: tuple[Message | bytes, ...], counts: bool) -> None:
    for chunk in EXECUTIONS:
        whole = taken([chunk], before, counts=counts)
        for cut in (1, 4, 5, 6, 9, len(chunk) - 6):
            assert taken([chunk[:cut], chunk[cut:]], before, counts=counts) == whole


@given(
    st.sampled_from(["nothing", "a cycle", "a name for a limited statement"]),
    st.sampled_from(EXECUTIONS),
    st.lists(st.tuples(st.integers(0, 60), st.integers(0, 255)), min_size=1, max_size=2),
)
def test_so_is_a_broken_one(before: str, chunk: bytes, changes: list[tuple[int, int]]) -> None:
    broken = bytearray(chunk)
    for place, byte in changes:
        broken[place % len(broken)] = byte
    data = bytes(broken)
    whole = taken([data], BEFORE[before], counts=False)
    assert all(taken([data[:cut], data[cut:]], BEFORE[before], counts=False) == whole for cut in (1, 12, 20))


class TestLongMessages:
    def test_a_long_bind_streams_and_is_counted_once(self) -> None:
        """Trap 8: over 64 KB."""
        talk = Conversation()
        talk.client(Parse(name=b"s", query=b"select $1"))
        bind = Bind(statement=b"s", parameters=(b"x" * 200_000,)).encode() + Execute().encode() + Sync().encode()
        sent = b"".join(talk.relay.from_client(bind[at : at + 9_000]) for at in range(0, len(bind), 9_000))
        assert sent == bind
        assert len(talk.relay.judged) == 1

    @pytest.mark.parametrize("step", [1, 7, 5_000, 1 << 20])
    def test_a_text_beyond_the_limit_is_refused_without_being_kept(self, step: int) -> None:
        talk = Conversation(max_statement=10_000)
        data = Query(query=b"select " + b"1" * 50_000).encode() + Query(query=SELECT).encode()
        sent = b"".join(talk.relay.from_client(data[at : at + step]) for at in range(0, len(data), step))
        assert sent == STAND_IN.encode() + Query(query=SELECT).encode()
        heard = talk.server(syntax_error(), IDLE, SELECTED, IDLE)
        assert refused(heard, "rule=DS9")
        assert talk.relay.idle

    def test_so_is_the_text_of_a_parse(self) -> None:
        talk = Conversation(max_statement=10_000)
        data = Parse(query=b"select " + b"1" * 50_000).encode() + Bind().encode() + Sync().encode()
        sent = b"".join(talk.relay.from_client(data[at : at + 8_000]) for at in range(0, len(data), 8_000))
        assert sent == STAND_IN_PARSE.encode() + Sync().encode()

    def test_a_long_error_of_the_server_streams(self) -> None:
        talk = Conversation()
        error = ErrorResponse.of("ERROR", "P0001", "x" * 3_000_000).encode()
        sent = [talk.relay.from_server(error[at : at + 65_536]) for at in range(0, len(error), 65_536)]
        assert b"".join(sent) == error

    def test_a_long_row_streams(self) -> None:
        talk = Conversation()
        row = DataRow(values=(b"x" * 500_000,)).encode() + SELECTED.encode() + IDLE.encode()
        sent = [talk.relay.from_server(row[at : at + 65_536]) for at in range(0, len(row), 65_536)]
        assert b"".join(sent) == row
        assert all(sent)


class TestViolations:
    @pytest.mark.parametrize("kind", sorted(set(range(256)) - set(b"QPBDECSHFdcfX")))
    def test_an_unknown_type_ends_the_session(self, kind: int) -> None:
        with pytest.raises(ProtocolError):
            Conversation().relay.from_client(bytes([kind]) + b"\0\0\0\4")

    @pytest.mark.parametrize("length", [-(1 << 31), -1, 0, 3, (1 << 31) - 1])
    @pytest.mark.parametrize("kind", b"QPBDECSHFdcfX")
    def test_an_absurd_length_ends_the_session(self, kind: int, length: int) -> None:
        """Trap 8."""
        with pytest.raises(ProtocolError):
            Conversation().relay.from_client(bytes([kind]) + length.to_bytes(4, "big", signed=True))

    @pytest.mark.parametrize("kind", b"DECSHcfX")
    def test_a_small_message_that_declares_much(self, kind: int) -> None:
        with pytest.raises(ProtocolError):
            Conversation().relay.from_client(bytes([kind]) + (SMALL_MESSAGE + 1).to_bytes(4, "big"))

    @pytest.mark.parametrize("length", [-1, 0, 3])
    def test_an_absurd_length_from_the_server(self, length: int) -> None:
        with pytest.raises(ProtocolError):
            Conversation().relay.from_server(b"D" + length.to_bytes(4, "big", signed=True))

    @pytest.mark.parametrize("kind", b"RKvW?")
    def test_a_message_that_the_server_may_not_send_now(self, kind: int) -> None:
        with pytest.raises(ProtocolError):
            Conversation().relay.from_server(bytes([kind]) + b"\0\0\0\4")

    @pytest.mark.parametrize("body", [b"", b"no end", b"\0no end"])
    def test_a_parse_without_an_end(self, body: bytes) -> None:
        with pytest.raises(ProtocolError):
            Conversation().relay.from_client(b"P" + (4 + len(body)).to_bytes(4, "big") + body)

    @pytest.mark.parametrize("body", [b"", b"\0", b"portal", b"portal\0", b"\0name", b"portal\0name"])
    @pytest.mark.parametrize("behind", [b"", Execute().encode() + Sync().encode()])
    def test_a_bind_without_an_end(self, body: bytes, behind: bytes) -> None:
        with pytest.raises(ProtocolError, match="a string in a Bind has no end"):
            Conversation().relay.from_client(b"B" + (len(body) + 4).to_bytes(4, "big") + body + behind)

    def test_a_string_may_not_end_in_the_next_message(self) -> None:
        with pytest.raises(ProtocolError):
            Conversation().relay.from_client(b"P\0\0\0\x0b\0select" + Sync().encode() + b"\0" * 20)

    @pytest.mark.parametrize(
        "status",
        [
            ParameterStatus(name="client_encoding", value="SJIS"),
            ParameterStatus(name="standard_conforming_strings", value="off"),
        ],
    )
    def test_a_setting_that_changes_how_texts_are_read(self, status: ParameterStatus) -> None:
        with pytest.raises(Refused, match=status.name):
            Conversation().server(status)


def test_a_fatal_error_of_the_server_is_noted() -> None:
    """Trap 10: the client gets exactly one error."""
    talk = Conversation()
    error = ErrorResponse.of("FATAL", "57P01", "terminating connection")
    assert talk.server(error) == [error]
    assert talk.relay.fatal


STREAM = b"".join(
    message.encode()
    for message in [
        Query(query=SELECT),
        *PREPARED_SELECT,
        Sync(),
        Query(query=DROP),
        Parse(name=b"d", query=DROP),
        Bind(statement=b"d", parameters=(b"x" * 300,)),
        Sync(),
        CopyData(data=b"x" * 300),
        Bind(parameters=(b"y" * 20_000,)),
        Terminate(),
    ]
)

ANSWERS = b"".join(
    message.encode()
    for message in [
        SELECTED,
        IDLE,
        DELETED,
        DataRow(values=(b"x" * 300,)),
        syntax_error(1),
        FAILED,
        syntax_error(2),
        other_error(),
        IDLE,
    ]
)


@given(cuts=st.lists(st.integers(0, len(STREAM)), max_size=12))
def test_how_a_stream_is_cut_changes_nothing(cuts: list[int]) -> None:
    def both(pieces: list[bytes], answers: list[bytes]) -> tuple[bytes, bytes, int]:
        relay = Conversation().relay
        heard = b"".join(map(relay.from_client, pieces))
        return heard, b"".join(map(relay.from_server, answers)), len(relay.judged)

    def cut(data: bytes) -> list[bytes]:
        edges = [0, *sorted(min(at, len(data)) for at in cuts), len(data)]
        return [data[a:b] for a, b in pairwise(edges) if a != b]

    assert both(cut(STREAM), cut(ANSWERS)) == both([STREAM], [ANSWERS])


@given(st.lists(st.binary(max_size=400), max_size=10))
def test_any_bytes_are_taken_or_end_the_session(pieces: list[bytes]) -> None:
    """Nothing but ProtocolError or Refused is raised, and nothing is kept beyond the limits."""
    for feed in ("from_client", "from_server"):
        relay = Conversation(max_statement=1_024).relay
        try:
            for piece in pieces:
                getattr(relay, feed)(piece)
                assert len(relay._client_held) + len(relay._server_held) <= 1 << 14
        except (ProtocolError, Refused):
            pass
