"""Reading a condition costs what its size says, however it nests; and a WITH elsewhere does not hide what a name means."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from dbshield.model import Operation
from dbshield.sqltext import bounds
from dbshield.sqltext.agreement import agree
from dbshield.sqltext.bounds import Work
from dbshield.sqltext.postgres import read
from dbshield.sqltext.statement import Trouble, Unreadable

NESTED: dict[str, Callable[[int], str]] = {
    "comparisons": lambda n: "(" * n + "a = b" + ") = c" * n,
    "comparisons of conditions": lambda n: "(" * n + "a" + " and b) = c" * n,
    "coalesce": lambda n: "coalesce(" * n + "a" + ", b) = c" * n,
    "null tests": lambda n: "(" * n + "a" + " is null)" * n + " = b",
    "cases": lambda n: "(case when " * n + "a" + " = b then c else d end)" * n,
    "subqueries in FROM": lambda n: "a in (select b from (select * from t where " * n + "true" + ") x)" * n,
    "exists": lambda n: "exists (select 1 from u where u.a = t.a and " * n + "true" + ")" * n,
    "scalar subqueries": lambda n: "a = " + "(select max(b) from t where b = t.b and c = " * n + "1" + ")" * n,
    "negations": lambda n: "not (" * n + "a = b" + ") = c" * n,
}


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How often the readers looked at a node."""
    looks = [0]

    def spend(self: Work, steps: int = 1) -> None:
        looks[0] += steps
        self.left -= steps
        assert looks[0] < 1_000_000

    monkeypatch.setattr(Work, "spend", spend)
    return looks


@pytest.mark.parametrize("name", NESTED)
def test_regression_a_nested_condition_is_not_read_twice_a_level(steps: list[int], name: str) -> None:
    """189 bytes of the second one once took a hundred seconds."""
    cost = {}
    for levels in (10, 20, 40):
        text = f"delete from t where {NESTED[name](levels)}".encode()
        steps[0] = 0
        agree(text, read(text))
        cost[levels] = steps[0]
    assert cost[20] < 5 * cost[10]
    assert cost[40] < 5 * cost[20]


def test_conditions_that_take_too_long_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "MAX_STEPS", 1_000)
    honest = b"delete from t where id in (" + b", ".join([b"1"] * 500) + b")"
    agree(honest, read(honest))
    with pytest.raises(Unreadable) as caught:
        read(b"delete from t where id in (" + b", ".join([b"1"] * 2_000) + b")")
    assert caught.value.trouble is Trouble.TOO_DEEP


@pytest.mark.parametrize(
    "text",
    [
        # The inner w has one row, the outer one all of them.
        "with w as (select id from t) delete from t"
        " where exists (with w as (select 1 as id limit 1) select 1 from w where w.id = t.id) or id in (select id from w)",
        # A WITH query with the table's own name stands elsewhere.
        "delete from t where exists (with t as (select 1 as id limit 1) select 1 from t x where x.id = 1)"
        " or id in (select id from t)",
    ],
)
def test_regression_a_name_of_another_with_query_bounds_nothing(text: str) -> None:
    (statement,) = read(text.encode())
    agree(text.encode(), (statement,))
    assert [effect.bounded for effect in statement.effects if effect.operation is Operation.DELETE] == [False]


def test_the_tree_is_what_the_answers_are_kept_by() -> None:
    """The same text twice is two trees; nothing is remembered from one statement to the next."""
    first, second = read(b"delete from t where (a = b) = true; delete from t where (a = a) = true")
    assert [str(effect) for effect in first.effects] == ["delete table t bounded"]
    assert [str(effect) for effect in second.effects] == ["delete table t"]
