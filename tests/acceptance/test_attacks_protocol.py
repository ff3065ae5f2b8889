"""Attacks that no SQL text shows: names that the server did not take, portals, pipelines, and the shield's own statements.

Each one tries to remove more rows in a transaction than an agent may. A segment is sent whole; all of its answers are read before
the next one goes out.
"""

from __future__ import annotations

import contextlib

import psycopg
import pytest
from support.arena import Arena
from support.raw import raw_session

from dbshield.wire.backend import CopyInResponse, DataRow, ErrorResponse, ReadyForQuery
from dbshield.wire.copying import CopyData, CopyDone
from dbshield.wire.frontend import Bind, Close, Execute, Parse, Query, Sync, Target
from dbshield.wire.message import Message

MANY = b"delete from shop.order_items where order_id between 1 and 60 returning 1"
HALF, OTHER_HALF = (b"delete from shop.order_items where order_id between %d and %d" % part for part in ((1, 45), (46, 90)))
COPY = b"copy shop.products from stdin"
ONE = b"delete from shop.order_items where order_id = $1"
SELECT, BROKEN, TAKES, FAILS = (
    b"select 1",
    b"select nonsense",
    b"prepare q as " + MANY,
    b"select 1 / (count(*) * 0) from shop.settings",
)
BY_SQL = (*(Parse(name=b"d", query=b"deallocate q"), Bind(statement=b"d"), Execute()),)
"""The name is taken back by SQL, in the protocol that has names."""
BEGIN, COMMIT = (Query(query=b"begin"),), (Query(query=b"commit"),)
Segment = tuple[Message, ...]


def parse(text: bytes, name: bytes = b"q") -> Parse:
    return Parse(name=name, query=text)


def run(name: bytes = b"q", portal: bytes = b"", rows: int = 0) -> Segment:
    return (Bind(portal=portal, statement=name), Execute(portal=portal, max_rows=rows))


def once(text: bytes, portal: bytes = b"", rows: int = 0) -> Segment:
    return (Parse(query=text), *run(b"", portal, rows))


BINDS = [(Bind(portal=b"p%d" % i, statement=b"q", parameters=(b"%d" % i,)), Execute(portal=b"p%d" % i)) for i in range(1, 61)]
IN_SAVEPOINT = [
    (
        parse(b"savepoint s", b"set"),
        parse(b"rollback to s", b"back"),
        parse(MANY),
        parse(SELECT, b"one"),
        parse(FAILS, b"bad"),
        parse(COPY, b"copy"),
        Sync(),
    ),
]

DOUBT = [(Parse(name=b"n", query=b"begin"), Sync()), (Close(target=Target.STATEMENT, name=b"n"), parse(SELECT, b"n"), Sync())]
"""From here on the session tells the names of this segment from those of earlier ones."""

ATTACKS: dict[str, list[Segment]] = {
    "the name was taken": [(parse(MANY), Sync()), (parse(SELECT), Sync()), (*run(), Sync())],
    "the name was taken, in one segment": [(parse(MANY), Sync(), parse(SELECT), Sync(), *run(), Sync())],
    "the parse was skipped": [(parse(MANY, b""), Sync()), (parse(BROKEN), parse(SELECT, b""), Sync()), (*run(b""), Sync())],
    "the close was skipped": [
        (parse(MANY), Sync()),
        (parse(BROKEN, b"x"), Close(target=Target.STATEMENT, name=b"q"), Sync()),
        (parse(SELECT), Sync()),
        (*run(), Sync()),
    ],
    "names beyond what the server looks at": [
        (parse(MANY, b"n" * 63 + b"a"), Sync()),
        (parse(SELECT, b"n" * 63 + b"b"), Sync()),
        (*run(b"n" * 63 + b"c"), Sync()),
    ],
    "sql takes the name": [(parse(SELECT), Sync()), (Query(query=b"deallocate q; " + TAKES),), (*run(), Sync())],
    "a block takes the name": [
        (parse(SELECT), Sync()),
        (Query(query=b"do $$ begin deallocate q; end $$; " + TAKES),),
        (*run(), Sync()),
    ],
    "sql takes the name behind its parse": [
        *DOUBT,
        (parse(SELECT), *BY_SQL, parse(TAKES, b"t"), *run(b"t"), *run(b"q", b"p"), Sync()),
    ],
    "sql takes the name behind its parse, and it is run in the next segment": [
        *DOUBT,
        (parse(SELECT), *BY_SQL, parse(TAKES, b"t"), *run(b"t"), Sync()),
        (*run(), Sync()),
    ],
    "sql takes the name when all are forgotten": [
        (parse(SELECT), Sync()),
        (Query(query=b"discard all"),),
        (*once(TAKES), Sync()),
        (*run(), Sync()),
    ],
    "the bind was skipped": [
        BEGIN,
        *IN_SAVEPOINT,
        (Bind(portal=b"p", statement=b"q"), Sync()),
        (*run(b"set", b"x"), Sync()),
        (*run(b"bad", b"y"), Bind(portal=b"p", statement=b"one"), Sync()),
        (*run(b"back", b"z"), Sync()),
        (Execute(portal=b"p"), Sync()),
        COMMIT,
    ],
    "the bind of the unnamed portal was skipped": [
        BEGIN,
        *IN_SAVEPOINT,
        (Bind(statement=b"q"), Sync()),
        (*run(b"set", b"x"), Sync()),
        (*run(b"bad", b"y"), Bind(statement=b"one"), Sync()),
        (*run(b"back", b"z"), Sync()),
        (Execute(), Sync()),
        COMMIT,
    ],
    "the bind of a copy was skipped": [
        BEGIN,
        *IN_SAVEPOINT,
        (Bind(portal=b"p", statement=b"q"), Sync()),
        (*run(b"set", b"x"), Sync()),
        (*run(b"bad", b"y"), Bind(portal=b"p", statement=b"copy"), Sync()),
        (*run(b"back", b"z"), Sync()),
        (Execute(portal=b"p"), Sync(), *COMMIT),
    ],
    "a portal in parts": [(*once(MANY, b"p", 10), Sync())],
    "a portal in parts, in a transaction": [
        BEGIN,
        (*once(MANY, b"p", 10), Sync()),
        (Execute(portal=b"p", max_rows=10), Sync()),
        COMMIT,
    ],
    "a commit behind a part": [(*once(b"begin"), *once(MANY, b"", 5), *once(b"commit"), Sync())],
    "a commit in the same pipeline": [(*once(MANY), *once(b"commit"), Sync())],
    "many executions": [(parse(ONE), *(message for pair in BINDS for message in pair), Sync())],
    "many portals, executed later": [
        (parse(ONE), Query(query=b"begin"), *(bind for bind, _ in BINDS), Sync()),
        (*(execute for _, execute in BINDS), *once(b"commit"), Sync()),
    ],
    "halves in one pipeline of queries": [(*BEGIN, Query(query=HALF), Query(query=OTHER_HALF), *COMMIT)],
    "halves by two protocols": [BEGIN, (*once(HALF), Sync()), (Query(query=OTHER_HALF),), COMMIT],
    "a bind by the name that sql gave": [(Query(query=TAKES),), (*run(), Sync())],
    "a commit in the text": [(Query(query=MANY + b"; commit; select 1/0"),)],
}


