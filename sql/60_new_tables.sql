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
        -- With the tables that each of them is a part of.
        with recursive whole as (
            select command.objid as oid
            from pg_event_trigger_ddl_commands() as command
            where command.classid = 'pg_class'::regclass and command.object_type in ('table', 'foreign table')
                and not command.in_extension
            union
            select i.inhparent from whole join pg_inherits as i on i.inhrelid = whole.oid
        )
        select oid::regclass from whole where exists (select from dbshield.unguarded(whole.oid))
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
