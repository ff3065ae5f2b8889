"""Which moment `dbshield restore` is asked for: a time, a place in the WAL, or the one before an entry of the audit."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select

from dbshield.backup.restore import Goal
from dbshield.backup.wal_restore import moment_of, place_of_text
from dbshield.backup.wal_ship import wal_time
from dbshield.cli.options import open_database
from dbshield.config import Config
from dbshield.errors import BackupError, ConfigError
from dbshield.store.schema import approvals, audit

EXACT = (
    "the time is that of the proxy, right before it let the statement through; what was committed on the server before that"
    " is there, as exactly as the two machines' clocks agree"
)
RUN = "the time is that at which the executor began to run it; what was committed before that is there"
OTHER = "the time is that of the entry"


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """The goal, the environment that it is about, where that is known, and what is to be said of it."""

    goal: Goal
    environment: str | None = None
    remark: str = ""


def asked(settings: Config, *, at: str, lsn: str, before: int | None, timeline: int) -> Asked:
    """What the options say. Raises ConfigError, and BackupError where the audit has no such entry."""
    if sum((bool(at), bool(lsn), before is not None)) > 1:
        raise ConfigError("of --at, --lsn and --before more than one is given", hint="Keep one.")
    if timeline and not (at or lsn or before is not None):
        raise ConfigError("--timeline is for --at, --lsn and --before", hint="A snapshot knows its own.")
    if at:
        return Asked(goal=Goal(at=wal_time(moment_of(at)), timeline=timeline))
    if lsn:
        place_of_text(lsn)
        return Asked(goal=Goal(lsn=lsn.upper(), timeline=timeline))
    if before is not None:
        return _before(settings, before, timeline)
    return Asked(goal=Goal())


def _before(settings: Config, entry: int, timeline: int) -> Asked:
    with open_database(settings) as database, database.transaction() as connection:
        columns = (audit.c.at, audit.c.kind, audit.c.environment, audit.c.entry)
        found = connection.execute(select(*columns).where(audit.c.id == entry)).one_or_none()
        if found is None:
            raise BackupError(f"the audit has no entry {entry}", hint="`dbshield audit search` prints their numbers.")
        when, remark = found.at, EXACT if found.kind == "statement" else OTHER
        if found.kind == "executed":
            # The entry was written when it was over.
            approval = json.loads(found.entry).get("approval")
            started = connection.scalar(select(approvals.c.started_at).where(approvals.c.id == approval))
            if started is None:
                raise BackupError(f"entry {entry} does not tell when its statement was run", hint="Name a time with --at.")
            when, remark = started, RUN
    assert isinstance(when, datetime), "a column of times"
    goal = Goal(at=wal_time(when), before=True, timeline=timeline)
    return Asked(goal=goal, environment=found.environment, remark=f"before entry {entry} of the audit: {goal.at}; {remark}")
