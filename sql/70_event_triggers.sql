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
    when tag in (
        'CREATE TABLE', 'CREATE TABLE AS', 'SELECT INTO', 'ALTER TABLE', 'CREATE SCHEMA', 'CREATE FUNCTION', 'CREATE PROCEDURE',
        'CREATE FOREIGN TABLE', 'ALTER FOREIGN TABLE', 'IMPORT FOREIGN SCHEMA'
    )
    execute function dbshield.guard_new_tables();
alter event trigger dbshield_new_tables enable always;
