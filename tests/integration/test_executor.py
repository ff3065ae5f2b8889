"""Approved statements on real servers: what the executor runs, saves, refuses, and what undo brings back."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import resource
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import text
from support.executing import ENVIRONMENT, Stage, control_of, now, stage
from support.servers import Server
from support.waiting import until

from dbshield.cluster.binaries import Binaries, debian_binaries, embedded_binaries
from dbshield.control.approval import State
from dbshield.control.asking import Parameter
from dbshield.control.executor import Executor
from dbshield.control.undo import UndoConflict
from dbshield.control.undo_files import UndoError
from dbshield.control.undo_store import UndoStore
from dbshield.errors import Refused
from dbshield.guard.install import Options, install
from dbshield.guard.verify import verify

pytestmark = pytest.mark.one_server


@pytest.fixture(scope="module")
def control(server: Server) -> Iterator[str]:
    with control_of(server) as dsn:
        yield dsn


@pytest.fixture
def here(server: Server, control: str, tmp_path: Path) -> Iterator[Stage]:
    with stage(server, control, tmp_path) as made:
        yield made


EXTRAS = """
    create table shop.ledger (id bigint generated always as identity primary key, amount numeric not null, noted text,
        doubled numeric generated always as (amount * 2) stored);
    insert into shop.ledger (amount, noted) select i, case when i % 3 = 0 then null else E'a\\tb\\\\n' || i end
        from generate_series(1, 500) i;
    create table shop.notes (body text, at timestamptz default now());
    insert into shop.notes select 'note ' || i % 40, timestamptz '2026-01-01 10:00+02' from generate_series(1, 200) i;
    create table shop.tree (id int primary key, parent int references shop.tree on delete set null, name text);
    insert into shop.tree select i, nullif(i / 2, 0), 'node ' || i from generate_series(1, 100) i;
    grant select (id, status) on shop.orders to reporting;
    comment on table shop.orders is 'what was bought';
    comment on column shop.orders.total is 'with tax';
    create rule no_updates as on update to shop.secrets where new.id = 0 do instead nothing;
    create table shop.counts (what text primary key, n bigint);
    insert into shop.counts values ('customers', 2000);
    grant all on shop.counts to app_owner;
    create function shop.count_customers() returns trigger language plpgsql as
        $$ begin update shop.counts set n = n - 1 where what = 'customers'; return old; end $$;
    create trigger customers_counted after delete on shop.customers for each row execute function shop.count_customers();
    create sequence shop.ticket; select setval('shop.ticket', 77);
    create table shop.tickets (id int default nextval('shop.ticket') primary key, what text);
    insert into shop.tickets select i, 'x' from generate_series(1, 20) i;
