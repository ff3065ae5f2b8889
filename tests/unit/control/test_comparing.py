"""What was shown to a human, and what a statement then did."""

from __future__ import annotations

import pytest

from dbshield.control.comparing import compare
from dbshield.control.running import Answer
from dbshield.control.witness import Changed, Losses, Relation
from dbshield.errors import Refused

ORDERS = Relation(oid=1, schema="shop", name="orders", kind="r")
SEQUENCE = Relation(oid=2, schema="shop", name="orders_id_seq", kind="S")


def answer(rows: int | None) -> Answer:
    return Answer(tag=f"DELETE {rows}", rows=rows, result=None)


def losing(deleted: int) -> Losses:
    return Losses(changed=(Changed(relation=ORDERS, inserted=0, updated=0, deleted=deleted),))


@pytest.mark.parametrize(
    ("shown", "rows", "tolerance", "agrees"),
    [
        (100, 100, 0.0, True),
        (100, 101, 0.0, False),
        (100, 110, 0.1, True),
        (100, 111, 0.1, False),
        (100, 90, 0.1, True),
        (100, 89, 0.1, False),
        (9, 10, 0.1, False),
        (0, 1, 1.0, False),
        (0, 0, 0.0, True),
        (None, 5000, 0.0, True),
    ],
)
def test_rows_may_differ_by_their_share_alone(shown: int | None, rows: int, tolerance: float, agrees: bool) -> None:
    preview = {"rows": shown, "objects": ["shop.orders"]}
    if agrees:
        compare(preview, answer(rows), losing(rows), tolerance=tolerance)
    else:
        with pytest.raises(Refused, match="were shown to the human"):
            compare(preview, answer(rows), losing(rows), tolerance=tolerance)


def test_an_object_that_was_not_shown_is_named() -> None:
    with pytest.raises(Refused, match=r"shop\.orders"):
        compare({"rows": None, "objects": ["shop.customers"]}, answer(None), Losses(gone=(ORDERS,)), tolerance=1)
    with pytest.raises(Refused, match=r"shop\.orders"):
        compare({"rows": None, "objects": []}, answer(3), losing(3), tolerance=1)


def test_sequences_and_updated_rows_need_not_have_been_shown() -> None:
    updated = Changed(relation=ORDERS, inserted=0, updated=3, deleted=0)
    compare({"rows": None, "objects": []}, answer(3), Losses(gone=(SEQUENCE,), changed=(updated,)), tolerance=0)


def test_without_a_preview_there_is_nothing_to_compare() -> None:
    compare(None, answer(1000), losing(1000), tolerance=0)
    compare({"rows": None, "objects": None}, answer(1000), losing(1000), tolerance=0)
