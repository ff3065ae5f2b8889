"""The schedule as people look at it: what is due next, what became of the newest runs, who leads, and what is wrong."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import func, select, text

from dbshield.config import Config
from dbshield.schedule.due import next_due, overdue
from dbshield.schedule.jobs import Job, jobs_of
from dbshield.schedule.runs import APPLICATION, LOCK_CLASS
from dbshield.store.database import Database
from dbshield.store.schema import schedule_jobs, schedule_runs

LEADER = text("""
    select a.application_name, a.client_addr::text, a.backend_start
    from pg_locks l join pg_stat_activity a on a.pid = l.pid
    where l.locktype = 'advisory' and l.granted and l.objsubid = 2
        and l.classid = cast(cast(:lock as bigint) as oid) and l.objid = (hashtext(:group)::bigint & 4294967295)::oid
        and l.database = (select oid from pg_database where datname = current_database())
""")


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One row of the runs. `exit_code` is negative for a signal; `output` is the end of what it said."""

    id: int
    job: str
    due: datetime
    attempt: int
    missed: int
    state: str
    began: datetime
    ended: datetime | None
    scheduler: str
    exit_code: int | None
    output: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One job. `known` is false where no scheduler that led has it in its configuration; `overdue` is a time that was not met."""

    job: Job
    next: datetime | None
    last: Run | None
    done: datetime | None
    overdue: datetime | None
    known: bool

    @property
    def wrong(self) -> str:
        """What is wrong with it, in words; nothing where all is well."""
        if not self.known:
            return "no scheduler has it"
        if self.overdue is not None:
            return "overdue"
        if self.last is not None and self.last.state in {"failed", "lost"}:
            return self.last.state
        return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Leader:
    """The scheduler that leads the group: GROUP:HOST/PID/…, its address as the control database sees it, and since when it is
    connected."""

    name: str
    address: str | None
    since: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    lines: tuple[Line, ...]
    leader: Leader | None


def look(config: Config, database: Database) -> View:
    """The schedule as it is now. StoreError where the control database is away."""
    with database.transaction() as connection:
        now = connection.scalar(select(func.clock_timestamp()))
        assert isinstance(now, datetime)
        known: Mapping[str, Any] = {row.name: row for row in connection.execute(select(schedule_jobs))}
        # SQLAlchemy spells DISTINCT ON differently from version to version.
        newest = select(schedule_runs).prefix_with(text("distinct on (schedule_runs.job)"))
        order = (schedule_runs.c.job, schedule_runs.c.due.desc(), schedule_runs.c.attempt.desc())
        # As the scheduler that leads does: what a clock recorded that was ahead counts when its time has come.
        newest = newest.where(schedule_runs.c.due <= now)
        runs = {row["job"]: Run(**row) for row in connection.execute(newest.order_by(*order)).mappings()}
        ended = select(schedule_runs.c.job, func.max(schedule_runs.c.due))
        ended = ended.where(schedule_runs.c.state == "done", schedule_runs.c.due <= now)
        done: dict[str, datetime] = {row[0]: row[1] for row in connection.execute(ended.group_by(schedule_runs.c.job))}
        found = connection.execute(LEADER, {"lock": LOCK_CLASS, "group": config.schedule.group}).one_or_none()
    leader = Leader(name=found[0].removeprefix(APPLICATION).strip(), address=found[1], since=found[2]) if found else None
    grace = timedelta(minutes=config.schedule.overdue_minutes)
    lines = (
        _line(job, known.get(job.name), last=runs.get(job.name), done=done.get(job.name), now=now, grace=grace)
        for job in jobs_of(config)
    )
    return View(lines=tuple(lines), leader=leader)


def runs_of(database: Database, *, job: str | None, limit: int) -> Sequence[Run]:
    """Runs, the newest first."""
    query = select(schedule_runs).order_by(schedule_runs.c.id.desc()).limit(limit)
    if job is not None:
        query = query.where(schedule_runs.c.job == job)
    with database.transaction() as connection:
        return [Run(**row) for row in connection.execute(query).mappings()]


def problems(view: View) -> Iterator[str]:
    """What is wrong, a sentence each."""
    if view.lines and view.leader is None:
        yield "no scheduler leads: nothing is run"
    for line in view.lines:
        failed = line.last is not None and line.last.state in {"failed", "lost"}
        if line.overdue is not None:
            also = ", and its newest run failed" if failed else ""
            yield f"{line.job.name} is overdue: it should have been done at {line.overdue:%Y-%m-%d %H:%M} UTC{also}"
        elif not line.known and view.leader is not None:
            yield f"{line.job.name} is unknown to the scheduler that leads: it has another configuration"
        elif failed:
            yield f"{line.job.name}: its newest run {'failed' if line.wrong == 'failed' else 'was lost with its scheduler'}"


def _line(job: Job, row: Any, *, last: Run | None, done: datetime | None, now: datetime, grace: timedelta) -> Line:
    same = row is not None and (row.cron, row.zone) == (job.cron.text, job.zone.key)
    late = None
    if same and not job.lasting:
        running = last.due if last is not None and last.state == "running" else None
        late = overdue(job.cron, job.zone, since=row.since, done=done, running=running, now=now, grace=grace)
    return Line(job=job, next=next_due(job.cron, job.zone, now), last=last, done=done, overdue=late, known=same)