"""

UNDONE = {
    "drop table": "drop table shop.order_items",
    "drop table cascade": "drop table shop.orders cascade",
    "drop table with a view": "drop table shop.customers cascade",
    "drop partitioned": "drop table shop.events",
    "drop partition": "drop table shop.events_2026_01",
    "drop identity": "drop table shop.ledger",
    "drop several": "drop table shop.orders, shop.order_items, shop.secrets cascade",
    "drop schema": "drop schema archive cascade",
    "drop view": "drop view shop.active_customers",
    "drop materialized view": "drop materialized view shop.sales_by_day",
    "drop index": "drop index shop.orders_customer",
    "drop sequence cascade": "drop sequence shop.ticket cascade",
    "drop function": "drop function shop.order_count(integer)",
    "drop function cascade": "drop function shop.count_customers() cascade",
    "drop trigger": "drop trigger customers_touch on shop.customers",
    "drop rule": "drop rule no_updates on shop.secrets",
    "drop constraint": "alter table shop.orders drop constraint orders_customer_id_fkey",
    "truncate": "truncate shop.order_items",
    "truncate cascade": "truncate shop.customers cascade",
    "truncate partitioned": "truncate shop.events",
    "truncate restart": "truncate shop.ledger restart identity",
    "delete all": "delete from shop.order_items",
    "delete cascade": "delete from shop.customers",
    "delete some": "delete from shop.customers where id % 7 = 0",
    "delete partitioned": "delete from shop.events where id < 1000",
    "delete without key": "delete from shop.notes where body like '%1'",
    "delete identity": "delete from shop.ledger where id > 100",
    "delete sets null": "delete from shop.tree where id < 10",
    "delete in a with": "with gone as (delete from shop.orders where id < 50 returning *) select count(*) from gone",
    "delete by a function": "select shop.wipe_customers()",
    "delete in a do block": "do $$ begin delete from shop.order_items where order_id < 99;"
    " begin delete from shop.orders where id < 99; exception when others then raise; end; end $$",
    "update all": "update shop.orders set total = 0, status = 'gone'",
    "update without key": "update shop.notes set body = 'same'",
    "update partitioned": "update shop.events set kind = 'x' where id < 500",
    "update generated": "update shop.ledger set amount = -1",
    "update key": "update shop.tickets set id = id + 1000",
    "upsert": "insert into shop.settings values ('vat', '0'), ('theme', 'dark')"
    " on conflict (key) do update set value = excluded.value",
}


@pytest.mark.parametrize("name", UNDONE)
def test_what_was_destroyed_comes_back(here: Stage, name: str) -> None:
    here.sql(EXTRAS)
    before = here.facts()
    done = here.run(UNDONE[name])
    assert done.state is State.DONE, done.error
    assert here.lost(before), "the statement destroyed nothing, so nothing is shown"
    assert done.undo == done.id
    here.undo(done)
    assert here.lost(before) == []


DIFFERENT = {
    "a row was changed since": (
        "update shop.settings set value = 'x'",
        "update shop.settings set value = 'y' where key = 'vat'",
        "vat",
    ),
    "a row is gone since": ("update shop.settings set value = 'x'", "delete from shop.settings where key = 'vat'", "vat"),
    "a key is taken": ("delete from shop.settings", "insert into shop.settings values ('theme', 'new')", "theme"),
    "a table is there again": ("drop table shop.settings", "create table shop.settings (a int)", "shop.settings is there again"),
    "another table stands where a view was": (
        "drop view shop.active_customers",
        "create table shop.active_customers ()",
        "is there",
    ),
    "a table has other columns": ("delete from shop.settings", "alter table shop.settings add column more int", "other columns"),
    "a table is gone": ("delete from shop.settings", "drop table shop.settings", "not there any more"),
    "a schema is gone": ("drop table archive.orders_2025", "drop schema archive", "schema archive is not there"),
    "a parent is missing": ("delete from shop.order_items", "delete from shop.orders where id = 1", "foreign key"),
    "another row has the value": (
        "delete from shop.products where id = 300 and id not in (select product_id from shop.order_items where order_id < 0)",
        "insert into shop.products values (7777, 'SKU-300', 'x', 1, 1)",
        "duplicate key",
    ),
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_a_conflict_is_told_and_nothing_is_touched(here: Stage, name: str) -> None:
    statement, meanwhile, said = DIFFERENT[name]
    here.sql("delete from shop.order_items where product_id = 300")
    done = here.run(statement)
    assert done.state is State.DONE, done.error
    here.sql(meanwhile)
    before = here.facts()
    with pytest.raises(UndoConflict, match=said):
        here.undo(done)
    assert here.facts() == before


REFUSED = {
    "begin": ("begin; delete from shop.settings; commit", "begins or ends a transaction"),
    "commit": ("delete from shop.settings; commit", "begins or ends a transaction"),
    "savepoint": ("savepoint a", "begins or ends a transaction"),
    "unreadable": ("delete from from shop.settings", "cannot be read"),
    "empty": ("", "no statement"),
    "cursor": ("fetch all from c", "cursor"),
    "prepared": ("execute p", "prepared statement"),
    "vacuum": ("vacuum full shop.settings", "cannot run inside a transaction block"),
    "concurrently": ("drop index concurrently shop.orders_customer", "cannot run inside a transaction block"),
    "database": ("drop database template1", "cannot run inside a transaction block"),
    "copy in": ("copy shop.settings from stdin", "no client"),
    "copy out": ("copy shop.settings to stdout", "no client"),
    "commit in a body": ("do $$ begin delete from shop.settings; commit; end $$", "transaction"),
    "its own mistake": ("delete from shop.nothing", "does not exist"),
    "column": ("alter table shop.settings drop column value", "no undo point can bring back"),
    "type": ("alter table shop.products alter column price type integer", "no undo point can bring back"),
    "owner": ("alter table shop.settings owner to postgres", "no undo point can bring back"),
    "replaced function": (
        "create or replace function shop.order_count(customer integer) returns bigint language sql as $$ select 0::bigint $$",
        "no undo point can bring back",
    ),
    "large object": ("select lo_unlink(424242)", "no undo point can bring back"),
    "role": ("drop role reporting_two", "no undo point can bring back"),
    "move to another partition": (
        "update shop.events set at = '2026-02-02' where id = 59",
        "no undo point can tell",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_undone_or_run_here_is_refused(here: Stage, name: str) -> None:
    statement, said = REFUSED[name]
    if name == "role":
        here.sql("drop role if exists reporting_two; create role reporting_two")
    before = here.facts()
    failed = here.run(statement)
    assert failed.state is State.FAILED
    assert failed.error is not None
    assert said in failed.error["message"], failed.error
    assert here.facts() == before
    assert not list(here.folder.glob("*")), "nothing was saved, and nothing is left of it"


def test_without_undo_a_human_may_have_it_all_the_same(here: Stage) -> None:
    done = here.run("alter table shop.settings drop column value", without_undo=True)
    assert done.state is State.DONE
    assert done.undo is None
    assert here.sql("select * from shop.settings limit 1") == [("currency",)]
    with pytest.raises(Refused, match="nothing was saved"):
        here.undo(done)


def test_a_prepared_statement_runs_with_its_parameters(here: Stage) -> None:
    parameters = [Parameter(type=25, format=0, value=b"vat"), Parameter(type=23, format=1, value=(3).to_bytes(4, "big"))]
    done = here.run(
        "delete from shop.settings where key = $1 and length(key) = $2 returning key, value", parameters, preview=True
    )
    assert done.state is State.DONE, done.error
    assert done.preview is not None
    assert done.preview["rows"] == 1
    assert done.tag == "DELETE 1"
    assert done.result is not None
    assert [column["name"] for column in done.result["columns"]] == ["key", "value"]
    assert done.result["rows"] == [["vat", "0.21"]]
    here.undo(done)
    assert here.sql("select value from shop.settings where key = 'vat'") == [("0.21",)]


def test_names_mean_what_they_mean_to_the_agents_role(here: Stage) -> None:
    here.sql("create schema other; create table other.settings (key text); insert into other.settings values ('a')")
    here.sql(f"alter role agent_write in database {here.database} set search_path = other, shop")
    done = here.run("delete from settings")
    assert done.state is State.DONE, done.error
    assert (here.sql("select count(*) from other.settings"), here.sql("select count(*) from shop.settings")) == ([(0,)], [(3,)])


def test_a_text_means_what_it_meant_to_the_session_that_asked(here: Stage) -> None:
    here.sql("create schema other; create table other.settings (key text, day date)")
    here.sql("insert into other.settings values ('a', '2026-02-01'), ('b', '2026-01-02')")
    here.sql(f"alter role agent_write in database {here.database} set search_path = shop")
    terms = {"search_path": "other, public", "datestyle": "SQL, DMY", "xmloption": "content"}
    done = here.run("delete from settings where day = '01/02/2026'", terms=terms, preview=True)
    assert done.state is State.DONE, done.error
    assert done.preview is not None
    assert (done.preview["rows"], done.preview["objects"]) == (1, ["other.settings"])
    assert here.sql("select key from other.settings") == [("b",)]
    assert here.sql("select count(*) from shop.settings") == [(3,)]
    here.undo(done)
    assert here.sql("select count(*) from other.settings") == [(2,)]


@pytest.mark.parametrize("name", ["role", "session_replication_role", "row_security", "statement_timeout"])
def test_a_question_carries_nothing_else(here: Stage, name: str) -> None:
    failed = here.run("delete from shop.settings", terms={"search_path": "shop", name: "on"})
    assert failed.state is State.FAILED
    assert here.sql("select count(*) from shop.settings") == [(3,)]
    assert f"carries no setting {name}" in (failed.error or {})["message"]


def test_rows_that_others_lock_are_no_rows_that_are_lost(here: Stage) -> None:
    """A row that somebody holds by a foreign key has a mark of two transactions (a multixact), which is no transaction id."""
    before = here.facts()
    with psycopg.connect(here.server.dsn(here.database)) as other:
        other.execute("insert into shop.orders values (7000, 5, 'new', 1, now())")
        done = here.run("update shop.customers set name = 'x' where id < 10")
        other.rollback()
    assert done.state is State.DONE, done.error
    here.undo(done)
    assert here.lost(before) == []


def test_a_preview_calls_nothing_that_nobody_has_approved(here: Stage) -> None:
    """A read-only transaction keeps a function from writing rows, and from nothing else."""
    here.sql("""
        create function shop.doomed(key text) returns boolean language plpgsql as $$
        begin
            execute format('copy (select 1) to %L', current_setting('data_directory') || '/previewed');
            return true;
        end $$
    """)
    asked = here.ask("delete from shop.settings where shop.doomed(key)")
    here.executor().preview()
    preview = here.approvals.get(asked.id).preview
    assert preview is not None
    assert here.sql("select pg_stat_file('previewed', true)") == [(None,)]
    assert preview["rows"] is None
    assert any("shop.doomed" in note for note in preview["notes"])
    here.approvals.withdraw(asked.id, asked.requested_at)


@pytest.mark.parametrize(
    "statement",
    [
        "delete from shop.settings s where s.doomed",
        "delete from shop.settings where key === 'vat'",
        "delete from shop.settings s using shop.calling c where s.key = c.key",
    ],
)
def test_nor_what_stands_behind_other_names(here: Stage, statement: str) -> None:
    here.sql("""
        create function shop.calls(key text) returns boolean language plpgsql as $$
        begin
            execute format('copy (select 1) to %L', current_setting('data_directory') || '/previewed_too');
            return true;
        end $$;
        create function shop.doomed(line shop.settings) returns boolean language sql as 'select shop.calls(line.key)';
        create function shop.same(a text, b text) returns boolean language sql as 'select shop.calls(a)';
        create operator public.=== (leftarg = text, rightarg = text, function = shop.same);
        create view shop.calling as select key from shop.settings where shop.calls(key);
    """)
    asked = here.ask(statement)
    here.executor().preview()
    preview = here.approvals.get(asked.id).preview
    assert preview is not None
    assert here.sql("select pg_stat_file('previewed_too', true)") == [(None,)]
    assert preview["rows"] is None
    here.approvals.withdraw(asked.id, asked.requested_at)


def test_what_dbshield_asks_meets_nobodys_operators(here: Stage) -> None:
    """An operator that fits better than the server's own is taken, whichever schema of the path it is in."""
    here.sql("""
        create function public.caught(oid, oid) returns boolean language plpgsql as $$ begin raise 'caught'; end $$;
        create function public.caught(oid, integer) returns boolean language plpgsql as $$ begin raise 'caught'; end $$;
        create function public.caught(oid, regclass) returns boolean language plpgsql as $$ begin raise 'caught'; end $$;
        create operator public.= (leftarg = oid, rightarg = integer, function = public.caught);
        create operator public.= (leftarg = oid, rightarg = regclass, function = public.caught);
    """)
    for terms in (None, {"search_path": "public"}):
        before = here.facts()
        done = here.run("delete from shop.settings where key = 'vat'", terms=terms, preview=True)
        assert done.state is State.DONE, done.error
        assert done.preview is not None
        assert done.preview["objects"] == ["shop.settings"]
        assert not any("could be looked at" in note for note in done.preview["notes"])
        here.undo(done)
        assert here.lost(before) == []


