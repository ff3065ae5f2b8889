"""What changes for agents while they are connected: freezes, reloads and times reach sessions that stand, prepared or not."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from support import servers
from support.cases import Case, load, send
from support.servers import Server
from support.shield import Shield, running_shield
from support.waiting import until

INSERT = "insert into shop.settings (key, value) values (gen_random_uuid()::text, %s)"


@pytest.fixture(scope="module")
def shield(server18: Server) -> Iterator[Shield]:
    """In front of a server of its own, without the control database: the transaction ids of one that others use, or that the
    audit is written to, would tell nothing."""
    with servers.own_server(18, "follows") as server:
        name = f"{server.cluster.folder.name}-shield"
        with running_shield(server, "follows", servers.here() / name, drain_timeout=5.0, control_server=server18) as running:
            running.connect().close()  # its worker is there, and takes signals
            yield running


@pytest.fixture
def proxy(shield: Shield) -> Iterator[Shield]:
    yield shield
    configure(shield, "")


def configure(shield: Shield, settings: str) -> None:
    """Other settings of the agents' environment, by a reload."""
    shield.write_config()
    head = "[environments.test]\n"
    written = re.sub(r"^max_rows_per_hour = .*\n", "", shield.config.read_text(), flags=re.MULTILINE)
    shield.config.write_text(written.replace(head, f"{head}{settings}\n"))
    before = shield.text().count("configuration reloaded")
    shield.signal(signal.SIGHUP)
    assert until(lambda: shield.text().count("configuration reloaded") > before), shield.text()


def stopped(connection: psycopg.Connection[tuple[object, ...]], rule: str, prepare: bool | None = None) -> bool:
    """Whether an insert is refused by that rule."""
    try:
        connection.execute(INSERT, ["a"], prepare=prepare)
    except psycopg.errors.InsufficientPrivilege as error:
        return f"rule={rule} " in (error.diag.message_detail or "")
    return False


def test_a_freeze_by_reload_reaches_a_session_and_what_it_prepared(proxy: Shield) -> None:
    with proxy.connect() as connection:
        for _ in range(2):
            connection.execute(INSERT, ["a"], prepare=True)
        connection.execute("select 1", prepare=True)
        configure(proxy, "frozen = true")
        assert stopped(connection, "DS313", prepare=True), "what was prepared before the freeze is not executed"
        assert stopped(connection, "DS313", prepare=False)
        assert connection.execute("select count(*) from shop.settings", prepare=False).fetchone()
        assert connection.execute("select 1", prepare=True).fetchone() == (1,)
        configure(proxy, "")
        connection.execute(INSERT, ["a"], prepare=False)
        connection.execute(INSERT, ["a"], prepare=True)


def test_a_freeze_by_a_human_reaches_a_session_within_a_second(proxy: Shield) -> None:
    with proxy.connect() as connection:
        connection.execute(INSERT, ["a"])
        proxy.cli("environment", "freeze", "test", "--reason", "the release is on")
        try:
            # Every proxy has heard of it when the command is over.
            assert until(lambda: stopped(connection, "DS313"), deadline=2.0)
            with pytest.raises(psycopg.errors.InsufficientPrivilege, match="DS313") as caught:
                connection.execute(INSERT, ["a"])
            assert "the release is on" in (caught.value.diag.message_hint or "")
        finally:
            proxy.cli("environment", "thaw", "test")
        assert until(lambda: not stopped(connection, "DS313"), deadline=2.0)


def test_a_freeze_ends_by_the_clock(proxy: Shield) -> None:
    with proxy.connect() as connection:
        # A busy machine may need longer to take the setting up than it is to hold.
        for seconds in (2, 10, 30):
            end = datetime.now(UTC) + timedelta(seconds=seconds)
            configure(proxy, f"frozen_until = {end.isoformat()}")
            if frozen := stopped(connection, "DS313"):
                break
            assert datetime.now(UTC) >= end, "it is not frozen"
        assert frozen
        assert until(lambda: not stopped(connection, "DS313"))
        assert datetime.now(UTC) >= end


def test_protected_tables_by_reload(proxy: Shield) -> None:
    with proxy.connect() as connection:
        connection.execute(INSERT, ["a"])
        configure(proxy, 'protected = ["shop.settings"]')
        assert stopped(connection, "DS210", prepare=False)
        configure(proxy, 'agents = { write = { protected = ["shop.settings"] } }')
        assert stopped(connection, "DS210", prepare=False)
        configure(proxy, 'agents = { other = { protected = ["shop.settings"] } }')
        assert not stopped(connection, "DS210", prepare=False)


def test_observing_by_reload(proxy: Shield) -> None:
    with proxy.connect() as connection:
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="DS201"):
            connection.execute("delete from shop.settings where value = value and false")
        configure(proxy, 'mode = "observe"')
        connection.execute("delete from shop.settings where value = value and false")
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="DS304"):
            connection.execute("set client_encoding = 'SJIS'")


