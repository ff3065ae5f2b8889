"""Queries that wait for a human, played against both peers: whatever the form, the held text never reaches the server."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.conversation import (
    DELETED,
    FAILED,
    IDLE,
    IN_TRANSACTION,
    SELECTED,
    TOLD,
    Conversation,
    other_error,
    refused,
    syntax_error,
)
from support.held_conversation import (
    DELETE,
    ONE_RUN,
    PORTAL,
    RETURNING,
    SELECT,
    STAND_IN,
    STAND_IN_PARSE,
    Waiting,
    advised,
)

from dbshield.errors import ProtocolError
from dbshield.session import held
from dbshield.session.held import (
    ALONE,
    IN_BLOCK,
    OF_SESSION,
    Phase,
)
from dbshield.session.held_answers import Rows, failed, notice, ran, stopped
from dbshield.session.terms import Terms
from dbshield.wire.backend import (
    CommandComplete,
    DataRow,
    ErrorResponse,
    NoticeResponse,
    NotificationResponse,
    ParseComplete,
    RowDescription,
)
from dbshield.wire.framing import FrameReader
from dbshield.wire.frontend import (
    Bind,
    Close,
    Describe,
    Execute,
    Flush,
    Parse,
    Query,
    Sync,
    Target,
    Terminate,
    decode_frontend,
)
from dbshield.wire.message import Message


class TestAQuery:
    def test_it_waits_when_the_server_is_ready(self) -> None:
        talk = Waiting()
        found = talk.reach()
        assert (found.text, found.parameters, found.extended) == (DELETE, None, False)
        assert talk.relay.outcomes == [found]
        assert not talk.relay.idle
        assert not talk.relay.busy
        assert [judgement.verdict.word for judgement in talk.relay.judged] == ["hold"]

    def test_the_answer_stands_at_its_place(self) -> None:
        talk = Waiting()
        found = talk.reach()
        heard, kept = talk.decided(ran(found, "DELETE 9"))
        assert heard == [CommandComplete(tag="DELETE 9"), IDLE]
        assert kept == b""
        assert talk.relay.idle
        assert talk.client(Query(query=SELECT)) == [Query(query=SELECT)]
        assert talk.server(SELECTED, IDLE) == [SELECTED, IDLE]

    def test_with_rows(self) -> None:
        talk = Waiting()
        found = talk.reach(RETURNING)
        heard, _ = talk.decided(ran(found, "DELETE 2", Rows(columns=[("id", 23, -1)], rows=[["7"], [None]])))
        assert [type(message) for message in heard[:3]] == [RowDescription, DataRow, DataRow]
        assert heard[1:] == [DataRow(values=(b"7",)), DataRow(values=(None,)), CommandComplete(tag="DELETE 2"), IDLE]

    def test_it_waits_on_the_terms_that_the_server_told(self) -> None:
        found = Waiting().reach()
        assert found.terms == Terms(settings={"search_path": "shop, public", "datestyle": "ISO, MDY"}, idle_timeout=90.0)

    def test_where_the_server_does_not_tell_nobody_knows(self) -> None:
        for told in ((*TOLD[:3], other_error(), IDLE), (*TOLD[:2], *TOLD[-3:])):
            talk = Waiting()
            talk.told = told
            assert talk.reach().terms is None

    def test_what_is_sent_while_the_server_is_asked_is_kept(self) -> None:
        talk = Waiting()
        talk.client(Query(query=DELETE))
        Conversation.server(talk, syntax_error(), IDLE)
        holding = talk.relay.holding
        assert holding is not None
        assert holding.phase is Phase.LOOKING
        asked = [decode_frontend(frame.code, frame.payload) for frame in FrameReader().feed(held.look(talk.relay))]
        assert [type(message) for message in asked] == [Parse, Bind, Execute, Close, Sync]
        assert not any(DELETE in message.encode() for message in asked)
        assert talk.client(Query(query=SELECT)) == []
        for message in TOLD[:-1]:
            assert Conversation.server(talk, message) == []
        assert len(talk.relay.outcomes) == 1
        assert Conversation.server(talk, TOLD[-1]) == []
        assert talk.waits is not None
        assert talk.decided(stopped(talk.waits, "no", hint="none"))[1] == Query(query=SELECT).encode()

    def test_a_transaction_that_the_question_would_open_ends_the_session(self) -> None:
        talk = Waiting()
        talk.told = (*TOLD[:-1], IN_TRANSACTION)
        with pytest.raises(ProtocolError, match="in a transaction"):
            talk.reach()

    def test_a_server_that_ends_the_session_meanwhile_is_heard(self) -> None:
        talk = Waiting()
        talk.client(Query(query=DELETE))
        Conversation.server(talk, syntax_error(), IDLE)
        end = ErrorResponse.of("FATAL", "57P01", "terminating connection")
        assert Conversation.server(talk, end) == [end]
        assert talk.relay.fatal

    def test_what_the_client_sends_meanwhile_is_kept_in_order(self) -> None:
        talk = Waiting()
        assert talk.client(Query(query=DELETE), Query(query=SELECT)) == [STAND_IN]
        assert talk.client(Parse(query=SELECT)) == []
        talk.server(syntax_error(), IDLE)
        assert talk.client(Sync()) == []
        found = talk.waits
        assert found is not None
        _, kept = talk.decided(stopped(found, "no", hint="none"))
        assert talk.client(kept) == [Query(query=SELECT), Parse(query=SELECT), Sync()]

    def test_a_good_bye_is_seen_while_it_waits(self) -> None:
        talk = Waiting()
        talk.client(Query(query=DELETE), Query(query=b"select 'X'"))
        talk.server(syntax_error(), IDLE)
        assert not talk.relay.terminated
        data = Query(query=SELECT).encode() + Terminate().encode()
        for index in range(len(data)):
            assert talk.relay.terminated is False
            assert talk.client(data[index : index + 1]) == []
        assert talk.relay.terminated

    def test_what_came_before_is_answered_before(self) -> None:
        talk = Waiting()
        assert talk.client(Query(query=SELECT), Query(query=DELETE)) == [Query(query=SELECT), STAND_IN]
        assert talk.server(SELECTED, IDLE) == [SELECTED, IDLE]
        assert talk.waits is None
        assert talk.server(syntax_error(), IDLE) == []
        assert talk.waits

    def test_news_come_through_meanwhile(self) -> None:
        talk = Waiting()
        talk.reach()
        news: list[Message] = [
            NotificationResponse(process_id=1, channel=b"c"),
            NoticeResponse.of("NOTICE", "00000", "n" * 20_000),
        ]
        data = b"".join(message.encode() for message in news)
        heard = [talk.relay.from_server(data[:9_000]), talk.relay.from_server(data[9_000:])]
        assert [len(each) for each in heard] == [len(news[0].encode()), len(news[1].encode())]
        assert b"".join(heard) == data

    def test_a_server_that_speaks_out_of_turn_ends_the_session(self) -> None:
        talk = Waiting()
        talk.reach()
        with pytest.raises(ProtocolError):
            talk.server(IDLE)

    @pytest.mark.parametrize("counts", [False, True])
    def test_a_block_that_the_session_knows_of(self, *, counts: bool) -> None:
        talk = Waiting(counts=counts)
        talk.client(Query(query=b"begin"))
        talk.server(CommandComplete(tag="BEGIN"), IN_TRANSACTION)
        assert talk.client(Query(query=DELETE)) == [STAND_IN]
        heard = talk.server(syntax_error(), FAILED)
        assert advised(heard, IN_BLOCK)
        assert heard[1:] == [FAILED]

    def test_a_block_that_only_the_server_knows_of_is_told_when_it_is_ready(self) -> None:
        talk = Waiting()
        talk.client(Query(query=b"begin"), Query(query=DELETE))
        talk.server(CommandComplete(tag="BEGIN"), IN_TRANSACTION)
        assert talk.server(syntax_error(), FAILED) == []
        assert talk.waits
        assert talk.relay.status == ord("E")
        heard, _ = talk.decided(stopped(talk.waits, "no", hint=IN_BLOCK))
        assert heard[-1] == FAILED

    def test_behind_a_bind_without_a_sync(self) -> None:
        """Both would be one transaction, and the error that stands for the held one takes the first back."""
        talk = Waiting()
        talk.client(Parse(query=SELECT), Bind(), Execute())
        assert talk.client(Query(query=DELETE)) == [STAND_IN]
        assert advised(talk.server(syntax_error(), IDLE), ALONE)

    @pytest.mark.parametrize(
        "text, advice",
        [
            (b"select 1; delete from shop.orders", ALONE),
            (b"copy (delete from shop.orders returning id) to stdout", OF_SESSION),
            (b"prepare p as delete from shop.orders", OF_SESSION),
            (
                b"declare c cursor with hold for with gone as (delete from shop.orders returning id) select * from gone",
                OF_SESSION,
            ),
        ],
    )
    def test_what_nobody_else_could_run(self, text: bytes, advice: str) -> None:
        talk = Waiting()
        assert talk.client(Query(query=text)) == [STAND_IN]
        assert advised(talk.server(syntax_error(), IDLE), advice)

    def test_where_no_human_can_be_asked(self) -> None:
        talk = Waiting(asks=False)
        assert talk.client(Query(query=DELETE)) == [STAND_IN]
        assert refused(talk.server(syntax_error(), IDLE))
        assert talk.client(Parse(query=DELETE), *ONE_RUN) == [Parse(name=b"dbshield_test_2", query=b"dbshield_test_2"), Sync()]

    def test_what_is_denied_waits_for_nobody(self) -> None:
        talk = Waiting()
        assert talk.client(Query(query=b"alter system set fsync = off")) == [STAND_IN]
        assert refused(talk.server(syntax_error(), IDLE))

    def test_one_after_the_other(self) -> None:
        talk = Waiting()
        for _ in range(2):
            found = talk.reach() if not talk.relay.judged else None
            if found is None:
                talk.client(Query(query=DELETE))
                talk.server(syntax_error(2), IDLE)
                found = talk.waits
            assert found is not None
            assert talk.decided(ran(found, "DELETE 1"))[0] == [DELETED, IDLE]


class TestWhatIsSaid:
    def test_a_refusal_names_rule_approval_and_state(self) -> None:
        found = Waiting().reach()
        error = ErrorResponse.decode(stopped(found, "says no", hint="Leave it.", approval="apr-abcdefgh", state="denied")[5:])
        assert error.sqlstate == "42501"
        assert error.detail.startswith("rule=DS2")
        assert error.detail.endswith("verdict=deny approval=apr-abcdefgh state=denied")
        assert error.message.startswith("dbshield says no (")

    def test_an_error_is_the_servers_own(self) -> None:
        stored = {"sqlstate": "23503", "message": "violates", "detail": "Key", "hint": None}
        error = ErrorResponse.decode(failed(stored, "apr-abcdefgh")[5:])
        assert (error.sqlstate, error.message, error.detail, error.hint) == ("23503", "violates", "Key", "")

    def test_a_notice_has_the_id(self) -> None:
        told = NoticeResponse.decode(notice("waiting", approval="apr-abcdefgh")[5:])
        assert (told.severity, told.detail) == ("NOTICE", "approval=apr-abcdefgh")


@given(st.data())
def test_where_the_segments_are_cut_makes_no_difference(data: st.DataObject) -> None:
    messages = (
        *(Query(query=SELECT), Parse(name=b"s", query=DELETE), Sync()),
        *(Bind(statement=b"s"), PORTAL, Execute(), Sync(), Query(query=SELECT)),
    )
    said = b"".join(message.encode() for message in messages)
    talk = Waiting()
    heard: list[Message] = []
    position = 0
    while position < len(said):
        size = data.draw(st.integers(1, len(said) - position))
        heard += talk.client(said[position : position + size])
        position += size
    assert heard == [Query(query=SELECT), Parse(name=b"s", query=b""), Sync(), STAND_IN_PARSE, Sync()]
    answers = [SELECTED, IDLE, ParseComplete(), IDLE]
    assert talk.server(*answers, syntax_error(), IDLE) == answers
    assert talk.waits
    assert talk.client(held.release(talk.relay)) == [Query(query=SELECT)]


@given(st.lists(st.sampled_from(["P", "B", "D", "DS", "E", "S", "H", "Q", "C", "QD"]), max_size=12))
def test_whatever_the_form_the_server_never_hears_of_it(said: list[str]) -> None:
    forms: dict[str, Message] = {
        "P": Parse(query=DELETE),
        "B": Bind(),
        "D": PORTAL,
        "DS": Describe(target=Target.STATEMENT),
        "E": Execute(),
        "S": Sync(),
        "H": Flush(),
        "Q": Query(query=SELECT),
        "C": Close(target=Target.STATEMENT),
        "QD": Query(query=DELETE),
    }
    talk = Waiting()
    forward = talk.relay.from_client(b"".join(forms[each].encode() for each in said))
    assert b"orders" not in forward