def test_row_security_is_named(here: Stage) -> None:
    here.sql("alter table shop.settings enable row level security")
    asked = here.ask("delete from shop.settings where key = 'vat'")
    here.executor().preview()
    preview = here.approvals.get(asked.id).preview
    assert preview is not None
    assert any("row security" in note and "shop.settings" in note for note in preview["notes"])
    here.approvals.withdraw(asked.id, asked.requested_at)


def test_more_rows_than_were_shown_are_not_deleted(here: Stage) -> None:
    before = here.facts()
    failed = here.run(
        "delete from shop.customers where not active",
        preview=True,
        between="update shop.customers set active = false where id < 500",
    )
    assert failed.state is State.FAILED
    assert failed.error is not None
    assert "200 were shown" in failed.error["message"]
    here.sql("update shop.customers set active = id % 10 <> 0")
    assert here.lost(before) == []


def test_a_few_rows_more_are_within_the_tolerance(here: Stage) -> None:
    done = here.run(
        "delete from shop.customers where not active",
        preview=True,
        between="update shop.customers set active = false where id < 10",
    )
    assert done.state is State.DONE, done.error
    assert done.tag == "DELETE 209"


def test_an_object_that_was_not_shown_does_not_go(here: Stage) -> None:
    failed = here.run(
        "drop table shop.customers cascade",
        preview=True,
        between="create view shop.fresh as select * from shop.customers",
    )
    assert failed.state is State.FAILED
    assert failed.error is not None
    assert "shop.fresh" in failed.error["message"]
    assert here.sql("select count(*) from shop.customers") == [(2000,)]


