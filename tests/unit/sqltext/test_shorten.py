"""What is cut from a long text says nothing that the rest does not say."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dbshield.sqltext import native
from dbshield.sqltext.postgres import read, read_tree
from dbshield.sqltext.shorten import KEPT_ITEMS, SHORT_BYTES, shortened
from dbshield.sqltext.statement import Statement

PADDING = b"x" * SHORT_BYTES


def long(text: str) -> bytes:
    """`text` beside a constant that makes it long enough."""
    return f"select '{PADDING.decode()}'; {text}".encode()


def rest(text: str) -> str:
    return shortened(long(text)).decode().partition("; ")[2]


def read_whole(text: str) -> tuple[Statement, ...]:
    return tuple(read_tree(item["stmt"]) for item in json.loads(native.parse(text.encode()))["stmts"])


def numbers(count: int) -> str:
    return ", ".join(map(str, range(count)))


@pytest.mark.parametrize(
    "text",
    [
        "insert into t values {rows}",
        "insert into t values {rows} on conflict (a) do update set b = excluded.b returning *",
        "select * from t where a in ({numbers}) and b = any (array[{numbers}])",
        "delete from t where a in ({numbers})",
        "select * from (values {rows}) v (a, b), u",
        "insert into t values {wide}",
        "select * from t where (a, b) in ({rows})",
    ],
)
def test_bulk_is_cut_and_the_statement_stays(text: str) -> None:
    rows = ", ".join(f"({number}, -{number}.5, 'it''s (a), (b)', null, default, true)" for number in range(2_000))
    rows = rows.replace(", default", "") if "values" not in text else rows
    wide = ", ".join(f"({numbers(200)})" for _ in range(300))
    whole = text.format(rows=rows, numbers=numbers(3_000), wide=wide)
    short = rest(whole)
    assert len(short) < len(whole) / 5
    assert read(short.encode()) == tuple(
        map(read_tree, (item["stmt"] for item in json.loads(native.parse(whole.encode()))["stmts"]))
    )


@pytest.mark.parametrize(
    "item", ["f(1)", "a", "(select g())", "1 + h(2)", "case when true then k() end", '"q"', "array[f(1)]", "1::s.mood", "(b)"]
)
@pytest.mark.parametrize("frame", ["select * from t where x in ({})", "insert into t values ({})", "select array[{}]"])
def test_whatever_is_no_constant_stays(frame: str, item: str) -> None:
    """Wherever it stands in the list."""
    for place in (0, 1, KEPT_ITEMS, KEPT_ITEMS + 1, 500, 1_000):
        constants = ["1"] * 1_000
        constants.insert(place, item)
        assert item in rest(frame.format(", ".join(constants)))


@pytest.mark.parametrize(
    "text",
    [
        f"set x = {numbers(200)}",
        f"select {numbers(200)}",
        "select '" + "(1), " * 200 + "'",
        'select "' + "(1), " * 200 + '"',
        f"select case {' '.join(f'when {number} then {number}' for number in range(200))} end",
        ", ".join(["(a)"] * 200),
    ],
)
def test_what_is_no_list_in_brackets_stays(text: str) -> None:
    assert rest(text) == text


def test_short_texts_stay() -> None:
    text = f"select 1 where 1 in ({numbers(1_000)})".encode()
    assert shortened(text) == text


CONSTANTS = st.sampled_from(["1", "'x'", "null", "-2.5", "default", "(1, 2)", "array[1, 2]", "f(1)", "a", "- 3", "true", "((1))"])


@settings(max_examples=150, deadline=None)
@given(
    first=st.lists(st.tuples(CONSTANTS, st.integers(1, 90)), min_size=1, max_size=6),
    frame=st.sampled_from(
        [
            "select g() from t where x in ({})",
            "insert into t values ({0}), ({0}), (h())",
            "delete from t where x in ({}) and k(y)",
            "select f({}) from u limit g()",
        ]
    ),
)
def test_property_the_effects_stay(first: list[tuple[str, int]], frame: str) -> None:
    items = ", ".join(", ".join([item] * count) for item, count in first)
    whole = frame.format(items)
    (statement,) = read_whole(whole)
    (short,) = read(rest(whole).encode())
    assert (short.kind, set(short.effects)) == (statement.kind, set(statement.effects))
