"""What a decision is bound to: the digest; how parameters are kept; what a denial is remembered by."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dbshield.control.asking import Ask, Parameter, denial_keys, digest, new_id, read_parameters, remembered, store_parameters
from dbshield.errors import StoreError
from dbshield.model import AccessLevel, Effect, Finding, Hold, ObjectKind, ObjectName, Operation

ASK = Ask(
    environment="production", agent="claude", access=AccessLevel.WRITE, database="shop", statement="DELETE FROM t WHERE a = $1"
)
SEVEN = Parameter(type=23, format=0, value=b"7")

parameters = st.none() | st.lists(
    st.builds(
        Parameter,
        type=st.integers(0, (1 << 32) - 1),
        format=st.integers(0, 1),
        value=st.none() | st.binary(max_size=12),
    ),
    max_size=4,
).map(tuple)
settings = st.dictionaries(st.text(max_size=4), st.text(max_size=4), max_size=3)
asks = st.tuples(st.text(max_size=6), st.text(max_size=6), st.text(max_size=6), st.text(max_size=12), parameters, settings)


def of(ask: tuple[str, str, str, str, tuple[Parameter, ...] | None, dict[str, str]]) -> bytes:
    environment, agent, database, statement, given, settings = ask
    return digest(
        environment=environment, agent=agent, database=database, statement=statement, parameters=given, settings=settings
    )


@given(asks, asks)
def test_two_asks_have_one_digest_only_if_they_are_the_same(one: object, other: object) -> None:
    assert (of(one) == of(other)) == (one == other)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "other",
    [
        replace(ASK, statement="DELETE FROM t WHERE a = $1 "),
        replace(ASK, statement="DELETE FROM t WHERE a = $2"),
        replace(ASK, environment="staging"),
        replace(ASK, agent="cloude"),
        replace(ASK, database="shop2"),
        replace(ASK, environment="productionc", agent="laude"),
        replace(ASK, settings={"search_path": ""}),
        replace(ASK, settings={"search_path": "archive"}),
        replace(ASK, settings={"search_path": "", "timezone": "UTC"}),
        replace(ASK, parameters=()),
        replace(ASK, parameters=(SEVEN,)),
        replace(ASK, parameters=(replace(SEVEN, value=b"8"),)),
        replace(ASK, parameters=(replace(SEVEN, value=None),)),
        replace(ASK, parameters=(replace(SEVEN, value=b""),)),
        replace(ASK, parameters=(replace(SEVEN, type=20),)),
        replace(ASK, parameters=(replace(SEVEN, format=1),)),
        replace(ASK, parameters=(SEVEN, SEVEN)),
    ],
)
def test_whatever_would_run_otherwise_has_another_digest(other: Ask) -> None:
    assert other.digest != ASK.digest
    assert len({replace(other, statement=f"{other.statement}{tail}").digest for tail in ("", " ", ";", "\n")}) == 4


def test_who_is_connected_and_what_rules_say_is_no_part_of_it() -> None:
    assert replace(ASK, session=9, application="psql", normal="x", access=AccessLevel.READ).digest == ASK.digest


def test_the_digest_stays_what_it_is() -> None:
    """Approvals in the table were made with it: another way to compute it would void them all."""
    assert replace(ASK, parameters=(SEVEN,)).digest.hex() == "10dfda7dae3ee114cf8c45a3a8bfff7560e113ca5db461ec71f4acea46d44e44"


@given(parameters)
def test_parameters_come_back_as_they_were(given: tuple[Parameter, ...] | None) -> None:
    assert read_parameters(store_parameters(given)) == given


@pytest.mark.parametrize(
    "stored",
    [
        "text",
        {},
        [7],
        [{}],
        [{"type": 23, "format": 0}],
        [{"type": -1, "format": 0, "value": None}],
        [{"type": True, "format": 0, "value": None}],
        [{"type": 23, "format": 2, "value": None}],
        [{"type": 23, "format": 0, "value": "not base 64!"}],
        [{"type": 23, "format": 0, "value": 7}],
    ],
)
def test_parameters_of_another_form_are_none(stored: object) -> None:
    with pytest.raises(StoreError, match="does not know"):
        read_parameters(stored)


def test_ids_are_short_and_differ() -> None:
    made = {new_id() for _ in range(200)}
    assert len(made) == 200
    assert all(
        len(one) == 12 and one.startswith("apr-") and set(one[4:]) <= set("abcdefghijklmnopqrstuvwxyz234567") for one in made
    )


def effect(operation: Operation, name: str, schema: str = "", kind: ObjectKind = ObjectKind.TABLE) -> Effect:
    return Effect(operation=operation, kind=kind, name=ObjectName(schema=schema, name=name))


@pytest.mark.parametrize(
    ("denied", "asked", "same"),
    [
        (effect(Operation.DELETE, "orders"), effect(Operation.DELETE, "orders"), True),
        (effect(Operation.DELETE, "orders"), effect(Operation.TRUNCATE, "orders"), True),
        (effect(Operation.DELETE, "orders"), effect(Operation.DROP, "orders"), True),
        (effect(Operation.DELETE, "orders", "shop"), effect(Operation.DROP, "orders"), True),
        (effect(Operation.DELETE, "orders"), effect(Operation.DROP, "orders", "shop"), True),
        (effect(Operation.DELETE, "orders", "shop"), effect(Operation.DELETE, "orders", "shop"), True),
        (effect(Operation.DELETE, "orders", "shop"), effect(Operation.DELETE, "orders", "scratch"), False),
        (effect(Operation.DELETE, "orders"), effect(Operation.DELETE, "customers"), False),
        (effect(Operation.DELETE, "orders"), effect(Operation.UPDATE, "orders"), False),
        (effect(Operation.DROP, "orders"), effect(Operation.DROP, "orders", kind=ObjectKind.VIEW), False),
        (effect(Operation.READ, "orders"), effect(Operation.READ, "orders"), False),
    ],
)
def test_a_denial_meets_the_same_object_however_it_is_written(denied: Effect, asked: Effect, same: bool) -> None:
    ask = replace(ASK, effects=(denied,))
    assert bool(set(remembered(ask)) & set(denial_keys([asked]))) == same


def test_only_what_a_rule_spoke_about_is_remembered() -> None:
    spoken, besides = effect(Operation.DELETE, "orders"), effect(Operation.INSERT, "log")
    finding = Finding(rule="DS201", name="n", verdict=Hold(), message="m", hint="h", effect=spoken)
    ask = replace(ASK, effects=(spoken, besides), findings=(finding,))
    assert remembered(ask) == ["destroy table orders"]
    assert remembered(replace(ask, findings=(replace(finding, effect=None),))) == ["destroy table orders", "insert table log"]
