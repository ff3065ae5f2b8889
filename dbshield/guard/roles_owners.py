"""Which owners of tables an agent that migrates may be a member of, and the membership.

PostgreSQL lets only a table's owner add a column or an index to it, so additive migrations need the owner's rights. An owner that
has more than its tables gives an agent more than its tables, where no guard looks; such an owner is left out, with the reason.

Source: PostgreSQL manual, "Role Membership" and "Predefined Roles".
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from psycopg import sql

from dbshield.guard.install import Connection, Open
from dbshield.guard.roles_apply import INHERIT_SINCE, allowed, few
from dbshield.guard.roles_look import Place
from dbshield.guard.steps import AGENTS

LEAVES: Final = "the agent cannot alter their tables, index them or comment on them"

_STRONGER: Final = """
    select r.rolname::text from pg_catalog.pg_roles r
    where r.rolname <> %(owner)s and pg_catalog.pg_has_role(%(owner)s::text, r.oid, 'member')
        and (r.rolsuper or r.rolcreaterole or (r.rolname ~ '^pg_' and r.rolname <> 'pg_database_owner'))
    order by 1"""

_DATABASES: Final = """
    select datname::text from pg_catalog.pg_database where pg_catalog.pg_has_role(%(owner)s::text, datdba, 'member') order by 1"""

_ELSEWHERE: Final = """
    select distinct d.datname::text from pg_catalog.pg_shdepend s
    join pg_catalog.pg_database d on d.oid = s.dbid join pg_catalog.pg_roles r on r.oid = s.refobjid
    where s.refclassid = 'pg_catalog.pg_authid'::pg_catalog.regclass and s.deptype = 'o'
        and pg_catalog.pg_has_role(%(owner)s::text, r.oid, 'member') and not d.datname = any(%(databases)s) and d.datallowconn
        and pg_catalog.has_database_privilege(%(role)s::text, d.oid, 'connect')
    order by 1"""
"""Databases that the agent may enter, that are none of the environment's, and where the owner owns something."""


def join_owners(conn: Connection, role: str, places: Sequence[Place], *, stands: bool) -> tuple[Open, ...]:
    """Make `role` a member of the owners of the tables; what was left out. Inside the caller's transaction."""
    owners = sorted({owner for place in places for owner in place.owners})
    if not stands:
        problems = [problem for place in places for problem in place.problems]
        return (
            Open(
                what="CREATE, and the rights of those who own the tables",
                why=f"the guard does not stand: {problems[0]}",
                leaves="the agent may write rows and migrate nothing; install the guard, then run `dbshield agent rotate`",
            ),
        )
    return tuple(_joined(conn, role, owners, [place.database for place in places]))


def _joined(conn: Connection, role: str, owners: Sequence[str], databases: Sequence[str]) -> Iterator[Open]:
    major = conn.info.server_version // 10_000
    for owner in owners:
        why = objection(conn, role, owner, databases)
        if why is None:
            how = sql.SQL(" with inherit true, set false") if major >= INHERIT_SINCE else sql.SQL("")
            statement = sql.SQL("grant {} to {}{}").format(sql.Identifier(owner), sql.Identifier(role), how)
            why = allowed(conn, statement)
        if why is not None:
            yield Open(what=f"membership in {owner}, which owns tables", why=why, leaves=LEAVES)


def objection(conn: Connection, role: str, owner: str, databases: Sequence[str]) -> str | None:
    """Why an agent must not be a member of this owner; nothing where it may."""
    row = conn.execute(
        "select rolsuper, rolcreaterole or rolcreatedb or rolreplication or rolbypassrls,"
        " exists (select from pg_catalog.pg_roles b where b.rolcanlogin and pg_catalog.pg_has_role(r.oid, b.oid, 'member')),"
        " pg_catalog.pg_has_role(r.oid, pg_catalog.to_regrole(%s), 'member') from pg_catalog.pg_roles r where rolname = %s",
        [AGENTS, owner],
    ).fetchone()
    superuser, strong, login, agent = row if row is not None else (True, True, True, True)
    if superuser:
        return f"{owner} is a superuser: let a role of its own own the tables"
    if agent:
        return f"{owner} is an agent's role itself"
    # Attributes are not inherited, and SET ROLE cannot be kept from a member before 16.
    if strong and conn.info.server_version // 10_000 < INHERIT_SINCE:
        return f"{owner} has an attribute beyond LOGIN, and SET ROLE would give it to the agent"
    if login and conn.info.server_version // 10_000 < INHERIT_SINCE:
        return f"{owner} may log in or become one who may: SET ROLE and a password, and the agent is a role that no guard holds"
    asked = {"owner": owner, "role": role, "databases": list(databases)}
    for query, reason in (
        (_STRONGER, "is a member of {}"),
        (_DATABASES, "owns the database {}, and an owner drops it from another one, where no event trigger fires"),
        (_ELSEWHERE, "owns things in {} too, which the agent may enter and which is no database of this environment"),
    ):
        found = [str(name) for (name,) in conn.execute(query.encode(), asked).fetchall()]
        if found:
            return f"{owner} {reason.format(few(found))}"
    return None
