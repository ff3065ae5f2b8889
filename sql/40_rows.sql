-- The row guard and the truncate guard.
--
-- The server counts by itself what a transaction does to each table, however it is reached: by a cascade, a loop, a function, a
-- partition, MERGE or an upsert. A trigger behind each statement adds up what the server has counted. It then asks for the counts
-- to be handed in when the transaction is over, so that the next one begins at zero; until then they only grow, also over
-- ROLLBACK TO SAVEPOINT and over the transactions that one message holds. Nothing of it is within an agent's reach. The rows of a
-- foreign table are counted by nobody, so agents change none, neither there nor by a table that one is a part of.
create or replace function dbshield.count_rows() returns trigger
    language plpgsql security definer
    set search_path = pg_catalog, pg_temp
as $$
declare
    allowed bigint;
    changed bigint;
begin
    if not dbshield.is_agent() then
        return null;
    end if;
    perform pg_stat_force_next_flush();
    if not current_setting('track_counts')::boolean then
        perform dbshield.refuse('change rows that the server does not count', 'track_counts has to be on.');
    end if;
    if exists (select from pg_foreign_table) and exists (
        with recursive part as (
            select tg_relid as oid
            union
            select i.inhrelid from part join pg_inherits as i on i.inhparent = part.oid
        )
        select from part join pg_foreign_table as f on f.ftrelid = part.oid
    ) then
        perform dbshield.refuse('change rows of a foreign table, which nobody counts', 'Ask a human to change them.');
    end if;
    select coalesce((select max_rows from dbshield.limits where role_name = session_user), 100) into allowed;
    select coalesce(sum(pg_stat_get_xact_tuples_updated(c.oid) + pg_stat_get_xact_tuples_deleted(c.oid)), 0) into changed
    from pg_class as c
    where c.oid >= 16384 and c.relkind = 'r' and c.relpersistence <> 't' and c.relnamespace <> 'dbshield'::regnamespace;
    if changed > allowed then
        perform dbshield.refuse(
            format('change %s rows in one transaction, its limit is %s', changed, allowed),
            'Change fewer rows in one transaction, or ask a human.'
        );
    end if;
    return null;
end
$$;
revoke all on function dbshield.count_rows() from public;

create or replace function dbshield.refuse_truncate() returns trigger
    language plpgsql security definer
    set search_path = pg_catalog, pg_temp
as $$
begin
    if dbshield.is_agent() then
        perform dbshield.refuse(
            format('truncate %I.%I', tg_table_schema, tg_table_name),
            'Delete a bounded number of rows, or ask a human.'
        );
    end if;
    return null;
end
$$;
revoke all on function dbshield.refuse_truncate() from public;

-- How many triggers guard a table: PostgreSQL 15 has none for TRUNCATE of a foreign table, and nobody gives agents the right to it.
create or replace function dbshield.guards_on(relation oid) returns integer
    language sql stable
    set search_path = pg_catalog, pg_temp
as $$
    select case when relkind = 'f' and current_setting('server_version_num')::integer < 160000 then 1 else 2 end
    from pg_class where oid = relation
$$;
revoke all on function dbshield.guards_on(oid) from public;

-- Puts both triggers on a table; also those that somebody changed are as they should be afterwards. Runs with the rights of who
-- calls it. A session with session_replication_role = replica is guarded as well (ENABLE ALWAYS).
create or replace function dbshield.guard_table(relation regclass) returns void
    language plpgsql
    set search_path = pg_catalog, pg_temp
as $$
declare
    -- By its name, looked up each time: a copy that is restored into another cluster, where the role has another number, is guarded
    -- as well, and where there is no such role nobody is stopped. It is read and planned anew for every statement, of whomever, so
    -- each word in it costs.
    condition constant text := 'when (pg_has_role(session_user, to_regrole(''dbshield_agents''), ''member''))';
begin
    insert into dbshield.working values (pg_backend_pid());
    execute format(
        'create or replace trigger dbshield_rows after update or delete on %s for each statement %s'
        ' execute function dbshield.count_rows()', relation, condition
    );
    execute format('alter table %s enable always trigger dbshield_rows', relation);
    if dbshield.guards_on(relation) = 2 then
        execute format(
            'create or replace trigger dbshield_truncate before truncate on %s for each statement %s'
            ' execute function dbshield.refuse_truncate()', relation, condition
        );
        execute format('alter table %s enable always trigger dbshield_truncate', relation);
    end if;
    delete from dbshield.working where backend = pg_backend_pid();
end
$$;
revoke all on function dbshield.guard_table(regclass) from public;

-- The tables that should be guarded and are not as they should be; all of them, or this one if it is one of them.
create or replace function dbshield.unguarded(this oid default null) returns setof regclass
    language sql stable
    set search_path = pg_catalog, pg_temp
as $$
    select c.oid::regclass
    from pg_class as c
    where (this is null or c.oid = this) and c.relkind in ('r', 'p', 'f') and c.relpersistence <> 't'
        -- A statement on a table fires no trigger of the tables that are its parts, wherever they are.
        and exists (
            with recursive part as (
                select c.oid, c.relnamespace
                union
                select r.oid, r.relnamespace
                from part join pg_inherits as i on i.inhparent = part.oid join pg_class as r on r.oid = i.inhrelid
            )
            select from part join pg_namespace as n on n.oid = part.relnamespace where dbshield.is_protected(n.nspname)
        )
        and (
            select count(*) from pg_trigger as t
            where t.tgrelid = c.oid and t.tgenabled = 'A' and t.tgnargs = 0 and t.tgattr = '' and not t.tgisinternal
                and strpos(
                    pg_get_triggerdef(t.oid),
                    ' WHEN (pg_has_role(SESSION_USER, (to_regrole(''dbshield_agents''::text))::oid, ''member''::text)) EXECUTE '
                ) > 0
                and (t.tgname, t.tgfoid, t.tgtype) in (
                    -- Behind a statement that updates (16) or deletes (8); before (2) one that truncates (32).
                    ('dbshield_rows', 'dbshield.count_rows()'::regprocedure, 24),
                    ('dbshield_truncate', 'dbshield.refuse_truncate()'::regprocedure, 34)
                )
        ) < dbshield.guards_on(c.oid)
    order by c.oid
$$;
revoke all on function dbshield.unguarded(oid) from public;
