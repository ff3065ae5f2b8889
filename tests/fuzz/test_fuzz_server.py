"""What the reader says of a statement, against what a real server makes of it.

The server analyses each text (a Parse message, nothing runs) and so takes the locks that it will need: they tell which tables it
will read and which it will write. A view made of the text then depends on the functions and operators that it found.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from random import Random

import psycopg
import pytest
from fuzz.grammar import Text
from fuzz.grammar_typed import TYPED
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from psycopg import pq
from support.servers import Server

from dbshield.model import Effect, Operation
from dbshield.sqltext.postgres import read
from dbshield.sqltext.statement import Statement, Unreadable

FUZZING = bool(os.environ.get("DBSHIELD_FUZZ"))
pytestmark = pytest.mark.timeout(0 if FUZZING else 300)
BUDGET = settings(
    max_examples=20_000 if FUZZING else 1_000, derandomize=not FUZZING, deadline=None, suppress_health_check=list(HealthCheck)
)

NAMED_AS_SYNTAX = (
    "json_value", "json_object", "json_scalar", "json_serialize", "json", "json_arrayagg", "json_objectagg", "normalize",
    "system_user",
)  # fmt: skip
"""Functions with one argument, named as what a newer server has as syntax; the ones below have two, or none."""
NAMED_AS_SYNTAX_TOO = ["json_array", "json_exists", "json_query", "overlay", "substring", "position"]

SCHEMA = """
create schema far;
create table one (a int primary key, b int); create table two (a int primary key, b int);
create table far.three (a int, b int); create table "Four 4" (a int, b int);
create type pair as (left_one int, right_one int);
create function far.probe_a(x int) returns int language sql volatile as 'select x';
create function probe_b(x int) returns int language sql volatile as 'select x';
create function probe_set(x int) returns setof int language sql volatile as 'select x';
create function probe_operator(x int, y int) returns int language sql volatile as 'select x';
create operator far.+! (leftarg = int, rightarg = int, function = probe_operator);
create operator +! (leftarg = int, rightarg = int, function = probe_operator);
create function "merge_action"() returns int language sql volatile as 'select 1';
"""

LOCKED = """
select n.nspname, c.relname, l.mode = 'RowExclusiveLock'
from pg_catalog.pg_locks l join pg_catalog.pg_class c on c.oid = l.relation
join pg_catalog.pg_namespace n on n.oid = c.relnamespace
where l.pid = pg_catalog.pg_backend_pid() and n.nspname in ('public', 'far') and c.relkind = 'r'
"""
CALLED = """
select p.proname from pg_catalog.pg_depend d join pg_catalog.pg_proc p on p.oid = d.refobjid
where d.classid = 'pg_catalog.pg_rewrite'::regclass and d.refclassid = 'pg_catalog.pg_proc'::regclass
and d.objid in (select oid from pg_catalog.pg_rewrite where ev_class = 'shield_view'::regclass)
union
select o.oprname from pg_catalog.pg_depend d join pg_catalog.pg_operator o on o.oid = d.refobjid
where d.classid = 'pg_catalog.pg_rewrite'::regclass and d.refclassid = 'pg_catalog.pg_operator'::regclass
and d.objid in (select oid from pg_catalog.pg_rewrite where ev_class = 'shield_view'::regclass)
"""

WRITES = frozenset({Operation.INSERT, Operation.UPDATE, Operation.DELETE})


@pytest.fixture(scope="module")
def connection(server: Server, worker_id: str) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    name = f"fuzz_{worker_id}"
    server.drop(name)
    with server.connect() as admin:
        admin.execute(f'create database "{name}"')
    try:
        with server.connect(name) as own:
            own.execute(SCHEMA)
            for function in NAMED_AS_SYNTAX:
                own.execute(f"create function \"{function}\"(x int) returns int language sql volatile as 'select x'")
            for function in NAMED_AS_SYNTAX_TOO:
                own.execute(f"create function \"{function}\"(x int, y int) returns int language sql volatile as 'select x'")
            yield own
    finally:
        server.drop(name)


def analysed(connection: psycopg.Connection[tuple[object, ...]], text: str) -> bool:
    """Whether the server accepts the text; the transaction then holds its locks."""
    return connection.pgconn.prepare(b"", text.encode()).status == pq.ExecStatus.COMMAND_OK


def table(effect: Effect) -> tuple[str, str]:
    return effect.name.schema or "public", effect.name.name


@BUDGET
@given(data=st.binary(min_size=30, max_size=90))
def test_fuzz_the_server_reads_and_writes_what_the_reader_says(
    connection: psycopg.Connection[tuple[object, ...]], data: bytes
) -> None:
    text = Text(data, "row statement", TYPED).text
    connection.execute("begin")
    try:
        assume(analysed(connection, text))
        locked = connection.execute(LOCKED).fetchall()
        statement = told_of(text)
        assume(statement is not None)
        assert statement is not None
        written = {table(effect) for effect in statement.effects if effect.operation in WRITES}
        touched = written | {table(effect) for effect in statement.effects if effect.operation is Operation.READ}
        assert {(schema, name) for schema, name, writes in locked if writes} == written, text
        assert {(schema, name) for schema, name, _ in locked} <= touched, text
        if not written and " for update" not in text:
            check_calls(connection, statement, text)
    finally:
        connection.execute("rollback")


def told_of(text: str) -> Statement | None:
    """What the reader says of a text; None where it refuses it."""
    try:
        (statement,) = read(text.encode())
    except Unreadable:
        return None
    return statement


def names_told(statement: Statement) -> set[str]:
    """The functions that a statement calls or may call."""
    told = {effect.name.name for effect in statement.effects if effect.operation is Operation.CALL}
    return told | {name.removesuffix("()") for name in statement.attributes}


def check_calls(connection: psycopg.Connection[tuple[object, ...]], statement: Statement, text: str) -> None:
    """Whatever function or operator of this database the server found is a call, or told as a name that may be one."""
    try:
        connection.execute(f"create temp view shield_view as select 1 as a where exists ({text})")
    except psycopg.Error:
        return
    assert {str(name) for (name,) in connection.execute(CALLED)} <= names_told(statement), text


@pytest.mark.parametrize("function", [*NAMED_AS_SYNTAX, *NAMED_AS_SYNTAX_TOO, "merge_action"])
def test_a_function_with_the_name_of_newer_syntax_is_told(
    connection: psycopg.Connection[tuple[object, ...]], function: str
) -> None:
    """Where the server takes the text for a call of that function, the reader says so."""
    arguments = "1, 2" if function in NAMED_AS_SYNTAX_TOO else "" if function == "merge_action" else "1"
    text = f"select {function}({arguments}) as a"
    connection.execute("begin")
    try:
        if analysed(connection, text):
            statement = told_of(text)
            if statement is not None:
                check_calls(connection, statement, text)
                assert function in names_told(statement)
        else:
            assert connection.info.transaction_status is pq.TransactionStatus.INERROR
    finally:
        connection.execute("rollback")


def test_most_texts_make_sense_to_a_server(connection: psycopg.Connection[tuple[object, ...]]) -> None:
    random = Random(1)
    good = 0
    for _ in range(300):
        connection.execute("begin")
        good += analysed(connection, Text(random.randbytes(60), "row statement", TYPED).text)
        connection.execute("rollback")
    assert good > 150


def test_the_view_tells_what_was_called(connection: psycopg.Connection[tuple[object, ...]]) -> None:
    """A check that can fail: the server does find these, in this text."""
    text = "select far.probe_a(1) operator(far.+!) probe_b(2) as a"
    connection.execute("begin")
    try:
        with pytest.raises(AssertionError):
            check_calls(connection, read(b"select far.probe_a(1) operator(far.+!) 2 as a")[0], text)
        connection.execute("rollback")
        connection.execute("begin")
        check_calls(connection, read(text.encode())[0], text)
        assert {name for (name,) in connection.execute(CALLED)} == {"probe_a", "probe_b", "+!"}
    finally:
        connection.execute("rollback")
