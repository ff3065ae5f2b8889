-- Who is an agent. The session's user decides, so that neither SET ROLE nor a SECURITY DEFINER function hides an agent.
-- pg_has_role says yes for every superuser, and no superuser is an agent: nothing inside the server holds one. In PL/pgSQL, which
-- keeps its plan: a function in SQL took five times as long, and superusers pay for it with each UPDATE.
create or replace function dbshield.is_agent() returns boolean
    language plpgsql stable security definer
    set search_path = pg_catalog, pg_temp
as $$
begin
    return coalesce(pg_has_role(session_user, to_regrole('dbshield_agents'), 'member'), false)
        and not exists (select from pg_roles where rolname = session_user and rolsuper);
end
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
