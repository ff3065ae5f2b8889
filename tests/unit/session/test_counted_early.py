"""A Parse and a Bind that are counted themselves, and sessions that come to count when they did not expect to."""

from __future__ import annotations

import pytest
from support.conversation import COUNTER, FAILED, IDLE, IN_TRANSACTION, MARKER, PREPARED, SELECTED, Conversation, other_error

from dbshield.errors import ProtocolError
from dbshield.model import AccessLevel
from dbshield.policy.functions import FunctionCatalogue
from dbshield.policy.judge import Judge
from dbshield.policy.policy import Policy
from dbshield.policy.reaching import Reach
from dbshield.session.counting import RowCounter
from dbshield.session.relay import Relay
from dbshield.wire.backend import (
    BindComplete,
    CloseComplete,
    CommandComplete,
    ErrorResponse,
    ParameterDescription,
    ParseComplete,
    ReadyForQuery,
)
from dbshield.wire.frontend import Bind, Close, Describe, Execute, Flush, FrontendMessage, Parse, Query, Sync
from dbshield.wire.message import Message
from dbshield.wire.result import Column, DataRow, RowDescription

SEEN = b"select * from seen"
REACHES = FunctionCatalogue((), reach=Reach(functions=frozenset({"wipe"}), relations=frozenset({"seen"})))
CALM = FunctionCatalogue(())
OURS = (Describe, Bind, Execute, Close)
ROW = DataRow(values=(b"1",))


def judge(functions: FunctionCatalogue = REACHES, access: AccessLevel = AccessLevel.READ) -> Judge:
    return Judge(policy=Policy(access=access, max_rows=7), functions=functions, max_statement_bytes=1 << 16)


def counting(access: AccessLevel = AccessLevel.READ) -> Conversation:
    """A session that counts, in a database where reading `seen` may change rows."""
    talk = Conversation(access, counts=True)
    talk.relay.use(judge(access=access))
    return talk


def not_counting() -> Conversation:
    """One of a reader that began when nothing in the database wrote."""
    talk = Conversation(AccessLevel.READ)
    talk.relay = Relay(judge=judge(CALM), marker=MARKER, spare=lambda: RowCounter(COUNTER), max_statement=1 << 16)
    assert talk.relay.opening() == b""
    return talk


def types(heard: list[FrontendMessage]) -> list[type]:
    return [type(message) for message in heard]


def own(query: str, value: bytes = b"{}") -> tuple[Message, ...]:
    """What the server answers to one of ours."""
    column = Column(name=f"{COUNTER}_{query}".encode(), table=0, attribute=0, type=25, type_size=-1, type_modifier=-1, format=0)
    described = (ParameterDescription(types=()), RowDescription(columns=(column,)))
    return (*described, BindComplete(), DataRow(values=(value,)), SELECTED, CloseComplete())


def around(*messages: Message) -> tuple[Message, ...]:
    return (*own("early"), *messages, *own("after"))


def overrun() -> ErrorResponse:
    return ErrorResponse.of("ERROR", "22P02", f'invalid input syntax for type integer: "{COUNTER}: rows 12000 7"')


def test_around_each_step() -> None:
    talk = counting()
    heard = talk.client(Parse(query=SEEN), Bind(), Execute(), Sync())
    assert types(heard) == [*OURS, Parse, *OURS, *OURS, Bind, *OURS, *OURS, Execute, *OURS, Sync]
    assert [message.name for message in heard if isinstance(message, Describe)] == [
        f"{COUNTER}_{word}".encode() for word in ("early", "after", "early", "after", "before", "after")
    ]
    said = (*around(ParseComplete()), *around(BindComplete()), *own("before"), ROW, SELECTED, *own("after"), IDLE)
    assert talk.server(*said) == [ParseComplete(), BindComplete(), ROW, SELECTED, IDLE]
    assert talk.relay.outcomes == []
    assert talk.client(Query(query=b"select 1")) == [Query(query=b"select 1")]


def test_byte_by_byte() -> None:
    talk = counting()
    talk.client(Parse(query=SEEN), Bind(), Execute(), Sync())
    said = (*around(ParseComplete()), *around(BindComplete()), *own("before"), ROW, SELECTED, *own("after"), IDLE)
    data = b"".join(message.encode() for message in said)
    heard = b"".join(talk.relay.from_server(data[place : place + 1]) for place in range(len(data)))
    assert heard == b"".join(message.encode() for message in (ParseComplete(), BindComplete(), ROW, SELECTED, IDLE))


@pytest.mark.parametrize("before", [(), (ParseComplete(),)], ids=["of the Parse", "of the Bind"])
def test_over_the_limit_it_is_refused_there(before: tuple[Message, ...]) -> None:
    talk = counting()
    talk.client(Parse(query=SEEN), Bind(), Execute(), Sync())
    said = (*around(ParseComplete()), *own("early"), BindComplete()) if before else (*own("early"), ParseComplete())
    heard = talk.server(*said, overrun(), IDLE)
    *passed, refused, ready = heard
    assert ready == IDLE
    assert isinstance(refused, ErrorResponse)
    assert refused.detail.startswith("rule=DS220")
    assert passed == ([ParseComplete(), BindComplete()] if before else [ParseComplete()])
    assert talk.client(Query(query=b"select 1")) == [Query(query=b"select 1")]


def test_an_error_of_the_servers_own_passes() -> None:
    talk = counting()
    talk.client(Parse(query=SEEN), Bind(), Execute(), Sync())
    assert talk.server(*own("early"), other_error(), IDLE) == [other_error(), IDLE]


