"""The WAL archive: how far each plan's has come, and drills of a moment in it."""

from __future__ import annotations

from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("""
        create table dbshield.wal_archives (
            environment text not null,
            plan text not null,
            destination text not null,
            system_identifier text not null,
            timeline integer not null,
            -- the newest segment, and up to where it is there
            name text not null,
            end_lsn text not null,
            -- up to there any moment can be restored; the time is the protected server's
            mark_lsn text,
            marked_at timestamptz,
            shipped_at timestamptz not null default now(),
            -- since when, and what was put there since
            since timestamptz not null default now(),
            segments bigint not null,
            stored_bytes bigint not null,
            constraint wal_archives_pkey primary key (environment, plan),
            constraint wal_archives_environment_fkey foreign key (environment) references dbshield.environments (name),
            constraint wal_archives_plan_check check (plan ~ '^[a-z][a-z0-9-]{0,30}$'),
            constraint wal_archives_name_check check (name ~ '^[0-9A-F]{24}$'),
            constraint wal_archives_marked_check check ((mark_lsn is null) = (marked_at is null))
        )
    """)
    op.execute(
        "comment on table dbshield.wal_archives is"
        " 'how far the WAL archive of each plan has come; what is in it says the archive itself, signed'"
    )
    op.execute("alter table dbshield.schedule_jobs drop constraint schedule_jobs_kind_check")
    op.execute("""
        alter table dbshield.schedule_jobs add constraint schedule_jobs_kind_check
        check (kind in ('snapshot', 'wal', 'drill', 'drill-moment', 'prune', 'guard-verify'))
    """)


def downgrade() -> None:
    op.execute("delete from dbshield.schedule_jobs where kind = 'drill-moment'")
    op.execute("alter table dbshield.schedule_jobs drop constraint schedule_jobs_kind_check")
    op.execute("""
        alter table dbshield.schedule_jobs add constraint schedule_jobs_kind_check
        check (kind in ('snapshot', 'wal', 'drill', 'prune', 'guard-verify'))
    """)
    op.execute("drop table dbshield.wal_archives")
