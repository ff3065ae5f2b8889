"""A check of a drill: what was looked at, what it measured, and what came out.

Three ends, and never a fourth: `passed`, `failed` (the backup is bad), `error` (nothing is known). A check that could not be made
says `not-checked` with the reason; where it is one that a restore cannot be believed without, the drill has no verdict.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import psycopg

from dbshield.backup.damage import Absent, Damaged, WrongKey
from dbshield.errors import BackupError, ClusterError, DbshieldError

SHOWN = 20
"""Problems of one check that are kept; a count tells of the rest."""
MACHINE = ("08", "0A", "42501", "53", "54", "57", "58", "XX000")
"""Beginnings of SQLSTATEs that speak of the machine or of the installation, not of what was restored: a connection that broke, an
extension that is not installed, a right, a full disk, a limit, a server that was stopped, the operating system, a bug."""
MACHINE_SAID = re.compile(
    r"killed by signal|server closed the connection|connection to server|terminating connection|No space left on device"
    r"|Disk quota exceeded|File too large|Cannot allocate memory|out of memory"
)
"""What PostgreSQL's programs say when the machine is to blame."""
STARTING = "57P03"
"""What a server that comes up answers to who waits for it."""
AFTERMATH = ("08", "57014", STARTING)
"""Beginnings of SQLSTATEs in the server's log that blame nobody: pg_restore that has met an error cancels what its other workers
do and drops their connections. Where the machine cut them, the program says so itself."""
STATE = re.compile(rb"^([0-9A-Z]{5}) (?:ERROR|FATAL|PANIC):  ", re.MULTILINE)
LOG_BYTES = 1 << 20
REQUIRED = (
    "manifest", "members", "restored", "rows", "content", "schema", "foreign-keys", "roles", "extensions", "sequences",
    "read-back",
)  # fmt: skip
"""Without each of these a drill did not pass."""
MOMENT = "moment"
"""The check by which a drill is one of a moment between snapshots: nothing was counted at it."""
REQUIRED_AT_MOMENT = (MOMENT, "manifest", "members", "replay", "restored", "indexes", "foreign-keys", "read-back")
"""Without each of these a drill of a moment did not pass."""


class Outcome(StrEnum):
    PASSED = "passed"
    FAILED = "failed"
    ERROR = "error"
    NOT_CHECKED = "not-checked"


class Verdict(StrEnum):
    PASSED = "passed"
    FAILED = "failed"
    ERROR = "error"


class NotChecked(Exception):
    """A check that cannot be made here, with the reason."""


class NoVerdict(DbshieldError):
    """A check that nothing can be learned from, whoever is to blame."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a check saw: a measure in words, and what is wrong."""

    measure: str
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """`seconds` is how long it took."""

    name: str
    outcome: Outcome
    measure: str
    problems: tuple[str, ...] = ()
    seconds: float = 0.0

    def tree(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "outcome": str(self.outcome),
            "measure": self.measure,
            "problems": list(self.problems),
            "seconds": round(self.seconds, 3),
        }


def verdict_of(checks: Sequence[Check]) -> Verdict:
    """One that failed decides; without one that failed, nothing is proved unless all that are required passed."""
    if any(check.outcome is Outcome.FAILED for check in checks):
        return Verdict.FAILED
    passed = {check.name for check in checks if check.outcome is Outcome.PASSED}
    required = REQUIRED_AT_MOMENT if any(check.name == MOMENT for check in checks) else REQUIRED
    if any(check.outcome is Outcome.ERROR for check in checks) or not passed.issuperset(required):
        return Verdict.ERROR
    return Verdict.PASSED


def checked(name: str, body: Callable[[], Found], *, log: Path | None = None) -> Check:
    """Make one check. `log` is that of the restored server where it is asked something: it tells why that failed."""
    begin = time.monotonic()
    offset = _size(log)
    try:
        found = body()
    except NotChecked as reason:
        return Check(name=name, outcome=Outcome.NOT_CHECKED, measure=str(reason), seconds=time.monotonic() - begin)
    except (DbshieldError, psycopg.Error, OSError) as error:
        return failure(name, error, log=log, offset=offset, seconds=time.monotonic() - begin)
    outcome = Outcome.FAILED if found.problems else Outcome.PASSED
    seconds = time.monotonic() - begin
    return Check(name=name, outcome=outcome, measure=found.measure, problems=shortened(found.problems), seconds=seconds)


def failure(name: str, error: Exception, *, log: Path | None = None, offset: int = 0, seconds: float = 0.0) -> Check:
    """The check that an exception ended."""
    problems: Sequence[str] = getattr(error, "problems", None) or (_sentence(error),)
    outcome = Outcome.FAILED if is_bad_backup(error, log=log, offset=offset) else Outcome.ERROR
    return Check(name=name, outcome=outcome, measure="it did not end", problems=shortened(problems), seconds=seconds)


def is_bad_backup(error: Exception, *, log: Path | None = None, offset: int = 0) -> bool:
    """Whether what went wrong is the backup's fault. What the restored server refuses is, unless the machine is to blame."""
    if isinstance(error, WrongKey | ClusterError | OSError):
        return False
    if isinstance(error, Absent | Damaged):
        return True
    cause = error if isinstance(error, psycopg.Error) else error.__cause__
    if isinstance(cause, psycopg.Error):
        # Without a SQLSTATE the connection broke.
        return cause.sqlstate is not None and not cause.sqlstate.startswith(MACHINE)
    if log is None or isinstance(cause, OSError) or not isinstance(error, BackupError):
        return False
    if MACHINE_SAID.search(error.message):
        return False
    return not any(state.startswith(MACHINE) and not state.startswith(AFTERMATH) for state in _states(log, offset))


def _states(log: Path | None, offset: int) -> list[str]:
    """The SQLSTATEs of errors in the server's log from a place on."""
    if log is None:
        return []
    try:
        with log.open("rb") as stream:
            stream.seek(max(offset, log.stat().st_size - LOG_BYTES))
            return [state.decode("ascii") for state in STATE.findall(stream.read())]
    except OSError:
        return []


def _size(log: Path | None) -> int:
    try:
        return log.stat().st_size if log is not None else 0
    except OSError:
        return 0


def shortened(problems: Sequence[str]) -> tuple[str, ...]:
    if len(problems) <= SHOWN:
        return tuple(problems)
    return (*problems[:SHOWN], f"and {len(problems) - SHOWN} more")


def _sentence(error: Exception) -> str:
    if isinstance(error, DbshieldError):
        return error.message
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
