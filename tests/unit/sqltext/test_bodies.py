"""Bodies of DO and of created functions: everything in them is found, and what is not read says why."""

from __future__ import annotations

import pytest

from dbshield.sqltext import bodies_parsed
from dbshield.sqltext.blocks import MAX_BODY_BYTES, MAX_NESTING, Body, Fragment, Unread, Why
from dbshield.sqltext.bodies import CHANGES, DEFINER, EVENT_TRIGGER, LATER, OPTION, READ
from dbshield.sqltext.bodies_plpgsql import cut
from dbshield.sqltext.postgres import read

PROBE = "probe(1)"

EXPRESSIONS = [
    "declare a int := {}; begin end",
    "declare a constant int not null default {}; begin end",
    "declare a numeric(10, 2) = {}; begin end",
    "declare c cursor (k int) for select {}; begin end",
    "declare c no scroll cursor is select {}; begin end",
    "declare a int; declare b text := {}; begin end",
    "declare a int; begin a := {}; end",
    "declare a int; begin a = 1 + {}; end",
    "declare a int[]; begin a[{}] := 1; end",
    "declare a int[]; begin a[1][{}] := 1; end",
    "declare r record; begin r.a := {}; end",
    "begin perform {}; end",
    "begin perform 1 from t where {} > 0; end",
    "declare a int; begin select {} into a; end",
    "declare a int; begin select into strict a {} from t; end",
    "declare a int; b int; begin select 1, {} into a, b from t; end",
    "declare a int; begin insert into t values ({}) returning b into a; end",
    "declare a int; begin with x as (insert into t values ({}) returning 1) select count(*) into a from x; end",
    "begin update t set a = {} where b = 1; end",
    "begin delete from t where b = {}; end",
    "begin merge into t using u on t.a = u.a when matched then update set b = {}; end",
    "begin alter table t add column a int default {}; end",
    "begin call p({}); end",
    "begin if {} > 0 then null; end if; end",
    "begin if a then null; elsif {} then null; elseif c then null; end if; end",
    "begin if a then null; else perform {}; end if; end",
    "begin case {} when 1 then null; end case; end",
    "begin case 1 when 2, {} then null; else null; end case; end",
    "begin case when {} > 1 then null; end case; end",
    "begin case when a then null; else perform {}; end case; end",
    "begin loop exit when {} > 1; end loop; end",
    "begin <<l>> loop continue l when {} > 1; end loop l; end",
    "begin while {} > 1 loop null; end loop; end",
    "begin for i in {}..10 loop null; end loop; end",
    "begin for i in reverse 10..{} by 2 loop null; end loop; end",
    "begin for i in 1..10 by {} loop null; end loop; end",
    "declare r record; begin for r in select {} loop null; end loop; end",
    "declare r record; begin for r in insert into t values ({}) returning a loop null; end loop; end",
    "declare a int; b int; begin for a, b in select {}, 2 loop null; end loop; end",
    "declare c cursor (k int) for select k; begin for r in c({}) loop null; end loop; end",
    "declare a int; begin foreach a in array {} loop null; end loop; end",
    "declare a int[]; begin foreach a slice 1 in array {} loop null; end loop; end",
    "begin raise notice 'a % %', 1, {}; end",
    "begin raise exception using message = {}, detail = 'x'; end",
    "begin raise division_by_zero using hint := {}; end",
    "begin raise sqlstate '22012' using errcode = {}; end",
    "begin assert {} > 0; end",
    "begin assert true, {}; end",
    "declare c refcursor; begin open c for select {}; end",
    "declare c refcursor; begin open c no scroll for select {}; end",
    "declare c cursor (k int) for select k; begin open c({}); end",
    "declare c refcursor; a int; begin fetch relative {} from c into a; end",
    "declare c refcursor; begin move forward {} in c; end",
    "begin begin null; exception when others then perform {}; end; end",
    "begin null; exception when no_data_found or sqlstate '22012' then null; when others then insert into t values ({}); end",
    "begin begin begin perform {}; end; end; end",
    "begin /* a */ perform -- b\n {}; end; -- c",
    "BEGIN PERFORM {}; END",
]


@pytest.mark.parametrize("body", EXPRESSIONS)
def test_a_call_is_found_wherever_it_stands(body: str) -> None:
    (statement,) = read(f"do $do${body.format(PROBE)}$do$".encode())
    calls = {effect.name.name for effect in statement.effects if effect.operation == "call"}
    assert "probe" in calls
    assert not any(effect.operation == "execute" and effect.name.name == "do" for effect in statement.effects)


