"""Counted statements, played against both peers: what of ours goes in, and that nothing of it comes out."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.conversation import (
    COUNTER,
    DELETED,
    IDLE,
    IN_TRANSACTION,
    PREPARED,
    SELECTED,
    Conversation,
    other_error,
    refused,
    syntax_error,
)

from dbshield.errors import ProtocolError
from dbshield.model import Counted, Judgement
from dbshield.session.counting import UNTOLD, Limits, RowCounter
from dbshield.wire.backend import (
    BackendMessage,
    BindComplete,
    CloseComplete,
    CommandComplete,
    CopyInResponse,
    ErrorResponse,
    NoData,
    NoticeResponse,
    ParameterDescription,
    ParseComplete,
    PortalSuspended,
)
from dbshield.wire.copying import CopyData, CopyDone
from dbshield.wire.frontend import Bind, CopyFail, Describe, Execute, Flush, Parse, Query, Sync, Target
from dbshield.wire.message import Message
from dbshield.wire.result import Column, DataRow, RowDescription

DELETE = b"delete from shop.orders where id = 1"
COPY = b"copy shop.orders from stdin"


def described(name: str) -> RowDescription:
    column = Column(name=name.encode(), table=0, attribute=0, type=25, type_size=-1, type_modifier=-1, format=0)
    return RowDescription(columns=(column,))


TEXT_IS_DONE = CommandComplete(tag="SELECT 1")
RAN = CommandComplete(tag="EXECUTE")
BEFORE = (described(f"{COUNTER}_before"), DataRow(values=(b"{}",)), RAN)
AFTER = (described(f"{COUNTER}_after"), DataRow(values=(b'{ "shop.orders" : 3 }',)), RAN)
TYPES = ParameterDescription(types=(16,))


def extended(answer: tuple[Message, ...]) -> tuple[Message, ...]:
    """The same when it was asked by Describe, Bind, Execute and Close."""
    columns, row, ran = answer
    return TYPES, columns, BindComplete(), row, ran, CloseComplete()


def overrun(what: str) -> ErrorResponse:
    return ErrorResponse.of("ERROR", "22P02", f'invalid input syntax for type integer: "{COUNTER}: {what}"')


def play(talk: Conversation, *messages: Message) -> list[BackendMessage]:
    return talk.server(*messages)


@pytest.mark.parametrize("counts", [True, False], ids=["the counting queries are prepared", "a query is answered"])
def test_a_refusal_without_its_sync_outlives_the_answer_to_what_came_before(counts: bool) -> None:
    """A client in a pipeline may be faster than the server's first answer."""
    talk = Conversation(counts=counts)
    if counts:
        talk.relay.prepare_again()
        talk.client(Parse(query=b"begin"), Bind(), Execute(), Parse(query=b"delete from shop.orders"), Bind(), Execute())
        assert talk.server(PREPARED, PREPARED, IDLE) == []
    else:
        talk.client(Query(query=b"select 1"))
        talk.client(Parse(query=b"delete from shop.orders"), Bind(), Execute())
        assert talk.server(SELECTED, IDLE)[-1] == IDLE
    talk.client(Sync())
    (heard,) = talk.server(syntax_error())
    assert refused([heard], "rule=DS201")
    assert talk.server(IDLE) == [IDLE]
    assert talk.relay.idle


