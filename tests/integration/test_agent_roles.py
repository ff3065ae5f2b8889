"""Roles of least privilege, made on real servers: what they may, and what they are like."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product

import psycopg
import pytest
from support import servers
from support.role_servers import (
    DATABASE,
    OURS,
    bare_in,
    granted,
    guarded,
    made_on,
    renewed,
    roles_server,
    value,
)
from support.roles import ENVIRONMENT, LIMITS, PASSWORD, login
from support.servers import ACCESS, Server

from dbshield.errors import ConfigError
from dbshield.guard.doctor import Severity
from dbshield.guard.doctor_look import Patient, examine
from dbshield.guard.roles import role_name
from dbshield.guard.roles_look import mark_of
from dbshield.guard.roles_rights import RIGHTS, On, rights_of
from dbshield.model import AccessLevel, Upstream

pytestmark = pytest.mark.one_server


SCHEMAS = ("archive", "public", "shop")
THINGS = """
    select case relkind when 'v' then 'view' when 'm' then 'materialized view' when 'S' then 'sequence' else 'table' end,
        oid::regclass::text
    from pg_class where relkind in ('r', 'p', 'v', 'm', 'S') and relnamespace::regnamespace::text = any(%s)"""


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


@pytest.mark.parametrize("sin", ["alter role app_owner login", "create role app_login login; grant app_login to app_owner"])
def test_an_owner_that_logs_in_is_left_out_where_an_agent_could_become_it(server: Server, sin: str) -> None:
    """It would give the owner a password of its own, and log in as somebody whom no guard holds."""
    with server.connect(DATABASE) as admin:
        admin.execute(sin.encode())
        try:
            _, made = made_on(server, "migrate")
            why = [left.why for left in made.open if left.what.startswith("membership in")]
            with login(server, made.role, DATABASE) as conn, pytest.raises(psycopg.errors.InsufficientPrivilege):
                conn.execute("set role app_owner")
        finally:
            admin.execute("alter role app_owner nologin; drop role if exists app_login")
    assert [text.startswith("app_owner may log in or become one who may") for text in why] == [True] * (server.major < 16)


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