ROUTINES = [
    ("(a int) returns int", "begin return {} + a; end"),
    ("(a int) returns int", "declare b int; begin b := {}; return b; end"),
    ("(a shop.t, out b int)", "begin b := a.x + {}; return; end"),
    ("(inout a int)", "begin a := {}; end"),
    ("() returns setof int", "begin return next {}; return; end"),
    ("() returns setof shop.t", "begin return query select {}; end"),
    ("() returns table (a int, b shop.t)", "begin a := {}; return next; end"),
    ("() returns shop.t", "declare r shop.t; begin select {} into r; return r; end"),
    ("() returns trigger", "begin new.a := old.b + {}; if tg_op = 'INSERT' then return new; end if; return null; end"),
    ("() returns void", "begin perform {}; return; end"),
    ("(variadic a int[]) returns int", "declare b a.c%type; d shop.t%rowtype; begin b := {}; d.e := 1; return 1; end"),
    ('("A b" int) returns int', 'begin return "A b" + {}; end'),
    ("(anyelement) returns anyelement", "begin return $1 + {}; end"),
    ("(a refcursor) returns refcursor", "begin open a for select {}; return a; end"),
]


@pytest.mark.parametrize(("signature", "body"), ROUTINES)
def test_a_created_function_is_read(signature: str, body: str) -> None:
    text = f"create function f{signature} language plpgsql as $f${body.format(PROBE)}$f$"
    (statement,) = read(text.encode())
    found = {(str(effect.operation), effect.name.name, effect.detail) for effect in statement.effects}
    assert ("call", "probe", LATER) in found
    assert ("create", "f", READ["volatile"]) in found


UNREAD = [
    "",
    "begin",
    "begin end end",
    "begin end; drop table t;",
    "#variable_conflict use_column begin end",
    "begin foo; bar",
    "begin ; end",
    "begin perform; end",
    "begin a := 1; end",
    "begin select 1 into a; end",
    "declare a int; begin select 1 into a into a; end",
    "begin if a then null; end; end",
    "begin if (a then null; end if; end",
    "begin if case when a then b end then null; end if; end",
    "begin create table t (a int; b int); end",
    "begin create function f() returns int language sql begin atomic select 1; end; end",
    "begin create table t (a text default 'x); end",
    "begin <<l>> null; end",
    "begin perform 1) + (2; end",
    "begin perform f(1; end",
    "begin for i in reverse select 1 loop null; end loop; end",
    "declare c cursor (k int) for select k; begin open c(k := 1); end",
    "declare a int; begin a\u00a0:= 1; end",
    "begin " + "null; " * MAX_BODY_BYTES + "end",
    "begin " * (MAX_NESTING + 1) + "end; " * (MAX_NESTING + 1),
    "begin " * 3_000 + "end; " * 3_000,
    "begin " + "loop " * 1_000 + "end loop; " * 1_000 + "end",
    "begin selekt 1; end",
    "begin perform 1 +; end",
]

HELD = [
    ("begin execute 'drop table t'; end", Why.DYNAMIC),
    ("declare a int; begin execute 'x' into a using 1; end", Why.DYNAMIC),
    ("begin for r in execute 'x' loop null; end loop; end", Why.DYNAMIC),
    ("declare c refcursor; begin open c for execute 'x'; end", Why.DYNAMIC),
    ("begin return query execute 'x'; end", Why.DYNAMIC),
    ("begin if true then begin execute 'x'; end; end if; end", Why.DYNAMIC),
    ("begin null; exception when others then execute 'x'; end", Why.DYNAMIC),
    ("begin commit; end", Why.TRANSACTION),
    ("begin commit and chain; end", Why.TRANSACTION),
    ("begin loop rollback; end loop; end", Why.TRANSACTION),
    ("begin start transaction; end", Why.TRANSACTION),
]


@pytest.mark.parametrize(("body", "why"), [*((body, Why.GRAMMAR) for body in UNREAD), *HELD])
def test_a_block_that_is_not_read(body: str, why: Why) -> None:
    (statement,) = read(f"do $do${body}$do$".encode())
    assert [(effect.operation, effect.name.name, effect.detail) for effect in statement.effects] == [("execute", "do", why)]


def test_a_block_in_another_language() -> None:
    (statement,) = read(b"do language plpython3u 'begin end'")
    assert [effect.detail for effect in statement.effects] == [Why.LANGUAGE]


@pytest.mark.parametrize("statement", ["fetch c into a", "fetch last from c into a", "move c", "move backward all from c"])
def test_what_a_cursor_may_run_is_told(statement: str) -> None:
    (found,) = read(f"do $$ declare c refcursor := 'of the session'; a int; begin {statement}; end $$".encode())
    assert [(str(effect.operation), effect.detail) for effect in found.effects] == [("cursor", "fetch")]


