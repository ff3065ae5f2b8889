"""An undo point whose files were removed because it was kept long enough says so."""

from __future__ import annotations

from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("""
        alter table dbshield.undo_points
            -- when its files were given up
            add column expired_at timestamptz,
            add constraint undo_points_expired_check check (expired_at is null or sha256 is not null)
    """)


def downgrade() -> None:
    op.execute("alter table dbshield.undo_points drop column expired_at")
