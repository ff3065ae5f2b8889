"""Checks of roles: what agents' roles are, what they belong to, and the credentials that lie around.

A superuser holds every right there is, so the other checks leave superusers out: they have a finding of their own.
"""

from __future__ import annotations

from dbshield.guard.doctor import Check, Severity

SUPERUSER_AGENTS = Check(
    name="agents.superuser",
    severity=Severity.CRITICAL,
    what="agents' roles are superusers",
    why="No privilege, no trigger and no guard holds a superuser; only the proxy stands between it and the data.",
    query="""
        select rolname::text, format('alter role %%I nosuperuser', rolname)
        from pg_roles where rolname = any(%(agents)s) and rolsuper order by 1
    """,
)

CREATEROLE_AGENTS = Check(
    name="agents.createrole",
    severity=Severity.CRITICAL,
    what="agents' roles may make and change roles",
    why="Before PostgreSQL 16 such a role gives itself nearly any right; after it, a role that no guard knows.",
    query="""
        select rolname::text, format('alter role %%I nocreaterole', rolname)
        from pg_roles where rolname = any(%(agents)s) and rolcreaterole and not rolsuper order by 1
    """,
)

ATTRIBUTES_OF_AGENTS = Check(
    name="agents.attributes",
    severity=Severity.WARNING,
    what="agents' roles have attributes that no agent needs",
    why="REPLICATION copies every byte, BYPASSRLS sees past row security, CREATEDB makes databases that nobody guards.",
    query="""
        select format('%%s (%%s)', rolname, concat_ws(', ', case when rolreplication then 'replication' end,
                      case when rolbypassrls then 'bypassrls' end, case when rolcreatedb then 'createdb' end)),
               format('alter role %%I noreplication nobypassrls nocreatedb', rolname)
        from pg_roles
        where rolname = any(%(agents)s) and not rolsuper and (rolreplication or rolbypassrls or rolcreatedb) order by 1
    """,
)

PREDEFINED_ROLES = Check(
    name="agents.predefined-roles",
    severity=Severity.CRITICAL,
    what="agents' roles are members of roles that write everything or reach the server's files",
    why="Such a membership goes past the grants on tables, and some of them past the database itself.",
    query="""
        select format('%%s in %%s', agent.rolname, strong.rolname), format('revoke %%I from %%I', strong.rolname, agent.rolname)
        from pg_roles agent, pg_roles strong
        where agent.rolname = any(%(agents)s) and not agent.rolsuper and agent.oid <> strong.oid
          and strong.rolname in ('pg_write_all_data', 'pg_write_server_files', 'pg_read_server_files',
              'pg_execute_server_program', 'pg_maintain', 'pg_checkpoint', 'pg_signal_backend', 'pg_signal_autovacuum_worker',
              'pg_create_subscription', 'pg_use_reserved_connections', 'rds_superuser', 'rds_replication', 'cloudsqlsuperuser',
              'azure_pg_admin', 'neon_superuser', 'alloydbsuperuser')
          and pg_has_role(agent.oid, strong.oid, 'member')
        order by 1
    """,
)

STRONG_MEMBERSHIPS = Check(
    name="agents.strong-memberships",
    severity=Severity.CRITICAL,
    what="agents' roles may become a superuser or a role that makes roles",
    why="SET ROLE is all that it takes.",
    query="""
        select format('%%s in %%s', agent.rolname, strong.rolname), format('revoke %%I from %%I', strong.rolname, agent.rolname)
        from pg_roles agent, pg_roles strong
        where agent.rolname = any(%(agents)s) and not agent.rolsuper and agent.oid <> strong.oid
          and (strong.rolsuper or strong.rolcreaterole) and pg_has_role(agent.oid, strong.oid, 'member')
        order by 1
    """,
)

OWNED_DATABASES = Check(
    name="agents.own-databases",
    severity=Severity.CRITICAL,
    what="agents' roles own databases",
    why="An owner drops the whole database, from another database, where no event trigger fires.",
    query="""
        select format('%%s: %%s', agent.rolname, datname), format('alter database %%I owner to ROLE_THAT_IS_NO_AGENT', datname)
        from pg_database, pg_roles agent
        where agent.rolname = any(%(agents)s) and not agent.rolsuper and pg_has_role(agent.oid, datdba, 'member')
        order by 1
    """,
)

OTHERS_TO_BECOME = Check(
    name="agents.become-others",
    severity=Severity.CRITICAL,
    what="agents' roles may become roles that log in and are no agents",
    why="SET ROLE and ALTER ROLE … PASSWORD: then it logs in as somebody whom neither proxy nor guard holds.",
    query="""
        select format('%%s in %%s', agent.rolname, other.rolname), format('revoke %%I from %%I', other.rolname, agent.rolname)
        from pg_roles agent, pg_roles other
        where agent.rolname = any(%(agents)s) and not agent.rolsuper and other.rolcanlogin and not other.rolname = any(%(agents)s)
          and not other.rolsuper and not other.rolcreaterole
          -- Since 16 a member may be kept from SET ROLE.
          and (pg_has_role(agent.oid, other.oid,
                   case when current_setting('server_version_num')::integer >= 160000 then 'set' else 'member' end)
               or pg_has_role(agent.oid, other.oid, 'member with admin option'))
        order by 1
    """,
)

ADMIN_OPTION = Check(
    name="agents.admin-option",
    severity=Severity.CRITICAL,
    what="agents' roles may give memberships to others and take them away",
    why="Before PostgreSQL 16 such a role takes itself out of the group by which the guard knows agents.",
    query="""
        select distinct format('%%s: %%s', agent.rolname, given.rolname),
               format('revoke admin option for %%I from %%I', given.rolname, holder.rolname)
        from pg_roles agent
        join pg_auth_members m on m.admin_option and pg_has_role(agent.oid, m.member, 'member')
        join pg_roles given on given.oid = m.roleid
        join pg_roles holder on holder.oid = m.member
        where agent.rolname = any(%(agents)s) and not agent.rolsuper and not holder.rolsuper
        order by 1
    """,
)

