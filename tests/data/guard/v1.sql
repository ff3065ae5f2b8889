begin;
set local lock_timeout = '10s';
drop event trigger if exists dbshield_ddl_start;
drop event trigger if exists dbshield_ddl_end;
drop event trigger if exists dbshield_dropped;
drop event trigger if exists dbshield_rewritten;
drop event trigger if exists dbshield_new_tables;
drop event trigger if exists dbshield_login;
drop event trigger if exists dbshield_catalogue_changed;
drop event trigger if exists dbshield_catalogue_dropped;

-- 10_roles.sql
-- The two roles of the guard. dbshield_agents is the group that makes a role an agent: whoever is in it, directly or by another
-- role, is held by the guard in every database that has one. dbshield_owner owns what is installed; nobody logs in as it, nobody
-- is a member of it, and it may do nothing else.
do $$
begin
    if pg_catalog.to_regrole('dbshield_agents') is null then
        create role dbshield_agents nologin;
    end if;
    if pg_catalog.to_regrole('dbshield_owner') is null then
        create role dbshield_owner nologin;
    end if;
end
$$;

-- 20_schema.sql
-- The schema of the guard and what it remembers. No agent has any right here; the guard's functions read it as their owner.
create schema if not exists dbshield;
revoke all on schema dbshield from public;

-- What is installed here, and for which environment: a proxy whose configuration says otherwise has the wrong address.
create table if not exists dbshield.installation (
    one boolean primary key default true check (one),
    version integer not null,
    environment text not null,
    system_identifier text not null,
    installed_by text not null default session_user,
    installed_at timestamptz not null default pg_catalog.now()
);

-- The schemas whose tables are guarded; '*' stands for every one that is not the system's.
create table if not exists dbshield.protected (schema_name text primary key);

-- How many rows an agent may update and delete in one transaction, where it is not 100.
create table if not exists dbshield.limits (
    role_name text primary key,
    max_rows bigint not null check (max_rows >= 0)
);

-- Where agents may log in from (PostgreSQL 17 and later): a network, or 'socket'. While there is none, from everywhere.
create table if not exists dbshield.addresses (
    address text primary key check (address = 'socket' or address::pg_catalog.cidr is not null)
);

-- What the structure was before the schema change that an agent is making right now. A row lives as long as one statement.
create table if not exists dbshield.changing (
    backend integer primary key,
    depth integer not null,
    facts text[] not null,
    attached text[] not null
);

-- The sessions in which the guard itself is making triggers right now.
create table if not exists dbshield.working (backend integer primary key);

revoke all on all tables in schema dbshield from public;

-- 30_agents.sql
-- Who is an agent. The session's user decides, so that neither SET ROLE nor a SECURITY DEFINER function hides an agent.
-- pg_has_role says yes for every superuser, and no superuser is an agent: nothing inside the server holds one.
create or replace function dbshield.is_agent() returns boolean
    language sql stable security definer
    set search_path = pg_catalog, pg_temp
as $$
    select coalesce(pg_has_role(session_user, to_regrole('dbshield_agents'), 'member'), false)
        and not exists (select from pg_roles where rolname = session_user and rolsuper)
$$;
revoke all on function dbshield.is_agent() from public;

-- Every refusal looks the same, is told to the agent under the state of a missing privilege, and stays in the server's log when
-- the statement is rolled back.
create or replace function dbshield.refuse(what text, hint text) returns void
    language plpgsql security definer
    set search_path = pg_catalog, pg_temp
as $$
begin
    raise log 'dbshield: % may not %', session_user, what;
    raise exception 'dbshield: % may not %', session_user, what using errcode = 'insufficient_privilege', hint = hint;
end
$$;
revoke all on function dbshield.refuse(text, text) from public;

-- Whether the tables of a schema are guarded.
create or replace function dbshield.is_protected(name text) returns boolean
    language sql stable security definer
    set search_path = pg_catalog, pg_temp
as $$
    select name not in ('dbshield', 'information_schema') and name !~ '^pg_'
        and exists (select from dbshield.protected where schema_name in ('*', name))
$$;
revoke all on function dbshield.is_protected(text) from public;

