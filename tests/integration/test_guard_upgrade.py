"""A guard that an earlier version installed becomes this one, whole or not at all; and a guarded database becomes a copy.

tests/data/guard/v1.sql is what `dbshield guard install --dry-run` printed when version 1 was the newest, on PostgreSQL 18.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest
from support import servers
from support.servers import ACCESS, Server

from dbshield.guard import install as installing
from dbshield.guard.install import Options, install, installed_version, set_limit, uninstall
from dbshield.guard.steps import LOGIN_SINCE, VERSION
from dbshield.guard.verify import verify

V1 = (Path(__file__).parents[1] / "data" / "guard" / "v1.sql").read_text()
OPTIONS = Options(environment="test", addresses=("127.0.0.1", "socket"))
COPY_TIMEOUT = 60.0
EVERYTHING = """
    select 'function ' || concat_ws(' ', p.oid::regprocedure, proowner::regrole, prosecdef, md5(prosrc), proacl::text)
    from pg_proc p where pronamespace = to_regnamespace('dbshield')
    union all select concat_ws(' ', 'trigger', tgrelid::regclass, tgenabled, pg_get_triggerdef(oid))
    from pg_trigger where tgname ~ '^dbshield'
    union all select concat_ws(' ', 'event trigger', evtname, evtenabled, evtfoid::regproc, evttags::text) from pg_event_trigger
    union all select concat_ws(' ', 'table', oid::regclass, relowner::regrole, relacl::text)
    from pg_class where relnamespace = to_regnamespace('dbshield')
    union all select 'limit ' || l::text from dbshield.limits l
    union all select 'installed ' || i::text from dbshield.installation i
    union all select 'protected ' || p::text from dbshield.protected p
    union all select 'address ' || a::text from dbshield.addresses a
    order by 1"""
LEFT = """
    select 'event trigger ' || evtname from pg_event_trigger
    union all select 'trigger ' || tgname from pg_trigger where tgname ~ '^dbshield'
    union all select 'schema dbshield' where to_regnamespace('dbshield') is not null
    union all select 'role ' || rolname from pg_roles where rolname ~ '^dbshield'"""

Connection = psycopg.Connection[Any]


@pytest.fixture(scope="module", params=servers.majors(), ids=lambda major: f"pg{major}")
def old_server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server of its own: the guard's roles belong to the whole cluster."""
    with servers.own_server(request.param, f"upgrade-{request.param}") as server:
        yield server


@pytest.fixture
def admin(old_server: Server) -> Iterator[Connection]:
    """The superuser in a database with version 1 of the guard, which three agents have worked under."""
    old_server.clone("old")
    with old_server.connect("old") as conn:
        conn.execute(first_version(old_server.major).encode())
        for access in ACCESS:
            conn.execute(f"grant dbshield_agents to agent_{access}".encode())
        conn.execute("grant truncate on all tables in schema shop to agent_write")
        set_limit(conn, "agent_write", 6)
        yield conn
    old_server.drop("old")
    with old_server.connect() as conn:
        conn.execute("drop role if exists dbshield_owner, dbshield_agents")


@pytest.fixture
def agent(old_server: Server, admin: Connection) -> Iterator[Connection]:
    with psycopg.connect(old_server.agent_dsn("write", "old"), autocommit=True) as conn:
        yield conn


def first_version(major: int) -> str:
    """The script; without the step for login events where the server has none."""
    login = re.compile(r"^-- 75_login[.]sql\n.*?(?=^-- \w+[.]sql\n)", re.MULTILINE | re.DOTALL)
    without, removed = login.subn("", V1)
    assert removed == 1
    return V1 if major >= LOGIN_SINCE else without


def refuses(conn: Connection, text: str) -> bool:
    try:
        with conn.transaction(force_rollback=True):
            conn.execute(text.encode())
    except psycopg.errors.InsufficientPrivilege as error:
        return (error.diag.message_primary or "").startswith("dbshield: ")
    return False


def is_guarded(conn: Connection, table: str = "shop.order_items") -> bool:
    """Whether six rows pass and a seventh does not, nor TRUNCATE."""
    return (
        not refuses(conn, f"delete from {table} where ctid in (select ctid from {table} limit 6)")
        and refuses(conn, f"delete from {table} where ctid in (select ctid from {table} limit 7)")
        and refuses(conn, f"truncate {table}")
    )


