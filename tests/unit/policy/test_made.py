"""Relations that agents make: an INSERT there is counted at once, until the catalogue tells what is to be told of them."""

from __future__ import annotations

from collections.abc import Set

import pytest

from dbshield.model import AccessLevel, Counted
from dbshield.policy.functions import FunctionCatalogue, redefines
from dbshield.policy.judge import Judge
from dbshield.policy.made import ANY, MOST, Made, made_in, makes
from dbshield.policy.policy import Override, OverrideVerdict, Policy
from dbshield.sqltext.postgres import read

INTO_X = b"insert into x (id) values (1)"
LIKE = b"create temp table x (like t including defaults)"


@pytest.fixture
def told() -> list[Set[str]]:
    return []


@pytest.fixture
def judge(functions: FunctionCatalogue, told: list[Set[str]]) -> Judge:
    judge = Judge(policy=Policy(access=AccessLevel.MIGRATE), functions=functions)
    judge.on_made = told.append
    return judge


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("create table x (id integer)", {"x"}),
        ("create temp table x (like t)", {"x"}),
        ("create table if not exists s.x (id integer)", {"x"}),
        ("create table x partition of t for values in (1)", {"x"}),
        ("create table x () inherits (t)", {"x"}),
        ("create temp table x as select 1", {"x"}),
        ("create temp table x as execute p", {"x"}),
        ("select * into x from t", {"x"}),
        ("explain analyze create table x as select 1", {"x"}),
        ("explain create table x as select 1", set()),
        ("create schema s create table x (like t) create view y as select 1", {"x", "y"}),
        ("create or replace view x as select 1", {"x"}),
        ("create recursive view x (n) as select 1", {"x"}),
        ("do $$ begin create temp table x (like t); end $$", {"x"}),
        ('create table "X.y" (id integer)', {"X.y"}),
        ("alter table x add column a integer", {"x"}),
        ("alter table x enable trigger all", {ANY}),
        ("alter table x enable always rule a", {ANY}),
        ("alter table x set (fillfactor = 90)", {"x"}),
        ("alter table x alter a type integer", {ANY}),
        ("alter view x alter a set default 1", {"x"}),
        ("alter table x set schema s", {"x"}),
        ("alter table x rename to y", {"x", ANY}),
        ("alter view x rename to y", {"x", ANY}),
        ("alter index x rename to y", {"x", ANY}),
        ("alter table x attach partition y default", {"x", ANY}),
        ("alter table x rename a to b", set()),
        ("create trigger a before insert on x for each row execute function f()", {ANY}),
        ("create rule a as on insert to x do also delete from t", {ANY}),
        ("create policy a on x with check (id = 1)", {ANY}),
        ("alter policy a on x with check (id = 1)", {ANY}),
        ("create foreign table x (id integer) server y", {"x"}),
        ("create materialized view x as select 1", set()),
        ("create index on x (id)", set()),
        ("create sequence x", set()),
        ("comment on table x is ''", set()),
        ("comment on column x.a is ''", set()),
        ("drop table x", set()),
        ("insert into x values (1)", set()),
        ("select 1", set()),
    ],
)
def test_what_is_made(text: str, names: set[str]) -> None:
    (statement,) = read(text.encode())
    assert made_in(statement.effects) == names


@pytest.mark.parametrize(
    ("text", "reads"),
    [
        ("create table x (id integer)", True),
        ("create temp table x (id integer)", False),
        ("create view x as select 1", True),
        ("alter table x add column a integer", True),
        ("create policy a on x with check (id = 1)", True),
        ("insert into x values (1)", False),
    ],
)
def test_what_has_the_catalogue_read_again(text: str, reads: bool) -> None:
    (statement,) = read(text.encode())
    assert any(map(redefines, statement.effects)) is reads


@pytest.mark.parametrize(
    "insert",
    [
        INTO_X,
        b"insert into pg_temp.x (id) values ($1)",
        b"insert into x select 1",
        b"with i as (insert into x values (1) returning 1) select count(*) from i",
        b"merge into x using t on x.id = t.id when not matched then insert (id) values (1)",
        b"do $$ begin insert into x values (1); end $$",
        b"explain analyze insert into x values (1)",
    ],
)
def test_an_insert_is_counted_from_then_on(judge: Judge, told: list[Set[str]], insert: bytes) -> None:
    for _ in range(2):
        assert judge.judge(insert).verdict.word == "allow"
    judge.judge(LIKE)
    for _ in range(2):
        assert judge.judge(insert).verdict.word == "limit"
    assert judge.judge(b"insert into y (id) values (1)").verdict.word == "allow"
    assert told == [{"x"}]


@pytest.mark.parametrize(
    ("text", "counted"),
    [
        (LIKE + b";" + INTO_X, [1]),
        (INTO_X + b";" + LIKE + b";" + INTO_X, [2]),
        (b"begin;" + LIKE + b"; create table z (id int); insert into z values (1);" + INTO_X + b"; commit", [3, 4]),
        (b"do $$ begin insert into x values (1); create temp table x (like t); end $$", [0]),
        (LIKE + b"; insert into y (id) values (1)", []),
    ],
)
def test_in_the_same_text(functions: FunctionCatalogue, text: bytes, counted: list[int]) -> None:
    judge = Judge(policy=Policy(access=AccessLevel.MIGRATE), functions=functions)
    assert judge.judge(text).counted == tuple(Counted(statement=place) for place in counted)
    assert judge.judge(INTO_X).verdict.word == "allow", "where nobody follows it one text says nothing of another"


def test_what_stands_before_it_is_counted_the_next_time(judge: Judge) -> None:
    text = INTO_X + b"; create temp table if not exists x (like t)"
    assert judge.judge(text).verdict.word == "allow"
    assert judge.judge(text).counted == (Counted(statement=0),)