-- 40_rows.sql
-- The row guard and the truncate guard.
--
-- The server counts by itself what a transaction does to each table, however it is reached: by a cascade, a loop, a function, a
-- partition, MERGE or an upsert. A trigger behind each statement adds up what the server has counted. It then asks for the counts
-- to be handed in when the transaction is over, so that the next one begins at zero; until then they only grow, also over
-- ROLLBACK TO SAVEPOINT and over the transactions that one message holds. Nothing of it is within an agent's reach.
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

-- Puts both triggers on a table; also those that somebody changed are as they should be afterwards. Runs with the rights of who
-- calls it. A session with session_replication_role = replica is guarded as well (ENABLE ALWAYS).
create or replace function dbshield.guard_table(relation regclass) returns void
    language plpgsql
    set search_path = pg_catalog, pg_temp
as $$
declare
    -- By its number: a condition is read and planned anew for every statement, of whomever, so each word in it costs.
    condition constant text := format(
        'when (pg_has_role(session_user, %s::oid, ''member''))', coalesce(to_regrole('dbshield_agents')::oid, 0::oid)
    );
begin
    insert into dbshield.working values (pg_backend_pid());
    execute format(
        'create or replace trigger dbshield_rows after update or delete on %s for each statement %s'
        ' execute function dbshield.count_rows()', relation, condition
    );
    execute format('alter table %s enable always trigger dbshield_rows', relation);
    execute format(
        'create or replace trigger dbshield_truncate before truncate on %s for each statement %s'
        ' execute function dbshield.refuse_truncate()', relation, condition
    );
    execute format('alter table %s enable always trigger dbshield_truncate', relation);
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
    from pg_class as c join pg_namespace as n on n.oid = c.relnamespace
    where (this is null or c.oid = this) and c.relkind in ('r', 'p') and c.relpersistence <> 't' and dbshield.is_protected(n.nspname)
        and (
            select count(*) from pg_trigger as t
            where t.tgrelid = c.oid and t.tgenabled = 'A' and t.tgnargs = 0 and t.tgattr = '' and not t.tgisinternal
                and pg_get_triggerdef(t.oid) like format(
                    '%% WHEN (pg_has_role(SESSION_USER, (%s)::oid, ''member''::text)) EXECUTE FUNCTION dbshield.%%',
                    coalesce(to_regrole('dbshield_agents')::oid, 0::oid)
                )
                and (t.tgname, t.tgfoid, t.tgtype) in (
                    -- Behind a statement that updates (16) or deletes (8); before (2) one that truncates (32).
                    ('dbshield_rows', 'dbshield.count_rows()'::regprocedure, 24),
                    ('dbshield_truncate', 'dbshield.refuse_truncate()'::regprocedure, 34)
                )
        ) < 2
    order by c.oid
$$;
revoke all on function dbshield.unguarded(oid) from public;

-- 50_ddl.sql
-- What agents may do to the structure: add to it. The law is one sentence: whatever was there before an agent's statement is
-- there, unchanged, behind it. ddl_command_start knows only the tag, so it lets a short list of tags pass, and for those that can
-- take something away it remembers the structure; ddl_command_end compares; sql_drop and table_rewrite refuse what they see.

-- The structure as a list of facts, one text each, written so that adding something removes none. Rows and what only tunes a
-- table (statistics targets, storage, fill factor, tablespace) are no facts.
create or replace function dbshield.facts() returns setof text
    language sql stable security definer
    set search_path = pg_catalog, pg_temp
