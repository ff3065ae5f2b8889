"""The guard is installed, verified and removed on real servers; whatever is tampered with is found."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from psycopg import sql
from support import servers
from support.servers import ACCESS, Server
from support.waiting import until

from dbshield.errors import Refused
from dbshield.guard.install import Options, dry_run, install, set_limit, uninstall
from dbshield.guard.steps import VERSION
from dbshield.guard.verify import AGAIN, verify
from dbshield.policy.functions import CATALOGUE_QUERY, FunctionCatalogue

Connection = psycopg.Connection[Any]

MEMBERS = "dbshield_agents"
LEFT = """select 'event trigger ' || evtname from pg_event_trigger
    union all select 'trigger ' || tgname from pg_trigger where tgname like 'dbshield%'
    union all select 'schema ' || nspname from pg_namespace where nspname = 'dbshield'
    union all select 'role ' || rolname from pg_roles where rolname like 'dbshield%'"""


@pytest.fixture(scope="module", params=servers.majors(), ids=lambda major: f"pg{major}")
def guarded_server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server of this module's own: the guard's roles belong to the whole cluster."""
    with servers.own_server(request.param, f"guard-{request.param}") as server:
        yield server


@pytest.fixture
def name(guarded_server: Server) -> Iterator[str]:
    """A fresh, seeded database; nothing of the guard is on the server, before and after."""
    guarded_server.clone("guarded")
    yield "guarded"
    guarded_server.drop("guarded")
    with guarded_server.connect() as admin:
        for role in ("dbshield_owner", MEMBERS, "plain_owner"):
            with contextlib.suppress(psycopg.errors.UndefinedObject):
                admin.execute(sql.SQL("drop role {}").format(sql.Identifier(role)))


@pytest.fixture
def admin(guarded_server: Server, name: str) -> Iterator[Connection]:
    """The superuser in the database, with the guard installed and the three agents in the group."""
    with guarded_server.connect(name) as conn:
        install(conn, Options(environment="test"))
        for access in ACCESS:
            conn.execute(sql.SQL("grant dbshield_agents to {}").format(sql.Identifier(f"agent_{access}")))
        yield conn


@pytest.fixture
def agent(guarded_server: Server, name: str, admin: Connection) -> Iterator[Connection]:
    """An agent with rights on rows, and no proxy in between."""
    with psycopg.connect(guarded_server.agent_dsn("write", name), autocommit=True) as conn:
        yield conn


@pytest.fixture
def migrator(guarded_server: Server, name: str, admin: Connection) -> Iterator[Connection]:
    """An agent that is a member of the role that owns everything."""
    with psycopg.connect(guarded_server.agent_dsn("migrate", name), autocommit=True) as conn:
        yield conn


def count(conn: Connection, table: str) -> int:
    row = conn.execute(f"select count(*) from {table}".encode()).fetchone()
    assert row is not None
    return int(row[0])


def test_it_is_installed_again_and_again_and_stands(admin: Connection) -> None:
    assert verify(admin) == ()
    again = install(admin, Options(environment="test"))
    assert (again.previous, again.guarded, again.open) == (VERSION, 0, ())
    assert verify(admin) == ()


def test_no_reading_is_counted_for_the_guards_own_functions(admin: Connection) -> None:
    """Every reader of a guarded database would pay for it, and lose its cursors WITH HOLD."""
    rows = [tuple(None if value is None else str(value) for value in row) for row in admin.execute(CATALOGUE_QUERY)]
    assert not FunctionCatalogue.from_rows(rows).reaches


def test_the_dry_run_is_what_is_run(guarded_server: Server, name: str) -> None:
    with guarded_server.connect(name) as conn:
        script = dry_run(conn, Options(environment="it's", addresses=("10.0.0.0/8", "socket")))
        assert conn.execute(LEFT).fetchall() == [], "a dry run installs nothing"
        conn.execute(script.encode())
        assert verify(conn) == ()
        assert conn.execute("select environment from dbshield.installation").fetchone() == ("it's",)


def test_it_leaves_nothing(admin: Connection) -> None:
    assert uninstall(admin) == ()
    assert admin.execute(LEFT).fetchall() == []
    assert uninstall(admin) == (), "it can be said twice"


