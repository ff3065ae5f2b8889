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
