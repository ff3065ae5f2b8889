"""Hourly budgets: two proxies that count together, over a real control database and through its death."""

from __future__ import annotations

import asyncio
import time
import timeit
from collections.abc import AsyncIterator, Callable, Iterator, Mapping

import psycopg
import pytest
import structlog
from support.control import control_database, empty_database, registered, tables_database
from support.servers import Server
from support.waiting import seconds_until

from dbshield.cluster import Cluster, temporary_folder
from dbshield.control import budget as module
from dbshield.control.budget import FLUSH, RowBudget
from dbshield.errors import StoreError

pytestmark = pytest.mark.one_server

PROPAGATION = 1.0
"""Seconds within which every proxy knows."""
LIMIT = 1000
CALLS = 50
"""Calls of a function that does nothing, which an ask costs at the most; to count together what was spent costs a thousand."""


class Clock:
    """Seconds since 1970 that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1_777_777_740.0  # a whole minute

    def __call__(self) -> float:
        return self.now


def left(budget: RowBudget, agent: str = "claude", database: str = "shop") -> dict[str, int]:
    return dict(budget.remaining("staging", agent, database, LIMIT))


def spend(budget: RowBudget, rows: dict[str, int], agent: str = "claude", database: str = "shop") -> None:
    budget.spend("staging", agent, database, rows)


def tables(budget: RowBudget) -> set[str]:
    """What is in memory, old or not."""
    return {table for ledger in budget._ledgers.values() for table in ledger.tables}


@pytest.fixture
def control_dsn(server: Server) -> Iterator[str]:
    with tables_database(server) as dsn, registered(dsn):
        yield dsn


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def budgets(control_dsn: str, clock: Clock) -> AsyncIterator[list[RowBudget]]:
    """Two proxies' worth."""
    made = [RowBudget(control_dsn=control_dsn, clock=clock) for _ in range(2)]
    for budget in made:
        await budget.start()
    yield made
    for budget in made:
        await budget.stop()


async def test_what_one_spends_is_spent_at_once_here_and_soon_there(budgets: list[RowBudget], control_dsn: str) -> None:
    one, other = budgets
    assert left(one) == {}
    spend(one, {"orders": 100, "customers": 0})
    assert left(one) == {"orders": 900}
    assert await seconds_until(lambda: left(other) == {"orders": 900}) < PROPAGATION
    spend(other, {"orders": 50, "customers": 2})
    spend(one, {"orders": 5})
    assert left(other) == {"orders": 850, "customers": 998}
    assert await seconds_until(lambda: left(one) == left(other) == {"orders": 845, "customers": 998}) < PROPAGATION
    with psycopg.connect(control_dsn) as connection:
        kept = connection.execute("select agent, table_name, rows from dbshield.changed_rows order by 2").fetchall()
    assert kept == [("claude", "customers", 2), ("claude", "orders", 155)]


async def test_agents_databases_and_limits_do_not_mix(budgets: list[RowBudget]) -> None:
    one, _ = budgets
    spend(one, {"orders": 1})
    spend(one, {"orders": 2}, agent="gpt")
    spend(one, {"orders": 3}, database="stock")
    assert [left(one), left(one, agent="gpt"), left(one, database="stock")] == [{"orders": 999}, {"orders": 998}, {"orders": 997}]
    assert one.remaining("production", "claude", "shop", LIMIT) == {}
    assert one.remaining("staging", "claude", "shop", 10) == {"orders": 9}
    assert one.remaining("staging", "claude", "shop", 0) == {}, "0 stands for no budget"
    spend(one, {"orders": 5000})
    assert left(one) == {"orders": 0}


async def test_what_is_asked_cannot_be_changed(budgets: list[RowBudget]) -> None:
    spend(budgets[0], {"orders": 1})
    with pytest.raises(TypeError):
        budgets[0].remaining("staging", "claude", "shop", LIMIT)["orders"] = 7  # type: ignore[index]


async def test_the_hour_slides_by_minutes(budgets: list[RowBudget], clock: Clock) -> None:
    one, _ = budgets
    spend(one, {"orders": 10})
    clock.now += 30 * 60
    spend(one, {"orders": 20})
    clock.now += 30 * 60
    assert left(one) == {"orders": 970}, "a minute that lies in the hour in part counts"
    clock.now += 60
    assert left(one) == {"orders": 980}
    clock.now += 30 * 60
    assert left(one) == {}


