"""A statement turned into the query that counts what it would hit."""

from __future__ import annotations

import pytest

from dbshield.control.preview_sql import counting

ROWS = {
    "delete from t": 'select count(*) from (select distinct "t".tableoid, "t".ctid from t ) as rows',
    "delete from only shop.t as x where x.a = $1": (
        'select count(*) from (select distinct "x".tableoid, "x".ctid from ONLY shop.t AS x WHERE x.a = $1 ) as rows'
    ),
    "update t set a = $1, b = 2 where id = $2": (
        'select count(*) from (select distinct "t".tableoid, "t".ctid from t WHERE id = $2 ) as rows'
    ),
    "delete from t using u, v where t.id = u.id returning t.*": (
        'select count(*) from (select distinct "t".tableoid, "t".ctid from t, u, v WHERE t.id = u.id ) as rows'
    ),
    'update "T" set a = 1 from u where u.id = "T".id': (
        'select count(*) from (select distinct "T".tableoid, "T".ctid from "T", u WHERE u.id = "T".id ) as rows'
    ),
    "with w as (select 1 as a) delete from t where a in (select a from w)": (
        'WITH w AS (SELECT 1 AS a) select count(*) from (select distinct "t".tableoid, "t".ctid from t'
        " WHERE a IN (SELECT a FROM w) ) as rows"
    ),
}


@pytest.mark.parametrize("statement", ROWS)
def test_the_rows_that_it_would_hit(statement: str) -> None:
    found = counting(statement)
    assert found is not None
    assert found.query == ROWS[statement]


@pytest.mark.parametrize(
    "condition",
    [
        "a = " + "array[" * 150 + "1" + "]" * 150,
        "a = " + "f(array[" * 60 + "1" + "])" * 60,
        "a = " + "(select " * 80 + "1" + ")" * 80,
        " and ".join(["a = 1"] * 4000),
    ],
    ids=["arrays", "calls of arrays", "subqueries", "conditions"],
)
def test_an_agent_cannot_keep_the_executor_busy(condition: str) -> None:
    """sqlglot reads some of these for hours, while nobody else's statement has a preview. Not counting is no harm."""
    found = counting(f"delete from t where {condition}")
    assert found is None or found.table == "t"


@pytest.mark.parametrize(
    "statement",
    [
        "select 1",
        "drop table t",
        "truncate t",
        "delete from t; delete from u",
        "delete from from t",
        "insert into t values (1)",
        "with gone as (delete from t returning *) delete from u",
        "with gone as (delete from t returning *) select * from gone",
        "delete from t where current of c",
        "",
    ],
)
def test_nothing_else_is_counted(statement: str) -> None:
    assert counting(statement) is None


def test_the_table_and_the_parameters_are_told() -> None:
    found = counting("update only shop.orders o set total = $1 from k where o.id = $3 and k.b = $2")
    assert found is not None
    assert found.table == "shop.orders"
    assert found.parameters == {2, 3}
