-- PostgreSQL 17 and later: agents log in from the proxy's addresses alone. As long as no address is known, from everywhere.
create or replace function dbshield.logged_in() returns event_trigger
    language plpgsql security definer
    set search_path = pg_catalog, pg_temp
as $$
begin
    if dbshield.is_agent() and exists (select from dbshield.addresses) and not exists (
        select from dbshield.addresses
        where case address when 'socket' then inet_client_addr() is null else inet_client_addr() <<= address::cidr end
    ) then
        perform dbshield.refuse(
            format('log in from %s', coalesce(host(inet_client_addr()), 'a socket')), 'Connect through dbshield.'
        );
    end if;
end
$$;
revoke all on function dbshield.logged_in() from public;

drop event trigger if exists dbshield_login;
create event trigger dbshield_login on login execute function dbshield.logged_in();
alter event trigger dbshield_login enable always;
