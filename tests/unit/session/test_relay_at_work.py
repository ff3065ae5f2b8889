"""Whether the relay knows that the server is at work: what drain, idle_timeout and cancel requests go by. And what a session
may keep, and what it must not send. Trap numbers are those of docs/explanation/protocol-traps.md."""

from __future__ import annotations

from collections.abc import Sequence, Set

import pytest
from support.conversation import IDLE, MARKER, SELECTED, Conversation, other_error, refused, syntax_error

from dbshield.model import AccessLevel, Judgement, Limit
from dbshield.policy.policy import Policy
from dbshield.session.names import MAX_NAMES, NAME_BYTES
from dbshield.session.relay import Relay
from dbshield.wire.backend import BindComplete, CommandComplete, CopyInResponse, DataRow, ParseComplete
from dbshield.wire.copying import CopyData, CopyDone
from dbshield.wire.frontend import Bind, Close, CopyFail, Execute, Flush, Parse, Query, Sync, Target
from dbshield.wire.message import Message
from dbshield.wire.report import ErrorResponse

COPY = (Parse(query=b"copy shop.settings from stdin"), Bind(), Execute())
COPY_BEGINS = (ParseComplete(), BindComplete(), CopyInResponse(format=0, column_formats=(0, 0)))
DATA = CopyData(data=b"a\tb\n")


class TestCopyIn:
    """Trap 5 and 8: in the extended protocol the server swallows the Sync behind the Execute."""

    @pytest.mark.parametrize("end", [CopyDone(), CopyFail(reason=b"enough")])
    def test_it_is_at_work_until_the_last_sync_is_answered(self, end: Message) -> None:
        talk = Conversation(observes=True)
        talk.client(*COPY, Sync())
        talk.server(*COPY_BEGINS)
        assert (talk.relay.busy, talk.relay.idle) == (True, False)
        talk.client(DATA, end)
        talk.client(Sync())
        assert not talk.relay.idle
        talk.server(CommandComplete(tag="COPY 1"), IDLE)
        assert talk.relay.idle

    def test_data_sent_ahead_of_the_answer(self) -> None:
        talk = Conversation(observes=True)
        talk.client(*COPY, Sync(), DATA, CopyDone(), Sync())
        talk.server(*COPY_BEGINS)
        assert not talk.relay.idle
        talk.server(CommandComplete(tag="COPY 1"), IDLE)
        assert talk.relay.idle

    def test_a_refusal_behind_it_is_exchanged(self) -> None:
        talk = Conversation(counts=True)
        talk.client(*COPY, Sync())
        talk.server(*COPY_BEGINS)
        talk.client(DATA, CopyDone(), Sync(), Parse(query=b"drop table shop.orders"), Sync())
        talk.server(CommandComplete(tag="COPY 1"), IDLE)
        assert refused(talk.server(syntax_error(), IDLE))
        assert talk.relay.idle

    def test_without_a_sync(self) -> None:
        talk = Conversation(observes=True)
        talk.client(*COPY, Flush())
        talk.server(*COPY_BEGINS)
        assert not talk.relay.idle
        talk.client(DATA, CopyDone(), Sync())
        talk.server(CommandComplete(tag="COPY 1"), IDLE)
        assert talk.relay.idle

    def test_the_server_gives_up_midway(self) -> None:
        talk = Conversation(observes=True)
        talk.client(*COPY, Sync())
        talk.server(*COPY_BEGINS, other_error())
        talk.client(DATA, CopyDone(), Sync())
        assert not talk.relay.idle
        talk.server(IDLE)
        assert talk.relay.idle


class TestWithoutASync:
    """Trap 5: clients that only flush."""

    def test_it_is_at_work_until_the_sync_is_answered(self) -> None:
        talk = Conversation()
        talk.client(Parse(query=b"select 1"), Bind(), Execute(), Flush())
        talk.server(ParseComplete(), BindComplete(), SELECTED)
        assert (talk.relay.busy, talk.relay.idle) == (True, False)
        talk.client(Sync())
        talk.server(IDLE)
        assert (talk.relay.busy, talk.relay.idle) == (False, True)

    def test_a_refusal_in_it(self) -> None:
        talk = Conversation()
        talk.client(Parse(query=b"select 1"), Bind(), Execute(), Parse(query=b"drop table shop.orders"), Flush())
        assert refused(talk.server(ParseComplete(), BindComplete(), SELECTED, syntax_error())[3:])
        talk.client(Sync())
        talk.server(IDLE)
        assert talk.relay.idle


class TestNames:
    """The server looks at 63 bytes of a statement's name."""

    LONG = b"n" * NAME_BYTES

    @pytest.mark.parametrize("parsed, bound", [(b"", b"x"), (b"x", b""), (b"x", b"y")])
    def test_what_a_long_name_executes_is_known_to_the_audit(self, parsed: bytes, bound: bytes) -> None:
        talk = Conversation()
        talk.client(Parse(name=self.LONG + parsed, query=b"select 1"), Bind(statement=self.LONG + bound), Execute(), Sync())
        assert [judgement.normal for judgement in talk.relay.judged] == ["select $1"]

    def test_long_names_take_no_more_than_short_ones(self) -> None:
        talk = Conversation()
        for number in range(3):
            talk.client(Parse(name=b"%d" % number + b"x" * 50_000, query=b"select 1"))
        assert max(map(len, talk.relay._statements)) == NAME_BYTES

    def test_closing_by_a_long_name(self) -> None:
        talk = Conversation()
        talk.client(Parse(name=self.LONG, query=b"select 1"), Close(target=Target.STATEMENT, name=self.LONG + b"x"))
        assert talk.relay._statements == {}

    def test_many_names(self) -> None:
        talk = Conversation()
        for number in range(MAX_NAMES + 10):
            talk.client(Parse(name=b"%d" % number, query=b"select 1"))
        assert len(talk.relay._statements) == MAX_NAMES


class Counting:
    """A judge that lets everything pass while few rows change."""

    policy = Policy(access=AccessLevel.WRITE)
    full = False

    def judge(self, text: bytes) -> Judgement:
        return Judgement(verdict=Limit(max_rows=100))

    def judge_length(self, length: int) -> Judgement:
        return self.judge(b"")

    def confirms(self, judgement: Judgement, before: object) -> bool:
        return before is self

    def only_reads(self, judgement: Judgement) -> bool:
        return False

    def note(self, made: Set[str]) -> None:
        assert not made, "nothing is made here"

    def judge_function(self, oid: int, arguments: Sequence[bytes | None], formats: Sequence[int]) -> Judgement:
        return self.judge(b"")


@pytest.mark.parametrize("message", [Query(query=b"delete from t where a = 1"), Parse(query=b"delete from t where a = 1")])
def test_a_verdict_that_needs_counting_is_a_refusal(message: Message) -> None:
    """Trap 11: when the count is known, the rows are gone."""
    relay = Relay(judge=Counting(), marker=MARKER)
    assert b"delete" not in relay.from_client(message.encode())
    told = relay.from_server(syntax_error().encode())
    assert ErrorResponse.decode(told[5:]).sqlstate == "42501"


def test_in_the_middle_of_a_row_nothing_may_be_put_behind() -> None:
    talk = Conversation()
    talk.client(Query(query=b"select 1"))
    row = DataRow(values=(b"x" * 1_000,)).encode()
    talk.relay.from_server(row[:500])
    assert talk.relay.in_answer
    talk.relay.from_server(row[500:])
    assert not talk.relay.in_answer
