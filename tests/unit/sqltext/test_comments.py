"""Comments are white space to the server; libpg_query keeps them as tokens, which once made it read other things."""

from __future__ import annotations

import pytest

from dbshield.sqltext.agreement import agree
from dbshield.sqltext.postgres import read
from dbshield.sqltext.split import split
from dbshield.sqltext.statement import Trouble, Unreadable


def test_regression_a_constant_that_goes_on_behind_a_comment_is_one() -> None:
    """The server runs one body, `begin delete from t; end; --begin null; end`; two were read, and the last one judged."""
    (statement,) = read(b"do 'begin delete from t; end; --' -- x\n 'begin null; end'")
    assert "delete table t" in map(str, statement.effects)


@pytest.mark.parametrize(
    ("commented", "plain"),
    [
        ("delete from t where a not /* x */ in (1)", "delete from t where a not in (1)"),
        ("delete from t where a not -- x\n between 1 and 2", "delete from t where a not between 1 and 2"),
        ("delete from t where a not /**/ like 'x%'", "delete from t where a not like 'x%'"),
        ("update t set a = 'x' -- y\n 'z' where id = 1", "update t set a = 'xz' where id = 1"),
        ("select a from t order by a nulls /* x */ first", "select a from t order by a nulls first"),
        ("select * from f() with /**/ ordinality", "select * from f() with ordinality"),
        ("select U&\"d!0061ta\" /**/ uescape '!' from t", "select data from t"),
        ("delete /* a /* b */ c */ from t where id = 1 -- z", "delete from t where id = 1"),
        ("insert into t values ('/* no comment */', '-- neither')", "insert into t values ('x', 'y')"),
    ],
)
def test_a_comment_changes_nothing(commented: str, plain: str) -> None:
    statements = read(commented.encode())
    assert statements == read(plain.encode())
    agree(commented.encode(), statements)


def test_a_fault_is_told_with_its_place_in_the_text_as_it_was_sent() -> None:
    with pytest.raises(Unreadable) as caught:
        read(b"select /* a long comment */ 1 from from t")
    assert caught.value.trouble is Trouble.SYNTAX
    assert caught.value.message.endswith("at character 36")


def test_statements_are_split_where_they_stand_in_the_text_as_it_was_sent() -> None:
    text = b"select a not /* ; */ in (1); -- x\n delete from t where a not /**/ in (2) -- end"
    pieces = [text[start:end].strip() for start, end in split(text)]
    assert [piece.split()[-2:] for piece in pieces] == [[b"in", b"(1)"], [b"--", b"end"]]