SETTABLE_PARAMETERS = Check(
    name="agents.parameters",
    severity=Severity.CRITICAL,
    what="agents' roles may change settings that switch defences off",
    why="session_replication_role and event_triggers silence triggers, track_counts blinds the row limit; by ALTER SYSTEM the "
    "server runs a library or command.",
    since=15,
    query="""
        select format('%%s: %%s', agent.rolname, parname),
               format('revoke set, alter system on parameter %%s from %%I, public', parname, agent.rolname)
        from pg_roles agent, pg_parameter_acl
        where agent.rolname = any(%(agents)s) and not agent.rolsuper
          and (has_parameter_privilege(agent.oid, parname, 'alter system')
               or has_parameter_privilege(agent.oid, parname, 'set') and parname in (
                   'session_replication_role', 'event_triggers', 'track_counts', 'zero_damaged_pages', 'ignore_checksum_failure',
                   'ignore_system_indexes', 'allow_system_table_mods', 'session_preload_libraries', 'dynamic_library_path',
                   'extension_control_path', 'lo_compat_privileges', 'log_statement'))
        order by 1
    """,
)

SHARED_ROLE = Check(
    name="agents.environment-role",
    severity=Severity.WARNING,
    what="agents log in as the environment's own role",
    why="Its rights are everybody's, its password stands in a file or variable, and the database cannot tell who did what.",
    query="""
        select rolname::text, 'dbshield agent create NAME --environment ENVIRONMENT --access LEVEL --role ROLE_OF_ITS_OWN'
        from pg_roles where rolname = any(%(agents)s) and rolname = %(upstream)s
    """,
)

LEFT_BEHIND = Check(
    name="roles.left-behind",
    severity=Severity.WARNING,
    what="roles of agents that are no more may still log in",
    why="A credential that nobody uses is missed by nobody when somebody else uses it.",
    query="""
        select rolname::text, format('alter role %%I nologin', rolname)
        from pg_roles where rolname = any(%(left_behind)s) and rolcanlogin order by 1
    """,
)

OTHER_SUPERUSERS = Check(
    name="roles.superusers",
    severity=Severity.WARNING,
    what="superusers besides the one that the cluster was made with may log in",
    why="Whoever finds one of these passwords, an agent too, is past every guard.",
    query="""
        select rolname::text, format('alter role %%I nosuperuser', rolname)
        from pg_roles
        where rolsuper and rolcanlogin and oid <> 10 and not rolname = any(%(agents)s) order by 1
    """,
)

NEVER_EXPIRES = Check(
    name="roles.password-never-expires",
    severity=Severity.WARNING,
    what="passwords that never expire",
    why="The longer a password lives, the more files it lies in; the incident's token was an old one.",
    query=r"""
        select rolname::text, format('alter role %%I valid until %%L', rolname, (current_date + 90)::text)
        from pg_authid
        where rolcanlogin and rolpassword is not null and (rolvaliduntil is null or rolvaliduntil = 'infinity')
          -- A password of dbshield's own making lies in no file; how old it is has a finding of its own.
          and coalesce(shobj_description(oid, 'pg_authid'), '') !~ '^\{"dbshield agent"'
        order by 1
    """,
)

OLD_PASSWORDS = Check(
    name="agents.old-passwords",
    severity=Severity.WARNING,
    what="passwords of agents' roles that were not rotated for 90 days",
    why="Whoever once had the control database and its key in hand still knows them.",
    query=r"""
        with made as (
            select rolname, shobj_description(oid, 'pg_authid') as mark
            from pg_roles where rolname = any(%(agents)s) and rolcanlogin
        )
        select rolname::text, format(
            'dbshield agent rotate %%s --environment %%s',
            substring(mark from '"agent": "([a-z0-9-]+)"'), substring(mark from '"environment": "([a-z0-9-]+)"'))
        from made
        where mark ~ '^\{"dbshield agent"'
          and substring(mark from '"password_set": "(\d{4}-\d\d-\d\d)"')::date < current_date - 90
        order by 1
    """,
)

EXPIRED = Check(
    name="roles.expired",
    severity=Severity.NOTE,
    what="roles whose password has expired are still there",
    why="One that a method without a password lets in still gets in, and an expiry is moved more easily than a role is made.",
    query="""
        select rolname::text, format('alter role %%I nologin', rolname)
        from pg_roles where rolcanlogin and rolvaliduntil < now() order by 1
    """,
)

MD5_PASSWORDS = Check(
    name="roles.md5",
    severity=Severity.WARNING,
    what="passwords stored as MD5",
    why="Whoever reads such a hash logs in with it as it is, without knowing the password.",
    query=r"""
        select rolname::text, format('set password_encryption = ''scram-sha-256'' and then \password %%I in psql', rolname)
        from pg_authid where rolpassword like 'md5%%' order by 1
    """,
)

CHECKS = (
    SUPERUSER_AGENTS,
    STRONG_MEMBERSHIPS,
    CREATEROLE_AGENTS,
    PREDEFINED_ROLES,
    OWNED_DATABASES,
    OTHERS_TO_BECOME,
    ADMIN_OPTION,
    SETTABLE_PARAMETERS,
    ATTRIBUTES_OF_AGENTS,
    SHARED_ROLE,
    LEFT_BEHIND,
    OTHER_SUPERUSERS,
    NEVER_EXPIRES,
    OLD_PASSWORDS,
    MD5_PASSWORDS,
    EXPIRED,
)