class TestAQuery:
    def test_ours_goes_around_it(self) -> None:
        sent = Conversation(counts=True).client(Query(query=DELETE))
        assert len(sent) == 1
        assert isinstance(sent[0], Query)
        before, text, after = sent[0].query.partition(DELETE)
        assert before == f"execute {COUNTER}_before;".encode()
        assert text
        assert after.startswith(f"\n;execute {COUNTER}_after('100'".encode())

    def test_the_client_hears_only_its_own(self) -> None:
        talk = Conversation(counts=True)
        talk.client(Query(query=DELETE))
        assert talk.server(*BEFORE, DELETED, *AFTER, IDLE) == [DELETED, IDLE]
        assert talk.relay.outcomes == [{"shop.orders": 3}]
        assert talk.relay.idle

    def test_its_end_is_kept_back_until_the_rows_are_known(self) -> None:
        talk = Conversation(counts=True)
        talk.client(Query(query=DELETE))
        assert talk.server(*BEFORE, DELETED) == []
        assert talk.server(*AFTER) == [DELETED]

    def test_over_the_limit_it_reads_a_refusal_and_no_end(self) -> None:
        talk = Conversation(counts=True)
        talk.client(Query(query=DELETE))
        heard = talk.server(*BEFORE, DELETED, overrun("rows 150 100"), IDLE)
        assert refused(heard, "rule=DS220")
        assert heard[1:] == [IDLE]
        (outcome,) = talk.relay.outcomes
        assert isinstance(outcome, Judgement)

    @pytest.mark.parametrize(
        "what, rule", [("hour shop.orders", "DS221"), ("protected shop.orders", "DS222"), ("uncounted", "DS223"), ("?", "DS223")]
    )
    def test_each_reason_has_its_rule(self, what: str, rule: str) -> None:
        talk = Conversation(counts=True)
        talk.client(Query(query=DELETE))
        assert refused(talk.server(*BEFORE, DELETED, overrun(what), IDLE), f"rule={rule}")

    def test_only_what_is_counted_is_wrapped(self) -> None:
        sent = Conversation(counts=True).client(Query(query=b"begin; " + DELETE + b"; commit"))
        assert isinstance(sent[0], Query)
        words = sent[0].query.decode().replace("\n", " ")
        assert words.startswith(f"begin; execute {COUNTER}_before;")
        assert words.endswith("; commit")
        assert words.count("execute") == 2

    def test_the_first_statement_is_counted_before_what_stands_behind_it(self) -> None:
        """It may be a COMMIT."""
        (sent,) = Conversation(counts=True).client(Query(query=DELETE + b"; commit"))
        assert isinstance(sent, Query)
        assert sent.query.index(f"{COUNTER}_after".encode()) < sent.query.index(b"commit")

    def test_rows_are_told_when_the_transaction_is_over(self) -> None:
        talk = Conversation(counts=True)
        talk.client(Query(query=b"begin"))
        talk.server(CommandComplete(tag="BEGIN"), IN_TRANSACTION)
        talk.client(Query(query=DELETE))
        talk.server(*BEFORE, DELETED, *AFTER, IN_TRANSACTION)
        assert talk.relay.outcomes == []
        talk.client(Query(query=b"commit"))
        talk.server(CommandComplete(tag="COMMIT"), IDLE)
        assert talk.relay.outcomes == [{"shop.orders": 3}]

    @pytest.mark.parametrize("end", [CommandComplete(tag="ROLLBACK"), other_error()])
    def test_rows_of_a_transaction_that_failed_are_nobodys(self, end: Message) -> None:
        talk = Conversation(counts=True)
        talk.client(Query(query=b"begin"))
        talk.server(CommandComplete(tag="BEGIN"), IN_TRANSACTION)
        talk.client(Query(query=DELETE))
        talk.server(*BEFORE, DELETED, *AFTER, IN_TRANSACTION)
        talk.client(Query(query=b"commit"))
        talk.server(end, IDLE)
        assert talk.relay.outcomes == []

    def test_a_savepoint_that_is_rolled_back_ends_no_transaction(self) -> None:
        talk = Conversation(counts=True)
        talk.client(Query(query=b"begin; " + DELETE))
        talk.server(CommandComplete(tag="BEGIN"), *BEFORE, DELETED, *AFTER, IN_TRANSACTION)
        talk.client(Query(query=b"rollback to s"))
        talk.server(CommandComplete(tag="ROLLBACK"), IN_TRANSACTION)
        talk.client(Query(query=b"commit"))
        talk.server(CommandComplete(tag="COMMIT"), IDLE)
        assert talk.relay.outcomes == [{"shop.orders": 3}]

    def test_the_positions_of_errors_are_the_clients(self) -> None:
        talk = Conversation(counts=True)
        (sent,) = talk.client(Query(query=DELETE))
        assert isinstance(sent, Query)
        place = sent.query.index(b"where") + 1
        error = ErrorResponse(fields=(*other_error().fields, ("P", str(place))))
        (told, _) = talk.server(*BEFORE, error, IDLE)
        assert isinstance(told, ErrorResponse)
        assert told.get("P") == str(DELETE.index(b"where") + 1)

    def test_a_query_that_was_sent_before_is_not_taken_for_ours(self) -> None:
        talk = Conversation(counts=True)
        talk.client(Query(query=b"select 1"), Query(query=DELETE), Query(query=b"select 2"))
        row = (described("id"), DataRow(values=(b"7",)), SELECTED, IDLE)
        assert talk.server(*row, *BEFORE, DELETED, *AFTER, IDLE, *row) == [*row, DELETED, IDLE, *row]

    @pytest.mark.parametrize(
        "wrong",
        [(DELETED, IDLE), (*BEFORE, DELETED, IDLE), (*AFTER,), (BEFORE[0], IDLE), (BEFORE[0], PortalSuspended())],
    )
    def test_a_server_that_leaves_ours_out_ends_the_session(self, wrong: tuple[Message, ...]) -> None:
        talk = Conversation(counts=True)
        talk.client(Query(query=DELETE))
        if wrong == (DELETED, IDLE):
            assert talk.server(*wrong) == [DELETED, IDLE], "the server answers for its statement alone: nothing is kept back"
            return
        with pytest.raises(ProtocolError):
            talk.server(*wrong)


