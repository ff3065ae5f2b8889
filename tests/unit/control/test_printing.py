"""What a human reads is what would run."""

from __future__ import annotations

import struct

import pytest

from dbshield.control.asking import Parameter
from dbshield.control.printing import (
    PRETTY_MOST,
    SETTINGS_PLAIN,
    SETTINGS_SHOWN,
    VALUE_MOST,
    print_parameter,
    print_parameters,
    print_settings,
    readable,
)
from dbshield.session.terms import CARRIED
from dbshield.sqltext import native
from dbshield.visible import visible_lines


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("delete from orders", "DELETE FROM orders"),
        ("DELETE FROM shop.t /* fine, says the boss */ WHERE a=1", "DELETE FROM shop.t\nWHERE\n  a = 1"),
        ("drop table a,b cascade", "DROP TABLE a, b CASCADE"),
        ("delete from a; drop table b", "DELETE FROM a;\nDROP TABLE b"),
        ("do $$ begin delete from a; end $$", "DO $$ begin delete from a; end $$"),
        ("not sql", None),
        ("delete from t where a = '\0'", None),
        (f"select '{'x' * PRETTY_MOST}'", None),
        ("select " + "1+" * 5000 + "1", None),
    ],
)
def test_a_statement_is_laid_out_where_that_is_certain(statement: str, expected: str | None) -> None:
    assert readable(statement) == expected


@pytest.mark.parametrize(
    "statement",
    [
        "discard all",
        "checkpoint",
        "cluster t",
        "explain analyze delete from t",
        "copy (delete from t returning *) to stdout",
        "with gone as (delete from t returning *) select * from gone",
        "alter table t detach partition p",
        "update t set (a, b) = (select 1, 2)",
        "delete from only t",
        "delete from t where a <@ b and not c ? 'x'",
        "truncate only a, b restart identity cascade",
        "merge into a using b on a.id = b.id when not matched by source then delete",
        "insert into t values (1) on conflict (a) do update set b = excluded.b where t.c is null",
        "drop function f(int, text)",
        'select 1 as "a""b", U&\'\\0041\'',
    ],
)
def test_nothing_is_laid_out_as_another_statement(statement: str) -> None:
    """sqlglot takes some of these for something else; then its form is not shown."""
    shown = readable(statement)
    if shown is not None:
        assert tree(shown) == tree(statement)


def tree(statement: str) -> bytes:
    return native.deparse(native.parse_protobuf(statement.encode()))


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "statement",
    [
        "select " + "array[" * 150 + "1" + "]" * 150,
        "select " + "f(array[" * 60 + "1" + "])" * 60,
        "select " + "case when true then " * 150 + "1" + " end" * 150,
        "delete from t where " + " and ".join(["a = 1"] * 2000),
        "select * from " + "(" * 200 + "a join b on true" + ")" * 200,
        "select " + "(select " * 80 + "1" + ")" * 80,
    ],
    ids=["arrays", "calls of arrays", "cases", "conditions", "joins", "subqueries"],
)
def test_an_agent_cannot_keep_the_human_waiting(statement: str) -> None:
    """sqlglot reads some of these for hours, or not at all."""
    shown = readable(statement)
    assert shown is None or tree(shown) == tree(statement)


def test_what_a_terminal_obeys_or_hides_is_spelled_out() -> None:
    assert visible_lines("DELETE FROM a\r -- \x1b[2K\u202e\nWHERE\tb = 'é'") == [
        "DELETE FROM a\\r -- \\x1b[2K\\u202e",
        "WHERE\tb = 'é'",
    ]


@pytest.mark.parametrize(
    ("parameter", "expected"),
    [
        (Parameter(type=23, format=0, value=b"7"), "'7' (int4)"),
        (Parameter(type=23, format=1, value=struct.pack("!i", -7)), "-7 (int4)"),
        (Parameter(type=25, format=1, value=b"it's"), '"it\'s" (text)'),
        (Parameter(type=0, format=0, value="ü\u202e".encode()), "'ü\\u202e'"),
        (Parameter(type=0, format=1, value=b"\x00\xff"), "0x00ff"),
        (Parameter(type=23, format=1, value=b"\x00"), "0x00 (int4)"),
        (Parameter(type=23, format=1, value=b"\x00" * 8), "0x0000000000000000 (int4)"),
        (Parameter(type=16, format=1, value=b"\x01"), "True (bool)"),
        (Parameter(type=2950, format=1, value=b"\x11" * 16), "11111111-1111-1111-1111-111111111111 (uuid)"),
        (Parameter(type=1114, format=1, value=b"\x00" * 8), "0x0000000000000000 (timestamp)"),
        (Parameter(type=424242, format=1, value=b"\x01"), "0x01 (type 424242)"),
        (Parameter(type=23, format=1, value=None), "NULL (int4)"),
    ],
)
def test_a_parameter_is_shown_by_its_type(parameter: Parameter, expected: str) -> None:
    assert print_parameter(parameter) == expected


def test_a_long_parameter_tells_its_length() -> None:
    shown = print_parameter(Parameter(type=25, format=0, value=b"x" * 5000))
    assert shown.endswith("… (5000 bytes) (text)")
    assert len(shown) < VALUE_MOST + 40


def test_where_people_decide_a_parameter_is_whole() -> None:
    hidden = "x" * 5000 + "'; drop table orders; --"
    (shown,) = print_parameters([Parameter(type=25, format=0, value=hidden.encode())], most=None)
    assert shown == f"$1 = {hidden!r} (text)"


@pytest.mark.parametrize("sign", ["\u115f", "\u1160", "\u3164", "\uffa0", "\u2800", "\u034f", "\ufe0f", "\U000e0101"])
def test_what_looks_like_nothing_is_spelled_out(sign: str) -> None:
    """PostgreSQL takes them for letters of a name: `orders` with one behind it is another table."""
    assert visible_lines(f"drop table orders{sign}") == ["drop table orders" + sign.encode("unicode_escape").decode()]


def test_parameters_have_their_numbers() -> None:
    assert print_parameters((Parameter(type=0, format=0, value=b"a"), Parameter(type=0, format=0, value=None))) == [
        "$1 = 'a'",
        "$2 = NULL",
    ]
    assert print_parameters(None) == []


def test_a_setting_that_turns_the_meaning_of_a_text_is_shown() -> None:
    plain = {"transform_null_equals": "off", "timezone": "UTC", "array_nulls": "on", "lc_numeric": "C"}
    assert print_settings(plain) == {"timezone": "UTC"}
    turned = {**plain, "search_path": "shop\u202e", "transform_null_equals": "on", "array_nulls": "off"}
    assert print_settings(turned) == {
        "search_path": "shop\\u202e",
        "timezone": "UTC",
        "array_nulls": "off",
        "transform_null_equals": "on",
    }


def test_the_settings_that_are_shown_are_carried() -> None:
    assert {*SETTINGS_SHOWN, *SETTINGS_PLAIN} <= CARRIED
