"""Default privileges, out of the way while things are made again: what comes back has the rights that it had, and no others.

A definition, pg_dump's or ours, says how the rights of an object differ from those that PostgreSQL gives a new one. Where
somebody has changed those by ALTER DEFAULT PRIVILEGES, a table that nobody else might read would come back as one that all may.

Source: PostgreSQL manual, "ALTER DEFAULT PRIVILEGES" (those in a schema are added to the general ones), pg_default_acl.
"""

from __future__ import annotations

from typing import Final

from dbshield.control.witness import Connection

DIFFERENT: Final = """
    with mine as (
        select defaclnamespace as schema, defaclobjtype as kind, defaclacl as acl,
               case when defaclnamespace = 0
                    then acldefault(case defaclobjtype when 'S' then 's' else defaclobjtype end::"char", defaclrole)
                    end as usual
        from pg_default_acl where defaclrole = (select oid from pg_roles where rolname = current_user)
    ), different as (
        select schema, kind, true as more, x.* from mine, lateral (
            select grantee, privilege_type, is_grantable from aclexplode(acl)
            except select grantee, privilege_type, is_grantable from aclexplode(usual)) x
        union all
        select schema, kind, false, x.* from mine, lateral (
            select grantee, privilege_type, is_grantable from aclexplode(usual)
            except select grantee, privilege_type, is_grantable from aclexplode(acl)) x
    )
    select more,
           format('alter default privileges %s revoke %s on %s from %s', place, privilege_type, word, who),
           format('alter default privileges %s grant %s on %s to %s%s', place, privilege_type, word, who,
                  case when is_grantable then ' with grant option' else '' end)
    from different, lateral (
        select case when schema = 0 then '' else format('in schema %I', (select nspname from pg_namespace where oid = schema)) end
                   as place,
               case kind when 'r' then 'tables' when 'S' then 'sequences' when 'f' then 'functions' when 'T' then 'types'
                   when 'n' then 'schemas' when 'L' then 'large objects' end as word,
               case grantee when 0 then 'public' else quote_ident(pg_get_userbyid(grantee)) end as who) as texts
    order by schema, kind, grantee, privilege_type
"""


def without_default_rights(connection: Connection) -> list[str]:
    """Until the statements that are given back have run, what this role makes in this transaction has PostgreSQL's own rights."""
    rows = [(bool(more), str(revoke), str(grant)) for more, revoke, grant in connection.execute(DIFFERENT.encode())]
    more = [(revoke, grant) for is_more, revoke, grant in rows if is_more]
    fewer = [(revoke, grant) for is_more, revoke, grant in rows if not is_more]
    for text in (*(revoke for revoke, _ in more), *(grant for _, grant in fewer)):
        connection.execute(text.encode())
    return [*(revoke for revoke, _ in fewer), *(grant for _, grant in more)]
