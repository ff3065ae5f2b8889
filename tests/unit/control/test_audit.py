"""The audit: what a line says, and what a batch costs nobody."""

from __future__ import annotations

import dataclasses
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.audit_log import DROP, NOW, READ, connect, lines

from dbshield.control import audit as module
from dbshield.control.audit import AuditLog, Event
from dbshield.control.audit_fields import STATEMENT_MAX, judgement_fields
from dbshield.control.audit_store import Entry
from dbshield.control.tokens import new_token
from dbshield.model import (
    Allow,
    Deny,
    Effect,
    Hold,
    Judgement,
    Limit,
    ObjectKind,
    ObjectName,
    Operation,
)
from dbshield.store.frozen import Freeze


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "audit.jsonl"


def test_a_session_from_its_beginning_to_its_end(path: Path) -> None:
    log = AuditLog(path)
    session = connect(log)
    session.statement(NOW + 1, READ)
    session.statement(NOW + 2, DROP)
    session.ended(NOW + 3, "the client went away")
    log.connection_refused(NOW + 4, client="10.0.0.2:1", user="claude.staging", why="no live token")
    log.close()
    who = {
        "agent": "claude",
        "environment": "staging",
        "database": "shop",
        "session": 7,
        "client": "10.0.0.1:5000",
        "application": "psql",
    }
    assert lines(path) == [
        {"ts": "2026-05-03T03:09:37.123456Z", "event": "connected", **who, "token": "abcdefgh2345"},
        {
            "ts": "2026-05-03T03:09:38.123456Z",
            "event": "statement",
            **who,
            "statement": "select * from orders where id = $1",
            "verdict": "allow",
            "rules": [],
            "effects": ["read table orders"],
        },
        {
            "ts": "2026-05-03T03:09:39.123456Z",
            "event": "statement",
            **who,
            "statement": "drop table orders",
            "verdict": "hold",
            "rules": ["DS101", "DS102"],
            "effects": ["drop table shop.orders cascade"],
        },
        {"ts": "2026-05-03T03:09:40.123456Z", "event": "disconnected", **who, "reason": "the client went away"},
        {
            "ts": "2026-05-03T03:09:41.123456Z",
            "event": "refused",
            "user": "claude.staging",
            "client": "10.0.0.2:1",
            "reason": "no live token",
        },
    ]
    assert list(lines(path)[1]) == ["ts", "event", *who, "statement", "verdict", "rules", "effects"]


@given(st.lists(st.floats(0, 4e9), min_size=1, max_size=20))
def test_time_is_written_to_the_microsecond(moments: list[float]) -> None:
    log = AuditLog(None)
    try:
        text = log._render([Event(moment, 'Z","event":"x"}\n') for moment in moments])
    finally:
        log.close()
    for moment, line in zip(moments, text, strict=True):
        stamp = json.loads(line)["ts"]
        written = datetime.fromisoformat(stamp)
        assert abs(written - datetime(1970, 1, 1, tzinfo=UTC) - timedelta(seconds=moment)) <= timedelta(microseconds=2)
        assert len(stamp) == len("2026-05-03T03:09:37.123456Z")


@given(st.text(), st.text())
def test_no_text_breaks_a_line(normal: str, agent: str) -> None:
    text = judgement_fields(Judgement(verdict=Deny(), normal=normal))
    assert text.isascii()
    assert text.count("\n") == 1
    assert json.loads("{" + text)["statement"] == normal


@pytest.mark.parametrize(
    ("verdict", "word"), [(Allow(), "allow"), (Limit(max_rows=3), "limit"), (Hold(), "hold"), (Deny(), "deny")]
)
def test_verdicts_have_their_words(verdict: Allow | Limit | Hold | Deny, word: str) -> None:
    assert json.loads("{" + judgement_fields(Judgement(verdict=verdict)))["verdict"] == word


def test_a_long_statement_is_cut_and_says_so(path: Path) -> None:
    log = AuditLog(path)
    connect(log).statement(NOW, Judgement(verdict=Deny(), normal="x" * (STATEMENT_MAX + 1)))
    log.close()
    line = lines(path)[1]
    assert (len(line["statement"]), line["cut"]) == (STATEMENT_MAX, True)


