"""The audit in the control database, on real servers: the chain as the function makes it, and what a command adds."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from support.control import control_database, empty_database
from support.servers import Server

from dbshield.control.audit_store import APPEND, Entry, append, record
from dbshield.store.database import Database

AT = datetime(2026, 5, 3, 3, 9, 37, 123456, tzinfo=UTC)
Rows = list[tuple[Any, ...]]


@pytest.fixture
def dsn(server: Server) -> Iterator[str]:
    with empty_database(server) as dsn:
        yield dsn


@pytest.fixture
def control(dsn: str) -> Iterator[Database]:
    with control_database(dsn) as database:
        yield database


def rows(dsn: str, query: str, *values: object) -> Rows:
    with psycopg.connect(dsn, autocommit=True) as connection:
        return connection.execute(query, values or None).fetchall()


def line(number: int) -> str:
    return Entry(at=AT, kind="test", fields={"number": number}).line()


def test_an_entry_has_its_columns_and_its_letters(control: Database, dsn: str) -> None:
    fields = {
        "environment": "staging",
        "agent": "claude",
        "database": "shop",
        "session": 7,
        "person": "ann",
        "verdict": "hold",
        "rules": ["DS101", "DS102"],
        "when": AT,
    }
    assert record(control, kind="approval-decided", at=AT, **fields) == 1
    (found,) = rows(
        dsn,
        "select id, at, kind, environment, agent, database, session, person, verdict, rules, writer, entry from dbshield.audit",
    )
    *values, entry = found
    assert values == [1, AT, "approval-decided", "staging", "claude", "shop", 7, "ann", "hold", ["DS101", "DS102"], None]
    stamped = {"ts": "2026-05-03T03:09:37.123456Z", "event": "approval-decided"}
    assert json.loads(entry) == stamped | fields | {"when": "2026-05-03T03:09:37.123456Z"}


@pytest.mark.parametrize("text", ["\0", "a\ud800b", "\udc00", "\U0001f600", "\\u0000", "\\\0", '"\u2028\n', "\\ud83d\ude00"])
def test_no_text_is_refused(control: Database, dsn: str, text: str) -> None:
    record(control, kind="x", agent=text, more={text: [text]})
    ((agent, entry),) = rows(dsn, "select agent, entry from dbshield.audit")
    expected = "".join("\ufffd" if sign == "\0" or "\ud800" <= sign <= "\udfff" else sign for sign in text)
    assert agent == expected
    assert json.loads(entry)["more"] == {expected: [expected]}


def test_each_entry_is_hashed_with_the_one_in_front_of_it(control: Database, dsn: str) -> None:
    writer = uuid4()
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(APPEND, [writer, 1, [line(1), line(2)]])
    record(control, kind="from a command")
    found = rows(
        dsn,
        "select id, (extract(epoch from recorded_at) * 1000000)::bigint, writer, sequence, entry, hash"
        " from dbshield.audit order by id",
    )
    assert [(row[0], row[2], row[3]) for row in found] == [(1, writer, 1), (2, writer, 2), (3, None, None)]
    before = bytes(32)
    for number, micros, who, sequence, entry, digest in found:
        said = f"{number} {micros} {who or '-'} {sequence or '-'} {entry}"
        before = hashlib.sha256(before + said.encode()).digest()
        assert digest == before
    assert rows(dsn, "select position, hash from dbshield.audit_head") == [(3, before)]


@pytest.mark.parametrize(
    ("first", "numbers", "expected"), [(1, [1, 2, 3], []), (2, [2, 3, 4, 5], [4, 5]), (4, [4], [4]), (1, [1], []), (6, [6], [6])]
)
def test_what_a_writer_brings_twice_is_taken_once(
    control: Database, dsn: str, first: int, numbers: list[int], expected: list[int]
) -> None:
    writer = uuid4()
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(APPEND, [writer, 1, [line(number) for number in (1, 2, 3)]])
        connection.execute(APPEND, [uuid4(), 1, [line(1)]])
        connection.execute(APPEND, [writer, first, [line(number) for number in numbers]])
    found = rows(
        dsn, "select sequence, (entry::json ->> 'number')::int from dbshield.audit where writer = %s order by id", writer
    )
    assert found == [(number, number) for number in [1, 2, 3, *expected]]
    assert rows(dsn, "select max(id) = count(*) from dbshield.audit") == [(True,)]


def test_a_transaction_that_is_rolled_back_leaves_no_gap(control: Database, dsn: str) -> None:
    with pytest.raises(ZeroDivisionError), control.transaction() as connection:
        append(connection, [Entry(at=AT, kind="undone")])
        raise ZeroDivisionError
    assert record(control, kind="kept") == 1


def test_nobody_changes_the_audit_by_mistake(control: Database, dsn: str) -> None:
    record(control, kind="kept")
    (partition,) = next(
        iter(
            rows(dsn, "select inhrelid::regclass::text from pg_inherits where inhparent = 'dbshield.audit'::regclass order by 1")
        )
    )
    for table in ("dbshield.audit", partition):
        for change in (f"update {table} set entry = '{{}}'", f"delete from {table}", f"truncate {table}"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege, match="only ever added to"):
                rows(dsn, change)