def test_roles_stay_while_another_database_has_a_guard(guarded_server: Server, admin: Connection) -> None:
    guarded_server.clone("second")
    try:
        with guarded_server.connect("second") as second:
            install(second, Options(environment="test"))
            stays = uninstall(admin)
            assert len(stays) == 1
            assert "dbshield_owner" in stays[0]
            assert verify(second) == ()
    finally:
        guarded_server.drop("second")


def test_a_newer_guard_is_left_alone(admin: Connection) -> None:
    admin.execute("update dbshield.installation set version = 999")
    with pytest.raises(Refused, match="version 999"):
        install(admin, Options(environment="test"))


def test_only_agents_are_held(guarded_server: Server, name: str, admin: Connection) -> None:
    admin.execute("set session authorization app_owner")
    admin.execute("create table shop.mine (id int)")
    admin.execute("insert into shop.mine select generate_series(1, 1000)")
    admin.execute("update shop.mine set id = -id; delete from shop.mine; truncate shop.mine; drop table shop.mine")
    admin.execute("reset session authorization")
    admin.execute("delete from shop.order_items")
    assert count(admin, "shop.order_items") == 0


@pytest.mark.parametrize(
    "text",
    [
        "delete from shop.order_items where order_id <= 51",
        "update shop.orders set total = 0 where id <= 101",
        "delete from shop.customers where id <= 40",
        "begin; delete from shop.order_items where order_id <= 40; delete from shop.order_items where order_id <= 60; commit",
        "with gone as (delete from shop.order_items returning 1) select count(*) from gone",
        "update shop.events_2026_01 set kind = 'x'",
        "select shop.wipe_customers()",
        "insert into shop.products select * from shop.products on conflict (id) do update set title = ''",
        "merge into shop.products using (select 1) s on true when matched then delete",
        "do $$ begin for i in 1..200 loop begin delete from shop.order_items where order_id = i;"
        " exception when insufficient_privilege then null; end; end loop; raise exception 'all'; end $$",
    ],
)
def test_rows_are_counted_however_they_are_reached(admin: Connection, agent: Connection, text: str) -> None:
    before = {table: count(admin, table) for table in ("shop.order_items", "shop.customers", "shop.products", "shop.orders")}
    with pytest.raises(psycopg.Error):
        agent.execute(text.encode())
    assert {table: count(admin, table) for table in before} == before


def test_each_transaction_counts_from_zero(agent: Connection, admin: Connection) -> None:
    for first in (1, 51, 101):
        agent.execute("delete from shop.order_items where order_id between %s and %s", [first, first + 49])
    assert count(admin, "shop.order_items") == 12_000 - 300
    with agent.transaction(force_rollback=True):
        agent.execute("delete from shop.order_items where order_id between 201 and 250")
    agent.execute("delete from shop.order_items where order_id between 201 and 250")
    assert count(admin, "shop.order_items") == 12_000 - 400


def test_each_role_has_its_limit(agent: Connection, admin: Connection) -> None:
    set_limit(admin, "agent_write", 2)
    agent.execute("delete from shop.order_items where order_id = 1")
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="change 4 rows in one transaction, its limit is 2"):
        agent.execute("delete from shop.order_items where order_id in (2, 3)")
    set_limit(admin, "agent_write", None)
    agent.execute("delete from shop.order_items where order_id in (2, 3)")


