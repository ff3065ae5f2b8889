"""An approval as it is read: which state counts, whose word counts, what is marked as destructive."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from dbshield.control.approval import Approval, Decision, State, read_approval
from dbshield.control.asking import digest
from dbshield.errors import StoreError
from dbshield.model import Effect, Flag, ObjectKind, ObjectName, Operation
from dbshield.store.schema import MOVES, approvals

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
ROW: dict[str, object] = {
    **dict.fromkeys((column.name for column in approvals.columns), None),
    "id": "apr-aaaaaaaa",
    "environment": "staging",
    "agent": "claude",
    "access": "write",
    "database": "shop",
    "application": "",
    "statement": "DELETE FROM t",
    "settings": {},
    "digest": digest(
        environment="staging", agent="claude", database="shop", statement="DELETE FROM t", parameters=None, settings={}
    ),
    "normal": "",
    "effects": ["delete table t"],
    "findings": [],
    "remembers": [],
    "requested_at": NOW,
    "expires_at": NOW + timedelta(hours=1),
    "needed": 2,
    "state": "waiting",
    "without_undo": False,
}


def approval(**changes: object) -> Approval:
    return read_approval(ROW | changes)


def test_every_state_of_the_table_is_known() -> None:
    assert {state.value for state in State} == set(MOVES)
    assert {after for moves in MOVES.values() for after in moves} < set(MOVES)


@pytest.mark.parametrize("state", State)
def test_what_is_open_expires_at_its_end_and_nothing_else_does(state: State) -> None:
    one = approval(state=state.value)
    end = one.expires_at
    assert one.state_at(end - timedelta(microseconds=1)) is state
    assert one.state_at(end) is (State.EXPIRED if state in {State.WAITING, State.APPROVED} else state)


def test_a_changed_row_is_not_intact() -> None:
    assert approval().intact
    others: tuple[dict[str, object], ...] = (
        {"statement": "DELETE FROM u"},
        {"parameters": []},
        {"settings": {"search_path": "archive"}},
        {"agent": "other"},
        {"environment": "production"},
        {"database": "live"},
        {"digest": bytes(32)},
    )
    for changes in others:
        assert not approval(**changes).intact, changes
    with pytest.raises(StoreError, match="does not know"):
        approval(parameters={"type": 1})


def test_whose_word_counts() -> None:
    said = Decision(person="ann", approves=True, reason="", at=NOW, counts=True)
    one = replace(
        approval(), decisions=(said, replace(said, person="bob", counts=False), replace(said, person="eve", approves=False))
    )
    assert one.approved_by == ("ann",)


def effect(operation: Operation, *flags: Flag) -> str:
    return str(Effect(operation=operation, kind=ObjectKind.TABLE, name=ObjectName(name="t"), flags=frozenset(flags)))


@pytest.mark.parametrize(
    ("effects", "destructive"),
    [
        ([], True),
        ([effect(Operation.READ)], False),
        ([effect(Operation.CREATE), effect(Operation.INSERT)], False),
        ([effect(Operation.READ), effect(Operation.DELETE, Flag.BOUNDED)], True),
        ([effect(Operation.UPDATE)], True),
        ([effect(Operation.DROP, Flag.CASCADE)], True),
        ([effect(Operation.ALTER)], True),
        ([effect(Operation.UNKNOWN)], True),
        ([effect(Operation.CREATE, Flag.REWRITE, Flag.TEMPORARY)], True),
        (["something new"], True),
    ],
)
def test_what_is_not_known_to_keep_data_is_marked(effects: list[str], destructive: bool) -> None:
    assert approval(effects=effects).destructive == destructive
