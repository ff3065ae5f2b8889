"""Honest SQL is deep and long; it passes both readers, and what is deeper than anybody writes is refused, not a crash."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from dbshield.model import AccessLevel
from dbshield.policy.functions import FunctionCatalogue
from dbshield.policy.judge import Judge
from dbshield.policy.policy import Policy
from dbshield.sqltext.agreement import agree
from dbshield.sqltext.postgres import read

SHAPES: dict[str, tuple[int, Callable[[int], str]]] = {
    "concatenation": (300, lambda n: "delete from t where id = " + "||".join(["a"] * n)),
    "sum": (300, lambda n: "update t set a = " + "+".join(["a"] * n) + " where id = 1"),
    "nested AND": (200, lambda n: "delete from t where id = 1 and (" + "(a = 1 and " * n + "b = 2" + ")" * n + ")"),
    "nested OR": (200, lambda n: "delete from t where " + "(a = 1 or " * n + "b = 2" + ")" * n),
    "flat AND": (1_000, lambda n: "delete from t where " + " and ".join(["a = 1"] * n)),
    "flat OR": (1_000, lambda n: "delete from t where " + " or ".join(["a = 1"] * n)),
    "IN": (5_000, lambda n: "delete from t where id in (" + ", ".join(map(str, range(n))) + ")"),
    "rows": (5_000, lambda n: "insert into t values " + ", ".join(f"({i}, 'x')" for i in range(n))),
    "subqueries": (90, lambda n: "delete from t where id in (" + "select a from u where b in (" * n + "select 1" + ")" * n + ")"),
    "calls": (200, lambda n: "delete from t where " + "lower(" * n + "a" + ")" * n + " = 'x'"),
    "cases": (90, lambda n: "delete from t where id = " + "case when a = 1 then " * n + "1" + " else 2 end" * n),
    "parentheses": (500, lambda n: "delete from t where " + "(" * n + "id = 1" + ")" * n),
    "unions": (300, lambda n: "insert into t select 1" + " union all select 1" * n),
    "joins": (300, lambda n: "insert into t select 1 from a" + "".join(f" join a{i} on a{i}.x = a.x" for i in range(n))),
    "CTEs": (200, lambda n: "with " + ", ".join(f"c{i} as (select 1)" for i in range(n)) + " delete from t where id = 1"),
    "columns": (1_500, lambda n: "create table t (" + ", ".join(f"c{i} int default {i}" for i in range(n)) + ")"),
    "statements": (500, lambda n: "; ".join(["insert into t values (1)"] * n)),
}
"""How much of each honest SQL has at most, and a text with that much."""


@pytest.mark.parametrize("shape", SHAPES)
def test_honest_depth_is_read_by_both(shape: str) -> None:
    levels, make = SHAPES[shape]
    text = make(levels).encode()
    agree(text, read(text))


@pytest.mark.parametrize("shape", SHAPES)
def test_more_than_that_is_read_or_refused_as_too_deep(shape: str) -> None:
    """Eight times as much of it: the judge never raises, and what it stops it stops for the depth or the length."""
    levels, make = SHAPES[shape]
    judge = Judge(policy=Policy(access=AccessLevel.MIGRATE), functions=FunctionCatalogue.builtin())
    judgement = judge.judge(make(levels * 8).encode())
    assert {finding.rule for finding in judgement.findings} <= {"DS905", "DS906"}
    assert judgement.findings or judgement.effects
