"""Roles of least privilege, made on real servers: what they may, what they are like, and that nothing is half there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from typing import Any

import psycopg
import pytest
from psycopg import sql
from support import servers
from support.roles import ENVIRONMENT, LIMITS, PASSWORD, keep_to_itself, login, make, role_dsn, spec_of
from support.servers import ACCESS, Server

from dbshield.errors import ConfigError, Refused
from dbshield.guard import roles, roles_remove
from dbshield.guard.doctor import Severity
from dbshield.guard.doctor_look import Patient, examine
from dbshield.guard.install import Options, install
from dbshield.guard.roles import Made, RoleSpec, role_name
from dbshield.guard.roles_look import mark_of
from dbshield.guard.roles_rights import RIGHTS, On, rights_of
from dbshield.guard.steps import AGENTS
from dbshield.model import AccessLevel, Upstream

pytestmark = pytest.mark.one_server

Connection = psycopg.Connection[Any]

DATABASE = "roles"
SCHEMAS = ("archive", "public", "shop")
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
THINGS = """
    select case relkind when 'v' then 'view' when 'm' then 'materialized view' when 'S' then 'sequence' else 'table' end,
        oid::regclass::text
    from pg_class where relkind in ('r', 'p', 'v', 'm', 'S') and relnamespace::regnamespace::text = any(%s)"""


@pytest.fixture(scope="module", params=servers.majors(), ids=lambda major: f"pg{major}")
def own_server(request: pytest.FixtureRequest, worker_id: str) -> Iterator[Server]:
    """A server of this module's own: roles and the guard's group belong to the whole cluster."""
    server = servers.start(request.param, f"roles-{worker_id}-{request.param}")
    keep_to_itself(server)
    yield server
    server.cluster.stop("immediate")


@pytest.fixture
def bare(own_server: Server) -> Iterator[Server]:
    """A fresh database without a guard; in the end no role of a test is left."""
    own_server.clone(DATABASE)
    yield own_server
    for name in (DATABASE, f"{DATABASE}_2"):
        own_server.drop(name)
    with own_server.connect() as admin:
        for (role,) in admin.execute(OURS).fetchall():
            admin.execute(sql.SQL("drop role {}").format(sql.Identifier(str(role))))
        for role in ("planner", "other_owner", "dbshield_owner", AGENTS):
            admin.execute(sql.SQL("drop role if exists {}").format(sql.Identifier(role)))


@pytest.fixture
def server(bare: Server) -> Server:
    """The same with the guard."""
    with bare.connect(DATABASE) as admin:
        install(admin, Options(environment=ENVIRONMENT))
    return bare


def made_on(server: Server, access: str, agent: str = "", **changed: Any) -> tuple[RoleSpec, Made]:
    spec = spec_of(agent or access, access, **changed)
    return spec, make(server, spec, DATABASE)


def value(conn: psycopg.Connection[Any], query: str, *values: object) -> Any:
    row = conn.execute(query.encode(), values or None).fetchone()
    return None if row is None else row[0]


def granted(server: Server, role: str) -> set[tuple[str, ...]]:
    with server.connect(DATABASE) as admin:
        return {tuple(map(str, row)) for row in admin.execute(GRANTED.encode(), {"role": role}).fetchall()}


def as_documented(server: Server, access: str) -> set[tuple[str, ...]]:
    """What the table of rights says, spelled out for everything that is in the database."""
    with server.connect(DATABASE) as admin:
        things = [tuple(map(str, row)) for row in admin.execute(THINGS.encode(), [list(SCHEMAS)]).fetchall()]
    things += [("database", DATABASE), *(("schema", schema) for schema in SCHEMAS), ("owner of tables", "app_owner")]
    return {
        (kind, name, right.privilege)
        for right, (kind, name) in product(rights_of(AccessLevel(access), guarded=True), things)
        if kind in right.on
    }


@pytest.mark.parametrize("access", ACCESS)
def test_what_is_granted_is_the_table_and_nothing_else(server: Server, access: str) -> None:
    _, made = made_on(server, access)
    expected = as_documented(server, access)
    assert len(expected) > 15
    assert granted(server, made.role) == expected


def test_every_kind_of_thing_has_a_right_and_every_right_a_reason() -> None:
    assert {on for right in RIGHTS for on in right.on} == set(On)
    assert all(right.why for right in RIGHTS)
    assert {right.privilege for right in RIGHTS}.isdisjoint({"TRUNCATE", "TRIGGER", "REFERENCES", "MAINTAIN", "EXECUTE"})


@pytest.mark.parametrize("access", ACCESS)
def test_a_role_is_an_agent_and_has_no_attribute(server: Server, access: str) -> None:
    spec, made = made_on(server, access)
    with server.connect(DATABASE) as admin:
        row = admin.execute(
            "select rolcanlogin, rolsuper or rolcreatedb or rolcreaterole or rolreplication or rolbypassrls, rolconnlimit,"
            " rolinherit,"
            " pg_has_role(oid, 'dbshield_agents', 'member') from pg_roles where rolname = %s",
            [made.role],
        ).fetchone()
        assert row == (True, False, LIMITS.connections, access == "migrate" and server.major < 16, True)
        assert mark_of(admin, made.role) == spec.mark
        stored = value(admin, "select rolpassword from pg_authid where rolname = %s", made.role)
        assert stored.startswith("SCRAM-SHA-256$")
        limit = value(admin, "select max_rows from dbshield.limits where role_name = %s", made.role)
        assert limit == (0 if access == "read" else None)


@pytest.mark.parametrize("access", ACCESS)
def test_a_session_begins_with_the_pinned_settings(server: Server, access: str) -> None:
    _, made = made_on(server, access)
    with login(server, made.role, DATABASE) as conn:
        found = {
            name: value(conn, f"show {name}")
            for name in (
                *("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout", "temp_file_limit", "search_path"),
                *("standard_conforming_strings", "row_security", "default_transaction_read_only", "client_encoding"),
            )
        }
        assert found == {
            "statement_timeout": "5min",
            "lock_timeout": "10s",
            "idle_in_transaction_session_timeout": "5min",
            "temp_file_limit": "1GB",
            "search_path": "public, pg_temp",
            "standard_conforming_strings": "on",
            "row_security": "on",
            "default_transaction_read_only": "on" if access == "read" else "off",
            "client_encoding": "UTF8",
        }
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            conn.execute("set temp_file_limit = -1")


def test_a_temporary_table_hides_no_real_one(server: Server) -> None:
    _, made = made_on(server, "write", schemas=("shop",))
    with login(server, made.role, DATABASE) as conn:
        assert value(conn, "show search_path") == "shop, pg_temp"
        conn.execute("create temporary table settings (key text)")
        assert value(conn, "select count(*) from settings") == 3, "the real one is found first"


def test_the_search_path_of_the_database_is_kept(server: Server) -> None:
    with server.connect(DATABASE) as admin:
        admin.execute(f'alter database {DATABASE} set search_path = "$user", shop, "odd, name", PUBLIC')
    _, made = made_on(server, "read")
    with login(server, made.role, DATABASE) as conn:
        assert value(conn, "show search_path") == 'shop, "odd, name", public, pg_temp'


def test_only_the_schemas_named_are_opened(server: Server) -> None:
    _, made = made_on(server, "write", schemas=("archive",))
    with login(server, made.role, DATABASE) as conn:
        assert value(conn, "select count(*) from archive.orders_2025") == 1500
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            conn.execute("select 1 from shop.orders")
    with pytest.raises(ConfigError, match='no schema "nowhere"'):
        made_on(server, "read", "second", schemas=("archive", "nowhere"))
    with server.connect(DATABASE) as admin:
        assert [role for (role,) in admin.execute(OURS).fetchall()] == [made.role]


def test_the_connection_limit_holds(server: Server) -> None:
    _, made = made_on(server, "read", limits=replace(LIMITS, connections=1))
    with login(server, made.role, DATABASE), pytest.raises(psycopg.OperationalError, match="too many connections for role"):
        login(server, made.role, DATABASE)


def test_the_guards_row_limit_is_the_environments(server: Server) -> None:
    _, made = made_on(server, "write", limits=replace(LIMITS, max_rows=7))
    with login(server, made.role, DATABASE) as conn:
        conn.execute("delete from shop.order_items where order_id between 1 and 3")
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="change 8 rows in one transaction, its limit is 7"):
            conn.execute("delete from shop.order_items where order_id between 11 and 14")


# Tables to come


NEW_TABLE = """create table shop.{name} (id int); insert into shop.{name} select generate_series(1, 9);
    create sequence shop.{name}_number; create view shop.{name}_seen as select * from shop.{name}"""


def test_tables_that_come_later_are_open_by_level(server: Server) -> None:
    made = {access: made_on(server, access)[1] for access in ACCESS}
    with server.connect(DATABASE) as admin:
        admin.execute("set role app_owner")
        admin.execute(NEW_TABLE.format(name="later").encode())
    for access in ACCESS:
        with login(server, made[access].role, DATABASE) as conn:
            assert value(conn, "select count(*) from shop.later") == value(conn, "select count(*) from shop.later_seen") == 9
            for statement in ("delete from shop.later where id = 1", "select nextval('shop.later_number')"):
                with conn.transaction(force_rollback=True):
                    if access == "read":
                        with pytest.raises(psycopg.Error), conn.transaction():
                            conn.execute("set transaction read write")
                            conn.execute(statement.encode())
                    else:
                        conn.execute(statement.encode())
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                conn.execute("begin read write; truncate shop.later")
            conn.execute("rollback")


def test_what_an_agent_adds_is_the_applications_as_well(server: Server) -> None:
    made = {name: made_on(server, access, name)[1] for name, access in (("w", "write"), ("m", "migrate"), ("m2", "migrate"))}
    with login(server, made["m"].role, DATABASE) as conn:
        conn.execute(NEW_TABLE.format(name="added").encode())
        conn.execute("create schema reports; create table reports.daily (day date)")
    with server.connect(DATABASE) as admin:
        admin.execute("set role app_owner")
        admin.execute("insert into shop.added values (10); select nextval('shop.added_number'); delete from shop.added")
        admin.execute("insert into reports.daily values ('2026-01-01')")
    for name in ("w", "m2"):
        with login(server, made[name].role, DATABASE) as conn:
            conn.execute("insert into shop.added values (11); select nextval('shop.added_number')")
            assert value(conn, "select count(*) from shop.added_seen") > 0


# What everybody may


def test_execute_is_taken_from_everybody_where_nobody_loses_it(server: Server) -> None:
    with server.connect(DATABASE) as admin:
        admin.execute("revoke usage on schema shop from reporting, agent_read, agent_write")
        admin.execute("create function shop.next_code() returns int language sql volatile as 'select 1'")
        admin.execute("create table shop.coded (code int default shop.next_code())")
    _, made = made_on(server, "write")
    assert set(made.closed) == {"shop.archive_orders()", "shop.purge_cancelled()", "shop.wipe_customers()"}
    assert [left.what for left in made.open] == ["taking EXECUTE on shop.next_code() from everybody"]
    with login(server, made.role, DATABASE) as conn:
        assert value(conn, "select shop.order_count(5)") == 3, "what only reads stays everybody's"
        for text in ("select shop.wipe_customers()", "select shop.purge_cancelled()", "call shop.archive_orders()"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege, match="permission denied"):
                conn.execute(text.encode())
        conn.execute("update shop.customers set name = 'x' where id = 1"), "a trigger's function is not asked for"
    with server.connect(DATABASE) as admin:
        admin.execute("set role app_owner")
        admin.execute("select shop.purge_cancelled()")


def test_execute_that_somebody_may_use_is_reported_with_the_commands(server: Server) -> None:
    _, made = made_on(server, "read")
    assert made.closed == ()
    left = {left.what: left for left in made.open}
    wipe = left["taking EXECUTE on shop.wipe_customers() from everybody"]
    assert "reporting" in wipe.why
    assert "revoke execute on routine shop.wipe_customers() from public" in wipe.leaves
    commands = wipe.leaves.partition(": ")[2]
    with server.connect(DATABASE) as admin:
        admin.execute(commands.encode())
        assert value(admin, "select has_function_privilege('reporting', 'shop.wipe_customers()', 'execute')")
        assert not value(admin, "select has_function_privilege(%s, 'shop.wipe_customers()', 'execute')", made.role)
    assert "keeping temporary on the database roles from the agent" in left


# Migrations need the guard


def test_without_a_guard_nobody_migrates(bare: Server) -> None:
    _, made = made_on(bare, "migrate")
    (why,) = [left.why for left in made.open if left.what.startswith("CREATE")]
    assert "the guard is not installed in roles" in why
    assert {left.what for left in made.open} >= {"the row limit in roles"}
    kinds = {(kind, privilege) for kind, _, privilege in granted(bare, made.role)}
    assert not kinds & {("schema", "CREATE"), ("database", "CREATE"), ("owner of tables", "MEMBER")}
    assert ("table", "DELETE") in kinds


def test_a_tampered_guard_is_none(server: Server) -> None:
    with server.connect(DATABASE) as admin:
        admin.execute("alter event trigger dbshield_dropped disable")
    _, made = made_on(server, "migrate")
    (why,) = [left.why for left in made.open if left.what.startswith("CREATE")]
    assert "dbshield_dropped is disabled" in why
    assert ("owner of tables", "app_owner", "MEMBER") not in granted(server, made.role)


OWNERS = {
    "a superuser": ("alter table shop.settings owner to postgres", "postgres is a superuser"),
    "the database's": (f"alter database {DATABASE} owner to app_owner", f"app_owner owns the database {DATABASE}"),
    "of files": ("grant pg_write_server_files to app_owner", "app_owner is a member of pg_write_server_files"),
    "elsewhere": ("grant connect on database seeded_tmpl to public", "app_owner owns things in seeded_tmpl too"),
}


@pytest.mark.parametrize("case", OWNERS)
def test_an_owner_that_has_more_than_its_tables_is_left_out(server: Server, case: str) -> None:
    given, said = OWNERS[case]
    with server.connect(DATABASE) as admin:
        admin.execute(given.encode())
        try:
            _, made = made_on(server, "migrate")
            why = [left.why for left in made.open if left.what.startswith("membership in")]
            assert len(why) == 1
            assert said in why[0]
            members = [name for kind, name, _ in granted(server, made.role) if kind == "owner of tables"]
            assert members == (["app_owner"] if case == "a superuser" else [])
        finally:
            admin.execute("revoke pg_write_server_files from app_owner; revoke connect on database seeded_tmpl from public")


def test_a_migrating_agent_never_becomes_the_owner(server: Server) -> None:
    """From 16 on the membership has no SET; before it the guard stops what SET ROLE would do."""
    _, made = made_on(server, "migrate")
    with login(server, made.role, DATABASE) as conn:
        if server.major >= 16:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                conn.execute("set role app_owner")
        else:
            conn.execute("set role app_owner")
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="dbshield"):
            conn.execute("drop table shop.settings")


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


class StoreFails(Exception):
    """The caller's own part failed."""


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


