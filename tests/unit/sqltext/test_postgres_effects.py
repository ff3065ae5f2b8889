"""What PostgreSQL's reader says that a statement does."""

from __future__ import annotations

from importlib import import_module

import pytest

from dbshield.model import Operation
from dbshield.sqltext.postgres import HANDLERS, QUERIES, read

EFFECTS = [
    ("select a from s.t, u", "select", ["read table s.t", "read table u"]),
    ("with t as (select * from t) select * from t", "select", ["read table t"]),
    ("with recursive n as (select 1 union all select * from n) select * from n", "select", []),
    ("with a as (select 1), b as (select * from a) select * from b, s.a", "select", ["read table s.a"]),
    ("select f(1), s.g(2) from h(3)", "select", ["call function f", "call function h", "call function s.g"]),
    ("select 1 from t where x = any (select f(1) from u)", "select", ["call function f", "read table t", "read table u"]),
    ("select sum(a) filter (where f(b)) over (partition by g(c) order by h(d)) from t limit i(1)", "select",
     ["call function f", "call function g", "call function h", "call function i", "call function sum", "read table t"]),
    ("values (f(1))", "select", ["call function f"]),
    ("select * from t tablesample bernoulli (f(1))", "select", ["call function f", "read table t"]),
    ("select 1 from t group by f(a) having g(b) order by h(c)", "select",
     ["call function f", "call function g", "call function h", "read table t"]),
    ("select a.b.c(1) from xmltable('/x' passing f(1) columns y int default g(2))", "select",
     ["call function b.c", "call function f", "call function g"]),
    ("select * from json_table(f('{}'), '$' columns (a int path '$.a'))", "select", ["call function f"]),
    ("select 1 operator(s.+) 2", "select", ["call function s.+"]),
    ("select * from t order by a using operator(s.<)", "select", ["call function s.<", "read table t"]),
    ("select * from t tablesample s.some_rows (5)", "select", ["call function s.some_rows", "read table t"]),
    ("create table t (a int, exclude using gist (f(a) with s.&&))", "create table",
     ["call function f", "call function s.&&", "create table t"]),
    ("create foreign table t (a int default f(1)) server s", "create foreign table",
     ["call function f", "create other t"]),
    ("create rule r as on update to t do also (delete from u; notify x)", "create rule",
     ["create rule t.r", "delete table u", "notify session x"]),
    ("create schema s create sequence q create table t (a int default f(1))", "create schema",
     ["call function f", "create schema s", "create sequence q", "create table t"]),
    ("create publication p for table t where (f(a))", "create publication", ["call function f", "create other p"]),
    ("create statistics x on (f(a)), b from t", "create statistics",
     ["call function f", "create other x", "read table t"]),
    ("alter policy p on t using (f(a)) with check (g(b))", "alter policy",
     ["alter policy p", "call function f", "call function g"]),
    ("create trigger g after update on t for each row when (f(new.a)) execute function h()", "create trigger",
     ["call function f", "create trigger t.g"]),
    ("update t set a = 1 where b = 2 returning with (old as o) f(o.a)", "update",
     ["call function f", "update table t bounded"]),
    ("select * from t for update", "select", ["lock table ", "read table t"]),
    ("select 1 into u from t", "select", ["create table u", "read table t"]),
    ("select 1 into temp u from t", "select", ["create table u temporary", "read table t"]),
    ("insert into t select * from u returning f(1)", "insert", ["call function f", "insert table t", "read table u"]),
    ("insert into t values (1) on conflict (a) do update set b = f(1)", "insert",
     ["call function f", "insert table t", "update table t bounded"]),
    ("update t set a = (select f(1)) from u where t.id = u.id", "update",
     ["call function f", "read table u", "update table t bounded"]),
    ("delete from t using u", "delete", ["delete table t", "read table u"]),
    ("with g as (delete from t returning 1) select * from g", "select", ["delete table t"]),
    ("merge into t using u on t.id = u.id when matched then delete when not matched then insert values (f(1))", "merge",
     ["call function f", "delete table t bounded", "insert table t", "read table u"]),
    ("explain delete from t", "explain", ["read table t"]),
    ("explain analyze delete from t", "explain analyze", ["delete table t"]),
    ("explain (analyze false) delete from t", "explain", ["read table t"]),
    ("explain (analyze off, analyze) delete from t", "explain analyze", ["delete table t"]),
    ("explain (analyze 'on') create table u as select 1", "explain analyze", ["create table u"]),
    ("prepare p as delete from t", "prepare", ["delete table t", "execute statement p"]),
    ("execute p(f(1))", "execute", ["call function f", "execute statement p"]),
    ("create table u as execute p", "create table as", ["create table u", "execute statement p"]),
    ("declare c cursor for select f(1) from t", "declare", ["call function f", "cursor session c", "read table t"]),
    ("copy t from stdin", "copy from", ["insert table t"]),
    ("copy t from stdin where f(a)", "copy from", ["call function f", "insert table t"]),
    ("copy t to stdout", "copy to", ["read table t"]),
    ("copy t to '/x'", "copy to", ["file other copy", "read table t"]),
    ("copy (delete from t returning 1) to program 'x'", "copy to", ["delete table t", "program other copy"]),
    ("create table t (a int default f(1) check (g(a)), b int generated always as (h(a)) stored)", "create table",
     ["call function f", "call function g", "call function h", "create table t"]),
    ("create index on t (f(a)) where g(b)", "create index",
     ["call function f", "call function g", "create index t (index)"]),
    ("create view v as select f(1)", "create view", ["call function f", "create view v"]),
    ("create or replace view v as select 1", "create view", ["replace view v"]),
    ("create policy p on t using (f(a))", "create policy", ["call function f", "create policy t.p"]),
    ("create domain d as text check (f(value))", "create domain", ["call function f", "create type d"]),
    ("alter table t add column a int default f(1), drop column b cascade", "alter table",
     ["alter table t", "call function f", "drop column t.b cascade"]),
    ("alter table t alter a type int using f(a)", "alter table", ["alter column t.a rewrite", "call function f"]),
    ("drop table if exists a.b, pg_temp.c cascade", "drop table",
     ["drop table a.b cascade if exists", "drop table pg_temp.c cascade if exists temporary"]),
    ("truncate a, only b cascade", "truncate", ["truncate table a cascade", "truncate table b cascade"]),
    ("set work_mem = '1MB'", "set", ["set setting work_mem literal"]),
    ("begin read only", "begin", ["set setting transaction_read_only literal", "transaction session "]),
    ("call s.p(f(1))", "call", ["call function f", "execute function s.p"]),
    ("do $$ begin delete from t; end $$", "do", ["delete table t"]),
    ("do $$ begin if f(1) then create table t (a int default g(2)); end if; end $$", "do",
     ["call function f", "call function g", "create table t"]),
    ("vacuum full t", "vacuum", ["maintain table t"]),
    ("security label on table t is 'x'", "security label", ["alter other t"]),
]  # fmt: skip


