"""Each place keeps which configuration it served last, so that a change made while nothing ran is told at the next start."""

from __future__ import annotations

from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("""
        create table dbshield.served_configurations (
            host text not null,
            file text not null,
            state text not null,
            part text not null,
            -- which key the digests in the picture were made with
            key text not null,
            -- JSON: policies in clear, numbers and switches, digests of texts
            picture text not null,
            served_at timestamptz not null,
            constraint served_configurations_pkey primary key (host, file, state, part),
            constraint served_configurations_part_check check (part in ('proxy', 'scheduler'))
        )
    """)
    op.execute(
        "comment on table dbshield.served_configurations is 'the configuration that each place served last, without its secrets'"
    )


def downgrade() -> None:
    op.execute("drop table dbshield.served_configurations")
