"""An hourly budget of rows and protected tables, with real servers."""

from __future__ import annotations

import contextlib
import select
from collections.abc import Callable, Iterator

import pytest
from psycopg import errors, pq
from support import servers
from support.raw import raw_session
from support.row_limits import UPDATE, changed, direct, extended, refused, simple
from support.servers import Server
from support.shield import Shield, prepared_shield, started
from support.waiting import until

from dbshield.wire.frontend import Bind, Execute, Parse, Sync
from dbshield.wire.message import Message


@pytest.fixture(scope="module")
def limits(server: Server, worker_id: str) -> Iterator[Shield]:
    """A shield whose environment has an hourly budget of 150 rows a table, and protected tables."""
    folder = servers.here() / f"limits-{worker_id}-{server.major}"
    with prepared_shield(server, f"limits_{worker_id}", folder, agents=("write",)) as shield:
        shield.write_config(environment={"max_rows_per_hour": 150, "protected": ["archive.*", "shop.customers"]})
        with started(shield):
            yield shield


def test_the_budget_of_an_hour_is_shared_by_all_sessions_of_an_agent(limits: Shield) -> None:
    with limits.connect() as conn:
        conn.execute(UPDATE, (1, 100))
        conn.execute("begin")
        conn.execute("update shop.products set stock = -3 where id between 201 and 245")
        conn.execute("rollback")
    with limits.connect() as conn:
        conn.execute(UPDATE, (101, 140))
        error = refused(conn, extended(UPDATE, 141, 151), "DS221")
        assert "shop" not in str(error), "a cascade may have led to a table that the agent does not know"
        conn.execute("update shop.settings set value = 'x' where key = 'vat'")
        conn.execute(UPDATE, (141, 150))
    assert changed(limits) == 150


def test_whoever_does_not_wait_for_the_answer_spends_all_the_same(limits: Shield) -> None:
    limits.agent("hasty", "write")
    audit = limits.folder / "state" / "audit.jsonl"
    with limits.server.connect(limits.database) as admin, admin.transaction():
        admin.execute("select from shop.settings where key = 'theme' for update")  # so the answers cannot come first
        for _ in range(2):
            hasty = pq.PGconn.connect(limits.dsn("hasty").encode())
            assert hasty.status == pq.ConnStatus.OK
            hasty.send_query(b"update shop.settings set value = 'h' where key = 'theme'")
            while hasty.flush():
                select.select([], [hasty.socket], [], 10)
            hasty.finish()
        assert until(lambda: audit.read_text().count('"(untold)":100') == 2)
    with limits.connect("hasty") as conn:
        # Two statements of which nobody knows how many rows they changed are 200 of the 150 that it has.
        refused(conn, simple("update shop.settings set value = 'i' where key = 'theme'"), "DS221")
    assert direct(limits, "select count(*) from shop.settings where value = 'i'") == 0


@pytest.mark.parametrize(
    "text",
    [
        "delete from customers where id = 1",
        "update active_customers set name = 'x' where id = 1",
        "insert into customers (id, email) values (9999, 'x')",
        "with a as (delete from customers where id = 1 returning 1) select 1",
    ],
)
def test_a_protected_table_is_reached_by_no_name(limits: Shield, text: str) -> None:
    with limits.connect() as conn:
        conn.execute("set search_path = shop")
        with pytest.raises(errors.InsufficientPrivilege) as caught:
            conn.execute(text)
        assert (caught.value.diag.message_detail or "").partition(" ")[0] in {"rule=DS222", "rule=DS210"}
    assert direct(limits, "select count(*) from shop.customers") == 2000


def test_what_is_not_protected_is_written(limits: Shield) -> None:
    with limits.connect() as conn:
        conn.execute("insert into shop.settings select 'k' || i, 'v' from generate_series(1, 1000) i")
        conn.execute("update shop.settings set value = 'w' where key in ('k1', 'k2', 'k3', 'k4', 'k5')")
    assert direct(limits, "select count(*) from shop.settings where value = 'w'") == 5
    assert until(lambda: '"changed":{"shop.settings":5}' in (limits.folder / "state" / "audit.jsonl").read_text())


MARK = "update shop.orders set total = -1 where id between {0} and {1}"
BLOCKS = [MARK.format(first, first + 89) for first in range(1, 631, 90)]


