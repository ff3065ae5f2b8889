"""Checks of what is in one database: what agents own, what they and everybody are granted, and whether the guard is there."""

from __future__ import annotations

from dbshield.guard.doctor import Check, Scope, Severity

OWNED = Check(
    name="agents.own-objects",
    severity=Severity.CRITICAL,
    guarded=Severity.WARNING,
    scope=Scope.DATABASE,
    what="agents' roles own things, themselves or through a role that they are a member of",
    why="An owner drops, truncates and rewrites what it owns, and no grant can be taken from it; only the guard is left.",
    query="""
        with agent as (select oid, rolname from pg_roles where rolname = any(%(agents)s) and not rolsuper),
        thing as (
            select relowner as owner, format('%%I.%%I', nspname, relname) as name,
                   case relkind when 'v' then 'view' when 'm' then 'materialized view' when 'S' then 'sequence'
                       when 'f' then 'foreign table' else 'table' end as kind
            from pg_class join pg_namespace n on n.oid = relnamespace
            where relkind in ('r', 'p', 'v', 'm', 'S', 'f') and nspname !~ '^pg_(temp|toast)'
            union all
            select nspowner, format('%%I', nspname), 'schema' from pg_namespace where nspname !~ '^pg_(temp|toast)'
            union all
            select proowner, proc.oid::regprocedure::text, 'routine' from pg_proc proc
        )
        select format('%%s: %%s %%s', agent.rolname, kind, name),
               format('alter %%s %%s owner to ROLE_THAT_IS_NO_AGENT', kind, name)
        from thing join agent on pg_has_role(agent.oid, thing.owner, 'member')
        -- The group that owns the database is its owner, which has a finding of its own.
        where thing.owner <> 'pg_database_owner'::regrole
        order by 1
    """,
)

CREATE_IN_SCHEMA = Check(
    name="agents.create-in-schema",
    severity=Severity.CRITICAL,
    scope=Scope.DATABASE,
    what="agents' roles below migrate may create in a schema",
    why="With a function, rule, view or operator of its own a role empties tables that it may only write rows in.",
    query="""
        select format('%%s: %%s', rolname, nspname), format('revoke create on schema %%I from %%I, public', nspname, rolname)
        from pg_roles, pg_namespace n
        where rolname = any(%(not_migrators)s) and not rolsuper and nspname !~ '^pg_(temp|toast)'
          and has_schema_privilege(pg_roles.oid, n.oid, 'create')
        order by 1
    """,
)

PUBLIC_CREATE = Check(
    name="public.create-in-schema",
    severity=Severity.CRITICAL,
    scope=Scope.DATABASE,
    what="everybody may create in a schema",
    why="Functions and operators put there are called by others, with the rights of whoever calls.",
    query="""
        select nspname::text, format('revoke create on schema %%I from public', nspname)
        from pg_namespace, aclexplode(coalesce(nspacl, acldefault('n', nspowner)))
        where grantee = 0 and privilege_type = 'CREATE' order by 1
    """,
)

PUBLIC_WRITES = Check(
    name="public.write-tables",
    severity=Severity.CRITICAL,
    scope=Scope.DATABASE,
    what="everybody may write tables",
    why="What is granted to PUBLIC cannot be taken from an agent.",
    query="""
        select format('%%I.%%I (%%s)', nspname, relname, string_agg(distinct lower(privilege_type), ', ')),
               format('revoke insert, update, delete, truncate, trigger on %%I.%%I from public', nspname, relname)
        from (
            select relnamespace, relname, relkind, relacl from pg_class
            union all
            select relnamespace, relname, relkind, attacl from pg_attribute join pg_class c on c.oid = attrelid
        ) as relation (schema, relname, relkind, acl)
        join pg_namespace n on n.oid = schema, aclexplode(acl)
        where grantee = 0 and privilege_type in ('INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'TRIGGER')
          and nspname not in ('pg_catalog', 'information_schema') and relkind in ('r', 'p', 'v', 'f')
        group by nspname, relname order by 1
    """,
)

READERS_WRITE = Check(
    name="agents.readers-write",
    severity=Severity.CRITICAL,
    scope=Scope.DATABASE,
    what="roles of agents that may only read are granted writes",
    why="Around the proxy the access level is what is granted, and nothing else.",
    query="""
        select format('%%s: %%s', rolname, c.oid::regclass),
               format('revoke insert, update, delete, truncate on %%s from %%I', c.oid::regclass, rolname)
        from pg_roles, pg_class c
        where rolname = any(%(readers)s) and not rolsuper and relkind in ('r', 'p', 'v', 'f')
          and relnamespace not in ('pg_catalog'::regnamespace, 'information_schema'::regnamespace)
          and relnamespace::regnamespace::text !~ '^pg_(temp|toast)'
          and (has_table_privilege(pg_roles.oid, c.oid, 'insert, update, delete, truncate')
               or has_any_column_privilege(pg_roles.oid, c.oid, 'insert, update'))
        order by 1
    """,
)

