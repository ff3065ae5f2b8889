"""The audit in the control database, on real servers: the chain as the function makes it, and what a command adds."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from support.control import registered, tables_database
from support.servers import Server

from dbshield.control import audit_read
from dbshield.control.audit_chain import EPOCH, GENESIS
from dbshield.control.audit_read import Filter
from dbshield.control.audit_store import APPEND, Entry, append, record
from dbshield.control.vault import Vault
from dbshield.errors import StoreError
from dbshield.store.database import Database

pytestmark = pytest.mark.one_server

AT = datetime(2026, 5, 3, 3, 9, 37, 123456, tzinfo=UTC)
Rows = list[tuple[Any, ...]]


@pytest.fixture
def dsn(server: Server) -> Iterator[str]:
    with tables_database(server) as dsn:
        yield dsn


@pytest.fixture
def control(dsn: str) -> Iterator[Database]:
    with registered(dsn) as database:
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


# Verifying, checkpoints, retention


@pytest.fixture
def kept(control: Database, dsn: str) -> Database:
    """A database with twenty entries of three writers."""
    writers = [uuid4(), uuid4()]
    with psycopg.connect(dsn, autocommit=True) as connection:
        for number in range(1, 10):
            for writer in writers:
                connection.execute(APPEND, [writer, number, [line(number)]])
        record(control, kind="executed", person="ann", environment="staging", statement="drop table a; -- ü")
        record(control, kind="approval-decided", person="bob", agent="claude", verdict="deny", rules=["DS101"])
    return control


def tamper(dsn: str, change: str) -> None:
    """As somebody who owns the database, and knows of the triggers."""
    with psycopg.connect(dsn) as connection:
        connection.execute("set local session_replication_role = replica")
        connection.execute(change.encode())


def test_the_chain_that_the_database_made_is_whole(kept: Database) -> None:
    report = audit_read.verify(kept)
    assert (report.entries, report.first, report.last, report.faults) == (20, 1, 20, ())


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("update dbshield.audit set entry = replace(entry, '\"number\":3', '\"number\":4') where id = 5", [(5, "changed")]),
        ("update dbshield.audit set agent = 'somebody' where id = 7", [(7, "column")]),
        ("delete from dbshield.audit where id = 5", [(5, "missing")]),
        ("delete from dbshield.audit where id between 5 and 7", [(5, "missing")]),
        ("delete from dbshield.audit where id > 18", [(19, "cut")]),
        ("update dbshield.audit set id = 25 - id where id in (12, 13)", [(12, "changed"), (13, "changed"), (14, "changed")]),
        ("delete from dbshield.audit where id = 1", [(1, "missing")]),
        ("update dbshield.audit_head set position = 19", [(20, "cut")]),
    ],
)
def test_what_was_tampered_with_is_named(kept: Database, dsn: str, change: str, expected: list[tuple[int, str]]) -> None:
    tamper(dsn, change)
    assert [(fault.id, fault.kind) for fault in audit_read.verify(kept).faults] == expected


def test_a_checkpoint_finds_a_chain_that_was_made_anew(kept: Database, dsn: str) -> None:
    vault = Vault(bytes(32))
    made = audit_read.checkpoint(kept, vault)
    assert made.position == 20
    assert made.is_signed_by(audit_read.public_key(vault))
    assert not made.is_signed_by(audit_read.public_key(Vault(b"1" * 32)))
    for change in ({"position": 19}, {"hash": "00" * 32}, {"recorded_at": "2026-05-03T03:09:37.123456Z"}, {"signature": "00"}):
        assert not dataclasses.replace(made, **change).is_signed_by(audit_read.public_key(vault))
    record(kept, kind="later")
    assert audit_read.verify(kept, made).faults == ()

    # Somebody drops the whole audit and writes another one, whose hashes all fit.
    tamper(dsn, "delete from dbshield.audit")
    tamper(dsn, "update dbshield.audit_head set position = 0, hash = decode(repeat('00', 32), 'hex')")
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(APPEND, [None, None, [line(number) for number in range(25)]])
    assert audit_read.verify(kept).faults == ()
    assert [(fault.id, fault.kind) for fault in audit_read.verify(kept, made).faults] == [(20, "checkpoint")]
    tamper(dsn, "delete from dbshield.audit where id > 10")
    tamper(dsn, "update dbshield.audit_head set position = 10, hash = (select hash from dbshield.audit where id = 10)")
    assert audit_read.verify(kept).faults == ()
    assert [(fault.id, fault.kind) for fault in audit_read.verify(kept, made).faults] == [(11, "checkpoint")]


def age(dsn: str, months: int) -> None:
    """As if everything that is there were older, and taken in then: the chain is made anew with other times."""
    with psycopg.connect(dsn) as connection:
        connection.execute("set local session_replication_role = replica")
        entries = connection.execute("select id, recorded_at, writer, sequence, entry from dbshield.audit order by id").fetchall()
        head = connection.execute("select position, recorded_at from dbshield.audit_head").fetchone()
        connection.execute("delete from dbshield.audit")
        before = GENESIS
        for number, recorded_at, writer, sequence, entry in entries:
            then = recorded_at - timedelta(days=30 * months)
            said = f"{number} {(then - EPOCH) // timedelta(microseconds=1)} {writer or '-'} {sequence or '-'} {entry}"
            before = hashlib.sha256(before + said.encode()).digest()
            connection.execute("select dbshield.audit_partition(date_trunc('month', %s at time zone 'UTC'))", [then])
            connection.execute(
                "insert into dbshield.audit (id, recorded_at, at, kind, environment, agent, database, session, person, verdict,"
                " rules, writer, sequence, entry, hash) select %s, %s, (j ->> 'ts')::timestamptz, j ->> 'event',"
                " j ->> 'environment', j ->> 'agent', j ->> 'database', (j ->> 'session')::bigint, j ->> 'person',"
                " j ->> 'verdict',"
                " case when j ? 'rules' then array(select jsonb_array_elements_text(j -> 'rules')) end, %s, %s, %s, %s"
                " from (select %s::jsonb as j) as j",
                [number, then, writer, sequence, entry, before, entry],
            )
        assert head is not None
        then = head[1] - timedelta(days=30 * months)
        connection.execute("update dbshield.audit_head set hash = %s, recorded_at = %s", [before, then])


def test_retention_drops_whole_months_and_the_chain_says_from_where(kept: Database, dsn: str) -> None:
    age(dsn, 6)
    record(kept, kind="of today")
    old = audit_read.checkpoint(kept, Vault(bytes(32)))
    assert audit_read.verify(kept).faults == ()
    drop = "select dbshield.audit_drop_before(now() - make_interval(days => %s::integer))"
    assert rows(dsn, drop, 400) == [(0,)]
    assert rows(dsn, drop, 100) == [(20,)]
    assert rows(dsn, drop, 100) == [(0,)]
    report = audit_read.verify(kept)
    assert (report.entries, report.first, report.last, report.faults) == (2, 21, 22, ())
    assert audit_read.verify(kept, old).faults == ()
    with pytest.raises(StoreError, match="retention has dropped all up to 20"):
        audit_read.verify(kept, dataclasses.replace(old, position=20))
    tamper(dsn, "update dbshield.audit_head set dropped = 21")
    assert "begin" in {fault.kind for fault in audit_read.verify(kept).faults}


def test_the_newest_entry_stays_however_old(kept: Database, dsn: str) -> None:
    age(dsn, 6)
    assert rows(dsn, "select dbshield.audit_drop_before(now())") == [(0,)]
    assert audit_read.verify(kept).entries == 20


def test_an_export_keeps_no_writer_waiting(kept: Database, dsn: str) -> None:
    """Neither for an entry nor for the partition of a new month."""
    reading = audit_read.stream(kept, Filter())
    next(reading)
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("set statement_timeout = '10s'")
        connection.execute("select dbshield.audit_partition(timestamp '2031-01-01')")
        connection.execute(APPEND, [None, None, [line(1)]])
    assert len(list(reading)) == 19


@pytest.mark.parametrize(
    ("which", "expected"),
    [
        (Filter(), 20),
        (Filter(environment="staging"), 1),
        (Filter(agent="claude", verdict="deny"), 1),
        (Filter(rule="DS1xx"), 1),
        (Filter(rule="DS102"), 0),
        (Filter(kind="test"), 18),
        (Filter(text="DROP table"), 1),
        (Filter(text="ü"), 1),
        (Filter(text="%"), 0),
        (Filter(until=AT), 0),
        (Filter(until=AT + timedelta(microseconds=1)), 18),
        (Filter(since=AT + timedelta(microseconds=1)), 2),
        (Filter(after=15), 5),
    ],
)
def test_search(kept: Database, which: Filter, expected: int) -> None:
    found = list(audit_read.stream(kept, which))
    assert len(found) == expected
    assert audit_read.newest(kept, which, 3) == found[-3:]


def test_following_passes_by_what_the_filter_leaves_out(kept: Database) -> None:
    assert audit_read.following(kept, Filter(kind="test"), 0)[1] == 20
    found, after = audit_read.following(kept, Filter(kind="none"), 0)
    assert (found, after) == ([], 20)
    record(kept, kind="new")
    found, after = audit_read.following(kept, Filter(), after)
    assert ([link.kind for link in found], after) == (["new"], 21)
    assert audit_read.following(kept, Filter(), after) == ([], 21)


def test_what_is_exported_is_enough_to_check_the_chain(kept: Database) -> None:
    """As the how-to says, with nothing of dbshield's."""
    before = bytes(32)
    for text in map(audit_read.exported, audit_read.stream(kept, Filter())):
        said = json.loads(text)
        entry = text[text.index(',"entry":') + 9 : -1]
        recorded = (datetime.fromisoformat(said["recorded_at"]) - EPOCH) // timedelta(microseconds=1)
        link = f"{said['id']} {recorded} {said['writer'] or '-'} {said['sequence'] or '-'} {entry}"
        before = hashlib.sha256(before + link.encode()).digest()
        assert before.hex() == said["hash"]