as $$
    with temporary as materialized (select oid from pg_namespace where nspname ~ '^pg_(toast_)?temp'),
    relation as materialized (
        select c.*, c.oid::regclass::text as name from pg_class as c join pg_namespace as n on n.oid = c.relnamespace
        where c.oid >= 16384 and c.relpersistence <> 't' and n.nspname !~ '^pg_' and c.relkind in ('r', 'p', 'f', 'v', 'm', 'S', 'c', 'i', 'I')
    )
    select concat_ws(' ', 'relation ' || name || ':', oid, relkind, relowner, relpersistence, relreplident, reloftype, relacl::text,
        case relkind when 'r' then relam when 'p' then relam end,
        -- RESTART gives a sequence a new file.
        case relkind when 'S' then relfilenode end, case relkind when 'v' then reloptions::text end)
    from relation where relkind not in ('i', 'I')
    union all
    select format('index %s of %s (%s) %s', i.indexrelid, i.indrelid::regclass, i.indkey, i.indisunique)
    from pg_index as i join relation as r on r.oid = i.indexrelid
    union all
    select format('%s of %s', word, name)
    from relation, lateral (values
        ('row security', relrowsecurity), ('forced row security', relforcerowsecurity), ('content', relkind = 'm' and relispopulated)
    ) as flag (word, is_set)
    where is_set
    union all
    select format('column %s.%s: %s %s %s %s %s', r.name, a.attname, a.attnum, format_type(a.atttypid, a.atttypmod), a.attgenerated,
        a.attcollation, a.attacl)
    from pg_attribute as a join relation as r on r.oid = a.attrelid
    where r.relkind not in ('i', 'I') and a.attnum > 0 and not a.attisdropped
    union all
    select format('not null of %s.%s', r.name, a.attname)
    from pg_attribute as a join relation as r on r.oid = a.attrelid
    where r.relkind not in ('i', 'I') and a.attnum > 0 and a.attnotnull and not a.attisdropped
    union all
    select format('identity of %s.%s: %s', r.name, a.attname, a.attidentity)
    from pg_attribute as a join relation as r on r.oid = a.attrelid
    where r.relkind not in ('i', 'I') and a.attnum > 0 and a.attidentity <> '' and not a.attisdropped
    union all
    select format('default of %s.%s: %s', r.name, d.adnum, pg_get_expr(d.adbin, d.adrelid))
    from pg_attrdef as d join relation as r on r.oid = d.adrelid
    union all
    select format('constraint %s of %s %s: %s', c.conname, c.conrelid::regclass, c.contypid::regtype,
        replace(pg_get_constraintdef(c.oid), ' NOT VALID', ''))
    from pg_constraint as c where c.oid >= 16384 and c.contype <> 't' and c.connamespace not in (select oid from temporary)
    union all
    select format('validity of constraint %s of %s', c.conname, c.conrelid::regclass)
    from pg_constraint as c
    where c.oid >= 16384 and c.convalidated and c.connamespace not in (select oid from temporary)
    union all
    select format('trigger %s on %s: %s %s %s %s', t.tgname, r.name, t.tgfoid, t.tgtype, t.tgenabled, md5(t.tgqual))
    from pg_trigger as t join relation as r on r.oid = t.tgrelid
    union all
    select format('policy %s on %s: %s %s %s %s %s', p.polname, r.name, p.polcmd, p.polpermissive, p.polroles,
        pg_get_expr(p.polqual, p.polrelid), pg_get_expr(p.polwithcheck, p.polrelid))
    from pg_policy as p join relation as r on r.oid = p.polrelid
    union all
    select format('parents of %s: %s %s', name,
        array(select (i.inhparent, i.inhdetachpending)::text from pg_inherits as i where i.inhrelid = r.oid order by i.inhseqno),
        pg_get_expr(relpartbound, oid))
    from relation as r where relkind in ('r', 'p', 'f')
    union all
    select format('definition %s of %s: %s', w.rulename, r.name, md5(concat(w.ev_type, w.ev_enabled, w.is_instead, w.ev_qual, w.ev_action)))
    from pg_rewrite as w join relation as r on r.oid = w.ev_class
    union all
    select format('function %s: %s', p.oid::regprocedure, md5(concat_ws(' ', p.proowner, p.prolang, p.procost, p.provariadic,
        p.prokind, p.prosecdef, p.proleakproof, p.proisstrict, p.proretset, p.provolatile, p.proparallel, p.prorettype,
        p.proargnames::text, p.proargdefaults, p.prosrc, p.probin, p.prosqlbody, p.proconfig::text, p.proacl::text)))
    from pg_proc as p where p.oid >= 16384 and p.pronamespace not in (select oid from temporary)
    union all
    select format('type %s: %s', t.oid::regtype,
        concat_ws(' ', t.typowner, t.typtype, t.typnotnull, t.typbasetype, t.typtypmod, t.typcollation, t.typdefault, t.typacl::text))
    from pg_type as t
    where t.oid >= 16384 and t.typtype in ('d', 'e', 'r', 'b') and t.typelem = 0 and t.typnamespace not in (select oid from temporary)
    union all
    select format('value %s of %s', e.enumlabel, e.enumtypid::regtype)
    from pg_enum as e join pg_type as t on t.oid = e.enumtypid
    where e.oid >= 16384 and t.typnamespace not in (select oid from temporary)
    union all
    select format('sequence %s: %s', r.name, concat_ws(' ', s.seqtypid, s.seqstart, s.seqincrement, s.seqmax, s.seqmin, s.seqcycle))
    from pg_sequence as s join relation as r on r.oid = s.seqrelid
    union all
    select format('owner of sequence %s: %s.%s', r.name, d.refobjid::regclass, d.refobjsubid)
    from pg_depend as d join relation as r on r.oid = d.objid
    where d.classid = 'pg_class'::regclass and d.refclassid = 'pg_class'::regclass and r.relkind = 'S' and d.deptype in ('a', 'i')
    union all
    select format('schema %I: %s %s', nspname, nspowner, nspacl) from pg_namespace where nspname !~ '^pg_'
