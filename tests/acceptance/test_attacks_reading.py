"""Attacks by reading: views, row policies and functions that look as if they only read, and delete.

People made them, for reasons of their own. Each attack is one honest-looking query that takes more rows with it than an agent may
change in a transaction; the guard is not installed, so the proxy holds alone. What is as honest as it looks has to pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from psycopg import errors
from support import servers
from support.raw import raw_session
from support.servers import Server
from support.shield import Shield, prepared_shield, started

from dbshield.wire.backend import CommandComplete, DataRow, ErrorResponse, ReadyForQuery
from dbshield.wire.frontend import Bind, Describe, Execute, Parse, Query, Sync, Target
from dbshield.wire.message import Message

pytestmark = pytest.mark.one_server(by="module")

WIPES = "language plpgsql security definer as $$ begin delete from shop.order_items; return {0}; end $$"
TRAPS = (
    "create function shop.wipe() returns text " + WIPES.format("'x'"),
    "create function shop.wipe_sum(integer, integer) returns integer " + WIPES.format("1"),
    "create table shop.plain (id integer, note text)",
    "insert into shop.plain values (1, 'a'), (2, 'b')",
    # VOLATILE, in what is read.
    "create view shop.seen as select id, shop.wipe() as note from shop.plain",
    "create view shop.seen_again as select * from shop.seen where id = 1",
    "create materialized view shop.kept as select * from shop.seen with no data",
    "create table shop.with_policy (id integer)",
    "create policy wiping on shop.with_policy using (shop.wipe() is not null)",
    "alter table shop.with_policy enable row level security",
    "insert into shop.with_policy values (1)",
    "create table shop.with_far_policy (id integer)",
    "create policy wiping on shop.with_far_policy using (exists (select from shop.seen))",
    "alter table shop.with_far_policy enable row level security",
    "insert into shop.with_far_policy values (1)",
    # Said to be STABLE or IMMUTABLE, and calling what is not.
    "create function shop.settled() returns text language plpgsql stable as $$ begin return shop.wipe(); end $$",
    "create function shop.in_sql() returns text language sql immutable as 'select Shop . WIPE()'",
    "create function shop.further(integer) returns text language sql stable return shop.settled() || $1",
    "create function shop.by_view() returns bigint language sql stable as 'select count(*) from shop.seen'",
    "create function shop.runs(text) returns text language plpgsql stable as"
    " $$ declare found text; begin execute 'select ' || $1 into found; return found; end $$",
    r"""create function shop.escaped() returns text language sql stable as $$ select shop.U&"\0077ipe"() $$""",
    "create view shop.settled_seen as select id, shop.settled() as note from shop.plain",
    "create view shop.filtered as select id from shop.plain where note = shop.in_sql()",
    "create aggregate shop.total(integer) (sfunc = shop.wipe_sum, stype = integer, initcond = '0')",
    "create function shop.differs(integer, integer) returns boolean language sql stable as"
    " 'select shop.wipe() is distinct from $1::text || $2::text'",
    "create operator public.<%> (leftarg = integer, rightarg = integer, function = shop.differs)",
    "create type shop.mark as (n integer)",
    "create function shop.to_text(shop.mark) returns text language sql stable as 'select shop.wipe()'",
    "create cast (shop.mark as text) with function shop.to_text(shop.mark) as assignment",
    "create function shop.is_fine(text) returns boolean language sql immutable as 'select shop.wipe() is not null'",
    "create domain shop.word as text check (shop.is_fine(value))",
    # Behind an INSERT, and before it is executed.
    "create table shop.checked (id integer check (id <%> 5))",
    "create table shop.by_default (id integer, note boolean default (1 <%> 2), code text default shop.in_sql())",
    "create table shop.with_words (id integer, words shop.word[])",
    # Honest ones, with the words and volatilities that people give them.
    "create function shop.stamp() returns text language sql as 'select clock_timestamp()::text || random()'",
    "create function shop.spelled(n integer) returns text language sql stable as $$ select 'delete ' || n $$",
    "create view shop.honest as select id, shop.stamp() as stamp, shop.spelled(id) as word from shop.plain",
    "create table shop.with_honest_policy (id integer)",
    "create policy own on shop.with_honest_policy using (shop.spelled(id) <> current_user)",
    "alter table shop.with_honest_policy enable row level security",
    "insert into shop.with_honest_policy select g from generate_series(1, 500) g",
    "create function shop.keep() returns text language plpgsql security definer as"
    " $$ begin update shop.plain set note = 'seen' where id = 1; return 'x'; end $$",
    "create view shop.few as select id, shop.keep() as note from shop.plain",
    "grant all on all tables in schema shop to agent_read, agent_write, agent_migrate",
    "grant create on schema shop to agent_migrate",
    "grant temporary on database {database} to agent_read, agent_write, agent_migrate",
    "alter default privileges for role agent_migrate in schema shop grant all on tables to agent_read, agent_write",
)
LINES = 12_000


@pytest.fixture(scope="module")
def trapped(server: Server, worker_id: str) -> Iterator[Shield]:
    name = f"reading_{worker_id}"
    with prepared_shield(server, name, servers.here() / f"shield-{name}") as shield:
        with server.connect(name) as admin:
            for text in TRAPS:
                admin.execute(text.replace("{database}", name).encode())
        with started(shield):
            yield shield


@pytest.fixture
def lines(trapped: Shield) -> Iterator[None]:
    """In the end nothing is missing."""
    yield
    with trapped.server.connect(trapped.database) as admin:
        row = admin.execute("select count(*) from shop.order_items").fetchone()
    assert row == (LINES,)


@pytest.fixture
def connect(trapped: Shield, lines: None) -> Iterator[Callable[[str], psycopg.Connection[Any]]]:
    """Connections of agents of an access level."""
    made: list[psycopg.Connection[Any]] = []

    def to(access: str) -> psycopg.Connection[Any]:
        made.append(trapped.connect(access))
        return made[-1]

    yield to
    for connection in made:
        connection.close()


@pytest.fixture
def agent(connect: Callable[[str], psycopg.Connection[Any]]) -> psycopg.Connection[Any]:
    return connect("write")


def stopped(agent: psycopg.Connection[Any], text: str, *values: object, prepare: bool | None = None) -> bool:
    """Whether the rows were counted, and were too many."""
    try:
        if text.startswith("copy"):
            with agent.cursor() as cursor, cursor.copy(text.encode()) as copy:
                assert any([*copy])
        else:
            agent.execute(text.encode(), values or None, prepare=prepare)
    except errors.InsufficientPrivilege as refused:
        return "rule=DS220" in str(refused.diag.message_detail)
    return False


IMMUTABLE = b"select id from shop.plain where note = shop.in_sql()"
READS = (
    "select * from shop.seen",
    "select count(note) from shop.seen_again where id < 5",
    "table shop.with_policy",
    "select 1 from shop.plain where exists (select from shop.with_far_policy)",
    "with a as (select * from shop.seen) select note from a",
    "copy shop.with_policy to stdout",
    "copy (select * from shop.seen) to stdout",
    "explain analyze select * from shop.seen",
    "create temp table taken as select * from shop.seen",
    "insert into shop.plain select id, note from shop.seen",
    "select shop.settled()",
    "select shop.in_sql()",
    "select id from shop.plain where note = shop.in_sql()",
    "explain select shop.in_sql()",
    "select shop.further(1)",
    "select * from shop.by_view()",
    "select shop.runs('shop.wipe()')",
    "select shop.escaped()",
    "select note from shop.settled_seen",
    "select * from shop.filtered",
    "select shop.total(id) from shop.plain",
    "select id <%> 2 from shop.plain",
    "select row(1)::shop.mark::text",
    "select 'a'::shop.word",
    "select '{a}'::shop.word[]",
    "select case when id = 1 then shop.settled() end from shop.plain",
    "update shop.plain set note = shop.settled() where id = 1",
    "do $$ declare found text; begin select note into found from shop.seen; end $$",
    "insert into shop.checked values (1)",
    "insert into shop.by_default (id) values (1)",
    "insert into shop.with_words values (1, '{a}')",
    "update shop.with_words set words = '{a}' where id = 1",
    "select id from shop.with_words where words = '{a}'",
)


@pytest.mark.parametrize("text", READS)
def test_reading_that_deletes_is_counted(agent: psycopg.Connection[Any], text: str) -> None:
    assert stopped(agent, text), "sent as a text"
    if not text.startswith("copy"):
        assert stopped(agent, f"begin; {text}; commit")
        agent.execute("rollback")
        assert stopped(agent, text, prepare=True), "bound and executed"


@pytest.mark.parametrize("text", ["select * from shop.seen", "table shop.with_policy", "select shop.settled()"])
def test_a_reader_is_counted_too(connect: Callable[[str], psycopg.Connection[Any]], text: str) -> None:
    reader = connect("read")
    assert stopped(reader, text)
    assert stopped(reader, text, prepare=True)
    reader.execute(f"prepare again as {text}".encode())
    assert stopped(reader, "execute again")
    with pytest.raises(errors.InsufficientPrivilege, match="rows"), reader.transaction():
        reader.execute(f"declare rows cursor for {text}".encode())
        reader.execute("fetch all from rows")


SEGMENTS: dict[str, tuple[Message, ...]] = {
    "bound only": (Parse(query=IMMUTABLE), Bind()),
    "bound and described": (Parse(query=IMMUTABLE), Bind(), Describe(target=Target.PORTAL)),
    "with a value": (Parse(query=b"select id from shop.plain where note = shop.in_sql() || $1"), Bind(parameters=(b"a",))),
    "with a value that is long": (Parse(query=b"select shop.in_sql() || $1"), Bind(parameters=(b"a" * 300_000,)), Execute()),
    "executed in parts": (Parse(query=IMMUTABLE), Bind(portal=b"p"), Execute(portal=b"p", max_rows=1), Execute(portal=b"p")),
    "twice": (Parse(query=IMMUTABLE), Bind(), Execute(), Bind(), Execute()),
    "by a name that SQL gave": (Bind(statement=b"in_sql"),),
}


@pytest.mark.parametrize("way", SEGMENTS)
@pytest.mark.parametrize("access", ["read", "write"])
def test_what_runs_while_it_is_planned(trapped: Shield, lines: None, way: str, access: str) -> None:
    """The server plans when it takes a Bind, and calls there what is said to be IMMUTABLE; no Execute need follow."""
    with raw_session(trapped, access) as client:
        client.send(Query(query=b"prepare in_sql as " + IMMUTABLE))
        client.until_ready()
        client.send(*SEGMENTS[way], Sync())
        heard = client.until_ready()
        assert next(message.detail for message in heard if isinstance(message, ErrorResponse)).startswith("rule=DS220")
        client.send(Query(query=b"select 1"))
        assert [type(message) for message in client.until_ready()][1:] == [DataRow, CommandComplete, ReadyForQuery]


def test_what_nobody_could_count(agent: psycopg.Connection[Any]) -> None:
    """A cursor WITH HOLD runs when the transaction commits; what SQL prepares is read at once."""
    assert stopped(agent, "prepare words as select '{a}'::shop.word[]")
    for query in ("select * from shop.seen", "select shop.settled()"):
        for text in (f"declare kept cursor with hold for {query}", f"begin; declare kept cursor with hold for {query}; commit"):
            with pytest.raises(errors.InsufficientPrivilege, match="DS226"):
                agent.execute(text.encode())
            agent.execute("rollback")
    with agent.cursor("kept", withhold=True) as cursor:
        cursor.execute("select * from shop.plain")
        assert len(cursor.fetchall()) == 2


def test_one_pipeline(agent: psycopg.Connection[Any]) -> None:
    with pytest.raises(errors.InsufficientPrivilege, match="rows"), agent.pipeline():
        agent.execute("select 1")
        agent.execute("select id from shop.plain where note = shop.in_sql()")
        agent.execute("select 2")
    assert agent.execute("select 3").fetchone() == (3,)


def test_a_migration_makes_a_way(connect: Callable[[str], psycopg.Connection[Any]]) -> None:
    """What was judged, and prepared, while a name meant something honest."""
    migrating, reader, writer = (connect(access) for access in ("migrate", "read", "write"))
    migrating.execute("create view shop.turned as select id, note from shop.plain")
    for session in (reader, writer, migrating):
        session.execute("select count(note) from shop.turned", prepare=True)
        assert session.execute("select count(note) from shop.turned").fetchone() == (2,)
    migrating.execute("create or replace view shop.turned as select id, note from shop.seen")
    for session in (reader, writer, migrating):
        assert stopped(session, "select count(note) from shop.turned", prepare=True)
        assert stopped(session, "select count(note) from shop.turned")
    with pytest.raises(errors.InsufficientPrivilege, match="rows"), migrating.transaction():
        migrating.execute("create view shop.at_once as select * from shop.settled_seen")
        migrating.execute("select * from shop.at_once")
    with pytest.raises(errors.InsufficientPrivilege, match="rows"), migrating.transaction():
        migrating.execute("create function shop.mine() returns text language sql stable as 'select shop.settled()'")
        migrating.execute("select shop.mine()")
    with pytest.raises(errors.InsufficientPrivilege, match="in a domain"):
        migrating.execute("create domain shop.mine as text check (shop.is_fine(value))")


def test_what_is_honest_passes(connect: Callable[[str], psycopg.Connection[Any]]) -> None:
    for access in ("read", "write"):
        agent = connect(access)
        for prepare in (False, True):
            assert len(agent.execute("select * from shop.honest", prepare=prepare).fetchall()) == 2
            assert agent.execute("select count(*) from shop.with_honest_policy", prepare=prepare).fetchone() == (500,)
            assert len(agent.execute("select * from shop.few", prepare=prepare).fetchall()) == 2, "few rows are few rows"
        with agent.transaction(), agent.cursor("named") as cursor:
            cursor.execute("select * from shop.orders")
            assert len(cursor.fetchall()) > 100
        # Bytes of an answer that is counted are the server's own.
        with agent.cursor(binary=True) as binary:
            assert binary.execute("select id, note from shop.few order by id").fetchall() == [(1, "x"), (2, "x")]


@pytest.mark.parametrize("access", ["read", "write"])
@pytest.mark.parametrize(
    "opens",
    [
        b"declare c cursor for select * from shop.seen",
        b"do $$ declare c refcursor := 'c'; begin open c for select * from shop.seen; end $$",
    ],
    ids=["declare", "body"],
)
@pytest.mark.parametrize("counts_binds", [False, True])
def test_regression_a_cursor_is_counted_by_whichever_message_fetches_from_it(
    trapped: Shield, lines: None, access: str, opens: bytes, counts_binds: bool
) -> None:
    """An Execute takes a cursor for a portal, as it is one: no Bind had made it, so nobody counted."""
    first: tuple[Message, ...] = (Parse(query=b"select * from shop.few"), Bind(), Execute(), Sync())
    with raw_session(trapped, access) as client:
        heard: list[object] = []
        for segment in (
            (Query(query=b"begin"),),
            *((first,) if counts_binds and access == "write" else ()),
            (Query(query=opens),),
        ):
            client.send(*segment)
            heard += client.until_ready()
        client.send(Execute(portal=b"c"), Sync())
        heard += client.until_ready()
        client.send(Query(query=b"commit"))
        heard += client.until_ready()
    assert any(isinstance(message, ErrorResponse) for message in heard)


def test_a_portal_with_a_name_is_fetched_from_in_parts(trapped: Shield) -> None:
    with raw_session(trapped, "write") as client:
        client.send(Query(query=b"begin"))
        client.until_ready()
        client.send(Parse(query=b"select * from shop.orders"), Bind(portal=b"p"), Execute(portal=b"p", max_rows=150), Sync())
        heard = client.until_ready()
        client.send(Execute(portal=b"p", max_rows=150), Sync())
        heard += client.until_ready()
    assert not [message for message in heard if isinstance(message, ErrorResponse)]
    assert sum(isinstance(message, DataRow) for message in heard) == 300