def test_a_point_beyond_the_limit_is_refused(here: Stage) -> None:
    before = here.facts()
    for statement in ("delete from shop.orders", "truncate shop.orders cascade", "drop table shop.orders cascade"):
        failed = here.run(statement, undo_max_bytes=1000)
        assert failed.state is State.FAILED
        assert failed.error is not None
        assert "1,000 bytes" in failed.error["message"]
        assert "--without-undo" in failed.error["hint"]
    assert here.facts() == before
    assert list(here.folder.glob("*")) == []


def test_a_full_disk_keeps_the_statement_from_running(here: Stage) -> None:
    """The limit of the process stands for the disk's: the system call fails in the same place, with EFBIG instead of ENOSPC."""
    before = here.facts()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
        failed = here.run("delete from shop.orders")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert failed.state is State.FAILED
    assert failed.error is not None
    assert "cannot be written" in failed.error["message"]
    assert here.facts() == before
    assert list(here.folder.glob("*")) == []


def test_without_pg_dump_of_its_version_nothing_is_dropped(here: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dbshield.control.dumps.DEBIAN_ROOT", Path("/nonexistent"))
    monkeypatch.setattr("dbshield.control.dumps.embedded_binaries", lambda: binaries(here))
    monkeypatch.setenv("PATH", "/nonexistent")
    failed = here.run("drop table shop.settings")
    assert failed.state is State.FAILED
    assert failed.error is not None
    assert f"pg_dump of PostgreSQL {here.server.major}" in failed.error["message"]
    assert "postgresql-client" in failed.error["hint"]
    assert here.sql("select count(*) from shop.settings") == [(3,)]


def binaries(here: Stage) -> Binaries:
    """Those of the other version."""
    return debian_binaries(15) if here.server.major == 18 else embedded_binaries()


def test_two_who_undo_at_once_do_not_bring_rows_back_twice(here: Stage) -> None:
    """In a table without a key nothing else would tell."""
    here.sql("create table shop.plain (note text); insert into shop.plain values ('a'), ('b')")
    done = here.run("delete from shop.plain")
    store = UndoStore(here.control)
    with store.using(done.id) as use:
        undone = here.undo(done)
        with pytest.raises(Refused, match="undone right now"), store.using(done.id):
            pytest.fail("two undo the same")
        use(by="ann", now=now(), rows=undone.rows)
    with pytest.raises(Refused, match="undone already, by ann"), store.using(done.id):
        pytest.fail("it was undone twice")
    assert here.sql("select count(*) from shop.plain") == [(2,)]


def test_an_undo_that_failed_may_be_tried_again(here: Stage) -> None:
    done = here.run("delete from shop.settings")
    store = UndoStore(here.control)
    with pytest.raises(UndoConflict), store.using(done.id):
        raise UndoConflict(done.id, ["something is in the way"])
    assert store.get(done.id).undone_at is None


def test_a_file_that_was_changed_is_not_brought_back(here: Stage) -> None:
    done = here.run("delete from shop.settings")
    rows = here.folder / done.id / "1.before"
    rows.write_text(rows.read_text().replace("EUR", "USD"))
    with pytest.raises(UndoError, match="was changed since"):
        here.undo(done)
    assert here.sql("select count(*) from shop.settings") == [(0,)]
    assert stat.S_IMODE((here.folder / done.id).stat().st_mode) == 0o700


def test_another_server_is_not_touched(here: Stage) -> None:
    with here.control.transaction() as connection:
        connection.execute(text("update dbshield.environments set system_identifier = 7"))
    try:
        failed = here.run("delete from shop.settings")
    finally:
        with here.control.transaction() as connection:
            connection.execute(text("update dbshield.environments set system_identifier = null"))
    assert failed.state is State.FAILED
    assert failed.error is not None
    assert "not the one of production" in failed.error["message"]
    assert here.sql("select count(*) from shop.settings") == [(3,)]


@pytest.fixture
def plain(here: Stage) -> Iterator[Stage]:
    """With an executor that is no superuser: a member of the tables' owner that may make roles."""
    role = f"operator_{here.database}"
    here.sql(
        f"create role {role} login createrole password 'p' in role app_owner; grant all on database {here.database} to {role}"
    )
    executor = here.settings.executor.replace("user=postgres", f"user={role}")
    settings = here.settings.model_copy(update={"executor": executor, "executor_password_env": "EXECUTOR_PASSWORD"})
    try:
        yield dataclasses.replace(here, settings=settings)
    finally:
        here.sql(f"drop owned by {role} cascade; drop role {role}")


@pytest.mark.parametrize(
    "statement",
    ["drop table shop.orders cascade", "delete from shop.customers", "truncate shop.events", "drop view shop.active_customers"],
)
def test_an_executor_needs_to_be_no_superuser(plain: Stage, statement: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXECUTOR_PASSWORD", "p")
    before = plain.facts()
    done = plain.run(statement, preview=True)
    assert done.state is State.DONE, done.error
    assert done.preview is not None
    assert done.preview["notes"] == []
    assert plain.lost(before)
    plain.undo(done)
    assert plain.lost(before) == []


@pytest.mark.parametrize(
    "statement",
    ["select lo_put(424242, 0, 'x')", "alter role {role} connection limit 7", "delete from shop.secrets where id = 1"],
)
def test_what_its_role_may_not_see_is_not_passed_over(plain: Stage, statement: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXECUTOR_PASSWORD", "p")
    role = f"made_{plain.database}"
    plain.sql("alter table shop.secrets force row level security")
    with psycopg.connect(plain.settings.executor_dsn(plain.database), autocommit=True) as connection:
        connection.execute(f"create role {role}".encode())
    try:
        before = plain.facts()
        failed = plain.run(statement.format(role=role))
        assert failed.state is State.FAILED
        assert failed.error is not None
        assert "may not read it" in failed.error["message"] or "row-level security" in failed.error["message"]
        assert plain.facts() == before
    finally:
        plain.sql(f"drop role {role}")


@pytest.fixture
def guard_roles(server: Server) -> Iterator[None]:
    """The guard makes roles, which belong to the whole server; they go when the database has gone."""
    yield
    with server.connect() as admin:
        for role in ("dbshield_owner", "dbshield_agents"):
            # Another test may have its guard in another database.
            with contextlib.suppress(psycopg.errors.DependentObjectsStillExist):
                admin.execute(f"drop role if exists {role}".encode())


@pytest.mark.parametrize(
    "statement", ["drop table shop.orders cascade", "drop table shop.events_2026_01", "delete from shop.customers"]
)
def test_the_guard_is_on_what_comes_back(guard_roles: None, here: Stage, statement: str) -> None:
    with here.server.connect(here.database) as connection:
        install(connection, Options(environment=ENVIRONMENT))
    before = here.facts()
    done = here.run(statement)
    assert done.state is State.DONE, done.error
    assert here.lost(before)
    here.undo(done)
    assert here.lost(before) == []
    with here.server.connect(here.database) as connection:
        assert verify(connection) == ()


def test_the_guard_of_another_environment_stops_the_executor(guard_roles: None, here: Stage) -> None:
    with here.server.connect(here.database) as connection:
        install(connection, Options(environment="staging"))
    failed = here.run("delete from shop.settings")
    assert failed.state is State.FAILED
    assert failed.error is not None
    assert "belongs to staging" in failed.error["message"]
    assert here.sql("select count(*) from shop.settings") == [(3,)]


def test_a_plain_executor_works_under_a_guard_that_stands_afterwards(
    guard_roles: None, plain: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It needs no right in the guard's schema, which `guard verify` would call a change."""
    monkeypatch.setenv("EXECUTOR_PASSWORD", "p")
    with plain.server.connect(plain.database) as connection:
        install(connection, Options(environment=ENVIRONMENT))
        before = plain.facts()
        done = plain.run("drop table shop.order_items")
        assert done.state is State.DONE, done.error
        plain.undo(done)
        assert plain.lost(before) == []
        assert verify(connection) == ()


def test_two_executors_run_each_statement_once(here: Stage) -> None:
    asked = [here.ask(f"insert into shop.products values ({1000 + i}, 'n{i}', 'n', 1, 1)") for i in range(12)]
    for approval in asked:
        here.approve(approval)
    executors = [here.executor() for _ in range(3)]
    with concurrent.futures.ThreadPoolExecutor() as pool:
        done = list(pool.map(work, executors))
    assert sum(done) == len(asked)
    assert {here.approvals.get(approval.id).state for approval in asked} == {State.DONE}
    assert here.sql("select count(*) from shop.products where id >= 1000") == [(12,)]


def work(executor: Executor) -> int:
    with executor.alive():
        return executor.work()


STEPS = ("claimed", "connected", "began", "ran", "taken back", "structure saved", "on disk", "saved", "committed", "finished")


@pytest.mark.parametrize("statement", ["delete from shop.order_items", "drop table shop.order_items"])
@pytest.mark.parametrize("step", STEPS)
def test_an_executor_that_is_killed_leaves_nothing_done_or_done_and_recorded(here: Stage, statement: str, step: str) -> None:
    if statement.startswith("delete") and step in {"taken back", "structure saved"}:
        step = "on disk"
    before = here.facts()
    approval = here.ask(statement)
    here.approve(approval)
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, here.control_dsn, here.settings.executor, str(here.folder), step],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        cwd=Path(__file__).parents[2],
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    executor = here.executor()
    with executor.alive():
        assert until(lambda: executor.work() == 0 and here.approvals.get(approval.id).state in {State.DONE, State.FAILED})
        assert executor.work() == 0
    found = here.approvals.get(approval.id)
    if step in {"committed", "finished"}:
        assert found.state is State.DONE
        assert found.tag in {"DELETE 12000", "DROP TABLE"}
        assert here.lost(before)
        here.undo(found)
    else:
        assert found.state is State.FAILED
        assert found.error is not None
        assert "nothing of it was done" in found.error["message"]
        assert [path.name for path in here.folder.glob("[!.]*")] == []
    assert here.lost(before) == []


KILLED = """
import os, signal, sys
from pathlib import Path
from dbshield.config import EnvironmentConfig
from dbshield.control.executor import Executor
from dbshield.store.database import Database

def at(step):
    if step == sys.argv[4]:
        os.kill(os.getpid(), signal.SIGKILL)

settings = EnvironmentConfig(upstream="host=/tmp user=agent_write dbname=x", executor=sys.argv[2])
executor = Executor(Database(sys.argv[1]), sys.argv[1], {"production": settings}, Path(sys.argv[3]), at=at)
with executor.alive():
    executor.work()
"""
