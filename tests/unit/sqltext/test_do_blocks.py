"""Only blocks whose meaning is plain from their tokens are read."""

from __future__ import annotations

import pytest

from dbshield.sqltext.blocks import MAX_BLOCK_BYTES, statements_of

READ = [
    ("begin end", [], []),
    ("BEGIN ALTER TABLE t ADD COLUMN a int; END;", ["ALTER TABLE t ADD COLUMN a int"], []),
    ("begin create table a (b int); comment on table a is 'x;y'; end",
     ["create table a (b int)", "comment on table a is 'x;y'"], []),
    ("begin create table a (b int); exception when duplicate_table or others then null; when undefined_table then end",
     ["create table a (b int)"], []),
    ("begin if not exists (select 1 from t where a = 'then') then create table a (b int); end if; end",
     ["create table a (b int)"], ["not exists (select 1 from t where a = 'then')"]),
    ("begin if a then null; else alter table t add b int; end if; end", ["alter table t add b int"], ["a"]),
    ("begin begin create table a (b int); exception when others then null; end; end", ["create table a (b int)"], []),
    ("begin /* ; delete from t; */ create table a (b int) -- ; drop\n; end", ["create table a (b int)"], []),
]  # fmt: skip

UNREAD = [
    "",
    "begin",
    "begin end end",
    "begin end; drop table t;",
    "declare a int; begin create table t (b int); end",
    "<<label>> begin end",
    "begin delete from t; end",
    "begin insert into t values (1); end",
    "begin perform f(); end",
    "begin call p(); end",
    "begin execute 'drop table t'; end",
    "begin drop table t; end",
    "begin truncate t; end",
    "begin for i in 1..10 loop create table t (a int); end loop; end",
    "begin while true loop null; end loop; end",
    "begin a := 1; end",
    "begin return; end",
    "begin commit; end",
    "begin raise notice 'x'; end",
    "begin if case when a then b end then null; end if; end",
    "begin if a then null; elsif b then null; end if; end",
    "begin create table t as select 1 into a; end",
    "begin create function f() returns int language sql begin atomic select 1; end; end",
    "begin create table a (b int); exception when others then delete from t; end",
    "begin create table a (b int; drop table t;); end",
    "begin if (a then null; end if; end",
    "begin if then null; end if; end",
    "begin ; end",
    "begin create table t (a int) end",
    "begin create table t (a text default 'x); end",
    "begin " + "null; " * MAX_BLOCK_BYTES + "end",
    "begin " * 1_200 + "end; " * 1_200,
]


@pytest.mark.parametrize(("body", "statements", "expressions"), READ)
def test_a_block_that_is_read(body: str, statements: list[str], expressions: list[str]) -> None:
    assert statements_of(body) == (statements, expressions)


@pytest.mark.parametrize("body", UNREAD)
def test_a_block_that_is_not_read(body: str) -> None:
    assert statements_of(body) is None
