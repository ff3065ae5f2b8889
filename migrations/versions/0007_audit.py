"""The audit: entries chained by hash, partitioned by the month in which they were taken in.

The chain is made here, in one function, because every writer (each proxy worker, each command) must take its place in it, and a
place is known only under the lock of the chain's head. `dbshield/control/audit_chain.py` says the same in Python, to verify it.
"""

from __future__ import annotations

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    make_tables()
    make_hurdle()
    make_partitions()
    make_append()
    make_retention()


def make_tables() -> None:
    op.execute("""
        create table dbshield.audit (
            -- the place in the chain; there is no gap
            id bigint not null,
            -- when it was taken in, by this server's clock, never before the entry in front of it: so a month is a piece of the
            -- chain, and retention can drop it without tearing a hole
            recorded_at timestamptz not null,
            -- when it happened, by the writer's clock
            at timestamptz not null,
            kind text not null,
            environment text,
            agent text,
            database text,
            session bigint,
            person text,
            verdict text,
            rules text[],
            -- one worker of a proxy counts its entries, so that none is taken in twice; null for a command
            writer uuid,
            sequence bigint,
            -- the entry itself, in the very letters that were hashed; the columns above are for searching
            entry text not null,
            hash bytea not null,
            constraint audit_pkey primary key (recorded_at, id),
            constraint audit_hash_check check (octet_length(hash) = 32)
        ) partition by range (recorded_at)
    """)
    op.execute("create index audit_id_idx on dbshield.audit (id)")
    op.execute("create index audit_at_idx on dbshield.audit (at)")
    op.execute("create index audit_agent_idx on dbshield.audit (environment, agent, at)")
    op.execute("create index audit_stopped_idx on dbshield.audit (at) where verdict in ('hold', 'deny')")
    op.execute("comment on table dbshield.audit is 'every connection, statement and decision, chained by hash'")
    op.execute("""
        create table dbshield.audit_head (
            -- there is one row
            one boolean not null default true,
            -- the newest entry
            position bigint not null,
            hash bytea not null,
            recorded_at timestamptz not null,
            -- the newest entry that retention has dropped, 0 for none: the chain begins behind it
            dropped bigint not null,
            dropped_hash bytea not null,
            constraint audit_head_pkey primary key (one),
            constraint audit_head_one_check check (one)
        )
    """)
    op.execute("comment on table dbshield.audit_head is 'where the chain of the audit ends, and where it begins'")
    op.execute("""
        insert into dbshield.audit_head (position, hash, recorded_at, dropped, dropped_hash)
        values (0, decode(repeat('00', 32), 'hex'), '-infinity', 0, decode(repeat('00', 32), 'hex'))
    """)
    op.execute("""
        create table dbshield.audit_writers (
            writer uuid not null,
            -- its newest entry in the chain
            sequence bigint not null,
            recorded_at timestamptz not null,
            constraint audit_writers_pkey primary key (writer)
        )
    """)
    op.execute("comment on table dbshield.audit_writers is 'how far each worker of a proxy has written the audit'")


def make_hurdle() -> None:
    """No proof: whoever owns the table can take it away. The chain is what tells that somebody did."""
    op.execute("""
        create function dbshield.audit_stays() returns trigger
        language plpgsql
        set search_path = ''
        as $$
        begin
            raise exception 'the audit is only ever added to' using errcode = 'insufficient_privilege';
        end
        $$
    """)
    op.execute("""
        create trigger stays before update or delete on dbshield.audit
        for each row execute function dbshield.audit_stays()
    """)
    op.execute("""
        create trigger stays_whole before truncate on dbshield.audit
        for each statement execute function dbshield.audit_stays()
    """)


def make_partitions() -> None:
    # attached rather than created in place: that locks out no reader, and an export may take an hour
    op.execute("""
        create function dbshield.audit_partition(month timestamp) returns void
        language plpgsql
        set search_path = ''
        as $$
        declare
            name text := pg_catalog.to_char(month, '"audit_y"YYYY"m"MM');
        begin
            if pg_catalog.to_regclass('dbshield.' || name) is not null then
                return;
            end if;
            execute pg_catalog.format(
                'create table dbshield.%I (like dbshield.audit including defaults including constraints)', name);
            execute pg_catalog.format(
                'create trigger stays_whole before truncate on dbshield.%I'
                ' for each statement execute function dbshield.audit_stays()', name);
            execute pg_catalog.format(
                'alter table dbshield.audit attach partition dbshield.%I for values from (%L) to (%L)', name,
                pg_catalog.to_char(month, 'YYYY-MM-DD"T00:00:00Z"'),
                pg_catalog.to_char(month + interval '1 month', 'YYYY-MM-DD"T00:00:00Z"'));
        end
        $$
    """)


