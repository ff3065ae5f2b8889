"""Servers on which dbshield makes the roles of agents, and what it has made there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import sql

from dbshield.guard import roles
from dbshield.guard.install import Options, install
from dbshield.guard.roles import Made, RoleSpec
from dbshield.guard.steps import AGENTS
from support.roles import ENVIRONMENT, keep_to_itself, make, spec_of
from support.servers import Server, own_server

Connection = psycopg.Connection[Any]

DATABASE = "roles"
OURS = "select rolname from pg_roles where rolname like 'dbshield\\_test\\_%'"

GRANTED = """
    select 'database', datname::text, privilege_type from pg_database, aclexplode(datacl)
    where grantee = %(role)s::regrole and datname = current_database()
    union all
    select 'schema', nspname::text, privilege_type from pg_namespace, aclexplode(nspacl) where grantee = %(role)s::regrole
    union all
    select case relkind when 'v' then 'view' when 'm' then 'materialized view' when 'S' then 'sequence' else 'table' end,
        oid::regclass::text, privilege_type from pg_class, aclexplode(relacl) where grantee = %(role)s::regrole
    union all
    select 'column', attrelid::regclass || '.' || attname, privilege_type
    from pg_attribute, aclexplode(attacl) where grantee = %(role)s::regrole
    union all
    select 'routine', oid::regprocedure::text, privilege_type from pg_proc, aclexplode(proacl) where grantee = %(role)s::regrole
    union all
    select 'type', oid::regtype::text, privilege_type from pg_type, aclexplode(typacl) where grantee = %(role)s::regrole
    union all
    select 'parameter', parname, privilege_type from pg_parameter_acl, aclexplode(paracl) where grantee = %(role)s::regrole
    union all
    select 'owner of tables', roleid::regrole::text, 'MEMBER' from pg_auth_members
    where member = %(role)s::regrole and roleid <> to_regrole('dbshield_agents')"""
"""Everything that is granted to a role by name, whatever it is on."""


@contextmanager
def roles_server(major: int) -> Iterator[Server]:
    """A server of a module's own, into whose template nobody goes."""
    with own_server(major, f"roles-{major}") as server:
        keep_to_itself(server)
        yield server


@contextmanager
def bare_in(server: Server) -> Iterator[None]:
    """A fresh database without a guard; in the end no role of a test is left."""
    server.clone(DATABASE)
    try:
        yield
    finally:
        for name in (DATABASE, f"{DATABASE}_2"):
            server.drop(name)
        with server.connect() as admin:
            for (role,) in admin.execute(OURS).fetchall():
                admin.execute(sql.SQL("drop role {}").format(sql.Identifier(str(role))))
            for role in ("planner", "other_owner", "dbshield_owner", AGENTS):
                admin.execute(sql.SQL("drop role if exists {}").format(sql.Identifier(role)))


def guarded(server: Server) -> Server:
    """The same with the guard."""
    with server.connect(DATABASE) as admin:
        install(admin, Options(environment=ENVIRONMENT))
    return server


def made_on(server: Server, access: str, agent: str = "", **changed: Any) -> tuple[RoleSpec, Made]:
    spec = spec_of(agent or access, access, **changed)
    return spec, make(server, spec, DATABASE)


def value(conn: psycopg.Connection[Any], query: str, *values: object) -> Any:
    row = conn.execute(query.encode(), values or None).fetchone()
    return None if row is None else row[0]


def granted(server: Server, role: str) -> set[tuple[str, ...]]:
    with server.connect(DATABASE) as admin:
        return {tuple(map(str, row)) for row in admin.execute(GRANTED.encode(), {"role": role}).fetchall()}


class StoreFails(Exception):
    """The caller's own part failed."""


def renewed(server: Server, spec: RoleSpec, password: str) -> Made:
    with server.connect(DATABASE) as conn, roles.renew([conn], spec, password) as made:
        pass
    return made
