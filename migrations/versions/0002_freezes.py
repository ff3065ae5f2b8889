"""Code freezes: environments in which agents write nothing until a time, or until a human lifts it."""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("""
        create table dbshield.freezes (
            id bigint generated always as identity,
            environment text not null,
            reason text not null,
            frozen_by text not null,
            frozen_at timestamptz not null,
            -- null: until a human lifts it
            until timestamptz,
            lifted_at timestamptz,
            lifted_by text,
            constraint freezes_pkey primary key (id),
            constraint freezes_environment_fkey foreign key (environment) references dbshield.environments (name),
            constraint freezes_reason_check check (reason <> ''),
            constraint freezes_until_check check (until > frozen_at and isfinite(until)),
            constraint freezes_lifted_check check ((lifted_at is null) = (lifted_by is null))
        )
    """)
    # several may be in force at once, and all of them have to end: a later one never shortens an earlier one
    op.execute("create index freezes_unlifted_idx on dbshield.freezes (environment) where lifted_at is null")
    op.execute("comment on table dbshield.freezes is 'who froze an environment, why and until when; lifted ones stay'")
    op.execute("""
        create trigger announce
        after insert or update or delete or truncate on dbshield.freezes
        for each statement execute function dbshield.announce()
    """)


def downgrade() -> None:
    op.execute("drop table dbshield.freezes")
