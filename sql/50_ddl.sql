-- What agents may do to the structure: add to it. The law is one sentence: whatever was there before an agent's statement is
-- there, unchanged, behind it. ddl_command_start knows only the tag, so it lets a short list of tags pass, and for those that can
-- take something away it remembers the structure; ddl_command_end compares; sql_drop and table_rewrite refuse what they see.

-- Whether a row of the catalogue was written by the transaction at work, or by a savepoint of it. Of a row that can be seen, whose
-- transaction began after this one, only that has still to be told: those of others are over.
create or replace function dbshield.is_ours(writer xid) returns boolean
    language sql stable
    set search_path = pg_catalog, pg_temp
as $$
    select case when later < 2147483648 then pg_xact_status((ours + later)::text::xid8) = 'in progress' else false end
    from (
        -- An xid has the lower half of the bits.
        select ours, (writer::text::bigint - ours) & 4294967295 as later from (select pg_current_xact_id()::text::bigint as ours) as top
    ) as distance
$$;
revoke all on function dbshield.is_ours(xid) from public;

-- The structure as a list of facts, one text each, written so that adding something removes none. Rows and what only tunes a
-- table (statistics targets, storage, fill factor, tablespace) are no facts. Nor is that a column takes no NULL: what it held is
-- there without it, and who wants it back need not know what was there. (From 18 on that is a constraint.)
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
    select format('identity of %s.%s: %s', r.name, a.attname, a.attidentity)
    from pg_attribute as a join relation as r on r.oid = a.attrelid
    where r.relkind not in ('i', 'I') and a.attnum > 0 and a.attidentity <> '' and not a.attisdropped
    union all
    -- But for those that this transaction made: a migration gives a new column a default for the rows that are there, and takes it off.
    select format('default of %s.%s: %s', r.name, a.attname, pg_get_expr(d.adbin, d.adrelid))
    from pg_attrdef as d join relation as r on r.oid = d.adrelid
    join pg_attribute as a on a.attrelid = d.adrelid and a.attnum = d.adnum
    where not dbshield.is_ours(d.xmin)
    union all
    select format('constraint %s of %s %s: %s', c.conname, c.conrelid::regclass, c.contypid::regtype,
        replace(pg_get_constraintdef(c.oid), ' NOT VALID', ''))
    from pg_constraint as c
    where c.oid >= 16384 and c.contype <> 't' and (c.contype <> 'n' or c.conrelid = 0) and c.connamespace not in (select oid from temporary)
    union all
    select format('validity of constraint %s of %s', c.conname, c.conrelid::regclass)
    from pg_constraint as c
    where c.oid >= 16384 and c.convalidated and (c.contype <> 'n' or c.conrelid = 0) and c.connamespace not in (select oid from temporary)
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

-- What was put on tables that were there, and that changes what the statements of others find, or takes rows with them: row
-- security, and a foreign key with a CASCADE, SET NULL or SET DEFAULT that removes or blanks what stands in a column of before.
-- On tables of the agent's own, and on columns that came with the statement, it takes nothing from anybody.
create or replace function dbshield.imposed() returns setof text
    language sql stable security definer
    set search_path = pg_catalog, pg_temp
as $$
    with was as materialized (
        select unnest(facts) as fact from dbshield.changing where backend = pg_backend_pid()
    ),
    theirs as materialized (
        select c.*, c.oid::regclass::text as name from pg_class as c
        where c.oid >= 16384 and c.relkind in ('r', 'p', 'f') and c.relpersistence <> 't'
            and c.relowner is distinct from to_regrole(quote_ident(session_user))
    )
    select format('%s on %s', word, name)
    from theirs, lateral (values
        ('row security', relrowsecurity), ('forced row security', relforcerowsecurity)
    ) as flag (word, is_set)
    where is_set and not exists (select from was where fact = format('%s of %s', word, name))
        and exists (select from was where starts_with(fact, format('relation %s: ', name)))
    union all
    select format('a foreign key on %s that takes rows with those of %s', t.name, c.confrelid::regclass)
    from pg_constraint as c join theirs as t on t.oid = c.conrelid
    where c.contype = 'f' and (c.confdeltype in ('c', 'n', 'd') or c.confupdtype in ('n', 'd'))
        and not exists (select from was where starts_with(fact, format('constraint %s of %s -: ', c.conname, t.name)))
        and exists (
            select from pg_attribute as a join was on starts_with(was.fact, format('column %s.%s: ', t.name, a.attname))
            where a.attrelid = c.conrelid and a.attnum = any (c.conkey)
        )
$$;
revoke all on function dbshield.imposed() from public;

-- The tags that can take something away beside what they add.
create or replace function dbshield.is_compared(tag text) returns boolean
    language sql immutable
    set search_path = pg_catalog, pg_temp