def test_a_new_table_is_guarded_as_it_is_made(admin: Connection, migrator: Connection) -> None:
    migrator.execute("create table shop.more (id int); insert into shop.more select generate_series(1, 101)")
    migrator.execute("create table shop.events_2026_03 partition of shop.events for values from ('2026-03-01') to ('2026-04-01')")
    migrator.execute("select 1 as x into shop.chosen")
    admin.execute("create schema later create table own (id int)")
    assert verify(admin) == ()
    for text in ("delete from shop.more", "truncate shop.more", "truncate shop.chosen", "truncate shop.events_2026_03"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            migrator.execute(text.encode())
    assert count(admin, "shop.more") == 101


@pytest.mark.parametrize(
    "text",
    [
        "drop table shop.order_items",
        "drop index concurrently shop.orders_customer",
        "alter table shop.orders rename column total to t",
        "alter table shop.events detach partition shop.events_2026_01",
        "alter table shop.events detach partition shop.events_2026_01 concurrently",
        "alter table shop.orders disable trigger dbshield_rows",
        "alter table shop.orders enable trigger dbshield_rows",
        "drop trigger dbshield_rows on shop.orders",
        "create or replace function shop.touch() returns trigger language plpgsql as 'begin return null; end'",
        "create or replace view shop.active_customers as select * from shop.customers where false",
        "truncate shop.order_items",
        "create rule r as on delete to shop.orders do instead nothing",
        "alter table archive.orders_2025 set unlogged",
        "grant all on shop.orders to public",
        "set role app_owner; alter table shop.order_items drop column quantity",
        "alter function shop.touch() security definer",
        "create function shop.sneak() returns boolean language plpgsql as $$ begin create schema inner_one; return true; end $$;"
        " alter table shop.settings alter column value drop not null, add check (shop.sneak())",
        "delete from dbshield.limits",
        "drop schema dbshield cascade",
        "drop event trigger dbshield_dropped",
        "select dbshield.guard_table('shop.orders')",
        "insert into dbshield.working values (pg_backend_pid())",
    ],
)
def test_the_structure_only_grows(admin: Connection, migrator: Connection, text: str) -> None:
    facts = "select array_agg(fact order by fact) from dbshield.facts() as fact where fact !~ 'shop[.]sneak'"
    before = admin.execute(facts).fetchone()
    with pytest.raises(psycopg.Error) as refused:
        migrator.execute(text.encode())
    assert refused.value.sqlstate == "42501"
    assert admin.execute(facts).fetchone() == before
    assert verify(admin) == ()


def test_a_default_is_the_transactions_own_only_where_it_gave_it(admin: Connection, migrator: Connection) -> None:
    """What others commit while a transaction is open is younger than it, and is theirs."""
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="default of archive"), migrator.transaction():
        migrator.execute("alter table shop.products add column made text default 'here'")
        admin.execute("alter table archive.orders_2025 alter column total set default 7")
        with migrator.transaction():
            migrator.execute("alter table shop.products alter column made drop default")
        migrator.execute("alter table archive.orders_2025 alter column total drop default")


def test_a_trigger_that_is_taken_off_comes_back_with_the_next_change(admin: Connection) -> None:
    admin.execute("alter table shop.orders disable trigger dbshield_rows")
    assert verify(admin) == ()


WIPE = """create function shop.wipe() returns integer language plpgsql as $$ begin delete from shop.order_items; return 1;
    exception when insufficient_privilege then return 0; end $$"""
LOOKS_IMMUTABLE = """create function shop.looks_immutable(text) returns integer language plpgsql immutable
    as $$ begin return shop.wipe(); end $$"""
CODE = {
    "create table shop.mine (key text); insert into shop.mine values ('a');"
    " create index on shop.mine (shop.looks_immutable(key))": "analyze",
    "create materialized view shop.mine as select shop.wipe() with no data": "refresh materialized view shop.mine",
    "create view shop.mine as select shop.wipe()": "select * from shop.mine",
    "create domain shop.mine as text check (shop.looks_immutable(value) >= 0);"
    " alter table shop.settings add column more shop.mine": "insert into shop.settings values ('a', 'b', 'c')",
    "create table shop.mine partition of shop.events (check (shop.looks_immutable(kind) = 1))"
    " for values from ('2026-03-01') to ('2026-04-01')": "insert into shop.events values (1, '2026-03-02', 'view')",
    "alter table shop.settings alter column value set default"
    " ts_rewrite('a', 'select tsquery ''a'', shop.wipe()::text::tsquery')::text": "insert into shop.settings values ('a')",
    "create materialized view shop.mine as select * from ts_stat('select to_tsvector(shop.wipe()::text)') with no data": (
        "refresh materialized view shop.mine"
    ),
    "create schema postgres; create function postgres.lower(varchar) returns integer language sql as 'select shop.wipe()'": (
        "select lower('A'::varchar)"
    ),
}
"""What an agent makes, and what a superuser does that would run its code: the rows would be gone, with no guard in the way."""


