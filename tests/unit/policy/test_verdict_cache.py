"""The cache is fast, bounded, and never gives one text the verdict of another."""

from __future__ import annotations

import re

import pytest

from dbshield.model import AccessLevel, Allow, Judgement
from dbshield.policy.cache import VerdictCache
from dbshield.policy.functions import FunctionCatalogue
from dbshield.policy.judge import CACHE_BYTES, MAX_CACHED_TEXT, Judge
from dbshield.policy.policy import Policy
from dbshield.sqltext.normal import redacted, shape, written


def fresh(access: AccessLevel = AccessLevel.WRITE, entries: int = 10_000) -> Judge:
    return Judge(policy=Policy(access=access), functions=FunctionCatalogue.builtin(), cache_entries=entries)


def test_the_same_text_is_judged_once() -> None:
    judge = fresh()
    first = judge.judge(b"select * from t where id = $1")
    assert judge.judge(b"select * from t where id = $1") is first
    assert (judge.hits, judge.misses) == (1, 1)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (b"select * from t where id = 1", b"select * from t where id = -20"),
        (b"select * from t where name = 'a'", b"select * from t where name = 'it''s'"),
        (b"delete from t where id = 1", b"delete from t where id = 2 /* trace=4711 */"),
        (b"/* a */ update t set a = 1 where id = 2", b"/* b */ update t set a = 7 where id = 9"),
        (b"select 1 -- a", b"select 2 -- b"),
        ("select 'ä'".encode(), "select 'ö'".encode()),
    ],
)
def test_texts_that_differ_in_constants_share_a_verdict(first: bytes, second: bytes) -> None:
    judge = fresh()
    assert judge.judge(second) is judge.judge(first)
    assert judge.misses == 1


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (b"delete from t where name like 'a%'", b"delete from t where name like '%'"),
        (b"delete from t where name like $1", b"delete from t where name like '%'"),
        (
            b"delete from t where id = any (array(select id from t limit 5))",
            b"delete from t where id = any (array(select id from t limit all))",
        ),
        (b"select set_config('work_mem', '1MB', false)", b"select set_config('role', 'postgres', false)"),
        (b"select lo_open(1, 262144)", b"select lo_open(1, 131072)"),
        (b"select case when a = 1 then 2 else$1 end", b"select case when a = 1 then 2 else'x' end"),
    ],
)
def test_regression_a_literal_that_decides_is_not_shared(first: bytes, second: bytes) -> None:
    judge = fresh()
    kept = judge.judge(first)
    assert judge.judge(second) == fresh().judge(second)
    assert judge.judge(second) is not kept


@pytest.mark.parametrize(
    "text",
    [
        b"select 'a' where id = $1",
        b"select $$text$$",
        b"select a$1 from t",
        b"select 1 /* $ */",
        b"select '" + b"x" * 9_000 + b"'",
    ],
)
def test_texts_without_a_safe_shape(text: bytes) -> None:
    assert shape(text) is None


def test_only_queries_and_row_writes_are_kept_by_shape() -> None:
    judge = fresh(AccessLevel.MIGRATE)
    for text in (b"set work_mem = '1MB'", b"create table t (a integer)", b"explain select 1", b"begin", b"select 1; begin"):
        assert not judge.judge(text).shape_only


def test_the_cache_is_bounded_in_entries() -> None:
    judge = fresh(entries=100)
    for number in range(1_000):
        judge.judge(b"select a%d from t" % number)
    assert len(judge._texts) <= 101
    assert len(judge._shapes) <= 101


def test_the_cache_is_bounded_in_bytes() -> None:
    cache = VerdictCache(max_entries=10_000, max_bytes=1 << 20)
    judgement = Judgement(verdict=Allow())
    for number in range(10_000):
        cache.put(b"%d" % number + b"x" * 10_000, judgement)
    assert len(cache) * 10_000 <= 1 << 20


def test_what_is_used_stays() -> None:
    cache = VerdictCache(max_entries=10, max_bytes=CACHE_BYTES)
    kept = Judgement(verdict=Allow())
    cache.put(b"kept", kept)
    for number in range(100):
        cache.put(b"%d" % number, Judgement(verdict=Allow()))
        assert cache.get(b"kept") is kept


def test_long_texts_are_not_kept() -> None:
    judge = fresh()
    text = b"select '" + b"x" * MAX_CACHED_TEXT + b"'"
    assert judge.judge(text).verdict == Allow()
    assert judge.judge(text).verdict == Allow()
    assert judge.misses == 2