class TestAnExecute:
    CYCLE = (Parse(query=DELETE), Bind(), Describe(target=Target.PORTAL), Execute(), Sync())
    ANSWER = (ParseComplete(), BindComplete(), NoData())

    def test_ours_goes_around_it(self) -> None:
        sent = Conversation(counts=True).client(*self.CYCLE)
        ours = ["Describe", "Bind", "Execute", "Close"]
        assert [type(message).__name__ for message in sent] == ["Parse", "Bind", "Describe", *ours, "Execute", *ours, "Sync"]

    def test_the_client_hears_only_its_own(self) -> None:
        talk = Conversation(counts=True)
        talk.client(*self.CYCLE)
        heard = talk.server(*self.ANSWER, *extended(BEFORE), DELETED, *extended(AFTER), IDLE)
        assert heard == [*self.ANSWER, DELETED, IDLE]
        assert talk.relay.outcomes == [{"shop.orders": 3}]

    def test_over_the_limit(self) -> None:
        talk = Conversation(counts=True)
        talk.client(*self.CYCLE)
        heard = talk.server(*self.ANSWER, *extended(BEFORE), DELETED, TYPES, AFTER[0], BindComplete(), overrun("rows 9 1"), IDLE)
        assert heard[:3] == list(self.ANSWER)
        assert refused(heard[3:], "rule=DS220")

    def test_a_statement_before_it_in_the_pipeline_fails(self) -> None:
        talk = Conversation(counts=True)
        talk.client(Parse(query=b"select 1"), Bind(), Execute(), *self.CYCLE)
        assert talk.server(ParseComplete(), BindComplete(), other_error(), IDLE) == [
            ParseComplete(),
            BindComplete(),
            other_error(),
            IDLE,
        ]
        talk.client(*self.CYCLE)
        assert talk.server(*self.ANSWER, *extended(BEFORE), DELETED, *extended(AFTER), IDLE)[-2:] == [DELETED, IDLE]

    def test_a_description_of_the_clients_own_passes(self) -> None:
        talk = Conversation(counts=True)
        talk.client(Parse(name=b"s", query=DELETE), Describe(target=Target.STATEMENT, name=b"s"), Flush())
        assert talk.server(ParseComplete(), TYPES, NoData()) == [ParseComplete(), TYPES, NoData()]
        talk.client(Bind(statement=b"s"), Execute(), Describe(target=Target.STATEMENT, name=b"s"), Sync())
        own = (TYPES, described("id"))
        heard = talk.server(BindComplete(), *extended(BEFORE), DELETED, *extended(AFTER), *own, IDLE)
        assert heard == [BindComplete(), DELETED, *own, IDLE]

    def test_a_portal_in_parts(self) -> None:
        talk = Conversation(counts=True)
        talk.client(Parse(query=DELETE), Bind(portal=b"p"), Execute(portal=b"p", max_rows=1), Flush())
        rows = (DataRow(values=(b"1",)), PortalSuspended())
        heard = talk.server(ParseComplete(), BindComplete(), *extended(BEFORE), *rows, *extended(AFTER))
        assert heard == [ParseComplete(), BindComplete(), *rows]
        sent = talk.client(Execute(portal=b"p"), Sync())
        assert sum(isinstance(message, Execute) for message in sent) == 3

    def test_a_name_that_is_bound_to_something_else_is_not_counted_any_more(self) -> None:
        talk = Conversation(counts=True)
        talk.client(Parse(query=DELETE), Bind(), Execute(), Parse(query=b"select 1"), Bind())
        assert talk.client(Execute()) == [Execute()]

    def test_notices_come_through_at_any_time(self) -> None:
        talk = Conversation(counts=True)
        talk.client(*self.CYCLE)
        notice = NoticeResponse.of("NOTICE", "00000", "n")
        spread = [part for message in (*extended(BEFORE), DELETED, *extended(AFTER)) for part in (message, notice)]
        heard = talk.server(*self.ANSWER, *spread, IDLE)
        assert [message for message in heard if message != notice] == [*self.ANSWER, DELETED, IDLE]


