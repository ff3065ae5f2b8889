"""The time within which any moment can be restored."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from dbshield.backup.catalogue import Snapshot
from dbshield.backup.restore import Goal
from dbshield.backup.wal_restore import is_before
from dbshield.backup.wal_window import window_begin

NOW = datetime(2026, 5, 10, 12, tzinfo=UTC)
DAY = timedelta(days=1)
ONE = Snapshot(
    id="20260501t120000z-abcdefgh",
    environment="test",
    plan="nightly",
    engine="physical",
    kind="full",
    destination="file:///there",
    state="complete",
    began=NOW,
    ended=NOW,
    error=None,
    size=1,
    stored=1,
    objects=1,
    lsn="0/500000",
    timeline=1,
    server_version=150000,
    parent=None,
    drilled=None,
    pruned_at=None,
    manifest_sha256=None,
    signing_key=None,
)


def ended(days: float, **changed: object) -> Snapshot:
    return replace(ONE, ended=NOW - days * DAY, **changed)  # type: ignore[arg-type]


def test_where_the_window_begins() -> None:
    there = [ended(1), ended(3), ended(9)]
    assert window_begin(there, None) == NOW - DAY, "nothing is wanted but now"
    assert window_begin(there, NOW - 7 * DAY) == NOW - 7 * DAY, "a snapshot ended before it"
    assert window_begin(there, NOW - 30 * DAY) == NOW - 9 * DAY, "no WAL leads back"
    assert window_begin([], None) is None


def test_what_cannot_be_restored_begins_no_window() -> None:
    bad = [ended(9, state="failed"), ended(9, engine="logical"), ended(9, pruned_at=NOW), ended(9, drilled="failed")]
    assert window_begin(bad, None) is None
    assert window_begin([*bad, ended(2)], NOW - 7 * DAY) == NOW - 2 * DAY


def test_which_snapshots_lead_to_a_moment() -> None:
    goal = Goal(at="2026-05-10T11:00:00Z")
    assert not is_before(goal, ended=NOW, lsn="0/1")
    assert is_before(goal, ended=NOW - DAY, lsn="F/1")
    assert is_before(Goal(lsn="0/500000"), ended=NOW, lsn="0/500000")
    assert not is_before(Goal(lsn="0/4FFFFF"), ended=NOW, lsn="0/500000")
    assert not is_before(Goal(lsn="0/4FFFFF"), ended=NOW, lsn=None)
