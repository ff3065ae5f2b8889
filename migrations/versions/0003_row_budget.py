"""The rows that agents changed lately, for their hourly budgets."""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # without a foreign key and without the trigger that announces changes: this is written several times a second, a proxy may
    # serve an environment that nobody registered yet, and the proxies tell each other the numbers on a channel of their own
    op.execute("""
        create table dbshield.changed_rows (
            environment text not null,
            agent text not null,
            database text not null,
            table_name text not null,
            minute timestamptz not null,
            rows bigint not null,
            constraint changed_rows_pkey primary key (environment, agent, database, table_name, minute),
            constraint changed_rows_minute_check check (mod(extract(epoch from minute), 60) = 0),
            constraint changed_rows_rows_check check (rows > 0)
        )
    """)
    op.execute("create index changed_rows_minute_idx on dbshield.changed_rows (minute)")
    op.execute("comment on table dbshield.changed_rows is 'rows that agents changed, by minute; kept for two hours'")


def downgrade() -> None:
    op.execute("drop table dbshield.changed_rows")
