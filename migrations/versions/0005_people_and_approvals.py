"""Humans with their second factor, and their decisions on held statements."""

from __future__ import annotations

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("alter table dbshield.agents add column owner text")
    people()
    approvals()
    decisions()
    keep_to_the_moves()
    keep_what_was_decided()
    announce_states()


def people() -> None:
    op.execute("""
        create table dbshield.people (
            name text not null,
            sealed_totp bytea not null,
            -- the newest time step whose code was used: no code works twice
            last_step bigint not null default 0,
            created_at timestamptz not null default now(),
            created_by text not null,
            -- who let them in with a code of their own; null: there was nobody yet
            vouched_by text,
            -- since when the secret is known to be in the right hands; null: no first code was seen, so nothing may be decided
            enrolled_at timestamptz,
            wrong_codes integer not null default 0,
            wrong_since timestamptz,
            locked_until timestamptz,
            removed_at timestamptz,
            constraint people_pkey primary key (name),
            constraint people_name_check check (name ~ '^[a-z0-9][a-z0-9._@-]{0,62}$'),
            constraint people_wrong_codes_check check (wrong_codes >= 0)
        )
    """)
    op.execute("comment on table dbshield.people is 'who may decide; removed ones stay, since decisions name them'")


def approvals() -> None:
    # without foreign keys to environments and agents: the record outlives both
    op.execute("""
        create table dbshield.approvals (
            id text not null,
            environment text not null,
            agent text not null,
            agent_id uuid,
            access text not null,
            database text not null,
            session bigint,
            application text not null default '',
            -- exactly as the client sent it
            statement text not null,
            -- null: a simple query
            parameters jsonb,
            -- those of the session that decide what the text means; none: those of the agent's role
            settings jsonb not null default '{}',
            digest bytea not null,
            normal text not null,
            effects jsonb not null,
            findings jsonb not null,
            -- what a denial is remembered by
            remembers jsonb not null default '[]',
            requested_at timestamptz not null,
            expires_at timestamptz not null,
            needed integer not null,
            state text not null default 'waiting',
            without_undo boolean not null default false,
            preview jsonb,
            decided_at timestamptz,
            started_at timestamptz,
            finished_at timestamptz,
            executor text,
            -- pg_current_xact_id of the protected server
            transaction_id text,
            tag text,
            error jsonb,
            result jsonb,
            undo text,
            constraint approvals_pkey primary key (id),
            constraint approvals_id_check check (id ~ '^apr-[a-z2-7]{8}$'),
            constraint approvals_access_check check (access in ('read', 'write', 'migrate')),
            constraint approvals_digest_check check (octet_length(digest) = 32),
            constraint approvals_lifetime_check check (expires_at > requested_at and isfinite(expires_at)),
            constraint approvals_needed_check check (needed between 1 and 2),
            constraint approvals_state_check check (
                state in ('waiting', 'approved', 'denied', 'expired', 'withdrawn', 'running', 'done', 'failed')
            )
        )
    """)
    op.execute("""
        create index approvals_open_idx on dbshield.approvals (environment, digest)
        where state in ('waiting', 'approved', 'running')
    """)
    op.execute("create index approvals_requested_at_idx on dbshield.approvals (requested_at)")
    op.execute("comment on table dbshield.approvals is 'statements that wait for a human, and what became of them'")


def decisions() -> None:
    op.execute("""
        create table dbshield.decisions (
            approval text not null,
            person text not null,
            decision text not null,
            reason text not null default '',
            at timestamptz not null,
            constraint decisions_pkey primary key (approval, person),
            constraint decisions_approval_fkey foreign key (approval) references dbshield.approvals (id),
            constraint decisions_person_fkey foreign key (person) references dbshield.people (name),
            constraint decisions_decision_check check (decision in ('approve', 'deny'))
        )
    """)
    op.execute("comment on table dbshield.decisions is 'what each person said, one word a person and approval'")
    op.execute("""
        create table dbshield.denials (
            environment text not null,
            agent text not null,
            effect text not null,
            approval text not null,
            at timestamptz not null,
            until timestamptz not null,
            constraint denials_pkey primary key (environment, agent, effect, approval),
            constraint denials_approval_fkey foreign key (approval) references dbshield.approvals (id),
            constraint denials_until_check check (until > at)
        )
    """)
    op.execute("comment on table dbshield.denials is 'what a human denied lately: the next with it gets the same answer'")


