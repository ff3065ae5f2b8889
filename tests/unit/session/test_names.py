"""A name is believed only where nothing that the server may have skipped could make it stand for a write."""

from __future__ import annotations

import pytest
from support.conversation import IDLE, Conversation, other_error

from dbshield.errors import Refused
from dbshield.model import AccessLevel
from dbshield.policy.functions import FunctionCatalogue
from dbshield.policy.judge import Judge
from dbshield.policy.policy import Policy
from dbshield.session.names import MAX_NAMES, TEXT_BYTES, TEXTS_BYTES, StatementNames
from dbshield.wire.backend import ParseComplete
from dbshield.wire.frontend import Bind, Close, Execute, Parse, Query, Sync, Target

JUDGE = Judge(policy=Policy(access=AccessLevel.WRITE), functions=FunctionCatalogue.builtin())
SELECT, DELETE = JUDGE.judge(b"select 1"), JUDGE.judge(b"delete from t where id = 1")
Q = b"q"


def names(*judgements: object) -> StatementNames:
    """Each judgement parsed as q in a cycle of its own."""
    found = StatementNames()
    for judgement in judgements:
        assert judgement in (SELECT, DELETE)
        found.parsed(Q, SELECT if judgement is SELECT else DELETE, b"")
        found.settle()
    return found


def test_a_name_that_only_reads_is_believed() -> None:
    assert names(SELECT, SELECT).believed(Q) is SELECT


def test_a_name_that_is_never_given_anew_is_believed() -> None:
    assert names(DELETE, DELETE).believed(Q) is DELETE


def test_a_name_that_stood_for_a_write_is_not() -> None:
    """The second Parse may have failed: the name was taken."""
    assert names(DELETE, SELECT).believed(Q) is None


def test_within_its_cycle_it_is_believed() -> None:
    found = names(DELETE)
    found.parsed(Q, SELECT, b"")
    assert found.believed(Q) is SELECT


def test_a_close_may_have_been_skipped() -> None:
    found = names(DELETE)
    found.closed(Q)
    found.parsed(Q, SELECT, b"")
    found.settle()
    assert found.believed(Q) is None


def test_a_name_is_cut_as_the_server_cuts_it() -> None:
    found = StatementNames()
    found.parsed(b"n" * 63, SELECT, b"")
    found.settle()
    assert found.believed(b"n" * 64) is SELECT
    found.prepared(["é" * 40])
    assert found.doubtful == {("é" * 31).encode()}


def test_what_sql_prepares_is_doubtful() -> None:
    found = names(SELECT)
    found.prepared(["q"])
    assert found.believed(Q) is None


def test_what_is_remembered_is_bounded() -> None:
    found = StatementNames()
    for number in range(MAX_NAMES + 5):
        found.parsed(b"%d" % number, SELECT, b"")
    assert len(found) == MAX_NAMES
    with pytest.raises(Refused):
        found.prepared(map(str, range(MAX_NAMES + 1)))


@pytest.mark.parametrize(
    "text",
    [
        b"deallocate q; prepare q as delete from t where id = 1",
        b"do $$ begin deallocate q; prepare q as delete from t where id = 1; end $$",
    ],
)
def test_sql_takes_a_name_that_a_parse_had(text: bytes) -> None:
    talk = Conversation()
    talk.client(Parse(name=Q, query=b"select 1"), Sync())
    talk.client(Query(query=text), Bind(statement=Q), Execute(), Sync())
    assert talk.relay.judged[-1].normal == "execute prepared_by_name"


def test_a_skipped_parse_and_a_skipped_close() -> None:
    talk = Conversation()
    talk.client(Parse(name=Q, query=b"insert into t values (1)"), Sync())
    talk.client(Parse(name=b"x", query=b"select nonsense"), Close(target=Target.STATEMENT, name=Q), Sync())
    talk.client(Parse(name=Q, query=b"select 1"), Sync(), Bind(statement=Q), Execute(), Sync())
    assert talk.relay.judged[-1].normal == "execute prepared_by_name"


def parsed(talk: Conversation, text: bytes) -> None:
    """One cycle as lib/pq and pg8000 begin a statement: they wait for the server before they bind."""
    talk.client(Parse(query=text), Sync())
    talk.server(ParseComplete(), IDLE)


def bound(talk: Conversation) -> str:
    """How the next Bind of the unnamed statement is judged."""
    talk.client(Bind(), Execute(), Sync())
    return talk.relay.judged[-1].normal


def test_what_the_server_has_taken_is_believed() -> None:
    talk = Conversation(counts=True)
    for text in (b"begin", b"delete from t where id = 1", b"commit"):
        parsed(talk, text)
    assert bound(talk) == "commit"


def test_what_the_server_has_not_taken_is_not() -> None:
    talk = Conversation(counts=True)
    parsed(talk, b"delete from t where id = 1")
    talk.client(Parse(query=b"select missing"), Parse(query=b"commit"), Sync())
    talk.server(other_error(), IDLE)
    assert bound(talk) == "execute prepared_by_name"


@pytest.mark.parametrize("more", [(Parse(query=b"delete from t where id = 2"), Sync()), (Parse(query=b"commit"), Sync())])
def test_nor_is_what_another_parse_may_have_replaced(more: tuple[Parse | Sync, ...]) -> None:
    talk = Conversation(counts=True)
    parsed(talk, b"delete from t where id = 1")
    talk.client(Parse(query=b"begin"), Sync(), *more)
    talk.server(ParseComplete(), IDLE)
    assert bound(talk) == "execute prepared_by_name"


def test_nor_what_sql_has_taken_behind_the_parse() -> None:
    talk = Conversation(counts=True)
    parsed(talk, b"begin")
    parsed(talk, b"commit")
    taken = b"prepare q as delete from t where id = 1"
    talk.client(Parse(name=Q, query=b"select 1"), Parse(name=b"t", query=taken), Bind(statement=b"t"), Bind(statement=Q))
    assert talk.relay.judged[-1].normal == "execute prepared_by_name"
    talk.client(Sync())
    talk.server(IDLE)
    talk.client(Bind(statement=Q))
    assert talk.relay.judged[-1].normal == "execute prepared_by_name"


def test_regression_a_session_keeps_only_so_many_texts() -> None:
    """Each change of a policy has them judged again: 10,000 long ones kept everybody waiting for two minutes."""
    found = StatementNames()
    text = b"select 1" + b" " * (TEXT_BYTES - 8)
    names = [b"n%d" % number for number in range(MAX_NAMES)]
    for name in names:
        found.parsed(name, SELECT, text)
    assert sum(map(len, found.texts.values())) == TEXTS_BYTES
    assert found.texts[names[0]]
    assert not found.texts[names[-1]]
    for name in names:
        found.closed(name)
    for _ in range(2):  # there is room again, and a name that is given anew takes none twice
        for name in names[: TEXTS_BYTES // TEXT_BYTES]:
            found.parsed(name, SELECT, text)
            assert found.texts[name]
