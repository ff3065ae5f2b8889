"""The chain of the audit: any single change, drop or exchange is found and named."""

from __future__ import annotations

import dataclasses
import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dbshield.control.audit_chain import GENESIS, RETENTION_KIND, Fault, Head, Link, Verifier, link_hash
from dbshield.control.audit_store import stamp

BEGIN = datetime(2026, 5, 3, 3, 9, 37, 123456, tzinfo=UTC)
WRITER = UUID("7d444840-9dc0-11d1-b245-5ffdce74fad2")
KEYS = ("environment", "agent", "database", "session", "person", "verdict", "rules")


def link(number: int, before: bytes, *, kind: str = "statement", **said: Any) -> Link:
    at = BEGIN + timedelta(seconds=number)
    entry = json.dumps({"ts": stamp(at), "event": kind, **said})
    columns = {key: said.get(key) for key in KEYS}
    columns["rules"] = tuple(said["rules"]) if "rules" in said else None
    made = Link(
        id=number,
        recorded_at=at + timedelta(milliseconds=7),
        at=at,
        kind=kind,
        writer=WRITER if number % 3 else None,
        sequence=number if number % 3 else None,
        entry=entry,
        hash=b"",
        **columns,
    )
    return dataclasses.replace(made, hash=link_hash(before, made))


def chain(count: int, *, first: int = 1, before: bytes = GENESIS) -> list[Link]:
    links: list[Link] = []
    for number in range(first, first + count):
        said: dict[str, Any] = {"agent": "claude", "session": number % 4, "verdict": "deny", "rules": ["DS101"]}
        said["statement"] = f"drop t{number}"
        links.append(link(number, before, **said))
        before = links[-1].hash
    return links


def head_of(links: list[Link]) -> Head:
    return Head(position=links[-1].id, hash=links[-1].hash, recorded_at=links[-1].recorded_at, dropped=0, dropped_hash=GENESIS)


def faults(links: list[Link], head: Head) -> list[Fault]:
    verifier = Verifier(head)
    found = [fault for one in links for fault in verifier.take(one)]
    return found + list(verifier.finish())


CHAIN = chain(30)
HEAD = head_of(CHAIN)
places = st.integers(0, len(CHAIN) - 1)


def test_a_whole_chain_is_fine() -> None:
    assert faults(CHAIN, HEAD) == []
    empty = Head(position=0, hash=GENESIS, recorded_at=None, dropped=0, dropped_hash=GENESIS)
    assert faults([], empty) == []


CHANGES: dict[str, Any] = {
    "recorded_at": BEGIN - timedelta(days=1),
    "at": BEGIN - timedelta(days=1),
    "kind": "connected",
    "environment": "staging",
    "agent": None,
    "database": "other",
    "session": 99,
    "person": "ann",
    "verdict": "allow",
    "rules": (),
    "writer": UUID(int=5),
    "sequence": 1_000,
    "entry": '{"ts":"2026-05-03T03:09:37.123456Z","event":"statement"}',
    "hash": bytes(range(32)),
}


@pytest.mark.parametrize("field", CHANGES)
@given(place=places)
def test_any_field_that_is_changed_is_found_in_its_place(field: str, place: int) -> None:
    changed = dataclasses.replace(CHAIN[place], **{field: CHANGES[field]})
    found = faults([*CHAIN[:place], changed, *CHAIN[place + 1 :]], HEAD)
    assert found
    assert found[0].id == CHAIN[place].id
    assert found[0].kind in {"changed", "column"}


@given(place=places, position=st.integers(0, 1_000), character=st.characters(min_codepoint=32, max_codepoint=126))
def test_any_letter_that_is_changed_is_found(place: int, position: int, character: str) -> None:
    entry = CHAIN[place].entry
    at = position % len(entry)
    other = entry[:at] + character + entry[at + 1 :]
    found = faults([*CHAIN[:place], dataclasses.replace(CHAIN[place], entry=other), *CHAIN[place + 1 :]], HEAD)
    assert [fault.id for fault in found[:1]] == ([] if other == entry else [CHAIN[place].id])


