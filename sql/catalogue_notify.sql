-- Tells every dbshield proxy at once when functions change, operators and casts, which are functions that do not look like one,
-- and what calls functions by itself where a row is added: triggers, rules, row policies, defaults, constraints, indexes.
-- Without this a proxy reads the catalogue again every 30 seconds.
--
-- A superuser installs it, once in each protected database; it can be installed again at any time. It writes nothing, so
-- that it is in nobody's way: a notification is sent when the transaction commits, and repeated ones are sent once. The one
-- thing that a transaction which sends one may not do is PREPARE TRANSACTION, with which PostgreSQL takes no notifications.

create schema if not exists dbshield;
revoke all on schema dbshield from public;

create or replace function dbshield.catalogue_changed() returns event_trigger
    language plpgsql
    set search_path = pg_catalog, pg_temp
as $$
begin
    -- What is temporary concerns nobody else's session. That a trigger, rule or policy is, only its table's name tells.
    if tg_event operator(pg_catalog.=) 'sql_drop' then
        -- CASCADE, DROP SCHEMA, DROP EXTENSION and DROP OWNED drop functions too, each of which is listed here. A default, constraint
        -- or index that goes with something else only makes fewer functions run.
        if not exists (
            select from pg_catalog.pg_event_trigger_dropped_objects() as dropped
            where dropped.object_type operator(pg_catalog.=) any (
                array['aggregate', 'cast', 'function', 'operator', 'policy', 'procedure', 'rule', 'trigger']
            )
            and not dropped.is_temporary
            and coalesce(dropped.address_names[1], '') operator(pg_catalog.<>) 'pg_temp'
        ) then
            return;
        end if;
    -- Nothing is listed where IF NOT EXISTS found that there is nothing to do.
    elsif not exists (
        select from pg_catalog.pg_event_trigger_ddl_commands() as done
        cross join pg_catalog.pg_identify_object_as_address(done.classid, done.objid, done.objsubid) as named
        where coalesce(done.schema_name, '') operator(pg_catalog.<>) 'pg_temp'
            and coalesce(named.object_names[1], '') operator(pg_catalog.<>) 'pg_temp'
    ) then
        return;
    end if;
    perform pg_catalog.pg_notify('dbshield_catalogue', '');
end
$$;
revoke all on function dbshield.catalogue_changed() from public;

drop event trigger if exists dbshield_catalogue_changed;
-- A table is here for its defaults and constraints, and since it may be a part of another, or take another one's name: as ALTER INDEX
-- gives one to a table as well.
create event trigger dbshield_catalogue_changed on ddl_command_end
    when tag in (
        'ALTER AGGREGATE', 'ALTER DOMAIN', 'ALTER EXTENSION', 'ALTER FOREIGN TABLE', 'ALTER FUNCTION', 'ALTER INDEX',
        'ALTER OPERATOR', 'ALTER POLICY', 'ALTER PROCEDURE', 'ALTER ROUTINE', 'ALTER RULE', 'ALTER SCHEMA', 'ALTER TABLE',
        'ALTER TRIGGER', 'ALTER TYPE', 'ALTER VIEW',
        'CREATE AGGREGATE', 'CREATE CAST', 'CREATE DOMAIN', 'CREATE EXTENSION', 'CREATE FOREIGN TABLE', 'CREATE FUNCTION',
        'CREATE INDEX', 'CREATE OPERATOR', 'CREATE POLICY', 'CREATE PROCEDURE', 'CREATE RULE', 'CREATE SCHEMA', 'CREATE TABLE',
        'CREATE TABLE AS', 'CREATE TRIGGER', 'CREATE VIEW', 'IMPORT FOREIGN SCHEMA', 'SELECT INTO'
    )
    execute function dbshield.catalogue_changed();
-- A session with session_replication_role = replica changes functions as well.
alter event trigger dbshield_catalogue_changed enable always;

drop event trigger if exists dbshield_catalogue_dropped;
create event trigger dbshield_catalogue_dropped on sql_drop
    execute function dbshield.catalogue_changed();
alter event trigger dbshield_catalogue_dropped enable always;
