"""`guard status`: whatever no event trigger sees has a line that says which layer closes it, and who opens it is named."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from support import servers
from support.servers import Server

from dbshield.guard.install import Options, install
from dbshield.guard.status import NOTHING, OWN_AFFAIRS, PRIVILEGE, Line, status

Connection = psycopg.Connection[Any]

UNSEEN = {
    "DELETE and UPDATE beyond the limit": "row guard",
    "TRUNCATE": "truncate guard",
    "event triggers themselves": PRIVILEGE,
    "REASSIGN OWNED": PRIVILEGE,
    "roles: CREATE, ALTER, DROP, GRANT": PRIVILEGE,
    "databases: CREATE": PRIVILEGE,
    "databases: DROP and ALTER": PRIVILEGE,
    "tablespaces: DROP and ALTER": PRIVILEGE,
    "ALTER SYSTEM and settings of a superuser": PRIVILEGE,
    "files and programs of the server": PRIVILEGE,
    "ending other roles' sessions": PRIVILEGE,
    "replication: slots and copies of everything": PRIVILEGE,
    "rows that row security hides": PRIVILEGE,
    "setval on a sequence": PRIVILEGE,
    "large objects": PRIVILEGE,
    "VACUUM FULL, CLUSTER, REINDEX": PRIVILEGE,
    OWN_AFFAIRS: NOTHING,
}
"""What event triggers never see (PostgreSQL manual, "Event Trigger Firing Matrix"), and what closes it for an agent that owns
nothing."""

OPENED = {
    "alter role agent_write createrole": "roles: CREATE, ALTER, DROP, GRANT",
    "alter role agent_write createdb": "databases: CREATE",
    "alter database looked owner to agent_write": "databases: DROP and ALTER",
    "alter role agent_write replication": "replication: slots and copies of everything",
    "alter role agent_write bypassrls": "rows that row security hides",
    "grant alter system on parameter work_mem to agent_write": "ALTER SYSTEM and settings of a superuser",
    "grant set on parameter session_replication_role to app_owner; grant app_owner to agent_write": (
        "ALTER SYSTEM and settings of a superuser"
    ),
    "grant pg_execute_server_program to agent_write": "files and programs of the server",
    "grant pg_signal_backend to agent_write": "ending other roles' sessions",
    "grant update on all sequences in schema shop to agent_write": "setval on a sequence",
    "select lo_create(4242); grant update on large object 4242 to public": "large objects",
    "alter table shop.settings owner to agent_write": "VACUUM FULL, CLUSTER, REINDEX",
    "create role rds_superuser; grant rds_superuser to agent_write": "event triggers themselves",
}
SINCE_17 = {
    "grant maintain on shop.orders to agent_write": "VACUUM FULL, CLUSTER, REINDEX",
    "grant pg_maintain to agent_write": "VACUUM FULL, CLUSTER, REINDEX",
}


@pytest.fixture(scope="module", params=servers.majors(), ids=lambda major: f"pg{major}")
def status_server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server of its own: the guard's roles belong to the whole cluster."""
    with servers.own_server(request.param, f"status-{request.param}") as server:
        server.clone("looked")
        with server.connect("looked") as conn:
            install(conn, Options(environment="test"))
            # The seed lets everybody write a large object; here the agents own nothing and may do little.
            conn.execute("revoke update on all sequences in schema shop from agent_write")
            conn.execute(
                "do $$ declare l oid; begin for l in select oid from pg_largeobject_metadata loop"
                " execute format('revoke all on large object %s from public, agent_write', l); end loop; end $$"
            )
            conn.execute("grant dbshield_agents to agent_read, agent_write")
        yield server


@pytest.fixture
def admin(status_server: Server) -> Iterator[Connection]:
    """What one test does here is taken back: roles and their rights are as much in a transaction as anything else."""
    with status_server.connect("looked") as conn, conn.transaction(force_rollback=True):
        yield conn


def lines(conn: Connection) -> dict[str, Line]:
    return {line.danger: line for line in status(conn)[0]}


def test_everything_that_no_event_trigger_sees_has_a_line(admin: Connection) -> None:
    found = lines(admin)
    assert {danger: found[danger].layer for danger in UNSEEN} == UNSEEN
    rest = {line.layer for danger, line in found.items() if danger not in UNSEEN and "login" not in danger}
    assert rest == {"event trigger"}


@pytest.mark.parametrize(("text", "danger"), [*OPENED.items(), *SINCE_17.items()])
def test_who_opens_it_is_named(admin: Connection, text: str, danger: str) -> None:
    if text in SINCE_17 and admin.info.server_version < 170_000:
        with pytest.raises(psycopg.Error), admin.transaction():
            admin.execute(text.encode())
        return
    assert lines(admin)[danger].layer == PRIVILEGE
    admin.execute(text.encode())
    line = lines(admin)[danger]
    assert line.layer == NOTHING
    assert "agent_write" in line.detail


def test_without_its_event_triggers_only_rights_are_left(admin: Connection) -> None:
    dropping = "DROP of anything, with or without CASCADE"
    admin.execute("drop event trigger dbshield_dropped")
    assert lines(admin)[dropping].layer == PRIVILEGE
    admin.execute("create table shop.own (id int); alter table shop.own owner to agent_write")
    assert lines(admin)[dropping] == Line(danger=dropping, layer=NOTHING, detail="open for agent_write")


def test_event_triggers_that_are_switched_off_close_nothing(admin: Connection) -> None:
    if admin.info.server_version < 170_000:
        assert lines(admin)["rewriting a table"].layer == "event trigger"
        return
    admin.execute("alter role agent_write in database looked set event_triggers = off")
    found, problems = status(admin)
    assert "event trigger" not in {line.layer for line in found}
    assert "agent_write in looked" in problems[0].what
