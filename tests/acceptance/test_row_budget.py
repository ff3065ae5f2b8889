"""An hourly budget of rows and protected tables, with real servers."""

from __future__ import annotations

import select
from collections.abc import Iterator

import pytest
from psycopg import errors, pq
from support import servers
from support.row_limits import UPDATE, changed, direct, extended, refused, simple
from support.servers import Server
from support.shield import Shield, prepared_shield, started
from support.waiting import until


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