TRUNCATE = Check(
    name="agents.truncate",
    severity=Severity.CRITICAL,
    guarded=Severity.WARNING,
    scope=Scope.DATABASE,
    what="agents' roles may truncate tables or put triggers on them",
    why="TRUNCATE empties a table without looking at a row; a trigger runs its code with the rights of whoever writes.",
    query="""
        select format('%%s: %%s', rolname, c.oid::regclass),
               format('revoke truncate, trigger on %%s from %%I', c.oid::regclass, rolname)
        from pg_roles, pg_class c
        where rolname = any(%(agents)s) and not rolsuper and relkind in ('r', 'p', 'v', 'f')
          and not pg_has_role(pg_roles.oid, relowner, 'member')
          and relnamespace not in ('pg_catalog'::regnamespace, 'information_schema'::regnamespace)
          and has_table_privilege(pg_roles.oid, c.oid, 'truncate, trigger')
        order by 1
    """,
)

MAINTAIN = Check(
    name="agents.maintain",
    severity=Severity.WARNING,
    scope=Scope.DATABASE,
    what="agents' roles may VACUUM FULL, CLUSTER, REINDEX and LOCK tables that are not theirs",
    why="Nobody reads or writes the table while that runs, and no trigger sees it.",
    since=17,
    query="""
        select format('%%s: %%s', rolname, c.oid::regclass),
               format('revoke maintain on %%s from %%I, public', c.oid::regclass, rolname)
        from pg_roles, pg_class c
        where rolname = any(%(agents)s) and not rolsuper and relkind in ('r', 'p', 'm')
          and not pg_has_role(pg_roles.oid, relowner, 'member')
          and relnamespace not in ('pg_catalog'::regnamespace, 'information_schema'::regnamespace)
          and has_table_privilege(pg_roles.oid, c.oid, 'maintain')
        order by 1
    """,
)

DEFINER_FUNCTIONS = Check(
    name="agents.security-definer",
    severity=Severity.WARNING,
    scope=Scope.DATABASE,
    what="agents may call functions that run with their owner's rights",
    why="Inside, the agent's grants do not count; without a pinned search_path it chooses whose functions are called.",
    query="""
        select format('%%s: %%s%%s', rolname, proc.oid::regprocedure,
                      case when exists (select from unnest(proconfig) as set where set like 'search_path=%%')
                           then '' else ' (search_path is not pinned)' end),
               format('revoke execute on routine %%s from public, %%I', proc.oid::regprocedure, rolname)
        from pg_roles, pg_proc proc
        where rolname = any(%(agents)s) and not rolsuper and prosecdef
          and pronamespace not in ('pg_catalog'::regnamespace, 'information_schema'::regnamespace)
          and prorettype not in ('trigger'::regtype, 'event_trigger'::regtype)
          and not pg_has_role(pg_roles.oid, proowner, 'member')
          and has_schema_privilege(pg_roles.oid, pronamespace, 'usage')
          and has_function_privilege(pg_roles.oid, proc.oid, 'execute')
        order by 1
    """,
)

REACHING_EXTENSIONS = Check(
    name="agents.reaching-functions",
    severity=Severity.WARNING,
    scope=Scope.DATABASE,
    what="agents may call functions of extensions that reach out of the database",
    why="A connection that dblink or a foreign server opens is another session, where no transaction is rolled back.",
    query="""
        select distinct format('%%s: %%s', rolname, extname),
               format('revoke execute on all functions in schema %%I from public, %%I', nspname, rolname)
        from pg_roles, pg_extension e
        join pg_depend on refclassid = 'pg_extension'::regclass and refobjid = e.oid and deptype = 'e'
        join pg_proc proc on classid = 'pg_proc'::regclass and objid = proc.oid
        join pg_namespace n on n.oid = pronamespace
        where rolname = any(%(agents)s) and not rolsuper
          and extname in ('dblink', 'adminpack', 'http', 'pg_net', 'pg_cron', 'aws_s3', 'aws_lambda', 'pg_background')
          and has_schema_privilege(pg_roles.oid, n.oid, 'usage') and has_function_privilege(pg_roles.oid, proc.oid, 'execute')
        order by 1
    """,
)

