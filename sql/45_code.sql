-- What an agent makes that has other people's sessions run code. Nobody but agents is held by the guard, and a session that is
-- not an agent's is not held when it runs an agent's code either: whoever adds a row runs defaults and CHECKs, whoever reads runs
-- views, and autovacuum runs the expressions of indexes with the rights of the table's owner. So nothing that an agent makes calls
-- a function of an agent's, whatever that function says of itself, nor one that may write.

-- The extensions whose functions only compute; none reads files, connects anywhere, writes, or runs a text as SQL.
create or replace function dbshield.only_computes(extension name) returns boolean
    language sql immutable
    set search_path = pg_catalog, pg_temp
as $$
    select extension in (
        'btree_gin', 'btree_gist', 'citext', 'cube', 'earthdistance', 'fuzzystrmatch', 'hstore', 'intarray', 'isn', 'ltree',
        'pg_trgm', 'pgcrypto', 'plpgsql', 'seg', 'unaccent', 'uuid-ossp', 'vector'
    )
$$;
revoke all on function dbshield.only_computes(name) from public;

-- The functions of the server that are volatile and that defaults and views may call: they take nothing and reach nowhere. Of the
-- others one writes files (lo_export), one moves sequences (setval), one runs a text as SQL (ts_stat).
create or replace function dbshield.is_harmless(name name) returns boolean
    language sql immutable
    set search_path = pg_catalog, pg_temp
as $$
    select name in (
        'array_sample', 'array_shuffle', 'clock_timestamp', 'current_query', 'currval', 'gen_random_uuid', 'lastval', 'nextval',
        'pg_database_size', 'pg_indexes_size', 'pg_is_in_recovery', 'pg_partition_ancestors', 'pg_partition_tree',
        'pg_relation_size', 'pg_sequence_last_value', 'pg_table_size', 'pg_total_relation_size', 'random', 'random_normal',
        'timeofday', 'uuidv4', 'uuidv7'
    )
$$;
revoke all on function dbshield.is_harmless(name) from public;

-- The expressions that are kept in the catalogue, as the server keeps them: of defaults and generated columns, CHECKs, policies,
-- statistics, views, indexes and partition keys. A range type has none, it has a function. What is temporary only its session runs.
create or replace function dbshield.expressions() returns table (carrier text, classid oid, objid oid, tree text)
    language sql stable security definer
    set search_path = pg_catalog, pg_temp
as $$
    select concat_ws(' ', e.classid, e.objid), e.classid, e.objid, e.tree
    from (
        select 'pg_attrdef'::regclass::oid, d.oid, r.relnamespace, d.adbin::text
        from pg_attrdef as d join pg_class as r on r.oid = d.adrelid
        union all
        select 'pg_constraint'::regclass, oid, connamespace, conbin::text from pg_constraint where contype = 'c'
        union all
        select 'pg_policy'::regclass, p.oid, r.relnamespace, concat(p.polqual, p.polwithcheck)
        from pg_policy as p join pg_class as r on r.oid = p.polrelid
        union all
        select 'pg_statistic_ext'::regclass, oid, stxnamespace, stxexprs::text from pg_statistic_ext
        union all
        select 'pg_rewrite'::regclass, w.oid, r.relnamespace, w.ev_action::text
        from pg_rewrite as w join pg_class as r on r.oid = w.ev_class
        union all
        select 'pg_class'::regclass, r.oid, r.relnamespace, concat(i.indexprs, i.indpred)
        from pg_index as i join pg_class as r on r.oid = i.indexrelid
        union all
        select 'pg_class'::regclass, r.oid, r.relnamespace, k.partexprs::text
        from pg_partitioned_table as k join pg_class as r on r.oid = k.partrelid
        union all
        select 'pg_type'::regclass, t.oid, t.typnamespace, null from pg_range as g join pg_type as t on t.oid = g.rngtypid
    ) as e (classid, objid, namespace, tree)
    where e.objid >= 16384
        and e.namespace not in (select oid from pg_namespace where nspname ~ '^pg_(toast_)?temp')
$$;
revoke all on function dbshield.expressions() from public;

-- Earlier versions had one without an argument.
drop function if exists dbshield.attached();

-- What calls a function that it must not, but for what was known before. The server notes in pg_depend which functions of people an
-- expression calls; of its own it notes none, so their numbers are read out of the expression.
create or replace function dbshield.attached(known text[]) returns setof text
    language sql stable security definer
    set search_path = pg_catalog, pg_temp