def test_what_is_refused_makes_nothing(judge: Judge, told: list[Set[str]]) -> None:
    assert judge.judge(LIKE + b"; drop table t").verdict.word == "hold"
    assert judge.judge(b"alter table y rename to x").verdict.word == "hold"
    assert judge.judge(INTO_X).verdict.word == "allow"
    assert told == []


def test_a_new_name_that_nobody_told_may_be_any(functions: FunctionCatalogue, told: list[Set[str]]) -> None:
    policy = Policy(access=AccessLevel.MIGRATE, overrides=(Override(rule="DS107", verdict=OverrideVerdict.ALLOW),))
    judge = Judge(policy=policy, functions=functions)
    judge.on_made = told.append
    assert judge.judge(INTO_X).verdict.word == "allow"
    assert judge.judge(b"alter table y rename to x").verdict.word == "allow"
    assert judge.judge(INTO_X).verdict.word == "limit"
    assert told == [{"y", ANY}]


def test_other_verdicts_are_kept(judge: Judge, told: list[Set[str]]) -> None:
    """An agent that makes a temporary table takes nobody's verdicts away, but those that it means."""
    others = (b"select * from a where b = 1", b"insert into y (id) values (1)", b"update a set b = 1 where c = 2")
    for text in (*others, INTO_X):
        judge.judge(text)
    misses = judge.misses
    judge.judge(LIKE)
    for text in others:
        judge.judge(text)
    assert judge.misses == misses + 1, "the table itself"
    judge.judge(INTO_X)
    assert judge.misses == misses + 2
    for _ in range(3):
        judge.judge(LIKE)
    judge.judge(INTO_X)
    assert judge.misses == misses + 5, "it is judged each time, and nothing else is"
    assert told == [{"x"}]


def test_names_of_inserts_that_never_end_cost_no_memory(judge: Judge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dbshield.policy.judge.MAX_INSERTED", 20)
    for number in range(30):
        judge.judge(b"insert into y%d values (1)" % number)
        assert len(judge._inserted) <= 21
    for number in range(30):
        judge.judge(b"create temp table y%d (like t)" % number)
        assert judge.judge(b"insert into y%d values (1)" % number).verdict.word == "limit"


def test_too_many_names_are_any() -> None:
    made = Made()
    for number in range(MOST):
        assert made.add({f"x{number}"}) == {f"x{number}"}
    assert "y" not in made
    assert made.add({"y"}) == {ANY}
    assert "z" in made
    assert made.add({"z"}) == frozenset()
    assert len(made.names) == MOST + 1


def test_judges_share_the_names(functions: FunctionCatalogue, judge: Judge) -> None:
    other = Judge(policy=Policy(access=AccessLevel.WRITE), functions=functions)
    made = Made()
    for each in (judge, other):
        each.share({}, made)
    judge.judge(LIKE)
    assert other.judge(INTO_X).verdict.word == "limit"
    assert other.confirms(other.judge(INTO_X), judge) is False, "another policy"


def test_a_long_insert_is_not_confirmed(functions: FunctionCatalogue, judge: Judge) -> None:
    """A session keeps no long texts; whether what was said of one still holds, it asks."""
    said = judge.judge(INTO_X)
    assert judge.confirms(said, judge)
    judge.judge(LIKE)
    assert not judge.confirms(said, judge)
    assert judge.confirms(judge.judge(INTO_X), judge), "it is counted"


NOBODY: frozenset[int] = frozenset()


class TestSettling:
    """`settle` is called at each reading of the catalogue."""

    def test_with_nobody_at_work(self) -> None:
        made = Made()
        made.add({"x"})
        assert made.settle(NOBODY, set()) == frozenset(), "this reading may have begun before"
        assert made.settle(NOBODY, set()) == {"x"}
        assert made.names == set()

    def test_a_transaction_may_not_be_seen_yet(self) -> None:
        made = Made()
        made.add({"x"})
        for _ in range(3):
            assert made.settle({1, 2}, set()) == frozenset()
        assert made.settle({2, 3}, set()) == frozenset()
        assert made.settle({1, 3}, set()) == frozenset(), "each was seen with nothing open; now a reading may begin"
        assert made.settle({1, 3}, set()) == {"x"}, "who began later has made nothing, or told so"

    def test_a_name_that_is_made_again_stays(self) -> None:
        made = Made()
        made.add({"x", "y"})
        made.settle(NOBODY, set())
        made.add({"x"})
        assert made.settle({1}, set()) == {"y"}
        assert made.settle({1}, set()) == frozenset()
        assert "x" in made
        made.settle(NOBODY, set())
        assert made.settle(NOBODY, set()) == {"x"}

    def test_what_a_prepared_statement_may_make_stays(self) -> None:
        made = Made()
        made.add({"x", "y", ANY})
        made.settle(NOBODY, {"x"})
        assert made.settle(NOBODY, {"x"}) == {"y", ANY}
        assert made.settle(NOBODY, {"x"}) == frozenset()
        assert made.names == {"x"}

    def test_what_came_when_there_were_too_many(self) -> None:
        made = Made()
        made.add({f"x{number}" for number in range(MOST)})
        made.add({"y"})
        for _ in range(2):
            assert "y" in made
            made.settle(NOBODY, {"y"})
        assert made.names == {ANY}, "it is there by that alone"
        made.settle(NOBODY, {"y"})
        assert made.settle(NOBODY, {"y"}) == {ANY}
        assert made.names == {"y"}


def test_who_makes_is_told_by_what_goes_through(judge: Judge) -> None:
    assert makes(judge.judge(LIKE)) == {"x"}
    assert makes(judge.judge(b"create table x (id integer); drop table t")) == frozenset()
