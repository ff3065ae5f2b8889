"""The relay, played against both peers. Trap numbers are those of docs/explanation/protocol-traps.md."""

from __future__ import annotations

import pytest
from support.conversation import (
    FAILED,
    IDLE,
    IN_TRANSACTION,
    MARKER,
    SELECTED,
    Conversation,
    other_error,
    refused,
    syntax_error,
)

from dbshield.errors import Refused
from dbshield.model import AccessLevel, Limit
from dbshield.session.relay import MAX_REFUSALS
from dbshield.wire.backend import (
    BindComplete,
    CommandComplete,
    CopyInResponse,
    DataRow,
    NoticeResponse,
    NotificationResponse,
    ParameterStatus,
    ParseComplete,
    RowDescription,
)
from dbshield.wire.copying import CopyData, CopyDone
from dbshield.wire.frontend import (
    Bind,
    Close,
    CopyFail,
    Describe,
    Execute,
    Flush,
    FunctionCall,
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


class TestWhatPasses:
    def test_the_clients_own_object_goes_out(self) -> None:
        data = Query(query=SELECT).encode()
        assert Conversation().relay.from_client(data) is data

    def test_the_servers_own_object_goes_out(self) -> None:
        data = DataRow(values=(b"1",)).encode() + SELECTED.encode() + IDLE.encode()
        assert Conversation().relay.from_server(data) is data

    @pytest.mark.parametrize(
        "message",
        [Flush(), Sync(), CopyDone(), CopyData(data=b"1\n"), CopyFail(reason=b"no"), Terminate(), Close(target=Target.PORTAL)],
    )
    def test_a_message_without_a_statement(self, message: Message) -> None:
        assert Conversation().client(message) == [message]

    def test_every_statement_is_judged_once_for_each_execution(self) -> None:
        talk = Conversation()
        talk.client(Parse(name=b"s", query=SELECT), Bind(statement=b"s"), Execute(), Bind(statement=b"s"), Execute(), Sync())
        assert [judgement.normal for judgement in talk.relay.judged] == ["select $1", "select $1"]

    def test_messages_that_come_at_any_time(self) -> None:
        """Trap 9."""
        talk = Conversation()
        asynchronous = [
            NotificationResponse(process_id=1, channel=b"c"),
            NoticeResponse.of("NOTICE", "00000", "n"),
            ParameterStatus(name="TimeZone", value="UTC"),
        ]
        assert talk.server(*asynchronous) == asynchronous
        assert talk.relay.idle


class TestRefusalOfAQuery:
    def test_the_server_never_hears_of_it(self) -> None:
        talk = Conversation()
        assert talk.client(Query(query=DROP)) == [STAND_IN]

    def test_outside_a_transaction(self) -> None:
        talk = Conversation()
        talk.client(Query(query=DROP))
        heard = talk.server(syntax_error(), IDLE)
        assert refused(heard)
        assert heard[1:] == [IDLE]

    def test_in_a_block_the_block_has_failed_on_the_server(self) -> None:
        """Trap 6: the status is the server's, so it is never idle while the server holds locks."""
        talk = Conversation()
        talk.client(Query(query=b"begin"))
        talk.server(CommandComplete(tag="BEGIN"), IN_TRANSACTION)
        talk.client(Query(query=DROP))
        heard = talk.server(syntax_error(), FAILED)
        assert refused(heard)
        assert heard[1:] == [FAILED]
        assert not talk.relay.idle

    def test_behind_another_query_its_answer_comes_first(self) -> None:
        talk = Conversation()
        assert talk.client(Query(query=SELECT), Query(query=DROP)) == [Query(query=SELECT), STAND_IN]
        heard = talk.server(SELECTED, IDLE, syntax_error(), IDLE)
        assert heard[:2] == [SELECTED, IDLE]
        assert refused(heard[2:])

    def test_the_session_works_afterwards(self) -> None:
        talk = Conversation()
        talk.client(Query(query=DROP))
        talk.server(syntax_error(), IDLE)
        assert talk.client(Query(query=SELECT)) == [Query(query=SELECT)]
        assert talk.server(SELECTED, IDLE) == [SELECTED, IDLE]

    def test_each_refusal_has_its_own_error(self) -> None:
        talk = Conversation()
        talk.client(Query(query=DROP), Query(query=b"delete from shop.orders"))
        first = talk.server(syntax_error(1), IDLE)
        second = talk.server(syntax_error(2), IDLE)
        assert refused(first, "rule=DS1")
        assert refused(second, "rule=DS2")

    def test_an_error_of_the_clients_own_is_not_exchanged(self) -> None:
        talk = Conversation()
        talk.client(Query(query=b"select * from missing"))
        assert talk.server(other_error(), IDLE) == [other_error(), IDLE]

    def test_a_text_with_a_nul_is_not_sent(self) -> None:
        """The server reads up to the first NUL; the readers would read all."""
        assert Conversation().client(Query(query=b"select 1").encode().replace(b" ", b"\0")) == [STAND_IN]

    def test_too_many_unanswered_ones_end_the_session(self) -> None:
        talk = Conversation()
        talk.client(*[Query(query=DROP)] * MAX_REFUSALS)
        with pytest.raises(Refused, match="too many"):
            talk.client(Query(query=DROP))


class TestRefusalInAPipeline:
    def test_what_comes_behind_is_discarded_up_to_the_sync(self) -> None:
        talk = Conversation()
        heard = talk.client(
            *PREPARED_SELECT, Parse(query=DROP), Bind(), Execute(), Query(query=SELECT), Sync(), Query(query=SELECT)
        )
        assert heard == [*PREPARED_SELECT, STAND_IN_PARSE, Sync(), Query(query=SELECT)]

    def test_earlier_answers_come_first_and_the_status_is_the_servers(self) -> None:
        talk = Conversation()
        talk.client(*PREPARED_SELECT, Parse(query=DROP), Bind(), Execute(), Sync())
        earlier = [ParseComplete(), BindComplete(), RowDescription(columns=()), DataRow(values=()), SELECTED]
        heard = talk.server(*earlier, syntax_error(), IDLE)
        assert heard[:5] == earlier
        assert refused(heard[5:])

    def test_an_earlier_error_is_the_only_one(self) -> None:
        """The server discards the stand-in too, so the client gets one ErrorResponse, as from a server alone."""
        talk = Conversation()
        talk.client(Parse(query=b"select * from missing"), Parse(query=DROP), Sync())
        assert talk.server(other_error(), IDLE) == [other_error(), IDLE]
        talk.client(Query(query=b"select 1"))
        assert talk.server(syntax_error(), IDLE) == [syntax_error(), IDLE]

    def test_a_client_that_only_flushes_gets_its_error(self) -> None:
        """Trap 5: an error is flushed by the server itself, so a refusal needs no Sync."""
        talk = Conversation()
        assert talk.client(Parse(query=DROP), Flush()) == [STAND_IN_PARSE]
        assert refused(talk.server(syntax_error()))
        assert talk.client(Sync()) == [Sync()]
        assert talk.server(IDLE) == [IDLE]

    def test_a_segment_that_starts_with_sync(self) -> None:
        talk = Conversation()
        talk.client(Parse(query=DROP))
        assert talk.client(Sync(), Query(query=SELECT)) == [Sync(), Query(query=SELECT)]

    def test_the_unnamed_statement_survives_the_refusal_of_a_named_one(self) -> None:
        """Trap 7: the stand-in has a name of its own, which its failure does not register."""
        talk = Conversation()
        [heard] = talk.client(Parse(name=b"mine", query=DROP))
        assert heard == STAND_IN_PARSE
        assert STAND_IN_PARSE.name

    def test_a_refused_parse_registers_no_name(self) -> None:
        """Trap 7. What SQL PREPARE may have made is judged as an EXECUTE of it."""
        talk = Conversation(counts=True)
        talk.client(Parse(name=b"s", query=DROP), Sync())
        talk.client(Bind(statement=b"s"), Execute(), Sync())
        assert [judgement.verdict for judgement in talk.relay.judged][1:] == [Limit(max_rows=100)]
        assert talk.relay.judged[1].normal == "execute prepared_by_name"

    def test_close_forgets_a_name(self) -> None:
        talk = Conversation()
        talk.client(Parse(name=b"s", query=SELECT), Close(target=Target.STATEMENT, name=b"s"), Bind(statement=b"s"), Sync())
        assert talk.relay.judged[0].normal == "execute prepared_by_name"

    @pytest.mark.parametrize(
        "message",
        [
            Parse(name=b"dbshield_1f_after", query=SELECT),
            Bind(statement=b"dbshield_1f_after"),
            Close(target=Target.STATEMENT, name=b"dbshield_1f_after"),
        ],
    )
    def test_a_statement_of_the_shields_own_is_not_touched(self, message: Message) -> None:
        """Whoever replaces what counts the rows is no longer limited."""
        talk = Conversation()
        [heard] = talk.client(message)
        assert isinstance(heard, Parse)
        assert refused(talk.server(syntax_error()), "rule=DS404")

    def test_closing_an_unknown_name_passes(self) -> None:
        """Trap 7."""
        close = Close(target=Target.STATEMENT, name=b"never made")
        assert Conversation().client(close) == [close]


class TestFunctionCall:
    LO_OPEN, LO_UNLINK = 952, 964

    def test_reading_a_large_object_passes(self) -> None:
        call = FunctionCall(function=self.LO_OPEN, argument_formats=(1,), arguments=(b"\0\0\0\1", b"\0\4\0\0"))
        assert Conversation(AccessLevel.READ).client(call) == [call]

    @pytest.mark.parametrize(
        "call",
        [
            FunctionCall(function=LO_OPEN, argument_formats=(1,), arguments=(b"\0\0\0\1", b"\0\2\0\0")),
            FunctionCall(function=LO_UNLINK, argument_formats=(1,), arguments=(b"\0\0\0\1",)),
            FunctionCall(function=999_999, arguments=()),
        ],
        ids=["open for writing", "unlink", "unknown"],
    )
    def test_anything_else_is_refused(self, call: FunctionCall) -> None:
        """Trap 10."""
        talk = Conversation()
        assert talk.client(call) == [STAND_IN]
        assert refused(talk.server(syntax_error(), IDLE))


class TestCopy:
    def test_in_the_simple_protocol(self) -> None:
        talk = Conversation()
        talk.client(Query(query=b"copy shop.settings from stdin"))
        talk.server(CopyInResponse(format=0, column_formats=(0, 0)))
        assert talk.relay.busy
        assert talk.client(CopyData(data=b"a\tb\n"), CopyDone()) == [CopyData(data=b"a\tb\n"), CopyDone()]
        talk.server(CommandComplete(tag="COPY 1"), IDLE)
        assert talk.relay.idle

    def test_the_sync_behind_an_execute_is_swallowed_by_the_server(self) -> None:
        """Trap 5 and 8: one ReadyForQuery, for the Sync behind CopyDone."""
        talk = Conversation()
        talk.client(Parse(query=b"copy shop.settings from stdin"), Bind(), Execute(), Sync())
        talk.server(ParseComplete(), BindComplete(), CopyInResponse(format=0, column_formats=(0, 0)))
        talk.client(CopyData(data=b"a\tb\n"), CopyDone(), Sync())
        assert talk.relay.busy
        talk.server(CommandComplete(tag="COPY 1"), IDLE)
        assert talk.relay.idle

    def test_data_that_comes_late_passes(self) -> None:
        """Trap 8: the server ignores it."""
        talk = Conversation()
        talk.server(other_error(), IDLE)
        assert talk.client(CopyData(data=b"x"), CopyDone()) == [CopyData(data=b"x"), CopyDone()]

    def test_a_long_message_streams(self) -> None:
        talk = Conversation()
        data = CopyData(data=b"x" * 100_000).encode()
        sent = [talk.relay.from_client(data[at : at + 30_000]) for at in range(0, len(data), 30_000)]
        assert b"".join(sent) == data
        assert all(sent)