@pytest.mark.one_server
@pytest.mark.parametrize("made", CODE)
def test_whom_nothing_holds_runs_no_code_of_an_agent(admin: Connection, migrator: Connection, made: str) -> None:
    migrator.execute(f"{WIPE}; {LOOKS_IMMUTABLE}".encode())
    before = count(admin, "shop.order_items")
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="dbshield"):
        migrator.execute(made.encode())
    with contextlib.suppress(psycopg.Error):
        admin.execute(CODE[made].encode())
    assert count(admin, "shop.order_items") == before


def test_no_function_comes_while_an_index_is_made_concurrently(
    guarded_server: Server, name: str, admin: Connection, migrator: Connection
) -> None:
    """Else it could be in the index, which is at work long before its command is at its end."""
    admin.execute("begin; lock table shop.settings in access exclusive mode")
    with (
        psycopg.connect(guarded_server.agent_dsn("migrate", name), autocommit=True) as second,
        ThreadPoolExecutor(1) as pool,
    ):
        making = pool.submit(migrator.execute, "create index concurrently on shop.settings (key)")
        waits = "select count(*) from pg_locks where not granted and pid = %s"
        try:
            assert until(lambda: second.execute(waits, [migrator.info.backend_pid]).fetchone() == (1,))
            with pytest.raises(psycopg.errors.InsufficientPrivilege, match="while an agent creates an index concurrently"):
                second.execute(LOOKS_IMMUTABLE)
        finally:
            admin.execute("rollback")
        making.result()
        second.execute(LOOKS_IMMUTABLE)


def test_a_fixed_snapshot_hides_no_table_from_the_guard(admin: Connection, migrator: Connection) -> None:
    migrator.execute("begin isolation level repeatable read; select 1")
    admin.execute("set role app_owner; create table shop.late as select generate_series(1, 101) as id; reset role")
    for text in ("alter table shop.late disable trigger dbshield_rows", "alter table shop.late rename to lost"):
        with (
            pytest.raises(psycopg.errors.InsufficientPrivilege, match="in a transaction that is repeatable read"),
            migrator.transaction(),
        ):
            migrator.execute(text.encode())
    migrator.execute("commit")
    assert verify(admin) == ()


def test_a_table_is_guarded_by_way_of_what_it_is_a_part_of(
    guarded_server: Server, name: str, admin: Connection, agent: Connection
) -> None:
    """A statement on the whole fires no trigger of its parts, and the whole may lie in a schema that is not guarded."""
    install(admin, Options(environment="test", schemas=("shop",)))
    admin.execute("create schema whole; create table whole.t (id integer) partition by range (id)")
    admin.execute("grant usage on schema whole to agent_write; grant all on whole.t to agent_write")
    admin.execute("create table shop.part partition of whole.t for values from (0) to (1000)")
    admin.execute("insert into whole.t select generate_series(1, 101)")
    assert verify(admin) == ()
    for text in ("delete from whole.t", "truncate whole.t"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="dbshield"):
            agent.execute(text.encode())
    admin.execute("alter event trigger dbshield_new_tables disable; drop trigger dbshield_rows on whole.t")
    assert "the table whole.t is not guarded, or its triggers were changed or disabled" in [p.what for p in verify(admin)]
    install(admin, Options(environment="test", schemas=("shop",)))
    assert verify(admin) == ()


def test_who_installs_runs_nobodys_function_of_a_better_fit(admin: Connection) -> None:
    admin.execute(
        "create function public.format(text, regprocedure) returns text language plpgsql"
        " as $$ begin raise exception 'called'; end $$"
    )
    install(admin, Options(environment="test"))
    assert verify(admin) == ()


def test_what_is_temporary_may_go(agent: Connection) -> None:
    agent.execute("create temp table t (id int primary key default 1, name text not null default 'x' check (name <> ''))")
    agent.execute("insert into t select generate_series(1, 1000)")
    agent.execute("create temp view v as select * from t")
    agent.execute("update t set name = 'y'; delete from t; truncate t; alter table t drop column name cascade")
    agent.execute("drop table t cascade")


