"""Approved statements on real servers: what the executor runs, previews and refuses, and what it leaves when it is killed."""

from __future__ import annotations

import concurrent.futures
import resource
import signal
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import text
from support.executing import ENVIRONMENT, Stage, control_of, stage
from support.killed import killed_at
from support.servers import Server
from support.waiting import until

from dbshield.cluster.binaries import Binaries, debian_binaries, embedded_binaries
from dbshield.control.approval import State
from dbshield.control.asking import Parameter
from dbshield.control.executor import Executor

pytestmark = pytest.mark.one_server(by="module")


@pytest.fixture(scope="module")
def control(server: Server) -> Iterator[str]:
    with control_of(server) as dsn:
        yield dsn


@pytest.fixture
def here(server: Server, control: str, tmp_path: Path) -> Iterator[Stage]:
    with stage(server, control, tmp_path) as made:
        yield made


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
        "delete from shop.settings s where shop.settled(s.key)",
        "delete from shop.settings s where s.key in (select key from shop.settled_keys())",
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
        create function shop.settled(key text) returns boolean language plpgsql stable as 'begin return shop.calls(key); end';
        create function shop.settled_keys() returns setof text language sql stable
            as 'select key from shop.settings where shop.calls(key)';
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


OF_STRUCTURE = {"taken back", "structure saved"}
"""Which rows that go one by one do not come to."""


@pytest.mark.parametrize(
    ("step", "statement"),
    [(step, "drop table shop.order_items") for step in STEPS]
    + [(step, "delete from shop.order_items") for step in STEPS if step not in OF_STRUCTURE],
)
def test_an_executor_that_is_killed_leaves_nothing_done_or_done_and_recorded(here: Stage, statement: str, step: str) -> None:
    before = here.facts()
    approval = here.ask(statement)
    here.approve(approval)
    killed_at(step, control=here.control_dsn, environment=ENVIRONMENT, executor=here.settings.executor, folder=here.folder)
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