def play(arena: Arena, segments: list[Segment]) -> None:
    """Send the segments, each after all answers of the one before; the end of the session ends the attack."""
    with raw_session(arena.shield) as client:
        for segment in segments:
            client.send(*segment)
            for _ in range(sum(isinstance(message, (Sync, Query)) for message in segment)):
                heard = client.until_ready()
                if not heard or not isinstance(heard[-1], ReadyForQuery):
                    return


@pytest.mark.parametrize("name", ATTACKS)
def test_no_transaction_removes_more_rows_than_it_may(arena: Arena, name: str) -> None:
    assert arena.losses_of(lambda: play(arena, ATTACKS[name])) == []


@pytest.mark.parametrize(
    "text", ["deallocate {0}", "prepare {0} (int8, int8, json, text[]) as select '{{}}'", "execute {0}(1, 1, '{{}}', '{{}}')"]
)
def test_the_statements_that_count_are_found_and_not_touched(arena: Arena, text: str) -> None:
    with arena.shield.connect() as conn:
        row = conn.execute("select name from pg_prepared_statements where name like '%after'").fetchone()
        assert row is not None
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="DS404"):
            conn.execute(text.format(row[0]).encode())


def test_nor_by_messages(arena: Arena) -> None:
    def attack() -> None:
        with raw_session(arena.shield) as client:
            client.send(Query(query=b"select name from pg_prepared_statements where name like '%after'"))
            (name,) = (message.values[0] for message in client.until_ready() if isinstance(message, DataRow))
            assert name is not None
            own = (
                Close(target=Target.STATEMENT, name=name),
                parse(b"select '{}', $1::int8, $2::int8, $3::json, $4::text[]", name),
            )
            for message in own:
                client.send(message, Sync())
                refusal, *_ = client.until_ready()
                assert isinstance(refusal, ErrorResponse)
                assert "DS404" in refusal.detail
            client.send(*once(MANY), Sync())
            client.until_ready()

    assert arena.losses_of(attack) == []


def test_a_copy_does_not_hide_that_the_server_is_at_work(arena: Arena) -> None:
    """The session took an answer for that of the Query behind, and let the count of an open transaction be taken back."""
    slow = b"begin; " + HALF + b"; select pg_sleep(2)"

    def attack() -> None:
        with raw_session(arena.shield) as client, contextlib.suppress(OSError):
            client.send(*once(SELECT), Sync(), *once(COPY), CopyDone(), Sync(), Query(query=slow))
            client.until_ready()
            client.until_ready()
            client.send(Query(query=b"reset all"))
            client.until_ready()
            client.until_ready()
            for text in (OTHER_HALF, b"commit"):
                client.send(Query(query=text))
                client.until_ready()

    assert arena.losses_of(attack) == []


@pytest.mark.one_server
def test_behind_a_copy_of_bad_data_the_session_goes_on(arena: Arena) -> None:
    with raw_session(arena.shield) as client:
        client.send(*once(COPY), Sync())
        while not isinstance(message := client.receive(), CopyInResponse):
            assert message is not None, "the session ended"
        client.send(CopyData(data=b"no number\n"), Sync(), CopyData(data=b"1\n"), CopyDone(), Sync())
        assert [type(message) for message in client.until_ready()] == [ErrorResponse, ReadyForQuery]
        client.send(*once(SELECT), Sync())
        assert DataRow(values=(b"1",)) in client.until_ready()
