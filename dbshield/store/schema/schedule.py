"""The schedule: its jobs, and what became of each time that was due."""

from __future__ import annotations

from sqlalchemy import BigInteger, CheckConstraint, Column, DateTime, Identity, Index, Integer, Table, Text, UniqueConstraint

from dbshield.store.schema.base import metadata

schedule_jobs = Table(
    "schedule_jobs",
    metadata,
    Column("name", Text, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("target", Text, nullable=False),
    Column("environment", Text, nullable=False),
    Column("scheduled_by", Text, nullable=False),
    Column("cron", Text, nullable=False),
    Column("zone", Text, nullable=False),
    Column("since", DateTime(timezone=True), nullable=False),
    Column("overdue", DateTime(timezone=True)),
    CheckConstraint("kind in ('snapshot', 'wal', 'drill', 'drill-moment', 'prune', 'guard-verify')", name="kind"),
    CheckConstraint("name = kind || ' ' || target", name="name"),
    comment="what the configuration schedules, as the leading scheduler read it",
)

schedule_runs = Table(
    "schedule_runs",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("job", Text, nullable=False),
    Column("due", DateTime(timezone=True), nullable=False),
    Column("attempt", Integer, CheckConstraint("attempt between 1 and 2", name="attempt"), nullable=False),
    Column("missed", Integer, CheckConstraint("missed >= 0", name="missed"), nullable=False),
    Column(
        "state",
        Text,
        CheckConstraint("state in ('running', 'done', 'failed', 'stopped', 'lost', 'skipped')", name="state"),
        nullable=False,
    ),
    Column("began", DateTime(timezone=True), nullable=False),
    Column("ended", DateTime(timezone=True)),
    Column("scheduler", Text, nullable=False),
    Column("exit_code", Integer),
    Column("output", Text),
    CheckConstraint("(state = 'running') = (ended is null)", name="ended"),
    UniqueConstraint("job", "due", "attempt", name="schedule_runs_job_due_attempt_key"),
    comment="runs of jobs: stopped with their scheduler, lost when it died, skipped while an earlier one went on",
)
Index("schedule_runs_newest_idx", schedule_runs.c.job, schedule_runs.c.id.desc())
