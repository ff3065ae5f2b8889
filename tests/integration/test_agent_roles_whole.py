"""Roles made, renewed and removed on real servers: wholly or not at all, with a superuser and without."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import psycopg
import pytest
from psycopg import sql
from support import servers
from support.role_servers import (
    DATABASE,
    OURS,
    StoreFails,
    bare_in,
    granted,
    guarded,
    made_on,
    renewed,
    roles_server,
    value,
)
from support.roles import PASSWORD, login, make, role_dsn, spec_of
from support.servers import ACCESS, Server
from support.waiting import until

from dbshield.errors import Refused
from dbshield.guard import roles, roles_remove
from dbshield.guard.roles import RoleSpec
from dbshield.guard.roles_look import mark_of

pytestmark = pytest.mark.one_server


@pytest.fixture(scope="module", params=servers.majors(), ids=lambda major: f"pg{major}")
def own_server(request: pytest.FixtureRequest, worker_id: str) -> Iterator[Server]:
    with roles_server(request.param) as server:
        yield server


@pytest.fixture
def bare(own_server: Server) -> Iterator[Server]:
    with bare_in(own_server):
        yield own_server


@pytest.fixture
def server(bare: Server) -> Server:
    return guarded(bare)


# Nothing is half there


def test_a_role_that_is_there_already_is_left_alone(server: Server) -> None:
    spec = spec_of("claude", "write")
    with server.connect(DATABASE) as admin:
        admin.execute(sql.SQL("create role {} login password 'of somebody'").format(sql.Identifier(spec.role)))
        before = value(admin, "select r::text from pg_authid r where rolname = %s", spec.role)
        with pytest.raises(Refused, match="dbshield did not make it"):
            make(server, spec, DATABASE)
        assert value(admin, "select r::text from pg_authid r where rolname = %s", spec.role) == before
        assert granted(server, spec.role) == set()


@pytest.mark.parametrize("several", [False, True])
def test_a_caller_that_fails_leaves_no_role_behind(server: Server, several: bool) -> None:
    names = [DATABASE]
    if several:
        server.clone(f"{DATABASE}_2")
        names.append(f"{DATABASE}_2")
    spec = spec_of("claude", "write")
    with server.connect(DATABASE) as admin:
        rights = (
            "select array(select (defaclrole, defaclacl)::text from pg_default_acl), array(select relacl::text from pg_class)"
        )
        before = value(admin, rights)
        connections = [server.connect(name) for name in names]
        with pytest.raises(StoreFails), roles.create(connections, spec, PASSWORD):
            raise StoreFails
        for conn in connections:
            conn.close()
        assert admin.execute(OURS).fetchall() == []
        assert value(admin, rights) == before


def test_several_databases_are_opened_as_one(server: Server) -> None:
    server.clone(f"{DATABASE}_2")
    spec = spec_of("claude", "write")
    make(server, spec, DATABASE, f"{DATABASE}_2")
    for name in (DATABASE, f"{DATABASE}_2"):
        with login(server, spec.role, name) as conn:
            conn.execute("update shop.customers set name = 'x' where id = 1")


def test_a_lost_connection_leaves_no_role_behind(server: Server) -> None:
    """The server dies, for this session, between the caller's commit and its own."""
    spec = spec_of("claude", "read")
    conn = server.connect(DATABASE)
    with pytest.raises(psycopg.OperationalError), roles.create([conn], spec, PASSWORD), server.connect() as other:
        other.execute("select pg_terminate_backend(%s, 5000)", [conn.info.backend_pid])
    with server.connect(DATABASE) as admin:
        assert admin.execute(OURS).fetchall() == []


# Passwords


def test_no_password_stands_in_the_servers_log(server: Server) -> None:
    with server.connect(DATABASE) as admin:
        for setting in ("log_statement = 'all'", "log_min_messages = 'debug1'"):
            admin.execute(f"alter database {DATABASE} set {setting}")
    spec, _ = made_on(server, "write")
    renewed(server, spec, "another secret of the proxy alone")
    said = server.cluster.log.read_text(errors="replace")
    assert f'alter role "{spec.role}" login connection limit' in said
    assert PASSWORD not in said
    assert "another secret" not in said