as $$
    select tag in (
        'CREATE TABLE', 'CREATE DOMAIN', 'ALTER TABLE', 'ALTER TYPE', 'ALTER DOMAIN', 'CREATE VIEW', 'CREATE FUNCTION', 'CREATE PROCEDURE', 'CREATE SCHEMA',
        'CREATE EXTENSION', 'CREATE POLICY', 'CREATE STATISTICS', 'CREATE MATERIALIZED VIEW', 'CREATE TYPE', 'REFRESH MATERIALIZED VIEW'
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
    -- The script of an extension makes operators and casts. It runs as a superuser, and whether an agent may create that extension is
    -- said at the end.
    if not dbshield.is_compared(tg_tag)
        and exists (select from dbshield.changing where backend = pg_backend_pid() and tag = 'CREATE EXTENSION') then
        return;
    end if;
    if not dbshield.is_compared(tg_tag) and tg_tag not in (
        -- These only add.
        'CREATE TABLE AS', 'SELECT INTO', 'CREATE INDEX', 'CREATE SEQUENCE', 'COMMENT',
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
    -- CREATE INDEX CONCURRENTLY is at its end only when the index has been at work for long. Until it is there, nobody makes a
    -- function that it could call: the lock is the session's, because the command ends the transaction several times.
    if tg_tag = 'CREATE INDEX' and current_query() ilike '%concurrently%' then
        if not pg_try_advisory_lock_shared('dbshield'::regnamespace::oid::integer, 1) then
            perform dbshield.refuse('create an index concurrently while an agent makes a function', 'Try again when it is there.');
        elsif dbshield.is_indexable() then
            perform pg_advisory_unlock_shared('dbshield'::regnamespace::oid::integer, 1);
            perform dbshield.refuse(
                'create an index concurrently where agents have functions that it could call',
                'Create it without CONCURRENTLY, or ask a human.'
            );
        end if;
    elsif tg_tag in ('CREATE FUNCTION', 'CREATE PROCEDURE')
        and not pg_try_advisory_xact_lock('dbshield'::regnamespace::oid::integer, 1) then
        perform dbshield.refuse('create a function while an agent creates an index concurrently', 'Try again when the index is there.');
    end if;
    if dbshield.is_compared(tg_tag) then
        -- A transaction of a fixed snapshot does not see what was there before, if it came later than the transaction did.
        if current_setting('transaction_isolation') not in ('read committed', 'read uncommitted') then
            perform dbshield.refuse(
                format('run %s in a transaction that is %s', tg_tag, current_setting('transaction_isolation')),
                'Change the structure in a transaction that is read committed.'
            );
        end if;
        -- A statement inside a statement is compared with what was there before the outer one.
        insert into dbshield.changing as c (backend, depth, facts, attached, tag)
        values (pg_backend_pid(), 1, array(select dbshield.facts()), array(select carrier from dbshield.expressions()), tg_tag)
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
    -- A comment makes nothing, and names what it is about.
    if tg_tag = 'COMMENT' or exists (select from dbshield.working where backend = pg_backend_pid()) then
        return;
    end if;
    if dbshield.is_compared(tg_tag) then
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
        select min(call) into lost
        from dbshield.changing cross join dbshield.attached(attached) as call where backend = pg_backend_pid();
    elsif tg_tag = 'CREATE INDEX' then
        select min(call) into lost from dbshield.attached(array(
            select carrier from dbshield.expressions()
            where (classid, objid) not in (select e.classid, e.objid from pg_event_trigger_ddl_commands() as e)
        )) as call;
        if current_query() ilike '%concurrently%' then
            perform pg_advisory_unlock_shared('dbshield'::regnamespace::oid::integer, 1);
        end if;
    end if;
    if lost is not null then
        perform dbshield.refuse(
            format('attach a function of an agent''s, or one that may write: %s', lost),
            'Use a function of somebody else that is stable or immutable, or ask a human.'
        );
    end if;
    select min(what) into lost from dbshield.imposed() as what;
    if lost is not null then
        perform dbshield.refuse(format('put %s', lost), 'It changes what statements of others find or remove: ask a human.');
    end if;
    for made in select * from pg_event_trigger_ddl_commands() loop
        -- The parts of a CREATE SCHEMA are not asked for at the start.
        if made.command_tag in ('CREATE TRIGGER', 'GRANT') and not made.in_extension then
            perform dbshield.refuse(format('run %s', made.command_tag), 'Ask a human to run it.');
        elsif made.object_type = 'extension' and not exists (
            select from pg_extension where oid = made.objid and dbshield.only_computes(extname)
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
            -- Another permissive policy shows the rows that the first one hides; the first one, those that row security hides by itself.
            select from pg_policy as new join pg_class as c on c.oid = new.polrelid
            where new.oid = made.objid and (
                exists (select from pg_policy as old where old.polrelid = new.polrelid and old.oid <> new.oid)
                or c.relrowsecurity and c.relowner is distinct from to_regrole(quote_ident(session_user))
            )
        ) then
            perform dbshield.refuse(
                format('add a policy where there is one, or row security: %s', made.object_identity), 'Ask a human to create it.'
            );
        end if;
        if not made.in_extension then
            select min(what) into lost from dbshield.hiding(made.classid, made.objid) as what;
            if lost is not null then
                perform dbshield.refuse(format('make %s', lost), 'Take another name or type, or ask a human.');
            end if;
        end if;
    end loop;
    if dbshield.is_compared(tg_tag) then
        update dbshield.changing set depth = depth - 1 where backend = pg_backend_pid();
        delete from dbshield.changing where backend = pg_backend_pid() and depth = 0;
    end if;
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
    -- The script of hstore drops operators that it has made.
    if not dbshield.is_agent()
        or exists (select from dbshield.changing where backend = pg_backend_pid() and tag = 'CREATE EXTENSION') then
        return;
    end if;
    for gone in
        select object_type, object_identity from pg_event_trigger_dropped_objects()
        -- Not every version marks the trigger or the default of a temporary table as temporary; no schema of a user begins with pg_.
        where not is_temporary and coalesce(address_names[1], '') !~ '^pg_(toast_)?temp(_[0-9]+)?$'
            -- ALTER TABLE: ddl_command_end finds the defaults that are missing, and a constraint that is no fact is a NOT NULL.
            and not (object_type = 'default value' and tg_tag = 'ALTER TABLE')
            and not (object_type = 'table constraint' and tg_tag = 'ALTER TABLE' and exists (
                select from dbshield.changing where backend = pg_backend_pid() and not exists (
                    select from unnest(facts) as fact
                    where starts_with(fact, format('constraint %s of %I.%I ', address_names[3], address_names[1], address_names[2]))
                )
            ))
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