class TestCopy:
    def test_in_a_query_it_is_wrapped_and_inserts_count(self) -> None:
        talk = Conversation(counts=True)
        (sent,) = talk.client(Query(query=COPY))
        assert isinstance(sent, Query)
        assert sent.query.startswith(f"execute {COUNTER}_copies;".encode())
        asks = CopyInResponse(format=0, column_formats=(0,))
        assert talk.server(*BEFORE, asks) == [asks]
        done = CommandComplete(tag="COPY 3")
        assert talk.client(CopyData(data=b"1\n"), CopyDone()) == [CopyData(data=b"1\n"), CopyDone()]
        assert talk.server(done, *AFTER, IDLE) == [done, IDLE]

    def test_in_the_extended_protocol_ours_follows_the_data(self) -> None:
        """The server would take what comes before its end for an error."""
        talk = Conversation(counts=True)
        sent = talk.client(Parse(query=COPY), Bind(), Execute(), Sync())
        assert [type(message).__name__ for message in sent[-2:]] == ["Execute", "Sync"]
        asks = CopyInResponse(format=0, column_formats=(0,))
        talk.server(ParseComplete(), BindComplete(), *extended(BEFORE), asks)
        sent = talk.client(CopyDone(), Sync())
        assert [type(message).__name__ for message in sent] == ["CopyDone", "Describe", "Bind", "Execute", "Close", "Sync"]
        done = CommandComplete(tag="COPY 3")
        assert talk.server(done, *extended(AFTER), IDLE) == [done, IDLE]

    def test_all_of_it_may_come_at_once_behind_another_cycle(self) -> None:
        """The ReadyForQuery of what came before must not make the session forget that the COPY is counted."""
        talk = Conversation(counts=True)
        talk.client(Query(query=b"select 1"), Parse(query=COPY), Bind(), Execute(), Sync())
        talk.server(SELECTED, IDLE)
        talk.server(CopyInResponse(format=0, column_formats=(0,)))
        assert len(talk.client(CopyData(data=b"1\n"), CopyDone(), Sync())) == 7

    @pytest.mark.parametrize("end", [CopyFail(reason=b"no")])
    def test_data_that_is_given_up_needs_no_count(self, end: Message) -> None:
        talk = Conversation(counts=True)
        talk.client(Parse(query=COPY), Bind(), Execute(), Sync())
        talk.server(ParseComplete(), BindComplete(), *extended(BEFORE), CopyInResponse(format=0, column_formats=(0,)))
        assert talk.client(end, Sync()) == [end, Sync()]


