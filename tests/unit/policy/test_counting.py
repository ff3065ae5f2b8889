"""Which statements get a limit: whatever may change rows that exist is counted, and nothing else is."""

from __future__ import annotations

from typing import Any

import pytest

from dbshield.model import AccessLevel, Allow, Counted, Deny, Judgement, Limit, ObjectName
from dbshield.patterns import ObjectPattern
from dbshield.policy.functions import FunctionCatalogue
from dbshield.policy.judge import Judge
from dbshield.policy.policy import Override, OverrideVerdict, Policy

ONE = (Counted(statement=0),)
PURGE = ObjectName(schema="shop", name="purge_cancelled")


def judged(functions: FunctionCatalogue, text: str, access: AccessLevel = AccessLevel.WRITE, **policy: Any) -> Judgement:
    return Judge(policy=Policy(access=access, **policy), functions=functions).judge(text.encode())


@pytest.mark.parametrize(
    ("text", "counted"),
    [
        ("update t set a = 1 where b = 2", ONE),
        ("delete from t where b = 2", ONE),
        ("merge into t using s on t.b = s.b when matched then update set a = 1", ONE),
        ("insert into t values (1) on conflict (a) do update set a = 2", ONE),
        ("insert into t values (1) on conflict do nothing", ()),
        ("insert into t values (1)", ()),
        ("copy t from stdin", (Counted(statement=0, inserts=True),)),
        ("with w as (delete from t where b = 2 returning 1) select count(*) from w", ONE),
        ("explain analyze delete from t where b = 2", ONE),
        ("explain delete from t where b = 2", ()),
        ("prepare p as delete from t where b = 2", ()),
        ("execute p", ONE),
        ("create temp table x as execute p", ONE),
        ("deallocate p", ()),
        ("select 1", ()),
        ("fetch all from c", ()),
        ("begin", ()),
        ("begin; delete from t where b = 2; select 1; update t set a = 1 where b = 2; commit", (1, 3)),
        ("select 1; copy t from stdin; delete from t where b = 1", (Counted(statement=1, inserts=True), Counted(statement=2))),
    ],
)
def test_what_is_counted(functions: FunctionCatalogue, text: str, counted: tuple[Any, ...]) -> None:
    judgement = judged(functions, text, max_rows=7)
    assert judgement.counted == tuple(item if isinstance(item, Counted) else Counted(statement=item) for item in counted)
    assert judgement.verdict == (Limit(max_rows=7) if counted else Allow())
    assert judgement.findings == ()


def test_what_is_stopped_is_not_counted(functions: FunctionCatalogue) -> None:
    judgement = judged(functions, "delete from t where b = 2; drop table t")
    assert (judgement.verdict.word, judgement.counted) == ("deny", ())


def test_a_reader_has_prepared_nothing_that_writes(functions: FunctionCatalogue) -> None:
    assert judged(functions, "execute p", AccessLevel.READ).verdict == Allow()
    allowed = judged(functions, "execute p", AccessLevel.READ, functions_allowed=frozenset({PURGE}))
    assert allowed.counted == ONE


def test_every_write_counts_where_tables_are_protected(functions: FunctionCatalogue) -> None:
    protected = (ObjectPattern.parse("billing.*"),)
    for text in (
        "insert into orders values (1)",
        "insert into shop.orders values (1)",
        "with w as (insert into t values (1)) select 1",
    ):
        judgement = judged(functions, text, protected=protected)
        assert (judgement.verdict, judgement.counted) == (Limit(max_rows=100), ONE)
    assert judged(functions, "select 1", protected=protected).verdict == Allow()


def test_a_cursor_may_call_what_was_let_through(functions: FunctionCatalogue) -> None:
    for policy in (
        {"functions_allowed": frozenset({PURGE})},
        {"overrides": (Override(rule="DS6xx", verdict=OverrideVerdict.ALLOW),)},
    ):
        assert judged(functions, "fetch all from c", **policy).counted == ONE
        assert judged(functions, "move 5 from c", **policy).counted == ONE
        assert judged(functions, "close c", **policy).counted == ()


def test_a_function_that_an_override_lets_through_is_counted(functions: FunctionCatalogue) -> None:
    override = Override(rule="DS605", verdict=OverrideVerdict.ALLOW, objects=(ObjectPattern.parse("shop.purge_*"),))
    judgement = judged(functions, "select shop.purge_cancelled()", overrides=(override,))
    assert (judgement.verdict, judgement.counted) == (Limit(max_rows=100), ONE)
    assert [finding.verdict for finding in judgement.findings] == [Allow()]
    assert judged(functions, "select shop.touch()", overrides=(override,)).verdict.word == "hold"
    assert judged(functions, "select purge_cancelled()", overrides=(override,)).verdict.word == "hold"


def test_a_counted_function_cannot_be_called_by_number(functions: FunctionCatalogue) -> None:
    override = Override(rule="DS605", verdict=OverrideVerdict.ALLOW)
    judge = Judge(policy=Policy(access=AccessLevel.WRITE, overrides=(override,)), functions=functions)
    judgement = judge.judge_function(16500, ())
    assert judgement.verdict == Deny()
    assert judgement.findings[0].rule == "DS909"
    assert "in a SELECT" in judgement.findings[0].hint
    assert judge.judge_function(16502, ()).verdict == Allow()


@pytest.mark.parametrize(
    ("text", "resets"),
    [
        ("reset all", True),
        ("discard all", True),
        ("discard plans", False),
        ("discard temp", False),
        ('deallocate "all"', False),
        ("deallocate all", True),
        ("deallocate prepare all", True),
        ("select 1; reset all", True),
        ("reset statement_timeout", False),
        ("deallocate p", False),
        ("set statement_timeout = 1", False),
        ("select 1", False),
    ],
)
def test_what_resets_the_session(functions: FunctionCatalogue, text: str, resets: bool) -> None:
    assert judged(functions, text).resets is resets


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("select shop.purge_cancelled()", "limit"),
        ("create temp table t as select shop.purge_cancelled()", "limit"),
        ("create view shop.v as select shop.purge_cancelled()", "hold"),
        ("create materialized view shop.v as select shop.purge_cancelled()", "hold"),
        ("create table shop.t (a integer default shop.purge_cancelled())", "hold"),
        ("alter table shop.t add column a integer default shop.purge_cancelled()", "hold"),
        ("create policy p on shop.t using (a = shop.purge_cancelled())", "hold"),
        ("create index on shop.t (shop.purge_cancelled())", "hold"),
        ("create view shop.v as select shop.order_count()", "allow"),
    ],
)
@pytest.mark.parametrize(
    "policy",
    [
        {"functions_allowed": frozenset({PURGE})},
        {"overrides": (Override(rule="DS6xx", verdict=OverrideVerdict.ALLOW),)},
        {"overrides": (Override(rule="DS605", verdict=OverrideVerdict.LIMIT, objects=(ObjectPattern.parse("shop.*"),)),)},
    ],
    ids=["by name", "by family", "by rule"],
)
def test_what_was_let_through_is_not_put_where_nobody_counts(
    functions: FunctionCatalogue, text: str, verdict: str, policy: dict[str, Any]
) -> None:
    assert judged(functions, text, AccessLevel.MIGRATE, **policy).verdict.word == verdict