def test_a_block_in_a_block() -> None:
    (statement,) = read(b"do $a$ begin do $b$ begin delete from t where id = 1; end $b$; end $a$")
    assert [str(effect) for effect in statement.effects] == ["delete table t bounded"]


DETAILS = [
    ("create function f() returns int language sql stable as 'select 1'", READ["stable"]),
    ("create function f() returns int language plpgsql immutable as 'begin return 1; end'", READ["immutable"]),
    ("create function f() returns int language sql as 'select 1'", READ["volatile"]),
    ("create function f() returns int return 1", READ["volatile"]),
    ("create function f() returns int begin atomic select 1; end", READ["volatile"]),
    ("create function f() returns int language sql as 'select 1; insert into t values (1)'", READ["volatile"]),
    ("create function f() returns int language sql set search_path = '' as 'select 1'", READ["volatile"]),
    ("create procedure f() language plpgsql as 'begin insert into t values (1); end'", READ["volatile"]),
    ("create function f() returns int begin atomic insert into t values (1); select 1; end", CHANGES),
    ("create function f() returns int begin atomic delete from t where id = 1; select 1; end", CHANGES),
    ("create function f() returns int language sql as 'update t set a = 1 where b = 2 returning 1'", CHANGES),
    ("create function f() returns int language sql as 'with x as (delete from t where id = 1 returning 1) select 1'", CHANGES),
    ("create function f() returns int language sql as 'insert into t values (1) on conflict (a) do update set b = 1'", CHANGES),
    ("create function f() returns int language sql as 'create table u (a int); select 1'", CHANGES),
    ("create function f() returns void language plpgsql as 'begin call p(); end'", CHANGES),
    ("create function f() returns void language plpgsql as 'begin truncate t; end'", CHANGES),
    ("create function f() returns void language plpgsql as 'begin lock table t; end'", CHANGES),
    ("create function f() returns void language plpgsql as 'begin set role x; end'", CHANGES),
    ("create function f() returns void language plpgsql as 'begin perform 1 from t for update; end'", READ["volatile"]),
    ("create function f() returns void language sql as 'commit'", Why.TRANSACTION),
    ("create function f() returns void language plpgsql as 'begin execute x; end'", Why.DYNAMIC),
    ("create function f() returns void language plpgsql as 'begin oops'", Why.GRAMMAR),
    ("create function f() returns void language sql as 'selekt'", Why.GRAMMAR),
    ("create function f() returns text language c as 'a', 'b'", Why.LANGUAGE),
    ("create function f() returns text language internal as 'int4in'", Why.LANGUAGE),
    ("create function f() returns text language plpgsql security definer as 'begin end'", DEFINER),
    ("create function f() returns text language plpgsql external security definer as 'begin end'", DEFINER),
    ("create function f() returns text language sql support g as 'select 1'", OPTION),
    ("create function f() returns text language sql leakproof as 'select 1'", OPTION),
    ("create function f() returns event_trigger language plpgsql as 'begin end'", EVENT_TRIGGER),
]


@pytest.mark.parametrize(("text", "detail"), DETAILS)
def test_what_is_said_of_a_created_function(text: str, detail: str) -> None:
    (statement,) = read(text.encode())
    assert [effect.detail for effect in statement.effects if effect.operation == "create" and effect.name.name == "f"] == [detail]


def test_the_settings_of_a_function_are_told() -> None:
    (statement,) = read(b"create function f() returns int set session_replication_role = replica return 1")
    assert "set setting session_replication_role literal" in map(str, statement.effects)


def test_defaults_of_parameters_are_told() -> None:
    (statement,) = read(b"create function f(a int default probe(1)) returns int return a")
    assert "call function probe" in map(str, statement.effects)


def test_replacing_is_not_creating() -> None:
    (statement,) = read(b"create or replace function f() returns int return 1")
    assert [str(effect) for effect in statement.effects] == ["replace function f"]


def test_what_the_parser_sees_otherwise_is_not_read() -> None:
    """The check itself: a piece too many, one too few, or another statement, and the body is not read."""

    def changed() -> Body:
        return cut("declare a int; begin a := probe(1); perform 2; end")

    bodies_parsed.check(changed(), bodies_parsed.DO)
    missing = changed()
    missing.fragments.pop()
    more = changed()
    more.fragments.append(Fragment(key=(b"3",), sql=(b"select 3",)))
    other = changed()
    other.statements["stmt_perform"] += 1
    for body in (missing, more, other):
        with pytest.raises(Unread):
            bodies_parsed.check(body, bodies_parsed.DO)


def test_a_body_with_dollar_signs() -> None:
    (statement,) = read(b"do 'begin perform probe(1), $body$x$body$, $bodyx$y$bodyx$; end'")
    assert "call function probe" in map(str, statement.effects)
