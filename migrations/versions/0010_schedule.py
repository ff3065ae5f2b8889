"""The schedule: its jobs, their runs, and the order in which snapshots were recorded."""

from __future__ import annotations

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    number_snapshots()
    op.execute("""
        create table dbshield.schedule_jobs (
            -- kind and target, such as "snapshot nightly"
            name text not null,
            kind text not null,
            target text not null,
            environment text not null,
            -- [schedule] group of the schedulers that run it
            scheduled_by text not null,
            cron text not null,
            zone text not null,
            -- when a scheduler first saw the job with this expression; nothing is due before
            since timestamptz not null,
            -- the due time that was not met and was said to be overdue
            overdue timestamptz,
            constraint schedule_jobs_pkey primary key (name),
            constraint schedule_jobs_kind_check check (kind in ('snapshot', 'wal', 'drill', 'prune', 'guard-verify')),
            constraint schedule_jobs_name_check check (name = kind || ' ' || target)
        )
    """)
    op.execute("comment on table dbshield.schedule_jobs is 'what the configuration schedules, as the leading scheduler read it'")
    op.execute("""
        create table dbshield.schedule_runs (
            id bigint generated always as identity,
            job text not null,
            due timestamptz not null,
            -- 2: the first was cut short by the end of its scheduler
            attempt integer not null,
            -- due times before this one that nobody ran
            missed integer not null,
            state text not null,
            began timestamptz not null,
            ended timestamptz,
            -- GROUP:HOST/PID/random
            scheduler text not null,
            -- negative: the number of the signal that ended it
            exit_code integer,
            -- the end of what it said
            output text,
            constraint schedule_runs_pkey primary key (id),
            -- nothing runs twice, whoever leads
            constraint schedule_runs_job_due_attempt_key unique (job, due, attempt),
            constraint schedule_runs_attempt_check check (attempt between 1 and 2),
            constraint schedule_runs_missed_check check (missed >= 0),
            constraint schedule_runs_state_check check (state in ('running', 'done', 'failed', 'stopped', 'lost', 'skipped')),
            constraint schedule_runs_ended_check check ((state = 'running') = (ended is null))
        )
    """)
    op.execute("create index schedule_runs_newest_idx on dbshield.schedule_runs (job, id desc)")
    op.execute(
        "comment on table dbshield.schedule_runs is"
        " 'runs of jobs: stopped with their scheduler, lost when it died, skipped while an earlier one went on'"
    )


def number_snapshots() -> None:
    """Retention goes by the catalogue's own order and time: a clock that went back would make the newest the oldest."""
    op.execute("alter table dbshield.snapshots add column number bigint, add column recorded_at timestamptz")
    op.execute("""
        update dbshield.snapshots s set number = o.number, recorded_at = s.began
        from (select id, row_number() over (order by began, id) as number from dbshield.snapshots) o where o.id = s.id
    """)
    op.execute("""
        alter table dbshield.snapshots
            alter column number set not null,
            alter column recorded_at set not null,
            alter column recorded_at set default clock_timestamp()
    """)
    op.execute("alter table dbshield.snapshots alter column number add generated always as identity")
    op.execute("""
        select setval(pg_get_serial_sequence('dbshield.snapshots', 'number'), max(number)) from dbshield.snapshots
        having max(number) is not null
    """)
    op.execute("alter table dbshield.snapshots add constraint snapshots_number_key unique (number)")
    op.execute("""
        create function dbshield.keep_recorded() returns trigger language plpgsql as $$
        begin
            raise exception 'when the snapshot % was recorded does not change', old.id
                using errcode = 'integrity_constraint_violation';
        end
        $$
    """)
    op.execute("""
        create trigger keep_recorded before update of recorded_at on dbshield.snapshots
        for each row when (new.recorded_at is distinct from old.recorded_at) execute function dbshield.keep_recorded()
    """)


def downgrade() -> None:
    op.execute("drop table dbshield.schedule_runs")
    op.execute("drop table dbshield.schedule_jobs")
    op.execute("drop trigger keep_recorded on dbshield.snapshots")
    op.execute("drop function dbshield.keep_recorded()")
    op.execute("alter table dbshield.snapshots drop column number, drop column recorded_at")
