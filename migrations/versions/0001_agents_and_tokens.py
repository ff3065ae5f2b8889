"""Environments, agents and tokens, and the notice of every change to them."""

from __future__ import annotations

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

TABLES = ("environments", "agents", "tokens")


def upgrade() -> None:
    op.execute("""
        create table dbshield.environments (
            name text not null,
            created_at timestamptz not null default now(),
            system_identifier bigint,
            constraint environments_pkey primary key (name),
            constraint environments_name_check check (name ~ '^[a-z][a-z0-9-]{0,30}$')
        )
    """)
    op.execute("""
        create table dbshield.agents (
            id uuid not null,
            environment text not null,
            name text not null,
            access text not null,
            -- shared by all tokens of the agent: SCRAM sends them before it is known which token the client holds
            salt bytea not null,
            iterations integer not null,
            -- the role that the proxy logs in with; null: the environment's own
            role text,
            sealed_password bytea,
            created_at timestamptz not null default now(),
            removed_at timestamptz,
            constraint agents_pkey primary key (id),
            constraint agents_environment_fkey foreign key (environment) references dbshield.environments (name),
            constraint agents_name_check check (name ~ '^[a-z][a-z0-9-]{0,30}$'),
            constraint agents_access_check check (access in ('read', 'write', 'migrate')),
            constraint agents_salt_check check (octet_length(salt) >= 16),
            constraint agents_iterations_check check (iterations >= 4096),
            constraint agents_password_needs_role_check check (sealed_password is null or role is not null)
        )
    """)
    op.execute("create unique index agents_living_name_idx on dbshield.agents (environment, name) where removed_at is null")
    op.execute("""
        create table dbshield.tokens (
            id text not null,
            agent uuid not null,
            stored_key bytea not null,
            server_key bytea not null,
            created_at timestamptz not null default now(),
            expires_at timestamptz not null,
            revoked_at timestamptz,
            created_by text not null,
            constraint tokens_pkey primary key (id),
            constraint tokens_agent_fkey foreign key (agent) references dbshield.agents (id),
            constraint tokens_id_check check (id ~ '^[a-z2-7]{12}$'),
            constraint tokens_stored_key_check check (octet_length(stored_key) = 32),
            constraint tokens_server_key_check check (octet_length(server_key) = 32),
            constraint tokens_lifetime_check check (expires_at > created_at)
        )
    """)
    op.execute("create index tokens_agent_idx on dbshield.tokens (agent)")
    for table, comment in (
        ("environments", "the protected clusters; system_identifier pins the cluster once it was seen"),
        ("agents", "the identities of AI agents; removed ones stay, since the audit names them"),
        ("tokens", "SCRAM-SHA-256 verifiers; the tokens themselves are kept nowhere"),
    ):
        op.execute(f"comment on table dbshield.{table} is '{comment}'")
    announce_changes()


def announce_changes() -> None:
    """A trigger, so that no writer can forget to tell the proxies; the notice leaves with the commit, never before."""
    op.execute("""
        create function dbshield.announce() returns trigger
        language plpgsql
        set search_path = ''
        as $$
        begin
            perform pg_catalog.pg_notify('dbshield', tg_table_name);
            return null;
        end
        $$
    """)
    for table in TABLES:
        op.execute(f"""
            create trigger announce
            after insert or update or delete or truncate on dbshield.{table}
            for each statement execute function dbshield.announce()
        """)


def downgrade() -> None:
    for table in reversed(TABLES):
        op.execute(f"drop table dbshield.{table}")
    op.execute("drop function dbshield.announce()")
