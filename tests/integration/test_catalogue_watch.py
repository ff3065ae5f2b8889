"""Functions that change while an agent is connected: its session learns of it."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from support import servers
from support.servers import Server
from support.shield import Shield, running_shield
from support.waiting import until

from dbshield.proxy.catalogue import AGE, APPLICATION_NAME, BRIEF

pytestmark = pytest.mark.one_server(by="module")

NOTIFY = Path(__file__).parents[2] / "sql" / "catalogue_notify.sql"
SOON = 12.0
"""Seconds within which a change must be known: a notification or a statement told it, not the clock."""

CALL = "select shop.order_count(1)"
VOLATILE = "alter function shop.order_count(integer) volatile"
STABLE = "alter function shop.order_count(integer) stable"
WATCHERS = "from pg_stat_activity where application_name = %s and datname = current_database()"
"""Other workers have sessions in other databases of the server."""


@pytest.fixture(scope="module")
def running(server: Server, worker_id: str) -> Iterator[Shield]:
    folder = servers.here() / f"watch-{worker_id}-{server.major}"
    with running_shield(server, f"watch_{worker_id}", folder, drain_timeout=5.0) as shield:
        yield shield


@pytest.fixture
def shield(running: Shield) -> Iterator[Shield]:
    yield running
    assert until(lambda: watching(running) == 0), "the last session takes the watcher with it"


def watching(shield: Shield) -> int:
    """Connections with which the database is watched."""
    return int(str(asked(shield, f"select count(*) {WATCHERS}", APPLICATION_NAME)))


def asked(shield: Shield, text: str, *values: Any) -> object:
    with shield.server.connect(shield.database) as admin:
        row = admin.execute(text, values).fetchone()
    assert row is not None
    return row[0]


def rule(connection: psycopg.Connection[tuple[Any, ...]], text: str, *, prepare: bool = False) -> str:
    """The rule by which a statement is refused; empty where it runs."""
    try:
        connection.execute(text, prepare=prepare)
    except psycopg.errors.InsufficientPrivilege as error:
        return (error.diag.message_detail or "").partition("rule=")[2].partition(" ")[0]
    except psycopg.errors.InvalidSqlStatementName:
        return "prepared before"
    return ""


def test_a_notification_reaches_a_session_that_stands(shield: Shield) -> None:
    with shield.server.connect(shield.database) as admin, shield.connect("write") as agent:
        admin.execute(NOTIFY.read_text())
        for _ in range(2):
            assert rule(agent, CALL, prepare=True) == ""
        assert until(lambda: watching(shield) == 1)
        began = time.monotonic()
        admin.execute(VOLATILE)
        assert until(lambda: rule(agent, CALL) == "DS605", deadline=SOON)
        assert rule(agent, CALL, prepare=True) != "", "what was prepared before is not run any more"
        admin.execute(STABLE)
        assert until(lambda: rule(agent, CALL) == "", deadline=SOON)
        assert time.monotonic() - began < AGE, "the clock would have told it by itself"


def test_a_trigger_that_somebody_else_makes_has_inserts_counted(shield: Shield) -> None:
    """An INSERT is counted where it runs what may change other rows, in a session that knew of none when it began."""
    insert = "insert into shop.written_to values (1)"
    has_read = f"select count(*) {WATCHERS} and state = 'idle' and query like 'select p.oid%%'"
    with shield.server.connect(shield.database) as admin:
        admin.execute(NOTIFY.read_text())
        admin.execute(
            "create table shop.written_to (n integer); grant insert on shop.written_to to agent_write;"
            "create function shop.rewrite() returns trigger language plpgsql as $$ begin"
            " update shop.order_items set quantity = quantity where order_id <= 200; return new; end $$"
        )
        with shield.connect("write") as agent:
            assert rule(agent, insert) == ""
            assert until(lambda: asked(shield, has_read, APPLICATION_NAME) == 1), "what was told before is not what tells now"
            began = time.monotonic()
            admin.execute("create trigger rewrite before insert on shop.written_to for each row execute function shop.rewrite()")
            assert until(lambda: rule(agent, insert) == "DS220", deadline=SOON)
            admin.execute("drop trigger rewrite on shop.written_to")
            assert until(lambda: rule(agent, insert) == "", deadline=SOON)
            assert time.monotonic() - began < AGE, "the clock would have told it by itself"


def test_regression_who_notifies_all_the_time_has_it_read_no_more_often_than_it_can_be(shield: Shield) -> None:
    """An agent that only reads kept a worker and the server busy with a large catalogue."""
    idle = f"select count(*) {WATCHERS} and state = 'idle' and query like 'select p.oid%%'"
    waits = f"select count(*) {WATCHERS} and wait_event_type = 'Lock' and query_start < clock_timestamp() - interval '0.5 s'"

    def when(column: str) -> float:
        return float(str(asked(shield, f"select extract(epoch from {column}) {WATCHERS}", APPLICATION_NAME)))

    with shield.server.connect(shield.database) as admin, shield.connect("read") as agent:
        assert until(lambda: asked(shield, idle, APPLICATION_NAME) == 1)
        with admin.transaction():
            admin.execute("lock table pg_catalog.pg_policy in access exclusive mode")
            agent.execute("notify dbshield_catalogue")
            assert until(lambda: asked(shield, waits, APPLICATION_NAME) == 1)
        assert until(lambda: asked(shield, idle, APPLICATION_NAME) == 1)
        began, ended = when("query_start"), when("state_change")

        def again() -> bool:
            agent.execute("notify dbshield_catalogue")
            return when("query_start") > began

        assert until(again, deadline=60)
        assert when("query_start") - ended >= 3 * (ended - began)


def test_a_function_of_somebody_else_takes_nothing_away(shield: Shield) -> None:
    """What is prepared stays prepared where nothing that it calls has changed."""
    insert = "insert into shop.settings values (gen_random_uuid()::text, 'x')"
    with shield.server.connect(shield.database) as admin, shield.connect("write") as agent:
        admin.execute(NOTIFY.read_text())
        for _ in range(2):
            assert rule(agent, CALL, prepare=True) == ""
            assert rule(agent, insert, prepare=True) == ""
        name = f"shop.new_{time.monotonic_ns()}"
        admin.execute(f"create function {name}() returns int language sql immutable return 1")
        assert until(lambda: rule(agent, f"select {name}()") == "", deadline=SOON)
        assert rule(agent, CALL, prepare=True) == ""
        assert rule(agent, insert, prepare=True) == ""


def test_a_watcher_that_is_cut_off_comes_back(shield: Shield) -> None:
    with shield.server.connect(shield.database) as admin, shield.connect("write") as agent:
        admin.execute(NOTIFY.read_text())
        assert until(lambda: watching(shield) == 1)
        query = f"select pid {WATCHERS}"
        first = asked(shield, query, APPLICATION_NAME)
        admin.execute("select pg_terminate_backend(%s)", [first])
        assert until(lambda: watching(shield) == 1 and asked(shield, query, APPLICATION_NAME) != first)
        assert "the functions of a database are not watched" in shield.text()
        admin.execute(VOLATILE)
        assert until(lambda: rule(agent, CALL) == "DS605", deadline=SOON)
        admin.execute(STABLE)
        assert until(lambda: rule(agent, CALL) == "", deadline=SOON)


def test_what_one_agent_creates_another_may_call(shield: Shield) -> None:
    """Without a notification: the proxy saw the statement pass."""
    name = f"shop.made_{time.monotonic_ns()}"
    with shield.server.connect(shield.database) as admin:
        admin.execute("drop event trigger if exists dbshield_catalogue_changed")
        admin.execute("drop event trigger if exists dbshield_catalogue_dropped")
        admin.execute("grant create on schema shop to agent_migrate")
    with shield.connect("migrate") as maker, shield.connect("write") as other:
        assert rule(other, f"select {name}('a')") == "DS606"
        with maker.transaction():
            maker.execute(f"create function {name}(a text) returns text language sql immutable return a || 'x'")
            assert maker.execute(f"select {name}('a')").fetchone() == ("ax",), "known before it is committed"
        assert until(lambda: rule(other, f"select {name}('a')") == "", deadline=SOON)


def test_statements_without_end_put_off_no_reading(shield: Shield) -> None:
    """Each has the catalogue read again a moment later; the moment of the first one comes all the same."""
    with shield.server.connect(shield.database) as admin, shield.connect("migrate") as agent:
        admin.execute("drop event trigger if exists dbshield_catalogue_changed")
        admin.execute("drop event trigger if exists dbshield_catalogue_dropped")
        admin.execute("grant create on schema shop to agent_migrate")
        assert until(lambda: watching(shield) == 1)
        admin.execute(VOLATILE)
        numbers = itertools.count()

        def learned() -> bool:
            assert rule(agent, f"create or replace view shop.again as select {next(numbers)} as n") == ""
            return rule(agent, CALL) == "DS605"

        assert until(learned, deadline=SOON)
        admin.execute(STABLE)
        assert until(lambda: not learned(), deadline=SOON)


def test_sessions_that_are_over_at_once_are_not_watched(shield: Shield) -> None:
    def over_at_once() -> bool:
        """Whether that was a session that is over before it is watched: on a machine with much to do it may take longer."""
        began = time.monotonic()
        with shield.connect("read") as agent:
            assert agent.execute("select 1").fetchone() == (1,)
            found = watching(shield)
        quick = time.monotonic() - began < BRIEF
        assert found == 0 or not quick
        assert until(lambda: watching(shield) == 0)
        return quick

    assert until(lambda: all(over_at_once() for _ in range(5)))


def test_one_watcher_for_all_sessions(shield: Shield) -> None:
    with shield.connect("read"), shield.connect("write") as second, shield.connect("migrate") as third:
        assert until(lambda: watching(shield) == 1)
        second.close()
        assert rule(third, CALL) == ""
        assert watching(shield) == 1