def test_agents_log_in_from_the_proxy_alone(guarded_server: Server, name: str, admin: Connection) -> None:
    if guarded_server.major < 17:
        assert admin.execute("select count(*) from pg_event_trigger where evtevent = 'login'").fetchone() == (0,)
        return
    install(admin, Options(environment="test", addresses=("192.0.2.0/24",)))
    with pytest.raises(psycopg.OperationalError, match=r"may not log in from 127\.0\.0\.1"):
        psycopg.connect(guarded_server.agent_dsn("write", name))
    guarded_server.connect(name).close()
    install(admin, Options(environment="test", addresses=("192.0.2.0/24", "127.0.0.1")))
    psycopg.connect(guarded_server.agent_dsn("write", name)).close()


UNWATCHED = "alter event trigger dbshield_new_tables disable; "
TAMPERED = {
    "create or replace function dbshield.count_rows() returns trigger language plpgsql security definer"
    " set search_path = pg_catalog, pg_temp as 'begin return null; end'": "the body of dbshield.count_rows() was changed",
    "alter function dbshield.is_agent() security invoker": "the function dbshield.is_agent() was altered",
    "alter function dbshield.is_agent() reset search_path": "the settings of dbshield.is_agent() were changed",
    "alter function dbshield.dropped() owner to app_owner": "dbshield.dropped() belongs to app_owner",
    "grant execute on function dbshield.facts() to public": "others may call dbshield.facts()",
    "drop event trigger dbshield_dropped; drop function dbshield.dropped()": "the function dbshield.dropped() is missing",
    "create function dbshield.extra() returns int language sql as 'select 1'": "dbshield.extra() is none of dbshield's",
    "drop event trigger dbshield_rewritten": "the event trigger dbshield_rewritten is missing",
    "alter event trigger dbshield_ddl_start disable": "dbshield_ddl_start is disabled",
    "alter event trigger dbshield_ddl_start enable": "dbshield_ddl_start is disabled or not enabled always",
    "drop event trigger dbshield_dropped; create event trigger dbshield_dropped on sql_drop execute function"
    " dbshield.ddl_end()": "the event trigger dbshield_dropped was replaced",
    "drop event trigger dbshield_dropped; create event trigger dbshield_dropped on sql_drop when tag in ('DROP VIEW') execute"
    " function dbshield.dropped()": "the event trigger dbshield_dropped was replaced",
    "drop trigger dbshield_rows on shop.orders": "the table shop.orders is not guarded",
    UNWATCHED + "alter table shop.orders disable trigger dbshield_truncate": "the table shop.orders is not guarded",
    UNWATCHED + "alter table shop.orders enable trigger dbshield_rows": "the table shop.orders is not guarded",
    UNWATCHED + "create or replace trigger dbshield_rows after update or delete on shop.orders for each statement when (false)"
    " execute function dbshield.count_rows();"
    " alter table shop.orders enable always trigger dbshield_rows": "the table shop.orders is not guarded",
    "update pg_namespace set nspowner = 'app_owner'::regrole where nspname = 'dbshield'": "the schema dbshield belongs to app",
    "grant usage on schema dbshield to public": "others have rights on the schema dbshield",
    "alter table dbshield.limits owner to app_owner": "the table dbshield.limits belongs to app_owner",
    "grant insert on dbshield.limits to agent_write": "others have rights on the table dbshield.limits",
    "grant update (max_rows) on dbshield.limits to agent_write": "others have rights on the table dbshield.limits",
    "drop table dbshield.working": "the table dbshield.working is missing",
    "update dbshield.installation set version = 0": "version 0 is installed",
    "update dbshield.installation set system_identifier = '1'": "on another cluster",
    "update dbshield.installation set environment = 'other'": "the comment on the schema dbshield does not say that",
    "comment on schema dbshield is null": "the comment on the schema dbshield does not say that this is test",
    "comment on schema dbshield is 'dbshield guard of the environment production'": "does not say that this is test",
    "grant dbshield_owner to agent_read": "agent_read is a member of dbshield_owner",
    "alter role dbshield_agents createrole": "the role dbshield_agents has been given rights",
    "grant app_owner to dbshield_agents": "the role dbshield_agents has been given rights",
    "alter role agent_read superuser": "the agent agent_read is a superuser",
    "alter role app_owner superuser; alter event trigger dbshield_dropped owner to app_owner; alter role app_owner"
    " nosuperuser": "the event trigger dbshield_dropped belongs to a role that is no superuser",
    "drop event trigger dbshield_new_tables; create event trigger dbshield_new_tables on ddl_command_end when tag in"
    " ('CREATE TABLE') execute function dbshield.guard_new_tables()": "the event trigger dbshield_new_tables was replaced",
    UNWATCHED + "create table shop.unseen (id int)": "the table shop.unseen is not guarded",
    "alter function dbshield.refuse(text, text) strict": "the function dbshield.refuse(text,text) was altered",
    "create view dbshield.seen as select * from dbshield.limits": "dbshield.seen is none of dbshield's",
    "create rule hidden as on insert to dbshield.changing do instead nothing": "the table dbshield.changing has been given",
    "alter table dbshield.limits enable row level security": "the table dbshield.limits has been given",
}
TAMPERED_SINCE_17 = {
    f"alter {whose} set event_triggers = off": f"all event triggers are switched off for {who}"
    for whose, who in {
        "role agent_write": "agent_write",
        "role agent_write in database guarded": "agent_write in guarded",
        "database guarded": "everybody in guarded",
    }.items()
} | {"alter database guarded set event_triggers = 'F'": "all event triggers are switched off for everybody in guarded"}
UNDONE = (
    "revoke dbshield_owner from agent_read",
    "alter role dbshield_agents nocreaterole",
    "revoke app_owner from dbshield_agents",
    "alter role agent_read nosuperuser",
    "alter role agent_write reset all",
    "alter role agent_write in database guarded reset all",
)
"""What install leaves to a human, since it belongs to the cluster."""