def test_an_environment_that_is_gone_ends_its_sessions(proxy: Shield) -> None:
    with proxy.connect() as connection:
        proxy.config.write_text(proxy.config.read_text().replace("[environments.test]", "[environments.renamed]"))
        proxy.signal(signal.SIGHUP)
        with pytest.raises(psycopg.OperationalError, match="not configured any more"):
            until(lambda: connection.execute("select 1") is None)


def refused(connection: psycopg.Connection[tuple[object, ...]], text: str) -> str:
    """The rule that refuses the text; empty where it runs."""
    try:
        connection.execute(text.encode())
    except psycopg.errors.InsufficientPrivilege as error:
        return (error.diag.message_detail or "").split(" ")[0].removeprefix("rule=")
    return ""


def test_hidden_roads_to_a_protected_table(proxy: Shield) -> None:
    with proxy.connect() as connection:
        connection.execute("set search_path = shop")
        configure(proxy, 'protected = ["shop.customers", "archive.*"]')
        assert refused(connection, "update shop.customers set name = 'x' where id = 11") == "DS210"
        assert refused(connection, "update customers set name = 'x' where id = 11") == "DS210"
        assert refused(connection, "update shop.active_customers set name = 'x' where id = 11") == "DS222"
        assert refused(connection, "insert into shop.active_customers select 9999, 'a', 'b', 0, true, now()") == "DS222"
        connection.execute("set search_path = archive, shop")
        assert refused(connection, "update orders_2025 set status = 'x' where id = 11") == "DS222"
        assert refused(connection, "update orders set status = 'paid' where id = 11") == ""
        assert connection.execute("select count(*) from shop.customers where name = 'x' or id = 9999").fetchone() == (0,)
        configure(proxy, 'protected = ["shop.events"]')
        assert refused(connection, "delete from shop.events_2026_01 where id = 30") == "DS222", (
            "a partition is a part of its table"
        )
        assert refused(connection, "insert into shop.events_2026_01 values (1, '2026-01-05', 'x')") == "DS222"


def test_a_function_that_a_human_lets_through_is_counted(proxy: Shield) -> None:
    count, call = "select count(*) from shop.orders where status = 'cancelled'", "select shop.purge_cancelled()"
    with proxy.connect() as connection:
        before = connection.execute(count).fetchone()
        assert refused(connection, call) == "DS605"
        configure(proxy, 'functions_allowed = ["shop.purge_cancelled"]')
        assert refused(connection, call) == "DS220"
        assert connection.execute(count).fetchone() == before
        configure(proxy, 'functions_allowed = ["shop.purge_cancelled"]\nmax_rows = 1000000\nmax_rows_per_hour = 0')
        assert refused(connection, call) == ""
        assert connection.execute(count).fetchone() == (0,)


def test_a_function_that_a_reader_may_call_is_counted_too(proxy: Shield) -> None:
    configure(proxy, 'functions_allowed = ["shop.wipe_customers"]')
    with proxy.connect("read") as connection:
        assert refused(connection, "select shop.wipe_customers()") == "DS220"
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="DS220"), connection.transaction():
            connection.execute("prepare wipe as select shop.wipe_customers()")
            connection.execute("execute wipe")
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="DS220"), connection.transaction():
            connection.execute("declare c cursor for select shop.wipe_customers()")
            connection.execute("fetch all from c")
        assert connection.execute("select count(*) from shop.customers").fetchone() == (2000,)


def test_an_unbounded_delete_that_a_human_lets_through_is_counted(proxy: Shield) -> None:
    settings = 'overrides = [{ rule = "DS201", verdict = "allow", objects = ["shop.*"] }]'
    with proxy.connect() as connection:
        assert refused(connection, "delete from shop.settings") == "DS201"
        configure(proxy, f"{settings}\nmax_rows = 2")
        assert refused(connection, "delete from shop.settings") == "DS220"
        assert refused(connection, "delete from archive.orders_2025") == "DS201"
        configure(proxy, settings)
        assert refused(connection, "delete from shop.settings") == ""


TAKE_A_NUMBER = ("txid_current()", "pg_current_xact_id()", "notify")
"""What takes a transaction id without writing anything."""


def test_nothing_is_written_while_frozen(proxy: Shield) -> None:
    """Every case, attack or not: the server gives out no transaction id, so nothing was written."""
    configure(proxy, "frozen = true")
    passed = 0
    with proxy.server.connect(proxy.database) as admin:

        def takes_a_number(case: Case) -> bool:
            nonlocal passed
            before = given_out(admin)
            passed += send(proxy.dsn(case["access"]), case["steps"]).count(None)
            return given_out(admin) != before

        cases = [
            case
            for case in (*load("attacks.jsonl"), *load("harmless.jsonl"))
            if not any(takes in str(case["steps"]).lower() for takes in TAKE_A_NUMBER)
        ]
        # The server takes numbers for its own maintenance now and then, but not three times at the same case.
        wrote = [case["id"] for case in cases if all(takes_a_number(case) for _ in range(3))]
    assert wrote == []
    assert passed > 100, "and reads pass"


def given_out(admin: psycopg.Connection[tuple[object, ...]]) -> str:
    """The next transaction id of the cluster."""
    (number,) = admin.execute("select pg_snapshot_xmax(pg_current_snapshot())::text").fetchone() or ("",)
    return str(number)
