"""pg8000, which has the server parse in one cycle and binds in the next, as lib/pq does; and asyncpg without its cache.

What the unnamed statement stands for is then known from the server's answer alone (PostgreSQL manual, 54.2.3). While nobody
looked at it, what pg8000 sent behind the first write was counted, COMMIT as well, and that was refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import asyncpg
import pg8000.dbapi
import pg8000.exceptions
import pytest
import sqlalchemy as sa
from support.shield import Shield

pytestmark = pytest.mark.one_server(by="module")

NEW = "select count(*) from shop.settings where key like 'new%'"


def parameters(app: Shield, agent: str = "write") -> dict[str, Any]:
    parts = app.parameters(agent)
    return {name: parts[name] for name in ("user", "password", "host")} | {
        "port": int(parts["port"]),
        "database": parts["dbname"],
    }


@pytest.fixture
def conn(app: Shield) -> Iterator[Any]:
    with closing(pg8000.dbapi.connect(**parameters(app))) as conn:
        yield conn


def count(app: Shield, query: str) -> int:
    with app.server.connect(app.database) as admin:
        row = admin.execute(query.encode()).fetchone()
    assert row is not None
    return int(str(row[0]))


def test_a_transaction_is_committed(app: Shield, conn: Any) -> None:
    cursor = conn.cursor()
    cursor.execute("insert into shop.settings values (%s, %s)", ("new", "a"))
    cursor.execute("update shop.settings set value = %s where key = %s", ("b", "new"))
    cursor.execute("select value from shop.settings where key = %s", ("new",))
    assert list(cursor.fetchall()) == [["b"]]
    conn.commit()
    assert count(app, NEW) == 1
    cursor.execute("delete from shop.settings where key = %s", ("new",))
    conn.rollback()
    assert count(app, NEW) == 1


def test_too_many_rows_are_stopped_and_the_session_goes_on(app: Shield, conn: Any) -> None:
    cursor = conn.cursor()
    with pytest.raises(pg8000.exceptions.DatabaseError, match="DS220"):
        cursor.execute("delete from shop.order_items where order_id <= %s", (60,))
    conn.rollback()
    cursor.execute("delete from shop.order_items where order_id <= %s", (2,))
    conn.commit()
    assert count(app, "select count(*) from shop.order_items") == 12_000 - 4


@pytest.mark.parametrize("agent", ["read", "write", "migrate"])
def test_reflection(app: Shield, agent: str) -> None:
    given = parameters(app, agent)
    url = sa.URL.create(
        "postgresql+pg8000", given["user"], given["password"], given["host"], int(given["port"]), str(given["database"])
    )
    engine = sa.create_engine(url, pool_pre_ping=True)
    with engine.connect() as found:
        metadata = sa.MetaData()
        metadata.reflect(found, schema="shop", views=True)
        found.commit()
    engine.dispose()
    assert {"shop.orders", "shop.active_customers"} <= set(metadata.tables)


async def test_asyncpg_without_its_cache(app: Shield) -> None:
    conn = await asyncpg.connect(**parameters(app), ssl=False, statement_cache_size=0)
    try:
        async with conn.transaction():
            await conn.execute("insert into shop.settings values ($1, $2)", "new", "a")
            await conn.execute("update shop.settings set value = $1 where key = $2", "b", "new")
        await conn.executemany("insert into shop.settings values ($1, $2)", [(f"new{i}", "x") for i in range(5)])
        assert await conn.fetchval(NEW) == 6
        assert await conn.fetchval("delete from shop.settings where key = $1 returning value", "new") == "b"
    finally:
        await conn.close()
    assert count(app, NEW) == 5
