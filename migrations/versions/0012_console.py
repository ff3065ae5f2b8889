"""The console: people's passwords and roles, and their sessions."""

from __future__ import annotations

from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

PEOPLE_FOR = """
    create or replace function dbshield.people_for(asked text) returns bigint
    language sql
    stable
    set search_path = ''
    as $$
        select case when pg_catalog.bool_or(d.decision = 'deny') then 0 else pg_catalog.count(p.name) end
        from dbshield.decisions d
        left join dbshield.people p on p.name = d.person and p.removed_at is null and p.enrolled_at <= d.at {role}
        where d.approval = asked
    $$
"""


def upgrade() -> None:
    # whoever was enrolled has decided until now
    op.execute("""
        alter table dbshield.people
            add column role text not null default 'approver',
            -- an scrypt verifier; null: this person does not sign in to the console
            add column password text,
            add constraint people_role_check check (role in ('viewer', 'approver', 'admin'))
    """)
    op.execute(PEOPLE_FOR.format(role="and p.role in ('approver', 'admin')"))
    op.execute("""
        create table dbshield.console_sessions (
            -- SHA-256 of what the browser holds
            id bytea not null,
            person text not null,
            created_at timestamptz not null,
            seen_at timestamptz not null,
            expires_at timestamptz not null,
            source text not null,
            constraint console_sessions_pkey primary key (id),
            constraint console_sessions_person_fkey foreign key (person) references dbshield.people (name),
            constraint console_sessions_id_check check (octet_length(id) = 32),
            constraint console_sessions_lifetime_check check (expires_at > created_at)
        )
    """)
    op.execute("create index console_sessions_person_idx on dbshield.console_sessions (person)")
    op.execute("comment on table dbshield.console_sessions is 'who is signed in to the console'")
    op.execute("""
        create table dbshield.console_attempts (
            -- SHA-256 of a name and where it was used from: people type passwords into the wrong field
            who bytea not null,
            attempts integer not null,
            since timestamptz not null,
            constraint console_attempts_pkey primary key (who),
            constraint console_attempts_who_check check (octet_length(who) = 32)
        )
    """)
    op.execute(
        "comment on table dbshield.console_attempts is 'attempts to sign in that did not succeed, in the window that runs'"
    )


def downgrade() -> None:
    op.execute("drop table dbshield.console_attempts")
    op.execute("drop table dbshield.console_sessions")
    op.execute(PEOPLE_FOR.format(role=""))
    op.execute("alter table dbshield.people drop column role, drop column password")
