"""What real servers say of their functions is what the judge relies on."""

from __future__ import annotations

import asyncio

import psycopg
import pytest
from support.servers import Server

from dbshield.model import AccessLevel, ObjectName, Upstream
from dbshield.policy.function_lists import DENIED, VOLATILE_HELD, allowed_volatile, listed
from dbshield.policy.functions import CATALOGUE_QUERY, FunctionCatalogue
from dbshield.policy.judge import Judge
from dbshield.policy.policy import Policy
from dbshield.policy.reaching import Reach
from dbshield.policy.rules.frozen import JUDGED_BY_ARGUMENTS
from dbshield.proxy import upstream
from dbshield.session.parameters import FORCED
from dbshield.sqltext.postgres import read
from dbshield.sqltext.statement import Unreadable

FIRST_OF_INITDB = 10_000
"""Numbers from here on are given out by initdb (src/include/access/transam.h), so no list can know them."""

OWN = """
create function shop.lower(shop.customers) returns text language sql volatile as 'select null::text';
create function shop.lower(text) returns text language sql volatile as 'select null::text';
create function shop.forget(shop.customers) returns text language sql volatile as 'select null::text';
create function shop.full(shop.customers) returns text language sql immutable as 'select null::text';
create function shop.anything(anyelement) returns text language sql volatile as 'select null::text';
"""


def _rows(connection: psycopg.Connection[tuple[object, ...]]) -> list[tuple[str | None, ...]]:
    """As the proxy gets them."""
    return [tuple(None if value is None else str(value) for value in row) for row in connection.execute(CATALOGUE_QUERY)]


def test_the_catalogue_of_a_server(server: Server, database: str) -> None:
    with server.connect(database) as connection:
        connection.execute(OWN)
        catalogue = FunctionCatalogue.from_rows(_rows(connection))
    judge = Judge(policy=Policy(access=AccessLevel.WRITE), functions=catalogue)

    def verdict(text: str) -> str:
        return judge.judge(text.encode()).verdict.word

    assert verdict("select shop.order_count(1)") == "allow"
    assert verdict("select shop.purge_cancelled()") == "hold"
    assert verdict("select wipe_customers()") == "hold"
    assert verdict("select shop.lower('a')") == "hold"
    assert verdict("select c.forget from shop.customers c") == "hold"
    assert verdict("select (c).anything from shop.customers c") == "hold"
    assert verdict("select c.full from shop.customers c") == "allow"
    shadowed = {function.shadowed for function in catalogue.named("shop", "lower")}
    assert shadowed == {True, False}
    assert {"forget", "full", "anything"} <= catalogue.row_functions


HIDDEN = """
create type shop.parcel as (n integer);
create function shop.boom(integer, integer) returns boolean language plpgsql as $$ begin return true; end $$;
create function shop.fair(integer, integer) returns boolean language sql immutable as 'select true';
create function shop.parcel_text(shop.parcel) returns text language plpgsql as $$ begin return ''; end $$;
create operator shop.<=> (leftarg = integer, rightarg = integer, function = shop.boom);
create operator shop.=== (leftarg = integer, rightarg = integer, function = shop.fair);
create cast (shop.parcel as text) with function shop.parcel_text(shop.parcel) as assignment;
"""


def test_functions_behind_operators_and_casts(server: Server, database: str) -> None:
    with server.connect(database) as connection:
        before = FunctionCatalogue.from_rows(_rows(connection))
        connection.execute(HIDDEN)
        after = FunctionCatalogue.from_rows(_rows(connection))
    before_judge = Judge(policy=Policy(access=AccessLevel.WRITE), functions=before)
    judge = Judge(policy=Policy(access=AccessLevel.WRITE), functions=after)
    for text, verdict in {
        "select 1 <=> 2": "hold",
        "select 1 === 2": "allow",
        "select 1 = 2": "allow",
        "select row(1)::shop.parcel::text": "hold",
        "select 1::integer": "allow",
        "delete from shop.orders where id <=> 7": "hold",
    }.items():
        assert judge.judge(text.encode()).verdict.word == verdict, text
        assert before_judge.judge(text.encode()).verdict.word in {"allow", "limit"}, text


LOOKS_LIKE_A_CALL = {
    "json": "json('a'::text)",
    "json_array": "json_array('a'::text)",
    "json_arrayagg": "json_arrayagg('a'::text)",
    "json_exists": "json_exists('a'::text, 'b'::text)",
    "json_object": "json_object('a'::text)",
    "json_objectagg": "json_objectagg('a' value 'b')",
    "json_query": "json_query('a'::text, 'b'::text)",
    "json_scalar": "json_scalar('a'::text)",
    "json_serialize": "json_serialize('a'::text)",
    "json_table": "json_table('a'::text, 'b'::text)",
    "json_value": "json_value('a'::text, 'b'::text)",
    "merge_action": "merge_action()",
}
"""What is syntax to PostgreSQL 18, and a function that anybody may write to a server that does not know the word."""


def test_what_only_newer_servers_have_as_syntax_is_a_call_to_older_ones(server: Server, database: str) -> None:
    ours = 0
    with server.connect(database) as connection:
        for arguments in ("", "text", "text, text"):
            for word in LOOKS_LIKE_A_CALL:
                connection.execute(
                    f"create function shop.\"{word}\"({arguments}) returns text language sql as $$ select 'ours' $$"
                )
        judge = Judge(policy=Policy(access=AccessLevel.WRITE), functions=FunctionCatalogue.from_rows(_rows(connection)))
        connection.execute("set search_path = shop, pg_catalog")
        for word, call in LOOKS_LIKE_A_CALL.items():
            for text in (f"select {call}", f"select * from {call} t", f"delete from shop.orders where id = 7 and {call} = ''"):
                stopped = judge.judge(text.encode()).verdict.word in {"hold", "deny"}
                assert stopped, f"{word}: its name is taken by a function that may change anything"
            try:
                row = connection.execute(f"select {call}".encode()).fetchone()
            except psycopg.Error:
                continue
            ours += row == ("ours",)
    assert (ours > 0) == (server.major < 16), "an older server runs ours"


