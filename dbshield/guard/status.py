"""Says for every danger which layer closes it in one database, and where none does, for whom it is open.

The layers: an event trigger, the row guard, the truncate guard, or missing rights (`privilege`). What no trigger ever sees is
closed by rights alone, so it is asked which agents have them (PostgreSQL manual, "Event Trigger Firing Matrix").
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from dbshield.guard.install import PINNED, Connection, installed_version, server_of
from dbshield.guard.steps import AGENTS, LOGIN_SINCE
from dbshield.guard.verify import SWITCHED_OFF, UNGUARDED, Problem, verify

NOTHING: Final = "nothing"
OWN_AFFAIRS: Final = "an agent's own password, settings, sessions, locks and prepared transactions"
PRIVILEGE: Final = "privilege"

_AGENT: Final = (
    f"from pg_catalog.pg_roles a where not a.rolsuper and a.rolname <> '{AGENTS}' and"
    f" pg_catalog.pg_has_role(a.oid, pg_catalog.to_regrole('{AGENTS}'), 'member')"
)
"""The agents, as `a`."""
_OWNS: Final = (
    "exists (select from pg_catalog.pg_shdepend d where d.deptype = 'o' and d.dbid = (select oid from pg_catalog.pg_database"
    " where datname = pg_catalog.current_database()) and d.refclassid = 'pg_catalog.pg_authid'::regclass{more}"
    " and pg_catalog.pg_has_role(a.oid, d.refobjid, 'member'))"
)
_OWNS_ANYTHING: Final = _OWNS.format(more="")
_OWNS_RELATION: Final = _OWNS.format(more=" and d.classid = 'pg_catalog.pg_class'::regclass")
_MEMBER: Final = (
    "exists (select from pg_catalog.pg_roles s where s.rolname in ({roles}) and pg_catalog.pg_has_role(a.oid, s.oid, 'member'))"
)
_OWNS_DATABASE: Final = (
    "exists (select from pg_catalog.pg_database d where {which} and pg_catalog.pg_has_role(a.oid, d.datdba, 'member'))"
)
_MAINTAINS: Final = (
    # The privilege MAINTAIN and the role are of 17; the owner of a database may VACUUM FULL what is in it.
    "exists (select from pg_catalog.pg_class c, pg_catalog.aclexplode(c.relacl) e where c.oid >= 16384 and"
    " e.privilege_type = 'MAINTAIN' and (e.grantee = 0 or pg_catalog.pg_has_role(a.oid, e.grantee, 'member')))"
    " or "
    + _MEMBER.format(roles="'pg_maintain'")
    + " or "
    + _OWNS_DATABASE.format(which="d.datname = pg_catalog.current_database()")
)
_PROVIDERS: Final = "'rds_superuser', 'cloudsqlsuperuser', 'azure_pg_admin', 'neon_superuser', 'supabase_admin'"
"""Whom managed services let do more than PostgreSQL lets one who is no superuser."""
_SERVER_ROLES: Final = "'pg_read_server_files', 'pg_write_server_files', 'pg_execute_server_program'"


@dataclass(frozen=True, slots=True, kw_only=True)
class Danger:
    """`events` closes it where all of them are at work; else whoever `who` finds (a condition on the agent `a`) can do it."""

    name: str
    who: str
    events: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One danger: `layer` is what closes it, or nothing; `detail` says for whom it is open or how it is closed."""

    danger: str
    layer: str
    detail: str = ""