def test_a_renewed_role_has_another_password_and_is_as_it_was_made(server: Server) -> None:
    spec, made = made_on(server, "write")
    expected = granted(server, made.role)
    role = sql.Identifier(made.role)
    with login(server, made.role, DATABASE) as session:
        session.execute(sql.SQL("alter role {} set search_path = 'elsewhere'").format(role))
        session.execute(sql.SQL("alter role {} password 'its own'").format(role))
        with server.connect(DATABASE) as admin:
            admin.execute(sql.SQL("alter role {} createdb createrole bypassrls valid until '2020-01-01'").format(role))
            admin.execute(sql.SQL("revoke select on shop.orders from {}").format(role))
        renewed(server, replace(spec, today="2026-06-01"), "another")
        assert value(session, "select count(*) from shop.orders") == 6000, "a session goes on"
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        login(server, made.role, DATABASE, "its own")
    with login(server, made.role, DATABASE, "another") as session:
        assert value(session, "show search_path") == "public, pg_temp"
    assert granted(server, made.role) == expected
    with server.connect(DATABASE) as admin:
        assert not value(admin, "select rolcreatedb or rolcreaterole or rolbypassrls from pg_roles where rolname = %s", made.role)
        mark = mark_of(admin, made.role)
        assert mark is not None
        assert mark.password_set == "2026-06-01"


def test_a_renewed_role_keeps_its_schemas(server: Server) -> None:
    spec, made = made_on(server, "read", schemas=("archive",))
    expected = granted(server, made.role)
    renewed(server, replace(spec, schemas=()), "another")
    assert granted(server, made.role) == expected


def test_a_failed_renewal_keeps_the_old_password(server: Server) -> None:
    spec, made = made_on(server, "read")
    with server.connect(DATABASE) as conn, pytest.raises(StoreFails), roles.renew([conn], spec, "another"):
        raise StoreFails
    login(server, made.role, DATABASE).close()


@pytest.mark.parametrize("other", [True, False])
def test_a_role_of_somebody_else_is_not_renewed(server: Server, other: bool) -> None:
    spec, made = made_on(server, "read")
    if not other:
        with server.connect() as admin:
            admin.execute(sql.SQL("comment on role {} is 'my own'").format(sql.Identifier(made.role)))
    with pytest.raises(Refused, match="dbshield did not make the role"):
        renewed(server, spec_of("read", "read") if other else spec, "another")
    login(server, made.role, DATABASE).close()


def test_a_role_that_is_gone_is_said(server: Server) -> None:
    with pytest.raises(Refused, match="there is no role"):
        renewed(server, spec_of("nobody", "read"), "another")


# Removal


def removed(server: Server, spec: RoleSpec, *databases: str, heir: str | None = None) -> roles_remove.Removed:
    connections = [server.connect(name) for name in databases or (DATABASE,)]
    try:
        with roles_remove.remove(connections, spec.role, spec.agent_id, heir=heir) as done:
            pass
        return done
    finally:
        for conn in connections:
            conn.close()


@pytest.mark.parametrize("access", ACCESS)
def test_a_removed_role_leaves_nothing(server: Server, access: str) -> None:
    with server.connect(DATABASE) as admin:
        everything = (
            "select array(select relacl::text from pg_class where relnamespace in ('shop'::regnamespace, 'archive'::regnamespace)"
            " order by oid), array(select defaclacl::text from pg_default_acl), array(select role_name from dbshield.limits)"
        )
        admin.execute("grant select on shop.orders to reporting")
        spec, made = made_on(server, access)
        session = login(server, made.role, DATABASE)
        done = removed(server, spec)
        assert (done.dropped, done.sessions) == (True, 1)
        with pytest.raises(psycopg.OperationalError):
            session.execute("select 1")
        session.close()
        assert admin.execute(OURS).fetchall() == []
        row = admin.execute(everything.encode()).fetchone()
        assert row is not None
        assert made.role not in str(row)
        assert row[1:] == ([], [])


def test_a_role_that_owns_something_stays_with_all_that_it_has(server: Server) -> None:
    spec, made = made_on(server, "migrate")
    with login(server, made.role, DATABASE) as conn:
        conn.execute("create table shop.own (id int)")
    with pytest.raises(Refused, match=r"owns table shop.own \(roles\)"):
        removed(server, spec)
    with login(server, made.role, DATABASE) as conn:
        conn.execute("insert into shop.own values (1)")
        conn.execute("alter table shop.own add column more int")
    removed(server, spec, heir="app_owner")
    with server.connect(DATABASE) as admin:
        assert admin.execute(OURS).fetchall() == []
        assert value(admin, "select relowner::regrole::text from pg_class where oid = 'shop.own'::regclass") == "app_owner"
        assert value(admin, "select count(*) from shop.own") == 1


