"""Writes pass only where both readers say the same of them."""

from __future__ import annotations

import pytest

from dbshield.sqltext import glot
from dbshield.sqltext.agreement import agree, needs_second_reader
from dbshield.sqltext.postgres import read
from dbshield.sqltext.statement import Trouble, Unreadable

AGREED = """
insert into t default values
insert into t overriding system value values (1)
insert into s.t as x (a, b) select 1, 2 from u on conflict on constraint k do update set a = 1 where x.b > 1
update only t set (a, b) = (select 1, 2) where id = 1
update t set a = 1 where current of "my cursor" returning id
delete from "odd table" where "odd column" = 1
prepare p (integer) as delete from t where id = $1
explain (analyze, costs off) update t set a = 1 where id = 1
declare c cursor for select * from t for update
copy (delete from t where id = 1 returning *) to stdout
copy t (a, b) from stdin with (format csv)
copy t (a, b) from stdin with (format csv, delimiter ';') where a > 1 and b = 'x'
delete from t where a = 1 returning with (old as o, new as n) o.a, n.b
update t set a = 1 where id = 1 returning old.a, new.a
create table u as with g as (delete from t where id = 1 returning *) select * from g
with a as (insert into t values (1) returning id), b as (update u set x = 1 where id = 2) delete from v where id = 3
create temp table scratch (id integer) on commit drop
create table t (like u including all)
create table p1 partition of p for values from (1) to (2)
create view v with (security_barrier) as select 1 as a
create or replace view v as select 1 as a
create materialized view v as select 1 as a
create unique index concurrently i on t (a)
create sequence s start 5
create schema if not exists s
create type s.mood as enum ('sad')
create domain d as text check (value ~ '@')
create policy p on t using (owner = current_user)
create statistics st (dependencies) on a, b from t
alter table t add column if not exists a text default 'x', add constraint c check (a > 'b') not valid
alter table t alter column a set not null, alter column a drop default
alter table t validate constraint c
alter table t enable row level security
alter type mood add value 'ok' before 'happy'
comment on column s.t.a is 'x'
drop table pg_temp.scratch
truncate pg_temp.scratch
select * into u from t
begin; insert into t values (1); update t set a = 2 where id = 1; commit
""".strip().splitlines()


@pytest.mark.parametrize("text", AGREED)
def test_the_readers_agree_on_ordinary_writes(text: str) -> None:
    statements = read(text.encode())
    assert any(map(needs_second_reader, statements)) or text.startswith("declare")
    agree(text.encode(), statements)


@pytest.mark.parametrize(
    ("text", "taken_for"),
    [
        ("delete from t where id = 1", "delete from u where id = 1"),
        ("delete from t where id = 1", "delete from s.t where id = 1"),
        ("delete from t", "delete from t where id = 1"),
        ("delete from t where id = 1", "update t set a = 1 where id = 1"),
        ("insert into t values (1) on conflict (a) do update set a = 1", "insert into t values (1)"),
        ("merge into t using u on t.id = u.id when matched then delete", "insert into t values (1)"),
        ("with g as (delete from t where id = 1 returning 1) select * from g", "insert into t values (1)"),
        ("delete from t where id = 1; delete from t where id = 2", "delete from t where id = 1"),
        ("copy t from stdin", "copy u from stdin"),
        ("create table t (a integer)", "create table u (a integer)"),
        ("create table t (a integer)", "create view t as select 1"),
        ("alter table t drop column a", "alter table t add column a text"),
        ("alter table t rename to u", "alter table t add column a text"),
        ("drop table t", "create table t (a integer)"),
        ("alter table t validate constraint c", "create policy p on t using (a)"),
        ("delete from t", "create table t (a integer)"),
    ],
)
def test_a_statement_that_the_first_reader_takes_for_another(text: str, taken_for: str) -> None:
    with pytest.raises(Unreadable) as caught:
        agree(text.encode(), read(taken_for.encode()))
    assert caught.value.trouble is Trouble.DISAGREEMENT


@pytest.mark.parametrize("text", ["select 1", "set work_mem = '1MB'", "explain delete from t", "begin", "vacuum t", "listen a"])
def test_reads_and_session_statements_need_one_reader(text: str) -> None:
    assert not any(map(needs_second_reader, read(text.encode())))


def test_regression_the_second_reader_is_never_given_two_statements() -> None:
    """What sqlglot would split, PostgreSQL has as one, or the other way round."""
    with pytest.raises(Unreadable) as caught:
        glot.read("delete from t where id = 1; delete from t")
    assert caught.value.trouble is Trouble.DISAGREEMENT


def test_deep_conditions_are_cut_without_decoding() -> None:
    """Python's protobuf decoder gives up at a depth of about 50."""
    text = b"begin; delete from t where id = " + b"||".join([b"a"] * 150) + b"; commit"
    agree(text, read(text))


def test_the_second_reader_logs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    glot.read("CREATE DOMAIN d AS text CHECK (value = 'secret')")
    assert not caplog.records


@pytest.mark.parametrize(
    "text",
    [
        "insert into t (a, b) values {}",
        "with x as (delete from u where id = 1 returning id) insert into t values {} on conflict (a) do update set b = 1",
        "insert into t overriding user value values {}",
        "insert into t select * from (values {}) v",
    ],
)
def test_long_values_are_shortened_for_the_second_reader(text: str) -> None:
    long = text.format(", ".join(f"({number}, 'text')" for number in range(3_000))).encode()
    agree(long, read(long))
    with pytest.raises(Unreadable):
        agree(long, read(b"insert into other values (1)"))


def test_an_unknown_row_at_the_end_of_long_values_is_seen() -> None:
    rows = ", ".join(f"({number})" for number in range(3_000))
    (statement,) = read(f"insert into t values {rows}, (f(1))".encode())
    assert "call function f" in map(str, statement.effects)


@pytest.mark.parametrize("brackets", ["array[f(", "array[", "array[1 + "])
def test_regression_nested_arrays_do_not_keep_the_second_reader_for_hours(brackets: str) -> None:
    """It reads what stands in brackets twice: 60 of them in each other would never end."""
    honest = f"insert into t select {brackets * 5}1{(']' if '(' not in brackets else ')]') * 5}".encode()
    agree(honest, read(honest))
    deep = f"insert into t select {brackets * 60}1{(']' if '(' not in brackets else ')]') * 60}".encode()
    with pytest.raises(Unreadable) as caught:
        agree(deep, read(deep))
    assert caught.value.trouble is Trouble.TOO_DEEP


def test_many_flat_arrays_are_honest() -> None:
    text = f"update t set a = array[{', '.join(['[1, 2]'] * 2_000)}] where id = 1".encode()
    agree(text, read(text))
