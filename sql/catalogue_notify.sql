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