def test_a_prepared_transaction_is_owned_too(server: Server) -> None:
    spec, made = made_on(server, "write")
    with login(server, made.role, DATABASE) as conn:
        conn.execute("begin; update shop.customers set name = 'x' where id = 1; prepare transaction 'left'")
    try:
        with pytest.raises(Refused, match="the prepared transaction left"):
            removed(server, spec)
    finally:
        with server.connect(DATABASE) as admin:
            admin.execute("rollback prepared 'left'")
    assert removed(server, spec).dropped


def test_rights_in_another_database_are_named(server: Server) -> None:
    server.clone(f"{DATABASE}_2")
    spec = spec_of("claude", "read")
    make(server, spec, DATABASE, f"{DATABASE}_2")
    with pytest.raises(Refused, match=f"database {DATABASE}_2"):
        removed(server, spec)
    login(server, spec.role, f"{DATABASE}_2").close()
    assert removed(server, spec, DATABASE, f"{DATABASE}_2").dropped


def test_a_caller_that_fails_keeps_the_role(server: Server) -> None:
    spec, made = made_on(server, "read")
    with (
        server.connect(DATABASE) as conn,
        pytest.raises(StoreFails),
        roles_remove.remove([conn], spec.role, spec.agent_id),
    ):
        raise StoreFails
    with login(server, made.role, DATABASE) as session:
        assert value(session, "select count(*) from shop.orders") == 6000


def test_a_role_that_dbshield_did_not_make_is_not_dropped(server: Server) -> None:
    with server.connect() as admin:
        admin.execute("create role planner login")
        spec = spec_of("claude", "read", name="planner")
        assert removed(server, spec) == roles_remove.Removed(dropped=False)
        assert value(admin, "select 1 from pg_roles where rolname = 'planner'") == 1


# Without a superuser


def plain_administrator(server: Server) -> psycopg.Connection[Any]:
    """A role with CREATEROLE that owns a schema and is a member of nothing but what it has to hand on."""
    with server.connect(DATABASE) as admin:
        admin.execute("create role planner login createrole password 'plain'")
        admin.execute("create role dbshield_agents nologin")
        if server.major >= 16:
            admin.execute("grant dbshield_agents to planner with admin option")
        admin.execute("create schema own authorization planner; set role planner")
        admin.execute("create table own.t (id int); insert into own.t values (1)")
        admin.execute("create function own.risky() returns int language sql volatile as 'select 1'; reset role")
    return psycopg.connect(role_dsn(server, "planner", DATABASE, "plain"), autocommit=True)


def test_a_plain_owner_does_what_it_may_and_is_told_the_rest(bare: Server) -> None:
    spec = spec_of("claude", "write", schemas=("own", "shop"))
    with plain_administrator(bare) as plain:
        with roles.create([plain], spec, PASSWORD) as made:
            pass
        assert made.closed == ("own.risky()",)
        left = {opened.what: opened.why for opened in made.open}
        assert "the setting temp_file_limit = 1024MB" in left
        assert any(what.startswith("select on shop.") for what in left)
        assert any(what.startswith("tables that app_owner makes") for what in left)
        assert "the row limit in roles" in left
        with login(bare, spec.role, DATABASE) as conn:
            conn.execute("update own.t set id = 2")
            assert value(conn, "show lock_timeout") == "10s"
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                conn.execute("select 1 from shop.orders")
        with bare.connect() as admin:
            assert value(admin, "select pg_has_role(%s, 'dbshield_agents', 'member')", spec.role)
        with roles.renew([plain], spec, "another"):
            pass
        # Who has hung up is gone a moment later.
        with bare.connect() as admin:
            sessions = "select count(*) from pg_stat_activity where usename = %s"
            assert until(lambda: value(admin, sessions, spec.role) == 0)
        session = login(bare, spec.role, DATABASE, "another")
        with roles_remove.remove([plain], spec.role, spec.agent_id) as done:
            pass
        assert (done.dropped, done.sessions) == (True, 1)
        with pytest.raises(psycopg.OperationalError):
            session.execute("select 1")
        session.close()


def test_who_may_not_make_an_agent_is_refused(bare: Server) -> None:
    with bare.connect() as admin:
        admin.execute("create role planner login password 'plain'")
    with (
        psycopg.connect(role_dsn(bare, "planner", DATABASE, "plain"), autocommit=True) as plain,
        pytest.raises(Refused, match="may not make a role for an agent"),
        roles.create([plain], spec_of("claude", "read"), PASSWORD),
    ):
        pass
    with bare.connect() as admin:
        assert admin.execute(OURS).fetchall() == []