$$;
revoke all on function dbshield.facts() from public;

-- The functions that other people's statements run because a default, a CHECK or a policy calls them, and that may write. An agent
-- attaches none; those of extensions (uuid_generate_v4) may stay what they are.
create or replace function dbshield.attached() returns setof text
    language sql stable security definer
    set search_path = pg_catalog, pg_temp
as $$
    select format('%s calling %s', pg_describe_object(d.classid, d.objid, d.objsubid), p.oid::regprocedure)
    from pg_depend as d join pg_proc as p on d.refclassid = 'pg_proc'::regclass and p.oid = d.refobjid
    where p.oid >= 16384 and p.provolatile = 'v'
        and d.classid in ('pg_attrdef'::regclass, 'pg_constraint'::regclass, 'pg_policy'::regclass)
        and not exists (select from pg_depend as e where e.classid = 'pg_proc'::regclass and e.objid = p.oid and e.deptype = 'e')
$$;
revoke all on function dbshield.attached() from public;

-- The tags that can take something away beside what they add.
create or replace function dbshield.is_compared(tag text) returns boolean
    language sql immutable
    set search_path = pg_catalog, pg_temp
as $$
    select tag in (
        'CREATE TABLE', 'CREATE DOMAIN', 'ALTER TABLE', 'ALTER TYPE', 'ALTER DOMAIN', 'CREATE VIEW', 'CREATE FUNCTION', 'CREATE PROCEDURE', 'CREATE SCHEMA',
        'CREATE EXTENSION', 'CREATE POLICY', 'REFRESH MATERIALIZED VIEW'
    )
$$;
revoke all on function dbshield.is_compared(text) from public;

-- ddl_command_start. It writes for no command that may run CONCURRENTLY: those come in several transactions.
create or replace function dbshield.ddl_start() returns event_trigger
    language plpgsql security definer
    set search_path = pg_catalog, pg_temp
as $$
begin
    if not dbshield.is_agent() then
        return;
    end if;
    if exists (select from dbshield.working where backend = pg_backend_pid()) then
        return;
    end if;
    if not dbshield.is_compared(tg_tag) and tg_tag not in (
        -- These only add.
        'CREATE TABLE AS', 'SELECT INTO', 'CREATE INDEX', 'CREATE MATERIALIZED VIEW', 'CREATE SEQUENCE', 'CREATE TYPE',
        'CREATE STATISTICS', 'COMMENT',
        -- Judged by what goes: sql_drop lets temporary objects go.
        'DROP TABLE', 'DROP VIEW', 'DROP SEQUENCE', 'DROP FUNCTION', 'DROP PROCEDURE', 'DROP TYPE', 'DROP DOMAIN'
    ) then
        perform dbshield.refuse(format('run %s', tg_tag), 'Ask a human to run it.');
    end if;
    -- DETACH PARTITION CONCURRENTLY commits halfway. It runs only as a statement of its own, so its word stands in the text.
    -- (REFRESH MATERIALIZED VIEW CONCURRENTLY alters a temporary table of its own.)
    if tg_tag = 'ALTER TABLE' and current_query() ilike '%concurrently%'
        and not exists (select from dbshield.changing where backend = pg_backend_pid()) then
        perform dbshield.refuse('alter a table concurrently', 'Ask a human to run it.');
    end if;
    if dbshield.is_compared(tg_tag) then
        -- A statement inside a statement is compared with what was there before the outer one.
        insert into dbshield.changing as c (backend, depth, facts, attached)
        values (pg_backend_pid(), 1, array(select dbshield.facts()), array(select dbshield.attached()))
        on conflict (backend) do update set depth = c.depth + 1;
    end if;