@pytest.mark.parametrize(("text", "kind", "effects"), EFFECTS, ids=[text for text, _, _ in EFFECTS])
def test_effects(text: str, kind: str, effects: list[str]) -> None:
    (statement,) = read(text.encode())
    assert statement.kind == kind
    assert sorted(map(str, statement.effects)) == effects


@pytest.mark.parametrize(("text", "count"), [("", 0), (" ; -- nothing", 0), ("select 1", 1), ("select 1; ; select 2;", 2)])
def test_statements_are_counted(text: str, count: int) -> None:
    assert len(read(text.encode())) == count


def test_names_after_a_dot_are_told() -> None:
    (statement,) = read(b"select t.a, (t).b, c, (array[1])[1] from t")
    assert statement.attributes == {"a", "b", "="}


def test_operators_and_types_that_somebody_may_have_written_are_told() -> None:
    (statement,) = read(b"select a + 1, operator(pg_catalog.-) 2, c::s.mood, d::int, x 'y', e between 1 and f order by 1 using >")
    assert statement.attributes == {"+", "=", "<=", ">=", "BETWEEN", ">", "mood::", "x::"}


def test_every_statement_of_the_grammar_is_known() -> None:
    """The statement types that can stand alone, from the grammar that libpg_query was built with."""
    node = import_module("postgast.pg_query_pb2").DESCRIPTOR.message_types_by_name["Node"]
    statements = {field.message_type.name for field in node.fields if field.message_type.name.endswith("Stmt")}
    never_alone = {
        "RawStmt",  # what holds a statement
        "SetOperationStmt",  # after analysis only
        "ReturnStmt",  # in a function's body only
        "PLAssignStmt",  # in PL/pgSQL only
        "ReplicaIdentityStmt",  # part of ALTER TABLE
    }
    assert statements - never_alone <= HANDLERS.keys() | QUERIES.keys()


def test_a_node_that_is_not_known_is_an_unknown_effect() -> None:
    """CREATE TABLE OF takes its columns from a type that this text does not show."""
    (statement,) = read(b"create table t of s.parcel")
    assert Operation.UNKNOWN in {effect.operation for effect in statement.effects}
