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