@pytest.mark.one_server
@pytest.mark.parametrize(("text", "expected"), [*TAMPERED.items(), *TAMPERED_SINCE_17.items()])
def test_what_is_tampered_with_is_found_and_put_right(admin: Connection, text: str, expected: str) -> None:
    if text in TAMPERED_SINCE_17 and admin.info.server_version < 170_000:
        with pytest.raises(psycopg.errors.UndefinedObject):
            admin.execute(text.encode())
        return
    admin.execute(text.encode())
    problems = verify(admin)
    assert any(expected in problem.what for problem in problems), problems
    install(admin, Options(environment="test"))
    left = verify(admin)
    assert [problem.what for problem in left if problem.mend == AGAIN] == []
    assert {problem.what for problem in left} <= {problem.what for problem in problems}
    for undo in UNDONE:
        admin.execute(undo.encode())


def test_without_a_superuser(guarded_server: Server, name: str) -> None:
    with guarded_server.connect(name) as conn:
        conn.execute("create role plain_owner login createrole password 'plain'")
        conn.execute(f"grant create on database {name} to plain_owner")
        conn.execute("create schema own authorization plain_owner")
    dsn = psycopg.conninfo.make_conninfo(guarded_server.agent_dsn("read", name), user="plain_owner", password="plain")
    with psycopg.connect(dsn, autocommit=True) as plain:
        plain.execute("create table own.t as select generate_series(1, 500) as id")
        plain.execute("grant usage on schema own to agent_write; grant select, delete, truncate on own.t to agent_write")
        done = install(plain, Options(environment="test", schemas=("own", "archive")))
        missing = [left.what for left in done.open]
        assert "the event triggers" in missing
        assert "guard archive.orders_2025" in missing
        assert all(left.leaves and left.why for left in done.open)
        assert done.guarded == 1
        plain.execute("grant dbshield_agents to agent_write")
        with psycopg.connect(guarded_server.agent_dsn("write", name), autocommit=True) as agent:
            for text in ("delete from own.t", "truncate own.t"):
                with pytest.raises(psycopg.errors.InsufficientPrivilege, match="dbshield"):
                    agent.execute(text.encode())
            agent.execute("delete from own.t where id <= 100")
        assert {problem.what for problem in verify(plain)} >= {"the event trigger dbshield_dropped is missing"}
        uninstall(plain)
    with guarded_server.connect(name) as conn:
        assert [row for (row,) in conn.execute(LEFT).fetchall() if not str(row).startswith("role")] == []
        conn.execute("drop schema own cascade")
        conn.execute("drop owned by plain_owner")
