"""Searching the audit a page at a time, within a bounded time."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import pytest
from sqlalchemy import text
from support.control import NOW, registered, tables_database
from support.servers import Server

from dbshield.control.audit_read import Filter, verify
from dbshield.control.audit_search import FIRST_STEP, LONGEST_STEP, chain, entry, record_verification, search
from dbshield.control.audit_store import Entry, append
from dbshield.errors import ConfigError
from dbshield.store.database import Database

ENTRIES = FIRST_STEP + LONGEST_STEP // 8
RARE = 3
"""The id of the only entry of its kind, at the very beginning."""


@pytest.fixture
def control_dsn(server18: Server) -> Iterator[str]:
    with tables_database(server18) as dsn:
        yield dsn


@pytest.fixture(scope="module")
def database(server18: Server) -> Iterator[Database]:
    with tables_database(server18) as dsn, registered(dsn) as made:
        entries = [
            Entry(
                at=NOW + timedelta(seconds=n),
                kind="rare" if n == RARE else "statement",
                fields={"agent": f"agent-{n % 10}", "verdict": "deny" if n % 1000 == 0 else "allow", "statement": f"select {n}"},
            )
            for n in range(1, ENTRIES + 1)
        ]
        with made.transaction() as connection:
            for first in range(0, ENTRIES, 2000):
                append(connection, entries[first : first + 2000])
        yield made


def test_pages_follow_each_other_to_the_beginning(database: Database) -> None:
    which, seen = Filter(verdict="deny"), []
    before = None
    while True:
        found = search(database, Filter(verdict="deny", before=before), limit=4, patience=60)
        seen += [link.id for link in found.links]
        before = found.older
        if before is None:
            break
    assert seen == [n for n in range(ENTRIES, 0, -1) if n % 1000 == 0]
    assert search(database, which, limit=4, patience=60).full


def test_a_search_without_patience_says_how_far_it_came_and_goes_on(database: Database) -> None:
    found = search(database, Filter(kind="rare"), patience=0)
    assert (found.links, found.full) == ((), False)
    assert found.searched_to == ENTRIES - FIRST_STEP + 1
    steps = 1
    while not found.links:
        assert found.older is not None
        found = search(database, Filter(kind="rare", before=found.older), patience=0)
        steps += 1
    assert [link.id for link in found.links] == [RARE]
    assert found.older is None, "the beginning was reached"
    assert steps == -(-ENTRIES // FIRST_STEP)


def test_what_is_none_is_told(database: Database) -> None:
    with pytest.raises(ConfigError, match="is no rule"):
        search(database, Filter(rule="nothing"))
    assert entry(database, ENTRIES + 1_000_000) is None
    found = entry(database, RARE)
    assert found is not None
    assert found.kind == "rare"


def test_the_newest_verification_is_found_and_is_an_entry_itself(control: Database) -> None:
    database = control
    with database.transaction() as connection:
        append(connection, [Entry(at=NOW, kind="statement", fields={"statement": f"select {n}"}) for n in range(1, 10)])
    assert chain(database).verified is None
    report = verify(database)
    record_verification(database, report, person="ann", now=NOW)
    state = chain(database)
    assert state.position == report.last + 1
    assert state.verified is not None
    assert (state.verified.person, state.verified.last, state.verified.faults) == ("ann", report.last, ())
    with database.transaction() as connection:
        connection.execute(text("set local session_replication_role = replica"))
        connection.execute(text("update dbshield.audit set entry = replace(entry, 'select 7', 'select 8') where id = 7"))
    record_verification(database, verify(database), person="bob", now=NOW)
    state = chain(database)
    assert state.verified is not None
    assert state.verified.person == "bob"
    assert "entry 7 was changed" in state.verified.faults[0]
