"""What a token may do beyond its agent: databases, level, networks, hours; when it was last used; who pinned an environment."""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # null: as the agent; a scope narrows and never widens
    op.execute("""
        alter table dbshield.tokens
            add access text,
            add databases text[],
            add networks text[],
            add hours text,
            -- the token that a rotation replaced
            add replaces text,
            add constraint tokens_access_check check (access in ('read', 'write', 'migrate')),
            add constraint tokens_replaces_fkey foreign key (replaces) references dbshield.tokens (id)
    """)
    # a table of its own without a notice: proxies load every agent anew when tokens change, and must not at every use
    op.execute("""
        create table dbshield.token_uses (
            token text not null,
            used_at timestamptz not null,
            used_from text not null,
            constraint token_uses_pkey primary key (token)
        )
    """)
    op.execute("comment on table dbshield.token_uses is 'when a token was last used and from where, to about a minute'")
    op.execute("alter table dbshield.environments add pinned_at timestamptz, add pinned_by text")


def downgrade() -> None:
    op.execute("alter table dbshield.environments drop pinned_at, drop pinned_by")
    op.execute("drop table dbshield.token_uses")
    op.execute("""
        alter table dbshield.tokens
            drop access, drop databases, drop networks, drop hours, drop replaces
    """)