async def test_a_proxy_that_starts_later_knows_the_last_hour(budgets: list[RowBudget], control_dsn: str, clock: Clock) -> None:
    spend(budgets[0], {"orders": 10})
    clock.now += 59 * 60
    spend(budgets[0], {"customers": 7})
    await seconds_until(lambda: left(budgets[1]) == {"orders": 990, "customers": 993})
    clock.now += 2 * 60
    third = RowBudget(control_dsn=control_dsn, clock=clock)
    await third.start()
    assert left(third) == {"customers": 993}
    await third.stop()


async def test_a_stop_writes_what_was_counted(control_dsn: str, clock: Clock) -> None:
    first = RowBudget(control_dsn=control_dsn, clock=clock)
    await first.start()
    spend(first, {"orders": 10})
    await first.stop()
    assert not first.available
    second = RowBudget(control_dsn=control_dsn, clock=clock)
    await second.start()
    assert left(second) == {"orders": 990}
    await second.stop()


async def test_old_minutes_go(budgets: list[RowBudget], control_dsn: str, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RELOAD", 0.0)
    spend(budgets[0], {"orders": 10})
    await seconds_until(lambda: left(budgets[1]) == {"orders": 990})
    clock.now += 3 * 3600
    spend(budgets[1], {"customers": 1})

    def kept() -> list[tuple[str]]:
        with psycopg.connect(control_dsn) as connection:
            return connection.execute("select table_name from dbshield.changed_rows").fetchall()

    await seconds_until(lambda: kept() == [("customers",)])
    await seconds_until(lambda: all(tables(budget) == {"customers"} for budget in budgets))


async def test_many_at_once_are_counted_exactly(budgets: list[RowBudget]) -> None:
    for number in range(200):
        for budget in budgets:
            spend(budget, {"orders": 1, f"table_{number % 7}": 2})
        await asyncio.sleep(0.002)
    expected = {"orders": LIMIT - 400} | {f"table_{number}": LIMIT - 4 * len(range(number, 200, 7)) for number in range(7)}
    await seconds_until(lambda: left(budgets[0]) == left(budgets[1]) == expected)
    await asyncio.sleep(2 * FLUSH)
    assert left(budgets[0]) == left(budgets[1]) == expected


async def test_it_counts_on_without_the_database_and_writes_when_it_is_back(clock: Clock) -> None:
    cluster = Cluster(temporary_folder(), settings={"fsync": "off", "shared_buffers": "1MB"})
    cluster.start(tethered=True, throwaway=True)
    try:
        with control_database(cluster.dsn()):
            pass
        one, other = (RowBudget(control_dsn=cluster.dsn(), clock=clock) for _ in range(2))
        await one.start()
        await other.start()
        spend(one, {"orders": 10})
        await seconds_until(lambda: left(other) == {"orders": 990})
        await asyncio.to_thread(cluster.kill)
        await seconds_until(lambda: not one.available and not other.available)
        spend(one, {"orders": 5})
        spend(other, {"customers": 7})
        assert left(one) == {"orders": 985}
        assert left(other) == {"orders": 990, "customers": 993}
        await asyncio.to_thread(cluster.start, tethered=True, throwaway=True)
        await seconds_until(lambda: left(one) == left(other) == {"orders": 985, "customers": 993})
        # What was counted is known before everything of a new connection is done.
        await seconds_until(lambda: one.available and other.available)
        await one.stop()
        with structlog.testing.capture_logs() as logs:
            await asyncio.to_thread(cluster.kill)
            await seconds_until(lambda: not other.available)
            spend(other, {"customers": 1})
            begin = time.monotonic()
            await other.stop()
            assert time.monotonic() - begin < module.STOP_TIMEOUT + 5
        assert [(entry["event"], entry.get("rows")) for entry in logs if entry["event"] != "budget.lost"] == [
            ("budget.not_written", 1)
        ]
    finally:
        cluster.remove()


async def test_a_connection_that_is_cut_comes_back(budgets: list[RowBudget], control_dsn: str) -> None:
    with psycopg.connect(control_dsn, autocommit=True) as connection:
        connection.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where application_name = 'dbshield budget' and datname = current_database()"
        )
    spend(budgets[0], {"orders": 1})
    await seconds_until(lambda: left(budgets[1]) == {"orders": 999})