end
$$;
revoke all on function dbshield.ddl_start() from public;

-- ddl_command_end.
create or replace function dbshield.ddl_end() returns event_trigger
    language plpgsql security definer
    set search_path = pg_catalog, pg_temp
as $$
declare
    lost text;
    made record;
begin
    if not dbshield.is_agent() then
        return;
    end if;
    if not dbshield.is_compared(tg_tag) or exists (select from dbshield.working where backend = pg_backend_pid()) then
        return;
    end if;
    select min(fact) into lost from (
        select unnest(facts) as fact from dbshield.changing where backend = pg_backend_pid()
        except
        select dbshield.facts()
    ) as gone;
    if lost is not null or not exists (select from dbshield.changing where backend = pg_backend_pid()) then
        perform dbshield.refuse(
            format('take away or change by %s: %s', tg_tag, coalesce(split_part(lost, ': ', 1), 'something unknown')),
            'Add beside what is there, or ask a human.'
        );
    end if;
    select min(call) into lost from (
        select dbshield.attached() as call
        except
        select unnest(attached) from dbshield.changing where backend = pg_backend_pid()
    ) as new;
    if lost is not null then
        perform dbshield.refuse(
            format('attach a function that may write: %s', lost), 'Use a function that is stable or immutable, or ask a human.'
        );
    end if;
    for made in select * from pg_event_trigger_ddl_commands() loop
        if made.object_type = 'extension' and not exists (
            -- They only compute; none reads files, connects anywhere, or writes.
            select from pg_extension where oid = made.objid and extname in (
                'btree_gin', 'btree_gist', 'citext', 'cube', 'earthdistance', 'fuzzystrmatch', 'hstore', 'intarray', 'isn', 'ltree',
                'pg_trgm', 'pgcrypto', 'plpgsql', 'seg', 'unaccent', 'uuid-ossp', 'vector'
            )
        ) then
            perform dbshield.refuse(format('create the extension %s', made.object_identity), 'Ask a human to create it.');
        elsif made.object_type in ('function', 'procedure', 'aggregate') and not made.in_extension and not exists (
            select from pg_proc where oid = made.objid and proowner = to_regrole(quote_ident(session_user))
        ) then
            perform dbshield.refuse(format('make %s as another role', made.object_identity), 'Make it as yourself, or ask a human.');
        elsif made.object_type = 'schema' and not exists (
            select from pg_namespace where oid = made.objid and nspowner = to_regrole(quote_ident(session_user))
        ) then
            perform dbshield.refuse('create a schema for another role', 'Create it for yourself, or ask a human.');
        elsif made.object_type = 'policy' and exists (
            -- Another permissive policy shows the rows that the first one hides.
            select from pg_policy as new join pg_policy as old on old.polrelid = new.polrelid and old.oid <> new.oid
            where new.oid = made.objid
        ) then
            perform dbshield.refuse(format('add a policy beside another: %s', made.object_identity), 'Ask a human to create it.');
        end if;
    end loop;
    update dbshield.changing set depth = depth - 1 where backend = pg_backend_pid();
    delete from dbshield.changing where backend = pg_backend_pid() and depth = 0;
end
$$;
revoke all on function dbshield.ddl_end() from public;

-- sql_drop: DROP with everything that CASCADE takes, DROP COLUMN, DROP CONSTRAINT. What is temporary may go.
create or replace function dbshield.dropped() returns event_trigger
    language plpgsql security definer
    set search_path = pg_catalog, pg_temp
as $$
declare
    gone record;
begin
    if not dbshield.is_agent() then
        return;
    end if;
    for gone in
        select object_type, object_identity from pg_event_trigger_dropped_objects()
        -- Not every version marks the trigger or the default of a temporary table as temporary; no schema of a user begins with pg_.
        where not is_temporary and coalesce(address_names[1], '') !~ '^pg_(toast_)?temp(_[0-9]+)?$'
    loop
        perform dbshield.refuse(format('drop the %s %s', gone.object_type, gone.object_identity), 'Ask a human to drop it.');
    end loop;
end
$$;
revoke all on function dbshield.dropped() from public;

-- table_rewrite: 1 the table becomes unlogged, 4 the type of a column, 8 the access method. A new column whose default has to be
-- computed for each row (2) overwrites nothing.
create or replace function dbshield.rewritten() returns event_trigger
    language plpgsql security definer
    set search_path = pg_catalog, pg_temp
