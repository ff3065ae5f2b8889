"""The role of an emergency on the protected server: made for one person and a few minutes, with the rights of a named role.

Laws:
- The role's password ends with the emergency (VALID UNTIL), which ends no session: `remove` does.
- Whoever logs in acts as the named role at once, so what is made belongs to that role and stays when this one goes.
- Removing begins with what matters most: nobody logs in any more, then the sessions end, then the role goes. Each of these stays
  done where the next one fails.

Source: PostgreSQL manual, CREATE ROLE (VALID UNTIL), "Dropping Roles".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from psycopg import sql

from dbshield.errors import Refused
from dbshield.guard.install import Connection
from dbshield.guard.roles import INVALID_AUTHORIZATION, UNDEFINED_OBJECT, prepare, together
from dbshield.guard.roles_apply import allowed
from dbshield.guard.roles_look import exists
from dbshield.guard.roles_remove import drop, empty, end_sessions
from dbshield.guard.steps import AGENTS

CONNECTIONS: Final = 10
"""That the role may hold at once: a terminal or two, a dump with some jobs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EmergencyRole:
    """`name` is made, with the rights of `acts_as`. `comment` says on the server itself whose it is."""

    name: str
    acts_as: str
    until: datetime
    comment: str


def make(conn: Connection, spec: EmergencyRole, password: str) -> None:
    """Makes the role, or nothing. `conn` is the administrator's, in autocommit mode.

    Raises Refused where the named role is not there, would be held as an agent, or the administrator may not.
    """
    prepare([conn])
    if not exists(conn, spec.acts_as):
        raise Refused(
            f"there is no role {spec.acts_as} on the server",
            sqlstate=UNDEFINED_OBJECT,
            hint="Name another as emergency_role of the environment.",
        )
    held = conn.execute(
        "select coalesce(pg_has_role(%s, to_regrole(%s), 'member'), false) and not rolsuper from pg_roles where rolname = %s",
        [spec.acts_as, AGENTS, spec.acts_as],
    ).fetchone()
    if held is not None and held[0]:
        raise Refused(
            f"{spec.acts_as} is a member of {AGENTS}, so the guard would hold it as an agent",
            sqlstate=INVALID_AUTHORIZATION,
            hint="Name another as emergency_role of the environment.",
        )
    name, acts_as = sql.Identifier(spec.name), sql.Identifier(spec.acts_as)
    # The server gets the verifier alone: a password in clear would stand in its log.
    verifier = conn.pgconn.encrypt_password(password.encode(), spec.name.encode(), b"scram-sha-256").decode()
    statements = (
        sql.SQL("create role {} login connection limit {} password {} valid until {}").format(
            name, sql.Literal(CONNECTIONS), sql.Literal(verifier), sql.Literal(spec.until.isoformat())
        ),
        sql.SQL("comment on role {} is {}").format(name, sql.Literal(spec.comment)),
        sql.SQL("grant {} to {}").format(acts_as, name),
        sql.SQL("alter role {} set role to {}").format(name, acts_as),
    )
    with together([conn]):
        for statement in statements:
            why = allowed(conn, statement)
            if why is not None:
                raise Refused(
                    f"{conn.info.user} may not make a role with the rights of {spec.acts_as}: {why}",
                    sqlstate=INVALID_AUTHORIZATION,
                    hint="The administrator has to be a superuser, or to have CREATEROLE and ADMIN on that role.",
                )


def remove(connections: Sequence[Connection], name: str, acts_as: str) -> int:
    """Ends the role and its sessions; how many there were. A role that is gone already is fine. What it owns goes to `acts_as`.

    Raises Refused or psycopg.Error where something could not be done; what came before stays done.
    """
    first = connections[0]
    prepare(connections)
    if not exists(first, name):
        return 0
    first.execute(sql.SQL("alter role {} nologin").format(sql.Identifier(name)))
    sessions = end_sessions(first, name)
    heir = acts_as if exists(first, acts_as) else None
    for conn in reversed(connections):
        with together([conn]):
            empty(conn, name, heir)
    drop(first, name)
    return sessions