as $$
    with new as materialized (
        select * from dbshield.expressions() where carrier not in (select unnest(known))
    ),
    call as (
        select new.classid, new.objid, p.oid as routine
        from new
        join pg_depend as d on d.classid = new.classid and d.objid = new.objid and d.refclassid = 'pg_proc'::regclass
        join pg_proc as p on p.oid = d.refobjid
        left join pg_depend as e on e.classid = 'pg_proc'::regclass and e.objid = p.oid and e.deptype = 'e'
        left join pg_extension as x on x.oid = e.refobjid
        -- In the server's own language there is only what makes values of range types.
        where p.oid >= 16384 and p.prolang <> (select oid from pg_language where lanname = 'internal') and case
            -- REASSIGN OWNED, which no trigger sees, gives an agent's function another owner. That PUBLIC may not call it stays.
            when x.extname is null then p.provolatile = 'v' or not has_function_privilege('public', p.oid, 'execute') or exists (
                select from pg_roles as o
                where o.oid = p.proowner and not o.rolsuper and pg_has_role(o.oid, to_regrole('dbshield_agents'), 'member')
            )
            -- crosstab and xpath_table are stable by their own account, and run a text as SQL.
            else p.provolatile = 'v' and not dbshield.only_computes(x.extname) or x.extname in ('tablefunc', 'xml2')
        end
        union
        select new.classid, new.objid, p.oid
        from new
        cross join regexp_matches(new.tree, ':(?:funcid|opfuncid) (\d+) ', 'g') as found (number)
        join pg_proc as p on p.oid = found.number[1]::oid
        where p.oid < 16384 and p.provolatile = 'v' and not dbshield.is_harmless(p.proname)
    )
    select format('%s calling %s', pg_describe_object(classid, objid, 0), routine::regprocedure) from call
$$;
revoke all on function dbshield.attached(text[]) from public;

-- Whether there is a function that an index could call and that is an agent's, or was one's.
create or replace function dbshield.is_indexable() returns boolean
    language sql stable security definer
    set search_path = pg_catalog, pg_temp
as $$
    select exists (
        select from pg_proc as p join pg_roles as o on o.oid = p.proowner
        where p.oid >= 16384 and p.provolatile = 'i' and p.prolang <> (select oid from pg_language where lanname = 'internal')
            and not o.rolsuper and (
                pg_has_role(o.oid, to_regrole('dbshield_agents'), 'member')
                or pg_has_role(session_user, o.oid, 'member') and not has_function_privilege('public', p.oid, 'execute')
            )
            and not exists (select from pg_depend as e where e.classid = 'pg_proc'::regclass and e.objid = p.oid and e.deptype = 'e')
    )
$$;
revoke all on function dbshield.is_indexable() from public;

-- What the command that is at its end has made that gets in the way of what others name: a function of a name that is taken, which is
-- called where its arguments fit better; a schema that a role's search_path looks into first; a relation in a schema that somebody's
-- search_path has before another one with a relation of that name; and what goes away with the agent's session and takes with it
-- whatever somebody put on top.
create or replace function dbshield.hiding(class oid, object oid) returns setof text
    language sql stable security definer
    set search_path = pg_catalog, pg_temp
as $$
    with path as (
        select string_to_array(replace(replace(substr(setting, length('search_path=') + 1), '"', ''), ' ', ''), ',') as names
        from pg_db_role_setting as s cross join unnest(s.setconfig) as setting
        where starts_with(setting, 'search_path=')
            and (s.setdatabase = 0 or s.setdatabase = (select oid from pg_database where datname = current_database()))
            -- How agents find their own things is no concern of others.
            and not exists (
                select from pg_roles as o
                where o.oid = s.setrole and not o.rolsuper and pg_has_role(o.oid, to_regrole('dbshield_agents'), 'member')
            )
        union all
        -- As the server has it where nobody says otherwise.
        select array['$user', 'public']
    )
    select format('the function %s, a name that is taken', object::regprocedure)
    from pg_proc as p join pg_namespace as n on n.oid = p.pronamespace
    where class = 'pg_proc'::regclass and p.oid = object and n.nspname !~ '^pg_temp'
        and exists (select from pg_proc as o where o.proname = p.proname and o.proowner <> p.proowner)
    union all
    select format('the schema %I, into which the role of that name looks first', nspname)
    from pg_namespace as n
    where class = 'pg_namespace'::regclass and n.oid = object and nspname <> session_user
        and exists (select from pg_roles where rolname = nspname)
    union all
    select format('%s, which hides %s', object::regclass, o.oid::regclass)
    from pg_class as c join pg_namespace as n on n.oid = c.relnamespace
    join pg_class as o on o.relname = c.relname and o.oid <> c.oid
    join pg_namespace as m on m.oid = o.relnamespace
    cross join path
    where class = 'pg_class'::regclass and c.oid = object and c.relkind in ('r', 'p', 'f', 'v', 'm', 'S')
        and o.relkind in ('r', 'p', 'f', 'v', 'm', 'S') and c.relpersistence <> 't' and o.relpersistence <> 't'
        and not exists (
            select from dbshield.changing cross join unnest(facts) as fact
            where backend = pg_backend_pid() and starts_with(fact, format('relation %s: ', object::regclass))
        )
        and array_position(names, m.nspname::text) > coalesce(
            array_position(names, n.nspname::text),
            case when n.nspname <> session_user and exists (select from pg_roles where rolname = n.nspname)
                then array_position(names, '$user') end
        )
    union all
    select format('%s.%I of a temporary type', object::regclass, a.attname)
    from pg_class as c join pg_attribute as a on a.attrelid = c.oid join pg_type as t on t.oid = a.atttypid
    join pg_namespace as n on n.oid = t.typnamespace
    where class = 'pg_class'::regclass and c.oid = object and c.relpersistence <> 't' and a.attnum > 0 and not a.attisdropped
        and n.nspname ~ '^pg_temp'
$$;
revoke all on function dbshield.hiding(oid, oid) from public;
