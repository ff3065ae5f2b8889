"""Removes the role of an agent from the server: its sessions, its rights everywhere, and then itself.

What the role owns is never dropped with it: it is named, and either somebody else takes it over or nothing is removed.

Source: PostgreSQL manual, "Dropping Roles".
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final
from uuid import UUID

import psycopg
from psycopg import errors, sql

from dbshield.errors import Refused
from dbshield.guard.install import Connection
from dbshield.guard.roles import UNDEFINED_OBJECT, prepare, together
from dbshield.guard.roles_apply import INHERIT_SINCE, allowed, few
from dbshield.guard.roles_look import exists, mark_of

TERMINATE_MS: Final = 5_000
"""How long a session may take to end; it has nothing to do but to roll back."""
DEPENDENT_OBJECTS: Final = "2BP01"
"""dependent_objects_still_exist"""

_OWNED: Final = """
    select coalesce(d.datname::text, 'the cluster'), case
        when s.dbid = (select oid from pg_catalog.pg_database where datname = pg_catalog.current_database())
        then pg_catalog.pg_describe_object(s.classid, s.objid, s.objsubid) end
    from pg_catalog.pg_shdepend s join pg_catalog.pg_roles r on r.oid = s.refobjid
    left join pg_catalog.pg_database d on d.oid = s.dbid
    where s.refclassid = 'pg_catalog.pg_authid'::pg_catalog.regclass and s.deptype = 'o' and r.rolname = %s
        -- Default privileges go with the role's rights.
        and s.classid <> 'pg_catalog.pg_default_acl'::pg_catalog.regclass
    order by 1, 2"""
_TERMINATE: Final = "select pid, pg_terminate_backend(pid, %s) from pg_stat_activity where usename = %s"
_PREPARED: Final = "select database::text, gid from pg_catalog.pg_prepared_xacts where owner = %s order by 1, 2"


@dataclass(frozen=True, slots=True, kw_only=True)
class Removed:
    """What was removed: whether there was a role of dbshield's, and how many of its sessions were ended."""

    dropped: bool
    sessions: int = 0


def is_ours(conn: Connection, role: str, agent_id: UUID) -> bool:
    """Whether dbshield made this role for this agent."""
    mark = mark_of(conn, role)
    return mark is not None and mark.id == str(agent_id)


@contextmanager
def remove(connections: Sequence[Connection], role: str, agent_id: UUID, *, heir: str | None = None) -> Iterator[Removed]:
    """Remove the role; the caller ends the agent in the body. `heir` is a role that takes over what it owns.

    A role that is gone, or that dbshield did not make for this agent, is left as it is, and the body is run all the same.

    Raises:
        Refused: the role owns something and there is no heir, or something elsewhere depends on it. It can still log in then.
    """
    first = connections[0]
    prepare(connections)
    if not is_ours(first, role, agent_id):
        yield Removed(dropped=False)
        return
    if heir is not None and not exists(first, heir):
        raise Refused(f"there is no role {heir}", sqlstate=UNDEFINED_OBJECT, hint="Name who shall own what the agent made.")
    _refuse_owned(connections, role, heir)
    name = sql.Identifier(role)
    first.execute(sql.SQL("alter role {} nologin").format(name))
    try:
        sessions = end_sessions(first, role)
        for conn in reversed(connections[1:]):
            with together([conn]):
                empty(conn, role, heir)
        with together([first]):
            empty(first, role, heir)
            drop(first, role)
            yield Removed(dropped=True, sessions=sessions)
    except BaseException:
        with suppress(psycopg.Error):
            first.execute(sql.SQL("alter role {} login").format(name))
        raise


def _refuse_owned(connections: Sequence[Connection], role: str, heir: str | None) -> None:
    """What the role owns, here and in databases that are none of the environment's, where no heir can take it over from here."""
    here = {conn.info.dbname for conn in connections}
    owned: list[str] = []
    for conn in connections:
        for database, thing in conn.execute(_OWNED.encode(), [role]).fetchall():
            if thing is not None and heir is None:
                owned.append(f"{thing} ({database})")
            elif thing is None and database not in here and conn is connections[0]:
                owned.append(f"something in {database}")
    prepared = connections[0].execute(_PREPARED.encode(), [role]).fetchall()
    owned += [f"the prepared transaction {gid} ({database})" for database, gid in prepared]
    if owned:
        raise Refused(
            f"the role {role} owns {few(list(dict.fromkeys(owned)))}",
            sqlstate=DEPENDENT_OBJECTS,
            hint="Say with --heir ROLE who shall own it; in other databases: reassign owned, rollback prepared.",
        )


@contextmanager
def _member(conn: Connection, role: str) -> Iterator[None]:
    """In the caller's transaction: some of what is done to a role only a member may, without a superuser's rights."""
    name = sql.Identifier(role)
    how = sql.SQL(" with inherit true" if conn.info.server_version // 10_000 >= INHERIT_SINCE else "")
    conn.execute(sql.SQL("grant {} to current_user{}").format(name, how))
    yield
    conn.execute(sql.SQL("revoke {} from current_user").format(name))


def end_sessions(conn: Connection, role: str) -> int:
    """Ends the role's sessions and waits for each; how many there were. Raises Refused where one did not end."""
    try:
        with conn.transaction():
            found = conn.execute(_TERMINATE, [TERMINATE_MS, role]).fetchall()
    except errors.InsufficientPrivilege:
        try:
            with conn.transaction(), _member(conn, role):
                found = conn.execute(_TERMINATE, [TERMINATE_MS, role]).fetchall()
        except errors.InsufficientPrivilege as error:
            why = error.diag.message_primary
            raise Refused(
                f"the sessions of {role} were not ended: {why}", hint="Let a superuser end them, and try again."
            ) from error
    row = conn.execute("select count(*) from pg_stat_activity where usename = %s", [role]).fetchone()
    if row and row[0]:
        raise Refused(f"{row[0]} sessions of {role} have not ended", hint="See what they wait for, and try again.")
    return len(found)


def empty(conn: Connection, role: str, heir: str | None) -> None:
    """Takes every right in this database from the role; what it owns goes to its heir first, and nothing is dropped."""
    name = sql.Identifier(role)
    if heir is not None:
        conn.execute(sql.SQL("reassign owned by {} to {}").format(name, sql.Identifier(heir)))
    _refuse_owned([conn], role, None)
    statement = sql.SQL("drop owned by {}").format(name)
    if allowed(conn, statement) is not None:
        with _member(conn, role):
            conn.execute(statement)
    if conn.execute("select to_regclass('dbshield.limits')").fetchone() != (None,):
        with suppress(errors.InsufficientPrivilege), conn.transaction():
            conn.execute("delete from dbshield.limits where role_name = %s", [role])


def drop(conn: Connection, role: str) -> None:
    try:
        with conn.transaction():
            conn.execute(sql.SQL("drop role {}").format(sql.Identifier(role)))
    except errors.DependentObjectsStillExist as error:
        raise Refused(
            f"something still depends on the role {role}: {error.diag.message_detail or error.diag.message_primary}",
            sqlstate=DEPENDENT_OBJECTS,
            hint=f"In each database that is named: drop owned by {role} (it removes its rights and what it owns).",
        ) from error