def test_regression_the_time_at_which_the_chain_ends_counts_too() -> None:
    """Set into the future, it kept what came later from ever being dropped; set back, it let months be filled that were over."""
    for moment in (None, BEGIN, BEGIN + timedelta(days=4000)):
        (found,) = faults(CHAIN, dataclasses.replace(HEAD, recorded_at=moment))
        assert (found.kind, found.id) == ("cut", CHAIN[-1].id)


@given(first=places, count=st.integers(1, 10))
def test_what_is_dropped_is_missed(first: int, count: int) -> None:
    kept = CHAIN[:first] + CHAIN[first + count :]
    (found,) = faults(kept, HEAD)
    assert found.id == CHAIN[first].id
    assert found.kind == ("missing" if first + count < len(CHAIN) else "cut")


@given(one=places, other=places)
def test_what_is_exchanged_is_found(one: int, other: int) -> None:
    """The entries change places, and each takes the id of its place."""
    links = list(CHAIN)
    links[one] = dataclasses.replace(CHAIN[other], id=CHAIN[one].id)
    links[other] = dataclasses.replace(CHAIN[one], id=CHAIN[other].id)
    found = faults(links, HEAD)
    assert {fault.id for fault in found} >= ({CHAIN[one].id, CHAIN[other].id} if one != other else set())
    assert bool(found) == (one != other)


@given(one=places, other=places)
def test_what_is_out_of_order_is_found(one: int, other: int) -> None:
    links = list(CHAIN)
    links[one], links[other] = links[other], links[one]
    assert bool(faults(links, HEAD)) == (one != other)


@given(place=places)
def test_what_is_put_in_between_is_found(place: int) -> None:
    found = faults([*CHAIN[: place + 1], CHAIN[place], *CHAIN[place + 1 :]], HEAD)
    assert [(fault.id, fault.kind) for fault in found] == [(CHAIN[place].id, "repeated")]


@given(place=places)
def test_a_tail_that_was_made_anew_does_not_reach_the_head(place: int) -> None:
    before = CHAIN[place - 1].hash if place else GENESIS
    forged = [link(CHAIN[place].id, before, agent="nobody", session=1)]
    forged += chain(len(CHAIN) - place - 1, first=CHAIN[place].id + 1, before=forged[0].hash)
    found = faults(CHAIN[:place] + forged, HEAD)
    assert [fault.kind for fault in found] == ["cut"]


def test_more_than_the_head_knows_is_found() -> None:
    assert [fault.kind for fault in faults(chain(31), HEAD)] == ["cut"]


def test_a_beginning_that_retention_dropped_is_excused_by_its_entry_alone() -> None:
    kept = CHAIN[10:]
    head = dataclasses.replace(HEAD, dropped=10, dropped_hash=CHAIN[9].hash)
    (found,) = faults(kept, head)
    assert (found.id, found.kind) == (11, "begin")
    said = {"from": 1, "to": 10, "hash": CHAIN[9].hash.hex()}
    for change, fine in (({}, True), ({"to": 9}, False), ({"hash": CHAIN[8].hash.hex()}, False)):
        excuse = link(31, CHAIN[-1].hash, kind=RETENTION_KIND, **(said | change))
        with_excuse = dataclasses.replace(head, position=31, hash=excuse.hash, recorded_at=excuse.recorded_at)
        assert (faults([*kept, excuse], with_excuse) == []) is fine


def test_a_beginning_that_was_cut_off_is_found() -> None:
    assert [fault.kind for fault in faults(CHAIN[3:], HEAD)] == ["missing"]
    assert [fault.kind for fault in faults(CHAIN[3:], dataclasses.replace(HEAD, dropped=3, dropped_hash=CHAIN[2].hash))] == [
        "begin"
    ]
    assert [fault.kind for fault in faults(CHAIN, dataclasses.replace(HEAD, dropped_hash=CHAIN[0].hash))] == ["begin"]
