"""Jobs and their runs in the control database, over the one connection that leads.

Laws:
- Who leads a group of schedulers holds an advisory lock on this connection, and everything that a leader writes goes over it:
  who has lost the lock cannot write, and who cannot write has lost it.
- A run is recorded before it begins. A second one of the same job, time and attempt cannot be.
- The clock is the control database's, so that schedulers on several machines mean the same time. What it recorded while it was
  ahead counts when its time has come: a run in the year 2040 would leave nothing due until then, and nothing overdue.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import psycopg

from dbshield.control.audit_store import APPEND, Entry
from dbshield.schedule.due import Due, Ran
from dbshield.schedule.jobs import Job

LOCK_CLASS: Final = 0x6462_7363
"""The first number of our advisory locks: "dbsc". The second is of the group's name."""
KEPT: Final = "400 days"
"""For which runs are kept, as the audit's entries are; the newest of each job, and the newest that ended well, for ever."""
HANGS: Final = 30
"""Seconds without a question from a scheduler after which the server ends its session, and with it its lead. A stopped process
keeps its connection, since its kernel answers keepalives for it. More than a scheduler takes to end (`scheduler.STOP`)."""
CONNECT: Final[Mapping[str, Any]] = {
    "connect_timeout": 5,
    "keepalives": 1,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 11_000,
    # So the server too gives the lock of a machine that vanished back after eleven seconds.
    "options": "-c tcp_keepalives_idle=5 -c tcp_keepalives_interval=2 -c tcp_keepalives_count=3 -c statement_timeout=10s"
    f" -c idle_session_timeout={HANGS}s -c idle_in_transaction_session_timeout={HANGS}s",
}
OVERDUE: Final = {"snapshot": "backup-overdue", "drill": "drill-overdue", "drill-moment": "drill-overdue"}
FAILED: Final = {"snapshot": "backup-failed", "drill": "drill-failed", "drill-moment": "drill-failed"}
"""What the audit calls it, by the kind of the job; of others job-failed."""
APPLICATION: Final = "dbshield scheduler"
OUTPUT_MAX: Final = 4000