def test_a_guard_of_the_first_version_becomes_this_one(old_server: Server, admin: Connection, agent: Connection) -> None:
    assert installed_version(admin) == 1
    assert is_guarded(agent)
    problems = [problem.what for problem in verify(admin)]
    assert f"version 1 is installed, {VERSION} is shipped" in problems
    assert "the table shop.orders is not guarded, or its triggers were changed or disabled" in problems
    done = install(admin, OPTIONS)
    assert (done.previous, done.guarded, done.open) == (1, 10, ())
    assert verify(admin) == ()
    # The agent's own session is held all the while, and by the limit that it had.
    assert is_guarded(agent)
    assert admin.execute("select * from dbshield.limits").fetchall() == [("agent_write", 6)]
    with psycopg.connect(old_server.agent_dsn("migrate", "old"), autocommit=True) as migrator:
        assert refuses(migrator, "drop table shop.order_items")
        migrator.execute("create table shop.made_later as select generate_series(1, 200) as id")
        assert refuses(migrator, "delete from shop.made_later")
    assert verify(admin) == ()
    again = install(admin, OPTIONS)
    assert (again.previous, again.guarded) == (VERSION, 0)


def test_what_was_upgraded_leaves_nothing_when_it_is_removed(admin: Connection) -> None:
    install(admin, OPTIONS)
    assert uninstall(admin) == ()
    assert admin.execute(LEFT.encode()).fetchall() == []


def test_the_first_version_itself_can_be_removed(admin: Connection) -> None:
    assert uninstall(admin) == ()
    assert admin.execute(LEFT.encode()).fetchall() == []


def test_an_upgrade_that_fails_leaves_the_guard_that_was_there(
    old_server: Server, admin: Connection, agent: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody holds a table, so that the last thing an upgrade does, the triggers, cannot be done in time."""
    monkeypatch.setattr(installing, "LOCK_TIMEOUT", "100ms")
    before = admin.execute(EVERYTHING.encode()).fetchall()
    with old_server.connect("old") as other, other.transaction():
        other.execute("lock table shop.settings in row exclusive mode")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            install(admin, OPTIONS)
    assert admin.execute(EVERYTHING.encode()).fetchall() == before
    assert installed_version(admin) == 1
    assert is_guarded(agent)
    # And one that fails in the middle, at a function that is not as it was.
    admin.execute("drop function dbshield.unguarded(oid)")
    admin.execute("create function dbshield.unguarded(this oid default null) returns text language sql as 'select null'")
    before = admin.execute(EVERYTHING.encode()).fetchall()
    with pytest.raises(psycopg.errors.InvalidFunctionDefinition):
        install(admin, OPTIONS)
    assert admin.execute(EVERYTHING.encode()).fetchall() == before
    assert is_guarded(agent)


@pytest.fixture
def other(old_server: Server) -> Iterator[Server]:
    """Another cluster of the same version."""
    with servers.own_server(old_server.major, f"copied-{old_server.major}") as server:
        yield server


def test_a_copy_in_another_cluster_is_guarded(old_server: Server, admin: Connection, other: Server, tmp_path: Path) -> None:
    """There dbshield_agents has another number, by which version 1 knew it."""
    install(admin, OPTIONS)
    tools = old_server.cluster.binaries
    dump = tmp_path / "copied.dump"
    run = partial(subprocess.run, check=True, timeout=COPY_TIMEOUT, capture_output=True)
    run([tools.program("pg_dump"), "--format=custom", f"--file={dump}", old_server.dsn("old")])
    with other.connect() as conn:
        for name in ("spare", "dbshield_owner", "dbshield_agents"):
            conn.execute(f"create role {name} nologin".encode())
        conn.execute("grant dbshield_agents to agent_write")
        conn.execute("create database copied")
    run([tools.program("pg_restore"), "--exit-on-error", f"--dbname={other.dsn('copied')}", dump])
    numbers = "select 'dbshield_agents'::regrole::oid"
    with other.connect("copied") as conn, psycopg.connect(other.agent_dsn("write", "copied"), autocommit=True) as agent:
        assert conn.execute(numbers).fetchone() != admin.execute(numbers).fetchone()
        assert is_guarded(agent)
        # What nobody may mistake it for is said.
        assert [problem.what for problem in verify(conn) if "another cluster" not in problem.what] == []
        assert "another cluster" in str(verify(conn))
        install(conn, OPTIONS)
        assert verify(conn) == ()


def test_a_copy_where_nobody_is_an_agent_stops_nobody(old_server: Server, admin: Connection) -> None:
    """As on a developer's machine: restored without owners and roles, where no role dbshield_agents is."""
    install(admin, OPTIONS)
    admin.execute("drop owned by dbshield_agents")
    for access in ACCESS:
        admin.execute(f"revoke dbshield_agents from agent_{access}".encode())
    admin.execute("drop role dbshield_agents")
    with psycopg.connect(old_server.agent_dsn("write", "old"), autocommit=True) as developer:
        assert developer.execute("delete from shop.order_items where order_id <= 100").rowcount == 200
    install(admin, OPTIONS)
    assert verify(admin) == ()
