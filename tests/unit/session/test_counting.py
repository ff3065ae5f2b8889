"""The counting queries: their texts, what they say of rows, and where a position in them is in the client's own text."""

from __future__ import annotations

import pytest
from support.conversation import (
    COUNTER,
)

from dbshield.model import Counted
from dbshield.session.counting import Limits, RowCounter, Wrapped, changed_rows
from dbshield.wire.result import DataRow

DELETE = b"delete from shop.orders where id = 1"


class TestTheQueries:
    def test_names_of_tables_are_quoted_into_the_text(self) -> None:
        counter = RowCounter(COUNTER, lambda limit, rows, pending: {"shop.it's": limit - 1})
        counter.limits = Limits(max_rows_per_hour=10, protected=('a"b.%', "c\\_d.%"))
        text = counter.wrap(DELETE, (Counted(statement=0),), 100, statements=1).text.decode()
        assert """'{"shop.it''s": 9}', '{"a\\"b.%","c\\\\_d.%"}')""" in text

    def test_without_a_budget_nobody_is_asked_what_is_left(self) -> None:
        counter = RowCounter(COUNTER, lambda limit, rows, pending: pytest.fail("asked"))
        assert b"'9223372036854775807', '{}'" in counter.wrap(DELETE, (Counted(statement=0),), 100, statements=1).text

    def test_positions_are_counted_in_characters(self) -> None:
        counter = RowCounter(COUNTER)
        client = "select 'äö'; delete from t where ü = 1; select nope"
        wrapped = counter.wrap(client.encode(), (Counted(statement=1),), 1, statements=3)
        new = wrapped.text.decode()
        for word in ("select 'äö'", "where", "nope"):
            assert wrapped.position(new.index(word) + 1) == client.index(word) + 1

    def test_a_position_before_everything_is_left_alone(self) -> None:
        assert Wrapped(text=b"", kept=((5, 0),)).position(3) == 3

    def test_rows_by_table(self) -> None:
        assert changed_rows(DataRow(values=(b'{"a.b": 3, "c.d": 1}',)).encode()[5:]) == {"a.b": 3, "c.d": 1}
