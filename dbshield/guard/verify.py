"""Compares what is installed with what is shipped, by content: bodies, attributes, owners, rights, triggers, tables.

It only reads. What it cannot find as it should be is a problem, with what to do about it; mostly that is to install again, which
puts everything back.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Final

from dbshield.guard.identity import mark
from dbshield.guard.install import PINNED, Connection, Server, installed_version, server_of
from dbshield.guard.steps import AGENTS, EVENT_TRIGGERS, OWNER, SCHEMA, VERSION, shipped

AGAIN: Final = "Find out who did it, then run `dbshield guard install` again."
OLD: Final = "Run `dbshield guard install` again: it brings an older guard to this version in one transaction."
SWITCHED_OFF: Final = "all event triggers are switched off for"
TABLES: Final = ("installation", "protected", "limits", "addresses", "changing", "working")

_FUNCTION: Final = re.compile(
    r"^create or replace function dbshield\.(?P<name>\w+)\((?P<arguments>[^)]*)\) returns (?P<head>.*?)\n"
    r"as \$\$(?P<body>.*?)\$\$;",
    re.DOTALL | re.MULTILINE,
)
"""How every function in sql/ is written."""

UNGUARDED: Final = """
    select c.oid::pg_catalog.regclass::text
    from pg_catalog.pg_class c
    where c.relkind in ('r', 'p', 'f') and c.relpersistence <> 't'
        and exists (
            with recursive part as (
                select c.oid, c.relnamespace
                union
                select r.oid, r.relnamespace from part join pg_catalog.pg_inherits i on i.inhparent = part.oid
                join pg_catalog.pg_class r on r.oid = i.inhrelid
            )
            select from part join pg_catalog.pg_namespace n on n.oid = part.relnamespace
            where n.nspname not in ('dbshield', 'information_schema') and n.nspname !~ '^pg_'
                and exists (select from dbshield.protected where schema_name in ('*', n.nspname))
        )
        and (
            select count(*) from pg_catalog.pg_trigger t
            where t.tgrelid = c.oid and t.tgenabled = 'A' and t.tgnargs = 0 and t.tgattr = '' and not t.tgisinternal
                and pg_catalog.strpos(
                    pg_catalog.pg_get_triggerdef(t.oid),
                    ' WHEN (pg_has_role(SESSION_USER, (to_regrole(''dbshield_agents''::text))::oid, ''member''::text)) EXECUTE '
                ) > 0
                and (t.tgname, t.tgfoid, t.tgtype) in (
                    ('dbshield_rows', pg_catalog.to_regprocedure('dbshield.count_rows()'), 24),
                    ('dbshield_truncate', pg_catalog.to_regprocedure('dbshield.refuse_truncate()'), 34)
                )
        ) < case when c.relkind = 'f' and pg_catalog.current_setting('server_version_num')::integer < 160000 then 1 else 2 end
    order by c.oid"""
"""What dbshield.unguarded() should answer; it is not asked, because somebody may have changed it. It wants PINNED: what the
condition of a trigger calls is printed without its schema where that is the first in the path."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """What is not as it should be, and what to do."""

    what: str
    mend: str = AGAIN


@dataclass(frozen=True, slots=True, kw_only=True)
class Function:
    """A shipped function. `signature` is what regprocedure reads."""

    name: str
    signature: str
    body: str
    language: str
    definer: bool
    volatility: str
    since: int
    superuser: bool


@cache
def functions() -> tuple[Function, ...]:
    """Every function in the shipped files."""
    return tuple(
        Function(
            name=found["name"],
            signature=f"dbshield.{found['name']}({','.join(_types(found['arguments']))})",
            body=found["body"],
            language=re.findall(r"language (\w+)", found["head"])[0],
            definer="security definer" in found["head"],
            volatility="s" if " stable" in found["head"] else "i" if " immutable" in found["head"] else "v",
            since=step.since,
            superuser=step.superuser,
        )
        for step, text in shipped()
        for found in _FUNCTION.finditer(text)
    )


def verify(conn: Connection) -> tuple[Problem, ...]:
    """Everything that is not as it was shipped; nothing when the guard stands.

    What a role without a superuser's rights could not install is a problem as well: it is open.
    """
    server = server_of(conn)
    with conn.transaction():
        conn.execute(PINNED)
        version = installed_version(conn)
        if version is None:
            return (Problem(what=f"the guard is not installed in {server.database}", mend="Run `dbshield guard install`."),)
        problems = [] if version == VERSION else [Problem(what=f"version {version} is installed, {VERSION} is shipped", mend=OLD)]
        for check in (_roles, _identity, _schema, _functions, _settings, _event_triggers, _tables):
            problems += check(conn, server)
    return tuple(problems)


def _roles(conn: Connection, server: Server) -> Iterator[Problem]:
    for role in (AGENTS, OWNER):
        row = conn.execute(
            "select rolcanlogin or rolsuper or rolcreaterole or rolcreatedb or rolreplication or rolbypassrls,"
            " exists (select from pg_catalog.pg_auth_members where member = r.oid) from pg_catalog.pg_roles r where rolname = %s",
            [role],
        ).fetchone()
        if row is None:
            yield Problem(what=f"the role {role} is missing")
        elif row[0] or row[1]:
            yield Problem(
                what=f"the role {role} has been given rights of its own",
                mend=f"Take its attributes and memberships away: alter role {role} nologin nosuperuser nocreaterole nocreatedb "
                "noreplication nobypassrls; revoke … from it.",
            )
    for (member,) in conn.execute(
        "select member::pg_catalog.regrole::text from pg_catalog.pg_auth_members where roleid = pg_catalog.to_regrole(%s)"
        " and not (select rolsuper from pg_catalog.pg_roles where oid = member)",
        [OWNER],
    ).fetchall():
        yield Problem(what=f"{member} is a member of {OWNER}, so it controls the guard", mend=f"revoke {OWNER} from {member};")
    for (agent,) in conn.execute(
        "select r.rolname from pg_catalog.pg_roles r where rolsuper and exists (select from pg_catalog.pg_auth_members m"
        " where m.member = r.oid and m.roleid = pg_catalog.to_regrole(%s))",
        [AGENTS],
    ).fetchall():
        yield Problem(what=f"the agent {agent} is a superuser: nothing holds it", mend=f"alter role {agent} nosuperuser;")


def _identity(conn: Connection, server: Server) -> Iterator[Problem]:
    row = conn.execute(
        "select environment, i.system_identifier, c.system_identifier::text,"
        " pg_catalog.obj_description(pg_catalog.to_regnamespace(%s)::pg_catalog.oid, 'pg_namespace')"
        " from dbshield.installation i, pg_catalog.pg_control_system() c",
        [SCHEMA],
    ).fetchone()
    if row is None:
        return
    if row[3] != mark(row[0]):
        # The proxy goes by the comment, the commands by the table: they have to name one environment.
        yield Problem(
            what=f"the comment on the schema {SCHEMA} does not say that this is {row[0]}, so the proxy does not know it",
            mend="Find out who changed it, then run `dbshield guard install` with the name of the environment that this is.",
        )
    if row[1] != row[2]:
        yield Problem(
            what=f"the guard was installed for {row[0]} on another cluster ({row[1]}), this one is {row[2]}",
            mend="A copy of that database runs here. Install again with the name of the environment that this cluster is.",
        )


def _schema(conn: Connection, server: Server) -> Iterator[Problem]:
    owner = _expected_owner(conn)
    for kind, name, found, rights, altered in conn.execute(
        "select 'the schema', nspname, nspowner::regrole::text, exists (select from pg_catalog.aclexplode(nspacl)"
        " where grantee <> nspowner), false from pg_catalog.pg_namespace where nspname = %(schema)s"
        " union all select 'the table', nspname || '.' || relname, relowner::regrole::text,"
        " exists (select from pg_catalog.aclexplode(relacl) where grantee <> relowner)"
        " or exists (select from pg_catalog.pg_attribute where attrelid = c.oid and attacl is not null),"
        " relkind in ('r', 'p') and (relhastriggers or relhasrules or relrowsecurity or relforcerowsecurity)"
        " from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = relnamespace"
        " where nspname = %(schema)s and relkind not in ('i', 'c')",
        {"schema": SCHEMA},
    ).fetchall():
        if kind == "the table" and name.removeprefix(f"{SCHEMA}.") not in TABLES:
            yield Problem(what=f"{name} is none of dbshield's", mend="Look at it, then drop it.")
            continue
        if found != owner:
            yield Problem(what=f"{kind} {name} belongs to {found} instead of {owner}")
        if rights:
            yield Problem(what=f"others have rights on {kind} {name}", mend=f"Revoke them all from {kind} {name}.")
        if altered:
            yield Problem(
                what=f"{kind} {name} has been given triggers, rules or row security",
                mend=f"They decide what the guard remembers. Look at them (\\d {name} in psql), then drop them.",
            )
    for table in TABLES:
        if conn.execute("select pg_catalog.to_regclass(%s)::oid", [f"{SCHEMA}.{table}"]).fetchone() == (None,):
            yield Problem(what=f"the table {SCHEMA}.{table} is missing")


def _functions(conn: Connection, server: Server) -> Iterator[Problem]:
    owner = _expected_owner(conn)
    known = [function for function in functions() if function.since <= server.major]
    for function in known:
        row = conn.execute(
            "select prosrc, l.lanname, prosecdef, provolatile, proconfig, proowner::regrole::text, rolsuper,"
            " exists (select from pg_catalog.aclexplode(coalesce(proacl, pg_catalog.acldefault('f', proowner)))"
            " where grantee <> proowner), proisstrict or prosupport <> 0"
            " from pg_catalog.pg_proc p join pg_catalog.pg_language l on l.oid = prolang"
            " join pg_catalog.pg_roles r on r.oid = proowner where p.oid = pg_catalog.to_regprocedure(%s)",
            [function.signature],
        ).fetchone()
        if row is None:
            yield Problem(what=f"the function {function.signature} is missing")
            continue
        source, language, definer, volatility, settings, found, superuser, rights, strange = row
        if source != function.body:
            yield Problem(what=f"the body of {function.signature} was changed")
        if strange or (language, definer, volatility) != (function.language, function.definer, function.volatility):
            yield Problem(what=f"the function {function.signature} was altered")
        if settings != ["search_path=pg_catalog, pg_temp"]:
            yield Problem(what=f"the settings of {function.signature} were changed")
        if not superuser if function.name == "guard_new_tables" and owner == OWNER else found != owner:
            yield Problem(what=f"{function.signature} belongs to {found} instead of {owner}")
        if rights:
            yield Problem(
                what=f"others may call {function.signature}",
                mend=f"Revoke it: revoke all on function {function.signature} from whoever has it.",
            )
    for (name,) in conn.execute(
        "select p.oid::regprocedure::text from pg_catalog.pg_proc p where pronamespace = pg_catalog.to_regnamespace(%s)"
        " and not p.oid = any (select pg_catalog.to_regprocedure(s) from unnest(%s::text[]) s where"
        " pg_catalog.to_regprocedure(s) is not null)",
        [SCHEMA, [function.signature for function in known]],
    ).fetchall():
        yield Problem(what=f"the function {name} is none of dbshield's", mend=f"Look at it, then: drop function {name};")


def _settings(conn: Connection, server: Server) -> Iterator[Problem]:
    """PostgreSQL 17 and later can switch all event triggers off, for one role, one database or everybody."""
    for who, mend in conn.execute(
        "select 'everybody', case source when 'configuration file'"
        " then 'alter system reset event_triggers; select pg_reload_conf();' else 'Start the server without it.' end"
        " from pg_catalog.pg_settings where name = 'event_triggers' and setting = 'off'"
        " and source in ('command line', 'environment variable', 'configuration file')"
        " union all"
        " select concat_ws(' in ', coalesce(r.rolname, 'everybody'), d.datname),"
        " pg_catalog.concat('alter ', case when r.oid is null then pg_catalog.format('database %I', d.datname)"
        " else pg_catalog.concat('role ', case when s.setrole = 0 then 'all' else pg_catalog.quote_ident(r.rolname) end,"
        " ' in database ' || pg_catalog.quote_ident(d.datname)) end, ' reset event_triggers;')"
        " from pg_catalog.pg_db_role_setting s left join pg_catalog.pg_roles r on r.oid = s.setrole"
        " left join pg_catalog.pg_database d on d.oid = s.setdatabase"
        " where pg_catalog.array_to_string(s.setconfig, ' ') ~ '(?i)\\mevent_triggers=(of|f|n|0)'"
        " and (s.setdatabase = 0 or d.datname = pg_catalog.current_database())"
    ).fetchall():
        yield Problem(what=f"{SWITCHED_OFF} {who}", mend=str(mend))


def _event_triggers(conn: Connection, server: Server) -> Iterator[Problem]:
    installed = {
        name: (event, function, enabled, superuser, tags)
        for name, event, function, enabled, superuser, tags in conn.execute(
            "select evtname, evtevent, evtfoid::regprocedure::text, evtenabled, rolsuper, evttags"
            " from pg_catalog.pg_event_trigger t join pg_catalog.pg_roles r on r.oid = t.evtowner"
        ).fetchall()
    }
    for name, (event, function, since) in EVENT_TRIGGERS.items():
        if since > server.major:
            continue
        found = installed.get(name)
        if found is None:
            yield Problem(what=f"the event trigger {name} is missing", mend="Run `dbshield guard install` as a superuser.")
            continue
        if found[:2] != (event, f"{SCHEMA}.{function}()") or (found[4] or []) != _tags(name):
            yield Problem(what=f"the event trigger {name} was replaced by another")
        if found[2] != "A":
            yield Problem(what=f"the event trigger {name} is disabled or not enabled always")
        if not found[3]:
            yield Problem(what=f"the event trigger {name} belongs to a role that is no superuser")


def _tables(conn: Connection, server: Server) -> Iterator[Problem]:
    for (relation,) in conn.execute(UNGUARDED.encode()).fetchall():
        yield Problem(what=f"the table {relation} is not guarded, or its triggers were changed or disabled")


def _expected_owner(conn: Connection) -> str:
    """dbshield_owner where a superuser installed, else the role that did."""
    row = conn.execute(
        "select case when rolsuper then %s else rolname end from dbshield.installation"
        " join pg_catalog.pg_roles on rolname = installed_by",
        [OWNER],
    ).fetchone()
    return str(row[0]) if row else OWNER


@cache
def _tags(name: str) -> list[str]:
    """The tags that the shipped file gives the event trigger."""
    for _, text in shipped():
        found = re.search(
            rf"^create event trigger {name} on \w+\s+(?:when tag in \((?P<tags>[^)]*)\)\s+)?execute", text, re.MULTILINE
        )
        if found:
            return re.findall(r"'([^']+)'", found["tags"] or "")
    return []


def _types(arguments: str) -> list[str]:
    """The types in `name type default value, …`."""
    return [argument.split()[1] for argument in arguments.split(",") if argument.strip()]
