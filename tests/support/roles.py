"""A server whose agents' roles dbshield makes, and what such a role is asked for."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from dbshield.guard import roles
from dbshield.guard.roles import Limits, Made, RoleSpec
from dbshield.model import AccessLevel
from support.servers import TEMPLATE, Server

LIMITS = Limits(connections=20, statement=300, lock=10, idle_in_transaction=300, temp_file_mb=1024)
PASSWORD = "a password that the proxy alone would know"
ENVIRONMENT = "test"


def keep_to_itself(server: Server) -> None:
    """On a server of a test's own: nobody but superusers enters the template, whose owner is the same as everywhere."""
    with server.connect() as admin:
        admin.execute(sql.SQL("revoke connect on database {} from public").format(sql.Identifier(TEMPLATE)))


def spec_of(agent: str, access: str, **changed: Any) -> RoleSpec:
    """What is wanted of the role of an agent."""
    values: dict[str, Any] = {
        "agent_id": uuid4(),
        "agent": agent,
        "environment": ENVIRONMENT,
        "access": AccessLevel(access),
        "limits": LIMITS,
        "today": "2026-05-01",
    }
    return RoleSpec(**(values | changed))


def make(server: Server, spec: RoleSpec, *databases: str, password: str = PASSWORD) -> Made:
    """Make a role as the superuser."""
    connections = [server.connect(database) for database in databases]
    try:
        with roles.create(connections, spec, password) as made:
            pass
        return made
    finally:
        for conn in connections:
            conn.close()


def login(server: Server, role: str, database: str, password: str = PASSWORD) -> psycopg.Connection[tuple[object, ...]]:
    """As the role, straight to the server."""
    return psycopg.connect(role_dsn(server, role, database, password), autocommit=True)


def role_dsn(server: Server, role: str, database: str, password: str = PASSWORD) -> str:
    return make_conninfo(host=server.cluster.host, port=server.cluster.port, user=role, password=password, dbname=database)
