from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from dbshield.guard.doctor import Severity
from dbshield.guard.doctor_backups import Drilled, Kept, Wal, backup_findings, schedule_findings, wal_findings

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
DAY = timedelta(days=1)


def kept(days: float, outside: bool | None = True, why: str = "") -> Kept:
    return Kept(id=f"s{days:g}", began=NOW - days * DAY, outside=outside, why=why)


def drilled(days: float, verdict: str = "passed") -> Drilled:
    return Drilled(snapshot=f"s{days:g}", ended=NOW - days * DAY, verdict=verdict)


def checks(snapshots: list[Kept], drills: list[Drilled]) -> list[tuple[str, tuple[str, ...]]]:
    found = backup_findings("shop", plans=["nightly"], snapshots=snapshots, drills=drills, now=NOW)
    assert all(finding.environment == "shop" and finding.mends and finding.why for finding in found)
    return [(finding.check, finding.subjects) for finding in found]


def test_all_is_well() -> None:
    assert checks([kept(1.9)], [drilled(7.9)]) == []
    assert checks([kept(0.1), kept(5, outside=False)], [drilled(1, "error"), drilled(2)]) == []


@pytest.mark.parametrize(
    ("snapshots", "drills", "expected"),
    [
        ([], [drilled(1)], [("backups.none", ())]),
        ([kept(1, False, "there"), kept(2, False, "there")], [drilled(1)], [("backups.same-device", ("there",))]),
        (
            [kept(1, None, "cannot be told"), kept(2, False, "there")],
            [drilled(1)],
            [("backups.same-device", ("cannot be told",))],
        ),
        ([kept(2.1)], [drilled(1)], [("backups.old", ("s2.1",))]),
        # a young one on the same device is no consolation
        ([kept(0.1, False, "there"), kept(9)], [drilled(1)], [("backups.old", ("s9",))]),
        ([kept(1)], [], [("backups.no-drill", ())]),
        ([kept(1)], [drilled(1, "error")], [("backups.no-drill", ())]),
        ([kept(1)], [drilled(8.1)], [("backups.old-drill", ("s8.1",))]),
        ([kept(1)], [drilled(1, "failed"), drilled(2)], [("backups.drill-failed", ("s1",))]),
        ([kept(1)], [drilled(2, "failed"), drilled(1)], []),
    ],
)
def test_what_is_wrong(snapshots: list[Kept], drills: list[Drilled], expected: list[tuple[str, tuple[str, ...]]]) -> None:
    assert checks(snapshots, drills) == expected


def test_the_wal_archive() -> None:
    fresh, minute = timedelta(minutes=2), timedelta(minutes=1)
    archives = [Wal(plan=f"p{age}", age=age * minute if age else None, fresh=fresh) for age in (0, 1, 3, 180)]
    found = wal_findings("shop", archives)
    assert [(each.check, each.subjects, each.what.rpartition("WAL is ")[2]) for each in found] == [
        ("backups.no-wal", ("p0",), "archived"),
        ("backups.old-wal", ("p3",), "3 minutes old"),
        ("backups.old-wal", ("p180",), "3 hours old"),
    ]


def test_only_a_drill_that_failed_is_critical() -> None:
    (failed,) = backup_findings("shop", plans=[], snapshots=[kept(1)], drills=[drilled(1, "failed")], now=NOW)
    (none,) = backup_findings("shop", plans=[], snapshots=[], drills=[], now=NOW)
    assert (failed.severity, none.severity) == (Severity.CRITICAL, Severity.WARNING)
    assert "[backup.NAME]" in none.mends[0]


def test_a_schedule_that_is_not_kept_is_one_finding() -> None:
    assert schedule_findings([]) == []
    (found,) = schedule_findings(["no scheduler leads", "snapshot nightly is overdue"])
    assert (found.check, len(found.subjects)) == ("schedule.not-kept", 2)