def test_every_word_that_is_syntax_only_to_newer_servers_is_known(server: Server) -> None:
    """Words that may stand before a parenthesis and are no names: the grammar here has no others than this server has."""
    query = "select word from pg_get_keywords() where catcode in ('C', 'R') order by 1"
    with server.connect() as connection:
        known = {str(word) for (word,) in connection.execute(query)}
    builtin = FunctionCatalogue.builtin()
    special = set()
    for name in {*builtin.names(), *known, *LOOKS_LIKE_A_CALL}:
        text = f"select {name}('a')"
        try:
            called = {effect.name for statement in read(text.encode()) for effect in statement.effects}
        except Unreadable:
            continue  # It is denied.
        if ObjectName(name=name.lower()) not in called:
            special.add(name)
    assert special - known <= LOOKS_LIKE_A_CALL.keys()


def test_the_catalogue_query_runs_under_any_search_path(server: Server, database: str) -> None:
    """Somebody's own operator or function must not answer in place of pg_catalog's."""
    with server.connect(database) as connection:
        connection.execute("create function shop.pg_get_userbyid(oid) returns name language sql as 'select ''mine''::name'")
        plain = {tuple(row) for row in connection.execute(CATALOGUE_QUERY)}
        connection.execute("set search_path = shop, pg_catalog")
        assert {tuple(row) for row in connection.execute(CATALOGUE_QUERY)} == plain


def test_every_volatile_function_of_the_server_is_decided(server: Server) -> None:
    """Each stands in one list, with a reason; and those that are not allowed do not pass, at any level."""
    query = "select distinct proname::text from pg_proc where pronamespace = 'pg_catalog'::regnamespace and provolatile = 'v'"
    with server.connect() as connection:
        volatile = [str(name) for (name,) in connection.execute(query)]
    assert len(volatile) > 200
    decided = {
        name: (allowed_volatile(name) is not None, listed(name, DENIED) is not None, listed(name, VOLATILE_HELD) is not None)
        for name in volatile
        if name not in JUDGED_BY_ARGUMENTS
    }
    assert {name: lists for name, lists in decided.items() if sum(lists) != 1} == {}
    judges = [Judge(policy=Policy(access=access), functions=FunctionCatalogue.builtin()) for access in AccessLevel]
    for name, (allowed, _, _) in decided.items():
        for judge in judges:
            verdict = judge.judge(f'select pg_catalog."{name}"()'.encode()).verdict.word
            assert allowed or verdict in {"hold", "deny"}, name


def test_the_shipped_list_knows_every_function_of_the_server(server: Server) -> None:
    """A function that is not in it would be held, a softer volatility in it would let one pass."""
    builtin = FunctionCatalogue.builtin()
    query = "select oid::bigint, proname::text, provolatile::text from pg_proc where pronamespace = 'pg_catalog'::regnamespace"
    with server.connect() as connection:
        functions = connection.execute(query).fetchall()
    assert len(functions) > 3_000
    unknown = 0
    for oid, name, volatility in functions:
        (known,) = builtin.named("pg_catalog", str(name))
        assert "isv".index(known.volatility) >= "isv".index(str(volatility))
        numbered = builtin.numbered(int(str(oid)))
        assert numbered is None or numbered.name == name
        unknown += numbered is None and int(str(oid)) < FIRST_OF_INITDB
    assert unknown < 20, "only numbers that versions use for different functions may be unknown"


@pytest.mark.one_server
@pytest.mark.parametrize(("encoding", "wipe"), [("SQL_ASCII", b"wipe"), ("LATIN1", b"l\xe9cher"), ("WIN1252", b"l\xe9cher")])
def test_a_database_in_other_letters(server: Server, worker_id: str, encoding: str, wipe: bytes) -> None:
    """A byte in a comment that is no letter keeps nobody out, and the names of functions are what they are."""
    name = f"letters_{worker_id}"

    async def told() -> FunctionCatalogue:
        host, port = server.cluster.host, server.cluster.port
        there = Upstream(host=host, port=port, user="agent_read", password=server.passwords["read"])
        proxied = await upstream.connect(there, database=name, settings=FORCED)
        try:
            return FunctionCatalogue.from_rows(await upstream.query(proxied, CATALOGUE_QUERY))
        finally:
            proxied.transport.abort()
            await asyncio.sleep(0)

    with server.connect() as admin:
        admin.execute(f"create database {name} template template0 encoding '{encoding}' locale 'C'".encode())
    try:
        with psycopg.connect(server.dsn(name), autocommit=True, client_encoding=encoding) as connection:
            connection.execute(b"create table t (id integer)")
            connection.execute(b"create function %s() returns text language sql as $$ delete from t returning '\\' $$" % wipe)
            calls = b"/* \x81\xe9 */ select '\\', %s()" % wipe
            connection.execute(b"create function settled() returns record language sql stable as $$ %s $$" % calls)
        functions = asyncio.run(told())
    finally:
        server.drop(name)
    assert functions.reach == Reach(functions=frozenset({"settled"}))