class TestWhatNobodyWasTold:
    """A client that does not wait for its answer must not get its rows for nothing."""

    def test_statements_in_flight_count_as_all_that_they_may_change(self) -> None:
        talk = Conversation(counts=True)
        talk.client(Query(query=DELETE), Query(query=DELETE + b"; " + DELETE))
        assert talk.relay.untold == {UNTOLD: 300}
        talk.server(*BEFORE, DELETED, *AFTER, IDLE)
        assert talk.relay.untold == {UNTOLD: 200}
        talk.server(*BEFORE, DELETED, *AFTER, *BEFORE, DELETED, *AFTER, IDLE)
        assert talk.relay.untold == {}

    def test_a_commit_in_flight_counts_as_done(self) -> None:
        talk = Conversation(counts=True)
        talk.client(Query(query=b"begin; " + DELETE))
        talk.server(CommandComplete(tag="BEGIN"), *BEFORE, DELETED, *AFTER, IN_TRANSACTION)
        assert talk.relay.untold == {}, "an open transaction ends with its session"
        talk.client(Query(query=b"commit"))
        assert talk.relay.untold == {"shop.orders": 3}

    def test_an_error_tells_that_nothing_was_changed(self) -> None:
        talk = Conversation(counts=True)
        talk.client(*TestAnExecute.CYCLE, *TestAnExecute.CYCLE)
        assert talk.relay.untold == {UNTOLD: 200}
        for _ in range(2):
            talk.server(ParseComplete(), other_error(), IDLE)
        assert talk.relay.untold == {}

    def test_they_bound_what_may_be_changed_of_any_table(self) -> None:
        counter = RowCounter(COUNTER, lambda limit, rows, pending: {UNTOLD: 40})
        counter.limits = Limits(max_rows_per_hour=1000)
        assert b"_after('40'" in counter.wrap(DELETE, (Counted(statement=0),), 100, statements=1).text

    def test_when_nothing_is_left_the_refusal_speaks_of_the_hour(self) -> None:
        talk = Conversation(counts=True)
        talk.client(Query(query=DELETE))
        assert refused(talk.server(*BEFORE, DELETED, overrun("rows 1 0"), IDLE), "rule=DS221")


PLAYS: dict[str, tuple[tuple[Message, ...], tuple[Message, ...]]] = {
    "query": ((Query(query=DELETE),), (*BEFORE, DELETED, *AFTER, IDLE)),
    "over": ((Query(query=DELETE),), (*BEFORE, DELETED, overrun("rows 150 100"), IDLE)),
    "extended": (
        TestAnExecute.CYCLE,
        (*TestAnExecute.ANSWER, *extended(BEFORE), DELETED, *extended(AFTER), IDLE),
    ),
    "pipeline": (
        (Query(query=b"select 1"), *TestAnExecute.CYCLE, Query(query=DELETE)),
        (
            *(described("id"), DataRow(values=(b"x" * 100,)), SELECTED, IDLE),
            *(*TestAnExecute.ANSWER, *extended(BEFORE), DELETED, *extended(AFTER), IDLE),
            *(*BEFORE, DELETED, *AFTER, IDLE),
        ),
    ),
}


@given(st.data(), st.sampled_from(sorted(PLAYS)))
def test_where_the_segments_are_cut_makes_no_difference(data: st.DataObject, name: str) -> None:
    says, answers = PLAYS[name]

    def run(cut: Callable[[bytes], list[bytes]]) -> tuple[bytes, bytes, int]:
        talk = Conversation(counts=True)
        to_server = b"".join(map(talk.relay.from_client, cut(b"".join(message.encode() for message in says))))
        to_client = b"".join(map(talk.relay.from_server, cut(b"".join(message.encode() for message in answers))))
        return to_server, to_client, len(talk.relay.outcomes)

    def pieces(whole: bytes) -> list[bytes]:
        cuts = sorted(data.draw(st.sets(st.integers(1, len(whole) - 1), max_size=12)))
        return [whole[start:end] for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True)]

    assert run(pieces) == run(lambda whole: [whole])