def test_another_catalogue_forgets_every_verdict(functions: FunctionCatalogue) -> None:
    judge = fresh()
    assert judge.judge(b"select shop.order_count(1)").verdict.word == "hold"
    judge.use(functions)
    assert judge.judge(b"select shop.order_count(1)").verdict.word == "allow"


@pytest.mark.parametrize(
    "text",
    [
        "create role a password 'hidden-1'",
        "alter role a with encrypted password 'hidden-1' valid until '2030-01-01'",
        "create user mapping for a server s options (user 'x', password 'hidden-1')",
        "create subscription s connection 'host=x password=hidden-1' publication p",
        "select dblink('password=hidden-1', 'select 1')",
        "comment on table t is 'hidden-1'",
        "set app.token = 'hidden-1'",
        "select set_config('app.token', 'hidden-1', false)",
        "alter role a password E'hidden-1'",
        "alter role a password $$hidden-1$$",
        "alter role a password U&'hidden-1'",
        "select 1; alter role a password 'hidden-1'",
        "selec 'hidden-1'",
        "select 1 /* hidden-1 */ where id = 5",
        "select * from t where a = $1 and b = 'hidden-1' -- hidden-1",
        "alter role a password 'hidden-1",
    ],
)
def test_no_literal_reaches_the_log(text: str) -> None:
    judgement = fresh(AccessLevel.MIGRATE).judge(text.encode())
    logged = [judgement.normal, *map(str, judgement.effects), *map(repr, judgement.effects)]
    logged += [part for finding in judgement.findings for part in (finding.message, finding.hint, repr(finding))]
    assert not [part for part in logged if "hidden-1" in part]


def test_a_redacted_text_keeps_what_is_no_constant() -> None:
    assert redacted(b"ALTER ROLE a PASSWORD 'x' -- why\n VALID UNTIL '2030'") == "ALTER ROLE a PASSWORD ?  \n VALID UNTIL ?"
    assert re.fullmatch(r"select \$1 from t", fresh().judge(b"select 'secret' from t").normal)


def test_regression_the_path_of_a_json_table_is_a_constant_too() -> None:
    """libpg_query's normal form leaves it as it was sent."""
    text = b"select * from json_table(js, '$[*]' columns (a text path '$.hidden-1', \"b'c\" int path '$.hidden-2')) where d = 'x'"
    judge = fresh()
    for logged in (judge.judge(text.replace(b"$", b"strict ")).normal, judge.judge(text).normal):
        assert "hidden" not in logged
        assert '"b\'c" int' in logged


def test_a_judge_that_has_to_share_its_memory_forgets() -> None:
    judge = fresh()
    for number in range(2_000):
        judge.judge(b"select a%d from t" % number)
    held = len(judge._texts) + len(judge._shapes)
    assert held == 4_000
    judge.bound(1 << 17)
    for number in range(10):
        judge.judge(b"select b%d from t" % number)
        judge.judge(b"select c%d from t" % number)
    for number in range(200):
        judge.judge(b"select d%d from t" % number)
    assert len(judge._texts) + len(judge._shapes) < 200


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("set app.token to hunter2", "set app.token to ?"),
        ("SET LOCAL app.a . b = hunter2, hunter2; select 1", "SET LOCAL app.a . b = ?; select ?"),
        ('select 1; set "App"."Key"=hunter2', 'select ?; set "App"."Key"=?'),
        ("alter role r in database d set app.token to hunter2", "alter role r in database d set app.token to ?"),
        ("alter system set app.token = hunter2", "alter system set app.token = ?"),
        # What people have to see, and what is no setting.
        ("set search_path = shop, public", "set search_path = shop, public"),
        ("update t set part.name = other where id = 3", "update t set part.name = other where id = ?"),
        ("alter table a.b set schema c", "alter table a.b set schema c"),
    ],
)
def test_the_value_of_an_applications_setting_is_a_constant_without_quotes_too(text: str, shown: str) -> None:
    assert redacted(text.encode()) == shown
    if "hunter2" in text:
        found = shape(text.encode())
        assert found is not None
        assert "hunter2" not in written(found)


def test_nothing_is_told_of_what_the_lexer_does_not_reach() -> None:
    assert redacted(b"select 1 \0 'hunter2'") == ""
