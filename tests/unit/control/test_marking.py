"""What a human is shown as destructive: whole texts, in pieces, with the right ones marked."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dbshield.control.marking import marked
from dbshield.model import AccessLevel
from dbshield.policy.functions import FunctionCatalogue
from dbshield.policy.judge import Judge
from dbshield.policy.policy import Policy

JUDGE = Judge(policy=Policy(access=AccessLevel.MIGRATE), functions=FunctionCatalogue.builtin())


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("drop table shop.orders cascade", ["drop", "shop", "orders", "cascade"]),
        ("DELETE FROM Orders WHERE note = 'drop orders' -- delete orders", ["DELETE", "Orders"]),
        ('truncate "Odd Name", b', ["truncate", '"Odd Name"', "b"]),
        ("alter table t drop column note, add column memo text", ["alter", "t", "drop"]),
        ("with gone as (delete from t returning *) select count(*) from gone", ["delete", "t"]),
        ("create table fresh (a int)", []),
        ("select 'not a statement", []),
    ],
)
def test_what_destroys_is_marked(statement: str, expected: list[str]) -> None:
    effects = [str(effect) for effect in JUDGE.judge(statement.encode()).effects]
    pieces = marked(statement, effects)
    assert "".join(piece.text for piece in pieces) == statement
    found = [piece.text for piece in pieces if piece.destroys]
    assert [word for word in found if word != "note"] == expected


@given(
    st.text(max_size=60), st.lists(st.sampled_from(["drop table a cascade", "delete table b", "alter table c rewrite", "odd"]))
)
def test_the_pieces_are_the_text_whatever_it_is(statement: str, effects: list[str]) -> None:
    assert "".join(piece.text for piece in marked(statement, effects)) == statement
