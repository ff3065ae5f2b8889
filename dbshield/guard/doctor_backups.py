"""Checks of the third defence: is there a snapshot outside what can be destroyed, is it young, was it ever restored. Pure.

What is known comes from the catalogue in the control database. The incident's backups lay in the volume that was deleted, and
nobody had ever restored one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from dbshield.guard.doctor import Finding, Severity

OLD_SNAPSHOT: Final = timedelta(days=2)
"""A nightly one that failed once is no finding yet; the schedule's own alerts come sooner."""
OLD_DRILL: Final = timedelta(days=8)
"""A weekly drill, and a day."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A complete snapshot that is still there. `outside`: whether it lies beyond the database's own device, nothing where nobody
    could tell; `why` has the reason for either."""

    id: str
    began: datetime
    outside: bool | None
    why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drilled:
    """A drill and its verdict: passed, failed or error."""

    snapshot: str
    ended: datetime
    verdict: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Wal:
    """The WAL archive of a physical plan: how old the newest moment in it is, nothing where there is no archive, and beyond what
    age it stands still."""

    plan: str
    age: timedelta | None
    fresh: timedelta


def backup_findings(
    environment: str, *, plans: Sequence[str], snapshots: Sequence[Kept], drills: Sequence[Drilled], now: datetime
) -> list[Finding]:
    """What is wrong with the backups of one environment. `snapshots` and `drills` are in any order."""
    plan = f" --plan {plans[0]}" if plans else ""
    newest = sorted(snapshots, key=lambda one: one.began, reverse=True)
    outside = [one for one in newest if one.outside]
    found: list[Finding] = []
    if not newest:
        mend = f"dbshield backup{plan}" if plans else f"add [backup.NAME] with environment = {environment!r} to dbshield.toml"
        found.append(
            _finding(environment, "backups.none", "there is no snapshot", "What is destroyed is gone for good.", mends=(mend,))
        )
        return found
    if not outside:
        unknown = [one for one in newest if one.outside is None]
        found.append(
            _finding(
                environment,
                "backups.same-device",
                "no snapshot is known to lie outside the database's device"
                if unknown
                else "no snapshot lies outside the database's device",
                "What destroys the volume destroys its backups; that is how the incident ended.",
                subjects=tuple(dict.fromkeys(one.why for one in (unknown or newest) if one.why)),
                mends=("set destination of [backup.NAME] to another machine's or a store's, then: dbshield backup" + plan,),
            )
        )
    youngest = (outside or newest)[0]
    if now - youngest.began > OLD_SNAPSHOT:
        found.append(
            _finding(
                environment,
                "backups.old",
                f"the newest snapshot is {_age(now - youngest.began)} old",
                "What was written since is lost with the volume.",
                subjects=(youngest.id,),
                mends=(f"dbshield backup{plan}; and say when in [schedule] snapshot",),
            )
        )
    return found + _drills(environment, drills, now)


def _drills(environment: str, drills: Sequence[Drilled], now: datetime) -> list[Finding]:
    newest = sorted(drills, key=lambda one: one.ended, reverse=True)
    passed = [one for one in newest if one.verdict == "passed"]
    mend = f"dbshield restore-drill --environment {environment}; and say when in [schedule] drill"
    if newest and newest[0].verdict == "failed":
        return [
            _finding(
                environment,
                "backups.drill-failed",
                "the newest drill failed: the snapshot does not restore to what it was",
                "A backup that does not restore is none.",
                severity=Severity.CRITICAL,
                subjects=(newest[0].snapshot,),
                mends=(f"make another snapshot, then: dbshield restore-drill --environment {environment}",),
            )
        ]
    if not passed:
        why = "Nobody knows whether what is kept can be restored."
        return [_finding(environment, "backups.no-drill", "no drill has ever passed", why, mends=(mend,))]
    if now - passed[0].ended > OLD_DRILL:
        return [
            _finding(
                environment,
                "backups.old-drill",
                f"the newest drill that passed is {_age(now - passed[0].ended)} old",
                "Since then nobody knows whether what is kept can be restored.",
                subjects=(passed[0].snapshot,),
                mends=(mend,),
            )
        ]
    return []


def wal_findings(environment: str, archives: Sequence[Wal]) -> list[Finding]:
    """What is wrong with the WAL archives of one environment's physical plans."""
    found = []
    for each in archives:
        mend = f"dbshield backup wal --plan {each.plan}; and say in [schedule] wal that it is kept running"
        if each.age is None:
            why = "What was written since the newest snapshot is lost with the volume."
            found.append(_finding(environment, "backups.no-wal", "no WAL is archived", why, subjects=(each.plan,), mends=(mend,)))
        elif each.age > each.fresh:
            found.append(
                _finding(
                    environment,
                    "backups.old-wal",
                    f"the newest archived WAL is {_minutes(each.age)} old",
                    "What was written since is lost with the volume, and the server keeps its WAL until it is archived.",
                    subjects=(each.plan,),
                    mends=(mend,),
                )
            )
    return found


def schedule_findings(problems: Sequence[str]) -> list[Finding]:
    """What `dbshield schedule check` says, as one finding."""
    if not problems:
        return []
    why = "What is not run protects nothing."
    return [
        _finding(
            "", "schedule.not-kept", "the schedule is not kept", why, subjects=tuple(problems), mends=("dbshield schedule show",)
        )
    ]


def _finding(
    environment: str,
    check: str,
    what: str,
    why: str,
    *,
    severity: Severity = Severity.WARNING,
    subjects: tuple[str, ...] = (),
    mends: tuple[str, ...],
) -> Finding:
    return Finding(check=check, severity=severity, environment=environment, what=what, why=why, subjects=subjects, mends=mends)


def _minutes(age: timedelta) -> str:
    return _age(age) if age >= timedelta(hours=2) else f"{int(age.total_seconds() // 60)} minutes"


def _age(age: timedelta) -> str:
    hours = int(age.total_seconds() // 3600)
    return f"{hours // 24} days" if hours >= 48 else f"{hours} hours"