def test_a_token_is_not_kept_because_it_is_cut(path: Path) -> None:
    misplaced = f"dbs_staging_abcdefghijkl_{'a' * 32}"
    log = AuditLog(path)
    before = "x" * (STATEMENT_MAX - len(misplaced) + 1)
    connect(log).statement(NOW, Judgement(verdict=Deny(), normal=f"{before}{misplaced}"))
    log.close()
    line = lines(path)[1]
    assert line["statement"].endswith("dbs_staging_abcdefghijkl_***")
    assert line["cut"]


def test_nothing_is_written_before_a_flush_and_everything_after_a_batch(path: Path) -> None:
    log = AuditLog(path)
    session = connect(log)
    for _ in range(module.BATCH - 2):
        session.statement(NOW, READ)
    assert path.read_bytes() == b""
    session.statement(NOW, READ)
    assert len(lines(path)) == module.BATCH
    log.close()


def test_the_cache_of_judgements_is_bounded_and_never_mixes_two_up(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CACHED_CHARACTERS", 2_000)
    log = AuditLog(path)
    session = connect(log)
    for number in range(500):
        # Each is garbage at once but for the log, so that identities would be used again.
        session.statement(NOW, Judgement(verdict=Allow(), normal=f"select {number}"))
        log.flush()
        assert log._rendered_characters < 2_500
    log.close()
    assert [line["statement"] for line in lines(path)[1:]] == [f"select {number}" for number in range(500)]


def test_what_was_only_observed_is_written_beside_what_was_done(path: Path) -> None:
    log = AuditLog(path)
    session = connect(log)
    session.statement(NOW, dataclasses.replace(DROP, verdict=Allow(), observed=Hold()))
    session.statement(NOW, READ)
    log.close()
    _, observed, enforced = lines(path)
    assert (observed["verdict"], observed["observed"], observed["rules"]) == ("allow", "hold", ["DS101", "DS102"])
    assert "observed" not in enforced


def test_rows_that_counted_statements_changed(path: Path) -> None:
    log = AuditLog(path)
    connect(log).rows(NOW, {"shop.orders": 7, "shop.b\u00e4r": 1})
    log.close()
    _, line = lines(path)
    assert (line["event"], line["agent"], line["changed"]) == ("rows", "claude", {"shop.orders": 7, "shop.b\u00e4r": 1})


def test_freezes_begin_and_end(path: Path) -> None:
    log = AuditLog(path)
    at = datetime.fromtimestamp(NOW, UTC)
    endless = Freeze(id=7, environment="staging", reason='"incident" \u2028', frozen_by="ann", frozen_at=at, until=None)
    log.frozen(NOW, endless)
    log.frozen(NOW, dataclasses.replace(endless, id=8, until=at + timedelta(hours=2)))
    log.thawed(NOW + 1, endless)
    log.close()
    what = {"environment": "staging", "freeze": 7, "reason": '"incident" \u2028'}
    begin = {"ts": "2026-05-03T03:09:37.123456Z", "event": "frozen", **what, "by": "ann", "until": None}
    assert lines(path) == [
        begin,
        begin | {"freeze": 8, "until": "2026-05-03T05:09:37Z"},
        {"ts": "2026-05-03T03:09:38.123456Z", "event": "thawed", **what},
    ]


def test_reads_that_a_session_repeats_are_one_line(path: Path) -> None:
    log = AuditLog(path)
    counted: list[tuple[str, int]] = []
    log.counted = lambda events: counted.extend((event.judgement.normal, event.count) for event in events if event.judgement)
    read, write = dataclasses.replace(READ, writes=False), dataclasses.replace(READ, normal="insert", writes=True)
    other, held = dataclasses.replace(read, normal="select 2"), dataclasses.replace(DROP, writes=False)
    sessions = {number: connect(log, session=number) for number in (1, 2)}
    order = [(1, read), (1, read), (2, read), (1, read), (1, other), (1, read), (2, read)]
    order += [(1, write), (1, write), (1, read), (1, held), (1, held), (2, read)]
    for second, (number, judgement) in enumerate(order):
        sessions[number].statement(float(second), judgement)
    log.close()
    expected = [
        (1, READ.normal, 3),
        (2, READ.normal, 3),
        (1, "select 2", 1),
        (1, READ.normal, 1),
        (1, "insert", 1),
        (1, "insert", 1),
        (1, READ.normal, 1),
        (1, DROP.normal, 1),
        (1, DROP.normal, 1),
    ]
    found = lines(path)[2:]
    assert [(line["session"], line["statement"], line.get("repeats", 1)) for line in found] == expected
    assert (found[0]["ts"], found[0]["until"]) == ("1970-01-01T00:00:00.000000Z", "1970-01-01T00:00:03.000000Z")
    assert found[1]["until"] == "1970-01-01T00:00:12.000000Z"
    assert counted == [(statement, count) for _, statement, count in expected]


def test_what_was_handed_over_is_not_added_to(path: Path) -> None:
    log = AuditLog(path)
    session, read = connect(log), dataclasses.replace(READ, writes=False)
    for count in (2, 1, 3):
        for _ in range(count):
            session.statement(NOW, read)
        log.flush()
    log.close()
    assert [line.get("repeats", 1) for line in lines(path)[1:]] == [2, 1, 3]


def test_what_a_statement_does_is_kept_where_its_text_is_not(path: Path) -> None:
    log = AuditLog(path, statements=False)
    connect(log).statement(NOW, DROP)
    log.close()
    line = lines(path)[1]
    assert (line["statement"], line["effects"], line["rules"]) == (None, ["drop table shop.orders cascade"], ["DS101", "DS102"])


def test_from_now_on_more_or_less_is_shown(path: Path) -> None:
    """What was recorded before stands as it was to be, written or not."""
    log = AuditLog(path)
    session = connect(log)
    for shown in (False, True):
        session.statement(NOW, DROP)
        log.show(statements=shown)
        session.statement(NOW, DROP)
        log.flush()
    log.close()
    assert [line["statement"] for line in lines(path)[1:]] == [DROP.normal, None, None, DROP.normal]


def test_any_other_event_has_its_fields(path: Path) -> None:
    log = AuditLog(path)
    log.event(NOW, "executed", person="ann", approval="apr-abcd2345", kind="of its own")
    log.event(NOW, "bare")
    log.close()
    stamp = "2026-05-03T03:09:37.123456Z"
    assert lines(path) == [
        {"ts": stamp, "event": "executed", "person": "ann", "approval": "apr-abcd2345", "kind": "of its own"},
        {"ts": stamp, "event": "bare"},
    ]


def test_regression_a_token_that_is_used_as_a_name_is_not_written(path: Path) -> None:
    """The audit is never changed, so what has leaked into it stays."""
    token = new_token("staging").text
    log = AuditLog(path)
    session = log.connected(
        NOW,
        agent="claude",
        environment="staging",
        database="shop",
        session=1,
        client="10.0.0.7:1",
        token_id="abc",
        application_name=token,
    )
    named = Effect(operation=Operation.READ, kind=ObjectKind.TABLE, name=ObjectName(name=token))
    session.statement(NOW, Judgement(verdict=Allow(), normal=f'select * from "{token}"', effects=(named,)))
    log.event(NOW, "refused", user=token, reason=[{"text": token}])
    log.close()
    assert token not in path.read_text()
    assert path.read_text().count(f"{token[:-32]}***") == 6
    assert token not in Entry(at=datetime.now(UTC), kind="approval-denied", fields={"reason": token}).line()


def test_each_batch_has_its_own_time_whatever_the_one_before_had(path: Path) -> None:
    log = AuditLog(path)
    session = connect(log)
    moments = [0.0, 0.5, 1.0, 61.25, -3600.5, 0.0]
    for moment in moments:
        session.statement(NOW + moment, READ)
        log.flush()
    log.close()
    told = [datetime.fromisoformat(line["ts"]) for line in lines(path)[1:]]
    expected = [datetime.fromtimestamp(NOW + moment, UTC) for moment in moments]
    assert all(abs(this - that) <= timedelta(microseconds=1) for this, that in zip(told, expected, strict=True))


def test_regression_a_batch_copies_nothing_of_what_is_still_to_be_written(path: Path) -> None:
    """All lines since the last write of the file were copied with each batch that a write waited for."""
    log = AuditLog(path)
    session, buffer = connect(log), log._buffer
    for _ in range(50):
        session.statement(NOW, READ)
        log._hand_over()
        assert log._buffer is buffer
    log.close()
    assert len(lines(path)) == 51