as $$
begin
    if dbshield.is_agent() and pg_event_trigger_table_rewrite_reason() <> 2 and not exists (
        select from pg_class where oid = pg_event_trigger_table_rewrite_oid() and relpersistence = 't'
    ) then
        perform dbshield.refuse(format('rewrite %s', pg_event_trigger_table_rewrite_oid()::regclass), 'Ask a human to run it.');
    end if;
end
$$;
revoke all on function dbshield.rewritten() from public;

-- 60_new_tables.sql
-- Guards tables and partitions as they are made or come into a protected schema, whoever makes them. What an agent makes that runs
-- code, a function, can be called by that agent alone until a human grants EXECUTE: otherwise a CHECK, a better match of an
-- overloaded name or a view would have other roles run it, whom no guard holds. It needs the rights of a superuser, because it
-- changes tables and functions of all owners; so it does nothing else.
create or replace function dbshield.guard_new_tables() returns event_trigger
    language plpgsql security definer
    set search_path = pg_catalog, pg_temp
as $$
declare
    made regclass;
    routine regprocedure;
begin
    -- What the guard itself does to a table fires event triggers too.
    if exists (select from dbshield.working where backend = pg_backend_pid()) then
        return;
    end if;
    for made in
        select distinct command.objid::regclass
        from pg_event_trigger_ddl_commands() as command
        where command.classid = 'pg_class'::regclass and command.object_type = 'table' and not command.in_extension
            and exists (select from dbshield.unguarded(command.objid))
    loop
        perform dbshield.guard_table(made);
    end loop;
    if dbshield.is_agent() then
        for routine in
            select command.objid::regprocedure
            from pg_event_trigger_ddl_commands() as command
            where command.classid = 'pg_proc'::regclass and not command.in_extension
        loop
            insert into dbshield.working values (pg_backend_pid());
            execute format('revoke execute on routine %s from public', routine);
            delete from dbshield.working where backend = pg_backend_pid();
        end loop;
    end if;
end
$$;
revoke all on function dbshield.guard_new_tables() from public;

-- 70_event_triggers.sql
-- The event triggers. Only a superuser makes them (managed services give the right to a role of theirs). They are made anew each
-- time, because an event trigger cannot be replaced. ENABLE ALWAYS: session_replication_role = replica does not silence them.
drop event trigger if exists dbshield_ddl_start;
create event trigger dbshield_ddl_start on ddl_command_start execute function dbshield.ddl_start();
alter event trigger dbshield_ddl_start enable always;

drop event trigger if exists dbshield_ddl_end;
create event trigger dbshield_ddl_end on ddl_command_end execute function dbshield.ddl_end();
alter event trigger dbshield_ddl_end enable always;

drop event trigger if exists dbshield_dropped;
create event trigger dbshield_dropped on sql_drop execute function dbshield.dropped();
alter event trigger dbshield_dropped enable always;

drop event trigger if exists dbshield_rewritten;
create event trigger dbshield_rewritten on table_rewrite execute function dbshield.rewritten();
alter event trigger dbshield_rewritten enable always;

drop event trigger if exists dbshield_new_tables;
create event trigger dbshield_new_tables on ddl_command_end
    when tag in ('CREATE TABLE', 'CREATE TABLE AS', 'SELECT INTO', 'ALTER TABLE', 'CREATE SCHEMA', 'CREATE FUNCTION', 'CREATE PROCEDURE')
    execute function dbshield.guard_new_tables();
alter event trigger dbshield_new_tables enable always;

-- 75_login.sql
-- PostgreSQL 17 and later: agents log in from the proxy's addresses alone. As long as no address is known, from everywhere.
create or replace function dbshield.logged_in() returns event_trigger
    language plpgsql security definer
    set search_path = pg_catalog, pg_temp
as $$
begin
    if dbshield.is_agent() and exists (select from dbshield.addresses) and not exists (
        select from dbshield.addresses
        where case address when 'socket' then inet_client_addr() is null else inet_client_addr() <<= address::cidr end
    ) then
        perform dbshield.refuse(
            format('log in from %s', coalesce(host(inet_client_addr()), 'a socket')), 'Connect through dbshield.'
        );
    end if;