Connection = psycopg.Connection[tuple[Any, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What is recorded of a job: since when it is scheduled so, its newest run, the newest due time of one that ended well, and
    the due time that it was said to be overdue for."""

    since: datetime
    ran: Ran | None
    done: datetime | None
    overdue: datetime | None


class Runs:
    """The schedule as the leader reads and writes it. Raises psycopg.Error where the connection is lost."""

    def __init__(self, dsn: str, group: str, scheduler: str) -> None:
        self.group = group
        self.scheduler = f"{group}:{scheduler}"
        # The name shows in pg_stat_activity, by which `dbshield schedule show` knows the leader.
        self._connection: Connection = psycopg.connect(
            dsn, autocommit=True, application_name=f"{APPLICATION} {self.scheduler}"[:63], **_options(dsn)
        )

    def close(self) -> None:
        self._connection.close()

    def lead(self) -> bool:
        """Take the lead if nobody has it. Asked once a connection: the lock counts how often it was taken."""
        return bool(self._one("select pg_try_advisory_lock(%s::int, hashtext(%s))", LOCK_CLASS, self.group))

    def now(self) -> datetime:
        moment = self._one("select clock_timestamp()")
        assert isinstance(moment, datetime)
        return moment

    def register(self, jobs: Sequence[Job]) -> None:
        """Keep what is scheduled. A job with another expression or zone begins anew: nothing is due from before. So does one that
        was kept while the clock was ahead, which would begin only when its time has come."""
        with self._connection.transaction():
            names = [job.name for job in jobs]
            self._connection.execute(
                "delete from dbshield.schedule_jobs where scheduled_by = %s and name <> all(%s)", [self.group, names]
            )
            for job in jobs:
                self._connection.execute(
                    """
                    insert into dbshield.schedule_jobs as j (name, kind, target, environment, scheduled_by, cron, zone, since)
                    values (%s, %s, %s, %s, %s, %s, %s, clock_timestamp())
                    on conflict (name) do update set environment = excluded.environment, scheduled_by = excluded.scheduled_by,
                        cron = excluded.cron, zone = excluded.zone, since = excluded.since, overdue = null
                    where (j.cron, j.zone) is distinct from (excluded.cron, excluded.zone) or j.since > excluded.since
                    """,
                    [job.name, job.kind, job.target, job.environment, self.group, job.cron.text, job.zone.key],
                )

    def known(self) -> Mapping[str, Known]:
        """What is recorded of every job, up to now."""
        rows = self._connection.execute("""
            select j.name, j.since, j.overdue, r.due, r.state, r.attempt,
                (select max(due) from dbshield.schedule_runs where job = j.name and state = 'done' and due <= clock_timestamp())
            from dbshield.schedule_jobs j left join lateral (
                select due, state, attempt from dbshield.schedule_runs where job = j.name and due <= clock_timestamp()
                order by due desc, attempt desc limit 1
            ) r on true
        """).fetchall()
        return {
            name: Known(
                since=since,
                ran=Ran(due=due, state=state, attempt=attempt) if due is not None else None,
                done=done,
                overdue=overdue,
            )
            for name, since, overdue, due, state, attempt, done in rows
        }

    def begin(self, job: Job, due: Due) -> int | None:
        """Record that a run begins; its number, or nothing where another scheduler has it."""
        return self._insert(job, due, "running")

    def skip(self, job: Job, due: Due, why: str) -> None:
        """Record that a time came and nothing was run."""
        with self._connection.transaction():
            if self._insert(job, due, "skipped", why) is not None:
                self._note("job-skipped", job=job.name, environment=job.environment, due=due.due, missed=due.missed, why=why)

    def late(self, job: Job, due: Due) -> None:
        """Record that a time passed while no scheduler led."""
        self._note("job-late", job=job.name, environment=job.environment, due=due.due, missed=due.missed)

    def end(self, number: int, job: Job, due: Due, *, state: str, exit_code: int, output: str) -> None:
        """Record what became of a run, in its row and in the audit."""
        with self._connection.transaction():
            changed = self._connection.execute(
                """
                update dbshield.schedule_runs set state = %s, ended = clock_timestamp(), exit_code = %s, output = %s
                where id = %s and state = 'running' returning extract(epoch from clock_timestamp() - began)::float
                """,
                [state, exit_code, output[-OUTPUT_MAX:], number],
            ).fetchone()
            if changed is not None:
                fields = {"due": due.due, "exit_code": exit_code, "seconds": round(changed[0], 1)}
                self._ended(job.name, job.kind, job.environment, state, output, **fields)

    def lost(self) -> Sequence[str]:
        """Runs of others of the group that are still said to be under way: who led is dead. The jobs that they were of."""
        with self._connection.transaction():
            rows = self._connection.execute(
                """
                update dbshield.schedule_runs r set state = 'lost', ended = clock_timestamp()
                where state = 'running' and scheduler <> %s and split_part(scheduler, ':', 1) = %s
                returning job, (select environment from dbshield.schedule_jobs j where j.name = r.job), due, scheduler
                """,
                [self.scheduler, self.group],
            ).fetchall()
            for job, environment, due, scheduler in rows:
                why = f"the scheduler {scheduler} ended while it ran"
                self._ended(job, job.partition(" ")[0], environment or "", "lost", why, due=due)
        return [row[0] for row in rows]

    def overdue(self, job: Job, due: datetime | None) -> None:
        """Record the due time that was not met, or that all is well again."""
        with self._connection.transaction():
            self._connection.execute("update dbshield.schedule_jobs set overdue = %s where name = %s", [due, job.name])
            if due is None:
                self._note("job-caught-up", job=job.name, environment=job.environment)
                return
            kind = OVERDUE.get(job.kind, "job-failed")
            self._note(kind, job=job.name, environment=job.environment, due=due, outcome="overdue")

    def forget(self) -> None:
        """Remove runs of long ago."""
        self._connection.execute(f"""
            delete from dbshield.schedule_runs r where began < clock_timestamp() - interval '{KEPT}' and state <> 'running'
            and exists (select from dbshield.schedule_runs n where n.job = r.job and n.due > r.due)
            and (r.state <> 'done' or exists (
                select from dbshield.schedule_runs n where n.job = r.job and n.due > r.due and n.state = 'done'
            ))
        """)  # noqa: S608  (a constant of ours)

    def _ended(self, job: str, kind: str, environment: str, state: str, output: str, **fields: Any) -> None:
        self._note("job", job=job, environment=environment, outcome=state, scheduler=self.scheduler, **fields)
        if state not in {"failed", "lost"}:
            return
        said = output.strip().splitlines()
        why = said[-1][:300] if said else ""
        named = FAILED.get(kind, "job-failed")
        if kind == "guard-verify" and fields.get("exit_code") == 1:
            named = "guard-tampered"
        self._note(named, job=job, environment=environment, outcome=state, error=why, **fields)

    def _insert(self, job: Job, due: Due, state: str, output: str | None = None) -> int | None:
        number = self._one(
            """
            insert into dbshield.schedule_runs (job, due, attempt, missed, state, began, ended, scheduler, output)
            values (%s, %s, %s, %s, %s, clock_timestamp(), case when %s <> 'running' then clock_timestamp() end, %s, %s)
            on conflict (job, due, attempt) do nothing returning id
            """,
            *(job.name, due.due, due.attempt, due.missed, state, state, self.scheduler, output),
        )
        return int(number) if number is not None else None

    def _note(self, kind: str, **fields: Any) -> None:
        entry = Entry(at=self.now(), kind=kind, fields=fields)
        self._connection.execute(APPEND, [None, None, [entry.line()]])

    def _one(self, query: str, *values: Any) -> Any:
        row = self._connection.execute(query, values or None).fetchone()
        return row[0] if row is not None else None


def _options(dsn: str) -> Mapping[str, Any]:
    """Ours, with what the connection string says of `options` in front: both hold."""
    given = psycopg.conninfo.conninfo_to_dict(dsn).get("options")
    return {**CONNECT, "options": f"{given} {CONNECT['options']}"} if given else CONNECT
