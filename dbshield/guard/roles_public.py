"""What PUBLIC gives every role beyond the rights of its level, and taking EXECUTE from it where nobody loses anything.

A right of PUBLIC cannot be kept from one role; it is taken from all or from none. EXECUTE on a function of people that may write,
or that runs with its owner's rights, is taken where no other role could be using it:

- nothing in the database depends on the function (a default, a CHECK, a view, an operator: EXECUTE is asked there of whoever
  writes or reads, without the schema);
- no role but superusers, agents and the owner's own may name it, by USAGE on its schema, unless EXECUTE was granted to it.

Everything else is reported with who would lose, and the commands. Trigger functions are left alone: a trigger asks nobody for
EXECUTE when it fires, and nobody can call one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from psycopg import sql

from dbshield.guard.install import Connection, Open
from dbshield.guard.roles_apply import Grantee, allowed, few
from dbshield.guard.roles_look import Place
from dbshield.guard.roles_rights import On
from dbshield.guard.steps import AGENTS

_ROUTINES: Final = """
    select p.oid::pg_catalog.regprocedure::text,
        array(
            select pg_catalog.quote_ident(r.rolname) from pg_catalog.pg_roles r
            where not r.rolsuper and r.rolname !~ '^pg_'
                and not coalesce(pg_catalog.pg_has_role(r.oid, pg_catalog.to_regrole(%(group)s), 'member'), false)
                and r.oid is distinct from pg_catalog.to_regrole(%(group)s)
                and not pg_catalog.pg_has_role(r.oid, p.proowner, 'usage')
                and pg_catalog.has_schema_privilege(r.oid, p.pronamespace, 'usage')
                and not exists (
                    select from pg_catalog.aclexplode(p.proacl) g
                    where g.privilege_type = 'EXECUTE' and g.grantee <> 0 and pg_catalog.pg_has_role(r.oid, g.grantee, 'usage'))
            order by 1
        ) as losers,
        exists (
            select from pg_catalog.pg_depend d
            where d.refclassid = 'pg_catalog.pg_proc'::pg_catalog.regclass and d.refobjid = p.oid and d.deptype = 'n'
                and d.classid <> 'pg_catalog.pg_trigger'::pg_catalog.regclass
        ) as used
    from pg_catalog.pg_proc p join pg_catalog.pg_namespace n on n.oid = p.pronamespace,
        pg_catalog.aclexplode(coalesce(p.proacl, pg_catalog.acldefault('f', p.proowner))) a
    where n.nspname = any(%(schemas)s) and a.grantee = 0 and (p.prosecdef or p.provolatile = 'v')
        and p.prorettype not in ('pg_catalog.trigger'::pg_catalog.regtype, 'pg_catalog.event_trigger'::pg_catalog.regtype)
        and not exists (
            select from pg_catalog.pg_depend e
            where e.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass and e.objid = p.oid and e.deptype = 'e')
    order by 1"""

_PUBLIC: Final = """
    select 'database', datname::text, lower(privilege_type)
    from pg_catalog.pg_database, pg_catalog.aclexplode(coalesce(datacl, pg_catalog.acldefault('d', datdba)))
    where datname = pg_catalog.current_database() and grantee = 0 and privilege_type in ('CREATE', 'TEMPORARY')
    union all
    select 'schema', nspname::text, lower(privilege_type)
    from pg_catalog.pg_namespace, pg_catalog.aclexplode(coalesce(nspacl, pg_catalog.acldefault('n', nspowner)))
    where grantee = 0 and privilege_type = 'CREATE' and nspname !~ '^pg_'
    union all
    select 'table', n.nspname || '.' || relname, string_agg(lower(privilege_type), ', ' order by privilege_type)
    from pg_catalog.pg_class join pg_catalog.pg_namespace n on n.oid = relnamespace, pg_catalog.aclexplode(relacl)
    where grantee = 0 and privilege_type in ('INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'TRIGGER')
        and nspname not in ('pg_catalog', 'information_schema') and relkind in ('r', 'p', 'v', 'f')
    group by 1, 2"""


def close_execute(conn: Connection, place: Place) -> tuple[tuple[str, ...], tuple[Open, ...]]:
    """The functions that EXECUTE was taken from PUBLIC on now, and those that it could not be taken on."""
    closed: list[str] = []
    left: list[Open] = []
    found = conn.execute(_ROUTINES.encode(), {"schemas": list(place.schemas), "group": AGENTS}).fetchall()
    for routine, losers, used in found:
        if losers or used:
            who = f"{few(losers)} may be calling it" if losers else "a default, a check, a view or an operator uses it"
            grants = f"grant execute on routine {routine} to {', '.join(losers)}; " if losers else ""
            left.append(_open(routine, who, f"{grants}revoke execute on routine {routine} from public"))
            continue
        # The server wrote the name, quoted as it has to be.
        why = allowed(conn, sql.SQL("revoke execute on routine {} from public").format(sql.SQL(routine)))
        if why is None and _public_still(conn, routine):
            why = f"{conn.info.user} does not own it"
        if why is None:
            closed.append(str(routine))
        else:
            left.append(_open(routine, why, f"revoke execute on routine {routine} from public"))
    return tuple(closed), tuple(left)


def beyond(conn: Connection, grantee: Grantee) -> Iterator[Open]:
    """What PUBLIC gives the role that its level does not."""
    has = {on.value: grantee.privileges(on) for on in (On.DATABASE, On.SCHEMA, On.TABLE)}
    for kind, name, words in conn.execute(_PUBLIC.encode()).fetchall():
        more = [word for word in words.split(", ") if word.upper() not in has[kind]]
        if more:
            word = ", ".join(more)
            yield Open(
                what=f"keeping {word} on the {kind} {name} from the agent",
                why="everybody has it, by PUBLIC",
                leaves=f"the agent has it too; if nobody else needs it: revoke {word} on {kind} {name} from public",
            )


def _public_still(conn: Connection, routine: str) -> bool:
    """A REVOKE of what somebody else granted is only a warning."""
    row = conn.execute(
        "select exists (select from pg_catalog.pg_proc,"
        " pg_catalog.aclexplode(coalesce(proacl, pg_catalog.acldefault('f', proowner)))"
        " where oid = %s::pg_catalog.regprocedure and grantee = 0)",
        [routine],
    ).fetchone()
    return bool(row and row[0])


def _open(routine: str, why: str, mend: str) -> Open:
    return Open(
        what=f"taking EXECUTE on {routine} from everybody",
        why=why,
        leaves=f"the agent may call it; once it is known who does: {mend}",
    )