def renewed(server: Server, spec: RoleSpec, password: str) -> Made:
    with server.connect(DATABASE) as conn, roles.renew([conn], spec, password) as made:
        pass
    return made


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
        login(bare, spec.role, DATABASE, "another").close()
        with roles_remove.remove([plain], spec.role, spec.agent_id) as done:
            pass
        assert done.dropped


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


# The doctor


@pytest.mark.parametrize("access", ACCESS)
def test_the_doctor_finds_nothing_wrong_with_it(server: Server, access: str) -> None:
    with server.connect(DATABASE) as admin:
        admin.execute("revoke usage on schema shop from reporting, agent_read, agent_write")
        admin.execute(f"revoke temporary on database {DATABASE} from public")
    spec, made = made_on(server, access)
    assert made.open == ()
    patient = Patient(
        environment=ENVIRONMENT,
        server=Upstream(host=server.cluster.host, port=server.cluster.port, user="proxy_itself"),
        databases=(DATABASE,),
        dsn=server.dsn(DATABASE),
        logins=((made.role, AccessLevel(access)),),
    )
    found = {finding.check: finding for finding in examine([patient]).findings if made.role in "".join(finding.subjects)}
    # Who migrates is a member of the owner, and the guard is what is left: this is what the level costs, and it is said.
    expected = {"agents.own-objects", "agents.create-in-database"} if access == "migrate" else set[str]()
    assert set(found) - {"access.around-the-proxy", "access.trust", "access.no-tls"} == expected | {"agents.old-passwords"}, {
        name: finding.subjects for name, finding in found.items()
    }
    assert all(finding.severity is not Severity.CRITICAL for name, finding in found.items() if name in expected)
    renewed(server, replace(spec, today="9999-01-01"), PASSWORD)
    again = {finding.check for finding in examine([patient]).findings if made.role in "".join(finding.subjects)}
    assert "agents.old-passwords" not in again


def test_the_name_of_a_role_is_its_agents_alone() -> None:
    assert role_name("staging", "claude") == "dbshield_staging_claude"
    long = [role_name("e" * 31, "a" * 30 + last) for last in "xy"]
    assert len(set(long)) == 2
    assert all(len(name) == 63 for name in long)