end
$$;
revoke all on function dbshield.logged_in() from public;

drop event trigger if exists dbshield_login;
create event trigger dbshield_login on login execute function dbshield.logged_in();
alter event trigger dbshield_login enable always;

-- catalogue_notify.sql
-- Tells every dbshield proxy at once when functions change, or operators and casts, which are functions that do not look like
-- one. Without this a proxy reads the catalogue again every 30 seconds.
--
-- A superuser installs it, once in each protected database; it can be installed again at any time. It writes nothing, so
-- that it is in nobody's way: a notification is sent when the transaction commits, and repeated ones are sent once.

create schema if not exists dbshield;
revoke all on schema dbshield from public;

create or replace function dbshield.catalogue_changed() returns event_trigger
    language plpgsql
    set search_path = pg_catalog, pg_temp
as $$
begin
    if tg_event operator(pg_catalog.=) 'sql_drop' and not exists (
        -- CASCADE, DROP SCHEMA, DROP EXTENSION and DROP OWNED drop functions too, each of which is listed here.
        select from pg_catalog.pg_event_trigger_dropped_objects() as dropped
        where dropped.object_type operator(pg_catalog.=) any (
            array['aggregate', 'cast', 'function', 'operator', 'procedure']
        )
    ) then
        return;
    end if;
    perform pg_catalog.pg_notify('dbshield_catalogue', '');
end
$$;
revoke all on function dbshield.catalogue_changed() from public;

drop event trigger if exists dbshield_catalogue_changed;
create event trigger dbshield_catalogue_changed on ddl_command_end
    when tag in (
        'ALTER AGGREGATE', 'ALTER EXTENSION', 'ALTER FUNCTION', 'ALTER OPERATOR', 'ALTER PROCEDURE', 'ALTER ROUTINE',
        'ALTER SCHEMA', 'ALTER TYPE',
        'CREATE AGGREGATE', 'CREATE CAST', 'CREATE EXTENSION', 'CREATE FUNCTION', 'CREATE OPERATOR', 'CREATE PROCEDURE',
        'CREATE SCHEMA'
    )
    execute function dbshield.catalogue_changed();
-- A session with session_replication_role = replica changes functions as well.
alter event trigger dbshield_catalogue_changed enable always;

drop event trigger if exists dbshield_catalogue_dropped;
create event trigger dbshield_catalogue_dropped on sql_drop
    execute function dbshield.catalogue_changed();
alter event trigger dbshield_catalogue_dropped enable always;

delete from dbshield.protected;
insert into dbshield.protected values ('*');
delete from dbshield.addresses;
insert into dbshield.addresses values ('10.0.0.0/8');
insert into dbshield.addresses values ('127.0.0.1');
insert into dbshield.addresses values ('socket');
insert into dbshield.installation (version, environment, system_identifier)
select 1, 'test', system_identifier from pg_catalog.pg_control_system()
on conflict (one) do update set version = excluded.version, environment = excluded.environment,
    system_identifier = excluded.system_identifier, installed_by = session_user, installed_at = pg_catalog.now();

-- 90_owner.sql
-- What was installed belongs to dbshield_owner, which may do nothing else; only the function that puts triggers on tables of all
-- owners stays with the superuser.
do $$
declare
    made regprocedure;
begin
    -- The event triggers are at work while this runs, half of it under the old owner and half under the new one.
    grant usage on schema dbshield to dbshield_owner;
    grant all on all tables in schema dbshield to dbshield_owner;
    grant execute on all routines in schema dbshield to dbshield_owner;
    alter schema dbshield owner to dbshield_owner;
    for made in
        select oid from pg_catalog.pg_proc
        where pronamespace = 'dbshield'::regnamespace and proname <> 'guard_new_tables'
    loop
        execute format('alter routine %s owner to dbshield_owner', made);
    end loop;
    alter table dbshield.installation owner to dbshield_owner;
    alter table dbshield.protected owner to dbshield_owner;
    alter table dbshield.limits owner to dbshield_owner;
    alter table dbshield.addresses owner to dbshield_owner;
    alter table dbshield.changing owner to dbshield_owner;
    alter table dbshield.working owner to dbshield_owner;
    revoke all on function dbshield.guard_new_tables() from dbshield_owner;
end
$$;

select dbshield.guard_table(relation) from dbshield.unguarded() as relation;

commit;