def test_rows_are_told_when_the_transaction_is_over() -> None:
    talk = counting()
    talk.client(Parse(query=SEEN), Bind(), Sync())
    assert talk.relay.untold
    talk.server(*own("early"), ParseComplete(), *own("after", b'{"shop.t": 2}'), *around(BindComplete())[:-6])
    talk.server(*own("after", b'{"shop.t": 3}'), IDLE)
    assert talk.relay.outcomes == [{"shop.t": 3}]


def test_a_prepare_of_its_own_without_a_sync() -> None:
    """A driver prepares with Flush; what was asked before is answered meanwhile."""
    talk = counting()
    talk.client(Query(query=b"select 1"), Parse(name=b"s", query=SEEN), Flush())
    assert talk.relay.busy
    assert talk.server(SELECTED, IDLE) == [SELECTED, IDLE]
    assert talk.server(*around(ParseComplete())) == [ParseComplete()]
    assert types(talk.client(Bind(statement=b"s"), Execute(), Sync()))[4] is Bind
    said = (*around(BindComplete()), *own("before"), SELECTED, *own("after"), IDLE)
    assert talk.server(*said) == [BindComplete(), SELECTED, IDLE]


def test_a_bind_is_read_whole() -> None:
    """Our query behind it cannot go out before its end."""
    talk = counting()
    talk.client(Parse(name=b"s", query=SEEN), Sync())
    talk.server(*around(ParseComplete()), IDLE)
    bind = Bind(statement=b"s", parameters=(b"x" * 40_000,))
    data = bind.encode()
    assert talk.client(data[:20_000]) == []
    assert types(talk.client(data[20_000:])) == [*OURS, Bind, *OURS]
    long = Bind(statement=b"s", parameters=(b"x" * 70_000,)).encode()
    heard = talk.client(long[:20_000])
    assert types(heard) == [Parse], "refused"
    assert talk.client(long[20_000:], Execute()) == []
    plain = counting()
    plain.client(Parse(name=b"r", query=b"select $1"), Sync())
    plain.server(ParseComplete(), IDLE)
    streamed = Bind(statement=b"r", parameters=(b"x" * 70_000,)).encode()
    assert plain.relay.from_client(streamed[:20_000]) == streamed[:20_000], "others stream through"


@pytest.mark.parametrize("query", ["before", "early"])
def test_a_server_that_answers_out_of_order_ends_it(query: str) -> None:
    talk = counting()
    talk.client(Parse(query=SEEN), Bind(), Execute(), Sync())
    with pytest.raises(ProtocolError, match="out of order"):
        talk.server(*own("early"), ParseComplete(), *own(query))


OPENING = (*[PREPARED] * 5, IDLE)


class TestBeginning:
    """The database comes to have what writes while a reader's session stands."""

    def test_a_text(self) -> None:
        talk = not_counting()
        assert talk.client(Query(query=SEEN)) == [Query(query=SEEN)]
        talk.server(SELECTED, IDLE)
        talk.relay.use(judge())
        opening, wrapped = talk.client(Query(query=SEEN))
        assert isinstance(opening, Query)
        assert opening.query.startswith(b"prepare ")
        assert isinstance(wrapped, Query)
        assert COUNTER.encode() in wrapped.query
        assert talk.server(*OPENING) == []
        simple = [message for message in own("before")[1:5] if not isinstance(message, BindComplete)]
        after = [message for message in own("after")[1:5] if not isinstance(message, BindComplete)]
        assert talk.server(*simple, ROW, SELECTED, *after, IDLE) == [ROW, SELECTED, IDLE]
        (again,) = talk.client(Query(query=SEEN))
        assert isinstance(again, Query), "it began once"

    def test_what_was_prepared(self) -> None:
        talk = not_counting()
        talk.client(Parse(name=b"s", query=SEEN), Parse(name=b"long", query=SEEN + b" " * 5_000), Sync())
        talk.server(ParseComplete(), ParseComplete(), IDLE)
        talk.relay.use(judge())
        heard = talk.client(Bind(statement=b"s"), Execute(), Sync())
        assert types(heard) == [Query, *OURS, Bind, *OURS, *OURS, Execute, *OURS, Sync]
        assert talk.server(*OPENING, *around(BindComplete())) == [BindComplete()]
        talk.server(*own("before"), SELECTED, *own("after"), IDLE)
        assert types(talk.client(Bind(statement=b"long"), Execute(), Sync())) == [Parse, Sync], "its text was not kept"

    def test_a_new_statement(self) -> None:
        talk = not_counting()
        talk.relay.use(judge())
        heard = talk.client(Parse(query=SEEN), Bind(), Execute(), Sync())
        assert types(heard)[:6] == [Query, *OURS, Parse]
        assert talk.server(*OPENING, *around(ParseComplete()), *around(BindComplete())) == [ParseComplete(), BindComplete()]

    def test_in_a_transaction(self) -> None:
        talk = not_counting()
        talk.client(Query(query=b"begin"))
        talk.server(CommandComplete(tag="BEGIN"), IN_TRANSACTION)
        talk.relay.use(judge())
        assert len(talk.client(Query(query=SEEN))) == 2

    @pytest.mark.parametrize("ready", [FAILED, None], ids=["in a failed transaction", "in a pipeline"])
    def test_not_where_it_would_be_in_the_way(self, ready: ReadyForQuery | None) -> None:
        talk = not_counting()
        talk.client(Query(query=b"begin"))
        if ready is not None:
            talk.server(CommandComplete(tag="BEGIN"), ready)
        talk.relay.use(judge())
        (stands_for_it,) = talk.client(Query(query=SEEN))
        assert isinstance(stands_for_it, Query)
        assert stands_for_it.query.startswith(MARKER.encode()), "refused"
        assert talk.relay.counting is None
