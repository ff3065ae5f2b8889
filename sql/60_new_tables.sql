-- Guards tables and partitions as they are made or come into a protected schema, whoever makes them. It needs the rights of a
-- superuser, because it puts triggers on tables of all owners; so it does nothing else.
create or replace function dbshield.guard_new_tables() returns event_trigger
    language plpgsql security definer
    set search_path = pg_catalog, pg_temp
as $$
declare
    made regclass;
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
end
$$;
revoke all on function dbshield.guard_new_tables() from public;