async def test_a_write_that_is_cut_is_written_again(budgets: list[RowBudget], control_dsn: str) -> None:
    """Somebody holds the row, the write waits for it, and its connection dies there."""
    one, other = budgets
    spend(one, {"orders": 10})
    await seconds_until(lambda: left(other) == {"orders": 990})
    waiting = (
        "select pid from pg_stat_activity where wait_event_type = 'Lock'"
        " and application_name = 'dbshield budget' and datname = current_database()"
    )
    with psycopg.connect(control_dsn, autocommit=True) as admin, psycopg.connect(control_dsn) as holder:
        holder.execute("select from dbshield.changed_rows for update")
        spend(one, {"orders": 5})
        await seconds_until(lambda: admin.execute(waiting).fetchall())
        spend(one, {"orders": 1})
        assert left(one) == {"orders": 984}
        [(cut,)] = admin.execute(waiting).fetchall()
        admin.execute("select pg_terminate_backend(%s)", [cut])
        # The next write waits as well, soon after, on another connection.
        await seconds_until(lambda: (cut,) not in admin.execute(waiting).fetchall())
        assert left(one) == {"orders": 984}
        holder.rollback()
    await seconds_until(lambda: left(other) == {"orders": 984})
    await asyncio.sleep(2 * FLUSH)
    assert left(one) == left(other) == {"orders": 984}


async def test_a_notice_that_is_none_is_passed_over(budgets: list[RowBudget], control_dsn: str) -> None:
    with psycopg.connect(control_dsn, autocommit=True) as connection:
        for payload in ("", "x", "{}", "[1, 2]", '["e", "a", "d", "t", "m", 1]'):
            connection.execute("select pg_notify('dbshield_rows', %s)", [payload])
    spend(budgets[0], {"orders": 1})
    assert await seconds_until(lambda: left(budgets[1]) == {"orders": 999}) < PROPAGATION
    assert all(budget.available for budget in budgets)


async def test_an_outage_of_hours_fills_no_memory(clock: Clock) -> None:
    cluster = Cluster(temporary_folder(), settings={"fsync": "off", "shared_buffers": "1MB"})
    cluster.start(tethered=True, throwaway=True)
    try:
        with control_database(cluster.dsn()):
            pass
        budget = RowBudget(control_dsn=cluster.dsn(), clock=clock)
        await budget.start()
        await asyncio.to_thread(cluster.kill)
        await seconds_until(lambda: not budget.available)
        spend(budget, {"orders": 1})
        clock.now += 2 * 3600
        await seconds_until(lambda: not tables(budget) and not budget._dirty)
        await budget.stop()
    finally:
        cluster.remove()


async def test_a_start_that_cannot_read_is_said(server: Server) -> None:
    with pytest.raises(StoreError, match="does not answer"):
        await RowBudget(control_dsn="host=127.0.0.1 port=1").start()
    with empty_database(server) as dsn, pytest.raises(StoreError, match="changed_rows"):
        await RowBudget(control_dsn=dsn).start()


def test_to_ask_costs_next_to_nothing(clock: Clock) -> None:
    budget = RowBudget(control_dsn="", clock=clock)

    def asked() -> Mapping[str, int]:
        return budget.remaining("staging", "claude", "shop", LIMIT)

    def cost(what: Callable[[], object]) -> float:
        """Of this thread alone, and of the best of many short runs: what else the machine does is no cost."""
        return min(timeit.repeat(what, timer=time.thread_time, number=1000, repeat=50))

    most = CALLS * cost(lambda: None)
    assert cost(asked) < most
    spend(budget, {f"table_{number}": 1 for number in range(50)})
    assert len(asked()) == 50
    assert cost(asked) < most


def test_names_that_are_too_long_for_a_notice_are_cut(clock: Clock) -> None:
    budget = RowBudget(control_dsn="", clock=clock)
    budget.spend("staging", "claude", "shop", {"x" * 9000: 3})
    assert left(budget) == {"x" * module.TABLE_MAX: LIMIT - 3}