def keep_to_the_moves() -> None:
    """A trigger, so that no code and no hand can skip a step: what was used is used, what was asked for stays as it was asked."""
    op.execute("""
        create function dbshield.approvals_keep_to_the_moves() returns trigger
        language plpgsql
        set search_path = ''
        as $$
        begin
            if tg_op = 'INSERT' then
                if new.state <> 'waiting' then
                    raise check_violation using
                        message = 'an approval begins as waiting, not as ' || new.state,
                        constraint = 'approvals_moves_check';
                end if;
                return new;
            end if;
            if row(old.id, old.environment, old.agent, old.agent_id, old.access, old.database, old.session, old.application,
                   old.statement, old.parameters, old.settings, old.digest, old.normal, old.effects, old.findings, old.remembers,
                   old.requested_at, old.expires_at, old.needed)
               is distinct from
               row(new.id, new.environment, new.agent, new.agent_id, new.access, new.database, new.session, new.application,
                   new.statement, new.parameters, new.settings, new.digest, new.normal, new.effects, new.findings, new.remembers,
                   new.requested_at, new.expires_at, new.needed)
            then
                raise check_violation using
                    message = 'what approval ' || old.id || ' was asked for does not change',
                    constraint = 'approvals_asked_check';
            end if;
            if new.state = old.state then
                return new;
            end if;
            if (old.state || ' ' || new.state) not in (
                'waiting approved', 'waiting denied', 'waiting expired', 'waiting withdrawn',
                'approved running', 'approved expired', 'approved withdrawn',
                'running done', 'running failed'
            ) then
                raise check_violation using
                    message = 'approval ' || old.id || ' is ' || old.state || ' and cannot become ' || new.state,
                    constraint = 'approvals_moves_check';
            end if;
            if new.state = 'running' and (new.started_at is null or new.started_at >= new.expires_at or new.executor is null) then
                raise check_violation using
                    message = 'approval ' || old.id || ' is started by a named executor before it expires',
                    constraint = 'approvals_started_check';
            end if;
            if new.state in ('approved', 'running') and dbshield.people_for(new.id) < new.needed then
                raise check_violation using
                    message = 'approval ' || old.id || ' needs the approval of ' || new.needed || ' and the denial of nobody',
                    constraint = 'approvals_decided_check';
            end if;
            if new.state = 'denied' and not exists (
                select from dbshield.decisions where approval = new.id and decision = 'deny'
            ) then
                raise check_violation using
                    message = 'nobody denied approval ' || old.id,
                    constraint = 'approvals_decided_check';
            end if;
            return new;
        end
        $$
    """)
    # one that a removed person gave does not count, nor one given with a secret that was replaced since; one denial outweighs all
    op.execute("""
        create function dbshield.people_for(asked text) returns bigint
        language sql
        stable
        set search_path = ''
        as $$
            select case when pg_catalog.bool_or(d.decision = 'deny') then 0 else pg_catalog.count(p.name) end
            from dbshield.decisions d
            left join dbshield.people p on p.name = d.person and p.removed_at is null and p.enrolled_at <= d.at
            where d.approval = asked
        $$
    """)
    op.execute("""
        create trigger keep_to_the_moves
        before insert or update on dbshield.approvals
        for each row execute function dbshield.approvals_keep_to_the_moves()
    """)


def keep_what_was_decided() -> None:
    op.execute("""
        create function dbshield.decisions_keep() returns trigger
        language plpgsql
        set search_path = ''
        as $$
        begin
            if not exists (select from dbshield.approvals where id = new.approval and state = 'waiting') then
                raise check_violation using
                    message = 'approval ' || new.approval || ' is decided',
                    constraint = 'decisions_waiting_check';
            end if;
            return new;
        end
        $$
    """)
    op.execute("""
        create trigger keep_what_was_decided
        before insert or update on dbshield.decisions
        for each row execute function dbshield.decisions_keep()
    """)


def announce_states() -> None:
    """On a channel of their own: a proxy would read everything again at each notice on the common one."""
    op.execute("""
        create function dbshield.approvals_announce() returns trigger
        language plpgsql
        set search_path = ''
        as $$
        begin
            perform pg_catalog.pg_notify('dbshield_approvals', new.id || ' ' || new.state);
            return null;
        end
        $$
    """)
    op.execute("""
        create trigger announce_new
        after insert on dbshield.approvals
        for each row execute function dbshield.approvals_announce()
    """)
    op.execute("""
        create trigger announce_state
        after update on dbshield.approvals
        for each row when (old.state is distinct from new.state) execute function dbshield.approvals_announce()
    """)


def downgrade() -> None:
    for table in ("denials", "decisions", "approvals", "people"):
        op.execute(f"drop table dbshield.{table}")
    for function in ("approvals_announce()", "decisions_keep()", "approvals_keep_to_the_moves()", "people_for(text)"):
        op.execute(f"drop function dbshield.{function}")
    op.execute("alter table dbshield.agents drop column owner")
