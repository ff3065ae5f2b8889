"""What brings back what an approved statement destroyed."""

from __future__ import annotations

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("""
        create table dbshield.undo_points (
            -- the approval whose statement it undoes
            id text not null,
            environment text not null,
            database text not null,
            -- of the protected cluster: a transaction id means nothing on another one
            system_identifier text not null,
            transaction_id text not null,
            taken_at timestamptz not null,
            -- what is answered when the executor dies between its commit and its report
            tag text not null,
            result jsonb,
            -- the machine whose state folder holds undo/ID; null: a human said --without-undo
            host text,
            bytes bigint not null,
            -- of the manifest, which has those of all other files
            sha256 bytea,
            summary jsonb not null,
            undone_at timestamptz,
            undone_by text,
            constraint undo_points_pkey primary key (id),
            constraint undo_points_id_fkey foreign key (id) references dbshield.approvals (id),
            constraint undo_points_bytes_check check (bytes >= 0),
            constraint undo_points_sha256_check check (octet_length(sha256) = 32),
            constraint undo_points_kept_check check ((host is null) = (sha256 is null)),
            constraint undo_points_undone_check check ((undone_at is null) = (undone_by is null))
        )
    """)
    op.execute("create index undo_points_taken_at_idx on dbshield.undo_points (taken_at)")
    op.execute("comment on table dbshield.undo_points is 'what brings back what approved statements destroyed'")


def downgrade() -> None:
    op.execute("drop table dbshield.undo_points")