FOREIGN_SERVERS = Check(
    name="agents.foreign-servers",
    severity=Severity.WARNING,
    scope=Scope.DATABASE,
    what="agents may use foreign servers with somebody's stored password",
    why="What they change there is changed in another database, which this guard does not guard.",
    query="""
        select format('%%s: %%s', rolname, srvname),
               format('drop user mapping for %%s server %%I',
                      case umuser when 0 then 'public' else quote_ident(usename) end, srvname)
        from pg_roles, pg_user_mappings
        where rolname = any(%(agents)s) and not rolsuper and umuser in (0, pg_roles.oid)
        order by 1
    """,
)

CREATE_IN_DATABASE = Check(
    name="agents.create-in-database",
    severity=Severity.WARNING,
    scope=Scope.DATABASE,
    what="agents' roles may create schemas and trusted extensions",
    why="In a schema of its own a role does what no grant stops.",
    query="""
        select rolname::text, format('revoke create on database %%I from %%I, public', current_database(), rolname)
        from pg_roles
        where rolname = any(%(agents)s) and not rolsuper
          and has_database_privilege(oid, current_database(), 'create')
          and not pg_has_role(oid, (select datdba from pg_database where datname = current_database()), 'member')
        order by 1
    """,
)

PUBLIC_FUNCTIONS = Check(
    name="public.execute",
    severity=Severity.NOTE,
    scope=Scope.DATABASE,
    what="everybody may call volatile functions that are no extension's",
    why="EXECUTE is granted to PUBLIC when a function is made; one that writes is a way around the grants on what it writes.",
    query="""
        select proc.oid::regprocedure::text, format('revoke execute on routine %%s from public', proc.oid::regprocedure)
        from pg_proc proc, aclexplode(coalesce(proacl, acldefault('f', proowner)))
        where grantee = 0 and provolatile = 'v' and prorettype not in ('trigger'::regtype, 'event_trigger'::regtype)
          and pronamespace not in ('pg_catalog'::regnamespace, 'information_schema'::regnamespace)
          and not exists (select from pg_depend where classid = 'pg_proc'::regclass and objid = proc.oid and deptype = 'e')
        order by 1
    """,
)

TEMPORARY = Check(
    name="agents.temporary",
    severity=Severity.NOTE,
    scope=Scope.DATABASE,
    what="agents' roles may make temporary objects, and their search_path does not put pg_temp last",
    why="A temporary table of the same name is found before the real one.",
    query="""
        select rolname::text,
               format('alter role %%I in database %%I set search_path = "$user", public, pg_temp', rolname, current_database())
        from pg_roles
        where rolname = any(%(agents)s) and not rolsuper and has_database_privilege(oid, current_database(), 'temporary')
          and not exists (
              select from pg_db_role_setting, unnest(setconfig) as set
              where setrole = pg_roles.oid and set ~ '^search_path=.*pg_temp"?$')
        order by 1
    """,
)

NOT_HELD = Check(
    name="guard.not-held",
    severity=Severity.CRITICAL,
    scope=Scope.DATABASE,
    what="the guard is installed, and agents' roles are not in the group by which it knows agents",
    why="It takes them for people, and lets them do what their rights let them.",
    query="""
        select rolname::text, format('grant dbshield_agents to %%I', rolname)
        from pg_roles
        where rolname = any(%(agents)s) and not rolsuper and to_regclass('dbshield.installation') is not null
          and not coalesce(pg_has_role(oid, to_regrole('dbshield_agents'), 'member'), false)
        order by 1
    """,
)

GUARD_DISABLED = Check(
    name="guard.disabled",
    severity=Severity.CRITICAL,
    scope=Scope.DATABASE,
    what="event triggers of the guard are not enabled always",
    why="What is disabled stops nothing, and what is not ALWAYS stops nothing where session_replication_role is replica.",
    query="""
        select evtname::text, format('alter event trigger %%I enable always', evtname)
        from pg_event_trigger join pg_proc proc on proc.oid = evtfoid
        where pronamespace = to_regnamespace('dbshield') and evtenabled <> 'A' order by 1
    """,
)

CHECKS = (
    OWNED,
    CREATE_IN_SCHEMA,
    READERS_WRITE,
    TRUNCATE,
    MAINTAIN,
    PUBLIC_CREATE,
    PUBLIC_WRITES,
    NOT_HELD,
    GUARD_DISABLED,
    DEFINER_FUNCTIONS,
    REACHING_EXTENSIONS,
    FOREIGN_SERVERS,
    CREATE_IN_DATABASE,
    PUBLIC_FUNCTIONS,
    TEMPORARY,
)