DANGERS: Final = (
    Danger(
        name="DROP of anything, with or without CASCADE", who=_OWNS_ANYTHING, events=("dbshield_ddl_start", "dbshield_dropped")
    ),
    Danger(
        name="ALTER, CREATE OR REPLACE, REFRESH WITH NO DATA",
        who=_OWNS_ANYTHING,
        events=("dbshield_ddl_start", "dbshield_ddl_end"),
    ),
    Danger(name="rewriting a table", who=_OWNS_RELATION, events=("dbshield_rewritten",)),
    Danger(name="GRANT and REVOKE, rules, triggers", who=_OWNS_ANYTHING, events=("dbshield_ddl_start",)),
    Danger(name="taking off the guard's triggers", who=_OWNS_RELATION, events=("dbshield_ddl_start", "dbshield_ddl_end")),
    Danger(
        name="subscriptions that write here", who=_MEMBER.format(roles="'pg_create_subscription'"), events=("dbshield_ddl_start",)
    ),
    Danger(name="event triggers themselves", who=_MEMBER.format(roles=_PROVIDERS)),
    Danger(name="REASSIGN OWNED", who=_OWNS_ANYTHING),
    Danger(name="roles: CREATE, ALTER, DROP, GRANT", who="a.rolcreaterole"),
    Danger(name="databases: CREATE", who="a.rolcreatedb"),
    Danger(name="databases: DROP and ALTER", who=_OWNS_DATABASE.format(which="true")),
    Danger(
        name="tablespaces: DROP and ALTER",
        who="exists (select from pg_catalog.pg_tablespace t where pg_catalog.pg_has_role(a.oid, t.spcowner, 'member'))",
    ),
    Danger(
        name="ALTER SYSTEM and settings of a superuser",
        who="exists (select from pg_catalog.pg_parameter_acl p, pg_catalog.aclexplode(p.paracl) e where e.grantee = 0 or"
        " pg_catalog.pg_has_role(a.oid, e.grantee, 'member'))",
    ),
    Danger(name="files and programs of the server", who=_MEMBER.format(roles=_SERVER_ROLES)),
    Danger(name="ending other roles' sessions", who=_MEMBER.format(roles="'pg_signal_backend'")),
    Danger(name="replication: slots and copies of everything", who="a.rolreplication"),
    Danger(name="rows that row security hides", who="a.rolbypassrls"),
    Danger(
        name="setval on a sequence",
        who="exists (select from pg_catalog.pg_class c where c.relkind = 'S' and c.oid >= 16384 and"
        " (pg_catalog.has_sequence_privilege(a.oid, c.oid, 'update') or pg_catalog.pg_has_role(a.oid, c.relowner, 'member')))",
    ),
    Danger(
        name="large objects",
        who="exists (select from pg_catalog.pg_largeobject_metadata l where"
        " pg_catalog.pg_has_role(a.oid, l.lomowner, 'member') or exists (select from pg_catalog.aclexplode(l.lomacl) e"
        " where e.privilege_type = 'UPDATE' and (e.grantee = 0 or pg_catalog.pg_has_role(a.oid, e.grantee, 'member'))))",
    ),
    Danger(name="VACUUM FULL, CLUSTER, REINDEX", who=f"{_OWNS_RELATION} or {_MAINTAINS}"),
)


def status(conn: Connection) -> tuple[tuple[Line, ...], tuple[Problem, ...]]:
    """A line for each danger, and what `verify` says. It only reads."""
    server = server_of(conn)
    problems = verify(conn)
    version = installed_version(conn)
    works = {
        name for (name,) in conn.execute("select evtname from pg_catalog.pg_event_trigger where evtenabled = 'A'").fetchall()
    }
    if any("dbshield." in problem.what or problem.what.startswith(SWITCHED_OFF) for problem in problems):
        # A function that was changed closes nothing, nor does one that is not called.
        works = set()
    lines = [*_rows(conn, installed=version is not None)]
    lines += [_line(conn, danger, works) for danger in DANGERS]
    if server.major < LOGIN_SINCE:
        lines.append(Line(danger="an agent's login around the proxy", layer=NOTHING, detail="close it in pg_hba.conf"))
    else:
        addresses = version is not None and _names(conn, "select address from dbshield.addresses order by 1")
        closed = addresses and "dbshield_login" in works
        lines.append(
            Line(
                danger="an agent's login around the proxy",
                layer="event trigger" if closed else NOTHING,
                detail=f"from {', '.join(addresses)} alone" if closed and addresses else "name --proxy-address",
            )
        )
    lines.append(Line(danger=OWN_AFFAIRS, layer=NOTHING, detail="no server can refuse them"))
    return tuple(lines), problems


def _rows(conn: Connection, *, installed: bool) -> Iterator[Line]:
    with conn.transaction():
        conn.execute(PINNED)
        names = _names(conn, UNGUARDED) if installed else []
    for danger, layer in (("DELETE and UPDATE beyond the limit", "row guard"), ("TRUNCATE", "truncate guard")):
        if not installed:
            yield Line(danger=danger, layer=NOTHING, detail="the guard is not installed")
        elif names:
            yield Line(danger=danger, layer=NOTHING, detail=f"not guarded: {_few(names)}")
        else:
            yield Line(danger=danger, layer=layer)


def _line(conn: Connection, danger: Danger, works: set[Any]) -> Line:
    if danger.events and works.issuperset(danger.events):
        return Line(danger=danger.name, layer="event trigger")
    able = _names(conn, f"select a.rolname {_AGENT} and ({danger.who}) order by 1")
    if able:
        return Line(danger=danger.name, layer=NOTHING, detail=f"open for {_few(able)}")
    return Line(danger=danger.name, layer=PRIVILEGE)


def _names(conn: Connection, query: str) -> list[str]:
    return [str(name) for (name,) in conn.execute(query.encode()).fetchall()]


def _few(names: list[str], most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