def in_one_text(shield: Shield, agent: str) -> None:
    with shield.connect(agent) as conn:
        refused(conn, simple("; commit; ".join(BLOCKS)), "DS221")


def behind_what_is_rolled_back(shield: Shield, agent: str) -> None:
    """What was rolled back said nothing of what the same text committed after it."""
    with shield.connect(agent) as conn:
        for number, block in enumerate(BLOCKS):
            act = simple(f"begin; {MARK.format(1000, 1000)}; rollback; {block}")
            if number:
                refused(conn, act, "DS221")
            else:
                act(conn)


def in_transactions_that_are_open(shield: Shield, agent: str) -> None:
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(shield.connect(agent)) for _ in BLOCKS]
        for number, (conn, block) in enumerate(zip(connections, BLOCKS, strict=True)):
            conn.execute("begin")
            if number:
                refused(conn, simple(block), "DS221")
            else:
                conn.execute(block)
        for conn in connections:
            conn.execute("commit")


def at_one_time(shield: Shield, agent: str) -> None:
    """All of them wait for a row before the first one is answered."""
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(shield.connect(agent)) for _ in BLOCKS]
        with shield.server.connect(shield.database) as admin, admin.transaction():
            admin.execute("lock table shop.orders")
            for conn, block in zip(connections, BLOCKS, strict=True):
                conn.pgconn.send_query(block.encode())
            assert until(lambda: direct(shield, WAITING) == len(BLOCKS))
        for conn in connections:
            while (result := conn.pgconn.get_result()) is not None:
                result.clear()


WAITING = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and query like '%shop.orders set total%'"


def in_cycles_of_one_pipeline(shield: Shield, agent: str) -> None:
    with raw_session(shield, agent) as client:
        client.send(*(message for block in BLOCKS for message in (*once(block), Sync())))
        for _ in BLOCKS:
            client.until_ready()


def committed_in_one_pipeline(shield: Shield, agent: str) -> None:
    with raw_session(shield, agent) as client:
        client.send(*(message for block in BLOCKS for text in ("begin", block, "commit") for message in once(text)), Sync())
        client.until_ready()


def once(text: str) -> tuple[Message, ...]:
    return (Parse(query=text.encode()), Bind(), Execute())


@pytest.mark.one_server
@pytest.mark.parametrize(
    "hurry",
    [
        in_one_text,
        behind_what_is_rolled_back,
        in_transactions_that_are_open,
        at_one_time,
        in_cycles_of_one_pipeline,
        committed_in_one_pipeline,
    ],
)
def test_regression_an_hours_rows_are_not_spent_twice_before_anybody_is_told(
    limits: Shield, hurry: Callable[[Shield, str], None]
) -> None:
    """Each of these changed 630 rows of the 150 that the agent has."""
    agent = hurry.__name__.replace("_", "-")
    limits.agent(agent, "write")
    hurry(limits, agent)
    with limits.server.connect(limits.database) as admin:
        assert admin.execute("update shop.orders set total = 0 where total = -1").rowcount <= 150


@pytest.mark.one_server
def test_who_changes_row_by_row_is_not_stopped_by_what_others_might(limits: Shield) -> None:
    """Twenty statements on their way might change 2000 rows, and change 20."""
    limits.agent("patient", "write")
    rows = range(1001, 1021)
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(limits.connect("patient")) for _ in rows]
        with limits.server.connect(limits.database) as admin, admin.transaction():
            admin.execute("lock table shop.orders")
            for conn, row in zip(connections, rows, strict=True):
                conn.pgconn.send_query(MARK.format(row, row).encode())
            assert until(lambda: direct(limits, WAITING) == len(rows))
        for conn in connections:
            while (result := conn.pgconn.get_result()) is not None:
                assert result.status == pq.ExecStatus.COMMAND_OK, result.error_message
        conn = connections[0]
        with conn.transaction(), conn.cursor() as cursor:
            cursor.executemany("update shop.orders set total = -1 where id = %s", [(row,) for row in range(1021, 1081)])
        conn.execute("; ".join(["begin", *(MARK.format(row, row) for row in range(1081, 1121)), "commit"]))
    assert direct(limits, "select count(*) from shop.orders where total = -1") == 120