def make_append() -> None:
    # entries that this writer has brought before are left out: it sends again what it does not know to be committed
    op.execute("""
        create function dbshield.audit_append(p_writer uuid, p_first bigint, p_entries text[]) returns bigint
        language plpgsql
        set search_path = ''
        as $$
        declare
            v_head dbshield.audit_head;
            v_moment timestamptz;
            v_month timestamp;
            v_micros text;
            v_skip integer := 0;
            v_count integer := pg_catalog.cardinality(p_entries);
            v_hash bytea;
            v_hashes bytea[] := '{}';
        begin
            select * into strict v_head from dbshield.audit_head for update;
            if p_writer is not null then
                select least(v_count, w.sequence - p_first + 1) into v_skip
                from dbshield.audit_writers w where w.writer = p_writer;
                v_skip := greatest(0, coalesce(v_skip, 0));
            end if;
            if v_skip = v_count then
                return v_head.position;
            end if;
            v_moment := greatest(pg_catalog.clock_timestamp(), v_head.recorded_at);
            v_month := pg_catalog.date_trunc('month', v_moment at time zone 'UTC');
            if v_head.recorded_at = '-infinity' or v_month > pg_catalog.date_trunc('month', v_head.recorded_at at time zone 'UTC')
            then
                perform dbshield.audit_partition(v_month);
                perform dbshield.audit_partition(v_month + interval '1 month');
            end if;
            v_micros := ((extract(epoch from v_moment) * 1000000)::bigint)::text;
            v_hash := v_head.hash;
            for i in v_skip + 1 .. v_count loop
                v_hash := pg_catalog.sha256(v_hash || pg_catalog.convert_to(
                    (v_head.position + i - v_skip) || ' ' || v_micros || ' ' || coalesce(p_writer::text, '-') || ' '
                    || coalesce((p_first + i - 1)::text, '-') || ' ' || p_entries[i], 'UTF8'));
                v_hashes := v_hashes || v_hash;
            end loop;
            insert into dbshield.audit (id, recorded_at, at, kind, environment, agent, database, session, person, verdict, rules,
                writer, sequence, entry, hash)
            select v_head.position + e.n, v_moment, (j.j ->> 'ts')::timestamptz, j.j ->> 'event', j.j ->> 'environment',
                j.j ->> 'agent', j.j ->> 'database', (j.j ->> 'session')::bigint, j.j ->> 'person', j.j ->> 'verdict',
                case when j.j ? 'rules' then array(select pg_catalog.jsonb_array_elements_text(j.j -> 'rules')) end,
                p_writer, p_first + v_skip + e.n - 1, e.entry, e.hash
            from rows from (pg_catalog.unnest(p_entries[v_skip + 1:]), pg_catalog.unnest(v_hashes))
                with ordinality as e (entry, hash, n)
                -- offset: read once, not once a column
                cross join lateral (select e.entry::jsonb as j offset 0) as j;
            update dbshield.audit_head
            set position = v_head.position + v_count - v_skip, hash = v_hash, recorded_at = v_moment;
            if p_writer is not null then
                insert into dbshield.audit_writers as w (writer, sequence, recorded_at)
                values (p_writer, p_first + v_count - 1, v_moment)
                on conflict (writer) do update set sequence = excluded.sequence, recorded_at = excluded.recorded_at;
            end if;
            return v_head.position + v_count - v_skip;
        end
        $$
    """)


def make_retention() -> None:
    # whole months, from the oldest on; the entry about it is what verifies where the chain begins
    op.execute("""
        create function dbshield.audit_drop_before(p_moment timestamptz) returns bigint
        language plpgsql
        set search_path = ''
        as $$
        declare
            v_head dbshield.audit_head;
            v_month timestamp := pg_catalog.date_trunc('month', p_moment at time zone 'UTC');
            v_partition text;
            v_newest record;
            v_dropped bigint;
            v_hash bytea;
        begin
            -- readers are not made to wait behind somebody who waits for a reader
            perform pg_catalog.set_config('lock_timeout', '2s', true);
            select * into strict v_head from dbshield.audit_head for update;
            v_dropped := v_head.dropped;
            v_hash := v_head.dropped_hash;
            for v_partition in
                select c.relname from pg_catalog.pg_inherits i
                join pg_catalog.pg_class c on c.oid = i.inhrelid
                where i.inhparent = 'dbshield.audit'::regclass
                    and c.relname < pg_catalog.to_char(v_month, '"audit_y"YYYY"m"MM')
                order by c.relname
            loop
                execute pg_catalog.format('select id, hash from dbshield.%I order by id desc limit 1', v_partition) into v_newest;
                if v_newest.id = v_head.position then
                    exit;  -- the newest entry stays, however old: it is what the next one is chained to
                end if;
                execute pg_catalog.format('drop table dbshield.%I', v_partition);
                if v_newest.id is not null then
                    v_dropped := v_newest.id;
                    v_hash := v_newest.hash;
                end if;
            end loop;
            if v_dropped > v_head.dropped then
                update dbshield.audit_head set dropped = v_dropped, dropped_hash = v_hash;
                perform dbshield.audit_append(null, null, array[pg_catalog.json_build_object(
                    'ts', pg_catalog.to_char(pg_catalog.clock_timestamp() at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
                    'event', 'audit-retention', 'from', v_head.dropped + 1, 'to', v_dropped,
                    'hash', pg_catalog.encode(v_hash, 'hex'))::text]);
                delete from dbshield.audit_writers where recorded_at < p_moment;
            end if;
            return v_dropped - v_head.dropped;
        end
        $$
    """)


def downgrade() -> None:
    op.execute("drop function dbshield.audit_drop_before(timestamptz)")
    op.execute("drop function dbshield.audit_append(uuid, bigint, text[])")
    op.execute("drop function dbshield.audit_partition(timestamp)")
    op.execute("drop table dbshield.audit_writers")
    op.execute("drop table dbshield.audit_head")
    op.execute("drop table dbshield.audit")
    op.execute("drop function dbshield.audit_stays()")
